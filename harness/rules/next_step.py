"""What comes next in a run: the one pure function that driver, notebook and command line ask.

In: a journal's entries, or the state that they add up to. Out: a Step. The same entries give the same step, so that a kill at any moment loses at most the
run in flight. Nothing is read and nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.rules.fault import failed_alike
from harness.rules.keep import Shorter, Verdict, judge
from harness.run.state import Attempt, Experiment, State, fold

MOST_REPEATS = 3  # runs of a baseline that are made up for because the machine disturbed them
REFRESH_TRAININGS = 20  # since the incumbent's last one, after which it is trained again without being asked for: see keep_rule.md
LOAD_CHANGE = 0.2  # of the CPU time used: one busy process beside two threads is a third to a half of it, two are more
REFRESH_SEED = 500  # from here on count the seeds of the incumbent's runs beside an experiment
MOST_SEEDS = 4  # of a baseline whose first seeds contradict the profile's shipped noise


@dataclass(frozen=True)
class Step:
    """kind: open, propose, rule, control, check, train, in_flight, score, audit, decide or commit. run_kind, seed and device_batch_limit belong to `train`.

    of: (experiment, attempt) whose file is trained beside this experiment, None for its own.
    """

    kind: str
    experiment: int = 0
    attempt: int = 0
    run: int = 0
    run_kind: str = ""
    seed: int = 0
    device_batch_limit: int | None = None
    of: tuple[int, int] | None = None

    @property
    def file(self) -> tuple[int, int]:
        """(experiment, attempt) of the train.py that a run is of."""
        return self.of or (self.experiment, self.attempt)


def next_step(entries: Sequence[dict], words_wait: bool = False) -> Step:
    """Return what the journal asks for next. Pure: same entries, same step.

    `in_flight`: a training goes on. Who holds the run's lock and finds it knows that it died with its harness, and closes it; that costs the
    training and nothing else.
    """
    return step_after(fold(entries), words_wait)


def step_after(state: State, words_wait: bool = False) -> Step:
    """What comes next in a run that stands so.

    words_wait: a person's words on experiments in quarantine, which the journal does not know yet.
    """
    if state.opened is None:
        return Step("open")
    if not state.experiments:
        return Step("propose", 0)
    experiment = state.experiments[-1]
    if experiment.committed and words_wait:
        return Step("rule", experiment.number + 1)
    if experiment.committed:  # ideas that failed alike are no reason for another before the best file was tried
        suspicious = state.unwell or failed_alike(state)
        return Step("control" if suspicious else "propose", experiment.number + 1)
    if experiment.decided:
        return Step("commit", experiment.number)
    return next_in_attempt(state, experiment)


def next_in_attempt(state: State, experiment: Experiment) -> Step:
    """The next step of an experiment that is not decided yet."""
    attempt = experiment.attempt
    at = {"experiment": experiment.number, "attempt": len(experiment.attempts) - 1}
    if attempt.checked is None:
        return Step("check", **at)
    if experiment.can_be_mended:
        return Step("propose", experiment.number, len(experiment.attempts))
    if not attempt.checked["ok"]:
        return Step("decide", **at)
    if attempt.runs and attempt.runs[-1].status is None:
        run = attempt.runs[-1]
        return Step("score" if run.trained else "in_flight", **at, run=run.number)
    if experiment.number and (run := state.incumbent.attempt.runs[-1]).status is None:
        return Step("score" if run.trained else "in_flight", **at, run=run.number, of=last_attempt(state.incumbent))
    if experiment.number == 0:
        done = len(attempt.scores)
        if done < baseline_runs(state):
            seeds = state.opened["seeds"]
            return train_step(state, at, seeds[done] if done < len(seeds) else run_seed(state, 0, done), "score")
        return Step("decide", **at)
    if attempt.failure:
        return Step("decide", **at)
    if not attempt.tried_out:
        return train_step(state, at, run_seed(state, experiment.number, 0), "smoke")
    if not attempt.scores and is_due(state):
        return refresh_step(state, experiment, at)
    if not attempt.scores:
        return train_step(state, at, run_seed(state, experiment.number, attempt.times_scored), "score")
    found = verdict(state, experiment).decision
    if found == "confirm":
        return train_step(state, at, run_seed(state, experiment.number, attempt.times_scored), "confirm")
    if found == "refresh":
        return refresh_step(state, experiment, at)
    return (audit_step(attempt, at) if found == "keep" else None) or Step("decide", **at)


def baseline_runs(state: State) -> int:
    """How many runs the baseline gets: as many as were asked for, or MOST_SEEDS where they contradict the shipped noise; and one more for each that
    the machine disturbed, up to MOST_REPEATS.

    Without the prior two seeds are one degree of freedom, at which Student's quantile is 13 sigma: no idea could ever be kept.
    """
    asked = len(state.opened["seeds"])
    if not state.experiments or not state.experiments[0].attempts:
        return asked
    attempt = state.experiments[0].attempt
    disturbed = len(attempt.scores) - len(attempt.steady_scores)
    wanted = max(asked, MOST_SEEDS) if len(attempt.steady_scores) >= asked and state.noise.contradicted else asked
    return wanted + min(disturbed, MOST_REPEATS)


def audit_step(attempt: Attempt, at: dict) -> Step | None:
    """The first scored run of an attempt that nobody has looked at closely; None when all were."""
    waiting = [run.number for run in attempt.runs if run.val_bpb is not None and run.audited is None]
    return Step("audit", **at, run=waiting[0]) if waiting else None


def train_step(state: State, at: dict, seed: int, run_kind: str) -> Step:
    run, limit = len(state.experiments[-1].attempt.runs), device_batch_limit(state)
    return Step("train", **at, run=run, run_kind=run_kind, seed=seed, device_batch_limit=limit)


def refresh_step(state: State, experiment: Experiment, at: dict) -> Step:
    """Train the incumbent once more, beside an experiment that may replace it: on a fresh seed, as it ran before."""
    runs = state.incumbent.attempt.runs
    beside = sum(run.started.get("beside") == experiment.number for run in runs)
    seed = run_seed(state, experiment.number, REFRESH_SEED + beside)
    limit = state.incumbent.attempt.own[-1].started.get("device_batch_limit")
    return Step("train", **at, run=len(runs), run_kind="refresh", seed=seed, device_batch_limit=limit, of=last_attempt(state.incumbent))


def last_attempt(experiment: Experiment) -> tuple[int, int]:
    return experiment.number, len(experiment.attempts) - 1


def is_fresh(state: State, experiment: Experiment) -> bool:
    """Whether the incumbent has a run that counts from the experiment's time, as this kind of machine asks for it.

    `opened` says how old it may be, in seconds of training; at 0 it must have begun after the experiment's first scored run. Runs that were opened
    before there was such a rule ask for none. Nothing from before a disturbance is fresh, nor are the baseline's own seeds: before the first keep it is
    trained again.
    """
    allowed = state.opened.get("refresh_seconds")
    if allowed is None:
        return True
    newest, first = state.rivals[-1], next(run for run in experiment.attempt.own if run.val_bpb is not None)
    if newest.started["seq"] > first.started["seq"]:
        return True
    is_old = state.trained_seconds - newest.clock > allowed or newest.started["seq"] < state.disturbed
    return bool(allowed) and not is_old and (state.incumbent.number > 0 or newest.started["kind"] == "refresh")


def is_due(state: State) -> bool:
    """Whether the incumbent's last run is so old that the machine may have changed unnoticed: a load that came hides good ideas."""
    if state.opened.get("refresh_seconds") is None:
        return False
    return state.trainings - state.rivals[-1].place > REFRESH_TRAININGS


def device_batch_limit(state: State) -> int | None:
    """Rows that the newest attempt may hold at once: what its own trainings came down to, else what the incumbent ran with, else what the probe
    found when the run was opened; None for no limit.

    An idea that needed few rows and was discarded leaves no limit behind: those after it would be slower than the incumbent for no fault of theirs.
    """
    if shrunk := state.experiments[-1].attempt.shrunk:
        return shrunk[-1].fewer_rows
    if state.incumbent:
        return state.incumbent.attempt.own[-1].started.get("device_batch_limit")
    return state.opened.get("device_batch_limit")


def run_seed(state: State, experiment: int, score: int) -> int:
    """The seed of an experiment's n-th scored run: the harness's, fresh for each, never one of the baseline's."""
    return max(state.opened["seeds"]) + 1000 * experiment + score


def verdict(state: State, experiment: Experiment) -> Verdict:
    """Ask the keep rule about an experiment that has scores; where the machine is not as it was, the incumbent is trained again first."""
    lines = [e.attempt.proposed.get("code_lines") for e in (state.incumbent, experiment)]
    fewer = 0 if None in lines else lines[0] - lines[1]
    found = judge(
        experiment.attempt.scores,
        [run.val_bpb for run in state.rivals],
        state.noise,
        max_looks=state.opened.get("max_looks", 3),
        fresh=is_fresh(state, experiment),
        shorter=Shorter(fewer, state.smallest_gain, state.simplified),
    )
    if found.decision == "discard" and load_changed(state, experiment):
        words = f"{found.words}; but others use the machine otherwise than beside the incumbent: refresh"
        return replace(found, decision="refresh", kind="refresh", words=words)
    return found


def load_changed(state: State, experiment: Experiment) -> bool:
    """Whether others used much more or less of the cores beside the experiment's first run than beside the incumbent's newest, which is older.

    How much a second of CPU time does depends on who shares caches and memory: an idea that met a new load would be discarded for it.
    """
    if state.opened.get("refresh_seconds") is None:
        return False
    newest, first = state.rivals[-1], next(run for run in experiment.attempt.own if run.val_bpb is not None)
    if newest.started["seq"] > first.started["seq"] or None in (newest.others_share, first.others_share):
        return False
    return abs(newest.others_share - first.others_share) > LOAD_CHANGE
