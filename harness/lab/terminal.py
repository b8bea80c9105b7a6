"""The night's terminal: lines that stay, and one that is rewritten in place.

In: sentences. Out: the terminal and night.log, both with the time. A terminal that hangs up does not end a night.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

from harness.data.files import append_whole
from harness.data.text import one_line
from harness.lab.journal import now


class Terminal:
    """Progress for a person: lines for what happened, and one line, rewritten in place, for what is happening.

    What is said may hold others' words (titles, causes): only what can be seen of them is written, and no escape. every_seconds: between two lines on
    what is happening, where none can be rewritten.
    """

    def __init__(self, log: Path, stream=None, every_seconds: float = 10.0) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.started, self.every_seconds = time.monotonic(), every_seconds
        self._log = log.open("ab", buffering=0)
        self._last = 0.0
        self._width = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        stamp, text = clock(time.monotonic() - self.started), one_line(text)
        self._write("\r" + " " * self._width + "\r" if self._width else "", f"[{stamp}] {text}\n")
        self._width = 0
        with contextlib.suppress(OSError):  # a full disk: the journal has the facts, and the loop will say so
            append_whole(self._log, f"{now()} {text}\n".encode("utf-8", "replace"))

    def status(self, text: str) -> None:
        """Where things stand: rewritten in place on a terminal, now and then a line elsewhere."""
        text = one_line(text)
        if not self.live:
            if time.monotonic() - self._last >= self.every_seconds:
                self._last = time.monotonic()
                self._write("", f"[{clock(time.monotonic() - self.started)}]   {text}\n")
            return
        columns = shutil.get_terminal_size().columns
        line = f"[{clock(time.monotonic() - self.started)}] {text}"[: columns - 1]
        self._write("\r", line + " " * max(0, self._width - len(line)))
        self._width = len(line)

    def _write(self, before: str, text: str) -> None:
        try:
            self.stream.write(before + text)
            self.stream.flush()
        except OSError:  # the terminal hung up; the night goes on and night.log has it all
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            self.live = False

    def close(self) -> None:
        self._log.close()


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:2d}:{rest:02d}"
