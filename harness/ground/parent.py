"""Ending with one's parent, for every process of a run. Standard library only.

As a program, `python parent.py PARENT COMMAND ...`, it becomes a command that ends so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when `parent`, which must be its parent, ends.

    Elsewhere the next start cleans up. parent 0: whatever started this process, whose id cannot be
    seen from behind a wall. The signal comes when the parent's spawning thread ends, so spawn from
    the main thread.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it died before we asked
        os._exit(1)


def ending_with_me(command: list[str]) -> list[str]:
    """A command as a child of this process that ends with it. Nothing of ours runs between fork
    and exec: where there are threads, that could wait for a lock for ever."""
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), *command]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
