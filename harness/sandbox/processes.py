"""Ends every process that a child left behind, however it tried to stay.

In: a process group, or the folder that a child worked in. Out: nothing of it lives. Without a wall a process that left its group, emptied its environment
and changed its folder, or took a terminal, is not found: nothing tells it from anybody else's.

Which process a number is of is told by what no change of the date moves (see `identity`). Of one that may be another's nothing is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from harness.ground.clock import boot_id
from harness.ground.files import write_json_atomic

MARK = "AUTORESEARCH_CHILD"  # in the environment of every child that runs edited code: the folder it works in
TERMINAL = 4  # place in `stat_fields` of the controlling terminal's number, 0 for none
STARTED = 19  # place of the process's first moment, in ticks since the machine's
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
        who = noted.get("identity", since)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    if not (may_lead(group, who) if isinstance(who, str) else may_have_led(group, since)):
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
    """Whether its working folder is this one, or lies in it, and no person sits before it."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.cwd()).is_relative_to(folder.resolve()) and not has_terminal(process)
    return False


def has_terminal(process: psutil.Process) -> bool:
    """Whether a process is attached to a terminal, as a person's shell is and a training or server, which leads a session of its own, is not.

    Raises psutil.Error or OSError where there is no telling. psutil knows only terminals that this container shows.
    """
    fields = stat_fields(process.pid)
    return fields[TERMINAL] != "0" if fields else process.terminal() is not None


def is_of_run(process: psutil.Process, run: Path) -> bool:
    """Whether a process carries the mark of a folder of the run, or works where only its trainings do. A person's shell does neither, wherever it stands.

    run: without links on the way.
    """
    mark = mark_of(process)
    if mark is not None and mark.resolve().is_relative_to(run):
        return True
    with contextlib.suppress(psutil.Error, OSError):
        place = Path(process.cwd())
        inside = place.is_relative_to(run / "experiments") and len(place.relative_to(run).parts) > 6
        return inside and not has_terminal(process)
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


def identity(pid: int) -> str | float:
    """Who a process is, to be written down: on Linux its first moment by a clock that nobody sets, with the name of this start of the machine.

    Elsewhere the date of its start, which those systems keep as it was. Linux, and psutil there, reckon that date anew from the clock on the wall,
    so that it moves when somebody sets that. Raises psutil.NoSuchProcess.
    """
    fields, boot = stat_fields(pid), boot_id()
    return f"{fields[STARTED]}@{boot}" if fields and boot else psutil.Process(pid).create_time()


def stat_fields(pid: int) -> list[str]:
    """What Linux says of a process after its name, which may hold anything (see proc(5)); [] elsewhere, and when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def find_process(pid: int, who: str | float) -> psutil.Process | None:
    """The process that had this number and identity, None when it has ended, whoever has its number now.

    who: of `identity`, or the date of its start, which is all that older versions noted.
    """
    try:
        process = psutil.Process(pid)
        same = identity(pid) == who if isinstance(who, str) else abs(process.create_time() - who) < 1.0
        return process if same and alive(process) else None
    except (psutil.Error, TypeError):  # the second: numbers of a note that somebody edited
        return None


def may_live(pid: int, who: str | float) -> bool:
    """Whether that process lives for all that is known: False only where it has ended for certain, so that what is its own may go."""
    if find_process(pid, who):
        return True
    try:
        found = identity(pid)
    except psutil.Error as error:
        return not isinstance(error, psutil.NoSuchProcess)
    certain = isinstance(found, str) if isinstance(who, str) else not sys.platform.startswith("linux")
    return not certain


def may_lead(group: int, who: str) -> bool:
    """Whether a group's number is still that of the leader with this identity, or nobody's in the same start of the machine."""
    if who.partition("@")[2] != boot_id():
        return False
    try:
        return identity(group) == who
    except psutil.Error as error:
        return isinstance(error, psutil.NoSuchProcess)


def may_have_led(group: int, since: float) -> bool:
    """The same of a note by an older version, which knew a leader by the date alone: not where that has moved since."""
    try:
        leader = psutil.Process(group).create_time()
    except psutil.NoSuchProcess:
        leader = since
    except psutil.Error:
        return False
    return abs(leader - since) <= 1.0 and psutil.boot_time() <= since + 1.0


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
        note = {"pid": pid, "create_time": psutil.Process(pid).create_time(), "identity": identity(pid)}
    except psutil.NoSuchProcess:
        return
    write_json_atomic(folder / "process.json", note)
