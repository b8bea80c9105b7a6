"""Corpora on the Hugging Face Hub: ClimbMix, the original's web text, and TinyStories, for small machines.

In: how much of one is wanted. Out: a `Source` of parquet files under `<cache>/downloads/`, each pinned to a commit, which
is what its id names: once downloaded, and once prepared, nothing asks the network again. A folder of our own and not the
user's hub cache, since `cache` is where the user has the space, and the client keeps no half-finished file there. The
folder may be deleted once rows are prepared; another vocabulary needs it again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.data.download import download_files, is_here, plan_files
from harness.data.source import USAGE, Document, Part, RemoteFile, Source
from harness.data.textfiles import DamagedFile, iter_table
from harness.ground.errors import DataError
from harness.ground.locks import wait_for_lock

FIELD = "text"


class Piece(NamedTuple):
    """Rows start to stop of a file, and the pool that they belong to; None: to the end."""

    file: str
    pool: str
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """Of the part."""
        return self.file if not self.start and self.stop is None else f"{self.file}:{self.start}"


class HubSource(Source):
    """Pieces of the parquet files of one data set at one commit. `downloads`: a folder for all such sources."""

    repo: str
    revision: str

    def __init__(self, pieces: list[Piece], downloads: Path | None) -> None:
        self.pieces = pieces
        self.downloads = downloads
        self.skipped = Counter()

    @property
    def folder(self) -> Path:
        """Where the files of this commit lie, for all sources that take some of them."""
        assert self.downloads is not None, "opened without a cache: only good for its name"
        return self.downloads / f"{self.repo.replace('/', '--')}-{self.revision[:8]}"

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(piece.file for piece in self.pieces))

    def source_id(self) -> str:
        """The spec and the commit, which stands for the content of every file."""
        return f"{self.spec.replace(':', '-')}-{self.revision[:8]}"

    def plan_download(self, workers: int) -> list[RemoteFile]:
        return plan_files(self.repo, self.revision, self.files, self.folder, workers)

    def download(self, plan: list[RemoteFile], workers: int, progress: Callable[[str], None]) -> None:
        busy = f"another process is downloading to {self.folder}: waiting for it"
        with wait_for_lock(self.folder / ".lock", busy, progress):
            wanted = [file for file in plan if not is_here(self.folder, file.name)]
            download_files(self.repo, self.revision, wanted, self.folder, workers, progress)

    def parts(self) -> list[Part]:
        return [Part(piece.name, piece.pool) for piece in self.pieces]

    def iter_part(self, part: Part) -> Iterator[Document]:
        self.skipped = Counter()
        piece = next(piece for piece in self.pieces if piece.name == part.name)
        path = self.folder / piece.file
        try:
            for number, text in enumerate(iter_table(path, FIELD, self.skipped, piece.start, piece.stop)):
                yield Document(f"{part.name}:{number}", text)
        except (OSError, DamagedFile) as error:
            raise DataError(f"{path} cannot be read ({error}): delete it, and run the same again") from error


class ClimbMix(HubSource):
    """The original's text, NVIDIA's ClimbMix shuffled: the first `shards` shards, and its pinned validation shard.

    6,543 shards, shard_00000 to shard_06542, each of about 250M characters, 100 MB to download and, with a vocabulary of
    8,192, 64M tokens. Sources: prepare.py of karpathy/autoresearch (names, validation shard, 10 training shards),
    runs/speedrun.sh of karpathy/nanochat (size), and a study that counts 5.8B tokens in 90 shards with an 8K tokenizer.
    The default, 12, is about 770M tokens: an H100 gets through 500M in the 300 s of the original, so no text twice, with
    room for ideas that make it faster. The data set is the work of others, with its own terms (CC BY-NC 4.0 upstream).
    """

    name = "climbmix"
    repo = "karpathy/climbmix-400b-shuffle"
    revision = "915333b4f8b8684f39aeaafea600fea6f43fb703"
    validation_shard = 6542
    default_shards = 12
    shard_bytes = 250_000_000  # of text, about

    def __init__(self, shards: int, downloads: Path | None) -> None:
        self.shards = shards
        private = Piece(self._file(self.validation_shard), "private")
        super().__init__([private, *(Piece(self._file(index), "train") for index in range(shards))], downloads)

    @classmethod
    def open(cls, argument: str, cache: Path | None) -> "ClimbMix":
        if argument and not (argument.isascii() and argument.isdigit() and 1 <= int(argument) <= cls.validation_shard):
            raise DataError(
                f"climbmix:{argument}: the number of training shards is from 1 to {cls.validation_shard:,}, "
                f"such as climbmix:{cls.default_shards}"
            )
        return cls(int(argument or cls.default_shards), cache and cache / "downloads")

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.shards}"

    def total_bytes(self) -> int:
        return self.shard_bytes * len(self.pieces)

    def _file(self, index: int) -> str:
        return f"shard_{index:05d}.parquet"


class TinyStories(HubSource):
    """Short children's stories by GPT-4, cleaned: little enough variety that a small model gets somewhere in minutes.

    The file that the original's README recommends for small machines: 2,732,634 stories, 2.19G characters, 673 MB to
    download, shuffled. By its card rows 0 to 9,999 are for tests, the next 10,000 for validation, the rest for training:
    the first 20,000 are the private pool here. The raw roneneldan/TinyStories has a validation file of its own, but
    mixes in GPT-3.5's stories, duplicates and broken characters.
    """

    name = "tinystories"
    repo = "karpathy/tinystories-gpt4-clean"
    revision = "0397e27157956705a0260709da3095bb9c43d6a7"
    file = "tinystories_gpt4_clean.parquet"
    private_rows = 20_000
    rows = 2_732_634
    part_rows = 170_000  # 16 parts to share the reading
    text_bytes = 2_190_000_000

    def __init__(self, downloads: Path | None) -> None:
        starts = list(range(self.private_rows, self.rows, self.part_rows))
        train = [
            Piece(self.file, "train", start, stop) for start, stop in zip(starts, [*starts[1:], None], strict=True)
        ]
        super().__init__([Piece(self.file, "private", 0, self.private_rows), *train], downloads)

    @classmethod
    def open(cls, argument: str, cache: Path | None) -> "TinyStories":
        if argument:
            raise DataError(f"tinystories takes nothing after it, not {argument!r}; sources are {USAGE}")
        return cls(cache and cache / "downloads")

    def total_bytes(self) -> int:
        return self.text_bytes
