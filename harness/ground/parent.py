"""Ending with one's parent, for every process of a run. Standard library only."""

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
