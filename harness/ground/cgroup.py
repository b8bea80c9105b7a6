"""What this process may use of the machine: CPUs and memory. Standard library only.

In: the process's affinity, the machine's memory, and the limits of its cgroup and of each one above
it, as a container has them. Out: whole numbers. A limit that cannot be read counts as none.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")  # which cgroups the process is in
ROOT = Path("/sys/fs/cgroup")  # where those are mounted


def cpu_count() -> int:
    """The CPUs of this process's affinity, and no more than its quota in CPUs, rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on a Mac
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota())))


def cpu_quota() -> float:
    """The CPUs that the process's cgroups allow, such as 1.5; infinite where none limits it."""
    return min(_limits("cpu", _cpus), default=math.inf)


def process_count(each_mb: int) -> int:
    """How many processes of so many MiB may work at a time: one for each CPU, as far as memory
    goes, which a container may limit without limiting CPUs."""
    memory = memory_limit_mb() or physical_memory_mb() or math.inf
    return max(1, int(min(cpu_count(), memory / each_mb)))


def memory_limit_mb() -> int | None:
    """The MiB that this process's container may use; None where the machine has no more."""
    least = min(_limits("memory", _bytes), default=math.inf) / 2**20
    return int(least) if least < (physical_memory_mb() or math.inf) else None


def memory_limit_words() -> str:
    """A container's limit, to stand behind "memory ran out"; "" where there is none."""
    limit = memory_limit_mb()
    if limit is None:
        return ""
    advice = "give it more, as with `docker run --memory`"
    return f" (this container may use {limit:,} MB of memory: {advice})"


def physical_memory_mb() -> int:
    """The machine's memory in MiB; 0 where the system does not say."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def _limits(controller: str, read: Callable[[Path], Iterator[float]]) -> Iterator[float]:
    """What the process's cgroup and each one above it allow, where they name a number.

    Version 2 has one tree, which lies in unified/ where version 1 is used beside it. Version 1 has
    a tree for each controller, named by what shares it. In a container the path may be that of the
    outside: then nothing lies below the mount under that name, and the limit is at the top.
    """
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            trees = [ROOT, ROOT / "unified"]
        elif controller in controllers.split(","):
            trees = [ROOT / controller, ROOT / controllers]
        else:
            continue
        own = PurePosixPath("/", path)
        for tree in trees:
            for group in (own, *own.parents):
                yield from read(tree / group.relative_to("/"))


def _cpus(group: Path) -> Iterator[float]:
    """The CPUs that one cgroup allows; nothing where it has no quota or cannot be read."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max 100000" is none: max is no number
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        if quota > 0:  # -1 is none
            yield quota / int((group / "cpu.cfs_period_us").read_text())


def _bytes(group: Path) -> Iterator[float]:
    """The bytes that one cgroup allows; version 1 has a number near 2^63 for none."""
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            yield int((group / name).read_text())
