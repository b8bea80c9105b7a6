"""The state of a run, from its journal: experiments, their trainings, and what is on the branch.

In: entries, in order. Out: a State, to which further entries can be applied. Pure: no files, no
clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.run.noise import Noise, Prior, estimate_noise, noise_groups, which_count

# Runs of one attempt that end for a reason which only the training itself reports: so many count as
# a failure of the attempt. After as many that were disturbed on a card, nothing is known of it.
MOST_UNSURE = 3
# Runs of one attempt in which the harness was killed: after so many the attempt is taken to kill
# it.
MOST_CUT_OFF = 10
MOST_REPAIRS = 2  # further attempts of an experiment whose proposer can mend what failed
REPAIRERS = ("llm",)  # proposers that can
AGAIN = "try again"  # the operator of a proposal that is an earlier experiment's change
# A run that fails within these, start-up not counted, is repaired by its proposer if that can.
EARLY_SECONDS = 60.0
MENDED = ("crash", "oom", "nan", "timeout")  # statuses of runs that a repair may change
# Trainings of one attempt that may run out of memory before fewer rows are no longer tried: 256
# rows come down to 1.
MAX_SHRINKS = 8
NOT_HELD_AGAINST = ("infrastructure", "interrupted")  # statuses that say nothing about the idea


@dataclass
class Training:
    """One training of an attempt, by the journal's entries on it. Fields and folders call it a
    run."""

    started: dict
    place: int = 0  # how many trainings of the run came before it
    clock: float = 0.0  # and how many seconds these took
    trained: dict | None = None
    scored: dict | None = None
    audited: dict | None = None

    @property
    def number(self) -> int:
        return self.started["run"]

    @property
    def end(self) -> dict | None:
        """Its newest entry after the first."""
        return self.audited or self.scored or self.trained

    @property
    def status(self) -> str | None:
        """The run's final status, None while it is not over."""
        if self.end is None or (self.scored is None and self.end["status"] == "ok"):
            return None
        return self.end["status"]

    @property
    def cause(self) -> str:
        """Why the run failed, "" where it did not."""
        return (self.end or {}).get("cause") or ""

    @property
    def excused(self) -> bool:
        """Whether it ended for a reason outside of train.py that the harness itself saw."""
        return self.status in NOT_HELD_AGAINST and self.end.get("sure", True)

    @property
    def disturbed(self) -> bool:
        """Whether its card or host was disturbed too much for its score to say anything."""
        return bool(self.trained and self.trained.get("disturbed"))

    @property
    def speed(self) -> float | None:
        """Optimizer steps per charged second; None where that says nothing of the machine."""
        return self.trained.get("steps_per_second") if self.trained else None

    @property
    def others_share(self) -> float | None:
        """The share of others in the CPU time of the training's cores; None if not counted."""
        trained = self.trained or {}
        own, others = trained.get("core_seconds"), trained.get("others_core_seconds")
        counted = own is not None and others is not None and own + others > 0
        return others / (own + others) if counted else None

    @property
    def val_bpb(self) -> float | None:
        """The run's score; None unless every look at it so far found nothing against it."""
        return self.scored["val_bpb"] if self.scored and self.status == "ok" else None

    @property
    def doubts(self) -> list[str]:
        """What its audits found that a person should look at, where it is no proof of cheating."""
        entries = [entry for entry in (self.scored, self.audited) if entry]
        return [doubt for entry in entries for doubt in entry.get("doubts", [])]

    @property
    def fewer_rows(self) -> int | None:
        """Half the rows that a training held when it ran out of memory; None where it is not
        repeated with fewer.

        Each training reports how many rows it holds. One that does not report it, or holds more
        than it was allowed, is not repeated.
        """
        if self.trained is None or self.trained["status"] != "oom":
            return None
        rows, limit = self.trained.get("device_batch_size"), self.started.get("device_batch_limit")
        obeyed = rows and (limit is None or rows <= limit)
        return (rows // 2 or None) if obeyed else None


@dataclass
class Attempt:
    """One exact train.py of an experiment."""

    proposed: dict
    checked: dict | None = None
    runs: list[Training] = field(default_factory=list)

    @property
    def tried_out(self) -> bool:
        """Whether its smoke run has gone well, or none is needed."""
        passed = any(run.started["kind"] == "smoke" and run.status == "ok" for run in self.runs)
        return passed or not self.proposed.get("smoke")

    @property
    def again(self) -> int | None:
        """The experiment whose change it tries again."""
        return self.proposed["sources"][0] if self.proposed.get("operator") == AGAIN else None

    @property
    def own(self) -> list[Training]:
        """The runs that the attempt was judged by, without the refreshes that it got later as the
        incumbent."""
        return [run for run in self.runs if run.started["kind"] != "refresh"]

    @property
    def trainings(self) -> list[Training]:
        """All runs but the short ones that only try the file out."""
        return [run for run in self.runs if run.started["kind"] != "smoke"]

    @property
    def scored(self) -> list[Training]:
        """Those of its own runs that have a score."""
        return [run for run in self.own if run.val_bpb is not None]

    @property
    def scores(self) -> list[float]:
        return [run.val_bpb for run in self.scored]

    @property
    def times_scored(self) -> int:
        """How many seeds have given a score, also one that a later audit took back."""
        entries = [run.scored for run in self.own if run.scored]
        return sum(entry.get("val_bpb") is not None for entry in entries)

    @property
    def steady_scores(self) -> list[float]:
        """Those of runs that the machine did not disturb, by their speed."""
        return [run.val_bpb for run in counted_runs(self.own, math.nan)]

    @property
    def shrunk(self) -> list[Training]:
        """Trainings that ran out of memory and are repeated with fewer rows at once."""
        return [run for run in self.own if run.fewer_rows][:MAX_SHRINKS]

    @property
    def failure(self) -> Training | None:
        """The first run whose failure counts against the idea, or after which it is given up."""
        forgiven = [run.number for run in (*self.shrunk, *self.unsure[: MOST_UNSURE - 1])]
        for run in self.own:
            if run.status not in (None, "ok") and not run.excused and run.number not in forgiven:
                return run
        return self.fatal or self.inconclusive

    @property
    def inconclusive(self) -> Training | None:
        """The last of MOST_UNSURE disturbed runs; None while there are fewer."""
        disturbed = [run for run in self.own if run.disturbed]
        return disturbed[MOST_UNSURE - 1] if len(disturbed) >= MOST_UNSURE else None

    @property
    def fatal(self) -> Training | None:
        """The last of MOST_CUT_OFF runs in which the harness died; None while there are fewer."""
        cut_off = [run for run in self.own if run.trained and run.trained.get("cut_off")]
        return cut_off[MOST_CUT_OFF - 1] if len(cut_off) >= MOST_CUT_OFF else None

    @property
    def unsure(self) -> list[Training]:
        """Runs that ended for reasons outside of train.py which only the training itself
        reported."""
        return [run for run in self.own if run.status in NOT_HELD_AGAINST and not run.excused]


def counted_runs(runs: Sequence[Training], sigma: float) -> list[Training]:
    """The runs with a score that still count (see `which_count`): of one file, in order of time."""
    scored = [run for run in runs if run.val_bpb is not None]
    scores, speeds = [run.val_bpb for run in scored], [run.speed for run in scored]
    return [scored[index] for index in which_count(scores, speeds, sigma)]


@dataclass
class Experiment:
    """One idea: its attempts, and its decision and commit once they are made."""

    number: int
    attempts: list[Attempt] = field(default_factory=list)
    decided: dict | None = None
    committed: dict | None = None
    ruled: dict | None = None
    unrepaired: dict | None = None

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def mean(self) -> float | None:
        scores = self.attempt.scores if self.attempts else []
        return sum(scores) / len(scores) if scores else None

    @property
    def can_be_mended(self) -> bool:
        """Whether its proposer is asked for a further attempt: the last was refused or failed
        early."""
        if self.unrepaired or not self.number or len(self.attempts) > MOST_REPAIRS:
            return False
        if self.attempt.proposed.get("proposer") not in REPAIRERS or self.attempt.checked is None:
            return False
        return not self.attempt.checked["ok"] or failed_early(self.attempt)

    @property
    def commit(self) -> str | None:
        """Its commit on the branch: its own, or the one made when a person accepted it."""
        ruled, committed = self.ruled or {}, self.committed or {}
        return ruled.get("commit") or committed.get("commit")

    @property
    def in_quarantine(self) -> bool:
        """Whether it waits for a person to accept or refuse it."""
        return bool(self.decided and self.decided["decision"] == "quarantine" and not self.ruled)


def failed_early(attempt: Attempt) -> bool:
    """Whether the attempt's failure came in its smoke run, or within EARLY_SECONDS of training."""
    run = attempt.failure
    if run is None or run.status not in MENDED or run.trained is None:
        return False
    if run.started["kind"] == "smoke":
        return True
    trained = run.trained
    spent = (trained.get("total_seconds") or 0.0) - (trained.get("startup_seconds") or 0.0)
    return trained["status"] != "ok" and spent <= EARLY_SECONDS


@dataclass
class State:
    """A run as its journal tells it.

    kept: the baseline and the experiments kept, in the order in which they became the incumbent.
    controlled: seq of the newest `controlled` entry in which the best file trained well, 0 for
    none. excused: experiments that failed when the best file did not train either. unwell: the
    newest `controlled` entry in which the best file failed, None if there is none or something has
    been scored since. newest: time of the newest entry. trainings, trained_seconds: number of
    trainings and their total wall time. shared: seq of the newest training that shared its
    device with another run.
    """

    opened: dict | None = None
    experiments: list[Experiment] = field(default_factory=list)
    kept: list[Experiment] = field(default_factory=list)
    controlled: int = 0
    excused: set[int] = field(default_factory=set)
    unwell: dict | None = None
    newest: str = ""
    trainings: int = 0
    trained_seconds: float = 0.0
    shared: int = 0

    @property
    def incumbent(self) -> Experiment | None:
        """The experiment kept last, the baseline at first."""
        return self.kept[-1] if self.kept else None

    @property
    def rivals(self) -> list[Training]:
        """The incumbent's runs that an idea is compared with."""
        return counted_runs(self.incumbent.attempt.runs, self.noise.sigma)

    @property
    def smallest_gain(self) -> float | None:
        """The smallest gain that was kept so far, bits per byte; None before the first."""
        gains = [
            e.decided.get("gain") for e in self.kept if e.decided.get("kind") != "simplification"
        ]
        return min(filter(None, gains), default=None)

    @property
    def simplified(self) -> float:
        """What the simplifications kept so far may have lost together, bits per byte."""
        return sum(e.decided.get("loss_bound") or 0.0 for e in self.kept)

    @property
    def best_gain(self) -> float:
        """The largest gain that was kept so far, bits per byte; 0 before the first."""
        return max((e.decided.get("gain") or 0.0 for e in self.kept), default=0.0)

    @property
    def noise(self) -> Noise:
        """sigma of one run, from the baseline's seeds, confirmations, and the profile's prior."""
        prior = self.opened.get("prior") if self.opened else None
        baseline = self.experiments[0].attempt.steady_scores if self.experiments else []
        ideas = self.experiments[1:]
        decided = [a.steady_scores for idea in ideas if idea.decided for a in idea.attempts]
        in_flight = ideas and not ideas[-1].decided
        candidate = ideas[-1].attempt.steady_scores if in_flight else []
        groups = noise_groups(baseline, decided, candidate)
        return estimate_noise(groups, Prior(**prior) if prior else None)


def fold(entries: Iterable[dict]) -> State:
    """Return the state that a journal's entries lead to."""
    state = State()
    for entry in entries:
        apply_entry(state, entry)
    return state


def apply_entry(state: State, entry: dict) -> None:
    """Change the state as one further entry says."""
    event = entry["event"]
    state.newest = entry.get("time", "")
    if event == "opened":
        state.opened = entry
    elif event == "controlled" and entry["status"] == "ok":
        state.controlled, state.unwell = entry["seq"], None
    elif event == "controlled":
        state.excused |= set(entry["suspects"])
        state.unwell = entry
    elif event != "note":
        apply_to_experiment(state, entry)


def apply_to_experiment(state: State, entry: dict) -> None:
    """The same for an entry that names an experiment."""
    event, number = entry["event"], entry["experiment"]
    # More than one is new where lines are missing, which `--check` says.
    while len(state.experiments) <= number:
        state.experiments.append(Experiment(len(state.experiments)))
    experiment = state.experiments[number]
    if event == "proposed":
        experiment.attempts.append(Attempt(entry))
    elif event == "checked":
        experiment.attempt.checked = entry
    elif event == "run_started":
        training = Training(entry, state.trainings, state.trained_seconds)
        experiment.attempt.runs.append(training)
    elif event in ("trained", "scored", "audited"):
        setattr(experiment.attempt.runs[entry["run"]], event, entry)
    else:  # decided, committed, ruled or unrepaired
        setattr(experiment, event, entry)
    if event == "trained":
        state.trainings += 1
        state.trained_seconds += entry.get("total_seconds") or 0.0
        if entry.get("shared_with"):
            state.shared = entry["seq"]
    if event == "scored" and entry["status"] == "ok":
        state.unwell = None
    if entry.get("decision") in ("baseline", "keep") or entry.get("becomes_incumbent"):
        state.kept.append(experiment)
