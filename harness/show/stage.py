"""What a run does now, and how long that may take.

In: its settings, journal, and the events of the training in flight. Out: the newest event; seconds, and words for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from harness.rules.next_step import next_step
from harness.run.settings import Settings, score_limit_seconds
from harness.sandbox.request import WEIGHTS_SECONDS
from harness.sandbox.timekeeper import STARVED

# A large corpus on a slow disk.
PREPARE_SECONDS = 6 * 3600.0
# For everything that is neither training nor scoring: a kernel's start, a proposal, a commit.
START_SECONDS = 300.0


def last_event(folder: Path) -> dict:
    """The newest event of a run, {} when there is none yet."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def stage_limit(settings: Settings | None, entries: Sequence[dict], model_seconds: float = 0.0) -> tuple[float, str]:
    """Return (seconds the journal may stand still, what is being done). settings: None before the run is opened.

    model_seconds: what a language model may take for one proposal.
    """
    if not entries or settings is None:
        return PREPARE_SECONDS, "preparing data"
    if entries[-1]["event"] == "run_started":
        return training_limit(settings), "training"
    step = next_step(entries)
    if entries[-1]["event"] == "trained" or step.kind == "audit":
        return 2 * score_limit_seconds(settings) + 60, "scoring"
    if step.kind == "propose":
        return START_SECONDS + model_seconds, "a proposal"
    return START_SECONDS, f"what comes after {entries[-1]['event']}"


def training_limit(settings: Settings) -> float:
    """Seconds that one training may take in all, however busy the machine is."""
    budget = settings.budget_seconds * (STARVED if settings.core_rate else 1.05)
    return settings.profile["startup_limit_seconds"] + budget + WEIGHTS_SECONDS + 60

