"""The clock of a training: how much of its budget is used up.

In: the kernel's counters. Out: charged seconds since the start. The session inside the training and
the runner outside of it read the same counters with this same code; the runner's reading decides.
Standard library only.

On a card, and on Apple's GPU, a second of the budget is a second of wall time. On a CPU it is the
work that the template's training does in a second on a quiet machine. Who else uses the machine
then changes how long a training takes, and not how much it learns:

    busy = max(main, total / threads)
    work = busy - min(WAKING x idle / cores, 10% of busy)
    charged = max(work / rate, wall - others)

main is CPU time of the training's main thread, which works or waits for the other threads in every
step; total is that of all its threads and processes; idle are core-seconds in which nobody used a
core. rate is the share of wall time for which the template's main thread works so on a quiet
machine. The last term is the floor on idling: a training that does not use its cores is charged for
wall time, less the core-seconds that others used of them, since a core that others hold for a
second is lost to all threads for a second.

Why idle is taken off: a thread that wakes another one on an idle core pays for that, and beside
others no core is idle. At most 10% of what the training does is taken off (the template: 8%), or
sleeping beside others would be paid for. With a rate of 0.86 and nothing taken off, the demo's file
did 5 to 12% more steps in its budget beside others than alone (ten seeds each, interleaved, on two
cores); as it is, 10% more beside one busy process and 1 to 6% fewer beside two, three or bursts,
where the same file alone did 112 to 159. On a faster machine of two cores it was 8 to 10% fewer as
it is, and 4 to 7% fewer with nothing taken off: no one constant suits both (of both, see
results/benchmarks/under_load.md). A training on one thread does more steps per core-second than one
on two, and fewer per second: it gains nothing, with or without others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
IDLE, IO_WAIT = 3, 4  # places in a line of /proc/stat of the time when nobody used that core
WAKING = 0.4  # CPU seconds of the main thread that it costs when all cores are idle for a second
MOST_WAKING = 0.1  # of the work
# Between two looks at what others use, which changes little and takes time to read
LOOK_SECONDS = 0.2


class ClockError(RuntimeError):
    """This system does not say how much of its cores is in use."""


@dataclass(frozen=True)
class Reading:
    """Seconds since the start: of wall time, of CPU (main thread, all, others), and charged."""

    wall: float = 0.0
    main: float = 0.0
    total: float = 0.0
    others: float = 0.0
    charged: float = 0.0


def own_cpus() -> frozenset[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def idle_seconds(cpus: frozenset[int]) -> float:
    """Core-seconds since the machine's start in which nobody used these cores."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise ClockError(f"{STAT} cannot be read: {error.strerror}") from error
    total, seen = 0, set()
    for line in lines:
        name, *fields = line.split()
        core = name.removeprefix("cpu")
        if core != name and core.isdigit() and int(core) in cpus and any(map(int, fields)):
            seen.add(int(core))  # some containers (gVisor) count nothing
            total += sum(map(int, fields[IDLE : IO_WAIT + 1]))
    if seen != cpus:
        raise ClockError(f"{STAT} says nothing of cores {sorted(cpus - seen)}")
    return total / TICKS


class WallClock:
    """Charges wall time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def read(self) -> Reading:
        wall = time.monotonic() - self._began
        return Reading(wall=wall, charged=wall)


class CoreClock:
    """Charges work of the cores, as the module's text has it. It starts when it is made.

    cpu: returns CPU seconds of the training's main thread and in all, from any beginning. Raises
    ClockError where others cannot be seen.
    """

    def __init__(self, rate: float, threads: int, cpu: Callable[[], tuple[float, float]]) -> None:
        self.rate, self.threads, self._cpu, self.cpus = rate, threads, cpu, own_cpus()
        self._wall0, (self._main0, self._total0) = time.monotonic(), cpu()
        self._idle0 = idle_seconds(self.cpus)
        self._looked = self._idle = self._others = self._charged = 0.0

    def read(self) -> Reading:
        """What is charged by now; it never falls."""
        wall, (main, total) = time.monotonic() - self._wall0, self._cpu()
        main, total = main - self._main0, total - self._total0
        if wall - self._looked >= LOOK_SECONDS:
            self._looked, self._idle = wall, idle_seconds(self.cpus) - self._idle0
            self._others = max(0.0, len(self.cpus) * wall - self._idle - total)
        work = max(main, total / self.threads)
        work -= min(WAKING * self._idle / len(self.cpus), MOST_WAKING * work)
        self._charged = max(self._charged, work / self.rate, self._looked - self._others)
        return Reading(wall, main, total, self._others, self._charged)


def own_cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process: of its main thread, and in all."""
    main = time.clock_gettime(time.pthread_getcpuclockid(threading.main_thread().ident))
    return main, time.process_time()
