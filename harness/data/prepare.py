"""Make a corpus ready for training: `prepare()`, or `python -m harness.data.prepare`.

In: a source and sizes. Out: the folder `<cache>/<data_id>/`, which appears by one rename when it is
complete, from `<cache>/.work/<data_id>/` where the stages leave their results. The same call again
finds it and does nothing; after a kill it goes on from the last part that was finished; while
another process is at it, it waits. Refuses impossible sizes, a corpus too small or changing, a
folder it cannot write, and, before the first byte is downloaded, a disk too full for the result.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data import stages
from harness.data.manifest import MANIFEST, PreparedData, describe_files, open_prepared
from harness.data.source import USAGE, Progress, Source
from harness.data.sources import open_source
from harness.data.splits import MIN_EVAL_ROWS
from harness.data.stages import Job, Ticker
from harness.data.tokenizer import check_vocab_size
from harness.data.workers import peak_rss_mb
from harness.ground.cgroup import process_count
from harness.ground.errors import DataError
from harness.ground.files import read_json, sync_folder, write_json_atomic
from harness.ground.locks import wait_for_lock

DOWNLOAD_WORKERS = 8  # files at a time, as the original loads them
WORKER_MB = 256  # of a worker process: 100 to 250 were seen
NAMED_RATE = 12.5e6  # bytes per second: 100 Mbit/s, what minutes are stated at in advance


def default_cache() -> Path:
    """$AUTORESEARCH_CACHE, or ~/.cache/autoresearch-lab."""
    folder = Path(os.environ.get("AUTORESEARCH_CACHE") or "~/.cache/autoresearch-lab")
    try:
        return folder.expanduser()
    except RuntimeError:
        raise DataError(
            "this user has no home folder: set AUTORESEARCH_CACHE to a folder that you can write"
        ) from None


@dataclass(frozen=True)
class DataSpec:
    """What names prepared data.

    vocab_size: ordinary tokens, 256 to 65535. max_seq_len: tokens per row. eval_tokens: of
    validation, as many of holdout, and at most splits.UNSEEN_TOKENS more of `unseen`. cache: the
    folder of all prepared data, None for `default_cache`.
    """

    source: str | Source
    vocab_size: int
    max_seq_len: int
    eval_tokens: int
    cache: str | os.PathLike[str] | None = None


def prepare(
    spec: DataSpec,
    workers: int | None = None,
    progress: Progress = print,
    download_workers: int = DOWNLOAD_WORKERS,
) -> PreparedData:
    """Prepare the data unless that is done, going on where an interrupted prepare stopped.

    workers: processes, by default one per CPU, as far as memory goes. progress: is given one line
    of text at a time. download_workers: files downloaded at a time. Raises DataError with what to
    do.
    """
    job = _make_job(spec)
    workers = process_count(WORKER_MB) if workers is None else workers
    _check_int("workers", workers, 1)
    _check_int("download_workers", download_workers, 1)
    lock = job.work.with_name(f"{job.data_id}.lock")
    busy = f"another process is preparing {job.data_id}: waiting for it"
    with _explain_disk_errors(job), wait_for_lock(lock, busy, progress):
        return _open_existing(job, progress) or _build(job, workers, download_workers, progress)


def find_prepared(spec: DataSpec) -> PreparedData:
    """The data that `prepare` made of the same spec. DataError says how to make it."""
    job = _make_job(spec)
    if not job.folder.exists():
        raise DataError(
            f"no prepared data {job.data_id} in {job.cache}: run notebooks/01_prepare.ipynb, or "
            f"python -m harness.data.prepare --source {shlex.quote(job.source.spec)} "
            f"--vocab-size {spec.vocab_size} --max-seq-len {spec.max_seq_len} "
            f"--eval-tokens {spec.eval_tokens}"
        )
    return open_prepared(job.folder)


def name_data(spec: DataSpec) -> str:
    """The id of this data, prepared or not. DataError when the text is gone."""
    return _make_job(spec).data_id


def _make_job(spec: DataSpec) -> Job:
    sizes = spec.vocab_size, spec.max_seq_len, spec.eval_tokens
    check_vocab_size(spec.vocab_size)
    _check_int("max_seq_len", spec.max_seq_len, 2)
    _check_int("eval_tokens", spec.eval_tokens, MIN_EVAL_ROWS * spec.max_seq_len)
    folder = default_cache() if spec.cache is None else Path(spec.cache).expanduser()
    opened = open_source(spec.source, folder.absolute())
    source_id = opened.source_id()
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", source_id), f"{source_id!r} cannot name a folder"
    return Job(opened, source_id, *sizes, folder.absolute())


def _check_int(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise DataError(f"{name} must be a whole number, {least} or more, not {value!r}")


@contextlib.contextmanager
def _explain_disk_errors(job: Job) -> Iterator[None]:
    """Turn an OSError of the disk into a DataError with the next action."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {job.cache} is full: free some space and run the same again"
            ) from error
        raise DataError(
            f"cannot work in {job.cache} ({error}): "
            "set AUTORESEARCH_CACHE to a folder that you can write"
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
    shutil.rmtree(job.work, ignore_errors=True)  # left by a prepare killed just before its end
    return data


def _build(job: Job, workers: int, download_workers: int, progress: Progress) -> PreparedData:
    resumed = _open_work(job)
    progress(f"{'going on with' if resumed else 'preparing'} {job.data_id} in {job.cache}")
    _get_text(job, download_workers, progress)
    started = time.monotonic()
    read = stages.read_stage(job, workers, progress)
    _check_text_unchanged(job)
    stages.tokenizer_stage(job, read["shards"], progress)
    private = stages.private_stage(job, read["shards"], progress)
    train = stages.rows_stage(job, read["shards"], private["last_key"], workers, progress)
    tick = Ticker("check", progress)
    manifest = stages.describe_stage(job, read, private, train)
    manifest["files"] = describe_files(job.out)
    unigram = f"{manifest['unigram_bpb']:.4f} bits per byte"
    tick.last(f"a unigram model scores {unigram} on the validation rows")
    seconds = time.monotonic() - started
    peak = max(read["peak_rss_mb"], train["peak_rss_mb"])
    manifest["prepare"] = {
        "seconds": round(seconds, 2),
        "mb_per_s": round(read["bytes"] / 1e6 / seconds, 2),
        "workers": workers,
        "peak_rss_mb": peak_rss_mb() + (workers > 1) * workers * peak,
        "resumed": resumed,
    }
    return _publish(job, manifest, progress)


def _open_work(job: Job) -> bool:
    """Make the work folder, or keep an interrupted prepare's; say whether it was kept."""
    plan = {"shard_bytes": stages.SHARD_BYTES, "versions": stages.versions()}
    with contextlib.suppress(OSError, ValueError):
        if read_json(job.work / "plan.json") == plan:
            return True
    shutil.rmtree(job.work, ignore_errors=True)
    for name in ("out/train", "out/private", "shards"):
        (job.work / name).mkdir(parents=True)
    write_json_atomic(job.work / "plan.json", plan)
    return False


def _get_text(job: Job, workers: int, progress: Progress) -> None:
    """Have the source's text on this machine, and room for all that is to come.

    A prepare that has read all of the text needs it no more. workers: files at a time.
    """
    if stages.is_read(job):
        return
    plan = job.source.plan_download(workers)
    left = sum(file.bytes - file.have for file in plan)
    written = sum(path.stat().st_size for path in job.work.rglob("*") if path.is_file())
    needed = left + max(0, stages.space_bytes(job) - written)
    free = shutil.disk_usage(job.cache).free
    if free < needed:
        of_which = f" (of which {left / 1e6:,.0f} MB are the download)" if plan else ""
        raise DataError(
            f"preparing needs about {needed / 1e6:,.0f} MB in {job.cache}{of_which}, and "
            f"{free / 1e6:,.0f} MB are free: free some space, or set AUTORESEARCH_CACHE to a "
            "folder on another disk"
        )
    if plan:
        progress(
            f"  to download: {len(plan):,} files of {job.source.spec}, {left / 1e6:,.0f} MB, about "
            f"{left / NAMED_RATE / 60:.1f} min at 100 Mbit/s (the measured rate follows); disk "
            f"needed with work space and rows: {needed / 1e6:,.0f} MB of {free / 1e6:,.0f} MB free"
        )
        tick = Ticker("download", progress)
        job.source.download(plan, workers, progress)
        tick.last(f"{left / 1e6:,.0f} MB, with the sizes and SHA-256 that the server names")


def _check_text_unchanged(job: Job) -> None:
    """DataError when the text has another id than before reading: what was read is neither."""
    if job.source.source_id() != job.source_id:
        shutil.rmtree(job.work, ignore_errors=True)
        raise DataError(
            f"the text of {job.source.spec} changed while it was read: "
            "run the same again once it is at rest"
        )


def _publish(job: Job, manifest: dict[str, Any], progress: Progress) -> PreparedData:
    """Give the finished folder its name, in place of a damaged one if need be, and clear up."""
    write_json_atomic(job.out / MANIFEST, manifest)
    for leftover in job.out.rglob("*.tmp"):  # half-written files of a killed process
        leftover.unlink()
    if job.folder.exists():  # and is damaged
        shutil.rmtree(job.folder)
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
    """Return 0 when the data is there, 2 with a line on stderr when not, 130 after Ctrl-C."""
    name = "python -m harness.data.prepare"
    parser = argparse.ArgumentParser(prog=name, description="Make a corpus ready.")
    add, default = parser.add_argument, "(%(default)s)"
    add("--source", default="python-stdlib", help=f"{USAGE} {default}")
    add("--vocab-size", type=int, default=2048, help=f"ordinary tokens, from 256 {default}")
    add("--max-seq-len", type=int, default=256, help=f"tokens per row {default}")
    add("--eval-tokens", type=int, default=262144, help=f"of validation and of holdout {default}")
    add("--cache", help="folder ($AUTORESEARCH_CACHE, or ~/.cache/autoresearch-lab)")
    add("--workers", type=int, help="processes (one per CPU)")
    files = f"files at a time {default}"
    add("--download-workers", type=int, default=DOWNLOAD_WORKERS, help=files)
    options = vars(parser.parse_args(arguments))
    how = {name: options.pop(name) for name in ("workers", "download_workers")}
    try:
        prepare(DataSpec(**options), **how, progress=lambda line: print(line, flush=True))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
