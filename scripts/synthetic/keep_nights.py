"""Nights of the keep rule on made-up machines and landscapes, without a training.

In: a policy (how the lab calls the rule), a machine, a landscape, seeds. Out: what was kept, what
it gained, what was kept falsely; the same of the greedy rule. The rule is harness.rules.keep
itself, called as a night calls it. All scores are in sigma of one run; a training's number is the
time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from harness.rules.keep import CLAIM_SEEDS, Shorter, Verdict, claim, judge
from harness.run.noise import Noise, Prior, estimate_noise, noise_groups, which_count
from synthetic.gains import mixture
from synthetic.machines import RUNS, Conditions, Rng, draw_conditions

MAX_LOOKS = 3
OLD = 20  # trainings, two hours on a card: a run of the incumbent before that is not from now
TUNE, REPORT = 1, 2  # first word of every seed


@dataclass(frozen=True)
class Policy:
    """How the lab calls the rule, and what it knows of its noise beforehand."""

    name: str
    seeds: int
    prior: Prior | None
    # A keep needs a run of the incumbent that is newer than the candidate's newest, or, on a card,
    # at most so many trainings older.
    old: int | None = None
    refreshed: int | None = None  # trainings after which the incumbent is trained unasked
    first_fresh: bool = False  # beside the baseline's own runs a keep needs a newer run in any case
    spread: float | None = None  # ln-spread of the speeds as measured; None: they are not known


CPU = Policy("CPU", 2, Prior(1.0, 4), refreshed=OLD)
CARD = Policy("card", 4, None, old=OLD, refreshed=OLD)
CARD_FIRST = replace(CARD, name="card, first keep fresh", first_fresh=True)
POLICIES = (CPU, CARD, CARD_FIRST)
SPEEDS_KNOWN = tuple(
    replace(CPU, name=f"CPU, speeds known to {spread:.0%}", spread=spread)
    for spread in (0.01, 0.06)
)


@dataclass
class File:
    """One train.py: its true level (lower is better) and its runs in order of time."""

    level: float
    scores: list[float] = field(default_factory=list)
    speeds: list[float | None] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    judged: int = 0  # its first runs, trained to judge it; later ones refresh it as the incumbent

    def undisturbed(self) -> list[float]:
        scores, speeds = self.scores[: self.judged], self.speeds[: self.judged]
        return [scores[i] for i in which_count(scores, speeds, math.nan)]


@dataclass
class Night:
    """One simulated night, and what it came to."""

    policy: Policy
    conditions: Conditions
    time: int = 0  # number of the next training
    decided: list[File] = field(default_factory=list)
    gains_kept: list[float] = field(default_factory=list)
    simplified: float = 0.0
    true_gain: float = 0.0
    simplification_loss: float = 0.0
    simplifications: int = 0
    false_keeps: int = 0
    refreshes: int = 0

    def train(self, file: File) -> None:
        spread = self.policy.spread
        file.scores.append(file.level + self.conditions.score(self.time))
        file.speeds.append(None if spread is None else self.conditions.speed(self.time, spread))
        file.times.append(self.time)
        self.time += 1

    def noise(self, candidate: File) -> Noise:
        repeated = [file.undisturbed() for file in self.decided[1:] if file.judged > 2]
        groups = noise_groups(self.decided[0].undisturbed(), repeated, candidate.undisturbed())
        return estimate_noise(groups, self.policy.prior)

    def judge(self, candidate: File, incumbent: File, fewer: int) -> Verdict:
        noise = self.noise(candidate)
        counted = which_count(incumbent.scores, incumbent.speeds, noise.sigma)
        newest, now = incumbent.times[counted[-1]], candidate.times[-1]
        trusted = self.policy.old is not None and now - newest <= self.policy.old
        if self.policy.first_fresh and incumbent is self.decided[0]:
            trusted = False
        return judge(
            candidate.undisturbed(),
            [incumbent.scores[i] for i in counted],
            noise,
            MAX_LOOKS,
            fresh=trusted or newest > now,
            shorter=Shorter(fewer, min(self.gains_kept, default=None), self.simplified),
        )


def run_night(
    policy: Policy, conditions: Conditions, gains: np.ndarray, simpler: np.ndarray | None = None
) -> Night:
    """Run the rule over a night's candidates. simpler: which of them are shorter."""
    night = Night(policy, conditions)
    incumbent = File(0.0)
    for _ in range(policy.seeds):
        night.train(incumbent)
    incumbent.judged = policy.seeds
    night.decided.append(incumbent)
    end = RUNS - 2 * CLAIM_SEEDS
    for number, gain in enumerate(gains):
        if policy.refreshed and night.time - incumbent.times[-1] > policy.refreshed:
            night.train(incumbent)
            night.refreshes += 1
        candidate = File(incumbent.level - gain)
        next_run, verdict = candidate, None
        while night.time < end and next_run:
            night.train(next_run)
            candidate.judged = len(candidate.scores)
            fewer = 10 if simpler is not None and simpler[number] else 0
            verdict = night.judge(candidate, incumbent, fewer)
            night.refreshes += verdict.decision == "refresh"
            next_run = {"confirm": candidate, "refresh": incumbent}.get(verdict.decision)
        if verdict is None or next_run:
            break
        night.decided.append(candidate)
        if verdict.decision == "keep":
            if verdict.kind == "simplification":
                night.simplified += verdict.loss_bound
                night.simplification_loss -= gain
                night.simplifications += 1
            else:
                night.gains_kept.append(verdict.gain)
                night.false_keeps += gain <= 0
            incumbent = candidate
    night.true_gain = -incumbent.level
    return night


def run_greedy(conditions: Conditions, gains: np.ndarray) -> tuple[float, int]:
    """Keep any lower number after one run each; return the true gain and the false keeps."""
    level, best, false_keeps = 0.0, conditions.score(0), 0
    for training, gain in zip(range(1, RUNS), gains, strict=False):
        score = level - gain + conditions.score(training)
        if score < best:
            level, best = level - gain, score
            false_keeps += gain <= 0
    return -level, false_keeps


@dataclass
class Nights:
    """Many nights of one policy on one machine and landscape; means over the nights."""

    true_gain: float
    error: float  # standard error of true_gain
    false_keeps: float
    refreshes: float
    greedy_gain: float
    greedy_false_keeps: float


def run_nights(
    part: int, policy: Policy, machine: str, landscape: Callable[[Rng], np.ndarray], nights: int
) -> Nights:
    """Run the rule and greedy on the same nights; the same for every policy."""
    results = []
    for number in range(nights):
        rng = np.random.default_rng([part, number])
        gains = landscape(rng)
        conditions = draw_conditions(machine, policy.seeds, rng)
        night = run_night(policy, conditions, gains)
        greedy = run_greedy(conditions, gains)
        results.append([night.true_gain, night.false_keeps, night.refreshes, *greedy])
    gain, false_keeps, refreshes, greedy_gain, greedy_false_keeps = np.mean(results, axis=0)
    error = float(np.std(results, axis=0)[0] / math.sqrt(nights))
    return Nights(gain, error, false_keeps, refreshes, greedy_gain, greedy_false_keeps)


def kept(true_gain: float, seeds: int, prior: Prior | None, renewed: bool, rng: Rng) -> bool:
    """Judge one candidate of this true gain against the baseline on a steady machine.

    renewed: a keep needs a run of the baseline from after the candidate's newest.
    """
    baseline, candidate, fresh = list(rng.normal(size=seeds)), [], False
    measured = list(baseline)
    candidate.append(rng.normal() - true_gain)
    while True:
        noise = estimate_noise(noise_groups(measured, [], candidate), prior)
        verdict = judge(candidate, baseline, noise, MAX_LOOKS, fresh or not renewed)
        if verdict.decision == "confirm":
            candidate.append(rng.normal() - true_gain)
            fresh = False
        elif verdict.decision == "refresh":
            baseline.append(rng.normal())
            fresh = True
        else:
            return verdict.decision == "keep"


def claim_results(machine: str, seeds: int, claims: int) -> tuple[float, float]:
    """Return how often the claim's interval holds the true difference, and its median half."""
    rng = np.random.default_rng([REPORT, 2, seeds])
    covered, halves = 0, []
    for _ in range(claims):
        conditions = draw_conditions(machine, 0, rng)
        first = int(rng.integers(RUNS - 2 * seeds))
        scores = [conditions.score(first + i) for i in range(2 * seeds)]
        found = claim(scores[::2], scores[1::2])  # equal files: the true difference is 0
        covered += found.low <= 0 <= found.high
        halves.append((found.high - found.low) / 2)
    return covered / claims, float(np.median(halves))


def simplification_losses(policy: Policy, low: float, high: float, nights: int) -> np.ndarray:
    """Return the true loss of each night to simplifications, each truly worse by low to high.

    A third of the candidates are simplifications; a tenth are good, by 5 sigma on average.
    """
    losses = []
    for number in range(nights):
        rng = np.random.default_rng([REPORT, 3, number])
        simpler = rng.random(RUNS) < 1 / 3
        gains = np.where(simpler, -rng.uniform(low, high, RUNS), mixture(0.15, 5.0, 0.3, 3.0)(rng))
        night = run_night(policy, draw_conditions("steady", policy.seeds, rng), gains, simpler)
        losses.append([night.simplification_loss, night.simplifications])
    return np.array(losses)
