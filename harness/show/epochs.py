"""How often one training goes over its text, how many steps it takes, and what that means.

In: the baseline's runs, the prepared data. Out: passes, and sentences. The figure is measured:
before the baseline nobody knows the machine's tokens per second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.data.manifest import PreparedData
from harness.run.state import State
from harness.show.doubts import MANY_EPOCHS

FEW_STEPS = 300
LEAST_BUDGET = 60.0  # seconds; a shorter one is only for a look


def of_baseline(state: State, data: PreparedData) -> float | None:
    """Passes over the training rows in the baseline's longest run; None when no run said."""
    row_tokens = data.manifest["rows"]["train"] * data.max_seq_len
    return most_of_baseline(state, "total_tokens") / row_tokens or None


def most_of_baseline(state: State, name: str) -> int:
    """The largest of a figure among the baseline's trainings, 0 when none has it."""
    runs = state.experiments[0].attempt.runs
    return max((run.trained.get(name) or 0 for run in runs if run.trained), default=0)


def epochs_in_words(passes: float | None) -> str:
    """One or two sentences for the baseline's page."""
    if passes is None or passes > 1:
        return warning(passes)
    return f"One training goes over {passes:.0%} of the training text: it sees nothing twice."


def warning(passes: float | None) -> str:
    """What more than one pass means; "" when there is nothing to warn of."""
    if passes is None or passes <= 1:
        return ""
    found = f"One training goes over the training text {passes:.1f} times."
    if passes <= MANY_EPOCHS:
        return (
            f"{found} Up to about {MANY_EPOCHS} passes rank ideas much as fresh text would; "
            "smaller or faster models see it more often still. More text (climbmix with more "
            "shards, a larger folder) is better"
        )
    return (
        f"{found} Beyond about {MANY_EPOCHS} passes validation no longer ranks settings as fresh "
        "text would: what wins may win by not memorising. Take more text (--source climbmix, "
        "tinystories or folder:PATH, as a new tag) before you trust a night of this"
    )


def few_steps(state: State, profile: Mapping[str, Any]) -> str:
    """What it means that the baseline took few optimizer steps; "" where it took enough."""
    steps = most_of_baseline(state, "num_steps")
    if not steps or steps >= FEW_STEPS or profile["budget_seconds"] < LEAST_BUDGET:
        return ""
    next_smaller = {"large": "medium", "medium": "small"}.get(profile["name"])
    smaller = f"--profile {next_smaller}, or " if next_smaller else ""
    return (
        f"One training took {steps} optimizer steps, which is few for a schedule: its model is too "
        f"large for this machine. As a new tag, {smaller}a smaller TOTAL_BATCH_SIZE or DEPTH "
        "(--set) most likely finds more"
    )
