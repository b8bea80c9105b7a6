"""How fast files were trained, and who else used the machine meanwhile.

In: a run's state, or `trained` entries of one file. Out: medians, and sentences for pages and reports. Pure;
standard library only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.run.noise import SPEED_TOLERANCE, standing
from harness.run.state import State, Training


@dataclass(frozen=True)
class Pace:
    """Medians over the scored runs of one file, None where unknown.

    steps: optimizer steps of a training. tokens_per_second: of the clock, work on a CPU. others_cores: cores that others
    held meanwhile, on average, of those the training may use; None where the clock is wall time.
    """

    steps: float | None = None
    tokens_per_second: float | None = None
    others_cores: float | None = None


def pace_of(trained: Iterable[dict]) -> Pace:
    """The pace of one file, from `trained` entries of its runs."""
    runs = [entry for entry in trained if entry]
    steps = [run["num_steps"] for run in runs if run.get("num_steps")]
    tokens = [run["tok_per_sec"] for run in runs if run.get("tok_per_sec")]
    others = [share for run in runs if (share := others_cores(run)) is not None]
    return Pace(*(statistics.median(values) if values else None for values in (steps, tokens, others)))


def others_cores(trained: dict) -> float | None:
    """Cores that others held during a training, on average; None where nobody counted."""
    held, wall = trained.get("others_core_seconds"), trained.get("wall_seconds")
    return None if held is None or not wall else held / wall


def words_of_pace(pace: Pace) -> str:
    """Such as "214 steps, 17,462 tokens/s, others held 0.4 cores"; "" where nothing is known."""
    words = [f"{pace.steps:,.0f} steps"] if pace.steps else []
    words += [f"{pace.tokens_per_second:,.0f} tokens/s"] if pace.tokens_per_second else []
    words += [f"others held {pace.others_cores:.1f} cores"] if pace.others_cores is not None else []
    return ", ".join(words)


def cells_of_pace(pace: Pace) -> tuple[str, str, str]:
    """Steps, tokens/s, and cores held by others, for a row of a table."""
    steps = f"{pace.steps:,.0f}" if pace.steps else ""
    tokens = f"{pace.tokens_per_second:,.0f}" if pace.tokens_per_second else ""
    return steps, tokens, "" if pace.others_cores is None else f"{pace.others_cores:.1f}"


def words_outside(trained: dict) -> str:
    """What a training took that its budget does not cover; "" where nothing of it is known."""
    parts = (
        ("startup_seconds", "start-up"),
        ("overshoot_seconds", "beyond the budget"),
        ("weights_seconds", "from the stop until the weights were there"),
    )
    known = [f"{max(0.0, trained[name]):.1f} s {words}" for name, words in parts if trained.get(name) is not None]
    return ", ".join(known)


def paces_of(state: State) -> dict[tuple[int, int], Pace]:
    """The pace of each (experiment, attempt), over the scored runs that it was judged by."""
    return {
        (experiment.number, number): pace_of(run.trained for run in attempt.scored)
        for experiment in state.experiments
        for number, attempt in enumerate(experiment.attempts)
    }


def say_speed(state: State, claim: Sequence[Training] = ()) -> str:
    """How much the machine changed its speed in this run, and what was done about it; "" while it did not.

    Speed is that of one file from training to training, since ideas change it, too. claim: trainings of the close-out,
    which are of files of the run.
    """
    files = [
        [run for run in attempt.trainings if _ended_well(run)]
        for experiment in state.experiments
        for attempt in experiment.attempts
    ]
    again = [
        [run for run in (*experiment.attempt.trainings, *claim) if _is_of(experiment.number, run) and _ended_well(run)]
        for experiment in state.experiments
        if experiment.attempts
    ]
    charged = max((_spread(map(_speed, runs)) for runs in files + again), default=0.0)
    if charged > SPEED_TOLERANCE:
        words = f"The speed of one file differed by up to {charged:.0%} between its trainings: the machine was shared or throttled."
        turns = " The claim's runs took turns, so that best and baseline met the same machine." if claim else ""
        return f"{words} {_what_was_done(state, files)}{turns}"
    wall = max((_spread(map(_wall_speed, runs)) for runs in files + again), default=0.0)
    if wall > SPEED_TOLERANCE:
        return (
            f"The speed of one file differed by up to {wall:.0%} between its trainings, since others used the machine. "
            "The budget counts work and not wall time, so slow trainings did as many steps as fast ones, and scores suffered little."
        )
    return ""


def _is_of(experiment: int, run: Training) -> bool:
    return run.started["experiment"] == experiment


def _ended_well(run: Training) -> bool:
    return bool(run.trained and run.trained["status"] == "ok")


def _spread(values: Iterable[float | None]) -> float:
    known = [value for value in values if value]
    return max(known) / min(known) - 1 if known else 0.0


def _speed(run: Training) -> float | None:
    """Of the clock that the budget is counted by. Older journals have tokens per second alone."""
    return run.trained.get("steps_per_second") or run.trained.get("tok_per_sec")


def _wall_speed(run: Training) -> float | None:
    steps, wall = run.trained.get("num_steps"), run.trained.get("wall_seconds")
    return steps / wall if steps and wall else None


def _what_was_done(state: State, files: Sequence[Sequence[Training]]) -> str:
    """What the lab did about trainings that the machine disturbed."""
    if not any(run.trained.get("steps_per_second") for runs in files for run in runs):
        return (
            "The budget was wall time, so slow trainings did fewer steps and scored worse. Nothing was done about that."
        )
    disturbed = 0
    for runs in files:
        scored = [run for run in runs if run.val_bpb is not None]
        speeds = [run.trained.get("steps_per_second") for run in scored]
        disturbed += len(scored) - len(standing([run.val_bpb for run in scored], speeds, float("nan")))
    runs = f"{disturbed} run{'s' * (disturbed != 1)} off by more than {SPEED_TOLERANCE:.0%}"
    done = [f"{runs} did not count for the noise, nor as a score to beat"] if disturbed else []
    refreshed = sum(run.started["kind"] == "refresh" for runs in files for run in runs)
    if refreshed:
        done.append(f"what was on the branch was trained again to compare with, {refreshed} time{'s' * (refreshed != 1)}")
    elif state.opened.get("refresh_seconds") is not None:
        done.append("what is on the branch is trained again before each keep")
    if not done:
        return "No run was off by so much that it did not count."
    words = " and ".join(done)
    return f"{words[0].upper()}{words[1:]}."
