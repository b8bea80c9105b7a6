"""What a run does now, and how long that may take: one vocabulary for all that is shown.

In: a run's state, and the newest event of the training in flight. Out: a Stage; seconds that the
journal may stand still.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.files import read_tail
from harness.rules.next_step import Step, step_after
from harness.run.run import Run
from harness.run.settings import Settings, score_limit_seconds
from harness.run.state import State, fold
from harness.sandbox.request import WEIGHTS_SECONDS
from harness.sandbox.timekeeper import STARVED

# A large corpus on a slow disk.
PREPARE_SECONDS = 6 * 3600.0
# For everything that is neither training nor scoring: a kernel's start, a proposal, a commit.
START_SECONDS = 300.0
NAMES = {
    "open": "preparing",
    "propose": "proposing",
    "control": "trying the best again",
    "check": "checking",
    "train": "starting",
    "in_flight": "training",
    "score": "scoring",
    "audit": "auditing",
    "decide": "deciding",
    "commit": "committing",
}


@dataclass(frozen=True)
class Stage:
    """name: of NAMES, or repairing, writing weights, claiming.

    experiment: in work; the next one's between two. title: its idea, "" before there is one.
    share: of the training in flight, 0 to 1; loss: its newest; both None where nothing is known.
    of_best: whether it trains the best file so far again, beside the experiment.
    """

    name: str
    experiment: int = 0
    title: str = ""
    share: float | None = None
    loss: float | None = None
    of_best: bool = False

    @property
    def words(self) -> str:
        """Such as "training 40%, loss 3.214"."""
        words = self.name
        if self.name == "training":
            words += " the best again" if self.of_best else ""
            words += f" {100 * self.share:.0f}%" if self.share is not None else ""
        return f"{words}, loss {self.loss:.3f}" if self.loss is not None else words


def stage_after(state: State, step: Step | None = None, event: dict | None = None) -> Stage:
    """The stage of a run that stands so.

    event: the newest of the training in flight, {} before its first, None where nobody looked.
    """
    step = step or step_after(state)
    begun = [each for each in state.experiments[step.experiment :] if each.attempts]
    title = begun[0].attempt.proposed.get("title") if begun else ""
    facts = {"experiment": step.experiment, "title": title or "", "of_best": step.of is not None}
    if step.kind == "propose" and step.attempt:
        return Stage("repairing", **facts)
    if step.kind != "in_flight" or event is None:
        return Stage(NAMES[step.kind], **facts)
    if event.get("event") == "step":
        share = round(float(event["progress"]), 4)
        return Stage("training", **facts, share=share, loss=event["train_loss"])
    if event.get("event") in ("stop", "finish"):
        return Stage("writing weights", **facts, share=1.0)
    return Stage("starting", **facts, share=0.0)


def stage_of(run: Run) -> Stage:
    """The stage of a run, with what its training says."""
    step, event = step_after(run.state), None
    if step.kind == "in_flight":
        event = last_event(run.training_folder(*step.file, step.run))
    return stage_after(run.state, step, event)


def in_flight(entries: Sequence[dict]) -> Stage | None:
    """The stage of the last experiment while it has no decision; None between experiments."""
    state = fold(entries)
    undecided = state.experiments and not state.experiments[-1].decided
    return stage_after(state) if undecided else None


def last_event(folder: Path) -> dict:
    """The newest event of a training, {} when there is none yet."""
    last = read_tail(folder / "events.jsonl", 4096).rstrip("\n").rpartition("\n")[2]
    try:
        return json.loads(last)
    except ValueError:
        return {}


def read_curve(folder: Path) -> list[tuple[float, float]]:
    """(progress 0 to 1, training loss in nats) of a training, by its events; [] without any."""
    path, points = folder / "events.jsonl", []
    if not path.exists():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            points.append((float(event["progress"]), float(event["train_loss"])))
        except (ValueError, KeyError, TypeError):
            continue  # another event, or a line that was cut off
    return points


def stage_limit(run: Run, model_seconds: float = 0.0) -> tuple[float, str]:
    """Return (seconds the journal may stand still, what is being done).

    model_seconds: what a language model may take for one proposal.
    """
    if not run.entries or not run.is_there:
        return PREPARE_SECONDS, NAMES["open"]
    step = step_after(run.state)
    seconds = START_SECONDS
    if step.kind in ("in_flight", "control"):
        seconds = training_limit(run.settings)
    elif step.kind in ("score", "audit"):
        seconds = 2 * score_limit_seconds(run.settings) + 60
    elif step.kind == "propose":
        seconds += model_seconds
    return seconds, NAMES[step.kind]


def training_limit(settings: Settings, budgets: float = 1) -> float:
    """Seconds that one training may take in all, however busy the machine is. budgets: of the
    night, that it gets."""
    budget = budgets * settings.budget_seconds * (STARVED if settings.core_rate else 1.05)
    return settings.profile["startup_limit_seconds"] + budget + WEIGHTS_SECONDS + 60
