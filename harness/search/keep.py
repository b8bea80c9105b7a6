"""The keep rule: is a candidate better than the incumbent, or is the difference noise? Pure functions, no files.

In: val_bpb of runs (lower is better, so a gain is incumbent minus candidate). Out: a Verdict: keep, discard, or confirm
(one more run of the same attempt on a fresh seed), with the reason in words. Refused: no runs, scores not finite.

The rule, in the order it is applied
1. Noise. sigma of a single run comes from runs of the same file under several seeds, variances pooled within such
   groups (noise_groups says which runs), and from the profile's prior, which weighs at most PRIOR_DF degrees of
   freedom. The prior is dropped when an F test at PRIOR_LEVEL, two-sided, says that the seeds contradict it.
2. Gain. With n1 runs of the incumbent and n2 of the candidate the difference of means has the standard error
   s = sigma x sqrt(1/n1 + 1/n2). Keep when gain >= t x s, t being Student's quantile at the noise's degrees of freedom.
3. Looks. A candidate may be looked at `max_looks` times (n2 = 1, 2, ...). The one-sided FALSE_KEEP is spent over all of
   them: each look has its level (LOOK_LEVELS), chosen by simulation so that a candidate that is no better is kept with
   at most that probability in all (measured: 3.3 to 4.8% with 2 to 5 baseline seeds). The levels themselves add up to
   more, since looks share their runs and a candidate that stops looking good gets no further one.
4. Promising. Below the threshold the candidate gets another run only when its gain is at least PROMISING of what the
   last look will ask for; else it is discarded at once, since runs are what a night has least of.
5. Simplification. Not a gain, but shorter by at least MIN_FEWER_LINES statements and, over at least two runs, no worse
   than the best mean ever kept by more than MARGIN sigma: keep. Measured against the best ever, not against the
   incumbent, so that many small losses cannot add up.

Winner's curse: an incumbent that was kept was also lucky, so its mean is somewhat too good and the next candidate is
judged a little too strictly: false keeps fall below the stated share, and small gains right after a keep are missed.
That is the side to err on. The incumbent's own runs count as n1, so an incumbent with one run asks for a larger gain.
`scripts/simulate_keep.py` measures all of it; its table is in results/benchmarks/keep_rule.md.
"""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.search.quantiles import f_tail, t_quantile

FALSE_KEEP = 0.05  # probability, one-sided, of keeping a candidate that is no better, over all its looks
LOOK_LEVELS = {1: (0.05,), 2: (0.035, 0.035), 3: (0.025, 0.03, 0.03)}  # by max_looks; above 3 FALSE_KEEP is cut equally
PRIOR_DF = 4  # degrees of freedom that a shipped prior may weigh at most
PRIOR_LEVEL = 0.10  # level of the two-sided F test of seeds against prior
PROMISING = 0.8  # share of the last look's threshold that earns another run
MARGIN = 0.5  # sigma of a single run: loss against the best ever that a simplification may show
MIN_FEWER_LINES = 3  # statements that a simplification must save
SIGMA_FLOOR = 1e-6  # bpb, the last digit of results.tsv: no difference below it is a gain


@dataclass(frozen=True)
class Prior:
    """The noise of a profile, measured before: sigma of one run in bpb, from df degrees of freedom; note says where."""

    sigma: float
    df: float
    note: str = ""


@dataclass(frozen=True)
class Noise:
    """sigma of one run in bpb with its degrees of freedom; df 0 means that nothing is known, and sigma is nan.

    contradicted: the runs said that the prior does not hold here, so it was dropped.
    """

    sigma: float
    df: float
    words: str
    contradicted: bool = False


@dataclass(frozen=True)
class Verdict:
    """decision: keep, discard or confirm. kind: gain, simplification, promising, maybe simpler, within noise, worse or
    noise unknown. gain in bpb, positive is better; threshold in bpb, None when no noise is known."""

    decision: str
    kind: str
    gain: float
    threshold: float | None
    words: str


def estimate_noise(groups: Sequence[Sequence[float]], prior: Prior | None) -> Noise:
    """Return the noise of one run from groups of val_bpb, each of the same file under several seeds, and a prior.

    Variances are pooled within groups, so groups may differ in level; a group of one run says nothing. Raises
    ValueError on a score that is not finite and on a prior that is not positive.
    """
    for group in groups:
        _check_finite(group)
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    squares = sum(sum((x - _mean(group)) ** 2 for x in group) for group in groups)
    if prior is None:
        unknown = Noise(math.nan, 0, "no noise estimate: no file has two runs, and there is no prior")
        return _measured(squares, df, len(groups), "") if df else unknown
    _check_finite([prior.sigma, prior.df])
    if prior.sigma <= 0 or prior.df <= 0:
        raise ValueError(f"a prior needs a positive sigma and positive df, not {prior.sigma} and {prior.df}")
    weight = min(prior.df, PRIOR_DF)
    if not df:
        return Noise(max(prior.sigma, SIGMA_FLOOR), weight, f"sigma {prior.sigma:.4f} bpb, the profile's prior alone")
    ratio = squares / df / prior.sigma**2
    tail = f_tail(ratio, df, weight)
    if min(tail, 1 - tail) < PRIOR_LEVEL / 2:
        measured = _measured(
            squares, df, len(groups), f"; they contradict the prior {prior.sigma:.4f}, which is dropped"
        )
        return replace(measured, contradicted=True)
    sigma = max(math.sqrt((squares + weight * prior.sigma**2) / (df + weight)), SIGMA_FLOOR)
    words = f"sigma {sigma:.4f} bpb from {_seeds(df, len(groups))} and the prior {prior.sigma:.4f} (weight {weight:g})"
    return Noise(sigma, df + weight, words)


def noise_groups(
    baseline: Sequence[float], decided: Sequence[Sequence[float]], candidate: Sequence[float] = ()
) -> list[list[float]]:
    """Return the groups for estimate_noise: runs of the baseline, of each decided attempt, and of the candidate.

    A decided attempt was confirmed because its first run was low, so that run overstates the noise (measured: by 15 to
    20% of sigma at the end of a night) and is left out. The candidate's own runs all count while it is judged.
    """
    return [list(baseline), *(list(runs[1:]) for runs in decided), list(candidate)]


def judge(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    noise: Noise,
    max_looks: int = 3,
    candidate_lines: int | None = None,
    incumbent_lines: int | None = None,
    best_ever: float | None = None,
) -> Verdict:
    """Return the verdict on a candidate's runs (val_bpb each) against the incumbent's, as the module's text says.

    max_looks: runs a candidate may get in all. *_lines: count_code_lines of both files; without them nothing is kept
    for being simpler. best_ever: lowest mean that was ever kept (default: the incumbent's). Raises ValueError on an
    empty list or a score that is not finite.
    """
    for scores in (candidate, incumbent, [] if best_ever is None else [best_ever]):
        _check_finite(scores)
    if not candidate or not incumbent or max_looks < 1:
        raise ValueError("a verdict needs at least one run of the candidate, one of the incumbent, and one look")
    n1, n2 = len(incumbent), len(candidate)
    mean = _mean(candidate)
    gain = _mean(incumbent) - mean
    more = n2 < max_looks
    if not noise.df > 0:
        return _without_noise(gain, more)
    error = noise.sigma * math.sqrt(1 / n1 + 1 / n2)
    threshold = t_quantile(1 - look_alpha(n2, max_looks), noise.df) * error
    size = f"{abs(gain):.4f} bpb is {abs(gain) / error:.1f} sigma of the difference"
    if gain >= threshold:
        return Verdict("keep", "gain", gain, threshold, f"gain {size} (threshold {threshold:.4f}): keep")
    last = noise.sigma * math.sqrt(1 / n1 + 1 / max_looks) * t_quantile(1 - look_alpha(max_looks, max_looks), noise.df)
    if more and gain >= PROMISING * last:
        words = f"gain {size}, below the threshold {threshold:.4f} but worth run {n2 + 1} of {max_looks}: confirm"
        return Verdict("confirm", "promising", gain, threshold, words)
    fewer = (incumbent_lines or 0) - candidate_lines if candidate_lines is not None and incumbent_lines else 0
    loss = mean - (_mean(incumbent) if best_ever is None else best_ever)
    if fewer >= MIN_FEWER_LINES and loss <= MARGIN * noise.sigma:
        within = f"{fewer} statements fewer and {loss:+.4f} bpb from the best ever, within {MARGIN} sigma"
        if n2 > 1:
            return Verdict("keep", "simplification", gain, threshold, f"{within}: keep as a simplification")
        if more:
            return Verdict("confirm", "maybe simpler", gain, threshold, f"{within}, on one run only: confirm")
    if gain <= -threshold:
        return Verdict("discard", "worse", gain, threshold, f"loss of {size}: discard")
    side = "gain" if gain >= 0 else "loss"
    words = f"{side} of {size}, within the noise (threshold {threshold:.4f}): discard"
    return Verdict("discard", "within noise", gain, threshold, words)


def look_alpha(look: int, max_looks: int) -> float:
    """Return the one-sided level of a look, 1 to max_looks; runs beyond max_looks are judged like the last."""
    levels = LOOK_LEVELS.get(max_looks) or (FALSE_KEEP / max_looks,) * max_looks
    return levels[min(look, max_looks) - 1]


def count_code_lines(source: str) -> int:
    """Return the number of statements in a Python source: code lines without comments, blank lines and docstrings.

    Statements, not physical lines: wrapping one over three lines or joining two with a semicolon changes nothing, so
    formatting is never a simplification. Raises SyntaxError.
    """
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(tree))
    docstrings = sum(isinstance(n, documented) and ast.get_docstring(n, clean=False) is not None for n in nodes)
    return sum(isinstance(node, ast.stmt) for node in nodes) - docstrings


def _measured(squares: float, df: int, groups: int, note: str) -> Noise:
    sigma = max(math.sqrt(squares / df), SIGMA_FLOOR)
    return Noise(sigma, df, f"sigma {sigma:.4f} bpb from {_seeds(df, groups)}{note}")


def _seeds(df: int, groups: int) -> str:
    return f"{df + groups} runs of {groups} file{'s' * (groups > 1)} ({df} degree{'s' * (df > 1)} of freedom)"


def _without_noise(gain: float, more: bool) -> Verdict:
    """With no idea of the noise nothing can be kept: ask for a run that measures it, or give up."""
    if gain > 0 and more:
        words = f"gain {gain:.4f} bpb, but the noise is unknown: another run measures it: confirm"
        return Verdict("confirm", "noise unknown", gain, None, words)
    if gain > 0:
        words = f"gain {gain:.4f} bpb cannot be told from noise, which is unknown: discard"
        return Verdict("discard", "noise unknown", gain, None, words)
    return Verdict("discard", "worse", gain, None, f"no gain ({gain:.4f} bpb), whatever the noise: discard")


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _check_finite(scores: Sequence[float]) -> None:
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite numbers: {list(scores)}")
