"""Documents on disk, in shards by content hash: written by the processes that read a source.

In: a source's parts. Out: shards, each a slice of the key's range [0, 1), free of duplicates when
read back and so small that one fits memory whatever the corpus. The parts of a source are read in
groups, by any process in any order. A group leaves three files in the folder of its pool,
`<cache>/.work/<data_id>/shards/<pool>/`:

    00007.docs   records (key, size, text) in blocks of some BLOCK_BYTES of text, each by shard
    00007.npy    where in it each shard begins, in every block: int64 (n_shards + 1, n_blocks)
    00007.json   counts; written last: with it the group is whole

A shard is read from all groups in order and within them in the order of writing, which is the
source's own. So it does not depend on how many processes wrote it, or when. Memory of a writer:
BLOCK_BYTES and one document.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from harness.data.source import Part, Source
from harness.data.splits import content_key, hash_fraction
from harness.data.workers import peak_rss_mb
from harness.ground.files import open_atomic, read_json, write_json_atomic

BLOCK_BYTES = 32 << 20  # text that a writer holds before it is ordered by shard and written
MAX_GROUPS = 256  # of one pool: reading a shard opens the files of every group
RECORD = struct.Struct("<32sQ")  # key, bytes of UTF-8 text that follow
POOLS = ({"any"}, {"any", "train"}, {"private", "train"})  # what parts may be, together


class ShardDocument(NamedTuple):
    """A document read back from a shard."""

    key: bytes
    text: bytes


class Shard(NamedTuple):
    """One shard's documents in order of their keys, and how many equal ones were dropped."""

    documents: list[ShardDocument]
    duplicates: int
    duplicate_bytes: int


class GroupTask(NamedTuple):
    """Read these parts, all of one pool, into the pool's folder. Pickled with the source."""

    source: Source
    parts: Sequence[Part]
    folder: Path
    index: int
    n_shards: int

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.index:05d}.{suffix}"


def make_group_tasks(source: Source, folder: Path, n_shards: int) -> list[GroupTask]:
    """The source's parts in at most MAX_GROUPS runs of neighbours a pool, for `write_group`."""
    parts = source.parts()
    pools = {part.pool for part in parts}
    assert pools in POOLS, f"{source.name} has parts of {sorted(pools)}: see source.Part"
    tasks = []
    for pool in sorted(pools):
        members = [part for part in parts if part.pool == pool]
        size = -(-len(members) // MAX_GROUPS)
        (folder / pool).mkdir(parents=True, exist_ok=True)
        for index, start in enumerate(range(0, len(members), size)):
            group = members[start : start + size]
            tasks.append(GroupTask(source, group, folder / pool, index, n_shards))
    return tasks


def write_group(task: GroupTask) -> dict[str, Any]:
    """Write one group's files, unless that is done; return its counts."""
    if task.path("json").exists():
        return read_json(task.path("json"))
    buffers = [bytearray() for _ in range(task.n_shards)]
    documents = total_bytes = buffered = 0
    skipped: Counter[str] = Counter()
    starts: list[np.ndarray] = []
    with open_atomic(task.path("docs")) as file:
        for text in (text for part in task.parts for text in task.source.iter_part(part, skipped)):
            try:
                raw = text.encode("utf-8")
            except UnicodeEncodeError:  # half of a surrogate pair: no such text exists in UTF-8
                skipped["badly encoded"] += 1
                continue
            key = content_key(text)
            buffers[int(hash_fraction(key) * task.n_shards)] += RECORD.pack(key, len(raw)) + raw
            documents += 1
            total_bytes += len(raw)
            buffered += len(raw)
            if buffered >= BLOCK_BYTES:
                starts.append(_write_block(file, buffers))
                buffered = 0
        starts.append(_write_block(file, buffers))
    with open_atomic(task.path("npy")) as file:
        np.save(file, np.stack(starts, axis=1), allow_pickle=False)
    counts = {
        "documents": documents,
        "bytes": total_bytes,
        "skipped": dict(skipped),
        "peak_rss_mb": peak_rss_mb(),
    }
    write_json_atomic(task.path("json"), counts)
    return counts


def _write_block(file: BinaryIO, buffers: list[bytearray]) -> np.ndarray:
    """Write and empty the buffers; return where each begins, and where the last ends."""
    starts = file.tell() + np.cumsum([0, *map(len, buffers)])
    for buffer in buffers:
        file.write(buffer)
        buffer.clear()
    return starts


def read_shard(folders: Sequence[Path], index: int) -> Shard:
    """A shard of the pools in `folders`, its documents by key; of equal ones the first is kept."""
    kept: dict[bytes, bytes] = {}
    records = duplicate_bytes = 0
    # one slice at a time: of a text that is there a million times one is held
    for raw in _iter_slices(folders, index):
        position = 0
        while position < len(raw):
            key, size = RECORD.unpack_from(raw, position)
            position += RECORD.size + size
            records += 1
            if key in kept:
                duplicate_bytes += size
            else:
                kept[key] = raw[position - size : position]
    documents = [ShardDocument(*item) for item in sorted(kept.items())]
    return Shard(documents, records - len(documents), duplicate_bytes)


def _iter_slices(folders: Sequence[Path], index: int) -> Iterator[bytes]:
    """What each block of each group holds of one shard, in order."""
    for path in (path for folder in folders for path in sorted(folder.glob("*.docs"))):
        table = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        with open(path, "rb", buffering=0) as file:
            for start, end in table[index : index + 2].T.tolist():
                if start < end:
                    file.seek(start)
                    yield file.read(end - start)


def pool_folders(shards: Path) -> tuple[Path, list[Path]]:
    """The folder of what evaluation is chosen from, and the folders of what training is."""
    if (shards / "private").exists():
        return shards / "private", [shards / "train"]
    folders = (shards / "any", shards / "train")
    return folders[0], [folder for folder in folders if folder.exists()]
