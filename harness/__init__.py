"""The harness: everything around train.py that an experiment may use but not change.

Twelve rooms in the order in which an idea flows; each imports only rooms before it:
ground, data, training, sandbox, scoring, search, run, rules, lab, show, check, night.
"""

from pathlib import Path

__version__ = "0.1.0"

# The checkout: program.md, train_template.py, notebooks, results, git history.
REPOSITORY = Path(__file__).resolve().parents[1]
