"""What each constant does, as far as the night has shown it, and the step that is worth a run.

In: the searched constants, the incumbent's values, the run's history, a seed. Out: new values of a
few constants, again and again, until the caller takes one. The same arguments give the same steps.
Refused: nothing; the caller judges what a step means and whether it is new.

A night is short and noisy, so every scored run counts, kept or not. Its score, in sigma of one run,
is taken as a sum over the constants of a slope and a curvature times the distance from the
incumbent (on the annotation's scale, as a share of the range), and a level of its own for each
structure of the code. Slopes and curvatures have normal priors: runs that move a constant narrow
them down, and how much constants matter at all is found by the likelihood, first for all alike,
then for each (sparse Bayesian regression, Tipping, 2001). A step is Thompson's (1933): draw one set
of slopes and curvatures from what is still possible, and do what would be best if that were the
truth. So constants that nobody has tried are tried, those that matter are followed, and small gains
that noise hides one by one are taken together. Failures count as losses of FAILED sigma.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.search.constants import Constant, place, value_at

REACH = 0.25  # of a range: how far a step goes, and twice as far is what it learns from
MOST_CHANGED = 3  # constants in one step: an idea that a person can read
MOST_RUNS = 300  # the latest: more take seconds to judge and are of incumbents long gone
STEPS = 30  # drawn before the caller has to look elsewhere
SLOPES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # sigma per range: what the likelihood chooses from
CURVED = 2.0  # curvature expected for a slope: an incumbent lies near the best of most constants
ROUNDS = 3  # of finding each constant's own size
LEVEL = 10.0  # sigma: how far apart structures may lie
UNLIKE = 0.25  # sigma squared: what a sum of curves leaves unexplained
THOMPSON = 0.4  # of the uncertainty that a draw has: a night is too short to explore more
FAILED = 10.0  # sigma lost, as good as
FAILED_VARIANCE = 4.0
UNKNOWN_SIGMA = 0.003  # bpb, where no noise is known yet

Row = Mapping[str, Any]


class Outcome(NamedTuple):
    """What a run says: its constants, loss and variance in sigma of one run, and structure."""

    constants: Row
    loss: float
    variance: float
    structure: str


def draw_steps(
    space: Mapping[str, Constant],
    values: Row,
    history: Sequence[Row],
    failures: Sequence[Row],
    seed: int,
) -> Iterator[list[tuple[str, Any]]]:
    """Yield steps: (constant, new value), those that are expected to gain most first.

    A step has more of them than a change should have. history: rows as `tpe` gets them; the last of
    those that are the incumbent is what gains are counted from. failures: full sets of values that
    did not train.
    """
    names = sorted(space)
    outcomes = _outcomes({name: values[name] for name in names}, history, failures)
    sets = [values, *({**values, **outcome.constants} for outcome in outcomes)]
    places = np.array([[place(space[name], found[name]) for name in names] for found in sets])
    here, distances = places[0], places[1:] - places[0]
    near = np.abs(distances).max(axis=1, initial=0.0) <= 2 * REACH
    told = [outcome for outcome, is_near in zip(outcomes, near, strict=True) if is_near]
    mean, covariance = _posterior(distances[near], told)
    rng = np.random.default_rng(seed)
    sizes, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    spread = axes * np.sqrt(np.maximum(sizes, 0.0))
    steps = np.clip(here[:, None] + np.linspace(-REACH, REACH, 21), 0.0, 1.0) - here[:, None]
    for _ in range(STEPS):
        drawn = mean + THOMPSON * spread @ rng.standard_normal(len(mean))
        slopes, curvatures = np.split(drawn, 2)
        gains = -(slopes[:, None] * steps + curvatures[:, None] * steps**2)
        best = gains.argmax(axis=1)
        gain = gains[np.arange(len(names)), best]
        order = [i for i in np.argsort(-gain, kind="stable") if gain[i] > 0]
        ends = here + steps[np.arange(len(names)), best]
        yield [(names[i], value_at(space[names[i]], float(ends[i]))) for i in order]


def _outcomes(incumbent: Row, history: Sequence[Row], failures: Sequence[Row]) -> list[Outcome]:
    """Return what each run says. incumbent: its searched constants."""
    scored = [row for row in history if row["val_bpb"] is not None and row["status"] == "ok"]
    sigma = next((row["sigma"] for row in reversed(scored) if row.get("sigma")), UNKNOWN_SIGMA)
    same = [row for row in scored if incumbent.items() <= row["constants"].items()]
    zero = (same or scored)[-1]["val_bpb"] if scored else 0.0
    found = [
        Outcome(
            row["constants"],
            (row["val_bpb"] - zero) / sigma,
            1.0 / (row.get("n_runs") or 1),
            row.get("structure") or "",
        )
        for row in scored[-MOST_RUNS:]
    ]
    structure = (same[-1].get("structure") if same else "") or ""
    failed = [
        Outcome(constants, FAILED, FAILED_VARIANCE, structure)
        for constants in failures[-MOST_RUNS:]
    ]
    return found + failed


def _posterior(distances: np.ndarray, outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the slopes, then the curvatures, in sigma per range (squared).

    distances: of the outcomes from the incumbent, (outcomes, constants).
    """
    count = distances.shape[1]
    inputs = np.hstack([distances, distances**2])
    losses = np.array([outcome.loss for outcome in outcomes])
    levels = np.array([outcome.structure for outcome in outcomes])
    variances = np.array([outcome.variance for outcome in outcomes])
    same_level = LEVEL**2 * (levels[:, None] == levels[None, :])
    noise = same_level + np.diag(variances + UNLIKE)

    def solve(sizes: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        mean = np.concatenate([np.zeros(count), CURVED * sizes])
        variance = np.concatenate([sizes**2, (CURVED * sizes) ** 2])
        weighted = inputs * variance
        root = np.linalg.cholesky(weighted @ inputs.T + noise)
        white = np.linalg.solve(root, losses - inputs @ mean)
        explained = np.linalg.solve(root, weighted)
        likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())
        return likelihood, mean + explained.T @ white, np.diag(variance) - explained.T @ explained

    common = max(SLOPES, key=lambda size: solve(np.full(count, size))[0])
    sizes = np.full(count, common)
    for _ in range(ROUNDS):
        _, mean, covariance = solve(sizes)
        second = mean**2 + np.diag(covariance)
        sizes = np.sqrt((common**2 + second[:count] / 2 + second[count:] / (4 * CURVED**2)) / 2)
    _, mean, covariance = solve(sizes)
    return mean, covariance
