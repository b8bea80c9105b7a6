"""Text in, packed training and evaluation rows out: `prepare.py` is the way through, `loader.py` the way out."""
