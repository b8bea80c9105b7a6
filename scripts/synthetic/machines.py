"""Made-up machines: what each adds to the scores of a night's trainings, in order of time.

In: a machine's name and a generator of random numbers. Out: `Conditions`, in sigma of one run.
"""

import math
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator

RUNS = 100  # trainings of a night: baseline seeds, confirmations, refreshes and the claim's
SLOPE = 0.045  # ln(steps) that a load of one sigma costs (cpu profile: sigma 0.02, 0.45 per ln)


@dataclass(frozen=True)
class Conditions:
    """Of each training of a night: the machine's level and the seed's noise add to its score."""

    level: np.ndarray
    noise: np.ndarray
    jitter: np.ndarray  # standard normal, of the speed as measured

    def score(self, training: int) -> float:
        return float(self.level[training] + self.noise[training])

    def speed(self, training: int, spread: float) -> float:
        """A level that costs score costs steps; the seed's noise does not."""
        return math.exp(spread * self.jitter[training] - SLOPE * self.level[training])


def steady(rng: Rng, seeds: int) -> np.ndarray:
    return np.zeros(RUNS)


def load_changes(rng: Rng, seeds: int) -> np.ndarray:
    """Every 20 trainings or so the level moves to somewhere in 0 to 10 sigma."""
    return rng.uniform(0, 10, RUNS)[np.cumsum(rng.random(RUNS) < 1 / 20)]


def neighbour_leaves(rng: Rng, seeds: int) -> np.ndarray:
    """A neighbour costs the baseline's seeds 10 sigma, and leaves."""
    return np.where(np.arange(RUNS) < seeds, 10.0, 0.0)


def bursts(rng: Rng, seeds: int) -> np.ndarray:
    """One training in ten is hit and loses 5 sigma on average."""
    return rng.exponential(5, RUNS) * (rng.random(RUNS) < 0.1)


MACHINES = {
    "steady": steady,
    "load changes": load_changes,
    "neighbour leaves": neighbour_leaves,
    "bursts": bursts,
    "heavy tails": steady,
}


def draw_conditions(machine: str, seeds: int, rng: Rng) -> Conditions:
    """Draw a night; heavy tails are Student's t with 3 degrees of freedom, of variance 1."""
    heavy = machine == "heavy tails"
    noise = rng.standard_t(3, RUNS) / math.sqrt(3) if heavy else rng.normal(size=RUNS)
    return Conditions(MACHINES[machine](rng, seeds), noise, rng.normal(size=RUNS))
