"""What was asked of a night, and how much of it is done.

In: the command line's wishes and the journal. Out: whether another experiment fits, how long one takes, and the command that goes on.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from harness.lab.clock import wall_seconds
from harness.lab.journal import JournalReader
from harness.lab.records import parse_time
from harness.lab.settings import read_settings, results_folder

DEFAULT_HOURS = 8.0


@dataclass
class Night:
    """What was asked for. experiments: in all, 0 for the baseline alone; hours: 0 is no limit; neither is eight hours.

    proposer, model, llm: as notebook 03 takes them. again: the command that goes on, where it is not overnight.py's.
    """

    tag: str
    profile: str = "auto"
    hours: float = 0.0
    experiments: int | None = None
    source: str = ""
    overrides: str = ""
    device: str = "auto"
    results: str = ""
    cache: str = ""
    proposer: str = ""
    model: str = ""
    llm: str = ""
    again: str = ""
    started: float = field(default_factory=wall_seconds)
    _reader: JournalReader | None = None

    @property
    def folder(self) -> Path:
        return results_folder(self.results) / self.tag

    def entries(self) -> list[dict]:
        """The journal so far; only what is new is read from disk."""
        self._reader = self._reader or JournalReader(self.folder / "journal.jsonl")
        return self._reader.entries()

    def seconds_left(self) -> float:
        """Of the night's hours; infinite when only experiments are counted."""
        if self.experiments is not None and not self.hours:
            return float("inf")
        return 3600 * (self.hours or DEFAULT_HOURS) - (wall_seconds() - self.started)


def experiments_done(night: Night) -> int:
    """Experiments with a commit, the baseline not counted."""
    return sum(entry["event"] == "committed" and entry["experiment"] > 0 for entry in night.entries())


def enough(night: Night) -> bool:
    """True when the night's limits leave no room for another experiment."""
    if night.experiments is not None and experiments_done(night) >= night.experiments:
        return True
    return night.seconds_left() < seconds_per_experiment(night)


def seconds_per_experiment(night: Night) -> float:
    """Wall-clock of an experiment: the mean of the last ten, before the first the budget and what surrounds it."""
    ends = [parse_time(entry["time"]) for entry in night.entries() if entry["event"] == "committed"][-11:]
    gaps = [(after - before).total_seconds() for before, after in zip(ends, ends[1:], strict=False)]
    budget = read_settings(night.folder).budget_seconds
    gaps = [
        gap for gap in gaps if 0 <= gap < 20 * budget + 300
    ]  # a pause is no experiment, and less than nothing a clock that was set back
    return sum(gaps) / len(gaps) if gaps else 1.1 * budget + 15


def plan_words(night: Night) -> str:
    """What will be done, as said at the start."""
    done = experiments_done(night)
    if night.experiments == 0:
        return "none, the baseline was all that was asked for"
    goal = f"{night.experiments} in all" if night.experiments else f"for {night.hours or DEFAULT_HOURS:g} hours"
    begun = f", {done} already done" if done else ""
    return f"{goal}{begun}, about {seconds_per_experiment(night):.0f} s each"


def command_line(night: Night) -> str:
    """The command that goes on with this night."""
    if night.again:
        return night.again
    words = ["python3", "scripts/overnight.py", "--tag", night.tag]
    most = "" if night.experiments is None else str(night.experiments)
    wishes = {
        "--profile": night.profile if night.profile != "auto" else "", "--experiments": most, "--results": night.results,
        "--hours": f"{night.hours:g}" if night.hours else "", "--cache": night.cache, "--source": night.source,
        "--proposer": night.proposer, "--model": night.model,
    }  # fmt: skip
    words += [word for option, value in wishes.items() if value for word in (option, str(value))]
    words += [word for change in night.overrides.split() for word in ("--set", change)]
    words += [word for change in night.llm.split() for word in ("--llm", change)]
    return shlex.join(words)
