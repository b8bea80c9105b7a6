"""A real disk of a few megabytes, for tests that fill it: a tmpfs, which root may mount.

Without that right the tests skip; `unshare -rm` gives it to a user where the system allows
namespaces (see test_disk_full).
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

STEP = 1 << 20


class SmallDisk:
    """path: where it is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Take all the room there is, to the last page."""
        with self._ballast.open("ab", buffering=0) as file:
            size = STEP * 64
            while size >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError:
                    size //= 2
        assert shutil.disk_usage(self.path).free < 4096

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(path: Path, megabytes: int):
    """A SmallDisk at a new folder; skips the test where mounting is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount here: a small disk cannot be made")
    if done.returncode:
        pytest.skip(
            f"a small disk cannot be mounted: {done.stderr.strip()}"
            " (as root it can, or under `unshare -rm`)"
        )
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=True)
