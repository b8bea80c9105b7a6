"""The corpus that is on every machine: Python's own library sources, no download.

In: the folder of an interpreter's library. Out: a `Source` of its .py files. Refuses an interpreter that ships none.
"""

import hashlib
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.data import DataError
from harness.data.sources import Document, Part, Source

# Not the library itself: what was installed beside it, and what differs from build to build of one version.
SKIPPED_FOLDERS = re.compile(r"(site-packages|dist-packages|__pycache__|config-.*)\Z")
SKIPPED_FILES = re.compile(r"_sysconfigdata.*\.py\Z")


class PythonStdlib(Source):
    """The library sources of the interpreter that runs: on every machine, no download, 11 to 32 MB.

    `folder` is for tests; the default is the interpreter's own library, also inside a virtual environment.
    """

    name = "python-stdlib"

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder or sysconfig.get_path("stdlib"))
        self.skipped = Counter()

    def source_id(self) -> str:
        """Interpreter version and a hash over the relative path and content of every file."""
        digest = hashlib.sha256()
        for path in self._paths():
            raw = _read(path)
            if raw is not None:
                name = path.relative_to(self.folder).as_posix()
                digest.update(f"{name}\0{len(raw)}\0".encode("utf-8", "surrogateescape"))
                digest.update(raw)
        version = re.sub(r"[^a-z0-9.]+", "_", platform.python_version().lower())
        return f"{self.name}-{version}-{digest.hexdigest()[:8]}"

    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths())

    def iter_part(self, part: Part) -> Iterator[Document]:
        self.skipped = Counter()
        for path in self._paths():
            raw = _read(path)
            text = _decode(raw)
            if raw is None:
                self.skipped["unreadable"] += 1
            elif text is None:
                self.skipped["badly encoded"] += 1  # the library tests its own decoder with such files
            elif not text.strip():
                self.skipped["empty"] += 1
            else:
                yield Document(path.relative_to(self.folder).as_posix(), text)

    def _paths(self) -> list[Path]:
        """Every library source in sorted order.

        Linked folders are not followed (loops); linked files are, since some package managers install by links.
        """
        paths = []
        for folder, subfolders, files in os.walk(self.folder):
            subfolders[:] = sorted(name for name in subfolders if not SKIPPED_FOLDERS.match(name))
            paths += [Path(folder, name) for name in files if name.endswith(".py") and not SKIPPED_FILES.match(name)]
        paths = sorted(path for path in paths if path.is_file())
        if not paths:
            raise DataError(
                f"no Python sources under {self.folder}: this interpreter ships its library compiled or zipped; "
                "use another Python (python.org, conda, pyenv, uv or your system's package)"
            )
        return paths


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _decode(raw: bytes | None) -> str | None:
    """UTF-8 text exactly as it lies on disk (line ends, byte-order mark), or None if it is not UTF-8."""
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
