"""A night's sign of life: results/<tag>/heartbeat.json, which tells a dead driver from a slow one.

In: what the driver does, every moment. Out: one small file, rewritten every five seconds at most,
and read back. It says who wrote it and when by a clock that nobody can set, so that neither a
reused process number nor a changed date is taken for life. Never ends a night: a full disk leaves
the old file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import psutil

from harness.ground.clock import boot_id, utc_now, wall_seconds
from harness.ground.files import read_json
from harness.sandbox.processes import find_process, identity

NAME = "heartbeat.json"
FIELDS = {"pid", "identity", "time", "boot_seconds", "boot_id", "stage", "state"}
EVERY_SECONDS = 5.0
_written: dict[Path, float] = {}  # when this process wrote which


def beat(folder: Path, stage: str, state: str = "running", **facts: object) -> None:
    """Say that the driver lives and what it does, unless that was said in the last five seconds.

    stage: in words. state: running or paused. facts: whatever JSON can hold.
    """
    if time.monotonic() - _written.get(folder, float("-inf")) >= EVERY_SECONDS:
        write(folder, stage, {"state": state} | facts)


def end(folder: Path, code: int, words: str, done: bool = False) -> None:
    """Say that the driver has ended by itself, and how. done: with all that was asked.

    Only the process that held the night last may say so of a run.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        if read_json(folder / ".night.holder.json")["pid"] == os.getpid():
            command = (read_heartbeat(folder) or {}).get("command")
            facts = {"state": "ended", "done": done, "exit_code": code, "command": command}
            write(folder, words, facts)


def write(folder: Path, stage: str, facts: dict) -> None:
    """Replace the file. Only the holder of the night's lock does, so the new one needs no name."""
    _written[folder] = time.monotonic()
    life = {"pid": os.getpid(), "identity": identity(os.getpid()), "time": utc_now()}
    life |= {"boot_seconds": wall_seconds(), "boot_id": boot_id(), "stage": stage}
    text = json.dumps(life | facts, ensure_ascii=False) + "\n"
    new = folder / f"{NAME}.new"
    with contextlib.suppress(OSError):  # a full disk: the loop will say so
        new.write_text(text, encoding="utf-8")
        os.replace(new, folder / NAME)


def read_heartbeat(folder: Path) -> dict | None:
    """The last sign of life; None when there is none that can be read."""
    try:
        found = read_json(folder / NAME)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(found) >= FIELDS else None


def age_seconds(heartbeat: dict) -> float | None:
    """How long ago it was written, sleep included; None where not since this machine's start."""
    if heartbeat["boot_id"] != boot_id():
        return None
    age = wall_seconds() - heartbeat["boot_seconds"]
    return age if age >= 0 else None


def writer(heartbeat: dict) -> psutil.Process | None:
    """The process that wrote it, if it lives: not one that got its number since."""
    if heartbeat["boot_id"] != boot_id():
        return None
    return find_process(heartbeat["pid"], heartbeat["identity"])
