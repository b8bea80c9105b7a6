"""How much of the disk a training may take.

In: the folders it writes in and its process, looked at now and then. Out: the reason to end it, or
"". Counts what files take up, not what they claim to hold, and files that were removed but are
still held open; folders and links count as files.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import time
from collections import Counter
from pathlib import Path

import psutil

MOST_BYTES = 20 * 10**9  # of each disk, no more than half of what is free when it starts
MOST_FILES = 50_000
LOOK_SECONDS = 1.0
BLOCK_BYTES = 512  # the unit of st_blocks


class DiskShare:
    """What one training has on disk. Made before it starts, since it may remove the folders.

    folders: where it may write.
    """

    def __init__(self, folders: list[Path]) -> None:
        self._looked = time.monotonic()
        self._on: dict[int, list[Path]] = {}  # by disk
        for folder in folders:
            self._on.setdefault(os.stat(folder).st_dev, []).append(folder)
        self._most = {
            disk: min(MOST_BYTES, shutil.disk_usage(here[0]).free // 2)
            for disk, here in self._on.items()
        }

    def exceeded(self, pid: int) -> str:
        """Why the training must end, "" while it need not."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return ""
        removed, total = removed_bytes(pid, set(self._on)), 0
        for disk, folders in self._on.items():
            used, files = disk_use(folders)
            used, total, most = used + removed[disk], total + files, self._most[disk]
            if used > most or total > MOST_FILES:
                allowed = f"{most / 1e9:.2f} GB and {MOST_FILES} files are allowed"
                return f"it had {used / 1e9:.2f} GB in {total} files on disk; {allowed}"
        self._looked = time.monotonic()
        return ""


def disk_use(folders: list[Path]) -> tuple[int, int]:
    """Return (bytes, files) below the folders; a path too long to count is too many files."""
    used = files = 0
    waiting: list[str | Path] = list(folders)
    while waiting and files <= MOST_FILES:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in itertools.islice(entries, MOST_FILES + 1):
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    used += BLOCK_BYTES * entry.stat(follow_symlinks=False).st_blocks
        except OSError as error:  # gone, or closed to us, since it was listed
            files += MOST_FILES + 1 if error.errno == errno.ENAMETOOLONG else 0
    return used, files


def removed_bytes(pid: int, disks: set[int]) -> Counter[int]:
    """Bytes that a process and its descendants hold open without a name (Linux), by disk."""
    held: dict[tuple[int, int], int] = {}
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(OSError):  # it has ended
                for descriptor in os.listdir(f"/proc/{each.pid}/fd"):
                    with contextlib.suppress(OSError):  # closed since listed
                        status = os.stat(f"/proc/{each.pid}/fd/{descriptor}")
                        nameless = stat.S_ISREG(status.st_mode) and status.st_nlink == 0
                        if nameless and status.st_dev in disks:
                            file = status.st_dev, status.st_ino
                            held[file] = BLOCK_BYTES * status.st_blocks
    sums: Counter[int] = Counter()
    for (disk, _), size in held.items():
        sums[disk] += size
    return sums
