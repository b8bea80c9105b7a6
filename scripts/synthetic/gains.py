"""Made-up landscapes: the true gain of each candidate over the incumbent, in order of proposal.

In: a generator of random numbers, and for one landscape a real night. Out: gains in sigma of one
run, RUNS of them.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from synthetic.machines import RUNS, Rng

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ROOT / "tests/support/data/upstream-mar8-results.tsv"


def mixture(good: float, gain: float, null: float, harm: float) -> Callable[[Rng], np.ndarray]:
    """A share of good candidates of this mean gain, a share without effect, else mean harm."""

    def draw(rng: Rng) -> np.ndarray:
        kind = rng.random(RUNS)
        losses = np.where(kind < good + null, 0.0, -rng.exponential(harm, RUNS))
        return np.where(kind < good, rng.exponential(gain, RUNS), losses)

    return draw


def fading(rng: Rng) -> np.ndarray:
    """A quarter good by 1 to 6 sigma at first, with less to gain as the night goes on."""
    gains = np.where(rng.random(RUNS) < 0.25, rng.uniform(1, 6, RUNS), -rng.uniform(0, 5, RUNS))
    return np.where(gains > 0, gains * np.exp(-np.arange(RUNS) / 40), gains)


def original(rng: Rng) -> np.ndarray:
    """The original's measured gains in units of its noise, shuffled.

    Its noise is about 0.0005; gains below that of a difference are taken to be nothing.
    """
    with UPSTREAM.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    best, gains = float(rows[0]["val_bpb"]), []
    for row in rows[1:]:
        if row["status"] != "crash":
            gains.append((best - float(row["val_bpb"])) / 0.0005)
        if row["status"] == "keep":
            best = float(row["val_bpb"])
    sizes = np.maximum(0, np.abs(gains) - math.sqrt(2))
    return rng.permutation(np.sign(gains) * sizes)[:RUNS]


TUNE_LANDSCAPES = {
    "rare large gains": mixture(0.08, 5.0, 0.3, 3.0),
    "many small gains": mixture(0.3, 1.0, 0.2, 2.0),
    "nothing to gain": mixture(0.0, 1.0, 0.5, 3.0),
}
REPORT_LANDSCAPES = {
    "15% good by 2.5, 35% without effect": mixture(0.15, 2.5, 0.35, 4.0),
    "good ones fade": fading,
    "the original's night, shuffled": original,
}
NOTHING = mixture(0.0, 1.0, 0.4, 1.5)  # to gain: 40% without effect, the others worse
