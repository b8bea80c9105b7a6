"""The options that a night was started with, and how much of what they ask for is done.

In: the command line's options, called wishes here, and the journal. Out: whether another experiment
fits, how long one takes, and the command that continues the night. (What is asked of a night while
it runs is in `requests`.)
"""

from __future__ import annotations

import shlex
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import harness
from harness.ground.clock import wall_seconds
from harness.lab.close_out import OVER, is_wanted, read_close_out
from harness.rules.keep import CLAIM_SEEDS
from harness.run.pace import seconds_of_trainings
from harness.run.profiles import Profile
from harness.run.records import parse_time
from harness.run.run import Run
from harness.run.settings import results_folder
from harness.training.clock import busy_share

DEFAULT_HOURS = 8.0
CLOSE_OUT_HOURS = 2.0  # of --close-out, the claim included where it is not made yet
# For what is said before anything was measured: trainings of an experiment, with those of the
# incumbent beside it and confirmations; seconds around each training, for its start, its score and
# its page.
TRAININGS_EACH, SECONDS_AROUND = 1.5, 10.0
BUSY_CORES = 0.1  # of those at hand, held by others: from here on it is said
SHARE_LOST = 0.7  # of what others hold: the system gives a training some of that, too


@dataclass
class Wishes:
    """The options of a night.

    experiments: in all, 0 for the baseline alone, None for no limit. hours: 0 for no limit; without
    either limit it is eight hours. close_out: no more experiments, the claim and what follows it.
    proposer, model, llm: as notebook 03 takes them. again: the command that continues, where it is
    not overnight.py's.
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
    close_out: bool = False
    notify: str = ""
    notify_keeps: bool = False
    started: float = field(default_factory=wall_seconds)

    @property
    def folder(self) -> Path:
        return results_folder(self.results) / self.tag

    @cached_property
    def run(self) -> Run:
        """The run as it stands; only what is new is read from disk."""
        return Run(self.folder)

    def best_source(self) -> str:
        """The train.py that the next idea starts from."""
        best = self.run.state.incumbent
        path = self.run.train_py(best) if best else harness.REPOSITORY / "train_template.py"
        return path.read_text(encoding="utf-8")

    @property
    def command_line(self) -> str:
        """The command that goes on with this night."""
        if self.again:
            return self.again
        words = ["python3", "scripts/overnight.py", "--tag", self.tag]
        given = {
            "--profile": self.profile if self.profile != "auto" else "",
            "--device": self.device if self.device != "auto" else "",
            "--experiments": "" if self.experiments is None else str(self.experiments),
            "--results": self.results,
            "--hours": f"{self.hours:g}" if self.hours else "",
            "--cache": self.cache,
            "--source": self.source,
            "--proposer": self.proposer,
            "--model": self.model,
            "--notify": self.notify,
        }
        words += [word for option, value in given.items() if value for word in (option, value)]
        words += ["--close-out"] * self.close_out + ["--notify-keeps"] * self.notify_keeps
        words += [word for change in self.overrides.split() for word in ("--set", change)]
        words += [word for change in self.llm.split() for word in ("--llm", change)]
        return shlex.join(words)

    # --- how much of it is done -------------------------------------------------------------------

    @property
    def seconds_left(self) -> float:
        """Of the night's hours; infinite when only experiments are counted."""
        if self.experiments is not None and not self.hours and not self.close_out:
            return float("inf")
        return 3600 * self.most_hours - (wall_seconds() - self.started)

    @property
    def most_hours(self) -> float:
        """What the night may take."""
        return self.hours or (CLOSE_OUT_HOURS if self.close_out else DEFAULT_HOURS)

    @property
    def experiments_done(self) -> int:
        """Experiments with a commit, the baseline not counted."""
        return sum(bool(e.number and e.committed) for e in self.run.state.experiments)

    def is_enough(self) -> bool:
        """Whether the night's limits leave no room for another experiment and the claim.

        For the claim no more than half of its hours is kept.
        """
        if self.experiments is not None and self.experiments_done >= self.experiments:
            return True
        half = 3600 * self.most_hours / 2
        reserved = min(self.claim_seconds(2 * CLAIM_SEEDS), half)
        return self.seconds_left < self.seconds_per_experiment + reserved

    def is_all_done(self) -> bool:
        """Whether nothing is left of what was asked for, the claim included."""
        found = read_close_out(self.folder)
        measured = not is_wanted(self.run.state, found) and found.current.step in OVER
        return measured and (self.close_out or self.is_enough())

    @property
    def seconds_per_experiment(self) -> float:
        """Wall-clock of an experiment: the mean of the last ten, before the first the budget and
        what surrounds it."""
        committed = [entry for entry in self.run.entries if entry["event"] == "committed"]
        ends = [parse_time(entry["time"]) for entry in committed[-11:]]
        gaps = [(after - before).total_seconds() for before, after in pairwise(ends)]
        budget = self.run.settings.budget_seconds
        # a pause is no experiment, and less than nothing a clock that was set back
        gaps = [gap for gap in gaps if 0 <= gap < 20 * budget + 300]
        return statistics.mean(gaps) if gaps else 1.1 * budget + 15

    def claim_seconds(self, trainings: int) -> float:
        """Wall-clock of so many trainings of the claim."""
        budget = self.run.settings.budget_seconds
        return seconds_of_trainings(self.run.entries, trainings, budget)


def plan_words(wishes: Wishes) -> str:
    """What will be done, as said at the start."""
    if wishes.close_out:
        return "no more, the close-out was all that was asked for"
    if wishes.experiments == 0:
        return "none, the baseline was all that was asked for"
    goal = f"for {wishes.most_hours:g} hours"
    if wishes.experiments:
        goal = f"{wishes.experiments} in all"
    done = wishes.experiments_done
    begun = f", {done} already done" if done else ""
    each = f"about {wishes.seconds_per_experiment:.0f} s each, longer for what is promising"
    minutes = wishes.claim_seconds(2 * CLAIM_SEEDS) / 60
    return f"{goal}{begun}, {each}; then the claim, if anything is kept: {minutes:.0f} min"


def duration_words(profile: Profile, experiments: int) -> str:
    """How long so many experiments will take on this machine, the claim included, before anything
    was measured."""
    trainings = profile.baseline_seeds + TRAININGS_EACH * experiments + 2 * CLAIM_SEEDS
    trainings += profile.name == "demo"  # whose claim trains the template, too
    quiet = trainings * (profile.budget_seconds + SECONDS_AROUND) / 60
    words = f"this takes about {quiet:.0f} minutes on idle cores"
    share = busy_share()
    if share is None or share < BUSY_CORES:
        return words
    slower = quiet / (1 - SHARE_LOST * share)
    return f"{words}; others hold {share:.0%} of them now, so it will rather be {slower:.0f}"
