"""The lock by which one process works on a run, and the note of trainings on the same device.

In: a run's folder and what the caller is. Out: a held lock, or a BusyError that says who holds it.
The lock is the operating system's, so it ends with its process, however that ends; the note beside
it only names the holder. Trainings of several runs on one device are allowed at the same time, but
each result says which others there were.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from harness.ground.clock import utc_now
from harness.ground.errors import BusyError, SettingsError
from harness.ground.files import read_json, write_json_atomic
from harness.sandbox.processes import find_process, identity, may_live

LOOK_SECONDS = 1.0  # who only looks whether a lock is held, holds it for a moment


def holder(folder: Path, name: str) -> str:
    """Who holds, or last held, the lock; in words."""
    try:
        note = read_json(folder / f".{name}.holder.json")
        return f"{note['what']}, process {note['pid']} on {note['host']}, since {note['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def lock_of(folder: Path, name: str) -> FileLock:
    """A run's lock, one object in a process: a kernel may take it twice."""
    return FileLock(folder / f".{name}.lock", is_singleton=True, thread_local=False)


def is_held(folder: Path, name: str) -> bool:
    """True while some process holds the lock."""
    if not (folder / f".{name}.lock").exists():
        return False
    lock = lock_of(folder, name)
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
    """Hold the run's lock `name`, "night" or "experiment". Raises BusyError or SettingsError."""
    lock = lock_of(folder, name)
    try:
        lock.acquire(timeout=LOOK_SECONDS, poll_interval=0.02)
    except Timeout:
        who = holder(folder, name)
        raise BusyError(f"run {folder.name} is in use by {who}. {advice}") from None
    except OSError as error:  # some network disks
        raise SettingsError(
            f"the disk of {folder} has no locks for files ({error.strerror}), which a run needs: "
            "choose a folder on another with --results"
        ) from error
    try:
        note = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
        write_json_atomic(folder / f".{name}.holder.json", note)
        yield
    finally:
        lock.release()


class OnTheClock:
    """A training on a device, noted in the user's cache folder while this context lasts.

    Without a home folder to write in, nobody knows of anybody.
    """

    def __init__(self, device: str, run: Path) -> None:
        notes = Path(os.path.expanduser("~/.cache/autoresearch-lab/on-the-clock"))
        self.folder = notes / re.sub(r"\W+", "-", device)
        self.run, self._seen = str(run), set()
        self._note = self.folder / f"{os.getpid()}.json"

    def __enter__(self) -> OnTheClock:
        me = {"pid": os.getpid(), "identity": identity(os.getpid())}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self._note, me | {"host": socket.gethostname(), "run": self.run})
        self.look()
        return self

    def __exit__(self, *exception: object) -> None:
        self.look()
        with contextlib.suppress(OSError):
            self._note.unlink()

    @property
    def others(self) -> list[str]:
        """Folders of the other runs that trained there beside it, as far as they were seen."""
        return sorted(self._seen)

    def look(self) -> None:
        """See who is there; notes of the dead are removed."""
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                note = read_json(path)
                if path == self._note or note["host"] != socket.gethostname():
                    continue
                who = note["pid"], note["identity"]
                if find_process(*who):
                    self._seen.add(note["run"])
                elif not may_live(*who):
                    path.unlink()
