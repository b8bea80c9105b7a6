"""Ends every process that a child left behind, however it tried to stay.

In: a process group, or the folder that a child worked in. Out: nothing of it lives. Without a wall a process that left its group, emptied its environment
and changed its folder is not found: nothing tells it from anybody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from harness.data.files import write_json_atomic

MARK = "AUTORESEARCH_CHILD"  # in the environment of every child that runs edited code: the folder it works in
WAIT_SECONDS = 5.0  # for what was killed to end


def kill_child(process: subprocess.Popen, walled: bool) -> None:
    """Kill a child that we started, with its process group; what it was, it is no more when this returns.

    Behind a wall what lives inside is in a group of its own. The wall's own process ends when all that is inside has ended, so that is killed first.
    """
    if walled and process.poll() is None:
        with contextlib.suppress(psutil.Error):  # it ends just now
            for inner in psutil.Process(process.pid).children():
                inner.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a device that lets nobody go
            process.wait(timeout=WAIT_SECONDS)
    kill_group(process.pid)
    process.wait()


def kill_group(pid: int) -> None:
    """Kill a process group that we started; its leader is its id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left, or (macOS) only zombies are
        os.killpg(pid, signal.SIGKILL)


def kill_leftover(folder: Path) -> list[int]:
    """Kill what a dead runner left behind in `folder`: the training's process group, its leader dead or alive.

    Returns the processes ended. A group's number is not given out again while any of it lives, so a leader that is another
    process than the one noted, or a machine started since, means that nothing of ours is left.
    """
    try:
        noted = json.loads((folder / "process.json").read_text(encoding="utf-8"))
        group, since = int(noted["pid"]), float(noted["create_time"])
        leader = psutil.Process(group).create_time()
    except psutil.NoSuchProcess:
        leader = since
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return []
    if abs(leader - since) > 1.0 or psutil.boot_time() > since + 1.0:
        return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.pid != os.getpid():
                process.kill()
                members.append(process)
    wait_until_dead(members)
    return [process.pid for process in members]


def kill_escaped(folder: Path) -> list[int]:
    """Kill the processes that carry the folder's mark or work in it: those that left the group. Returns their ids."""
    return kill_while_found(lambda process: mark_of(process) == folder or works_in(process, folder))


def kill_all_of(run: Path) -> list[int]:
    """Kill the trainings and servers of a run that nobody carries out now. Returns their ids.

    Of a wall whose outer process is killed while it is being made, the inner one waits for ever, and is in no list of children.
    """
    run = run.resolve()
    return kill_while_found(lambda process: is_of_run(process, run))


def kill_while_found(wanted: Callable[[psutil.Process], bool]) -> list[int]:
    """Kill until there are none, since one that is killed may have started another meanwhile."""
    killed: list[psutil.Process] = []
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        found = [process for process in psutil.process_iter() if process.pid != os.getpid() and wanted(process)]
        if not found:
            break
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_until_dead(found)
        killed += found
    return [process.pid for process in killed]


def mark_of(process: psutil.Process) -> Path | None:
    """The folder that a child of edited code works in, as its environment says; None for anything else."""
    with contextlib.suppress(psutil.Error, OSError):  # another user's, or a zombie
        if mark := process.environ().get(MARK):
            return Path(mark)
    return None


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether its working folder is this one, or lies in it."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.cwd()).is_relative_to(folder.resolve())
    return False


def is_of_run(process: psutil.Process, run: Path) -> bool:
    """Whether a process carries the mark of a folder of the run, or works where only its trainings do. A person's shell in the run's folder does neither.

    run: without links on the way.
    """
    mark = mark_of(process)
    if mark is not None and mark.resolve().is_relative_to(run):
        return True
    with contextlib.suppress(psutil.Error, OSError):
        place = Path(process.cwd())
        return place.is_relative_to(run / "experiments") and len(place.relative_to(run).parts) > 6
    return False


def wait_until_dead(processes: list[psutil.Process]) -> None:
    """Wait until the processes have ended, reaped or not: in some containers nobody reaps an orphan."""
    until = time.monotonic() + WAIT_SECONDS
    while any(alive(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def living(pid: int, create_time: float) -> psutil.Process | None:
    """The process that had this number since then, None when it has ended, whoever has its number now."""
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - create_time) < 1.0 and alive(process) else None
    except (psutil.Error, TypeError):  # the second: numbers of a note that somebody edited
        return None


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped a process or one below it (SIGSTOP), so that it neither works nor ends."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return any(process.status() == psutil.STATUS_STOPPED for process in family)
    except psutil.Error:  # it ends just now
        return False


def note_process(folder: Path, pid: int) -> None:
    """Write down which process trains here, so that a later start can end it if we die."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    write_json_atomic(folder / "process.json", {"pid": pid, "create_time": created})
