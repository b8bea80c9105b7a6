"""Text in, packed training and evaluation rows out: `prepare.py` is the way through, `loader.py` the way out."""


class DataError(Exception):
    """The data cannot be prepared, found or trusted. The message says what is wrong and what to do next."""
