"""Where text comes from: a source is one small class that names itself and streams its documents.

In: the name of a source, such as `python-stdlib`. Out: a `Source`, whose `iter_part()` yields one document at a
time (memory stays that of one document) in an order that depends on nothing but the source's id. A source decides
nothing about splits, duplicates or tokens. It drops nothing quietly: what it cannot use it counts in `skipped`.
"""

import hashlib
import os
import platform
import re
import sysconfig
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.data import DataError

# Not the library itself: what was installed beside it, and what differs from build to build of one version.
SKIPPED_FOLDERS = re.compile(r"(site-packages|dist-packages|__pycache__|config-.*)\Z")
SKIPPED_FILES = re.compile(r"_sysconfigdata.*\.py\Z")


class Document(NamedTuple):
    """One text and the name to report it under."""

    name: str
    text: str


class Part(NamedTuple):
    """A piece of a source that can be read by itself, so that several processes can share the reading.

    pool: `any`, the documents' hashes decide what is set aside for evaluation; `private` and `train`, the source does:
    evaluation is made from `private` parts alone, and equal documents of `train` parts are dropped.
    """

    name: str
    pool: str = "any"


class Source(ABC):
    """A corpus. Another one is another subclass and a line in `SOURCES`. Plain data: worker processes get a pickled copy."""

    name: str
    skipped: Counter[str]  # reason -> documents left out by the latest iter_part()

    @abstractmethod
    def source_id(self) -> str:
        """A cheap, deterministic name for exactly this text, with version and content hash.

        Such as python-stdlib-3.11.7-1a2b3c4d. Lower-case letters, digits, '.', '_' and '-' only: it names a folder.
        """

    @abstractmethod
    def total_bytes(self) -> int:
        """About how many bytes of UTF-8 text there are, before anything is skipped. The same for the same id."""

    def parts(self) -> list[Part]:
        """What iter_part takes, in a fixed order; `private` parts first. One part unless a source says otherwise."""
        return [Part("all")]

    @abstractmethod
    def iter_part(self, part: Part) -> Iterator[Document]:
        """Every usable document of a part once, in the same order each time. Starts `skipped` afresh."""


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


SOURCES: dict[str, type[Source]] = {PythonStdlib.name: PythonStdlib}


def open_source(spec: str | Source) -> Source:
    """The source called `spec`; a Source object is returned as it is. DataError names what there is."""
    if isinstance(spec, Source):
        return spec
    if spec not in SOURCES:
        raise DataError(f"unknown source {spec!r}: choose one of {', '.join(sorted(SOURCES))}")
    return SOURCES[spec]()


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
