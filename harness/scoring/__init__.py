"""How val_bpb is measured: a model server returns losses, scorer and audit judge them."""
