"""From shards of text to files of rows: the evaluation rows in one go, the training rows shard by shard.

In: shard files, a tokenizer. Out: `val.bin` and `holdout.bin`, one part file of training rows per shard, `rows.bin` of
all parts, and for each a dict of counts. `make_train_part` is what worker processes run: everything it needs is in its
argument, and a part that exists is not made again. Memory is that of one shard, or of the evaluation documents.
"""

import functools
import shutil
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.data.files import open_atomic, read_json, write_json_atomic
from harness.data.packing import ROW_DTYPE, count_content, count_targets, pack_rows
from harness.data.splits import POOL_SHARE, choose_eval, hash_fraction, iter_shards, read_shard, row_slots, shard_path
from harness.data.tokenizer import Tokenizer, load_tokenizer
from harness.data.workers import peak_rss_mb

Counts = dict[str, Any]

BLOCK_TOKENS = 1 << 20  # ids counted at a time


class EncodedDocument(NamedTuple):
    """A document of the evaluation pool: its key, size in bytes of text, and token ids uint16 (n,)."""

    key: bytes
    text_bytes: int
    ids: np.ndarray


class PartTask(NamedTuple):
    """Make the training rows of one shard from its documents with keys above `after_key`. Plain data: it is pickled."""

    index: int
    shards: Path
    parts: Path
    tokenizer: Path
    after_key: bytes
    max_seq_len: int

    @property
    def rows_path(self) -> Path:
        return self.parts / f"{self.index:05d}.bin"

    @property
    def counts_path(self) -> Path:
        """Written last: the part is whole when this exists."""
        return self.parts / f"{self.index:05d}.json"


def iter_tokenizer_text(shards: Path, n_shards: int, max_bytes: int) -> Iterator[str]:
    """Training documents that can never be private, in hash order, which is a random sample, up to `max_bytes`."""
    left = max_bytes
    for index in range(int(POOL_SHARE * n_shards), n_shards):
        for document in read_shard(shard_path(shards, index)).documents:
            if hash_fraction(document.key) < POOL_SHARE:
                continue
            if left <= 0:
                return
            left -= len(document.text)
            yield document.text.decode("utf-8")


def make_eval_rows(
    shards: Path, n_shards: int, tokenizer: Tokenizer, rows: int, max_seq_len: int, private: Path
) -> Counts:
    """Write val.bin and holdout.bin into `private`, of `rows` rows each or of fewer where the corpus is too small.

    Returns {rows, last_key, val: counts, holdout: counts}; documents with keys above last_key (hex) are for training.
    """
    encoded: list[EncodedDocument] = []

    def iter_lengths() -> Iterator[int]:
        pool = takewhile(lambda document: hash_fraction(document.key) < POOL_SHARE, iter_shards(shards, n_shards))
        for key, text in pool:
            encoded.append(EncodedDocument(key, len(text), tokenizer.encode(text.decode("utf-8"))))
            yield len(encoded[-1].ids)

    choice = choose_eval(iter_lengths(), rows, max_seq_len)
    end = choice.n_val + choice.n_holdout
    result: Counts = {"rows": choice.rows, "last_key": encoded[end - 1].key.hex()}
    for split, documents in (("val", encoded[: choice.n_val]), ("holdout", encoded[choice.n_val : end])):
        packed, result[split] = _pack_exactly(documents, choice.rows, choice.limit, max_seq_len, tokenizer.bos_id)
        with open_atomic(private / f"{split}.bin") as file:
            file.write(packed.data)
    return result


def _pack_exactly(
    documents: Sequence[EncodedDocument], rows: int, limit: int | None, max_seq_len: int, bos_id: int
) -> tuple[np.ndarray, Counts]:
    """Exactly `rows` rows, all full, from documents known to fill them; what does not fit stays unused and private."""
    offered, room = [], rows * (max_seq_len + 1)
    for document in documents:
        ids = document.ids[:limit][:room]
        offered.append(ids)
        room -= row_slots(len(ids), max_seq_len)
    packed = pack_rows(offered, max_seq_len, bos_id)[:rows]
    assert len(packed) == rows, (len(packed), rows)
    content = count_content(packed, bos_id)
    counts = {
        "documents": len(documents),
        "bytes": sum(document.text_bytes for document in documents),
        "tokens": content,
        "offered_tokens": sum(len(ids) for ids in offered),
        "unused_tokens": sum(len(document.ids) for document in documents) - content,
    }
    return packed, counts


def make_train_part(task: PartTask) -> Counts:
    """Tokenise and pack one shard into its part file, unless that is done; return the part's counts."""
    if task.counts_path.exists():
        return read_json(task.counts_path)
    tokenizer = _cached_tokenizer(task.tokenizer)
    shard = read_shard(shard_path(task.shards, task.index))
    texts = [document.text for document in shard.documents if document.key > task.after_key]
    encoded = [tokenizer.encode(text.decode("utf-8")) for text in texts]
    packed = pack_rows(encoded, task.max_seq_len, tokenizer.bos_id)
    with open_atomic(task.rows_path) as file:
        file.write(packed.data)
    counts = {
        "rows": len(packed),
        "documents": len(texts),
        "bytes": sum(len(text) for text in texts),
        "offered_tokens": sum(len(ids) for ids in encoded),
        "tokens": count_content(packed, tokenizer.bos_id),
        "duplicates": shard.duplicates,
        "duplicate_bytes": shard.duplicate_bytes,
        "peak_rss_mb": peak_rss_mb(),
    }
    write_json_atomic(task.counts_path, counts)
    return counts


def join_parts(tasks: Sequence[PartTask], path: Path) -> None:
    """Write all parts, in order, as one file of rows."""
    with open_atomic(path) as file:
        for task in tasks:
            with open(task.rows_path, "rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)


def count_file_targets(path: Path, max_seq_len: int, n_vocab: int) -> np.ndarray:
    """packing.count_targets of a whole file, read in blocks: a memory map would hold all of it in the end."""
    width = max_seq_len + 1
    counts = np.zeros(n_vocab, dtype=np.int64)
    with open(path, "rb") as file:
        while (block := np.fromfile(file, ROW_DTYPE, max(1, BLOCK_TOKENS // width) * width)).size:
            counts += count_targets(block.reshape(-1, width), n_vocab)
    return counts


def open_rows(path: Path, max_seq_len: int) -> np.ndarray:
    """A file of rows as a read-only memory map, uint16 (n_rows, max_seq_len + 1)."""
    return np.memmap(path, dtype=ROW_DTYPE, mode="r").reshape(-1, max_seq_len + 1)


@functools.lru_cache(maxsize=1)
def _cached_tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)  # once per worker process, not once per shard
