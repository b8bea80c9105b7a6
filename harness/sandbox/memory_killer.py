"""Whether the system ended a process for lack of memory, or somebody else did.

In: the system's count of such kills before a child was started. Out: the answer, where the system
counts (Linux). Elsewhere every SIGKILL that we did not send is taken for lack of memory, and counts
against the idea even where a person or another program sent it.
"""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/proc/vmstat")
KILLED_FROM_OUTSIDE = "killed from outside (SIGKILL), and not for lack of memory"


def memory_kills() -> int | None:
    """How many processes the system has ended for lack of memory; None where it does not say."""
    try:
        lines = COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def memory_was_there(before: int | None) -> bool:
    """True when surely no process was ended for memory since the count `before`."""
    return before is not None and memory_kills() == before
