"""Make a corpus ready for training: `prepare()`, or `python -m harness.data.prepare`.

In: a source, a vocabulary size, a row length, an evaluation size. Out: the folder `<cache>/<data_id>/`, which appears
by one rename when it is complete, from `<cache>/.work/<data_id>/` where the stages leave their results. What a source
has to download goes to `<cache>/downloads/` first. The same call again finds it and does nothing; after a kill it goes
on from the last part that was finished; while another process is at it, it waits. Refuses impossible sizes, a corpus
too small or changing, a folder it cannot write, and, before the first byte is loaded, a disk too full for the result.
"""

import argparse
import contextlib
import errno
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data.fetch import DOWNLOAD_WORKERS, check_text_unchanged, get_text
from harness.data.manifest import FORMAT_VERSION, MANIFEST, PreparedData, describe_files, open_prepared
from harness.data.source import USAGE, Source
from harness.data.sources import open_source
from harness.data.splits import MIN_EVAL_ROWS
from harness.data.stages import (
    SHARD_BYTES,
    Job,
    Progress,
    Ticker,
    describe_stage,
    private_stage,
    read_stage,
    rows_stage,
    tokenizer_stage,
    versions,
)
from harness.data.tokenizer import check_vocab_size
from harness.data.workers import cpu_count, peak_rss_mb
from harness.ground.errors import DataError
from harness.ground.files import read_json, sync_folder, write_json_atomic
from harness.ground.locks import wait_for_lock

__all__ = ["PreparedData", "default_cache", "find_prepared", "name_data", "open_prepared", "prepare"]


def default_cache() -> Path:
    """$AUTORESEARCH_CACHE, or ~/.cache/autoresearch-lab."""
    try:
        return Path(os.environ.get("AUTORESEARCH_CACHE") or Path.home() / ".cache" / "autoresearch-lab").expanduser()
    except RuntimeError:
        raise DataError("this user has no home folder: set AUTORESEARCH_CACHE to a folder that you can write") from None


def prepare(
    source: str | Source,
    vocab_size: int,
    max_seq_len: int,
    eval_tokens: int,
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = print,
    download_workers: int = DOWNLOAD_WORKERS,
) -> PreparedData:
    """Prepare `source` unless that is done, going on where an interrupted prepare stopped; return the result.

    vocab_size: ordinary tokens, 256 to 65535. max_seq_len: tokens per row. eval_tokens: of
    validation, as many of holdout, and at most splits.UNSEEN_TOKENS more of `unseen`.
    workers: processes, by default one per CPU. progress: is given one line of text at a time.
    download_workers: files downloaded at a time. Raises DataError with what to do.
    """
    job = _make_job(source, vocab_size, max_seq_len, eval_tokens, cache)
    workers = _check_int("workers", cpu_count() if workers is None else workers, 1)
    _check_int("download_workers", download_workers, 1)
    busy = f"another process is preparing {job.data_id}: waiting for it"
    with _clear_errors(job), wait_for_lock(job.work.with_name(f"{job.data_id}.lock"), busy, progress):
        return _open_existing(job, progress) or _build(job, workers, download_workers, progress)


def find_prepared(
    source: str | Source,
    vocab_size: int,
    max_seq_len: int,
    eval_tokens: int,
    cache: str | os.PathLike[str] | None = None,
) -> PreparedData:
    """The data that `prepare` made with the same arguments, cheaply verified. DataError says how to make it."""
    job = _make_job(source, vocab_size, max_seq_len, eval_tokens, cache)
    if not job.folder.exists():
        raise DataError(
            f"no prepared data {job.data_id} in {job.cache}: run notebooks/01_prepare.ipynb, or "
            f"python -m harness.data.prepare --source {shlex.quote(job.source.spec)} --vocab-size {vocab_size} "
            f"--max-seq-len {max_seq_len} --eval-tokens {eval_tokens}"
        )
    return open_prepared(job.folder)


def name_data(
    source: str | Source,
    vocab_size: int,
    max_seq_len: int,
    eval_tokens: int,
    cache: str | os.PathLike[str] | None = None,
) -> str:
    """The id that the data of these arguments has, prepared or not. DataError when the source's text is gone."""
    return _make_job(source, vocab_size, max_seq_len, eval_tokens, cache).data_id


def _make_job(
    source: str | Source, vocab_size: int, max_seq_len: int, eval_tokens: int, cache: str | os.PathLike[str] | None
) -> Job:
    check_vocab_size(vocab_size)
    _check_int("max_seq_len", max_seq_len, 2)
    _check_int("eval_tokens", eval_tokens, MIN_EVAL_ROWS * max_seq_len)
    folder = Path(cache).expanduser().absolute() if cache is not None else default_cache().absolute()
    opened = open_source(source, folder)
    source_id = opened.source_id()
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", source_id):
        raise DataError(f"source id {source_id!r} cannot name a folder: use a-z, 0-9, '.', '_' and '-' only")
    return Job(opened, source_id, vocab_size, max_seq_len, eval_tokens, folder)


def _check_int(name: str, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise DataError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return value


@contextlib.contextmanager
def _clear_errors(job: Job) -> Iterator[None]:
    """Turn what the disk says into a DataError with the next action."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"the disk of {job.cache} is full: free some space and run the same again") from error
        raise DataError(
            f"cannot work in {job.cache} ({error}): set AUTORESEARCH_CACHE to a folder that you can write"
        ) from error


def _open_existing(job: Job, progress: Progress) -> PreparedData | None:
    if not job.folder.exists():
        return None
    try:
        data = open_prepared(job.folder)
    except DataError as error:
        progress(f"{error}")
        return None
    progress(f"{job.data_id} is prepared already in {job.folder}: nothing to do")
    shutil.rmtree(job.work, ignore_errors=True)  # left by a prepare that was killed just before its end
    return data


def _build(job: Job, workers: int, download_workers: int, progress: Progress) -> PreparedData:
    resumed = _open_work(job)
    progress(f"{'going on with' if resumed else 'preparing'} {job.data_id} in {job.cache}")
    get_text(job, download_workers, progress)
    started = time.monotonic()
    read = read_stage(job, workers, progress)
    check_text_unchanged(job)
    tokenizer_stage(job, read["shards"], progress)
    private = private_stage(job, read["shards"], progress)
    train = rows_stage(job, read["shards"], private["last_key"], workers, progress)
    tick = Ticker("check", progress)
    manifest = describe_stage(job, read, private, train)
    manifest["files"] = describe_files(job.out)
    tick.last(f"a unigram model scores {manifest['unigram_bpb']:.4f} bits per byte on the validation rows")
    seconds = time.monotonic() - started
    manifest["prepare"] = {
        "seconds": round(seconds, 2),
        "mb_per_s": round(read["bytes"] / 1e6 / seconds, 2),
        "workers": workers,
        "peak_rss_mb": peak_rss_mb() + (workers > 1) * workers * max(read["peak_rss_mb"], train["peak_rss_mb"]),
        "resumed": resumed,
    }
    return _publish(job, manifest, progress)


def _open_work(job: Job) -> bool:
    """Make the work folder, or keep the one of an interrupted prepare of exactly this; say whether it was kept."""
    plan = {"data_id": job.data_id, "format": FORMAT_VERSION, "shard_bytes": SHARD_BYTES, "versions": versions()}
    with contextlib.suppress(OSError, ValueError):
        if read_json(job.work / "plan.json") == plan:
            return True
    shutil.rmtree(job.work, ignore_errors=True)
    for name in ("out/train", "out/private", "shards"):
        (job.work / name).mkdir(parents=True)
    write_json_atomic(job.work / "plan.json", plan)
    return False


def _publish(job: Job, manifest: dict[str, Any], progress: Progress) -> PreparedData:
    """Give the finished folder its name, in place of a damaged one if need be, and clear up."""
    write_json_atomic(job.out / MANIFEST, manifest)
    for leftover in job.out.rglob("*.tmp"):  # half-written files of a killed process
        leftover.unlink()
    if job.folder.exists():
        replaced = job.work / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(job.folder, replaced)
    os.replace(job.out, job.folder)
    sync_folder(job.cache)
    shutil.rmtree(job.work, ignore_errors=True)
    cost = manifest["prepare"]
    progress(
        f"prepared {job.folder} in {cost['seconds']:.1f} s: {cost['mb_per_s']:.1f} MB/s, "
        f"workers: {cost['workers']}, peak memory {cost['peak_rss_mb']:,} MB"
    )
    return open_prepared(job.folder)


def main(arguments: list[str] | None = None) -> int:
    """The command line. 0 when the data is there, 2 with one line on stderr when it cannot be, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m harness.data.prepare", description="Make a corpus ready.")
    parser.add_argument("--source", default="python-stdlib", help=f"{USAGE} (%(default)s)")
    parser.add_argument("--vocab-size", type=int, default=2048, help="ordinary tokens, from 256 (%(default)s)")
    parser.add_argument("--max-seq-len", type=int, default=256, help="tokens per row (%(default)s)")
    parser.add_argument("--eval-tokens", type=int, default=262144, help="of validation and of holdout (%(default)s)")
    parser.add_argument("--cache", help="folder ($AUTORESEARCH_CACHE, or ~/.cache/autoresearch-lab)")
    parser.add_argument("--workers", type=int, help="processes (one per CPU)")
    parser.add_argument("--download-workers", type=int, default=DOWNLOAD_WORKERS, help="files at a time (%(default)s)")
    options = vars(parser.parse_args(arguments))
    try:
        prepare(**options, progress=lambda line: print(line, flush=True))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
