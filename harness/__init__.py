"""The harness: everything around train.py that an experiment may use but not change.

Data flows through five rooms, and imports go the same way only: data -> training -> scoring -> search -> lab.
"""

__version__ = "0.1.0"
