"""Ends every process that a child left behind, however it tried to stay.

In: a process group, or the folder that a child worked in. Out: nothing of it lives. Without a wall a process that left its group, emptied its environment
and changed its folder is not found: nothing tells it from anybody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import psutil

from harness.data.files import write_json_atomic

MARK = "AUTORESEARCH_CHILD"  # in the environment of every child that runs edited code: the folder it works in


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
    psutil.wait_procs(members, timeout=5)
    return [process.pid for process in members]


def kill_escaped(folder: Path) -> list[int]:
    """Kill the processes that carry the folder's mark or work in it: those that left the group. Returns their ids."""
    escaped = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.environ().get(MARK) == str(folder) or Path(process.cwd()).is_relative_to(folder)
            if marked and process.pid != os.getpid():
                process.kill()
                escaped.append(process)
    psutil.wait_procs(escaped, timeout=5)
    return [process.pid for process in escaped]


def note_process(folder: Path, pid: int) -> None:
    """Write down which process trains here, so that a later start can end it if we die."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    write_json_atomic(folder / "process.json", {"pid": pid, "create_time": created})
