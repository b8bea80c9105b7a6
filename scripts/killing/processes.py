"""The processes of a night by role, as Linux's /proc shows them, for kill_matrix.py.

In: the driver's process, or a folder. Out: process ids, dead ones left out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from harness.sandbox.processes import MARK


def children(pid: int) -> list[int]:
    """The living children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> Iterator[int]:
    """All that a process started, and that started."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def words_of(pid: int) -> list[str]:
    """The command of a process, [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def state_of(pid: int) -> str:
    """R, S, T, Z ... as the system says it; "" when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int | None) -> bool:
    return pid is not None and state_of(pid) not in ("", "Z", "X")


def mark_of(pid: int) -> str:
    """The folder that a child of edited code works in, as its environment says."""
    try:
        parts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next(
        (
            part.decode().partition("=")[2]
            for part in parts
            if part.startswith(MARK.encode() + b"=")
        ),
        "",
    )


def find_roles(driver: int, page: int | None = None) -> dict[str, int]:
    """Who is there, {role: process id}. Behind a wall: who runs there, not the wall's own process.

    page: papermill's process as it was last seen; when its server is killed it lives on, and
    nobody's child leads to it.
    """
    roles = {"driver": driver} if alive(driver) else {}
    pages = [page] if page is not None and alive(page) else []
    for child in children(driver):
        if "from multiprocessing.forkserver import main" in " ".join(words_of(child)):
            roles["forkserver"] = child
            pages += children(child)
    for page in pages:
        roles["papermill"] = page
        for kernel in children(page):
            if "ipykernel_launcher" in words_of(kernel):
                roles["kernel"] = kernel
    for pid in descendants(roles["kernel"]) if "kernel" in roles else ():
        words = words_of(pid)
        if not words or os.path.basename(words[0]) == "bwrap":
            continue
        if "harness.training.launch" in words:
            roles["trainer"] = pid
        elif "harness.scoring.server" in words:
            roles["server B" if mark_of(pid).endswith("server_audit") else "server A"] = pid
        elif "harness.search.propose" in words:
            roles["proposer"] = pid
    return {role: pid for role, pid in roles.items() if alive(pid)}


def processes_in(folder: Path) -> list[int]:
    """Living processes that work in the folder or name it in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            mine = str(folder) in " ".join(words_of(pid)) or Path(
                os.readlink(entry / "cwd")
            ).is_relative_to(folder)
            if mine and alive(pid):
                found.append(pid)
    return found


@contextlib.contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """A process, if there is one, that does nothing for the while; it need not outlive it."""
    if not alive(pid):
        yield
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 1.0
    while state_of(pid) not in ("T", "t", "Z", "") and time.monotonic() < until:
        pass  # it stops at its next instruction
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
