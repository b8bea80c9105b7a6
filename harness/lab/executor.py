"""Trains one train.py and scores what it learnt, on this machine. Whoever trains a file comes here.

In: a TrainingRequest, plain data: the file, its seed and its limits. Out: the training's result and
the score's fields, plain data too, and the files in the request's folder. Knows no journal and no
experiment. Says where the machine was to blame; raises nothing for what a train.py does.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.data.manifest import PreparedData
from harness.ground.errors import ProfileError
from harness.rules.quarantine import OTHER_PROCESSES_SECONDS
from harness.run import disk_space
from harness.run.locks import OnTheClock
from harness.run.settings import (
    Settings,
    device_to_ask_for,
    score_settings,
    training_request,
    wall_of,
)
from harness.sandbox.card_watch import CardWatch, why_disturbed
from harness.sandbox.compile_cache import local_folder
from harness.sandbox.device import detect_device
from harness.sandbox.request import TrainingRequest
from harness.sandbox.runner import run_training
from harness.scoring.integrity import Integrity
from harness.scoring.measure import Measurement, Progress
from harness.scoring.scorer import ServerJob

Listener = Callable[[dict], None]


def ignore(event: object) -> None:
    """A listener for whom nothing is of interest."""


def clock_name(device: dict) -> str:
    """Whose clock a training has: of two cards of one name each has its own."""
    return " ".join(filter(None, (device["kind"], device["name"], device.get("uuid"))))


class Executor:
    """Trains and scores under the settings of one run.

    folder: the run's; compiled: its compiled code; results: the folder of all runs.
    """

    def __init__(self, settings: Settings, data: PreparedData, folder: Path, results: Path) -> None:
        self.settings, self.data, self.folder, self.results = settings, data, folder, results
        self.compiled = local_folder(folder)
        self.integrity = Integrity(data, settings.harness_hash)
        self._waiting = contextlib.ExitStack()
        self._server: ServerJob | None = None

    def request(
        self, train_py: Path, folder: Path, seed: int, **limits: float | None
    ) -> TrainingRequest:
        """A training of train_py in a folder of its own. limits: what is not as in every run."""
        request = training_request(self.settings, self.data, folder, train_py, seed, self.results)
        cache = str(self.compiled) if self.settings.compile else None
        return dataclasses.replace(request, **{"compile_cache": cache} | limits)

    def train(
        self,
        request: TrainingRequest,
        listen: Listener = ignore,
        score_follows: bool = True,
        usual: dict | None = None,
    ) -> dict:
        """Train once and return the result.

        score_follows: a model server starts beside the training, and waits for `score`. usual: what
        the card did in the run's first training.
        """
        try:
            if score_follows:
                measurement = self.measurement(Path(request.train_py), Path(request.folder))
                self._server = self._waiting.enter_context(measurement.started_early("val"))
            result = self._run(request, listen, usual)
        except BaseException:
            self.end_waiting()
            raise
        result = self.judged(result)
        if result["status"] != "ok":
            self.end_waiting()
        return result

    def _run(self, request: TrainingRequest, listen: Listener, usual: dict | None) -> dict:
        """Train on the clock, with an eye on the card: one that was disturbed says nothing."""
        device, folder = self._device_now(), Path(request.folder)
        uuid = device.get("uuid", "") if device["kind"] == "cuda" else ""
        with OnTheClock(clock_name(device), self.folder) as clock, CardWatch(uuid, folder) as watch:

            def hear(event: dict) -> None:
                watch.hear(event)
                listen(event)

            result = run_training(request, hear) | {"shared_with": clock.others}
        if watch.facts:
            result |= {"card": watch.facts}
        if result["status"] == "ok" and (why := why_disturbed(watch.facts, usual)):
            (folder / "weights.safetensors").unlink(missing_ok=True)
            result |= {"status": "infrastructure", "cause": f"disturbed: {why}"}
            # Where other processes of its own were at work, they may have been those others.
            alone = result["other_processes_seconds"] <= OTHER_PROCESSES_SECONDS
            result |= {"disturbed": True, "sure": alone}
        return result

    def measurement(
        self, train_py: Path, folder: Path, rivals: Sequence[Measurement] = ()
    ) -> Measurement:
        """What measures a training. rivals: of the trainings that it is compared with."""
        how = score_settings(self.settings, self.data, self.results)
        wall = wall_of(self.settings)
        return Measurement(how, self.data, self.integrity, wall, train_py, folder, rivals)

    def score(
        self, measurement: Measurement, progress: Progress = ignore, smoke: bool = False
    ) -> dict:
        """Score what was trained last; of a smoke run, see whether it can be scored."""
        measure = measurement.try_out if smoke else partial(measurement.score, progress)
        try:
            fields = measure(self._server)
        finally:
            self.end_waiting()
        return self.judged(fields)

    def end_waiting(self) -> None:
        """End the model server that was started with a training, if there is one."""
        self._waiting.close()
        self._server = None

    def judged(self, fields: dict) -> dict:
        """How a training or measurement ended: a failure is the machine's where the card does not
        answer now, or the disk has no room.

        The disk had room before, and what the failed run itself took is gone again.
        """
        if fields.get("status") not in ("crash", "timeout"):
            return fields
        if not (words := self._why_device_is_gone() or disk_space.lacking(self.folder)):
            return fields
        cause = f"{words}; what failed said: {fields['cause']}"
        return fields | {"status": "infrastructure", "cause": cause, "sure": True}

    def _device_now(self) -> dict:
        """What trainings run on: of two cards of one name the one that is ours now."""
        device = self.settings.device
        return (
            device if device["kind"] == "cpu" else detect_device(device_to_ask_for(self.settings))
        )

    def _why_device_is_gone(self) -> str:
        """Return "" where a card still answers as it did when the run began."""
        device = self.settings.device
        if device["kind"] == "cpu":
            return ""
        try:
            now = detect_device(again=True)["name"]
        except ProfileError as error:
            return f"the card is gone: {error}"
        return "" if now == device["name"] else f"the card is gone: {now} is there instead"
