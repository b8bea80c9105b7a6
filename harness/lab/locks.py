"""One writer per run.

In: a run's folder and what the caller is. Out: a held lock, or a BusyError that says who holds it. The lock is the operating system's, so it
ends with its process, however that ends; the note beside it only names the holder.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from harness.data.files import read_json, write_json_atomic
from harness.lab.journal import now


class BusyError(RuntimeError):
    """Another process works on this run."""


def holder(folder: Path, name: str) -> str:
    """Who holds, or last held, the lock; in words."""
    try:
        note = read_json(folder / f".{name}.holder.json")
        return f"{note['what']}, process {note['pid']} on {note['host']}, since {note['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def is_held(folder: Path, name: str) -> bool:
    """True while some process holds the lock."""
    if not (folder / f".{name}.lock").exists():
        return False
    lock = FileLock(folder / f".{name}.lock", is_singleton=True, thread_local=False)
    if lock.is_locked:
        return True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def hold(folder: Path, name: str, what: str, advice: str) -> Iterator[None]:
    """Hold the run's lock `name` ("night" or "experiment"). Raises BusyError naming the holder and giving the advice."""
    lock = FileLock(folder / f".{name}.lock", is_singleton=True, thread_local=False)  # one kernel may take it twice
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(f"run {folder.name} is in use by {holder(folder, name)}. {advice}") from None
    try:
        write_json_atomic(
            folder / f".{name}.holder.json",
            {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": now()},
        )
        yield
    finally:
        lock.release()
