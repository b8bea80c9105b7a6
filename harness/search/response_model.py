"""What each constant does, as far as the night has shown it, and the step that this makes worth a run.

In: the searched constants, the incumbent's values, the run's history, a seed. Out: new values of a few constants, again and again, until
the caller takes one. The same arguments give the same steps. Refused: nothing; the caller judges what a step means and whether it is new.

A night is short and noisy, so every scored run counts, kept or not. Its score, in sigma of one run, is taken as a sum over the constants of
a slope and a curvature times the distance from the incumbent (on the annotation's scale, as a share of the range), and a level of its own for
each structure of the code. Slopes and curvatures have normal priors: runs that move a constant narrow them down, and how much constants
matter at all is found by the likelihood, first for all alike, then for each (sparse Bayesian regression, Tipping, 2001). A step is Thompson's
(1933): draw one set of slopes and curvatures from what is still possible, and do what would be best if that were the truth. So constants
that nobody has tried are tried, those that matter are followed, and small gains that noise hides one by one are taken together. Failures
count as losses of FAILED sigma.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.search.constants import Constant

REACH = 0.25  # of a range: how far a step goes, and twice as far is what it learns from
MOST_CHANGED = 3  # constants in one step: an idea that a person can read
MOST_RUNS = 300  # the latest: more take seconds to judge and are of incumbents long gone
STEPS = 30  # drawn before the caller has to look elsewhere
SLOPES = (2.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # sigma per range: sizes that the likelihood chooses from
CURVED = 2.0  # curvature expected for a slope: an incumbent lies near the best value of most constants
ROUNDS = 3  # of finding each constant's own size
LEVEL = 10.0  # sigma: how far apart structures may lie
UNLIKE = 0.25  # sigma squared: what a sum of curves leaves unexplained
THOMPSON = 0.4  # of the uncertainty that a draw has: a night is too short to explore more
FAILED = 10.0  # sigma lost, as good as
UNKNOWN_SIGMA = 0.003  # bpb, where no noise is known yet


def place(constant: Constant, value: Any) -> float:
    """Where in its range a value lies, on the annotation's scale: 0 to 1, or beyond where a profile put it there."""
    low, high = constant.low, constant.high
    if constant.scale == "choice":
        value = tuple(value) if isinstance(value, list) else value
        return constant.choices.index(value) / max(1, len(constant.choices) - 1) if value in constant.choices else 0.0
    if high == low:
        return 0.0
    if constant.scale in ("log", "pow2"):
        return math.log(value / low) / math.log(high / low) if value > 0 else 0.0
    return (value - low) / (high - low)


def value_at(constant: Constant, where: float) -> Any:
    """Return the value at a place of a constant's range."""
    low, high = constant.low, constant.high
    if constant.scale == "choice":
        return constant.choices[round(where * (len(constant.choices) - 1))]
    if constant.scale == "pow2":
        return 2 ** round(math.log2(low) + where * math.log2(high / low))
    value = low * (high / low) ** where if constant.scale == "log" else low + where * (high - low)
    return round(value) if constant.is_int else value


def draw_steps(
    space: Mapping[str, Constant],
    values: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    seed: int,
) -> Iterator[list[tuple[str, Any]]]:
    """Yield steps: (constant, new value) in the order of what each is expected to gain, more of them than a change should have.

    history: rows as `tpe` gets them; the last of those that are the incumbent is what gains are counted from. failures: full
    sets of values that did not train.
    """
    names = sorted(space)
    here = np.array([place(space[name], values[name]) for name in names])
    distances, losses, variances, levels = _evidence(space, names, here, values, history, failures)
    mean, covariance = _posterior(distances, losses, variances, levels)
    rng = np.random.default_rng(seed)
    sizes, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    spread = axes * np.sqrt(np.maximum(sizes, 0.0))
    steps = np.clip(here[:, None] + np.linspace(-REACH, REACH, 21), 0.0, 1.0) - here[:, None]
    for _ in range(STEPS):
        slopes, curvatures = np.split(mean + THOMPSON * spread @ rng.standard_normal(len(mean)), 2)
        gains = -(slopes[:, None] * steps + curvatures[:, None] * steps**2)
        best = gains.argmax(axis=1)
        gain = gains[np.arange(len(names)), best]
        order = [i for i in np.argsort(-gain, kind="stable") if gain[i] > 0]
        yield [(names[i], value_at(space[names[i]], float(here[i] + steps[i, best[i]]))) for i in order]


def _evidence(
    space: Mapping[str, Constant],
    names: Sequence[str],
    here: np.ndarray,
    values: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return what each run says: distances from the incumbent (runs, constants), loss in sigma, its variance, and the structure."""
    scored = [
        row for row in history if row.get("constants") and row.get("val_bpb") is not None and row["status"] == "ok"
    ]
    sigma = next((row["sigma"] for row in reversed(scored) if row.get("sigma")), UNKNOWN_SIGMA)
    incumbents = [row for row in scored if all(row["constants"].get(name) == values[name] for name in names)]
    zero = (incumbents or scored)[-1]["val_bpb"] if scored else 0.0
    last = (incumbents[-1].get("structure") if incumbents else "") or ""
    found = [
        (row["constants"], (row["val_bpb"] - zero) / sigma, 1.0 / (row.get("n_runs") or 1), row.get("structure") or "")
        for row in scored
    ]
    found = found[-MOST_RUNS:] + [(constants, FAILED, 4.0, last) for constants in failures[-MOST_RUNS:]]
    places = [[place(space[name], constants.get(name, values[name])) for name in names] for constants, *_ in found]
    distances = np.array(places).reshape(len(found), len(names)) - here
    near = [i for i in range(len(found)) if np.abs(distances[i]).max(initial=0.0) <= 2 * REACH]
    losses, variances = (np.array([found[i][column] for i in near]) for column in (1, 2))
    return distances[near], losses, variances, [found[i][3] for i in near]


def _posterior(
    distances: np.ndarray, losses: np.ndarray, variances: np.ndarray, levels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the slopes, then the curvatures, of all constants, in sigma per range (squared)."""
    count = distances.shape[1]
    inputs = np.hstack([distances, distances**2])
    same = np.array([[LEVEL**2 if a == b else 0.0 for a in levels] for b in levels]).reshape(len(levels), len(levels))
    noise = same + np.diag(variances + UNLIKE)

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
