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
from pathlib import Path

import psutil

MOST_BYTES = 20 * 10**9  # no more than half of what is free when it starts
MOST_FILES = 50_000
LOOK_SECONDS = 1.0
BLOCK_BYTES = 512  # the unit of st_blocks


class DiskShare:
    """What one training has on disk. Made before it starts, since it may remove the folders.

    folders: where it may write.
    """

    def __init__(self, folders: list[Path]) -> None:
        self._folders, self._looked = folders, time.monotonic()
        self._disks = {os.stat(folder).st_dev for folder in folders}
        self.most_bytes = min(MOST_BYTES, *(shutil.disk_usage(each).free // 2 for each in folders))

    def exceeded(self, pid: int) -> str:
        """Why the training must end, "" while it need not."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return ""
        used, files = disk_use(self._folders)
        used += removed_bytes(pid, self._disks)
        self._looked = time.monotonic()
        if used <= self.most_bytes and files <= MOST_FILES:
            return ""
        allowed = f"{self.most_bytes / 1e9:.2f} GB and {MOST_FILES} files are allowed"
        return f"it had {used / 1e9:.2f} GB in {files} files on disk; {allowed}"


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


def removed_bytes(pid: int, disks: set[int]) -> int:
    """Bytes on the disks that a process and its descendants hold open without a name (Linux)."""
    held: dict[int, int] = {}
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(OSError):  # it has ended
                for descriptor in os.listdir(f"/proc/{each.pid}/fd"):
                    with contextlib.suppress(OSError):  # closed since listed
                        status = os.stat(f"/proc/{each.pid}/fd/{descriptor}")
                        nameless = stat.S_ISREG(status.st_mode) and status.st_nlink == 0
                        if nameless and status.st_dev in disks:
                            held[status.st_ino] = BLOCK_BYTES * status.st_blocks
    return sum(held.values())
