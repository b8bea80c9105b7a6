"""Ends every process that a child left behind, however it tried to stay.

In: a process group, or the folder that a child worked in. Out: no process of it is left. Without a
wall one that left its group, emptied its environment and changed its folder, or took a terminal, is
not found, since nothing distinguishes it from other processes of the user.

Process ids are reused, so a process is identified by more than its id, and by nothing that changes
with the system's date (see `identity`). One that may be somebody else's is not ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from harness.ground.clock import boot_id
from harness.ground.files import write_json_atomic
from harness.sandbox.child import WAIT_SECONDS

# In the environment of every child that runs edited code: the folder it works in.
MARK = "AUTORESEARCH_CHILD"
TERMINAL = 4  # place in `stat_fields` of the controlling terminal's number, 0 for none
STARTED = 19  # place of the process's first moment, in ticks since the machine's


def kill_leftover(folder: Path) -> list[int]:
    """Kill the process group of a training that a dead runner left behind in `folder`.

    Returns the processes ended. A group's number is not given out again while any of it lives, so a
    leader that is another process than the one noted, or a machine started since, means that
    nothing of ours is left.
    """
    try:
        noted = json.loads((folder / "process.json").read_text(encoding="utf-8"))
        group, who = noted["pid"], noted["identity"]
        if type(group) is not int or not may_lead(group, who):
            return []
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or a child wrote it
        return []
    return kill_while_found(lambda process: group_of(process) == group)


def kill_escaped(folder: Path) -> list[int]:
    """Kill what left the group: it carries the folder's mark, or works in it. Return the ids."""
    return kill_while_found(lambda process: mark_of(process) == folder or works_in(process, folder))


def kill_all_of(run: Path) -> list[int]:
    """Kill the trainings and servers of a run that nobody carries out now. Returns their ids.

    Of a wall whose outer process is killed while it is being made, the inner one waits for ever,
    and is in no list of children.
    """
    run = run.resolve()
    return kill_while_found(lambda process: is_of_run(process, run))


def kill_while_found(wanted: Callable[[psutil.Process], bool]) -> list[int]:
    """Kill until there are none, since one that is killed may have started another meanwhile."""
    killed: dict[int, None] = {}
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        others = (process for process in psutil.process_iter() if process.pid != os.getpid())
        found = [process for process in others if wanted(process) and alive(process)]
        if not found:
            break
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed[process.pid] = None
        wait_until_dead(found)
    return list(killed)


def group_of(process: psutil.Process) -> int | None:
    """The number of its process group; None where it has ended or may not be asked."""
    with contextlib.suppress(OSError):
        return os.getpgid(process.pid)
    return None


def mark_of(process: psutil.Process) -> Path | None:
    """The folder that a child of edited code works in, by its environment; None for others."""
    with contextlib.suppress(psutil.Error, OSError):  # another user's, or a zombie
        if mark := process.environ().get(MARK):
            return Path(mark)
    return None


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether it works in this folder, or in one below it, and no person sits before it."""
    place = untended_place(process)
    return place is not None and place.is_relative_to(folder.resolve())


def is_of_run(process: psutil.Process, run: Path) -> bool:
    """Whether it carries the mark of a folder of the run, or works where only its trainings do.

    A person's shell does neither, wherever it stands. run: without links on the way.
    """
    mark = mark_of(process)
    if mark is not None and mark.resolve().is_relative_to(run):
        return True
    place = untended_place(process)
    inside = place is not None and place.is_relative_to(run / "experiments")
    return inside and len(place.relative_to(run).parts) > 6


def untended_place(process: psutil.Process) -> Path | None:
    """A process's working folder; None where a person sits before it, or nobody can tell.

    A person's shell has a terminal; a training or a server, which leads a session of its own, has
    none. psutil knows only terminals that this container shows.
    """
    with contextlib.suppress(psutil.Error, OSError):
        fields = stat_fields(process.pid)
        terminal = fields[TERMINAL] != "0" if fields else process.terminal() is not None
        return None if terminal else Path(process.cwd())
    return None


def wait_until_dead(processes: list[psutil.Process]) -> None:
    """Wait until they have ended, reaped or not: in some containers nobody reaps an orphan."""
    until = time.monotonic() + WAIT_SECONDS
    while any(alive(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    """Whether that very process still runs, or could."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def identity(pid: int) -> str | float:
    """Who a process is, to be written down. Raises psutil.Error.

    On Linux its first moment by a clock that nobody sets, with the name of this start of the
    machine: the date of its start is reckoned there from the clock on the wall, so that it moves
    when somebody sets that. Elsewhere that date, which those systems keep as it was.
    """
    if fields := stat_fields(pid):
        return f"{fields[STARTED]}@{boot_id()}"
    return round(psutil.Process(pid).create_time(), 2)


def stat_fields(pid: int) -> list[str]:
    """What Linux says of a process after its name, which may hold anything; [] elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def find_process(pid: int, who: str | float) -> psutil.Process | None:
    """The process that had this number and identity; None when it has ended."""
    try:
        process = psutil.Process(pid)
        return process if identity(pid) == who and alive(process) else None
    except psutil.Error:
        return None


def may_live(pid: int, who: str | float) -> bool:
    """Whether that process lives for all that is known, so that what is its own must stay."""
    try:
        return identity(pid) == who and alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it may not be asked
        return True


def may_lead(group: int, who: str | float) -> bool:
    """Whether a group is still that leader's, alive or ended since the machine's start."""
    try:
        return identity(group) == who
    except psutil.NoSuchProcess:
        if isinstance(who, str):
            return boot_id() is not None and who.endswith(f"@{boot_id()}")
        return psutil.boot_time() <= who + 1.0
    except psutil.Error:
        return False


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped a process or one below it (SIGSTOP), so that it cannot end."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return any(process.status() == psutil.STATUS_STOPPED for process in family)
    except psutil.Error:  # it ends just now
        return False


def note_process(folder: Path, pid: int) -> None:
    """Write down which process trains here, so that a later start can end it if we die."""
    with contextlib.suppress(psutil.NoSuchProcess):
        begun = psutil.Process(pid).create_time()
        note = {"pid": pid, "create_time": begun, "identity": identity(pid)}
        write_json_atomic(folder / "process.json", note)
