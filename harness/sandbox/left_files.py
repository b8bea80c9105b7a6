"""Files that a child left behind: taken, kept or removed, whatever they are.

In: folders in which edited code wrote, whose processes are dead. Out: plain files, or nothing. A
link could lead to files that the code was not shown, a pipe could block its reader for ever, and a
folder a thousand levels deep is too much for `shutil.rmtree`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import BinaryIO

from harness.ground.files import sync_file, sync_folder

REMOVE_SECONDS = 60.0  # what is still being written by somebody who got away does not hold us
# Folders below one another that are kept, and again that are walked down: with the longest names, a
# path that the system still takes.
DEEPEST = 5
COPIED_BYTES = 2**20  # at a time


def take_file(folder: Path, name: str, target: Path, most_bytes: int) -> str:
    """Move a plain file out of the child's folder; return "" or, with nothing moved, why not.

    A child syncs nothing. What was taken would survive a power cut when this returns, since a
    journal speaks of it next.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return f"the folder of {name} is gone: {error.strerror}"
    try:
        status = os.stat(name, dir_fd=opened, follow_symlinks=False)
        if not is_plain(status):
            return f"{name} is not a file of its own, but a link, a folder or a pipe"
        if status.st_size > most_bytes:
            sizes = f"{status.st_size / 1e9:.1f} GB, {most_bytes / 1e9:.1f} GB are allowed"
            return f"{name} has {sizes}"
        remove_tree(target)
        os.rename(name, target, src_dir_fd=opened)
        os.chmod(target, 0o600)
    except FileNotFoundError:
        return f"there is no {name}"
    finally:
        os.close(opened)
    sync_file(target)
    sync_folder(target.parent)
    return ""


def is_plain(status: os.stat_result) -> bool:
    """Whether that is a file, and one without a second name, under which others could change it."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def keep_ours(file: BinaryIO, path: Path) -> None:
    """Put a file that we hold open back in its place, from which a child may have moved it."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), os.fstat(file.fileno())):
            return
    remove_tree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.seek(0)
    path.write_bytes(file.read())


def copy_plain_files(folder: Path, target: Path, most_bytes: int, most_files: int) -> bool:
    """Copy the plain files of a folder in which somebody may still write; False for too much.

    Nothing is followed out of it, and nothing is waited for: what is no plain file is left out.
    """
    for place, folders, names, opened in os.fwalk(folder):
        inside = Path(place).relative_to(folder)
        (target / inside).mkdir(parents=True, exist_ok=True)
        if len(inside.parts) >= DEEPEST:
            folders.clear()
        for name in names:
            if (file := open_plain(name, opened)) is None:
                continue
            most_files -= 1
            with file, (target / inside / name).open("wb") as copy:
                while most_bytes >= 0 and (chunk := file.read(COPIED_BYTES)):
                    most_bytes -= copy.write(chunk)
            if most_bytes < 0 or most_files < 0:
                return False
    return True


def open_plain(name: str, folder: int) -> BinaryIO | None:
    """Open a plain file in an opened folder; None for anything else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        file = os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
    except OSError:  # a link, gone, or closed to us
        return None
    if is_plain(os.fstat(file.fileno())):
        return file
    file.close()
    return None


def remove_tree(path: Path) -> None:
    """Remove a file, a link, or a folder with all in it, however deep and whatever its modes.

    What cannot be removed stays: the next that needs the place says so.
    """
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        until = time.monotonic() + REMOVE_SECONDS
        while entries_of(path) and time.monotonic() < until:
            empty(path, path, DEEPEST)
        path.rmdir()


def empty(folder: str | Path, top: Path, depth: int) -> None:
    """Remove what is in a folder; the deepest go to `top`, so that no path grows too long."""
    for entry in entries_of(folder):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
        elif depth:
            empty(entry.path, top, depth - 1)
            os.rmdir(entry.path)
        else:
            os.chmod(entry.path, 0o700)  # a folder that cannot be written cannot be moved
            os.rename(entry.path, top / secrets.token_hex(16))


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, opened to us first."""
    os.chmod(folder, 0o700)
    with os.scandir(folder) as entries:
        return list(entries)
