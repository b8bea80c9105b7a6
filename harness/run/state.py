"""What a journal's entries add up to: experiments, their attempts and trainings, and what is on the branch.

In: entries, in order. Out: a State, which more entries may be added to. Pure: no files, no clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.run.noise import Noise, Prior, estimate_noise, noise_groups, standing

MOST_UNSURE = 3  # runs of one attempt that may end so by its own word; the last of them is held against it
MOST_CUT_OFF = 10  # runs of one attempt in which the harness itself was killed: then the attempt is what kills it
MOST_REPAIRS = 2  # further attempts of an experiment whose proposer can mend what failed
REPAIRERS = ("llm",)  # proposers that can
EARLY_SECONDS = 60.0  # of a run: what fails within them, start-up not counted, is mended, not given up
MENDED = ("crash", "oom", "nan", "timeout")  # statuses of runs that a repair may change
MAX_SHRINKS = 8  # trainings of one attempt that may run out of memory before fewer rows are no longer tried: 256 rows come down to 1
NOT_HELD_AGAINST = ("infrastructure", "interrupted")  # statuses of runs that say nothing about the idea


@dataclass
class Training:
    """One training of an attempt; the entries it may have so far."""

    started: dict
    place: int = 0  # how many trainings of this night were before it
    clock: float = 0.0  # and how many seconds they took
    trained: dict | None = None
    scored: dict | None = None
    audited: dict | None = None

    @property
    def number(self) -> int:
        return self.started["run"]

    @property
    def status(self) -> str | None:
        """The run's final status, None while it is not over."""
        if self.trained is None:
            return None
        if self.trained["status"] != "ok":
            return self.trained["status"]
        last = self.audited or self.scored
        return last["status"] if last else None

    @property
    def cause(self) -> str:
        """Why the run failed, "" where it did not."""
        return next(
            (entry["cause"] for entry in (self.audited, self.scored, self.trained) if entry and entry.get("cause")), ""
        )

    @property
    def excused(self) -> bool:
        """Ended for a reason that the harness itself saw, and that lies outside of train.py."""
        ends = (entry for entry in (self.audited, self.scored, self.trained) if entry and entry["status"] != "ok")
        return self.status in NOT_HELD_AGAINST and next(ends).get("sure", True)

    @property
    def speed(self) -> float | None:
        """Optimizer steps per charged second; None where that says nothing of the machine."""
        return self.trained.get("steps_per_second") if self.trained else None

    @property
    def others_share(self) -> float | None:
        """Of the CPU time that was used on the training's cores meanwhile, the share that others used; None where nobody counted."""
        own, others = ((self.trained or {}).get(name) for name in ("core_seconds", "others_core_seconds"))
        return None if own is None or others is None or not own + others else others / (own + others)

    @property
    def val_bpb(self) -> float | None:
        """The run's score; None unless every look at it so far found nothing against it."""
        return self.scored["val_bpb"] if self.scored and self.status == "ok" else None

    @property
    def doubts(self) -> list[str]:
        """What its audits found that a person should look at, short of cheating."""
        return [doubt for entry in (self.scored, self.audited) if entry for doubt in entry.get("doubts", [])]

    @property
    def fewer_rows(self) -> int | None:
        """Half the rows that a training held when it ran out of memory; None for any other end, and where fewer rows cannot help.

        Each training says itself how many rows it holds. One that does not say, or takes more than it was allowed, is not helped.
        """
        if self.trained is None or self.trained["status"] != "oom":
            return None
        rows, limit = self.trained.get("device_batch_size"), self.started.get("device_batch_limit")
        return rows // 2 or None if rows and (limit is None or rows <= limit) else None


@dataclass
class Attempt:
    """One exact train.py of an experiment."""

    proposed: dict
    checked: dict | None = None
    runs: list[Training] = field(default_factory=list)

    @property
    def tried_out(self) -> bool:
        """Whether a smoke run, where one is asked for, has gone well."""
        passed = any(run.started["kind"] == "smoke" and run.status == "ok" for run in self.runs)
        return passed or not self.proposed.get("smoke")

    @property
    def own(self) -> list[Training]:
        """The runs that the attempt was judged by; later ones, as the incumbent, are of another time."""
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
        """How many seeds have given a score, also one that a later look took back."""
        return sum(bool(run.scored and run.scored.get("val_bpb") is not None) for run in self.own)

    @property
    def steady_scores(self) -> list[float]:
        """Those of runs that the machine did not disturb, by their speed."""
        return [run.val_bpb for run in standing_runs(self.own, math.nan)]

    @property
    def shrunk(self) -> list[Training]:
        """Trainings that ran out of memory and are made up for by others that hold fewer rows at once."""
        return [run for run in self.own if run.fewer_rows][:MAX_SHRINKS]

    @property
    def failure(self) -> Training | None:
        """The first run whose failure is held against the idea."""
        forgiven = [run.number for run in self.shrunk] + [run.number for run in self.unsure[: MOST_UNSURE - 1]]
        failed = (run for run in self.own if run.status not in (None, "ok") and not run.excused)
        return next((run for run in failed if run.number not in forgiven), None) or self.fatal

    @property
    def fatal(self) -> Training | None:
        """The last of so many runs that ended with the death of the harness that it was no accident; None for fewer."""
        cut_off = [run for run in self.own if run.trained and run.trained.get("cut_off")]
        return cut_off[MOST_CUT_OFF - 1] if len(cut_off) >= MOST_CUT_OFF else None

    @property
    def unsure(self) -> list[Training]:
        """Runs that ended for reasons outside of train.py as far as only the training itself can tell."""
        return [run for run in self.own if run.status in NOT_HELD_AGAINST and not run.excused]


def standing_runs(runs: Sequence[Training], sigma: float) -> list[Training]:
    """The runs with a score that still count (see `keep.standing`): of one file, in order of time."""
    scored = [run for run in runs if run.val_bpb is not None]
    return [scored[index] for index in standing([r.val_bpb for r in scored], [r.speed for r in scored], sigma)]


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
        """Whether its proposer is asked for another attempt: the last one was refused, or failed in its smoke run or its first minute."""
        if self.unrepaired or not self.number or len(self.attempts) > MOST_REPAIRS:
            return False
        if self.attempt.proposed.get("proposer") not in REPAIRERS or self.attempt.checked is None:
            return False
        return not self.attempt.checked["ok"] or failed_early(self.attempt)

    @property
    def commit(self) -> str | None:
        """Where the branch stood when this was the incumbent: its own commit, or the one that a person's word made."""
        entry = self.ruled if self.ruled and self.ruled.get("commit") else self.committed
        return entry["commit"] if entry else None

    @property
    def in_quarantine(self) -> bool:
        """Waits for a person's word."""
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
    """A run as its journal tells it. kept: the baseline and what was kept, in the order in which it became the incumbent.

    newest: when the newest entry was written. trainings, trained_seconds: how many there were so far, and their wall time.
    disturbed: the newest entry that says that another run shared the device.
    controlled: the newest entry that shows that the best file still trains, 0 for none; excused: experiments that failed while it did not. unwell:
    the entry that says that it does not train, None where nothing says so or something has been scored since.
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
    disturbed: int = 0

    @property
    def incumbent(self) -> Experiment | None:
        """The experiment kept last, the baseline at first."""
        return self.kept[-1] if self.kept else None

    @property
    def rivals(self) -> list[Training]:
        """The incumbent's runs that an idea is compared with."""
        return standing_runs(self.incumbent.attempt.runs, self.noise.sigma)

    @property
    def smallest_gain(self) -> float | None:
        """The smallest gain that was kept so far, bits per byte; None before the first."""
        gains = [e.decided.get("gain") for e in self.kept if e.decided.get("kind") != "simplification"]
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
        decided = [attempt.steady_scores for e in self.experiments[1:] if e.decided for attempt in e.attempts]
        newest = self.experiments[-1] if len(self.experiments) > 1 else None
        candidate = newest.attempt.steady_scores if newest and not newest.decided else []
        return estimate_noise(noise_groups(baseline, decided, candidate), Prior(**prior) if prior else None)


def fold(entries: Iterable[dict]) -> State:
    """Add up a journal's entries."""
    state = State()
    for entry in entries:
        take_in(state, entry)
    return state


def take_in(state: State, entry: dict) -> None:
    """Add one more entry to what was added up."""
    event = entry["event"]
    state.newest = entry.get("time", "")
    if event == "opened":
        state.opened = entry
    if event == "controlled" and entry["status"] == "ok":
        state.controlled, state.unwell = entry["seq"], None
    elif event == "controlled":
        state.excused |= set(entry["suspects"])
        state.unwell = entry
    elif event == "scored" and entry["status"] == "ok":
        state.unwell = None
    if event in ("opened", "controlled", "note"):
        return
    if event == "trained":
        state.trainings += 1
        state.trained_seconds += entry.get("total_seconds") or 0.0
        state.disturbed = entry["seq"] if entry.get("shared_with") else state.disturbed
    while len(state.experiments) <= entry["experiment"]:  # more than one where lines are missing, which `--check` says
        state.experiments.append(Experiment(len(state.experiments)))
    experiment = state.experiments[entry["experiment"]]
    if event == "proposed":
        experiment.attempts.append(Attempt(entry))
    elif event == "checked":
        experiment.attempt.checked = entry
    elif event == "run_started":
        experiment.attempt.runs.append(Training(entry, state.trainings, state.trained_seconds))
    elif event in ("trained", "scored", "audited"):
        setattr(experiment.attempt.runs[entry["run"]], event, entry)
    elif event in ("decided", "committed", "ruled", "unrepaired"):
        setattr(experiment, event, entry)
    if entry.get("decision") in ("baseline", "keep") or (event == "ruled" and entry["becomes_incumbent"]):
        state.kept.append(experiment)


class GrowingState:
    """The state of entries that only grow: each look adds up what is new. One that became shorter is added up anew."""

    def __init__(self) -> None:
        self._state, self._taken = State(), 0

    def after(self, entries: Sequence[dict]) -> State:
        """What the entries add up to."""
        if len(entries) < self._taken:
            self._state, self._taken = State(), 0
        for entry in entries[self._taken :]:
            take_in(self._state, entry)
        self._taken = len(entries)
        return self._state
