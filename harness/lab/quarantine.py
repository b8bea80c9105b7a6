"""Whether a result that the keep rule would keep is for a person to look at first: what no audit proves and no honest run shows.

In: the state, at the moment of a would-be keep. Out: the reasons, each a sentence; none lets the idea pass. Pure.

An experiment in quarantine is not the incumbent and costs the night nothing: `overnight.py --accept N` or `--refuse N` says what it is.
"""

from __future__ import annotations

from harness.lab.journal import Experiment, Run, State
from harness.scoring.audit import SMALLEST_GAP, STANDARD_ERRORS

SIGMAS, TIMES_BEST_GAIN = (
    30,
    3,
)  # a gain above both of these multiples is implausible: the largest of 125 real ones elsewhere was 17 sigma
STARTUP_FACTOR, STARTUP_SECONDS, STARTUP_SHARE = (
    1.5,
    2.0,
    0.05,
)  # of the baseline's slowest; plus the larger of seconds and a share of the budget
WEIGHTS_FACTOR, WEIGHTS_SECONDS = 4, 1.0  # times the baseline's slowest writing of weights, and seconds
OVERSHOOT_SHARE = 0.02  # of the budget, or two of the run's own steps, whichever is more


def quarantine_reasons(state: State, experiment: Experiment, gain: float, budget_seconds: float) -> list[str]:
    """Return why a would-be keep needs a person's word, [] if nothing speaks for that. gain: bits per byte, of the keep rule."""
    runs = [run for run in experiment.attempt.runs if run.val_bpb is not None]
    baseline = [run for run in state.experiments[0].attempt.runs if run.val_bpb is not None]
    reasons = [doubt for run in runs for doubt in run.doubts]
    for run in runs:
        reasons += floor_reason(run, gain)
        reasons += [
            *startup_reason(run, baseline, budget_seconds),
            *overshoot_reason(run, budget_seconds),
            *weights_reason(run, baseline),
        ]
    return list(dict.fromkeys([*reasons, *gain_reason(state, gain)]))


def startup_limit(baseline: list[Run], budget_seconds: float) -> float | None:
    """The longest start-up, seconds, that is taken for building and compiling alone; None when the baseline's is not known."""
    seconds = [run.trained["startup_seconds"] for run in baseline if run.trained.get("startup_seconds")]
    spare = max(STARTUP_SECONDS, STARTUP_SHARE * budget_seconds)
    return STARTUP_FACTOR * max(seconds) + spare if seconds else None


def startup_reason(run: Run, baseline: list[Run], budget_seconds: float) -> list[str]:
    """A long start-up may be training that the clock does not see."""
    limit, took = startup_limit(baseline, budget_seconds), run.trained.get("startup_seconds")
    if limit is None or not took or took <= limit:
        return []
    return [
        f"run {run.number} took {took:.1f} s before its clock started, where the baseline's start-ups allow {limit:.1f} s: did it train before?"
    ]


def weights_reason(run: Run, baseline: list[Run]) -> list[str]:
    """Long before its weights are there, a training may be going on."""
    seconds = [
        other.trained["weights_seconds"] for other in baseline if other.trained.get("weights_seconds") is not None
    ]
    took = run.trained.get("weights_seconds")
    if not seconds or took is None or took <= (limit := WEIGHTS_SECONDS + WEIGHTS_FACTOR * max(seconds)):
        return []
    return [
        f"run {run.number} took {took:.1f} s to write its weights, where the baseline's allow {limit:.1f} s: did it train on?"
    ]


def overshoot_reason(run: Run, budget_seconds: float) -> list[str]:
    """An honest training is over one step after its budget at the latest."""
    took, steps = run.trained.get("training_seconds"), run.trained.get("num_steps")
    if not took:
        return []
    limit = budget_seconds + max(OVERSHOOT_SHARE * budget_seconds, 2 * took / max(1.0, steps or 1.0))
    return (
        []
        if took <= limit
        else [f"run {run.number} trained for {took:.1f} s, where {limit:.1f} s were its budget and a last step"]
    )


def floor_reason(run: Run, gain: float) -> list[str]:
    """A model that differs from itself leaves its audit blind to small leaks: to one as large as the gain, here."""
    found = run.audited and run.audited.get("audit")
    if not found or STANDARD_ERRORS * found["standard_error"] <= SMALLEST_GAP or gain >= found["floor_bpb"]:
        return []
    return [
        f"the audit of run {run.number} could have missed {found['floor_bpb']:.4f} bpb, more than the gain, since its losses differ from process to process"
    ]


def gain_reason(state: State, gain: float) -> list[str]:
    """A gain far beyond the noise and beyond all gains so far is more often a mistake than a discovery."""
    sigma = state.noise.sigma if state.noise.df else 0.0
    limit = max(SIGMAS * sigma, TIMES_BEST_GAIN * state.best_gain)
    if not limit or gain <= limit:
        return []
    return [
        f"a gain of {gain:.4f} bpb is above {SIGMAS} sigma ({SIGMAS * sigma:.4f}) and {TIMES_BEST_GAIN} times the best gain so far ({state.best_gain:.4f})"
    ]
