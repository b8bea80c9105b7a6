"""How fast files were trained, and who else used the machine meanwhile.

In: a run's state, or `trained` entries of one file. Out: medians, and sentences for pages and
reports. Pure; standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.run.noise import SPEED_TOLERANCE
from harness.run.state import State, Training, counted_runs

SLOW = 0.05  # share of the baseline's time, from which on it is said
# Of a training's `card`, in the order of a line.
CARD_WORDS = {
    "sm_clock_mhz": "{:,.0f} MHz",
    "temperature_c": "{:.0f} °C at most",
    "memory_mb": "{:,.0f} MB in use",
    "slowed_share": "slowed down by heat or hardware {:.0%} of the time",
    "others_share": "others had {:.0%} of it",
    "waited_share": "its process waited for a core {:.0%} of the time",
    "energy_joules": "{:,.0f} J",
}


@dataclass(frozen=True)
class Pace:
    """Medians over the scored runs of one file, None where unknown.

    steps: optimizer steps of a training. tokens_per_second: of the clock, work on a CPU.
    others_cores: cores that others held meanwhile, on average, of those the training may use; None
    where the clock is wall time.
    """

    steps: float | None = None
    tokens_per_second: float | None = None
    others_cores: float | None = None


def pace_of(trained: Iterable[dict]) -> Pace:
    """The pace of one file, from `trained` entries of its runs."""
    runs = [entry for entry in trained if entry]
    return Pace(
        steps=known_median(run.get("num_steps") or None for run in runs),
        tokens_per_second=known_median(run.get("tok_per_sec") or None for run in runs),
        others_cores=known_median(map(others_cores, runs)),
    )


def known_median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def others_cores(trained: dict) -> float | None:
    """Cores that others held during a training, on average; None where nobody counted."""
    held, wall = trained.get("others_core_seconds"), trained.get("wall_seconds")
    return None if held is None or not wall else held / wall


def words_of_pace(pace: Pace) -> str:
    """Such as "214 steps, 17,462 tokens/s, others held 0.4 cores"; "" where nothing is known."""
    words = zip(
        ("{} steps", "{} tokens/s", "others held {} cores"), cells_of_pace(pace), strict=True
    )
    return ", ".join(each.format(cell) for each, cell in words if cell)


def cells_of_pace(pace: Pace) -> tuple[str, str, str]:
    """Steps, tokens/s, and cores held by others, for a row of a table."""
    steps = f"{pace.steps:,.0f}" if pace.steps else ""
    tokens = f"{pace.tokens_per_second:,.0f}" if pace.tokens_per_second else ""
    others = "" if pace.others_cores is None else f"{pace.others_cores:.1f}"
    return steps, tokens, others


def seconds_of_trainings(
    entries: Iterable[dict], trainings: int, budget_seconds: float, budgets: float = 1
) -> float:
    """Wall-clock of so many trainings of a close-out: each as the last ones of the night, scored on
    both texts. budgets: of the night's, that each gets."""
    runs = [entry for entry in entries if entry["event"] in ("trained", "scored")]
    # A run that only tried a file out has no score, and took a few steps.
    scored = {place_of(entry): entry["score_seconds"] for entry in runs if entry.get("val_bpb")}
    trained = [
        entry["total_seconds"]
        for entry in runs
        if entry["event"] == "trained" and place_of(entry) in scored
    ]
    if not trained:
        return trainings * (1.1 * budgets * budget_seconds + 20)
    around = 2 * statistics.mean(list(scored.values())[-6:])
    each = budgets * statistics.mean(trained[-6:]) + around
    return trainings * each


def place_of(entry: dict) -> tuple[int | None, ...]:
    """The training that an entry is of."""
    return tuple(entry.get(name) for name in ("experiment", "attempt", "run"))


def words_outside(trained: dict) -> str:
    """What a training took that its budget does not cover; "" where nothing of it is known."""
    parts = {
        "startup_seconds": "start-up",
        "overshoot_seconds": "beyond the budget",
        "weights_seconds": "from the stop until the weights were there",
    }
    return ", ".join(
        f"{max(0.0, trained[name]):.1f} s {words}"
        for name, words in parts.items()
        if trained.get(name) is not None
    )


def words_of_card(trainings: Iterable[dict]) -> str:
    """What the card did, by the medians of `trained` entries; "" where nobody watched one."""
    watched = [trained for trained in trainings if trained.get("card")]
    tokens = known_median(trained.get("total_tokens") for trained in watched)
    seen = {
        name: known_median(trained["card"].get(name) for trained in watched) for name in CARD_WORDS
    }
    words = [
        CARD_WORDS[name].format(value) for name, value in seen.items() if (value or 0) >= 0.005
    ]
    if tokens and (joules := seen["energy_joules"]):
        words.append(f"{1000 * joules / tokens:.3g} mJ a token")
    return ", ".join(words)


def say_usual(state: State) -> str:
    """What slowed the baseline's trainings down on a card already; "" where nothing did."""
    watched = [run.trained.get("card") or {} for run in state.experiments[0].attempt.scored]
    shares = {
        name: known_median(card.get(name) for card in watched)
        for name in ("slowed_share", "others_share", "waited_share")
    }
    words = [
        CARD_WORDS[name].format(value) for name, value in shares.items() if (value or 0) > SLOW
    ]
    if not words:
        return ""
    return (
        f"The card in the baseline's trainings: {', '.join(words)}. Ideas are compared at that "
        "speed; without it a night trains more (nvidia-smi -q -d PERFORMANCE says what slows the "
        "card down)"
    )


def say_speed(state: State, claim: Sequence[Training] = ()) -> str:
    """How much the machine changed its speed in this run, and what was done; "" while it did not.

    Speed is that of one file from training to training, since ideas change it, too. claim: the
    close-out's trainings, each of a file of the run.
    """
    files = [
        [run for run in attempt.trainings if ended_well(run)]
        for experiment in state.experiments
        for attempt in experiment.attempts
    ]
    with_claim = [
        [
            run
            for run in (*experiment.attempt.trainings, *claim)
            if ended_well(run) and run.started["experiment"] == experiment.number
        ]
        for experiment in state.experiments
        if experiment.attempts
    ]
    together = files + with_claim
    charged = max((spread(run.speed for run in runs) for runs in together), default=0.0)
    if charged > SPEED_TOLERANCE:
        turns = "The claim's runs took turns, so that best and baseline met the same machine."
        return (
            f"The speed of one file differed by up to {charged:.0%} between its trainings, since "
            "the machine was shared or throttled: end what else works on it, or begin a new tag "
            f"with a longer --budget-seconds. {what_was_done(files)} {turns if claim else ''}"
        ).rstrip()
    wall = max((spread(map(wall_speed, runs)) for runs in together), default=0.0)
    if wall > SPEED_TOLERANCE:
        return (
            f"The speed of one file differed by up to {wall:.0%} between its trainings, since "
            "others used the machine: the budget counts work and not wall time, so scores suffered "
            "little, and the night only took longer."
        )
    return ""


def ended_well(run: Training) -> bool:
    return bool(run.trained and run.trained["status"] == "ok")


def spread(values: Iterable[float | None]) -> float:
    known = [value for value in values if value]
    return max(known) / min(known) - 1 if known else 0.0


def wall_speed(run: Training) -> float | None:
    steps, wall = run.trained.get("num_steps"), run.trained.get("wall_seconds")
    return steps / wall if steps and wall else None


def what_was_done(files: Sequence[Sequence[Training]]) -> str:
    """What the lab did about trainings that the machine disturbed."""
    disturbed = 0
    for runs in files:
        scored = [run for run in runs if run.val_bpb is not None]
        disturbed += len(scored) - len(counted_runs(scored, math.nan))
    refreshed = sum(run.started["kind"] == "refresh" for runs in files for run in runs)
    again = "what is on the branch is trained again before each keep"
    if refreshed:
        times = f"{refreshed} time{'s' * (refreshed != 1)}"
        again = f"what was on the branch was trained again to compare with, {times}"
    if not disturbed:
        return f"{again[0].upper()}{again[1:]}."
    runs = f"{disturbed} run{'s' * (disturbed != 1)} off by more than {SPEED_TOLERANCE:.0%}"
    return f"{runs} did not count for the noise, nor as a score to beat, and {again}."
