"""What train.py may import. Needs torch, numpy, tiktoken and safetensors only."""
