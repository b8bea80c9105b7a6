"""How val_bpb is measured: a server runs the candidate, a scorer believes its losses alone."""
