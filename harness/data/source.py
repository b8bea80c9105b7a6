"""Where text comes from: a source is one small class that names itself and streams its texts.

In: a spec such as `python-stdlib`, `climbmix:12` or `folder:/home/me/books`. Out: a `Source`, whose
`iter_part()` yields one text at a time (memory stays that of one text) in an order that depends on
nothing but the source's id. A source decides nothing about splits, duplicates or tokens. It drops
nothing quietly: what it cannot use it counts. Opening one touches neither disk nor network.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.ground.errors import DataError

USAGE = "python-stdlib, climbmix[:SHARDS], tinystories or folder:PATH[::FIELD]"

Progress = Callable[[str], None]  # takes one line for people


class Part(NamedTuple):
    """A piece of a source that can be read by itself, so that several processes can share the work.

    pool: `any`, the texts' hashes decide which are set aside for evaluation, the others are trained
    on. `private`, evaluation is made from these parts alone, and none of them is trained on.
    `train`, all are trained on, but for those equal to one of evaluation. All parts are `any`, or
    some are `any` or `private` and some `train`. start, stop: rows of a table; None is its end.
    """

    name: str
    pool: str = "any"
    start: int = 0
    stop: int | None = None


class RemoteFile(NamedTuple):
    """A file still to be downloaded, as the server describes it; `have` bytes are here already."""

    name: str
    bytes: int
    sha256: str
    have: int = 0


class Source(ABC):
    """A corpus. Another one is another subclass and a word in `open_source`.

    Plain data: worker processes get a copy.
    """

    name: str
    cache: Path | None = None  # for downloads, and for what was hashed; set by `open_source`

    @classmethod
    def open(cls, argument: str) -> "Source":
        """The source of a spec, from what follows its colon; DataError if that makes no sense."""
        if argument:
            raise DataError(
                f"{cls.name} takes nothing after it, not {argument!r}; sources are {USAGE}"
            )
        return cls()

    @property
    def spec(self) -> str:
        """What opens this source again, from any working directory."""
        return self.name

    @abstractmethod
    def source_id(self) -> str:
        """A cheap, deterministic name for exactly this text; needs no network.

        With version and content hash, such as python-stdlib-3.11.7-1a2b3c4d. It names a folder:
        lower-case letters, digits, '.', '_' and '-' only.
        """

    @abstractmethod
    def total_bytes(self) -> int:
        """About how many bytes of UTF-8 text there are. The same for the same id."""

    def plan_download(self, workers: int) -> list[RemoteFile]:
        """What is not on this machine yet; files already here are verified. May be a DataError."""
        return []

    def download(self, plan: list[RemoteFile], workers: int, progress: Progress) -> None:
        """Get the planned files, going on with half-finished ones. DataError with what to do."""
        assert not plan, f"{self.name} has nothing to download"

    def parts(self) -> list[Part]:
        """What iter_part takes, in a fixed order; `train` parts last. One unless overridden."""
        return [Part("all")]

    def evaluation_note(self) -> str:
        """One line for people on what evaluation is chosen from, if there is something to say."""
        return ""

    @abstractmethod
    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        """Every usable text of a part once, in the same order each time.

        skipped: counts, by reason, what is left out.
        """
