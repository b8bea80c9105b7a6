"""The clock of a training: how much of its budget is used up.

In: the kernel's counters. Out: charged seconds since the start. The session inside the training and
the runner outside of it read the same counters with this same code; the runner's reading decides.
Standard library only.

On a card, and on Apple's GPU, a second of the budget is a second of wall time. On a CPU it is the
work that the template's training does in a second on a quiet machine. Who else uses the machine
then changes how long a training takes, and not how much it learns:

    work = max(main, total / threads)
    worth = 1 + (worth_beside - 1) x min(1, 2 x others / cores)
    charged = max(sum of work x worth / rate, wall - others)

main is CPU time of the training's main thread, which works or waits for the other threads in every
step; total is that of all its threads and processes; others are core-seconds that somebody else
used. rate is somewhat less than the share of wall time for which the template's main thread works
on a quiet machine (0.82, of 0.89 to 0.96), so that a quiet training does not meet the last term: 20
charged seconds took 17 there. The last term is the floor on idling: a training that does not use
its cores is charged for wall time, less the core-seconds that others used of them, since a core
that others hold for a second is lost to all threads for a second.

A CPU second beside others is not worth the same as one alone: others share caches and power, and a
thread that waits for another one costs more or less. worth_beside is what it is worth: steps per
CPU second while others hold half of the cores or more, over those alone. It depends on the machine
(1.08 on one of two cores, 0.93 on another), so it is measured there, by a training of the run's
first file while busy processes come and go (`harness.lab.clock_fit`), and frozen in run.json. How
much a budget differs with it is in results/benchmarks/under_load.md. A training on one thread does
more steps per core-second than one on two, and fewer per second of its main thread, which is what
is charged.
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
# Between two looks at what others use, which takes time to read, and is counted in ticks of 10 ms.
LOOK_SECONDS = 0.5


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


def busy_share(seconds: float = 1.0) -> float | None:
    """Share of the cores that is in use now, in so many seconds; None where the kernel does not
    say."""
    try:
        cpus = own_cpus()
        before, began = idle_seconds(cpus), time.monotonic()
        time.sleep(seconds)
        idle = idle_seconds(cpus) - before
    except ClockError:
        return None
    return max(0.0, 1 - idle / (len(cpus) * (time.monotonic() - began)))


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

    def __init__(
        self, rate: float, worth_beside: float, threads: int, cpu: Callable[[], tuple[float, float]]
    ) -> None:
        self.rate, self.worth_beside, self.threads = rate, worth_beside, threads
        self._cpu, self.cpus = cpu, own_cpus()
        self._wall0, (self._main0, self._total0) = time.monotonic(), cpu()
        self._idle0 = idle_seconds(self.cpus)
        # At the last look, and what work was worth in the span before it.
        self._looked = self._others = self._work = self._worked = 0.0
        self._worth, self._total, self._charged = 1.0, 0.0, 0.0

    def read(self) -> Reading:
        """What is charged by now; it never falls."""
        wall, (main, total) = time.monotonic() - self._wall0, self._cpu()
        main = main - self._main0
        # Processes that have ended may be missing from it: what they did was no work of others.
        total = self._total = max(self._total, total - self._total0)
        work = max(main, total / self.threads)
        if wall - self._looked >= LOOK_SECONDS:
            self._look(wall, work, total)
        worked = self._worked + (work - self._work) * self._worth
        self._charged = max(self._charged, worked / self.rate, self._looked - self._others)
        return Reading(wall, main, total, self._others, self._charged)

    def _look(self, wall: float, work: float, total: float) -> None:
        """See what others used since the last look."""
        cores, before = len(self.cpus), self._others
        idle = idle_seconds(self.cpus) - self._idle0
        self._others = max(before, cores * wall - idle - total)
        held = (self._others - before) / (cores * (wall - self._looked))
        self._worth = 1 + (self.worth_beside - 1) * min(1.0, 2 * held)
        self._worked += (work - self._work) * self._worth
        self._looked, self._work = wall, work


def own_cpu_seconds() -> tuple[float, float]:
    """CPU seconds of this process: of its main thread, and in all."""
    main = time.clock_gettime(time.pthread_getcpuclockid(threading.main_thread().ident))
    return main, time.process_time()


def make_clock(request: dict, cpu: Callable[[], tuple[float, float]]) -> WallClock | CoreClock:
    """The clock that a training's request asks for, started now. cpu: as of CoreClock."""
    if not (rate := request.get("core_rate")):
        return WallClock()
    return CoreClock(rate, request.get("worth_beside") or 1.0, request["threads"], cpu)
