"""Measure the proposers on made-up landscapes: what each finds in as many trainings, judged by the real keep rule.

In: fixed seeds and scripts/_landscape.py. Out: markdown tables on the screen; `--write` puts them into results/benchmarks/search.md. Every
experiment is one call of harness.search.propose, as in a night, and every verdict is harness.search.keep's; only the training is made up.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from _landscape import BASELINE, LIMITS, SIGMA, Landscape  # noqa: E402

from harness.search.constants import checked_value, constant_values, parse_constants, rewrite_constants  # noqa: E402
from harness.search.gate import check_candidate, source_hash  # noqa: E402
from harness.search.keep import Prior, estimate_noise, judge, noise_groups  # noqa: E402
from harness.search.limits import reasons_against  # noqa: E402
from harness.search.propose import Proposal, propose  # noqa: E402

RUNS = 100  # trainings of a night: baseline seeds and confirmations among them
SEEDS = 2  # of the baseline
MAX_LOOKS = 3
MARKS = (25, 50, 100)  # trainings after which the gain is noted
TEMPLATE = (ROOT / "train_template.py").read_text(encoding="utf-8")
NUMBERS_ONLY = '```settings\nallowed_categories = ["tune"]\n```\n'
EVERYTHING = "```settings\n```\n"


@dataclass
class Night:
    """What one simulated night came to; true gains over the baseline in sigma of one run."""

    gains: dict[int, float] = field(default_factory=dict)  # after so many trainings
    experiments: int = 0
    keeps: int = 0
    failures: int = 0


def random_everywhere(request: dict) -> Proposal:
    """Textbook random search: every constant anew, anywhere in its range."""
    return _random(request, lambda space, rng: list(space), reach=None)


def random_steps(request: dict) -> Proposal:
    """One to three constants of the incumbent anew, anywhere in their ranges: random search that builds on what was kept."""
    return _random(request, _block, reach=None)


def random_near(request: dict) -> Proposal:
    """The same within a factor of two or so of the incumbent, as tpe draws: what is left of tpe when it learns nothing."""
    return _random(request, _block, reach=1.0)


def _block(space: dict, rng: random.Random) -> list[str]:
    return rng.sample(sorted(space), rng.choice((1, 1, 2, 2, 3)))
