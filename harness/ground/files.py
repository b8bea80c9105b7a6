"""Files that are either whole or absent.

In: text, JSON values, arrays of bytes, paths. Out: files written so that a kill or a full disk at any moment leaves the
old file or the new one, never half of one; SHA-256 sums; JSON values read back. Standard library only, so every part of
the project may import it. Refuses nothing itself: an `OSError` (no space, no permission) reaches the caller unchanged,
after the temporary file is gone.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20
TEMPORARY = ".tmp"


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file open for writing that takes the name `path` only when the `with` block ends without an exception.

    The temporary file lies in the same folder, because a rename is atomic only inside one file system. It is synced
    before the rename, and the folder after it where the system allows that.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.{os.getpid()}-", suffix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files (0600); a result is meant to be read like any other file of its folder.
        _copy_mode(Path(name), target)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(target.parent)


def append_whole(file: FileIO, data: bytes, sync: bool = False) -> None:
    """Write data at the end of a file that is open unbuffered. Raises OSError, the file as long as it was, when not all of it could be written.

    sync: return only when it would survive a power cut.
    """
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


def remove_temporaries(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files that writers which are dead now left in a folder; return their names.

    A living writer's stay: its number is in the name. (Where somebody else has that number since, the file waits for the next look.)
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
    if os.name == "nt":  # os.kill would end it there; a file that stays is the lesser harm
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with open_atomic(path) as file:
        file.write(data)


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with its line ends unchanged, whole or not at all."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON (UTF-8, newline at the end). NaN and infinity are a ValueError: JSON has neither."""
    write_text_atomic(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON value in `path`. OSError if it cannot be read, ValueError naming the file if it is not JSON."""
    raw = Path(path).read_bytes()
    try:
        return json.loads(raw.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces so that memory stays small."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make a rename in `folder` survive a power cut; does nothing where folders cannot be synced (Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _copy_mode(temporary: Path, target: Path) -> None:
    """Give the temporary file the mode of the file it replaces, or 0644 for a new one."""
    try:
        mode = target.stat().st_mode & 0o777
    except FileNotFoundError:
        mode = 0o644
    with contextlib.suppress(OSError):
        os.chmod(temporary, mode)


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

