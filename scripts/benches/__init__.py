"""The parts of bench.py, and what other measuring scripts share with them."""
