"""The stages of preparing, in order; one that is there is not done again.

    read       documents -> shards/                     by worker processes, duplicates still in
    tokenizer  shards -> out/train/tokenizer.json       learnt from training text alone
    private    shards -> out/private/*.bin              rows of the evaluation splits
    rows       shards -> out/train/rows.bin             by worker processes
    describe   out/ -> the manifest's contents

In: a `Job`, and what the stage before left in its work folder. Out: files there, and counts. A
stage whose file exists returns what that says, so a prepare that was killed goes on where it was:
reading from the last part of the source that was finished, rows from the last checkpoint.

Memory does not grow with the corpus up to MAX_SHARDS x SHARD_BYTES of text (16 GB; beyond that
shards grow instead): per reading process shards.BLOCK_BYTES of text and a document, per packing
process some ten times a shard, here a few shards' rows for each. The disk holds the text once and
the rows once: `space_bytes`.
"""

import importlib.metadata
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.manifest import FORMAT_VERSION
from harness.data.packing import count_targets, score_totals, unigram_bpb
from harness.data.rows import (
    Counts,
    PartTask,
    RowsFile,
    iter_tokenizer_text,
    make_eval_rows,
    make_train_part,
    open_rows,
)
from harness.data.shards import make_group_tasks, write_group
from harness.data.source import Progress, Source
from harness.data.splits import EVAL_SPLITS
from harness.data.tokenizer import BYTE_TOKENS, load_tokenizer, train_tokenizer
from harness.data.workers import map_in_processes
from harness.ground.errors import DataError
from harness.ground.files import open_atomic, read_json, write_json_atomic

SHARD_BYTES = 4 << 20  # text per shard: what a worker holds, and the unit of parallel work
MAX_SHARDS = 4096  # beyond this shards grow instead, lest reading one be all seeking
TOKENIZER_BYTES = 100_000_000  # more text than this hardly changes a vocabulary
EVAL_BATCH_TOKENS = 16384  # of an evaluation batch, fixed here so that no experiment can choose it
TICK_SECONDS = 10.0  # between progress lines of a long stage
# Documents that are in no split, as the manifest and as rows.make_train_part call them
NOT_TAKEN = {
    "duplicates_dropped": "duplicates",
    "equal_to_evaluation": "leaked",
    "private_unused": "unused",
}


@dataclass(frozen=True)
class Job:
    """What to prepare, and where. eval_tokens: as asked for."""

    source: Source
    source_id: str
    vocab_size: int
    max_seq_len: int
    eval_tokens: int
    cache: Path

    @property
    def data_id(self) -> str:
        sizes = f"v{self.vocab_size}-t{self.max_seq_len}-e{self.eval_tokens}"
        return f"{self.source_id}-{sizes}-f{FORMAT_VERSION}"

    @property
    def folder(self) -> Path:
        return self.cache / self.data_id

    @property
    def work(self) -> Path:
        """Everything unfinished; on the same disk as `folder`, so that a rename finishes it."""
        return self.cache / ".work" / self.data_id

    @property
    def out(self) -> Path:
        """What becomes `folder`."""
        return self.work / "out"

    @property
    def shards(self) -> Path:
        return self.work / "shards"

    @property
    def tokenizer_path(self) -> Path:
        return self.out / "train" / "tokenizer.json"


class Ticker:
    """Progress lines of one stage: now and then while it runs, one with its time at the end."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self._stage, self._progress = stage, progress
        self._started = self._told = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._told >= TICK_SECONDS:
            self._told = time.monotonic()
            self._progress(f"  {self._stage:<10} ... {text}")

    def last(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._progress(f"  {self._stage:<10} {text} ({seconds:.1f} s)")


def versions() -> dict[str, str]:
    """What decides, beside the text, which ids come out."""
    return {name: importlib.metadata.version(name) for name in ("rustbpe", "tiktoken")}


def space_bytes(job: Job) -> int:
    """The most disk that the stages need: the text once, the rows' ids of two bytes once."""
    least_bytes_per_token = 1 if job.vocab_size < 2 * BYTE_TOKENS else 2
    return round(job.source.total_bytes() * (1 + 2 / least_bytes_per_token))


def is_read(job: Job) -> bool:
    """True when the read stage is done, so that the source's text is needed no more."""
    return (job.shards / "read.json").exists()


def read_stage(job: Job, workers: int, progress: Progress) -> Counts:
    """Documents into shards; counts, and the largest peak memory of a process."""
    if is_read(job):
        return read_json(job.shards / "read.json")
    tick = Ticker("read", progress)
    n_shards = min(max(1, round(job.source.total_bytes() / SHARD_BYTES)), MAX_SHARDS)
    for leftover in job.shards.rglob("*.tmp"):  # a killed process's half group may be large
        leftover.unlink()
    tasks = make_group_tasks(job.source, job.shards, n_shards)
    if type(job.source).__module__ == "__main__":  # a worker could not import its class
        workers = 1
    totals, skipped, peak = Counter(documents=0, bytes=0), Counter(), 0
    for number, group in enumerate(map_in_processes(write_group, tasks, workers), start=1):
        totals.update({key: group[key] for key in totals})
        skipped.update(group["skipped"])
        peak = max(peak, group["peak_rss_mb"])
        counted = f"{totals['documents']:,} documents, {totals['bytes'] / 1e6:,.1f} MB"
        tick(f"part {number} of {len(tasks)}: {counted}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
    counted_out = f"skipped: {reasons or 'none'}"
    if not totals["documents"]:
        raise DataError(f"the source {job.source_id} has no usable document; {counted_out}")
    read = {**totals, "skipped": skipped, "shards": n_shards, "peak_rss_mb": peak}
    write_json_atomic(job.shards / "read.json", read)
    tick.last(f"{counted}; {counted_out}")
    return read


def tokenizer_stage(job: Job, n_shards: int, progress: Progress) -> None:
    """The tokenizer's file, written last, and its table of raw bytes."""
    if job.tokenizer_path.exists():
        return
    tick = Ticker("tokenizer", progress)
    texts = iter_tokenizer_text(job.shards, n_shards, TOKENIZER_BYTES)
    tokenizer = train_tokenizer(texts, job.vocab_size)
    with open_atomic(job.tokenizer_path.with_name("token_bytes.npy")) as file:
        np.save(file, tokenizer.token_bytes(), allow_pickle=False)
    tokenizer.save(job.tokenizer_path)
    tick.last(f"{tokenizer.vocab_size:,} tokens, learnt from training text alone")


def private_stage(job: Job, n_shards: int, progress: Progress) -> Counts:
    """Rows of the evaluation splits; see rows.make_eval_rows for the counts."""
    done = job.work / "private.json"
    if done.exists():
        return read_json(done)
    tick = Ticker("private", progress)
    tokenizer, wanted = load_tokenizer(job.tokenizer_path), job.eval_tokens // job.max_seq_len
    out = job.out / "private"
    private = make_eval_rows(job.shards, n_shards, tokenizer, wanted, job.max_seq_len, out)
    write_json_atomic(done, private)
    counts = ((split, private[split]["rows"], private[split]["documents"]) for split in EVAL_SPLITS)
    words = [f"{split} {rows:,} from {documents:,}" for split, rows, documents in counts]
    tick.last(f"rows from documents: {', '.join(words)}")
    if note := job.source.evaluation_note():
        tick.last(note)
    rows = private["val"]["rows"]
    if rows < wanted:
        tokens = f"{rows * job.max_seq_len:,} tokens of validation, not {job.eval_tokens:,}"
        tick.last(f"the corpus is small: {tokens}")
    return private


def rows_stage(
    job: Job, n_shards: int, last_private_key: str, workers: int, progress: Progress
) -> Counts:
    """All training rows, and what the loader needs to read them; the counts of all shards."""
    tick = Ticker("rows", progress)
    last_key = bytes.fromhex(last_private_key)
    tasks = [
        PartTask(index, job.shards, job.tokenizer_path, last_key, job.max_seq_len)
        for index in range(n_shards)
    ]
    with RowsFile(job.out / "train" / "rows.bin", job.work / "rows.json") as file:
        left = tasks[file.parts :]
        for part in map_in_processes(make_train_part, left, workers, ahead=2 * workers):
            file.append(part)
            tick(f"shard {file.parts} of {n_shards}")
        file.checkpoint()
        train = {name: value if value.ndim else int(value) for name, value in file.counts.items()}
    if not train["rows"]:
        raise DataError("the corpus is too small: evaluation takes all of it; use more text")
    meta = {
        "max_seq_len": job.max_seq_len,
        "n_rows": train["rows"],
        "n_vocab": job.vocab_size + 1,
        "bos_id": job.vocab_size,
        "data_id": job.data_id,
    }
    write_json_atomic(job.out / "train" / "meta.json", meta)
    tick.last(
        f"{train['rows']:,} rows, {train['tokens']:,} tokens, "
        f"{train['tokens'] / train['bytes']:.4f} tokens per byte, "
        f"{train['tokens'] / train['offered_tokens']:.2%} of the tokens kept"
    )
    return train


def describe_stage(job: Job, read: Counts, private: Counts, train: Counts) -> dict[str, Any]:
    """The manifest, all but the cost and the files."""
    tokenizer = load_tokenizer(job.tokenizer_path)
    token_bytes = tokenizer.token_bytes()
    targets = {}
    for split in EVAL_SPLITS:
        rows = open_rows(job.out / "private" / f"{split}.bin", job.max_seq_len)
        targets[split] = count_targets(rows, tokenizer.n_vocab)
    splits = {"train": train} | {split: private[split] for split in EVAL_SPLITS}

    def count(unit: str) -> dict[str, int]:
        return {split: entry[unit] for split, entry in splits.items()}

    def count_all(unit: str, suffix: str) -> dict[str, int]:
        not_taken = {name: train.get(key + suffix, 0) for name, key in NOT_TAKEN.items()}
        return count(unit) | {"read": read[unit]} | not_taken

    unused_tokens = sum(private[split]["unused_tokens"] for split in EVAL_SPLITS)
    return {
        "format_version": FORMAT_VERSION,
        "data_id": job.data_id,
        "source": {
            "name": job.source.name,
            "id": job.source_id,
            "skipped": read["skipped"],
            "evaluation_note": job.source.evaluation_note(),
        },
        "vocab_size": tokenizer.vocab_size,
        "n_vocab": tokenizer.n_vocab,
        "max_seq_len": job.max_seq_len,
        "eval_tokens": private["val"]["rows"] * job.max_seq_len,
        "eval_tokens_requested": job.eval_tokens,
        "eval_batch_rows": max(1, EVAL_BATCH_TOKENS // job.max_seq_len),
        "documents": count_all("documents", ""),
        "bytes": count_all("bytes", "_bytes"),
        "tokens": count("tokens") | {"private_unused": unused_tokens},
        "rows": count("rows"),
        "scored": {split: score_totals(targets[split], token_bytes) for split in EVAL_SPLITS},
        "kept_share": {
            split: entry["tokens"] / entry["offered_tokens"] for split, entry in splits.items()
        },
        "tokens_per_byte": train["tokens"] / train["bytes"],
        "unigram_bpb": unigram_bpb(train["targets"], targets["val"], token_bytes),
        # by how many binary digits a document's count of tokens has
        "train_lengths": {"documents": train["lengths"].tolist(), "cut": train["cut"]},
        "versions": versions(),
    }
