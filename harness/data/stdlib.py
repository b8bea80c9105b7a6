"""The corpus that is on every machine: Python's own library sources, no download.

In: the folder of an interpreter's library. Out: a `Source` of its .py files. Refuses an interpreter
that ships none.

The interpreter reads its library to run it, so that text which is imported anyway cannot be kept
from a training. Evaluation is therefore chosen among files that nothing else imports, where there
are enough of them; in builds without the tests (Debian's) it is chosen among all files. Either way
what is not chosen is trained on.
"""

import hashlib
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.data.source import Part, Source
from harness.ground.errors import DataError

# Not the library itself: what was installed beside it, and what differs from build to build.
SKIPPED_FOLDERS = re.compile(r"(site-packages|dist-packages|__pycache__|config-.*)\Z")
SKIPPED_FILES = re.compile(r"_sysconfigdata.*\.py\Z")
# The library's own tests and two programs; a change here needs a new manifest.FORMAT_VERSION.
NOT_IMPORTED_FOLDERS = {"test", "tests", "idlelib", "turtledemo"}
# A quarter of it (splits.POOL_SHARE) is two splits of 2^18 tokens and the unseen one, at 3.5 bytes
# a token.
NOT_IMPORTED_BYTES = 8_000_000


class PythonStdlib(Source):
    """The library of the interpreter that runs, also inside a virtual environment: 11 to 32 MB.

    `folder` is for tests.
    """

    name = "python-stdlib"

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder or sysconfig.get_path("stdlib"))

    def source_id(self) -> str:
        """Interpreter version and a hash over the relative path and content of every file."""
        digest = hashlib.sha256()
        for path in self._paths():
            if (raw := _read(path)) is not None:
                name = path.relative_to(self.folder).as_posix()
                digest.update(f"{name}\0{len(raw)}\0".encode("utf-8", "surrogateescape"))
                digest.update(raw)
        version = re.sub(r"[^a-z0-9.]+", "_", platform.python_version().lower())
        return f"{self.name}-{version}-{digest.hexdigest()[:8]}"

    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths())

    def parts(self) -> list[Part]:
        if self._not_imported_bytes() < NOT_IMPORTED_BYTES:
            return [Part("all")]
        return [Part("not imported"), Part("imported", "train")]

    def evaluation_note(self) -> str:
        size = self._not_imported_bytes()
        files = f"{size / 1e6:.1f} MB of files that nothing else imports"
        if size < NOT_IMPORTED_BYTES:
            least = f"{NOT_IMPORTED_BYTES / 1e6:.0f} MB"
            return f"evaluation is chosen among all files: only {files} are here, not {least}"
        return f"evaluation is chosen among {files} ({', '.join(sorted(NOT_IMPORTED_FOLDERS))})"

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        """The texts exactly as they lie on disk: line ends, byte-order mark."""
        for path in self._paths():
            if part.name != "all" and self._is_imported(path) != (part.name == "imported"):
                continue
            raw = _read(path)
            if raw is None:
                skipped["unreadable"] += 1
                continue
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:  # the library tests its own decoder with such files
                skipped["badly encoded"] += 1
                continue
            if text.strip():
                yield text
            else:
                skipped["empty"] += 1

    def _is_imported(self, path: Path) -> bool:
        """Whether something else in the library, or a package, may import this file."""
        return NOT_IMPORTED_FOLDERS.isdisjoint(path.relative_to(self.folder).parts[:-1])

    def _not_imported_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths() if not self._is_imported(path))

    def _paths(self) -> list[Path]:
        """Every library source in sorted order.

        Linked folders are not followed (loops); linked files are, since some package managers
        install by links.
        """
        paths = []
        for folder, subfolders, files in os.walk(self.folder):
            subfolders[:] = [name for name in subfolders if not SKIPPED_FOLDERS.match(name)]
            sources = (n for n in files if n.endswith(".py") and not SKIPPED_FILES.match(n))
            paths += [Path(folder, name) for name in sources]
        paths = sorted(path for path in paths if path.is_file())
        if not paths:
            raise DataError(
                f"no Python sources under {self.folder}: this interpreter ships its library "
                "compiled or zipped; use another Python (python.org, conda, pyenv, uv or your "
                "system's package)"
            )
        return paths


def not_imported_folders(library: Path) -> list[Path]:
    """The folders of a library that nothing else imports, none of them inside another."""
    found = []
    for folder, subfolders, _ in os.walk(library):
        found += [Path(folder, name) for name in subfolders if name in NOT_IMPORTED_FOLDERS]
        others = [name for name in subfolders if name not in NOT_IMPORTED_FOLDERS]
        subfolders[:] = [name for name in others if not SKIPPED_FOLDERS.match(name)]
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
