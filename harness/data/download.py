"""Files of a data set on the Hugging Face Hub, brought onto this disk: resumed, verified, and clear about what went wrong.

In: a repository, a revision (a commit), file names, a folder. Out: those files in the folder. A file has its own name only
once its size and SHA-256 are what the hub says; `NAME.sha256` beside it keeps the sum, so that it can be verified again
without the network, here or by `sha256sum -c`. Until then it is `NAME.<sum>.part`, and any later call goes on with it.

The hub's own client does the network: HF_TOKEN or a login, HF_ENDPOINT for a mirror, proxies, redirects, resuming a cut
connection. Of huggingface_hub 2.4 two building blocks are used, `get_hf_file_metadata` and `http_get`, and not
`hf_hub_download`, which keeps nothing of an unfinished file: a killed process would start over. Xet, its other
transport, is left out too: plain HTTP serves every file, mirrors included, and can be resumed.
"""

import contextlib
import io
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from harness.data.source import RemoteFile
from harness.ground.errors import DataError
from harness.ground.files import sha256_file, sync_folder, write_text_atomic

Result = TypeVar("Result")

TOO_MANY, MOST_WAIT_SECONDS = 429, 600.0  # the status of a server that wants fewer requests; it may name the seconds
WAIT_SECONDS = (1.0, 5.0, 20.0)  # before a failed request is made again; a server's hiccup is over by then
SAY_SECONDS = 5.0  # between progress lines
NO_NETWORK = (
    "Without a network, the source python-stdlib needs no download (--source python-stdlib); it is small: a fast card "
    "passes over it many times in one training, and beyond about 4 passes validation no longer ranks settings as "
    "fresh text would"
)
ANOTHER = "it seems to be no complete mirror of the hub; unset HF_ENDPOINT, or set it to another"


def is_here(folder: Path, name: str) -> bool:
    """True when the file is there with the SHA-256 that was noted when it was downloaded; reads all of it."""
    try:
        noted = (folder / f"{name}.sha256").read_text(encoding="ascii").split()[:1]
        return noted == [sha256_file(folder / name)]
    except (OSError, ValueError):
        return False


def plan_files(repo: str, revision: str, names: Sequence[str], folder: Path, workers: int) -> list[RemoteFile]:
    """What of `names` is not here, with size and SHA-256 as the hub gives them. DataError says why it gives none."""
    with ThreadPoolExecutor(workers) as threads:
        present = threads.map(lambda name: is_here(folder, name), names)
        missing = [name for name, here in zip(names, present, strict=True) if not here]
        plan = list(threads.map(lambda name: _look_up(repo, revision, name), missing))
    return [file._replace(have=_size(_part_path(folder, file))) for file in plan]


def download_files(
    repo: str, revision: str, plan: Sequence[RemoteFile], folder: Path, workers: int, progress: Callable[[str], None]
) -> None:
    """Download the planned files, several at a time. DataError at the first that cannot be had; the others are kept."""
    for file in plan:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).unlink(missing_ok=True)  # it is planned again because it is not as it was downloaded
    stop, words = threading.Event(), queue.SimpleQueue()
    started = told = time.monotonic()
    before = sum(file.have for file in plan)
    with ThreadPoolExecutor(workers) as threads:
        waiting = {threads.submit(_download_file, repo, revision, file, folder, stop, words.put) for file in plan}
        try:
            while waiting:
                done, waiting = wait(waiting, SAY_SECONDS, FIRST_COMPLETED)
                now = time.monotonic()
                while not words.empty():  # said here: what a thread prints lands in any cell of a notebook
                    progress(words.get())
                _raise_first(done)
                if waiting and now - told >= SAY_SECONDS:
                    told = now
                    progress(_standing(plan, folder, before, now - started))
        finally:
            stop.set()
            for future in waiting:
                future.cancel()


def endpoint() -> str:
    """Where files come from: HF_ENDPOINT, or huggingface.co."""
    from huggingface_hub import constants

    return constants.ENDPOINT


class PartFile(io.BufferedWriter):
    """A half-finished file, appended to until the download is given up."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._stop = stop

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise InterruptedError("the download was given up")
        return super().write(data)


def _look_up(repo: str, revision: str, name: str) -> RemoteFile:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _explained(repo, name):
        url = hf_hub_url(repo, name, repo_type="dataset", revision=revision)
        found = _patiently(lambda: get_hf_file_metadata(url))
    if found.commit_hash not in (None, revision):
        raise DataError(f"{endpoint()} gives {name} of {repo} at {found.commit_hash}, asked for {revision}: {ANOTHER}")
    if found.size is None or len(found.etag or "") != 64:  # of a file in large-file storage, the etag is its SHA-256
        raise DataError(f"{endpoint()} names no size or no SHA-256 for {name} of {repo}: {ANOTHER}")
    return RemoteFile(name, found.size, found.etag)


def _download_file(
    repo: str, revision: str, file: RemoteFile, folder: Path, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """One file, from what there is of it to its own name. A wrong sum is said, and the file is loaded once more."""
    part = _part_path(folder, file)
    for again in (True, False):
        with _explained(repo, file.name):
            _patiently(lambda: _append(repo, revision, file, part, stop))
        found = sha256_file(part)
        if found == file.sha256:
            break
        part.unlink()
        wrong = f"{file.name} of {repo} arrived with SHA-256 {found[:12]}, the hub says {file.sha256[:12]}"
        if not again:
            raise DataError(f"{wrong}, twice, and is deleted: a proxy or mirror may spoil it; run the same again later")
        say(f"{wrong}: downloading it again")
    target = folder / file.name
    write_text_atomic(f"{target}.sha256", f"{file.sha256}  {target.name}\n")
    os.replace(part, target)
    sync_folder(target.parent)


def _append(repo: str, revision: str, file: RemoteFile, part: Path, stop: threading.Event) -> None:
    """Load what is missing at the end of `part`."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars

    disable_progress_bars("huggingface_hub.http_get")  # one bar for each file would garble our lines
    with PartFile(part, stop) as stream:
        if stream.tell() > file.bytes:
            stream.truncate(0)
        url = hf_hub_url(repo, file.name, repo_type="dataset", revision=revision)
        # uncompressed: bytes of a compressed answer could not be counted, nor its middle asked for
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        have = os.path.getsize(part)
        http_get(url, stream, resume_size=have, headers=headers, expected_size=file.bytes)
        stream.flush()
        os.fsync(stream.fileno())


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks to stay away, as far as that is reasonable; 0 where it asks nothing."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), MOST_WAIT_SECONDS) if text.isdigit() else 0.0


def _patiently(request: Callable[[], Result]) -> Result:
    """The request's result; one that fails for a reason that passes is made again, after a while."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for seconds in WAIT_SECONDS:
        try:
            return request()
        except httpx2.TransportError:
            pass
        except HfHubHTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != TOO_MANY:
                raise
            seconds = max(seconds, asked_to_wait(error.response.headers))
        time.sleep(seconds)
    return request()


@contextlib.contextmanager
def _explained(repo: str, name: str) -> Iterator[None]:
    """Turn what the hub's client raises into a DataError with the next action; what the disk says passes."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        if isinstance(error, OSError) and error.errno or isinstance(error, InterruptedError):
            raise
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        raise DataError(_advice(repo, name, status, error)) from error


def _advice(repo: str, name: str, status: int | None, error: Exception) -> str:
    """What went wrong with a file, and what to do. status: of the answer, None when there was none."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    what = f"{name} of {repo} at {endpoint()}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{what} is to be downloaded, but HF_HUB_OFFLINE forbids it: unset that. {NO_NETWORK}"
    if status == TOO_MANY:
        return f"{what}: the hub says that this is too much at once. Set HF_TOKEN, whose limit is higher, or run the same again later"
    if status in (401, 403):
        return (
            f"{what} is not open to you ({status}): log in at https://huggingface.co/datasets/{repo} and accept its terms, "
            "make a read token at https://huggingface.co/settings/tokens, export HF_TOKEN=..., and run the same again"
        )
    if status == 404:
        return f"{what} is not there ({status}): {ANOTHER}; from the hub itself, ask for fewer files or another source"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"cannot download {what} ({reason}): check network, proxy and HF_ENDPOINT, and run the same again; "
        f"it goes on from where it was. {NO_NETWORK}"
    )


def _raise_first(done: set[Future]) -> None:
    """Raise the reason of a failure rather than what it made the others do."""
    errors = [error for future in done if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, InterruptedError)):
        raise error


def _standing(plan: Sequence[RemoteFile], folder: Path, before: int, seconds: float) -> str:
    """How far the download is, at what measured rate, and how long it may still take."""
    total = sum(file.bytes for file in plan)
    have = sum(file.bytes if (folder / file.name).exists() else _size(_part_path(folder, file)) for file in plan)
    rate = (have - before) / seconds
    left = f"about {(total - have) / rate / 60:.1f} min left" if rate > 0 else "nothing arrives"
    return f"  download   ... {have / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, {left}"


def _part_path(folder: Path, file: RemoteFile) -> Path:
    """The sum in the name keeps halves of two different files apart."""
    return folder / f"{file.name}.{file.sha256[:12]}.part"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
