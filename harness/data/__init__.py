"""Text in, packed rows out: `prepare.py` is the way through, `loader.py` the way out."""
