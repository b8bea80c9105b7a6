"""The night's terminal: lines that stay, and one that is rewritten in place.

In: sentences. Out: the terminal and night.log, both with the time. A terminal that hangs up does
not end a night, and one that takes nothing (Ctrl-S, a connection that sleeps) does not hold it up:
a thread writes there, and what finds no room is in night.log alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path

from harness.ground.clock import utc_now
from harness.ground.files import append_whole
from harness.ground.text import one_line

MOST_WAITING = 200  # pieces of text for a terminal that takes none just now
LAST_SECONDS = 2.0  # for it to take the last of them


class Terminal:
    """Progress for a person: lines for what happened, and one line, rewritten in place, for what is
    happening.

    What is said may hold others' words (titles, causes): only what can be seen of them is written,
    and no escape. every_seconds: between two lines on what is happening, where none can be
    rewritten.
    """

    def __init__(self, log: Path, stream=None, every_seconds: float = 10.0) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.started, self.every_seconds = time.monotonic(), every_seconds
        self._log = log.open("ab", buffering=0)
        self._last = 0.0
        self._width = 0
        self._writer = start_writer(self.stream)

    def say(self, text: str) -> None:
        """A line that stays."""
        text = one_line(text)
        erased = "\r" + " " * self._width + "\r" if self._width else ""
        self._write(f"{erased}[{self._clock()}] {text}\n")
        self._width = 0
        with contextlib.suppress(OSError):  # a full disk: the loop will say so
            append_whole(self._log, f"{utc_now()} {text}\n".encode("utf-8", "replace"))

    def status(self, text: str) -> None:
        """Where things stand: rewritten in place on a terminal, now and then a line elsewhere."""
        text = one_line(text)
        if not self.live:
            if time.monotonic() - self._last >= self.every_seconds:
                self._last = time.monotonic()
                self._write(f"[{self._clock()}]   {text}\n")
            return
        line = f"[{self._clock()}] {text}"[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def _write(self, text: str) -> None:
        if self._writer:
            self._writer.put(text)
        else:
            self.stream.write(text)

    def _clock(self) -> str:
        """Time since the terminal was opened, as 1:02:03 or 2:03."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:2d}:{seconds:02d}"

    def close(self) -> None:
        if self._writer:
            self._writer.finish()
        self._log.close()


def start_writer(stream) -> Writer | None:
    """A thread for a stream that leads somewhere; None for one in memory, which holds nobody up."""
    try:
        stream.flush()  # what was printed before comes before
        return Writer(stream.fileno(), getattr(stream, "encoding", None) or "utf-8")
    except (OSError, AttributeError, io.UnsupportedOperation):
        return None


class Writer(threading.Thread):
    """Writes text to a file descriptor, as fast as that takes it, while others go on.

    What comes when MOST_WAITING pieces wait is left out.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__(daemon=True)
        self.descriptor, self.encoding = descriptor, encoding
        self.waiting: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self.start()

    def put(self, text: str) -> None:
        with contextlib.suppress(queue.Full):
            self.waiting.put_nowait(text.encode(self.encoding, "replace"))

    def run(self) -> None:
        while True:
            piece = self.waiting.get()
            with contextlib.suppress(OSError):  # the terminal hung up; night.log has it all
                while piece:
                    piece = piece[os.write(self.descriptor, piece) :]
            self.waiting.task_done()

    def finish(self) -> None:
        """Wait until all is written, but not for long."""
        until = time.monotonic() + LAST_SECONDS
        while self.waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)
