"""The runs of an experiment, carried out: training, scoring, the close look, and the trial of the best file after ideas that failed alike.

In: a Lab and the step that its journal asks for. Out: one more entry in the journal, and the run's files. What is to be done is never decided here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.ground.errors import Paused, ProfileError
from harness.ground.files import read_json, write_json_atomic
from harness.lab.kept_files import append_summary, drop_weights_of_run
from harness.lab.open_run import OpenRun
from harness.rules import fault
from harness.rules.next_step import Step
from harness.run import disk_space
from harness.run.locks import OnTheClock
from harness.run.settings import score_settings, training_request
from harness.run.state import Experiment, State, Training
from harness.sandbox.device import detect_device
from harness.sandbox.left_files import remove_tree
from harness.sandbox.request import WEIGHTS_SECONDS, TrainingRequest
from harness.sandbox.runner import run_training
from harness.sandbox.wall import find_wall
from harness.scoring.measure import Measurement

Listener = Callable[[dict], None]
WEIGHTS_SPARE = 10.0  # seconds for a machine that stalls, and
WEIGHTS_FACTOR = 4.0  # times what the baseline took to write its weights
SMOKE_STEPS, SMOKE_SECONDS = 3, 60.0  # optimizer steps of a smoke run; the real time that they may take
CONTROL_SECONDS = 10.0  # of training, at most, to see whether the best file still trains
FAULTS = 3  # runs in a row that fail for reasons outside of train.py before a night pauses


class Runs:
    """What a Lab does for one run at a time."""

    def __init__(self, lab: OpenRun) -> None:
        self.lab = lab
        # a model server that waits for the run in training
        self._waiting, self._server_a = contextlib.ExitStack(), None
        self._faults: list[str] = []  # causes, of runs in a row that failed for reasons outside of train.py

    def carry_out(self, step: Step, listen: Listener) -> None:
        """One of train, score and audit; nothing for other steps. Raises Paused where the machine fails again and again."""
        stages = {"train": self._train, "score": self._score, "audit": self._audit}
        if step.kind in stages:
            stages[step.kind](step, listen)
            self.pause_after_faults(self._fault(step))

    def end_waiting(self) -> None:
        """End the model server that was started with a training, if there is one."""
        self._waiting.close()
        self._server_a = None

    def control(self) -> None:
        """The last ideas failed alike: see whether the best file still trains and is scored; raise Paused when it does not.

        While it does not, nothing else is tried: whoever comes back looks again first.
        """
        lab = self.lab
        if unwell := lab.state.unwell:
            numbers, cause = unwell["suspects"], unwell["suspected"]
        else:
            suspects = fault.failed_alike(lab.state)
            numbers, cause = [e.number for e in suspects], suspects[-1].attempt.failure.cause
        result = self._try_again(lab.state.incumbent)
        facts = {"status": result["status"], "cause": result["cause"], "suspects": numbers, "suspected": cause}
        lab.journal.append("controlled", **facts)
        if result["status"] != "ok":
            raise Paused(
                f"experiments {numbers[0]} to {numbers[-1]} all ended with {cause!r}, and so does the best file so far, tried again: {result['status']}: "
                f"{result['cause']}. It is this machine or the harness, not the ideas, and they are not blamed"
            )

    def _try_again(self, experiment: Experiment) -> dict:
        """Train an experiment's file for a moment and score it, outside of its runs; return how that ended."""
        lab, folder = self.lab, self.lab.folder / "control"
        remove_tree(folder)
        last = experiment.attempt.own[-1].started
        request = self.request(lab.train_py(experiment), folder, last["seed"], last.get("device_batch_limit"))
        seconds = min(CONTROL_SECONDS, request.budget_seconds)
        result = run_training(dataclasses.replace(request, budget_seconds=seconds))
        if result["status"] == "ok":
            result = self.measurement(lab.train_py(experiment), folder).score(lambda share: None)
        remove_tree(folder)
        return result

    # --- the stages ----------------------------------------------------------------------------------------------------

    def _train(self, step: Step, listen: Listener) -> None:
        lab = self.lab
        request = self.request(
            lab.attempt_folder(*step.file) / "train.py", lab.folder_of(step), step.seed, step.device_batch_limit
        )
        if step.run_kind == "smoke":  # a few steps, by a clock that counts them, however long they take
            seconds = SMOKE_SECONDS / SMOKE_STEPS
            request = dataclasses.replace(request, budget_seconds=SMOKE_SECONDS, clock_step_seconds=seconds)
        context = {"experiment": step.experiment, "run": step.run, "run_kind": step.run_kind, "seed": step.seed}
        fewer = bool(lab.state.experiments[step.experiment].attempt.shrunk)  # than the attempt began with: for those who read line by line
        facts = {"kind": step.run_kind, "seed": step.seed, "device_batch_limit": step.device_batch_limit}
        facts |= {"beside": step.experiment} if step.of else {}
        note = partial(lab.note_run, step=step)
        self.train(request, self._measurement_of(step), context, listen, note, facts | {"fewer_rows": fewer})

    def train(
        self,
        request: TrainingRequest,
        measurement: Measurement,
        context: dict,
        listen: Listener,
        note: Callable[..., object],
        facts: dict,
    ) -> dict:
        """Train once, with a model server starting beside it. Return the fields of `trained`.

        context: what listeners are told of it. note: writes an entry of these fields; facts: those of `run_started`.
        """
        if words := disk_space.lacking(self.lab.folder):
            raise Paused(words)
        device, folder = self.lab.settings.device, Path(request.folder)
        context = {"stage": "training", **context, "budget_seconds": request.budget_seconds}
        note("run_started", **facts)
        listen(context)
        try:
            self._server_a = self._waiting.enter_context(measurement.started_early("val"))
            with OnTheClock(f"{device['kind']} {device['name']}", self.lab.folder) as clock:
                result = run_training(request, lambda event: listen(context | event))
        except BaseException as error:
            self.end_waiting()
            if isinstance(error, KeyboardInterrupt):
                note("trained", status="interrupted", cause="stopped by hand", log_bytes=0)
            raise
        result |= {"shared_with": clock.others}
        result |= self._blame_the_machine(result)
        write_json_atomic(folder / "result.json", result | {"val_bpb": None, "seed": context["seed"]})
        note("trained", **result, log_bytes=(folder / "run.log").stat().st_size)
        if result["status"] != "ok":
            self.end_waiting()
        listen(context | {"event": "over", "status": result["status"], "cause": result["cause"]})
        return result

    def _score(self, step: Step, listen: Listener) -> None:
        lab, folder, run = self.lab, self.lab.folder_of(step), self._run_of(step)
        context = {"experiment": step.experiment, "run": step.run, "run_kind": run.started["kind"]}
        fields = self.score(self._measurement_of(step), context, listen, smoke=run.started["kind"] == "smoke")
        result = read_json(folder / "result.json") | fields
        write_json_atomic(folder / "result.json", result)
        if fields["val_bpb"] is not None:
            append_summary(folder / "run.log", run.trained["log_bytes"], result)
        lab.note_run("scored", step, **fields)
        if run.started["kind"] == "refresh":
            drop_weights_of_run(folder)  # later audits compare with the runs that the incumbent was judged by
        tell_score(fields, context, listen)

    def score(self, measurement: Measurement, context: dict, listen: Listener, smoke: bool = False) -> dict:
        """Score the run that was trained last; return the fields of `scored`."""
        tell = share_teller({"stage": "scoring"} | context, listen)
        tell(0.0)
        try:
            score = measurement.try_out if smoke else partial(measurement.score, tell)
            fields = score(server_a=self._server_a)
        finally:
            self.end_waiting()
        return fields | self._blame_the_disk(fields)

    def _audit(self, step: Step, listen: Listener) -> None:
        """Look closely at a run of an idea that is about to be kept, and ask the private holdout."""
        context, folder = (
            {"stage": "auditing", "experiment": step.experiment, "run": step.run},
            self.lab.folder_of(step),
        )
        tell = share_teller(context, listen)
        tell(0.0)
        fields = self._measurement_of(step).audit(tell)
        write_json_atomic(folder / "result.json", read_json(folder / "result.json") | {"audited": fields})
        self.lab.note_run("audited", step, **fields)
        listen(context | {"event": "audited", "status": fields["status"], "cause": fields["cause"]})

    # --- what they need ------------------------------------------------------------------------------------------------

    def request(self, train_py: Path, folder: Path, seed: int, device_batch_limit: int | None) -> TrainingRequest:
        """Of a training of this run."""
        lab = self.lab
        return dataclasses.replace(
            training_request(lab.settings, lab.data, folder, train_py, seed, lab.folder.parent),
            compile_cache=str(lab.folder / "compile_cache"),
            device_batch_limit=device_batch_limit,
            weights_limit_seconds=weights_limit(lab.state),
        )

    def _measurement_of(self, step: Step) -> Measurement:
        """The run of a step, and those of the incumbent that it is compared with."""
        lab, rival = self.lab, self.lab.state.incumbent
        scored = [run.number for run in rival.attempt.scored] if rival else []
        theirs = lab.train_py(rival) if rival else None
        rivals = [self.measurement(theirs, theirs.parent / "runs" / f"{number:02d}") for number in scored]
        train_py = lab.attempt_folder(*step.file) / "train.py"
        return self.measurement(train_py, lab.folder_of(step), rivals)

    def measurement(self, train_py: Path, folder: Path, rivals: Sequence[Measurement] = ()) -> Measurement:
        """Of one run, and of those that it is compared with."""
        lab = self.lab
        settings = score_settings(lab.settings, lab.data, lab.folder.parent)
        return Measurement(settings, lab.data, lab.integrity, find_wall(), train_py, folder, rivals)

    # --- whose fault it was --------------------------------------------------------------------------------------------

    def _blame_the_machine(self, result: dict) -> dict:
        """What changes of a training's failure where the device is gone, or the disk has no room."""
        if result["status"] in ("crash", "timeout") and not self._device_is_there():
            said = f"the device is gone; the training said: {result['cause']}"
            return {"status": "infrastructure", "cause": said, "sure": True}
        return self._blame_the_disk(result)

    def _blame_the_disk(self, result: dict) -> dict:
        """What changes of a failure when the disk, which had room for the run before and has lost what the run itself took, has none now."""
        if result["status"] not in ("crash", "timeout") or not (words := disk_space.lacking(self.lab.folder)):
            return {}
        return {"status": "infrastructure", "cause": f"{words}; what failed said: {result['cause']}", "sure": True}

    def _device_is_there(self) -> bool:
        """Whether a card still answers as it did when the run began; a crash on a dead one is not the idea's fault."""
        device = self.lab.settings.device
        if device["kind"] == "cpu":
            return True
        try:
            return detect_device(again=True)["name"] == device["name"]
        except ProfileError:
            return False

    def _run_of(self, step: Step) -> Training:
        experiment, attempt = step.file
        return self.lab.state.experiments[experiment].attempts[attempt].runs[step.run]

    def _fault(self, step: Step) -> str | None:
        """See `pause_after_faults`."""
        run = self._run_of(step)
        if run.status is None:
            return None
        if run.status == "infrastructure" and (run.excused or step.experiment == 0):
            return run.cause
        if step.of and run.val_bpb is None:
            return f"the best file so far (experiment {step.of[0]}), trained again, ended with {run.status}: {run.cause}"
        if step.of and run.number not in [each.number for each in self.lab.state.rivals]:
            return f"the speed of the best file so far differs from run to run: {run.speed:.2f} steps/s in the newest"
        return ""

    def pause_after_faults(self, fault: str | None) -> None:
        """A fault of the machine repeats the run; several in a row are not bad luck. Counted here, so that who comes back tries again.

        fault: what a run that is over says against the machine, "" for nothing; None while it is not over. Raises Paused.
        """
        if fault:
            self._faults.append(fault)
        elif fault is not None:
            self._faults.clear()
        if len(self._faults) >= FAULTS:
            times, cause = len(self._faults), self._faults[-1]
            self._faults.clear()  # who comes back gets as many tries
            raise Paused(
                f"{times} runs in a row failed for reasons outside of train.py: {cause}. Mend that; nothing is lost"
            )


def share_teller(context: dict, listen: Listener) -> Callable[[float], None]:
    """What tells a listener how much of a stage is done."""
    return lambda share: listen(context | {"share": share})


def tell_score(fields: dict, context: dict, listen: Listener) -> None:
    """Tell a listener how a scoring ended."""
    listen({"stage": "scoring"} | context | {"event": "scored"} | {name: fields[name] for name in ("val_bpb", "status", "cause")})


def weights_limit(state: State) -> float:
    """Seconds from the end of a training to its weights: what the baseline took several times over, since whoever takes longer may be training on."""
    baseline = state.experiments[0].attempt.own if state.incumbent else []
    took = [run.trained["weights_seconds"] for run in baseline if run.trained and run.trained.get("weights_seconds")]
    return min(WEIGHTS_SECONDS, WEIGHTS_SPARE + WEIGHTS_FACTOR * max(took)) if took else WEIGHTS_SECONDS
