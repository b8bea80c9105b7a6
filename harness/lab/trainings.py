"""The runs of an experiment, carried out: training, scoring, the close look; and the trial of the
best file after ideas that failed alike.

In: an open run and the step that its journal asks for. Out: one more entry in the journal, and the
run's files. What is to be done is never decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.ground.errors import Paused
from harness.ground.files import read_json, write_json_atomic
from harness.lab.executor import Listener
from harness.lab.kept_files import append_summary, drop_weights_of_run
from harness.lab.open_run import OpenRun
from harness.rules import fault
from harness.rules.next_step import Step
from harness.run import disk_space
from harness.run.state import Experiment, State, Training
from harness.sandbox.left_files import remove_tree
from harness.sandbox.request import WEIGHTS_SECONDS, TrainingRequest
from harness.scoring.measure import Measurement

# A baseline's weights took so long: others have that many times as long, and seconds to spare.
WEIGHTS_FACTOR, WEIGHTS_SPARE = 4.0, 10.0
# Of a smoke run: optimizer steps, and the real time that they may take.
SMOKE_STEPS, SMOKE_SECONDS = 3, 60.0
# Of training, at most, to see whether the best file still trains.
CONTROL_SECONDS = 10.0
# Runs in a row that fail for reasons outside of train.py before a night pauses.
FAULTS = 3

Teller = Callable[..., None]


class Runs:
    """What is done for one training at a time, and how often in a row the machine has failed."""

    def __init__(self, lab: OpenRun) -> None:
        self.lab, self.executor = lab, lab.executor
        self._faults: list[str] = []

    def carry_out(self, step: Step, listen: Listener) -> None:
        """One of train, score and audit. Raises Paused where the machine fails again and again."""
        stages = {"train": self._train, "score": self._score, "audit": self._audit}
        stages[step.kind](step, listen)
        self.pause_after_faults(self._fault(step))

    def control(self) -> None:
        """The last ideas failed alike: raise Paused where the best file fails too.

        While it does, nothing else is tried: whoever comes back looks again first.
        """
        lab = self.lab
        if unwell := lab.state.unwell:
            numbers, cause = unwell["suspects"], unwell["suspected"]
        else:
            suspects = fault.failed_alike(lab.state)
            numbers = [e.number for e in suspects]
            cause = suspects[-1].attempt.failure.cause
        result = self._try_again(lab.state.incumbent)
        facts = {"status": result["status"], "cause": result["cause"]}
        lab.journal.append("controlled", **facts, suspects=numbers, suspected=cause)
        if result["status"] != "ok":
            raise Paused(
                f"experiments {numbers[0]} to {numbers[-1]} all ended with {cause!r}, and so does "
                f"the best file so far, tried again: {result['status']}: {result['cause']}. It is "
                "this machine or the harness, not the ideas, and they are not blamed"
            )

    def _try_again(self, experiment: Experiment) -> dict:
        """Train an experiment's file for a moment and score it; return how that ended."""
        train_py, folder = self.lab.train_py(experiment), self.lab.folder / "control"
        remove_tree(folder)
        last = experiment.attempt.own[-1].started
        seconds = min(CONTROL_SECONDS, self.lab.settings.budget_seconds)
        request = self.request(
            train_py, folder, last["seed"], last.get("device_batch_limit"), budget_seconds=seconds
        )
        result = self.executor.train(request)
        if result["status"] == "ok":
            result = self.executor.score(self.executor.measurement(train_py, folder))
        remove_tree(folder)
        return result

    # --- the stages -----------------------------------------------------------------------------

    def _train(self, step: Step, listen: Listener) -> None:
        limits = {}
        if step.run_kind == "smoke":  # a few steps, by a clock that counts them, however long
            seconds = SMOKE_SECONDS / SMOKE_STEPS
            limits = {"budget_seconds": SMOKE_SECONDS, "clock_step_seconds": seconds}
        train_py, folder = self._train_py(step), self.lab.folder_of(step)
        request = self.request(train_py, folder, step.seed, step.device_batch_limit, **limits)
        context = {"experiment": step.experiment, "run": step.run, "run_kind": step.run_kind}
        attempt = self.lab.state.experiments[step.experiment].attempt
        facts = {"kind": step.run_kind, "seed": step.seed}
        facts |= {"device_batch_limit": step.device_batch_limit}
        facts |= {"beside": step.experiment} if step.of else {}
        facts |= {"fewer_rows": bool(attempt.shrunk)}  # for those who read line by line
        self.train(request, context, listen, partial(self.lab.note_run, step=step), facts)

    def train(
        self,
        request: TrainingRequest,
        context: dict,
        listen: Listener,
        note: Callable[..., object],
        facts: dict,
    ) -> dict:
        """Train once, and note when it began and how it ended. Return the fields of `trained`.

        context: what listeners are told of it. note: writes an entry to a journal; facts: the
        fields of its `run_started`.
        """
        if words := disk_space.lacking(self.lab.folder):
            raise Paused(words)
        context = context | {"seed": request.seed, "budget_seconds": request.budget_seconds}
        tell = make_teller(listen, "training", context)
        note("run_started", **facts)
        tell()
        try:
            result = self.executor.train(request, lambda event: tell(**event))
        except KeyboardInterrupt:
            note("trained", status="interrupted", cause="stopped by hand", log_bytes=0)
            raise
        folder = Path(request.folder)
        write_json_atomic(folder / "result.json", result | {"val_bpb": None, "seed": request.seed})
        note("trained", **result, log_bytes=(folder / "run.log").stat().st_size)
        tell(event="over", status=result["status"], cause=result["cause"])
        return result

    def _score(self, step: Step, listen: Listener) -> None:
        folder, run = self.lab.folder_of(step), self._run_of(step)
        kind = run.started["kind"]
        context = {"experiment": step.experiment, "run": step.run, "run_kind": kind}
        tell = make_teller(listen, "scoring", context)
        fields = self.score(self._measurement_of(step), tell, smoke=kind == "smoke")
        result = read_json(folder / "result.json") | fields
        write_json_atomic(folder / "result.json", result)
        if fields["val_bpb"] is not None:
            append_summary(folder / "run.log", run.trained["log_bytes"], result)
        self.lab.note_run("scored", step, **fields)
        if kind == "refresh":  # later audits compare with the runs that the incumbent was judged by
            drop_weights_of_run(folder)
        tell_score(fields, tell)

    def score(self, measurement: Measurement, tell: Teller, smoke: bool = False) -> dict:
        """Score the run that was trained last; return the fields of `scored`."""
        tell(share=0.0)
        return self.executor.score(measurement, lambda share: tell(share=share), smoke)

    def _audit(self, step: Step, listen: Listener) -> None:
        """Look closely at a run of an idea that may be kept, and ask the private holdout."""
        context = {"experiment": step.experiment, "run": step.run}
        tell, path = (
            make_teller(listen, "auditing", context),
            self.lab.folder_of(step) / "result.json",
        )
        tell(share=0.0)
        fields = self._measurement_of(step).audit(lambda share: tell(share=share))
        write_json_atomic(path, read_json(path) | {"audited": fields})
        self.lab.note_run("audited", step, **fields)
        tell(event="audited", status=fields["status"], cause=fields["cause"])

    # --- what they need -------------------------------------------------------------------------

    def request(
        self,
        train_py: Path,
        folder: Path,
        seed: int,
        device_batch_limit: int | None,
        **limits: float,
    ) -> TrainingRequest:
        """A training of this run, as the executor takes it. limits: as there."""
        limits |= {"device_batch_limit": device_batch_limit}
        limits |= {"weights_limit_seconds": weights_limit(self.lab.state)}
        return self.executor.request(train_py, folder, seed, **limits)

    def _train_py(self, step: Step) -> Path:
        return self.lab.attempt_folder(*step.file) / "train.py"

    def _run_of(self, step: Step) -> Training:
        experiment, attempt = step.file
        return self.lab.state.experiments[experiment].attempts[attempt].runs[step.run]

    def _measurement_of(self, step: Step) -> Measurement:
        """The run of a step, and those of the incumbent that it is compared with."""
        rival, rivals = self.lab.state.incumbent, []
        if rival:
            theirs = self.lab.train_py(rival)
            folders = [theirs.parent / "runs" / f"{run.number:02d}" for run in rival.attempt.scored]
            rivals = [self.executor.measurement(theirs, folder) for folder in folders]
        return self.executor.measurement(self._train_py(step), self.lab.folder_of(step), rivals)

    # --- whose fault it was ---------------------------------------------------------------------

    def _fault(self, step: Step) -> str | None:
        """What the run of a step says against the machine: see `pause_after_faults`."""
        run = self._run_of(step)
        if run.status is None:
            return None
        if run.status == "infrastructure" and (run.excused or step.experiment == 0):
            return run.cause
        if step.of and run.val_bpb is None:
            best = f"the best file so far (experiment {step.of[0]})"
            return f"{best}, trained again, ended with {run.status}: {run.cause}"
        if step.of and run.number not in [each.number for each in self.lab.state.rivals]:
            newest = f"{run.speed:.2f} steps/s in the newest"
            return f"the speed of the best file so far differs from run to run: {newest}"
        return ""

    def pause_after_faults(self, fault: str | None) -> None:
        """Raise Paused after several faults of the machine in a row: they are not bad luck.

        fault: what a run that is over says against the machine, "" for nothing; None while it is
        not over. Counted here and not in the journal, so that who comes back tries again.
        """
        if fault:
            self._faults.append(fault)
        elif fault is not None:
            self._faults.clear()
        if len(self._faults) >= FAULTS:
            self._faults.clear()  # who comes back gets as many tries
            raise Paused(
                f"{FAULTS} runs in a row failed for reasons outside of train.py: {fault}. "
                "Mend that; nothing is lost"
            )


def make_teller(listen: Listener, stage: str, context: dict) -> Teller:
    """What tells a listener, by fields, what happens to one training in one stage."""
    return lambda **facts: listen({"stage": stage} | context | facts)


def tell_score(fields: dict, tell: Teller) -> None:
    """Tell how a scoring ended."""
    tell(event="scored", **{name: fields[name] for name in ("val_bpb", "status", "cause")})


def weights_limit(state: State) -> float:
    """Seconds from the end of a training to its weights: who takes longer may be training on."""
    baseline = state.experiments[0].attempt.own if state.incumbent else []
    took = [(run.trained or {}).get("weights_seconds") or 0.0 for run in baseline]
    limit = WEIGHTS_SPARE + WEIGHTS_FACTOR * max(took, default=0.0)
    return min(WEIGHTS_SECONDS, limit) if any(took) else WEIGHTS_SECONDS
