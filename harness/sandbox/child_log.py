"""What a training says, made harmless before it is kept: its output as run.log, its events as events.jsonl.

In: bytes from the child's pipes, whatever they are. Out: two files of bounded size, without terminal escapes, forged summary lines marked, each event
stamped by our own clock on arrival. A full disk costs lines of these files, never the training: what came is counted, and what it says is still known.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from harness.ground.files import append_whole
from harness.ground.text import without_escapes
from harness.sandbox.left_files import keep_ours

LOG_CAP_BYTES, LINE_CAP_BYTES = 4_000_000, 65_536
EVENTS_CAP, EVENTS_CAP_BYTES = 20_000, 4_000_000
EVENT_CAP_BYTES = 4_096
STEPS_A_CHUNK = 50  # events of steps that come at once and are written and told; an honest training sends one at a time
EVENTS = ("launched", "open", "batch", "ready", "step", "stop", "finish", "failed")
STEP_NUMBERS = ("step", "progress", "train_loss", "tok_per_sec")
SUMMARY_KEYS = (
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps", "num_params_M", "depth",
)  # fmt: skip
MARKS = (
    10,
    25,
    50,
    75,
    100,
)  # % of the budget at which the loss is noted: trainings of other speed can be compared there
MARK_WIDTH = 5  # % before each over which it is averaged
STEP = re.compile(rb'"event"\s*:\s*"step"')
FORGED = re.compile(rf"^\s*(---|({'|'.join(SUMMARY_KEYS)})\s*:)")


class WholeLines:
    """A file that takes text whole or not at all: where the disk is full nothing of it stays."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("w+b", buffering=0)
        self.size = 0

    def append(self, text: str) -> bool:
        """Write the text at the end; False, with the file as it was, when there is no room."""
        data = text.encode("utf-8", "replace")
        try:
            append_whole(self._file, data)
        except OSError:
            return False
        self.size += len(data)
        return True

    def close(self) -> None:
        with contextlib.closing(self._file):
            keep_ours(self._file, self._path)


class CappedLog:
    """run.log: text from the child, escapes removed, lines that look like our summary marked, at most LOG_CAP_BYTES."""

    def __init__(self, path: Path) -> None:
        self._file = WholeLines(path)
        self._rest = b""
        self._taken = self.dropped_bytes = 0  # bytes that came: what is left of them without escapes may be nothing
        self.last_line = ""

    def feed(self, chunk: bytes) -> None:
        if self._is_full:  # a flood: no time of ours for it, the training's clock may be ticking
            self.dropped_bytes += len(self._rest) + len(chunk)
            self._rest = b""
            return
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > LINE_CAP_BYTES:  # a line without end
            lines.append(self._rest)
            self._rest = b""
        self._write(lines)

    @property
    def _is_full(self) -> bool:
        return max(self._taken, self._file.size) > LOG_CAP_BYTES

    def _write(self, lines: list[bytes]) -> None:
        """Write the lines of one chunk, all of them or none."""
        if not lines:
            return
        came = sum(map(len, lines)) + len(lines)
        self._taken += came
        texts = [without_escapes(line.decode("utf-8", errors="replace")) for line in lines]
        self.last_line = next((text.strip() for text in reversed(texts) if text.strip()), self.last_line)
        if not self._file.append("".join(f"| {text}\n" if FORGED.match(text) else f"{text}\n" for text in texts)):
            self.dropped_bytes += came

    def close(self) -> None:
        if self._rest and not self._is_full:
            self._write([self._rest])
        if self.dropped_bytes:
            self._file.append(f"[{self.dropped_bytes} more bytes of output were not kept]\n")
        self._file.close()


class EventLog:
    """events.jsonl: the session's events, each stamped with seconds since launch by our own clock."""

    def __init__(self, path: Path, started: float, on_event: Callable[[dict], None]) -> None:
        self._file = WholeLines(path)
        self._started, self._on_event = started, on_event
        self._rest, self._steps = b"", 0
        self.last: dict[str, dict] = {}  # by event name
        self._curve: dict[int, list[float]] = {mark: [] for mark in MARKS}

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic() - self._started
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = b"" if len(self._rest) > EVENT_CAP_BYTES else self._rest
        kept = []  # one write a chunk, of so many events: a flood must not keep us from the clock
        for line in lines:
            event = None if self._flooded and STEP.search(line) else parse_event(line)
            if event is None or (self._flooded if event["event"] == "step" else event["event"] in self.last):
                continue  # a second `ready` or `stop` would be a way to move the clock
            self._steps += event["event"] == "step"
            stamped = {"t": round(now, 4)} | event
            self.last[event["event"]] = stamped
            if event["event"] == "step":
                self._take_loss(100 * event["progress"], event["train_loss"])
            if event["event"] == "launched":  # our own program's, before any of train.py runs: nothing to tell anybody
                continue
            if event["event"] == "step" and len(kept) >= STEPS_A_CHUNK:
                continue  # counted, but told to nobody
            kept.append(json.dumps(stamped, ensure_ascii=False) + "\n")
            self._on_event(stamped)
        if kept and self._file.size < EVENTS_CAP_BYTES:
            self._file.append("".join(kept))

    def _take_loss(self, percent: float, loss: float) -> None:
        for mark, losses in self._curve.items():
            if mark - MARK_WIDTH < percent <= mark:
                losses.append(loss)

    @property
    def losses(self) -> dict[str, float | None]:
        """The training loss, nats, at each of MARKS; None where no step was reported near it."""
        return {str(mark): round(sum(v) / len(v), 4) if v else None for mark, v in self._curve.items()}

    @property
    def _flooded(self) -> bool:
        return self._steps >= EVENTS_CAP

    def at(self, name: str) -> float | None:
        """Seconds since launch at which the event arrived, None if it has not."""
        return self.last[name]["t"] if name in self.last else None

    def close(self) -> None:
        self._file.close()


def parse_event(line: bytes) -> dict | None:
    """Return the event in a line of the channel, or None for anything else: the other end may be writing nonsense.

    What comes back can be written as JSON in UTF-8, and the numbers that we show of a step are numbers.
    """
    try:
        event = json.loads(line) if len(line) <= EVENT_CAP_BYTES else None
        if not isinstance(event, dict) or event.get("event") not in EVENTS:
            return None
        clean = json.loads(json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if clean["event"] == "step" and any(number(clean.get(name)) is None for name in STEP_NUMBERS):
        return None
    return {key: value for key, value in clean.items() if key != "t"}


def number(value: object) -> float | None:
    """A finite number from an untrusted event, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if good else None
