"""What a training says, made harmless and kept: its output as run.log, its events as events.jsonl.

In: bytes from the child's pipes, whatever they are. Out: two files of bounded size, without
terminal escapes, forged summary lines marked, each event stamped by our own clock on arrival. A
full disk costs lines of these files, never the training: what came is counted, and what it says is
still known.
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
EVENTS_CAP, EVENTS_CAP_BYTES, EVENT_CAP_BYTES = 20_000, 4_000_000, 4_096
# Steps that come at once and are written and told; an honest training sends one at a time.
STEPS_A_CHUNK = 50
EVENTS = ("launched", "open", "batch", "ready", "step", "stop", "finish", "failed")
STEP_NUMBERS = ("step", "progress", "train_loss", "tok_per_sec")
# fmt: off
SUMMARY_KEYS = (
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent",
    "total_tokens_M", "num_steps", "num_params_M", "depth",
)
# fmt: on
# % of the budget at which the loss is noted: trainings of other speed can be compared there.
MARKS = (10, 25, 50, 75, 100)
MARK_WIDTH = 5  # % before each over which it is averaged
STEP = re.compile(rb'"event"\s*:\s*"step"')
FORGED = re.compile(rf"^\s*(---|({'|'.join(SUMMARY_KEYS)})\s*:)")


class KeptLines:
    """A file of lines from a child, which takes text whole or not at all on a full disk."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("w+b", buffering=0)
        self._rest = b""  # the beginning of a line whose end has not come yet
        self._size = 0

    def _split(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines

    def _append(self, text: str) -> bool:
        """Write the text at the end; False, with the file as it was, when there is no room."""
        data = text.encode("utf-8", "replace")
        try:
            append_whole(self._file, data)
        except OSError:
            return False
        self._size += len(data)
        return True

    def close(self) -> None:
        with contextlib.closing(self._file):
            keep_ours(self._file, self._path)


class CappedLog(KeptLines):
    """run.log: text from the child, bounded, without escapes, lines like our summary marked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # What is left without escapes of the bytes that came may be nothing.
        self._taken = self._dropped = 0
        self.last_line = ""

    def feed(self, chunk: bytes) -> None:
        if self._is_full:  # a flood: no time of ours for it, the training's clock may be ticking
            self._dropped += len(self._rest) + len(chunk)
            self._rest = b""
            return
        lines = self._split(chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        if len(self._rest) > LINE_CAP_BYTES:  # a line without end
            lines.append(self._rest)
            self._rest = b""
        self._write(lines)

    @property
    def _is_full(self) -> bool:
        return max(self._taken, self._size) > LOG_CAP_BYTES

    def _write(self, lines: list[bytes]) -> None:
        """Write the lines of one chunk, all of them or none."""
        came = sum(map(len, lines)) + len(lines)
        self._taken += came
        texts = [without_escapes(line.decode("utf-8", errors="replace")) for line in lines]
        said = [text.strip() for text in texts if text.strip()]
        self.last_line = said[-1] if said else self.last_line
        marked = [f"| {text}\n" if FORGED.match(text) else f"{text}\n" for text in texts]
        if not self._append("".join(marked)):
            self._dropped += came

    def close(self) -> None:
        if self._rest and not self._is_full:
            self._write([self._rest])
        if self._dropped:
            self._append(f"[{self._dropped} more bytes of output were not kept]\n")
        super().close()


class LossCurve:
    """A training's loss at MARKS, each the mean over the MARK_WIDTH % of the budget before it."""

    def __init__(self) -> None:
        self._near: dict[int, list[float]] = {mark: [] for mark in MARKS}

    def add(self, step: dict) -> None:
        """Count an event of a step in."""
        for mark, losses in self._near.items():
            if mark - MARK_WIDTH < 100 * step["progress"] <= mark:
                losses.append(step["train_loss"])

    def at(self, mark: int) -> float | None:
        """The loss, nats; None while no step was reported near the mark."""
        losses = self._near[mark]
        return sum(losses) / len(losses) if losses else None


class EventLog(KeptLines):
    """events.jsonl: the session's events, each stamped with seconds since launch by our clock."""

    def __init__(self, path: Path, started: float, on_event: Callable[[dict], None]) -> None:
        super().__init__(path)
        self._started, self._on_event = started, on_event
        self._steps = 0
        self.last: dict[str, dict] = {}  # by event name
        self._curve = LossCurve()

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic() - self._started
        lines = self._split(chunk)
        self._rest = b"" if len(self._rest) > EVENT_CAP_BYTES else self._rest
        kept = []  # one write a chunk: a flood must not keep us from the clock
        for line in lines:
            event = self._take(line)
            if event is None:
                continue
            stamped = {"t": round(now, 4)} | event
            self.last[event["event"]] = stamped
            # `launched` is our own program's, before any of train.py runs: nothing to tell anybody.
            # Of a flood of steps most are counted, but told to nobody.
            is_flood = event["event"] == "step" and len(kept) >= STEPS_A_CHUNK
            if event["event"] != "launched" and not is_flood:
                kept.append(json.dumps(stamped, ensure_ascii=False) + "\n")
                self._on_event(stamped)
        if self._size < EVENTS_CAP_BYTES:
            self._append("".join(kept))

    def _take(self, line: bytes) -> dict | None:
        """The event of a line, counted; None for one that is none, or one too many."""
        flooded = self._steps >= EVENTS_CAP
        event = None if flooded and STEP.search(line) else parse_event(line)
        if event is None:
            return None
        if event["event"] != "step":  # a second `ready` or `stop` would be a way to move the clock
            return None if event["event"] in self.last else event
        if flooded:
            return None
        self._steps += 1
        self._curve.add(event)
        return event

    @property
    def losses(self) -> dict[str, float | None]:
        """The training loss, nats, at each of MARKS; None where no step was reported near it."""
        found = {mark: self._curve.at(mark) for mark in MARKS}
        return {str(mark): loss and round(loss, 4) for mark, loss in found.items()}

    def at(self, name: str) -> float | None:
        """Seconds since launch at which the event arrived, None if it has not."""
        return self.last[name]["t"] if name in self.last else None


def parse_event(line: bytes) -> dict | None:
    """Return the event in a line of the channel; None where the other end writes nonsense.

    What comes back can be written as JSON in UTF-8, and the numbers that we show of a step are
    numbers.
    """
    try:
        event = json.loads(line) if len(line) <= EVENT_CAP_BYTES else None
        if not isinstance(event, dict) or event.get("event") not in EVENTS:
            return None
        text = json.dumps(event, ensure_ascii=False, allow_nan=False)
        clean = json.loads(text.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if clean["event"] == "step" and any(number(clean.get(name)) is None for name in STEP_NUMBERS):
        return None
    return {key: value for key, value in clean.items() if key != "t"}


def number(value: object) -> float | None:
    """A finite number from an untrusted event, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if good else None
