"""The clock on the wall, which goes on while a machine sleeps, unlike the trainings' own.

In: nothing. Out: seconds; only differences mean anything. Linux's CLOCK_MONOTONIC, which Python's
`time.monotonic` reads, stands still in sleep, and so does macOS's; CLOCK_BOOTTIME (macOS:
CLOCK_MONOTONIC as `clock_gettime` has it) goes on. Neither is moved when somebody sets the date.
They begin anew with each start of the machine, which has a name for that.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NOTICED_SECONDS = 2.0  # a shorter sleep is not told from a busy machine


def wall_seconds() -> float:
    """Seconds since some moment, sleep included where the system says so."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


def boot_id() -> str | None:
    """A name of this start of the machine; None where the system gives none."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None


class Sleep:
    """How long the machine has slept since this was made."""

    def __init__(self) -> None:
        self._began = wall_seconds() - time.monotonic()

    @property
    def seconds(self) -> float:
        """0 where it did not, and where nobody can tell."""
        slept = wall_seconds() - time.monotonic() - self._began
        return slept if slept >= NOTICED_SECONDS else 0.0


def utc_now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
