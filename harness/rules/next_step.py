"""What comes next in a run: the one pure function that driver, notebook and command line ask.

In: a journal's entries, or the state that they lead to. Out: a Step. The same entries give the same
step, so a kill at any moment loses at most the training in flight. Nothing is read and nothing is
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.rules.fault import failed_alike
from harness.rules.keep import Shorter, Verdict, judge
from harness.run.state import Attempt, Experiment, State, fold

MOST_REPEATS = 3  # runs of a baseline that are repeated because the machine disturbed them
# After so many trainings since its last one the incumbent is trained again: see keep_rule.md.
REFRESH_TRAININGS = 20
# Change in others' share of the CPU time that is a change of load: one busy process beside two
# threads has a third to a half, two have more.
LOAD_CHANGE = 0.2
REFRESH_SEED = 500  # added to the seed of the incumbent's runs beside an experiment
MOST_SEEDS = 4  # of a baseline whose first seeds contradict the profile's shipped noise


@dataclass(frozen=True)
class Step:
    """kind: open, propose, rule, control, check, train, in_flight, score, audit, decide or commit.

    run_kind, seed and device_batch_limit belong to `train`. of: (experiment, attempt) whose file is
    trained beside this experiment, None for its own.
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


def next_step(entries: Sequence[dict], rulings_wait: bool = False) -> Step:
    """Return what the journal asks for next. Pure: same entries, same step.

    `in_flight`: a training is running. A process that finds this step after it took the run's lock
    knows that the training's harness has died, and closes the training as interrupted.
    """
    return step_after(fold(entries), rulings_wait)


def step_after(state: State, rulings_wait: bool = False) -> Step:
    """What comes next in a run with this state.

    rulings_wait: whether a person accepted or refused experiments in quarantine, and the journal
    does not know it yet.
    """
    if state.opened is None:
        return Step("open")
    if not state.experiments:
        return Step("propose", 0)
    experiment = state.experiments[-1]
    if experiment.committed and rulings_wait:
        return Step("rule", experiment.number + 1)
    if experiment.committed:
        # After several ideas that failed alike, first see whether the best file still trains.
        suspicious = state.unwell or failed_alike(state)
        return Step("control" if suspicious else "propose", experiment.number + 1)
    if experiment.decided:
        return Step("commit", experiment.number)
    return next_in_attempt(state, experiment)


def next_in_attempt(state: State, experiment: Experiment) -> Step:
    """The next step of an experiment that is not decided yet."""
    attempt, at = experiment.attempt, last_attempt(experiment)
    if attempt.checked is None:
        return Step("check", *at)
    if experiment.can_be_mended:
        return Step("propose", experiment.number, len(experiment.attempts))
    if not attempt.checked["ok"]:
        return Step("decide", *at)
    for owner in (experiment, *state.kept[-1:]):
        run = owner.attempt.runs[-1] if owner.attempt.runs else None
        if run and run.status is None:
            of = last_attempt(owner) if owner is not experiment else None
            return Step("score" if run.trained else "in_flight", *at, run.number, of=of)
    if experiment.number == 0:
        return next_of_baseline(state, attempt)
    if attempt.failure:
        return Step("decide", *at)
    if not attempt.tried_out:
        return train_step(state, run_seed(state, experiment.number, 0), "smoke")
    seed = run_seed(state, experiment.number, attempt.times_scored)
    if not attempt.scores:
        return refresh_step(state) if is_due(state) else train_step(state, seed, "score")
    found = verdict(state, experiment).decision
    if found == "confirm":
        return train_step(state, seed, "confirm")
    if found == "refresh":
        return refresh_step(state)
    unseen = [run.number for run in attempt.scored if run.audited is None]
    if found == "keep" and unseen:
        return Step("audit", *at, unseen[0])
    return Step("decide", *at)


def next_of_baseline(state: State, attempt: Attempt) -> Step:
    """Another training of the baseline on the next seed, or its decision."""
    seeds, done = state.opened["seeds"], len(attempt.scores)
    if done >= baseline_runs(state):
        return Step("decide")
    seed = seeds[done] if done < len(seeds) else run_seed(state, 0, done)
    return train_step(state, seed, "score")


def baseline_runs(state: State) -> int:
    """How many runs the baseline gets.

    As many as were asked for, or MOST_SEEDS where they contradict the profile's noise, and one more
    for each that the machine disturbed, up to MOST_REPEATS. If the prior is dropped, two seeds
    leave one degree of freedom, at which Student's quantile is 13 sigma: no idea could be kept.
    """
    asked = len(state.opened["seeds"])
    if not state.experiments or not state.experiments[0].attempts:
        return asked
    attempt = state.experiments[0].attempt
    steady = len(attempt.steady_scores)
    contradicted = steady >= asked and state.noise.contradicted
    wanted = max(asked, MOST_SEEDS) if contradicted else asked
    return wanted + min(len(attempt.scores) - steady, MOST_REPEATS)


def train_step(state: State, seed: int, run_kind: str) -> Step:
    """Train the newest experiment's file once more."""
    experiment = state.experiments[-1]
    run, limit = len(experiment.attempt.runs), device_batch_limit(state)
    return Step("train", *last_attempt(experiment), run, run_kind, seed, limit)


def refresh_step(state: State) -> Step:
    """Train the incumbent once more, beside the experiment that may replace it.

    On a fresh seed, as it ran before.
    """
    experiment, incumbent = state.experiments[-1], state.incumbent
    runs, limit = incumbent.attempt.runs, limit_of(incumbent)
    beside = sum(run.started.get("beside") == experiment.number for run in runs)
    seed = run_seed(state, experiment.number, REFRESH_SEED + beside)
    at, of = last_attempt(experiment), last_attempt(incumbent)
    return Step("train", *at, len(runs), "refresh", seed, limit, of)


def last_attempt(experiment: Experiment) -> tuple[int, int]:
    return experiment.number, len(experiment.attempts) - 1


def is_fresh(state: State, experiment: Experiment) -> bool:
    """Whether the incumbent has a counted run from about the time of the experiment's.

    `refresh_seconds` of the journal's `opened` says how old it may be, in seconds of training. At 0
    it must have begun after the experiment's first scored run; null asks for none. A run from
    before another run shared the device is not fresh. The baseline's first seeds are not either: at
    the first keep the baseline is trained again.
    """
    allowed = state.opened.get("refresh_seconds")
    if allowed is None:
        return True
    newest, first = state.rivals[-1], experiment.attempt.scored[0]
    if newest.started["seq"] > first.started["seq"]:
        return True
    too_old = state.trained_seconds - newest.clock > allowed
    if not allowed or too_old or newest.started["seq"] < state.shared:
        return False
    return state.incumbent.number > 0 or newest.started["kind"] == "refresh"


def is_due(state: State) -> bool:
    """Whether the incumbent's last run is so old that the machine may have changed unnoticed.

    If it became slower, good ideas would look bad.
    """
    if state.opened.get("refresh_seconds") is None:
        return False
    return state.trainings - state.rivals[-1].place > REFRESH_TRAININGS


def device_batch_limit(state: State) -> int | None:
    """Rows that the newest attempt may hold at once; None for no limit.

    If its own trainings ran out of memory, half of what the last one held; else the incumbent's
    limit; else what was found when the run was opened. An idea that needed few rows and was
    discarded does not limit those after it.
    """
    if shrunk := state.experiments[-1].attempt.shrunk:
        return shrunk[-1].fewer_rows
    if state.incumbent:
        return limit_of(state.incumbent)
    return state.opened.get("device_batch_limit")


def limit_of(experiment: Experiment) -> int | None:
    """Rows that its last run was allowed to hold at once."""
    return experiment.attempt.own[-1].started.get("device_batch_limit")


def run_seed(state: State, experiment: int, score: int) -> int:
    """The seed of an experiment's n-th scored run: fresh for each, never one of the baseline's."""
    return max(state.opened["seeds"]) + 1000 * experiment + score


def verdict(state: State, experiment: Experiment) -> Verdict:
    """Ask the keep rule about an experiment that has scores.

    It is not discarded under another load than the incumbent had: that is trained again first.
    """
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
        words = f"{found.words}; but others use the machine otherwise than beside the incumbent"
        return replace(found, decision="refresh", kind="refresh", words=f"{words}: refresh")
    return found


def load_changed(state: State, experiment: Experiment) -> bool:
    """Whether other programs used much more or less of the cores during the experiment's first run
    than during the incumbent's newest, which is older.

    How much a second of CPU time achieves depends on who shares caches and memory. Without this an
    idea could be discarded because of a load that the incumbent did not have.
    """
    if state.opened.get("refresh_seconds") is None:
        return False
    newest, first = state.rivals[-1], experiment.attempt.scored[0]
    shares = newest.others_share, first.others_share
    if newest.started["seq"] > first.started["seq"] or None in shares:
        return False
    return abs(shares[0] - shares[1]) > LOAD_CHANGE
