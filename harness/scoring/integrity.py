"""Whether harness and data are the same after a training as before it.

In: prepared data, and the harness hash that the run began with. Out: the names of what changed.
Anybody can set a file's size and modification time, but not the time of its last status change
(ctime). So the large files of rows are hashed again only where that time changed, and all else is
hashed each time (some milliseconds).
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import site
from pathlib import Path

from harness import REPOSITORY
from harness.data.manifest import PreparedData
from harness.ground.files import sha256_file

LARGE = "train/rows.bin"
# Python runs them before all else, from wherever it finds them.
STARTUP_MODULES = ("sitecustomize", "usercustomize")
# Whatever Python imports: a compiled module comes before a source of the same name.
SUFFIXES = importlib.machinery.all_suffixes()
HASHED = {".toml", *(Path(f"x{suffix}").suffix for suffix in SUFFIXES)}


class Integrity:
    """What harness and data were when this was made."""

    def __init__(
        self, data: PreparedData, expected_harness: str, package: Path = REPOSITORY / "harness"
    ) -> None:
        self.data, self.expected_harness, self.package = data, expected_harness, package
        self._stamp = stamp(data.folder / LARGE)
        self._startup = startup_files()

    def changed(self) -> list[str]:
        """Names of what is no longer as it was, [] when all is."""
        found = [] if harness_hash(self.package) == self.expected_harness else ["harness/"]
        found += startup_modules(self.package.parent)
        found += [path for path, now in startup_files().items() if now != self._startup.get(path)]
        for name, entry in self.data.manifest["files"].items():
            path = self.data.folder / name
            untouched = name == LARGE and stamp(path) == self._stamp
            if not path.is_file() or not (untouched or sha256_file(path) == entry["sha256"]):
                found.append(name)
        return found


def harness_hash(package: Path = REPOSITORY / "harness") -> str:
    """Hash of all the harness's sources, names included: one hash, one way to measure."""
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in HASHED):
        if any(part.startswith((".", "__pycache__")) for part in path.relative_to(package).parts):
            continue  # a copy that JupyterLab made of a file somebody opened; a cache
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def startup_modules(repository: Path = REPOSITORY) -> list[str]:
    """Modules beside harness/ that Python may run at the start of every process, in words."""
    names = [module + end for module in STARTUP_MODULES for end in ("", *SUFFIXES)]
    places = [repository / name for name in names]
    return [f"{place.name} beside harness/" for place in places if place.exists()]


def startup_files() -> dict[str, tuple[int, ...] | None]:
    """Files among the packages that Python runs at the start of every process, with their stamps:
    without a wall edited code could leave one for the next.
    """
    folders = {*site.getsitepackages(), site.getusersitepackages()}
    names = ["*.pth", *(f"{module}*" for module in STARTUP_MODULES)]
    found = [path for folder in folders for name in names for path in Path(folder).glob(name)]
    return {str(path): stamp(path) for path in sorted(found)}


def stamp(path: Path) -> tuple[int, ...] | None:
    """What a change does not leave as it was: size, inode, times; None without a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
