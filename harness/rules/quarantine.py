"""Whether a person must look at an experiment that the keep rule would keep.

In: the state, when an experiment would be kept. Out: the reasons, each a sentence, for signs that
prove nothing but that no honest training shows; without a reason the experiment is kept. Pure.

An experiment in quarantine is not the incumbent and costs the night nothing: `overnight.py --accept
N` or `--refuse N` says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.run.state import Attempt, Experiment, State, Training
from harness.scoring.audit import SMALLEST_GAP, STANDARD_ERRORS
from harness.search.bank.order import largest_known_gain

# A gain above all three is implausible: sigmas, times the best gain so far (the largest of 125 real
# ones elsewhere was 17 sigma), times the largest gain that the bank knows of on such a device.
SIGMAS, TIMES_BEST_GAIN, TIMES_KNOWN_GAIN = 30, 3, 1.5
# Of the baseline's slowest start-up of that kind; plus the larger of seconds and a share of the
# budget.
STARTUP_FACTOR, STARTUP_SECONDS, STARTUP_SHARE = 1.5, 2.0, 0.05
# Seconds of dynamo and AOT on one slow core, and more for each layer: a deep model compiles longer.
COMPILE_SECONDS, COMPILE_LAYER_SECONDS = 9.0, 1.85
# What a training may take beyond its budget and after its stop, together: share of the budget,
# seconds, steps of the baseline.
BEYOND_SHARE, BEYOND_SECONDS, BEYOND_STEPS = 0.02, 1.0, 2
# Share of the budget, seconds: memory that runs out later than both says something of how the
# training went. The end of a process is in it.
LATE_SHARE, LATE_SECONDS = 0.05, 2.0
# CPU time on the clock of processes besides the training's own.
OTHER_PROCESSES_SHARE, OTHER_PROCESSES_SECONDS = 0.01, 0.5
ON_EVERY_DISK = "python-stdlib"  # the source whose training text is part of the interpreter
PRIVATE_TEXTS = {
    "holdout": "the private holdout",
    "unseen": "text that no scoring process was shown",
}


def quarantine_reasons(
    state: State, experiment: Experiment, gain: float, budget_seconds: float
) -> list[str]:
    """Return why a person must look at a would-be keep, [] for no reason.

    gain: bits per byte, as the keep rule computed it.
    """
    runs = experiment.attempt.scored
    reasons = [doubt for run in runs for doubt in run.doubts]
    for run in runs:
        reasons += private_text_reason(run)
        reasons += floor_reason(run, gain)
        reasons += time_reasons(state, experiment.attempt, run, budget_seconds)
    # The smoke run's start-up, too, where the others begin with what it left in the compile cache.
    for run in (each for each in experiment.attempt.own if each.started["kind"] == "smoke"):
        left_something = run.status == "ok" and run.trained.get("compiled")
        if left_something and text_is_within_reach(state, run):
            limit = startup_limit(state, experiment.attempt, run, budget_seconds)
            reasons += startup_reason(run, limit)
    reasons += forgiven_reason(experiment.attempt, budget_seconds)
    reasons += gain_reason(state, gain)
    return list(dict.fromkeys(reasons))


def time_reasons(
    state: State,
    attempt: Attempt,
    run: Training,
    budget_seconds: float,
    beside: Sequence[Training] = (),
) -> Iterator[str]:
    """Reasons in the time that a training took outside of its budget, in a night or close-out.

    beside: trainings of the baseline after the night, of a machine that may be busier now.
    """
    baseline = [*state.experiments[0].attempt.scored, *beside]
    yield from other_processes_reason(run)
    yield from beyond_reason(run, baseline, budget_seconds)
    if text_is_within_reach(state, run):
        yield from startup_reason(run, startup_limit(state, attempt, run, budget_seconds, beside))


def text_is_within_reach(state: State, run: Training) -> bool:
    """Whether training text can be had before the clock starts.

    Elsewhere the rows come with the clock, and a long start-up buys nothing.
    """
    source = state.opened.get("source", ON_EVERY_DISK)
    return source == ON_EVERY_DISK or run.trained.get("wall", "limits") == "limits"


def startup_limit(
    state: State,
    attempt: Attempt,
    run: Training,
    budget_seconds: float,
    beside: Sequence[Training] = (),
) -> float:
    """The longest start-up, in seconds, that is taken for building and compiling alone.

    One that found all in its cache is compared with such ones, where the baseline has any.
    """
    baseline = state.experiments[0].attempt
    trained = [each.trained for each in (*baseline.scored, *beside)]
    anew = bool(run.trained.get("compiled"))
    alike = [each for each in trained if bool(each.get("compiled")) == anew] or trained
    longest = max((each.get("startup_seconds") or 0.0 for each in alike), default=0.0)
    factor = STARTUP_FACTOR * (compile_ratio(attempt, baseline) if anew else 1.0)
    return factor * longest + max(STARTUP_SECONDS, STARTUP_SHARE * budget_seconds)


def compile_ratio(attempt: Attempt, baseline: Attempt) -> float:
    """How much longer a file may compile than the baseline, by their layers; never less."""
    layers = [(each.proposed.get("constants") or {}).get("DEPTH") for each in (attempt, baseline)]
    if not all(isinstance(each, int) for each in layers):  # edited code need not have it
        return 1.0
    own, theirs = (COMPILE_SECONDS + COMPILE_LAYER_SECONDS * each for each in layers)
    return max(1.0, own / theirs)


def startup_reason(run: Training, limit: float) -> Iterator[str]:
    """A long start-up may be training that the clock does not see."""
    took = run.trained.get("startup_seconds") or 0.0
    if took > limit:
        yield (
            f"run {run.number} took {took:.1f} s before its clock started, where the baseline's "
            f"start-ups allow {limit:.1f} s: did it train before?"
        )


def beyond_limit(baseline: list[Training], budget_seconds: float) -> float:
    """Seconds beyond the budget and after the stop that an honest training may take.

    They are for a last step, and for writing its weights. Where the baseline itself took longer,
    its disk being slow, it is twice what that took.
    """
    trained = [run.trained for run in baseline]
    steps = [t["training_seconds"] / t["num_steps"] for t in trained if t.get("num_steps")]
    step = max(steps, default=0.0)
    limit = max(BEYOND_SHARE * budget_seconds, BEYOND_SECONDS, BEYOND_STEPS * step)
    taken = max(map(seconds_beyond, baseline), default=0.0)
    return limit if taken <= limit else 2 * taken


def seconds_beyond(run: Training) -> float:
    """What a run took beyond its budget, and from its stop until its weights were there."""
    overshoot = max(0.0, run.trained.get("overshoot_seconds") or 0.0)
    return overshoot + (run.trained.get("weights_seconds") or 0.0)


def beyond_reason(run: Training, baseline: list[Training], budget_seconds: float) -> Iterator[str]:
    """Time that the budget does not cover may be training that nobody counted.

    By the runner's clock, and the baseline's steps.
    """
    beyond, limit = seconds_beyond(run), beyond_limit(baseline, budget_seconds)
    if beyond > limit:
        yield (
            f"run {run.number} took {beyond:.1f} s beyond its budget and after its stop, where a "
            f"last step and writing weights may take {limit:.1f} s: did it train on?"
        )


def forgiven_reason(attempt: Attempt, budget_seconds: float) -> Iterator[str]:
    """A training that was repeated may have ended itself because it did not go well."""
    limit = max(LATE_SHARE * budget_seconds, LATE_SECONDS)
    late = [run for run in attempt.shrunk if (run.trained.get("spent_seconds") or 0.0) > limit]
    for run in (*attempt.unsure, *late):
        yield (
            f"run {run.number} was repeated after {run.status}, "
            f"which the training itself may have brought about: {run.cause}"
        )


def other_processes_reason(run: Training) -> Iterator[str]:
    """A training is one process. Others that it started may have worked for it unseen."""
    used = run.trained.get("other_processes_seconds") or 0.0
    share = OTHER_PROCESSES_SHARE * (run.trained.get("wall_seconds") or 0.0)
    if used > max(OTHER_PROCESSES_SECONDS, share):
        yield (
            f"processes that run {run.number} had started used {used:.1f} s of CPU time on its "
            "clock: what for?"
        )


def floor_reason(run: Training, gain: float) -> Iterator[str]:
    """Where a model's losses differ between processes, the audit could miss a leak as large as the
    gain."""
    audit = run.audited and run.audited.get("audit")
    unsteady = audit and STANDARD_ERRORS * audit["standard_error"] > SMALLEST_GAP
    if unsteady and gain < audit["floor_bpb"]:
        yield (
            f"the audit of run {run.number} could have missed {audit['floor_bpb']:.4f} bpb, more "
            "than the gain, since its losses differ from process to process"
        )


def private_text_reason(run: Training) -> Iterator[str]:
    """A gain that is not there on other text is fitted to the validation text, or looked up."""
    for name, text in PRIVATE_TEXTS.items():
        if run.audited and run.audited.get(name) == "disagrees":
            yield (
                f"what run {run.number} gained on validation text is missing on {text}: "
                "is it fitted, or was it looked up?"
            )


def gain_reason(state: State, gain: float) -> Iterator[str]:
    """A gain far beyond the noise and all gains so far is more often a mistake than a discovery."""
    sigma = state.noise.sigma if state.noise.df else 0.0
    known = largest_known_gain(state.opened.get("device_kind", ""))
    limit = max(SIGMAS * sigma, TIMES_BEST_GAIN * state.best_gain, TIMES_KNOWN_GAIN * known)
    if 0 < limit < gain:
        yield (
            f"a gain of {gain:.4f} bpb is implausible: above {SIGMAS} sigma "
            f"({SIGMAS * sigma:.4f}), {TIMES_BEST_GAIN} times the best gain so far "
            f"({state.best_gain:.4f}) and {TIMES_KNOWN_GAIN} times the largest that the bank "
            f"knows of here ({known:.4f})"
        )
