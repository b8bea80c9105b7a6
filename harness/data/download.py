"""Files of a data set on the Hugging Face Hub, brought onto this disk: resumed and verified.

In: a repository, a revision (a commit), file names, a folder. Out: those files in the folder. A
file has its own name only once its size and SHA-256 are what the hub says; `NAME.sha256` beside it
keeps the sum, so that it can be verified again without the network, here or by `sha256sum -c`.
Until then it is `NAME.<sum>.part`, and any later call goes on with it.

The hub's own client does the network: HF_TOKEN or a login, HF_ENDPOINT for a mirror, proxies,
redirects, resuming a cut connection. Not by `hf_hub_download`, which in huggingface_hub 2.4 keeps
nothing of an unfinished file: a killed process would start over. Xet, its other transport, is left
out too: plain HTTP serves every file, mirrors included, and can be resumed.
"""

import contextlib
import io
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from harness.data.source import Progress, RemoteFile
from harness.ground.errors import DataError
from harness.ground.files import sha256_file, sync_folder, write_text_atomic
from harness.ground.locks import wait_for_lock

Result = TypeVar("Result")

# The status of a server that wants fewer requests, and how long it may ask us to stay away
TOO_MANY, MOST_WAIT_SECONDS = 429, 600.0
# Before a failed request is made again; a server's hiccup is over by then
WAIT_SECONDS = (1.0, 5.0, 20.0)
SAY_SECONDS = 5.0  # between progress lines
NO_NETWORK = (
    "Without a network, --source python-stdlib needs no download; it is small: a fast card passes "
    "over it many times in one training, and beyond about 4 passes validation no longer ranks "
    "settings as fresh text would"
)
ANOTHER = "it seems to be no complete mirror of the hub; unset HF_ENDPOINT, or set it to another"


class HubFiles:
    """Files of one data set at one commit (revision), and the folder that they come to."""

    def __init__(self, repo: str, revision: str, folder: Path) -> None:
        self.repo, self.revision, self.folder = repo, revision, folder
        self._stop = threading.Event()
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()

    def plan(self, names: Sequence[str], workers: int) -> list[RemoteFile]:
        """What of `names` is not here, as the hub describes it. DataError says why it does not."""
        with ThreadPoolExecutor(workers) as threads:
            here = threads.map(self._is_here, names)
            missing = [name for name, is_here in zip(names, here, strict=True) if not is_here]
            return list(threads.map(self._look_up, missing))

    def download(self, plan: Sequence[RemoteFile], workers: int, progress: Progress) -> None:
        """Download the planned files, `workers` at a time, unless another process did meanwhile.

        DataError at the first that cannot be had; the others are kept.
        """
        busy = f"another process is downloading to {self.folder}: waiting for it"
        lock = wait_for_lock(self.folder / ".lock", busy, progress)
        with lock, ThreadPoolExecutor(workers) as threads:
            plan = [file for file in plan if not self._is_here(file.name)]
            started = told = time.monotonic()
            waiting = {threads.submit(self._download, file) for file in plan}
            try:
                while waiting:
                    done, waiting = wait(waiting, SAY_SECONDS, FIRST_COMPLETED)
                    now = time.monotonic()
                    while not self._words.empty():  # a thread's own would land in any notebook cell
                        progress(self._words.get())
                    for future in done:
                        future.result()
                    if waiting and now - told >= SAY_SECONDS:
                        told = now
                        progress(self._standing(plan, now - started))
            finally:
                self._stop.set()
                for future in waiting:
                    future.cancel()

    def _is_here(self, name: str) -> bool:
        """Whether the file has the SHA-256 noted when it was downloaded; reads all of it."""
        try:
            noted = (self.folder / f"{name}.sha256").read_text(encoding="ascii").split()[:1]
            return noted == [sha256_file(self.folder / name)]
        except (OSError, ValueError):
            return False

    def _look_up(self, name: str) -> RemoteFile:
        with self._explained(name):
            found = try_patiently(lambda: get_hf_file_metadata(self._url(name)))
        is_pinned = found.commit_hash in (None, self.revision)
        # of a file in large-file storage, the etag is its SHA-256
        if not is_pinned or found.size is None or len(found.etag or "") != 64:
            what = f"{name} of {self.repo} at {self.revision}"
            raise DataError(f"{constants.ENDPOINT} has no size and SHA-256 of {what}: {ANOTHER}")
        file = RemoteFile(name, found.size, found.etag)
        return file._replace(have=_size(self._part_path(file)))

    def _download(self, file: RemoteFile) -> None:
        """One file, from what there is of it to its own name; a wrong sum gets a second try."""
        part, target = self._part_path(file), self.folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # it is planned because it is not as it was downloaded
        for again in (True, False):
            with self._explained(file.name):
                try_patiently(lambda: self._append(file, part))
            found = sha256_file(part)
            if found == file.sha256:
                break
            part.unlink()
            sums = f"SHA-256 {found[:12]}, the hub says {file.sha256[:12]}"
            wrong = f"{file.name} of {self.repo} arrived with {sums}"
            if not again:
                raise DataError(
                    f"{wrong}, twice, and is deleted: a proxy or mirror may spoil it; "
                    "run the same again later"
                )
            self._words.put(f"{wrong}: downloading it again")
        write_text_atomic(f"{target}.sha256", f"{file.sha256}  {target.name}\n")
        os.replace(part, target)
        sync_folder(target.parent)

    def _append(self, file: RemoteFile, part: Path) -> None:
        """Load what is missing at the end of `part`."""
        disable_progress_bars("huggingface_hub.http_get")  # they would garble our lines
        with PartFile(part, self._stop) as stream:
            if stream.tell() > file.bytes:
                stream.truncate(0)
            # uncompressed: bytes of a compressed answer cannot be counted, nor its middle asked for
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}
            sizes = {"resume_size": os.path.getsize(part), "expected_size": file.bytes}
            http_get(self._url(file.name), stream, headers=headers, **sizes)
            stream.flush()
            os.fsync(stream.fileno())

    def _standing(self, plan: Sequence[RemoteFile], seconds: float) -> str:
        """How far the download is, at what measured rate, and how long it may still take."""
        total, have = sum(file.bytes for file in plan), sum(map(self._count_bytes, plan))
        rate = (have - sum(file.have for file in plan)) / seconds
        left = f"about {(total - have) / rate / 60:.1f} min left" if rate > 0 else "nothing arrives"
        done = f"{have / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        return f"  download   ... {done}, {rate / 1e6:.1f} MB/s, {left}"

    def _count_bytes(self, file: RemoteFile) -> int:
        is_whole = (self.folder / file.name).exists()
        return file.bytes if is_whole else _size(self._part_path(file))

    def _url(self, name: str) -> str:
        return hf_hub_url(self.repo, name, repo_type="dataset", revision=self.revision)

    def _part_path(self, file: RemoteFile) -> Path:
        """The sum in the name keeps halves of two different files apart."""
        return self.folder / f"{file.name}.{file.sha256[:12]}.part"

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what the hub's client raises into a DataError with the next action."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            if isinstance(error, InterruptedError) or getattr(error, "errno", None):
                raise  # ours, or what the disk says
            raise DataError(_advice(self.repo, name, error)) from error


class PartFile(io.BufferedWriter):
    """A half-finished file, appended to until the download is given up."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._stop = stop

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise InterruptedError("the download was given up")
        return super().write(data)


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks to stay away, within reason; 0 where it asks nothing."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), MOST_WAIT_SECONDS) if text.isdigit() else 0.0


def try_patiently(request: Callable[[], Result]) -> Result:
    """The request's result; one that fails for a reason that passes is made again."""
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


def _advice(repo: str, name: str, error: Exception) -> str:
    """What went wrong with a file, and what to do."""
    what = f"{name} of {repo} at {constants.ENDPOINT}"
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{what} is to be downloaded, but HF_HUB_OFFLINE forbids it: unset that. {NO_NETWORK}"
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == TOO_MANY:
        return (
            f"{what}: the hub says that this is too much at once. Set HF_TOKEN, whose limit is "
            "higher, or run the same again later"
        )
    if status in (401, 403):
        return (
            f"{what} is not open to you ({status}): log in and accept its terms at "
            f"https://huggingface.co/datasets/{repo}, make a read token at "
            "https://huggingface.co/settings/tokens, export HF_TOKEN=..., and run the same again"
        )
    if status == 404:
        return (
            f"{what} is not there ({status}): {ANOTHER}; from the hub itself, ask for fewer files "
            "or another source"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"cannot download {what} ({reason}): check network, proxy and HF_ENDPOINT, and run the "
        f"same again; it goes on from where it was. {NO_NETWORK}"
    )


def _size(path: Path) -> int:
    """Of a file that another thread may rename at any moment; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
