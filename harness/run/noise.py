"""Which runs of a file count, and how far two runs of one file differ by chance. Pure: no files.

In: val_bpb and speeds of runs, in order of time. Out: the runs that count, and a Noise. Raises
ValueError on scores that are not finite. `harness.rules.keep` says what is made of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.ground.student_t import f_tail

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


def which_count(scores: Sequence[float], speeds: Sequence[float | None], sigma: float) -> list[int]:
    """Return the indexes of one file's runs, in order of time, that still count.

    Where there are runs, at least one counts. A score that differs from the mean of those counted
    so far by more than DRIFT_SIGMAS x sigma x sqrt(1 + 1/n) drops them all. speeds: steps per
    charged second, None where unknown. A run whose speed is more than SPEED_TOLERANCE off the
    counted runs' median is disturbed and does not count. But two such runs in a row that agree in
    speed show that the machine has changed for good: from there on only these two count. sigma: of
    estimate_noise; nan when unknown, and then no score drops any. Raises ValueError on scores that
    are not finite.
    """
    check_finite(scores)
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
            mean = mean_of([scores[i] for i in counted])
            error = sigma * math.sqrt(1 + 1 / len(counted))
            if abs(score - mean) > DRIFT_SIGMAS * error:
                counted = []
        counted.append(index)
    return counted


def noise_groups(
    baseline: Sequence[float], decided: Sequence[Sequence[float]], candidate: Sequence[float] = ()
) -> list[list[float]]:
    """Return the groups for estimate_noise: of the baseline, each decided attempt, the candidate.

    Give of each the runs that judged it, without those that were disturbed (which_count with sigma
    nan), and without later refreshes as the incumbent: those are of another time, so a machine that
    changed in between would pass for noise. A decided attempt was confirmed because its first run
    was low, so that run overstates the noise (measured: by 15 to 20% of sigma at the end of a
    night) and is left out. The candidate's own runs all count while it is judged.
    """
    return [list(baseline), *(list(runs[1:]) for runs in decided), list(candidate)]


def estimate_noise(groups: Sequence[Sequence[float]], prior: Prior | None) -> Noise:
    """Return the noise of one run from groups of val_bpb, each of one file, and a prior.

    Variances are pooled within groups, so groups may differ in level; a group of one run says
    nothing. Raises ValueError on a score that is not finite.
    """
    for group in groups:
        check_finite(group)
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    squares = math.fsum((x - mean_of(group)) ** 2 for group in groups for x in group)
    seeds = f"{df + len(groups)} runs of {len(groups)} file{'s' * (len(groups) > 1)}"
    seeds += f" ({degrees_words(df)})"
    if prior is None and not df:
        return Noise(math.nan, 0, "no noise estimate: no file has two runs, and there is no prior")
    if prior is None:
        return _noise(math.sqrt(squares / df), SIGMA_FLOOR, df, f"from {seeds}", "")
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


def _noise(
    sigma: float, floor: float, df: float, source: str, note: str, contradicted: bool = False
) -> Noise:
    floored = f", raised to the floor {floor:.4f}" if sigma < floor else ""
    words = f"sigma {max(sigma, floor):.4f} bpb {source}{note}{floored}"
    return Noise(max(sigma, floor), df, words, contradicted)


def _agree(speed: float, other: float) -> bool:
    return abs(speed - other) <= SPEED_TOLERANCE * other


def degrees_words(df: float) -> str:
    return f"{df:g} degree{'s' * (df != 1)} of freedom"


def mean_of(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def check_finite(scores: Sequence[float]) -> None:
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite numbers: {list(scores)}")
