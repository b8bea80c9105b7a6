"""The keep rule: does a candidate go on the branch, and what may be claimed in the end? No files.

In: val_bpb of runs (lower is better, so a gain is incumbent minus candidate). Out: Noise, a Verdict
with its reason in words, a Claim. Refused: no runs, scores that are not finite.

The rule, in the order in which it is applied
1. Which runs count (standing). A run that the machine disturbed, seen by its speed, does not. Older
   runs of a file that a newer one contradicts by DRIFT_SIGMAS of the difference are dropped: the
   machine is not what it was.
2. Noise (estimate_noise). sigma of a single run is pooled over all files that were run more than
   once, and with the profile's prior, which weighs at most PRIOR_DF degrees of freedom. The prior
   is dropped only when the seeds contradict it (F test at PRIOR_LEVEL, two-sided) with at least
   CONTRADICT_DF degrees of freedom. While the seeds have fewer than FEW_DF, sigma does not fall
   below PRIOR_SHARE of the prior, however well they agree. sigma is never below SIGMA_FLOOR.
3. Gain. With n1 counted runs of the incumbent and n2 of the candidate the difference of means has
   the standard error s = sigma x sqrt(1/n1 + 1/n2). The threshold is t x s, t being Student's
   quantile at the noise's degrees of freedom and at the look's level: a candidate may be looked at
   `max_looks` times (n2 = 1, 2, ...), and LOOK_LEVELS spends FALSE_KEEP over all looks together.
4. Fresh incumbent. At or above the threshold: keep, if the incumbent has a counted run from the
   candidate's time. If not: refresh, which trains the incumbent again, and then the rule is applied
   anew. Runs are interleaved, not paired by seed.
5. Promising. Below the threshold, but at PROMISING of what the last look will ask for: confirm,
   which trains the candidate again on a fresh seed.
6. Simplification. Not a gain, but shorter by MIN_FEWER_LINES statements or more: keep, after
   SIMPLER_RUNS runs beside a fresh incumbent, if the upper bound of its loss (one-sided,
   SIMPLER_LEVEL) fits into what is left of the margin. The margin is one sigma or SIMPLER_SHARE of
   the smallest gain kept so far, whichever is smaller, and it is one sum for the whole night: the
   bounds of all simplifications accepted so far are taken off it. Before the first gain there is no
   margin, so no simplification.
7. Anything else: discard.

Keep means "goes on the branch", no more: the levels are loose, since a night gains more by bold
steps than by certain ones, and a false keep costs little. What may be said to people is the claim:
made once, after the last keep, from fresh runs of best and baseline, interleaved, at least
CLAIM_SEEDS each, none of which took part in any choice.

`scripts/simulate_keep.py` measures all of it; its page is results/benchmarks/keep_rule.md.
"""

import ast
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.search.quantiles import f_tail, t_quantile

# Probability, one-sided, of keeping a candidate that is no better, over all its looks; and each
# look's level, by max_looks. Beyond 3 looks FALSE_KEEP is cut equally. Looks share their runs, and
# a candidate that stops looking good gets no further one: so levels may add up to more.
FALSE_KEEP = 0.15
LOOK_LEVELS = {1: (0.15,), 2: (0.105, 0.105), 3: (0.075, 0.09, 0.09)}
PROMISING = 0.8  # share of the last look's threshold that earns another run

DRIFT_SIGMAS = 2.5  # sigma of the difference by which a newer run of the same file drops older ones
# Relative difference in steps per charged second that marks a disturbed run. One file's speed
# scatters by 4 to 8% from run to run on shared cores, so less would take steady runs for disturbed.
SPEED_TOLERANCE = 0.10

PRIOR_DF = 4  # degrees of freedom that a shipped prior may weigh at most
PRIOR_LEVEL = 0.10  # level of the two-sided F test of seeds against prior
CONTRADICT_DF = 3  # degrees of freedom that the seeds need to have the prior dropped
PRIOR_SHARE = 0.5  # of the prior: sigma does not fall below it ...
FEW_DF = 8  # ... while the seeds have fewer degrees of freedom than this
# bpb; the smallest noise from seed to seed that anybody reports for five minutes on a card. Fewer
# than some ten seeds that happen to agree better than that have not measured a smaller one.
SIGMA_FLOOR = 0.0005
KNOWN_DF = 3  # degrees of freedom from which a sentence may count sigmas

MIN_FEWER_LINES = 3  # statements that a simplification must save
SIMPLER_RUNS = 3  # runs of a simplification before it may be kept
SIMPLER_LEVEL = 0.80  # of the one-sided upper bound of its loss
SIMPLER_SHARE = 0.25  # of the smallest gain kept: what all simplifications together may lose

CLAIM_SEEDS = 3  # fresh runs of best and of baseline that a claim needs


@dataclass(frozen=True)
class Prior:
    """A profile's noise, measured before: sigma of one run in bpb, from df degrees of freedom.

    note: where it was measured.
    """

    sigma: float
    df: float
    note: str = ""


@dataclass(frozen=True)
class Noise:
    """sigma of one run in bpb with its degrees of freedom; df 0: nothing is known, sigma is nan.

    contradicted: the seeds say that the prior does not hold here. With CONTRADICT_DF degrees of
    freedom it was dropped; with fewer it still counts, and more seeds would settle it.
    """

    sigma: float
    df: float
    words: str
    contradicted: bool = False


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
    words: str


def standing(scores: Sequence[float], speeds: Sequence[float | None], sigma: float) -> list[int]:
    """Return the indexes of one file's runs, in order of time, that still count: never none.

    A score that differs from the mean of those counted so far by more than DRIFT_SIGMAS x sigma x
    sqrt(1 + 1/n) drops them all. speeds: steps per charged second, None where unknown. A run whose
    speed is more than SPEED_TOLERANCE off the counted runs' median is disturbed and does not count;
    but two in a row that agree in speed say that the machine has changed for good, and these two
    alone count from there on. sigma: of estimate_noise; nan when unknown, and then no score drops
    any. Raises ValueError on lists of unequal length and on scores that are not finite.
    """
    if len(scores) != len(speeds):
        raise ValueError(f"{len(scores)} scores, but {len(speeds)} speeds")
    _check_finite(scores)
    counted: list[int] = []
    disturbed = None  # the run just before, if it was
    for index, (score, speed) in enumerate(zip(scores, speeds, strict=True)):
        known = [speeds[i] for i in counted if speeds[i] is not None]
        if speed is not None and known and not _agree(speed, statistics.median(known)):
            if disturbed is not None and _agree(speed, speeds[disturbed]):
                counted, disturbed = [disturbed, index], None
            else:
                disturbed = index
            continue
        disturbed = None
        if counted and not math.isnan(sigma):
            mean = _mean([scores[i] for i in counted])
            error = sigma * math.sqrt(1 + 1 / len(counted))
            if abs(score - mean) > DRIFT_SIGMAS * error:
                counted = []
        counted.append(index)
    return counted


def noise_groups(
    baseline: Sequence[float], decided: Sequence[Sequence[float]], candidate: Sequence[float] = ()
) -> list[list[float]]:
    """Return the groups for estimate_noise: of the baseline, each decided attempt, the candidate.

    Give of each the runs that judged it, without those that were disturbed (standing with sigma
    nan), and without later refreshes as the incumbent: those are of another time, so a machine that
    changed in between would pass for noise. A decided attempt was confirmed because its first run
    was low, so that run overstates the noise (measured: by 15 to 20% of sigma at the end of a
    night) and is left out. The candidate's own runs all count while it is judged.
    """
    return [list(baseline), *(list(runs[1:]) for runs in decided), list(candidate)]


def estimate_noise(groups: Sequence[Sequence[float]], prior: Prior | None) -> Noise:
    """Return the noise of one run from groups of val_bpb, each of one file, and a prior.

    Variances are pooled within groups, so groups may differ in level; a group of one run says
    nothing. Raises ValueError on a score that is not finite and on a prior that is not positive.
    """
    for group in groups:
        _check_finite(group)
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    squares = math.fsum((x - _mean(group)) ** 2 for group in groups for x in group)
    seeds = f"{df + len(groups)} runs of {len(groups)} file{'s' * (len(groups) > 1)}"
    seeds += f" ({_degrees(df)})"
    if prior is None and not df:
        return Noise(math.nan, 0, "no noise estimate: no file has two runs, and there is no prior")
    if prior is None:
        return _noise(math.sqrt(squares / df), SIGMA_FLOOR, df, f"from {seeds}", "")
    _check_finite([prior.sigma, prior.df])
    if prior.sigma <= 0 or prior.df <= 0:
        raise ValueError(
            f"a prior needs a positive sigma and positive df, not {prior.sigma} and {prior.df}"
        )
    weight = min(prior.df, PRIOR_DF)
    if not df:
        return _noise(prior.sigma, SIGMA_FLOOR, weight, "from the profile's prior alone", "")
    tail = f_tail(squares / df / prior.sigma**2, df, weight)
    contradicted = min(tail, 1 - tail) < PRIOR_LEVEL / 2
    floor = max(SIGMA_FLOOR, PRIOR_SHARE * prior.sigma if df < FEW_DF else 0)
    if contradicted and df >= CONTRADICT_DF:
        note = f"; they contradict the prior {prior.sigma:.4f}, which is dropped"
        return _noise(math.sqrt(squares / df), floor, df, f"from {seeds}", note, contradicted)
    sigma = math.sqrt((squares + weight * prior.sigma**2) / (df + weight))
    source = f"from {seeds} and the prior {prior.sigma:.4f} (weight {weight:g})"
    note = "; they disagree, too few to drop it" if contradicted else ""
    return _noise(sigma, floor, df + weight, source, note, contradicted)


def judge(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Noise,
    max_looks: int = 3,
    fresh: bool = True,
    candidate_lines: int | None = None,
    incumbent_lines: int | None = None,
    smallest_gain: float | None = None,
    simplified: float = 0.0,
) -> Verdict:
    """Return the verdict on a candidate, as the module's text says.

    candidate, incumbent: val_bpb of their runs that count. max_looks: runs a candidate may get in
    all; below SIMPLER_RUNS no simplification is kept. fresh: the incumbent has a counted run from
    the candidate's time. *_lines: count_code_lines of both files; without them nothing is kept for
    being simpler. smallest_gain: bpb, the smallest kept so far, None before the first. simplified:
    sum of loss_bound over the simplifications kept so far. Raises ValueError on an empty list or a
    score that is not finite.
    """
    _check_finite([*candidate, *incumbent])
    if not candidate or not incumbent or max_looks < 1:
        raise ValueError("a verdict needs a run of the candidate, one of the incumbent, one look")
    n1, n2 = len(incumbent), len(candidate)
    gain = _mean(incumbent) - _mean(candidate)
    more = n2 < max_looks
    if not noise.df > 0:
        return _without_noise(gain, more)

    def bound(level: float, runs: int) -> float:
        return t_quantile(level, noise.df) * noise.sigma * math.sqrt(1 / n1 + 1 / runs)

    threshold = bound(1 - look_alpha(n2, max_looks), n2)
    last = bound(1 - look_alpha(max_looks, max_looks), max_looks)
    loss_bound = max(0.0, bound(SIMPLER_LEVEL, max(n2, SIMPLER_RUNS)) - gain)
    lines_known = candidate_lines is not None and incumbent_lines is not None
    fewer = incumbent_lines - candidate_lines if lines_known else 0
    shorter = fewer >= MIN_FEWER_LINES
    margin = min(noise.sigma, SIMPLER_SHARE * (smallest_gain or 0)) - simplified
    simpler = shorter and smallest_gain is not None and loss_bound <= margin

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
        if shorter and smallest_gain is None:
            words += f"; {fewer} statements fewer count only once a gain was kept"
        elif shorter:
            words += f"; {loss}, when {max(margin, 0):.4f} may still be lost"
    if decision == "keep" and not fresh:
        decision, kind = "refresh", "refresh"
        words += "; the incumbent has no run from the same time"
    spent = loss_bound if kind == "simplification" else None
    return Verdict(decision, kind, gain, threshold, f"{words}: {decision}", spent)


def claim(best: Sequence[float], baseline: Sequence[float], level: float = 0.95) -> Claim:
    """Return by how much the best beats the baseline, with its confidence interval.

    best, baseline: val_bpb of fresh runs, interleaved, that took part in no choice. Student's t
    with the variance of these runs alone, pooled: exact whatever the night's sigma was. Raises
    ValueError below two runs each, on scores that are not finite, and on a level outside 0 to 1.
    """
    _check_finite([*best, *baseline])
    n1, n2 = len(baseline), len(best)
    if min(n1, n2) < 2:
        raise ValueError(f"a claim needs two runs of best and baseline each, not {n2} and {n1}")
    df = n1 + n2 - 2
    variance = math.fsum((x - _mean(runs)) ** 2 for runs in (best, baseline) for x in runs) / df
    half = t_quantile((1 + level) / 2, df) * math.sqrt(variance * (1 / n1 + 1 / n2))
    difference = _mean(baseline) - _mean(best)
    low, high = difference - half, difference + half
    side = "better" if difference >= 0 else "worse"
    better = f"{abs(difference):.4f} bpb {side} than the baseline"
    doubt = ", which may be chance" if low <= 0 <= high else ""
    runs = f"{n2} and {n1} fresh runs"
    words = f"the best is {better}{doubt} ({level:.0%} interval {low:+.4f} to {high:+.4f}, {runs})"
    return Claim(difference, low, high, n2, n1, words)


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


def _agree(speed: float, other: float) -> bool:
    return abs(speed - other) <= SPEED_TOLERANCE * other


def _noise(
    sigma: float, floor: float, df: float, source: str, note: str, contradicted: bool = False
) -> Noise:
    floored = f", raised to the floor {floor:.4f}" if sigma < floor else ""
    words = f"sigma {max(sigma, floor):.4f} bpb {source}{note}{floored}"
    return Noise(max(sigma, floor), df, words, contradicted)


def _size(gain: float, threshold: float, noise: Noise, n1: int, n2: int) -> str:
    """Say how large a gain or loss is; sigmas are counted only where sigma is known."""
    change = f"{'gain' if gain >= 0 else 'loss'} of {abs(gain):.4f} bpb"
    if noise.df >= KNOWN_DF:
        sigmas = abs(gain) / (noise.sigma * math.sqrt(1 / n1 + 1 / n2))
        return f"{change} is {sigmas:.1f} sigma of the difference (threshold {threshold:.4f})"
    basis = "2 trainings" if noise.df == 1 else f"few trainings ({_degrees(noise.df)})"
    return f"{change}, but sigma itself rests on {basis}: up to {threshold:.2g} could be chance"


def _degrees(df: float) -> str:
    return f"{df:g} degree{'s' * (df != 1)} of freedom"


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


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _check_finite(scores: Sequence[float]) -> None:
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite numbers: {list(scores)}")
