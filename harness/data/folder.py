"""The corpus of your own: every text file under a folder.

In: a folder. Out: a `Source` of its .txt, .md, .py, .jsonl and .parquet files, nested ones too, all
but parquet also as .gz. Names that begin with a dot and linked folders are passed over (a link may
lead round in a circle); other kinds of file are not looked at. Refuses a path that is no folder, or
holds no such file. A part is about PART_BYTES of files, so one huge file is read by one process.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.data.source import Part, Source
from harness.data.textfiles import GZIP, KINDS, TABLE, iter_texts, kind_of
from harness.ground.errors import DataError
from harness.ground.files import read_json, sha256_file, write_json_atomic

PART_BYTES = 64 << 20
INFLATION = 4  # bytes of text in a byte of gzip or parquet, about; for the disk needed
FIELD = "text"
UNREADABLE = "unreadable"
WANTED = f"{', '.join(KINDS)} files"


class FoundFile(NamedTuple):
    """A file of the corpus: its name in the folder, and what tells that it has not changed."""

    name: str
    bytes: int
    mtime_ns: int


class Folder(Source):
    """The files under `path`. `field`: what holds the text in .jsonl and .parquet.

    Spec: `folder:PATH`, or `folder:PATH::FIELD`. A relative path is taken from the working
    directory once, here.
    """

    name = "folder"

    def __init__(self, path: str | os.PathLike[str], field: str = FIELD) -> None:
        self.path = Path(os.path.abspath(Path(path).expanduser()))
        self.field = field

    @classmethod
    def open(cls, argument: str) -> "Folder":
        path, separator, field = argument.partition("::")
        if not path or (separator and not field):
            raise DataError(
                f"folder:{argument} names no folder: write folder:PATH, or folder:PATH::FIELD"
            )
        return cls(path, field or FIELD)

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.path}" + (f"::{self.field}" if self.field != FIELD else "")

    def source_id(self) -> str:
        """The folder's own name, and a hash over name, size and full content of every file.

        A file of remembered size and time is not read again: a change that keeps both is not
        noticed.
        """
        self.__dict__.pop("files", None)  # looked for anew
        digest = hashlib.sha256(f"{self.field}\0".encode())
        for file, sha256 in zip(self.files, self._hashes(), strict=True):
            line = f"{file.name}\0{file.bytes}\0{sha256}\0"
            digest.update(line.encode("utf-8", "surrogateescape"))
        slug = re.sub(r"[^a-z0-9]+", "-", self.path.name.lower()).strip("-")[:24]
        return f"{self.name}-{slug or 'text'}-{digest.hexdigest()[:10]}"

    def total_bytes(self) -> int:
        packed = (TABLE, GZIP)
        sizes = (
            file.bytes * (INFLATION if file.name.lower().endswith(packed) else 1)
            for file in self.files
        )
        return sum(sizes)

    def parts(self) -> list[Part]:
        return [Part(str(number)) for number, _ in enumerate(self._groups())]

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        for file in self._groups()[int(part.name)]:
            yield from iter_texts(self.path / file.name, self.field, skipped)

    @cached_property  # once known, worker processes need not look again
    def files(self) -> list[FoundFile]:
        """Every file of the corpus, sorted by name. DataError when there is none."""
        if not self.path.is_dir():
            what = "is a file, not a folder" if self.path.exists() else "does not exist"
            raise DataError(f"{self.path} {what}: folder:PATH names a folder that holds {WANTED}")
        found, others = [], Counter()
        for folder, subfolders, names in os.walk(self.path):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith(".") or not path.is_file():  # no pipe, device or broken link
                    continue
                if kind_of(name) is None:
                    others[path.suffix.lower() or "no ending"] += 1
                    continue
                with contextlib.suppress(OSError):  # gone in this moment
                    status = path.stat()
                    relative = path.relative_to(self.path).as_posix()
                    found.append(FoundFile(relative, status.st_size, status.st_mtime_ns))
        if not found:
            counts = [f"{count} with {suffix}" for suffix, count in others.most_common(5)]
            raise DataError(
                f"{self.path} holds no {WANTED} ({', '.join(counts) or 'no file at all'}): name "
                "another folder, or convert its files to .txt"
            )
        return sorted(found)

    def places(self) -> list[str]:
        """Where its text is: the folder, and the folders that linked files of it lie in."""
        links = [path for file in self.files if (path := self.path / file.name).is_symlink()]
        targets = [Path(os.path.realpath(link)) for link in links]
        at_top = Path(self.path.anchor)
        held = [target if target.parent == at_top else target.parent for target in targets]
        return [str(self.path), *dict.fromkeys(map(str, held))]

    def _groups(self) -> list[list[FoundFile]]:
        """The files in order, in groups of about PART_BYTES."""
        groups: list[list[FoundFile]] = [[]]
        filled = 0
        for file in self.files:
            if filled >= PART_BYTES:
                groups.append([])
                filled = 0
            groups[-1].append(file)
            filled += file.bytes
        return groups

    def _hashes(self) -> list[str]:
        """SHA-256 of each file, or UNREADABLE; those of unchanged files are remembered."""
        key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        memory = self.cache and self.cache / "folders" / f"{key}.json"
        known: dict[str, list] = {}
        if memory:
            with contextlib.suppress(OSError, ValueError):  # no memory yet, or a damaged one
                known = read_json(memory)
        hashes: dict[str, list] = {}
        for file in self.files:
            *same, sha256 = known.get(file.name, [UNREADABLE])
            if same != [file.bytes, file.mtime_ns] or sha256 == UNREADABLE:
                sha256 = _sha256(self.path / file.name)
            hashes[file.name] = [file.bytes, file.mtime_ns, sha256]
        if memory and hashes != known:
            # where it cannot be written, it is only slower the next time
            with contextlib.suppress(OSError, UnicodeEncodeError):
                memory.parent.mkdir(parents=True, exist_ok=True)
                write_json_atomic(memory, hashes)
        return [sha256 for *_, sha256 in hashes.values()]


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return UNREADABLE
