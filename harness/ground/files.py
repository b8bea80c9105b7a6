"""Files that are either whole or absent.

In: text, JSON values, arrays of bytes, paths. Out: files written so that a kill or a full disk at
any moment leaves the old file or the new one, never half of one; SHA-256 sums; JSON values read
back. Standard library only, so every part of the project may import it. Refuses nothing itself: an
`OSError` (no space, no permission) reaches the caller unchanged, after the temporary file is gone.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

AnyPath = str | os.PathLike[str]
TEMPORARY = ".tmp"


@contextlib.contextmanager
def open_atomic(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file open for writing that is called `path` once the `with` block ends well.

    The temporary file lies in the same folder, because a rename is atomic only inside one file
    system. It is synced before the rename, and the folder after it where the system allows that.
    It has the mode of the file it replaces, or 0644: mkstemp makes private files (0600), and a
    result is meant to be read like any other file of its folder.
    """
    target = Path(path)
    prefix = f".{target.name}.{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        with contextlib.suppress(OSError):  # on a disk that knows no modes
            os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(target.parent)


def append_whole(file: io.FileIO, data: bytes, sync: bool = False) -> None:
    """Write data at the end of an unbuffered file. OSError leaves it as long as it was."""
    end = file.seek(0, os.SEEK_END)
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
        if sync:
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise


def remove_temporaries(folder: AnyPath) -> list[str]:
    """Remove the temporary files that dead writers left in a folder; return their names.

    A living writer's stay: its number is in the name. (Where somebody else has that number since,
    the file waits for the next look.)
    """
    removed = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            writer = re.fullmatch(r"\..+\.(\d+)-\w+" + re.escape(TEMPORARY), entry.name)
            if writer and not _is_alive(int(writer[1])):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.path)
                    removed.append(entry.name)
    return removed


def _is_alive(pid: int) -> bool:
    """What psutil.pid_exists says; the training side, which imports this module, has no psutil."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_bytes_atomic(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with open_atomic(path) as file:
        file.write(data)


def write_text_atomic(path: AnyPath, text: str) -> None:
    """Write `text` as UTF-8 with its line ends unchanged, whole or not at all."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: AnyPath, obj: Any) -> None:
    """Write `obj` as indented JSON; NaN and infinity, which it lacks, are a ValueError."""
    text = json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False)
    write_text_atomic(path, text + "\n")


def read_json(path: AnyPath) -> Any:
    """The JSON value in `path`. Raises OSError, or ValueError, with the path, if it is no JSON."""
    raw = Path(path).read_bytes()
    try:
        return json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_tail(path: AnyPath, most_bytes: int) -> str:
    """The end of a text file; "" where there is none, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            return io.TextIOWrapper(file, encoding="utf-8", errors="replace").read()
    except OSError:
        return ""


def walk(folder: AnyPath) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each folder below with the names of its folders and of its files, links among these.

    What may still be gone into are the folders that the caller leaves in the list. os.walk calls
    itself for every level, and a training may leave thousands.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:  # gone, not ours to read, or a path too long
            continue
        folders = [name for name, is_folder in found if is_folder]
        yield place, folders, [name for name, is_folder in found if not is_folder]
        waiting += [os.path.join(place, name) for name in reversed(folders)]


def sha256_file(path: AnyPath) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces so that memory stays small."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: AnyPath) -> None:
    """Make what is in a file, whoever wrote it, survive a power cut. OSError for a link."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: AnyPath) -> None:
    """Make a rename in `folder` survive a power cut, where the disk can sync folders."""
    with contextlib.suppress(OSError):
        sync_file(os.path.realpath(folder))


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file so that the target is the old one or the new one, never half of it."""
    with source.open("rb") as reading, open_atomic(target) as writing:
        shutil.copyfileobj(reading, writing)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        copy_atomic(source, target)
