"""How many CPUs this process may use: `cpu_count`. Standard library only.

In: this process's affinity, and the CPU quota of its cgroup, as a container has one.
Out: a whole number. A quota that cannot be read counts as none.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_count(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int:
    """The CPUs of this process's affinity, and no more than its quota in CPUs, rounded up.

    membership: the lines that say which cgroups the process is in; root: where those are mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on a Mac
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(membership, root))]))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """The CPUs that the process's cgroup and each one above it allow, where they name a number.

    Version 2 has one tree, which lies in unified/ where version 1 is used beside it. Version 1 has
    a tree for CPU time, named by what shares it. In a container the path may be that of the
    outside: then nothing lies below the mount under that name, and the quota is at the top.
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if "cpu" in controllers.split(","):
            trees = [root / "cpu", root / controllers]
        elif not controllers:
            trees = [root, root / "unified"]
        else:
            continue
        own = PurePosixPath("/", path)
        for tree in trees:
            for group in (own, *own.parents):
                yield from _quota(tree / group.relative_to("/"))


def _quota(group: Path) -> Iterator[float]:
    """The CPUs that one cgroup allows; nothing where it has no quota or cannot be read."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max 100000" is none: max is no number
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        if quota > 0:  # -1 is none
            yield quota / int((group / "cpu.cfs_period_us").read_text())
