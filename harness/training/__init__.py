"""What train.py may import: the session (batches, clock, log, finish), attention, devices. Needs torch, numpy, tiktoken, safetensors only."""
