"""How val_bpb is measured: a model server that runs the candidate, and a numpy-only scorer that believes nothing but losses per token."""
