"""What a training says, made harmless before it is kept: its output as run.log, its events as events.jsonl.

In: bytes from the child's pipes, whatever they are. Out: two files of bounded size, without terminal escapes, forged summary lines marked, each event
stamped by our own clock on arrival.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from harness.data.text import without_escapes
from harness.lab.untrusted_files import keep_ours

LOG_CAP_BYTES = 4_000_000
EVENTS_CAP = 20_000
EVENT_CAP_BYTES = 4_096
EVENTS = ("launched", "open", "batch", "ready", "step", "stop", "finish", "failed")
STEP_NUMBERS = ("step", "progress", "train_loss", "tok_per_sec")
SUMMARY_KEYS = (
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps", "num_params_M", "depth",
)  # fmt: skip
FORGED = re.compile(rf"^\s*(---|({'|'.join(SUMMARY_KEYS)})\s*:)")


class CappedLog:
    """run.log: text from the child, escapes removed, lines that look like our summary marked, at most LOG_CAP_BYTES."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("w+", encoding="utf-8")
        self._rest = b""
        self._written = self.dropped_bytes = 0
        self.last_line = ""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._rest) > 65_536:  # a line without end
            self._write(self._rest)
            self._rest = b""

    def _write(self, line: bytes) -> None:
        if self._written > LOG_CAP_BYTES:
            self.dropped_bytes += len(line) + 1
            return
        text = without_escapes(line.decode("utf-8", errors="replace"))
        self.last_line = text.strip() or self.last_line
        text = f"| {text}" if FORGED.match(text) else text
        self._written += self._file.write(text + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._rest:
            self._write(self._rest)
        if self.dropped_bytes:
            self._file.write(f"[{self.dropped_bytes} more bytes of output were not kept]\n")
        keep_ours(self._file, self._path)
        self._file.close()


class EventLog:
    """events.jsonl: the session's events, each stamped with seconds since launch by our own clock."""

    def __init__(self, path: Path, started: float, on_event: Callable[[dict], None]) -> None:
        self._path, self._file = path, path.open("w+", encoding="utf-8")
        self._started, self._on_event = started, on_event
        self._rest, self._count = b"", 0
        self.last: dict[str, dict] = {}  # by event name
        self.slowest: float | None = None  # the longest time between two steps' reports, seconds

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic() - self._started
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = b"" if len(self._rest) > EVENT_CAP_BYTES else self._rest
        for line in lines:
            event = parse_event(line)
            if event is None or (event["event"] in self.last and event["event"] != "step"):
                continue  # a second `ready` or `stop` would be a way to move the clock
            self._count += 1
            if self._count > EVENTS_CAP:
                continue
            stamped = {"t": round(now, 4)} | event
            if event["event"] == "step" and "step" in self.last:
                self.slowest = max(self.slowest or 0.0, now - self.last["step"]["t"])
            self.last[event["event"]] = stamped
            if event["event"] == "launched":  # our own program's, before any of train.py runs: nothing to tell anybody
                continue
            self._file.write(json.dumps(stamped, ensure_ascii=False) + "\n")
            self._file.flush()
            self._on_event(stamped)

    def at(self, name: str) -> float | None:
        """Seconds since launch at which the event arrived, None if it has not."""
        return self.last[name]["t"] if name in self.last else None

    def close(self) -> None:
        keep_ours(self._file, self._path)
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
