"""What a person asks of a night that may be running: to stop, and to accept or refuse an experiment
in quarantine.

In: signals, a run's folder. Out: a STOP file, or a ruling in rulings/; sentences on what was done.
"""

from __future__ import annotations

import signal
from pathlib import Path

from harness.ground.errors import BusyError
from harness.lab import ruling
from harness.lab.close_out import STOP_FILE
from harness.lab.loop import Lab
from harness.night.progress import finishing_words
from harness.night.terminal import Terminal
from harness.night.wishes import Wishes
from harness.run.locks import is_held


class StopNow(KeyboardInterrupt):
    """Stop at once: Ctrl-C for the second time, or SIGTERM."""


class Stopper:
    """Ctrl-C once: after this experiment. Twice, or SIGTERM: now. A STOP file: after this
    experiment, from anywhere."""

    def __init__(self, wishes: Wishes, terminal: Terminal) -> None:
        self.wishes, self.terminal = wishes, terminal
        self.file = wishes.folder / STOP_FILE
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        self.file.unlink(missing_ok=True)  # of another night, or of a `try`
        handlers = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._terminate}
        if hasattr(signal, "SIGHUP"):  # a closed SSH window does not end the night
            handlers[signal.SIGHUP] = signal.SIG_IGN
        for number, handler in handlers.items():
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is StopNow:
            return  # this process ends now, in good order, however often it is told to
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        if self.asked:
            self._terminate(number, frame)
        self.asked = True
        self.file.write_text("stop\n", encoding="utf-8")  # the claim looks between two trainings
        being_finished = finishing_words(self.wishes)
        self.terminal.say(
            f"stopping: {being_finished} is being finished first; Ctrl-C again stops at once"
        )

    def _terminate(self, number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise StopNow

    def is_wanted(self) -> bool:
        """True when no further experiment should begin."""
        return self.asked or self.file.exists()


def ask_to_stop(folder: Path) -> str:
    """Ask a running night to stop after its experiment; return what was done, in words."""
    if not is_held(folder, "night"):
        return f"no night runs on {folder.name}; nothing to stop"
    (folder / STOP_FILE).write_text("stop after this experiment\n", encoding="utf-8")
    return f"{folder.name} stops after the experiment in flight"


def rule(folder: Path, experiment: int, accept: bool) -> str:
    """Accept or refuse an experiment in quarantine, now if nobody works on the run; return what was
    done, in words. Raises RulingError."""
    ruling.request_ruling(folder, experiment, accept)
    try:
        with Lab(folder) as lab:
            lab.rule()
            found = lab.state.experiments[experiment]
    except BusyError:
        word = "accepted" if accept else "refused"
        when = "as soon as the experiment in flight is over"
        return f"noted: experiment {experiment} is {word} {when}"
    if found.ruled:
        return ruling.ruling_in_words(found)
    return f"noted: it takes effect once experiment {lab.step.experiment} is finished"
