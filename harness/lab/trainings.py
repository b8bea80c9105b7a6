"""Carries out the trainings of an experiment: training, scoring, close audit. Also the control: a
trial of the best file after several ideas failed alike.

In: an open run and the step that its journal asks for. Out: one more entry in the journal, and the
training's files. What is to be done is decided elsewhere (`rules.next_step`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.ground.errors import EndedEarly, Paused
from harness.ground.files import read_json, write_json_atomic
from harness.lab.executor import Executor, Listener
from harness.lab.kept_files import append_summary, drop_weights_of_run
from harness.lab.open_run import OpenRun
from harness.rules.fault import failed_alike
from harness.rules.hopeless import hopeless_losses
from harness.rules.next_step import Step
from harness.run import disk_space
from harness.run.state import Experiment, State, Training
from harness.sandbox.child_log import STEP_NUMBERS, LossCurve
from harness.sandbox.compile_cache import promote
from harness.sandbox.left_files import remove_tree
from harness.sandbox.request import WEIGHTS_SECONDS
from harness.scoring.measure import Measurement

# A training may take so many times as long to write its weights as the baseline did, plus seconds.
WEIGHTS_FACTOR, WEIGHTS_SPARE = 4.0, 10.0
# Of a smoke run: optimizer steps, and the real time that they may take.
SMOKE_STEPS, SMOKE_SECONDS = 3, 60.0
# The longest training, in seconds, with which to see whether the best file still trains.
CONTROL_SECONDS = 10.0
# Runs in a row that fail for reasons outside of train.py before a night pauses.
FAULTS = 3


@dataclass(frozen=True)
class Job:
    """One training of one file. listen: gets what happens, each time with the fields of context;
    note: writes an entry into the journal; executor: trains and scores."""

    train_py: Path
    folder: Path
    seed: int
    context: dict
    listen: Listener
    note: Callable[..., object]
    executor: Executor

    def tell(self, stage: str, /, **facts: object) -> None:
        """Tell the listener what happens in a stage: training, scoring or auditing."""
        self.listen({"stage": stage, "seed": self.seed} | self.context | facts)

    def tell_score(self, fields: dict) -> None:
        """Tell how the scoring ended."""
        facts = {name: fields[name] for name in ("val_bpb", "status", "cause")}
        self.tell("scoring", event="scored", **facts)


class EarlyEnd:
    """A listener that passes on what it hears, and ends a training that is hopeless.

    losses: by % of the budget what is (see `hopeless_losses`).
    """

    def __init__(self, listen: Listener, losses: dict[int, float]) -> None:
        self._listen, self._left, self._curve = listen, dict(losses), LossCurve()

    def __call__(self, told: dict) -> None:
        self._listen(told)
        if told.get("event") != "step":
            return
        self._curve.add(told)
        for mark in [mark for mark in self._left if 100 * told["progress"] > mark]:
            limit, loss = self._left.pop(mark), self._curve.at(mark)
            if loss is not None and loss > limit:
                self._left.clear()
                raise EndedEarly(
                    f"at {mark}% of its budget the training loss was {loss:.3f}, above "
                    f"{limit:.3f}: too far behind the best file's"
                )


class Runs:
    """Carries out one training at a time; counts how often in a row the machine has failed."""

    def __init__(self, run: OpenRun) -> None:
        self.run = run
        self._faults = 0

    def carry_out(self, step: Step, listen: Listener) -> None:
        """One of train, score and audit. Raises Paused where the machine fails again and again."""
        stages = {"train": self._train, "score": self._score, "audit": self._audit}
        stages[step.kind](step, self._job(step, listen))
        training = self._training_of(step)
        if training.status is not None:
            self.pause_after_faults(self._fault(step, training))

    # --- the stages -------------------------------------------------------------------------------

    def _train(self, step: Step, job: Job) -> None:
        facts = {"kind": step.run_kind, "seed": step.seed}
        facts |= {"device_batch_limit": step.device_batch_limit}
        facts |= {"beside": step.experiment} if step.of else {}
        attempt = self.run.state.experiments[step.experiment].attempt
        facts |= {"fewer_rows": bool(attempt.shrunk)}  # for those who read line by line
        limits = {"device_batch_limit": step.device_batch_limit}
        if step.run_kind == "smoke":  # a few steps, by a clock that counts them, however long
            limits |= {"budget_seconds": SMOKE_SECONDS}
            limits |= {"clock_step_seconds": SMOKE_SECONDS / SMOKE_STEPS}
        if step.experiment and not step.of and step.run_kind != "smoke":
            nats = self.run.settings.profile.get("hopeless_nats") or 0.0
            losses = hopeless_losses(self.run.state, nats)
            job = replace(job, listen=EarlyEnd(job.listen, losses))
        result = self.train(job, facts, limits)
        compiles = self.run.settings.compile
        if compiles and step.experiment == 0 and result["status"] == "ok":  # the next ones are warm
            promote(self.run.executor.compiled, job.train_py)

    def train(self, job: Job, facts: dict, limits: dict) -> dict:
        """Train once, and note when it began and how it ended; return the fields of `trained`.

        facts: the fields of `run_started`; limits: as `Executor.request` takes them.
        """
        if words := disk_space.lacking(self.run.folder):
            raise Paused(words)
        limits = limits | {"weights_limit_seconds": weights_limit(self.run.state)}
        request = job.executor.request(job.train_py, job.folder, job.seed, **limits)
        tell = partial(job.tell, "training", budget_seconds=request.budget_seconds)
        job.note("run_started", **facts)
        tell()
        try:
            result = job.executor.train(
                request, lambda event: tell(**told_of(event)), usual=usual_card(self.run.state)
            )
        except KeyboardInterrupt:
            job.note("trained", status="interrupted", cause="stopped by hand", log_bytes=0)
            raise
        unscored = result | {"val_bpb": None, "seed": job.seed}
        write_json_atomic(job.folder / "result.json", unscored)
        job.note("trained", **result, log_bytes=(job.folder / "run.log").stat().st_size)
        tell(event="over", status=result["status"], cause=result["cause"])
        return result

    def _score(self, step: Step, job: Job) -> None:
        kind, path = job.context["run_kind"], job.folder / "result.json"
        fields = self.score(job, self._measurement_of(job), smoke=kind == "smoke")
        result = read_json(path) | fields
        write_json_atomic(path, result)
        if fields["val_bpb"] is not None:
            log_bytes = self._training_of(step).trained["log_bytes"]
            append_summary(job.folder / "run.log", log_bytes, result)
        job.note("scored", **fields)
        if kind == "refresh":  # audits compare with the runs that the incumbent was judged by
            drop_weights_of_run(job.folder)
        job.tell_score(fields)

    def score(self, job: Job, measurement: Measurement, smoke: bool = False) -> dict:
        """Score what was trained last; return the fields of `scored`."""
        job.tell("scoring", share=0.0)

        def progress(share: float) -> None:
            job.tell("scoring", share=share)

        return job.executor.score(measurement, progress, smoke)

    def _audit(self, step: Step, job: Job) -> None:
        """The close audit of one training of an idea that may be kept, on private text, too."""
        job.tell("auditing", share=0.0)
        measurement = self._measurement_of(job)
        looked = measurement.audit(lambda share: job.tell("auditing", share=share))
        fields = job.executor.judged(looked)
        path = job.folder / "result.json"
        write_json_atomic(path, read_json(path) | {"audited": fields})
        job.note("audited", **fields)
        job.tell("auditing", event="audited", status=fields["status"], cause=fields["cause"])

    # --- what they need ---------------------------------------------------------------------------

    def _job(self, step: Step, listen: Listener) -> Job:
        kind, seed = step.run_kind, step.seed
        if step.kind != "train":
            started = self._training_of(step).started
            kind, seed = started["kind"], started["seed"]
        return Job(
            train_py=self.run.attempt_folder(*step.file) / "train.py",
            folder=self.run.folder_of(step),
            seed=seed,
            context={"experiment": step.experiment, "run": step.run, "run_kind": kind},
            listen=listen,
            note=partial(self.run.note_run, step=step),
            executor=self.run.executor,
        )

    def _training_of(self, step: Step) -> Training:
        experiment, attempt = step.file
        return self.run.state.experiments[experiment].attempts[attempt].runs[step.run]

    def _measurement_of(self, job: Job) -> Measurement:
        """A training, and those of the incumbent that it is compared with."""
        return self.measurement_beside(job, self.run.state.incumbent)

    def measurement_beside(self, job: Job, rival: Experiment | None) -> Measurement:
        """What measures a training beside the scored runs of an experiment."""
        rivals = []
        if rival:
            theirs = self.run.train_py(rival)
            folders = [theirs.parent / "runs" / f"{run.number:02d}" for run in rival.attempt.scored]
            rivals = [job.executor.measurement(theirs, each) for each in folders]
        return job.executor.measurement(job.train_py, job.folder, rivals)

    # --- whose fault it was -----------------------------------------------------------------------

    def _fault(self, step: Step, training: Training) -> str:
        """Why a training that is over is the machine's fault, "" where it is not."""
        if training.disturbed and step.experiment and not step.of:
            return ""  # after a few of them the idea is given up
        excused = training.excused or step.experiment == 0
        if training.status == "infrastructure" and excused:
            return training.cause
        if step.of and training.val_bpb is None:
            best = f"the best file so far (experiment {step.of[0]})"
            return f"{best}, trained again, ended with {training.status}: {training.cause}"
        if step.of and training.number not in [each.number for each in self.run.state.rivals]:
            newest = f"{training.speed:.2f} steps/s in the newest"
            return f"the speed of the best file so far differs from run to run: {newest}"
        return ""

    def pause_after_faults(self, fault: str) -> None:
        """Raise Paused after several faults of the machine in a row.

        fault: of the training that is over, see `_fault`. Counted here and not in the journal, so
        that a night that is started again gets as many tries.
        """
        self._faults = self._faults + 1 if fault else 0
        if self._faults >= FAULTS:
            self._faults = 0
            raise Paused(
                f"{FAULTS} runs in a row failed for reasons outside of train.py: {fault}. "
                "Mend that; nothing is lost"
            )

    def control(self) -> None:
        """After ideas that failed alike, try the best file: raise Paused if it fails, too.

        As long as it fails, nothing else is tried; a night that is started again tries it first.
        """
        state = self.run.state
        if unwell := state.unwell:
            suspects = [state.experiments[number] for number in unwell["suspects"]]
        else:
            suspects = failed_alike(state)
        failure, numbers = suspects[-1].attempt.failure, [e.number for e in suspects]
        cause, budget = failure.cause, self.run.settings.budget_seconds
        # a whole budget where heat disturbed them: a card gets hot in minutes
        seconds = budget if failure.disturbed else min(CONTROL_SECONDS, budget)
        result = self._try_again(state.incumbent, seconds)
        status, why = result["status"], result["cause"]
        facts = {"status": status, "cause": why, "suspects": numbers, "suspected": cause}
        self.run.journal.append("controlled", **facts)
        if status != "ok":
            raise Paused(
                f"experiments {numbers[0]} to {numbers[-1]} all ended with {cause!r}, and so does "
                f"the best file so far, tried again: {status}: {why}. It is this machine or the "
                "harness, not the ideas, and they are not blamed"
            )

    def _try_again(self, experiment: Experiment, seconds: float) -> dict:
        """Train an experiment's file for so long and score it; return how that ended."""
        train_py, folder = self.run.train_py(experiment), self.run.folder / "control"
        remove_tree(folder)
        last = experiment.attempt.own[-1].started
        limits = {
            "device_batch_limit": last.get("device_batch_limit"),
            "budget_seconds": seconds,
            "weights_limit_seconds": weights_limit(self.run.state),
        }
        result = self.run.executor.train(
            self.run.executor.request(train_py, folder, last["seed"], **limits),
            usual=usual_card(self.run.state),
        )
        if result["status"] == "ok":
            result = self.run.executor.score(self.run.executor.measurement(train_py, folder))
        remove_tree(folder)
        return result


def told_of(event: dict) -> dict:
    """What a listener gets of a training's event: what is known of it, and no name of its own."""
    return {name: event[name] for name in ("event", *STEP_NUMBERS) if name in event}


def usual_card(state: State) -> dict | None:
    """What the card did in the run's first training that ended well; None before there is one."""
    ended = [run for run in state.experiments[0].attempt.own if run.status == "ok"]
    return ended[0].trained.get("card") if ended else None


def weights_limit(state: State) -> float:
    """The longest time, in seconds, from a training's end to its weights: one that takes longer
    may be training on."""
    baseline = state.experiments[0].attempt.own if state.incumbent else []
    took = [(run.trained or {}).get("weights_seconds") or 0.0 for run in baseline]
    limit = WEIGHTS_SPARE + WEIGHTS_FACTOR * max(took, default=0.0)
    return min(WEIGHTS_SECONDS, limit) if any(took) else WEIGHTS_SECONDS
