"""From shards of text to files of rows: the evaluation rows in one go, training shard by shard.

In: shards, a tokenizer. Out: a file of rows for each evaluation split, `rows.bin` with the training
rows of all shards in order, and counts of each. `make_train_part` is what worker processes run:
everything it needs is in its argument, and its result, some megabytes of rows, goes to the one
process that writes. Memory is that of a few shards, or of the evaluation documents.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.data.packing import ROW_DTYPE, count_content, count_targets, pack_rows
from harness.data.shards import ShardDocument, pool_folders, read_shard
from harness.data.splits import (
    EVAL_SPLITS,
    POOL_SHARE,
    SplitChoice,
    choose_eval,
    hash_fraction,
    row_slots,
)
from harness.data.tokenizer import Tokenizer, load_tokenizer
from harness.data.workers import peak_rss_mb
from harness.ground.files import open_atomic, read_json, write_json_atomic

Counts = dict[str, Any]

CHECKPOINT_PARTS = 16  # shards between two points that a killed prepare can go on from
LENGTH_BINS = 48  # documents are counted by the number of binary digits of their tokens


class EncodedDocument(NamedTuple):
    """A document of the evaluation pool: key, size in bytes of text, and token ids uint16 (n,)."""

    key: bytes
    text_bytes: int
    ids: np.ndarray


class PartTask(NamedTuple):
    """Make the training rows of one shard; evaluation has the documents up to `last_key`."""

    index: int
    shards: Path
    tokenizer: Path
    last_key: bytes
    max_seq_len: int


class TrainPart(NamedTuple):
    """One shard's training rows uint16 (n, max_seq_len + 1), and their counts.

    Counts of several parts are added up, but for peak_rss_mb, whose largest counts.
    """

    rows: np.ndarray
    counts: dict[str, int | np.ndarray]


class RowsFile(contextlib.AbstractContextManager):
    """`rows.bin` while it grows part by part; a killed prepare goes on from the last checkpoint.

    state_path: how many parts are in it at the last checkpoint, its size then, their counts.
    """

    def __init__(self, path: Path, state_path: Path) -> None:
        self._state_path = state_path
        state = {"parts": 0, "bytes": 0, "counts": {}}
        if state_path.exists():
            state = read_json(state_path)
        self.parts = state["parts"]
        self.counts = {name: np.asarray(value) for name, value in state["counts"].items()}
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 (see __exit__)
        self._file.truncate(state["bytes"])
        self._file.seek(0, os.SEEK_END)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, part: TrainPart) -> None:
        self._file.write(part.rows.data)
        self.parts += 1
        for name, value in part.counts.items():
            combine = np.maximum if name == "peak_rss_mb" else np.add
            self.counts[name] = combine(self.counts.get(name, 0), value)
        if self.parts % CHECKPOINT_PARTS == 0:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Rows first, then the note that they are there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        counts = {name: value.tolist() for name, value in self.counts.items()}
        state = {"parts": self.parts, "bytes": self._file.tell(), "counts": counts}
        write_json_atomic(self._state_path, state)


def iter_tokenizer_text(shards: Path, n_shards: int, max_bytes: int) -> Iterator[str]:
    """Training documents that can never be private, up to `max_bytes`: by hash, so at random."""
    left = max_bytes
    evaluation, training = pool_folders(shards)
    share = POOL_SHARE if evaluation in training else 0.0
    for index in range(int(share * n_shards), n_shards):
        barred = set() if share else {key for key, _ in read_shard([evaluation], index).documents}
        for key, text in read_shard(training, index).documents:
            if hash_fraction(key) < share or key in barred:
                continue
            if left <= 0:
                return
            left -= len(text)
            yield text.decode("utf-8")


def make_eval_rows(
    shards: Path, n_shards: int, tokenizer: Tokenizer, rows: int, max_seq_len: int, private: Path
) -> Counts:
    """Write the files of EVAL_SPLITS into `private`, with `rows` rows of validation.

    There are fewer where the corpus is too small. Returns {last_key, split: its counts}; documents
    up to last_key (hex) are taken.
    """
    encoded: list[EncodedDocument] = []
    evaluation, training = pool_folders(shards)
    share = POOL_SHARE if evaluation in training else 1.0

    def iter_lengths() -> Iterator[int]:
        shard_documents = (read_shard([evaluation], index).documents for index in range(n_shards))
        documents = chain.from_iterable(shard_documents)
        for key, text in takewhile(lambda document: hash_fraction(document.key) < share, documents):
            ids = tokenizer.encode(text.decode("utf-8"))
            encoded.append(EncodedDocument(key, len(text), ids))
            yield len(ids)

    result: Counts = {}
    end = 0
    choices = choose_eval(iter_lengths(), rows, max_seq_len)
    for split, choice in zip(EVAL_SPLITS, choices, strict=True):
        start, end = end, end + choice.documents
        packed, result[split] = _pack_exactly(
            encoded[start:end], choice, max_seq_len, tokenizer.bos_id
        )
        with open_atomic(private / f"{split}.bin") as file:
            file.write(packed.data)
    return result | {"last_key": encoded[end - 1].key.hex()}


def _pack_exactly(
    documents: Sequence[EncodedDocument], choice: SplitChoice, max_seq_len: int, bos_id: int
) -> tuple[np.ndarray, Counts]:
    """Exactly the chosen number of rows, all full, from documents known to fill them.

    What does not fit stays unused and private.
    """
    offered, room = [], choice.rows * (max_seq_len + 1)
    for document in documents:
        ids = document.ids[: choice.limit][:room]
        offered.append(ids)
        room -= row_slots(len(ids), max_seq_len)
    lengths = [len(ids) for ids in offered]
    packed = pack_rows(np.concatenate(offered), lengths, max_seq_len, bos_id)[: choice.rows]
    assert len(packed) == choice.rows, (len(packed), choice.rows)
    content = count_content(packed, bos_id)
    counts = {
        "rows": choice.rows,
        "documents": len(documents),
        "bytes": sum(document.text_bytes for document in documents),
        "tokens": content,
        "offered_tokens": sum(lengths),
        "unused_tokens": sum(len(document.ids) for document in documents) - content,
    }
    return packed, counts


def make_train_part(task: PartTask) -> TrainPart:
    """Tokenise and pack one shard's training documents."""
    tokenizer = _cached_tokenizer(task.tokenizer)
    texts, dropped = _read_training(task)
    ids, lengths = tokenizer.encode_all(text.decode("utf-8") for text in texts)
    packed = pack_rows(ids, lengths, task.max_seq_len, tokenizer.bos_id)
    digits = [length.bit_length() for length in lengths]
    counts = {
        "rows": len(packed),
        "documents": len(texts),
        "bytes": sum(map(len, texts)),
        "offered_tokens": len(ids),
        "tokens": count_content(packed, tokenizer.bos_id),
        "targets": count_targets(packed, tokenizer.n_vocab),
        "lengths": np.bincount(digits, minlength=LENGTH_BINS),
        "cut": sum(length > task.max_seq_len for length in lengths),
        "peak_rss_mb": peak_rss_mb(),
    }
    return TrainPart(packed, counts | dropped)


def _read_training(task: PartTask) -> tuple[list[bytes], dict[str, int]]:
    """The shard's training texts, and counts of what was not taken.

    That is copies and, where training and evaluation have parts of their own, copies of evaluation
    text and private text left over.
    """
    evaluation, training = pool_folders(task.shards)
    shard = read_shard(training, task.index)
    private = shard if training == [evaluation] else read_shard([evaluation], task.index)
    taken = {document.key for document in private.documents if document.key <= task.last_key}
    dropped = {"duplicates": shard.duplicates, "duplicates_bytes": shard.duplicate_bytes}
    if evaluation not in training:
        dropped["duplicates"] += private.duplicates
        dropped["duplicates_bytes"] += private.duplicate_bytes
        leaked = [document for document in shard.documents if document.key in taken]
        unused = [document for document in private.documents if document.key not in taken]
        dropped |= _count("leaked", leaked) | _count("unused", unused)
    return [document.text for document in shard.documents if document.key not in taken], dropped


def _count(what: str, documents: Sequence[ShardDocument]) -> dict[str, int]:
    text_bytes = sum(len(document.text) for document in documents)
    return {what: len(documents), f"{what}_bytes": text_bytes}


def open_rows(path: Path, max_seq_len: int) -> np.ndarray:
    """A file of rows as a read-only memory map, uint16 (n_rows, max_seq_len + 1)."""
    return np.memmap(path, dtype=ROW_DTYPE, mode="r").reshape(-1, max_seq_len + 1)


@functools.lru_cache(maxsize=1)
def _cached_tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)  # once per worker process, not once per shard
