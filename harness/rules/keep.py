"""The keep rule: does a candidate go on the branch, and what may be claimed in the end? No files.

In: val_bpb of runs (lower is better, so a gain is incumbent minus candidate). A run is one
training of one file; runs of a file differ in their seed. Out: Noise, a Verdict with its reason in
words, a Claim. Refused: no runs, scores that are not finite.

The rule, in the order in which it is applied
1. Which runs count (noise.which_count). A run that the machine disturbed, seen by its speed, does
   not. If a newer run of a file differs from the older ones by more than DRIFT_SIGMAS of the
   difference, the older ones are dropped: the machine has changed.
2. Noise (estimate_noise). sigma of a single run is pooled over all files that were run more than
   once, and with the profile's prior, which weighs at most PRIOR_DF degrees of freedom. The prior
   is dropped only when the seeds contradict it (F test at PRIOR_LEVEL, two-sided) with at least
   CONTRADICT_DF degrees of freedom. While the seeds have fewer than FEW_DF, sigma does not fall
   below PRIOR_SHARE of the prior, however well they agree. sigma is never below SIGMA_FLOOR.
3. Gain. With n1 counted runs of the incumbent and n2 of the candidate the difference of means has
   the standard error s = sigma x sqrt(1/n1 + 1/n2). The threshold is t x s, t being Student's
   quantile at the noise's degrees of freedom and at the look's level. A look is one judgement of
   the candidate, after its first run, its second, and so on, as in a sequential test with interim
   analyses. There are `max_looks` at most, and LOOK_LEVELS spends FALSE_KEEP over all of them.
4. Fresh incumbent. At or above the threshold: keep, if the incumbent has a counted run from about
   the time of the candidate's. If not: refresh, which trains the incumbent again, and then the rule
   is applied again. Runs are interleaved, not paired by seed.
5. Promising. Below the threshold, but at least PROMISING of the last look's threshold: confirm,
   which trains the candidate again on a fresh seed.
6. Simplification. Not a gain, but shorter by MIN_FEWER_LINES statements or more: keep, after
   SIMPLER_RUNS runs and with a fresh incumbent, if the upper bound of its loss (one-sided,
   SIMPLER_LEVEL) fits into what is left of the margin. The margin is one sigma or SIMPLER_SHARE of
   the smallest gain kept so far, whichever is smaller. It is one sum for the whole night: the
   bounds of all simplifications kept so far are subtracted. Before the first gain the margin is
   zero, so nothing is kept as simpler.
7. Anything else: discard.

Keep means "goes on the branch" and no more. The levels are loose, since a night gains more by bold
steps than by certain ones, and a false keep costs little. Only the claim is told to people: it is
made once, after the last keep, from fresh runs of best and baseline, interleaved, at least
CLAIM_SEEDS each, none of which took part in any choice.

`scripts/simulate_keep.py` measures all of it; its page is results/benchmarks/keep_rule.md.
"""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.ground.student_t import t_quantile
from harness.run.noise import KNOWN_DF, Noise, check_finite, degrees_words, mean_of

# Probability, one-sided, of keeping a candidate that is no better, over all its looks; and each
# look's level, by max_looks. Beyond 3 looks FALSE_KEEP is cut equally. Looks share their runs, and
# a candidate that stops looking good gets no further one: so levels may add up to more.
FALSE_KEEP = 0.15
LOOK_LEVELS = {1: (0.15,), 2: (0.105, 0.105), 3: (0.075, 0.09, 0.09)}
PROMISING = 0.8  # share of the last look's threshold that earns another run

MIN_FEWER_LINES = 3  # statements that a simplification must save
SIMPLER_RUNS = 3  # runs of a simplification before it may be kept
SIMPLER_LEVEL = 0.80  # of the one-sided upper bound of its loss
SIMPLER_SHARE = 0.25  # of the smallest gain kept: what all simplifications together may lose

CLAIM_SEEDS = 3  # fresh runs of best and of baseline that a claim needs
CLAIM_LEVEL = 0.95  # of its confidence interval


@dataclass(frozen=True)
class Verdict:
    """What to do with a candidate, and why.

    decision: keep, discard, confirm (train the candidate once more, on a fresh seed) or refresh
    (train the incumbent once more, then judge again).
    kind: gain, simplification, refresh, promising, maybe simpler, within noise, worse or noise
    unknown. gain: bpb, positive is better. threshold: bpb, None when no noise is known.
    loss_bound: bpb, of a kept simplification alone: what it may have lost, to be added to the sum.
    """

    decision: str
    kind: str
    gain: float
    threshold: float | None
    words: str
    loss_bound: float | None = None


@dataclass(frozen=True)
class Claim:
    """By how much the best is better than the baseline, in bpb, with the interval low to high."""

    difference: float
    low: float
    high: float
    n_best: int
    n_baseline: int


@dataclass(frozen=True)
class Shorter:
    """What keeping a candidate for being shorter depends on.

    fewer: statements that it has less than the incumbent, by count_code_lines. smallest_gain: bpb,
    the smallest kept so far, None before the first. lost: bpb, the sum of loss_bound over the
    simplifications kept so far.
    """

    fewer: int = 0
    smallest_gain: float | None = None
    lost: float = 0.0


NOT_SHORTER = Shorter()


def judge(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Noise,
    max_looks: int = 3,
    fresh: bool = True,
    shorter: Shorter = NOT_SHORTER,
) -> Verdict:
    """Return the verdict on a candidate, as the module's text says.

    candidate, incumbent: val_bpb of their runs that count. max_looks: runs a candidate may get in
    all; below SIMPLER_RUNS no simplification is kept. fresh: the incumbent has a counted run from
    the candidate's time. Raises ValueError on an empty list or a score that is not finite.
    """
    check_finite([*candidate, *incumbent])
    if not candidate or not incumbent or max_looks < 1:
        raise ValueError("a verdict needs a run of the candidate, one of the incumbent, one look")
    n1, n2 = len(incumbent), len(candidate)
    gain = mean_of(incumbent) - mean_of(candidate)
    more = n2 < max_looks
    if not noise.df > 0:
        return _without_noise(gain, more)

    def bound(level: float, runs: int) -> float:
        return t_quantile(level, noise.df) * noise.sigma * math.sqrt(1 / n1 + 1 / runs)

    threshold = bound(1 - look_alpha(n2, max_looks), n2)
    last = bound(1 - look_alpha(max_looks, max_looks), max_looks)
    loss_bound = max(0.0, bound(SIMPLER_LEVEL, max(n2, SIMPLER_RUNS)) - gain)
    fewer, smallest_gain = shorter.fewer, shorter.smallest_gain
    counts = fewer >= MIN_FEWER_LINES
    margin = min(noise.sigma, SIMPLER_SHARE * (smallest_gain or 0)) - shorter.lost
    simpler = counts and smallest_gain is not None and loss_bound <= margin

    words = _size(gain, threshold, noise, n1, n2)
    loss = f"{fewer} statements fewer, for a loss of at most {loss_bound:.4f} bpb"
    if gain >= threshold:
        decision, kind = "keep", "gain"
    elif more and gain >= PROMISING * last:
        decision, kind = "confirm", "promising"
        words += f", not enough but worth run {n2 + 1} of {max_looks}"
    elif simpler and n2 >= SIMPLER_RUNS:
        decision, kind, words = "keep", "simplification", loss
    elif simpler and more and max_looks >= SIMPLER_RUNS:
        decision, kind = "confirm", "maybe simpler"
        words += f"; {fewer} statements fewer are worth run {n2 + 1} of {SIMPLER_RUNS}"
    else:
        decision, kind = "discard", "worse" if gain <= -threshold else "within noise"
        words += ", within the noise" * (kind == "within noise" and noise.df >= KNOWN_DF)
        if counts and smallest_gain is None:
            words += f"; {fewer} statements fewer count only once a gain was kept"
        elif counts:
            words += f"; {loss}, when {max(margin, 0):.4f} may still be lost"
    if decision == "keep" and not fresh:
        decision, kind = "refresh", "refresh"
        words += "; the incumbent has no run from the same time"
    spent = loss_bound if kind == "simplification" else None
    return Verdict(decision, kind, gain, threshold, f"{words}: {decision}", spent)


def claim(best: Sequence[float], baseline: Sequence[float]) -> Claim:
    """Return by how much the best beats the baseline, with its confidence interval.

    best, baseline: val_bpb of fresh runs, interleaved, that took part in no choice; another file
    may stand in the baseline's place. Student's t with the pooled variance of these runs alone, so
    it does not depend on the night's sigma. Raises ValueError below two runs each and on scores
    that are not finite.
    """
    check_finite([*best, *baseline])
    n1, n2 = len(baseline), len(best)
    if min(n1, n2) < 2:
        raise ValueError(f"a claim needs two runs of best and baseline each, not {n2} and {n1}")
    df = n1 + n2 - 2
    variance = math.fsum((x - mean_of(runs)) ** 2 for runs in (best, baseline) for x in runs) / df
    half = t_quantile((1 + CLAIM_LEVEL) / 2, df) * math.sqrt(variance * (1 / n1 + 1 / n2))
    difference = mean_of(baseline) - mean_of(best)
    return Claim(difference, difference - half, difference + half, n2, n1)


def look_alpha(look: int, max_looks: int) -> float:
    """Return the one-sided level of a look, 1 to max_looks; later runs are judged like the last."""
    levels = LOOK_LEVELS.get(max_looks) or (FALSE_KEEP / max_looks,) * max_looks
    return levels[min(look, max_looks) - 1]


def count_code_lines(source: str) -> int:
    """Return the number of statements in a Python source: no comments, blank lines, docstrings.

    Statements, not physical lines: wrapping one over three lines or joining two with a semicolon
    changes nothing, so formatting is never a simplification. Raises SyntaxError.
    """
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(tree))
    headed = [node for node in nodes if isinstance(node, documented)]
    docstrings = sum(ast.get_docstring(node, clean=False) is not None for node in headed)
    return sum(isinstance(node, ast.stmt) for node in nodes) - docstrings


def _size(gain: float, threshold: float, noise: Noise, n1: int, n2: int) -> str:
    """Say how large a gain or loss is; sigmas are counted only where sigma is known."""
    change = f"{'gain' if gain >= 0 else 'loss'} of {abs(gain):.4f} bpb"
    if noise.df >= KNOWN_DF:
        sigmas = abs(gain) / (noise.sigma * math.sqrt(1 / n1 + 1 / n2))
        return f"{change} is {sigmas:.1f} sigma of the difference (threshold {threshold:.4f})"
    basis = "2 trainings" if noise.df == 1 else f"few trainings ({degrees_words(noise.df)})"
    return f"{change}, but sigma itself rests on {basis}: up to {threshold:.2g} could be chance"


def _without_noise(gain: float, more: bool) -> Verdict:
    """With no idea of the noise nothing can be kept: ask for a run that measures it, or give up."""
    if gain > 0 and more:
        words = f"gain {gain:.4f} bpb, but the noise is unknown: another run measures it: confirm"
        return Verdict("confirm", "noise unknown", gain, None, words)
    if gain > 0:
        words = f"gain {gain:.4f} bpb cannot be told from noise, which is unknown: discard"
        return Verdict("discard", "noise unknown", gain, None, words)
    words = f"no gain ({gain:.4f} bpb), whatever the noise: discard"
    return Verdict("discard", "worse", gain, None, words)
