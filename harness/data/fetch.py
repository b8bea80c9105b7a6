"""What comes before the stages: is there room for everything, and is the source's text on this machine?

In: a `Job`. Out: the text on disk, downloaded if need be, and said in advance: size, minutes, disk. Refuses a disk that
is too small before the first byte is loaded, and, afterwards, a text that changed while it was read.
"""

import shutil

from harness.data.source import RemoteFile
from harness.data.stages import Job, Progress, Ticker, is_read, space_bytes
from harness.ground.errors import DataError

DOWNLOAD_WORKERS = 8  # files at a time, as the original loads them
NAMED_RATE = 12.5e6  # bytes per second, 100 Mbit/s: what minutes are stated at before anything was measured


def get_text(job: Job, workers: int, progress: Progress) -> None:
    """Have the source's text here; a prepare that has read all of it needs it no more. workers: files at a time."""
    if is_read(job):
        return
    plan = job.source.plan_download(workers)
    left, space = sum(file.bytes - file.have for file in plan), _space_left(job)
    free = shutil.disk_usage(job.cache).free
    if free < left + space:
        raise DataError(
            f"preparing needs about {(left + space) / 1e6:,.0f} MB in {job.cache}{_of_which(plan, left)}, and "
            f"{free / 1e6:,.0f} MB are free: free some space, or set AUTORESEARCH_CACHE to a folder on another disk"
        )
    if plan:
        progress(
            f"  to download: {len(plan):,} files of {job.source.spec}, {left / 1e6:,.0f} MB, about {left / NAMED_RATE / 60:.1f} min "
            f"at 100 Mbit/s (the measured rate follows); disk needed with work space and rows: {(left + space) / 1e6:,.0f} MB "
            f"of {free / 1e6:,.0f} MB free"
        )
        tick = Ticker("download", progress)
        job.source.download(plan, workers, progress)
        tick.last(f"{left / 1e6:,.0f} MB, with the sizes and SHA-256 that the server names")


def check_text_unchanged(job: Job) -> None:
    """DataError when the source's id is another than before reading: what was read is then neither of the two."""
    if job.source.source_id() != job.source_id:
        shutil.rmtree(job.work, ignore_errors=True)
        raise DataError(
            f"the text of {job.source.spec} changed while it was read: run the same again once it is at rest"
        )


def _space_left(job: Job) -> int:
    """About how many bytes the stages still have to write."""
    written = sum(path.stat().st_size for path in job.work.rglob("*") if path.is_file())
    return max(0, space_bytes(job) - written)


def _of_which(plan: list[RemoteFile], left: int) -> str:
    return f" (of which {left / 1e6:,.0f} MB are the download)" if plan else ""
