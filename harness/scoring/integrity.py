"""Whether harness and data are, after a run, what they were before it.

In: prepared data, and the hash that the run began with. Out: the names of what changed. A file's
size and times can be set by anybody, but not the time of its last change of state; so the large
rows are hashed again only where that time moved, and all else is hashed each time (some
milliseconds).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from harness import REPOSITORY
from harness.data.manifest import PreparedData
from harness.ground.files import sha256_file

LARGE = "train/rows.bin"
# Python runs them before all else, from wherever it finds them.
STARTUP_MODULES = ("sitecustomize", "usercustomize")


class Integrity:
    """What harness and data were when this was made."""

    def __init__(
        self, data: PreparedData, expected_harness: str, package: Path = REPOSITORY / "harness"
    ) -> None:
        self.data, self.expected_harness, self.package = data, expected_harness, package
        self._stamp = stamp(data.folder / LARGE)

    def changed(self) -> list[str]:
        """Names of what is no longer as it was, [] when all is."""
        found = [] if harness_hash(self.package) == self.expected_harness else ["harness/"]
        found += startup_modules(self.package.parent)
        for name, entry in self.data.manifest["files"].items():
            path = self.data.folder / name
            untouched = name == LARGE and stamp(path) == self._stamp
            if not path.is_file() or not (untouched or sha256_file(path) == entry["sha256"]):
                found.append(name)
        return found


def harness_hash(package: Path = REPOSITORY / "harness") -> str:
    """Hash of all the harness's sources, names included: one hash, one way to measure."""
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.toml")]):
        if any(part.startswith(".") for part in path.relative_to(package).parts):
            continue  # a copy that JupyterLab made of a file somebody opened
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def startup_modules(repository: Path = REPOSITORY) -> list[str]:
    """Modules beside harness/ that Python may run at the start of every process, in words."""
    places = [repository / name for module in STARTUP_MODULES for name in (module, f"{module}.py")]
    return [f"{place.name} beside harness/" for place in places if place.exists()]


def stamp(path: Path) -> tuple[int, ...] | None:
    """What a change does not leave as it was: size, inode, times; None without a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
