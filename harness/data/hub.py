"""Corpora on the Hugging Face Hub: ClimbMix, the original's web text, and TinyStories, a small one.

In: how much of one is wanted. Out: a `Source` of parquet files under `<cache>/downloads/`, each
pinned to a commit, which is what its id names: once downloaded, and once prepared, nothing asks the
network again. A folder of our own and not the user's hub cache, since `cache` is where the user has
the space. It may be deleted once rows are prepared; another vocabulary needs it again.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.data.source import Part, Progress, RemoteFile, Source
from harness.data.textfiles import DamagedFile, iter_table
from harness.ground.errors import DataError

FIELD = "text"


class HubSource(Source):
    """Parquet files of one data set at one commit; a part is named after its file."""

    repo: str
    revision: str

    @property
    def folder(self) -> Path:
        """Where the files of this commit lie, for all sources that take some of them."""
        name = f"{self.repo.replace('/', '--')}-{self.revision[:8]}"
        return self.cache / "downloads" / name

    def source_id(self) -> str:
        """The spec and the commit, which stands for the content of every file."""
        return f"{self.spec.replace(':', '-')}-{self.revision[:8]}"

    def plan_download(self, workers: int) -> list[RemoteFile]:
        names = list(dict.fromkeys(part.name for part in self.parts()))
        return self._remote().plan(names, workers)

    def download(self, plan: list[RemoteFile], workers: int, progress: Progress) -> None:
        self._remote().download(plan, workers, progress)

    def _remote(self):
        from harness.data.download import HubFiles  # only those who download pay for the client

        return HubFiles(self.repo, self.revision, self.folder)

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        path = self.folder / part.name
        try:
            yield from iter_table(path, FIELD, skipped, part.start, part.stop)
        except (OSError, DamagedFile) as error:
            raise DataError(
                f"{path} cannot be read ({error}): delete it, and run the same again"
            ) from error


class ClimbMix(HubSource):
    """The original's text, NVIDIA's ClimbMix shuffled: some shards, and its validation shard.

    6,543 shards, each of about 250M characters, 100 MB to download and, with a vocabulary of 8,192,
    64M tokens. Sources: prepare.py of karpathy/autoresearch (names, validation shard, 10 training
    shards), runs/speedrun.sh of karpathy/nanochat (size), and a study that counts 5.8B tokens in 90
    shards with an 8K tokenizer. The default, 12, is about 770M tokens: an H100 gets through 500M in
    the 300 s of the original, so no text twice, with room for ideas that make it faster. The data
    set is the work of others, with its own terms (CC BY-NC 4.0 upstream).
    """

    name = "climbmix"
    repo = "karpathy/climbmix-400b-shuffle"
    revision = "915333b4f8b8684f39aeaafea600fea6f43fb703"
    validation_shard = 6542
    default_shards = 12
    shard_bytes = 250_000_000  # of text, about

    def __init__(self, shards: int) -> None:
        self.shards = shards

    @classmethod
    def open(cls, argument: str) -> "ClimbMix":
        shards = argument or str(cls.default_shards)
        if not (shards.isascii() and shards.isdigit() and 1 <= int(shards) <= cls.validation_shard):
            raise DataError(
                f"climbmix:{argument}: the number of training shards is from 1 to "
                f"{cls.validation_shard:,}, such as climbmix:{cls.default_shards}"
            )
        return cls(int(shards))

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.shards}"

    def total_bytes(self) -> int:
        return self.shard_bytes * (1 + self.shards)

    def parts(self) -> list[Part]:
        name = "shard_{:05d}.parquet".format
        train = [Part(name(index), "train") for index in range(self.shards)]
        return [Part(name(self.validation_shard), "private"), *train]


class TinyStories(HubSource):
    """Short children's stories by GPT-4, cleaned: a small model gets somewhere in minutes.

    The file that the original's README recommends for small machines: 2,732,634 stories, 2.19G
    characters, 673 MB to download, shuffled. By its card rows 0 to 9,999 are for tests, the next
    10,000 for validation, the rest for training: the first 20,000 are the private pool here. The
    raw roneneldan/TinyStories has a validation file of its own, but mixes in GPT-3.5's stories,
    duplicates and broken characters.
    """

    name = "tinystories"
    repo = "karpathy/tinystories-gpt4-clean"
    revision = "0397e27157956705a0260709da3095bb9c43d6a7"
    file = "tinystories_gpt4_clean.parquet"
    private_rows = 20_000
    rows = 2_732_634
    part_rows = 170_000  # 16 parts to share the reading
    text_bytes = 2_190_000_000

    def total_bytes(self) -> int:
        return self.text_bytes

    def parts(self) -> list[Part]:
        starts = list(range(self.private_rows, self.rows, self.part_rows))
        stops = [*starts[1:], None]
        train = [Part(self.file, "train", *rows) for rows in zip(starts, stops, strict=True)]
        return [Part(self.file, "private", 0, self.private_rows), *train]
