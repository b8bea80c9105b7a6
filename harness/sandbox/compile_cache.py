"""Compiled code that trainings begin with, so that each idea is compiled once.

In: a run's folder of compiled code, on a local disk, and the train.py. Out: a private copy for one
training: what an earlier training of the same file had compiled, else what the baseline had, which
nobody edited. Of a training only that is kept which was there when its start-up was over: until
then it had no training rows, so it can hold nothing that was trained. What it writes later is
deleted with it, and no other file ever gets it. The folder may be deleted at any time: then all is
compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from harness.ground.files import sha256_file, walk
from harness.sandbox.left_files import copy_plain_files, remove_tree

MOST_BYTES, MOST_FILES = 10**9, 50_000  # of what is kept of one training
LOCAL_BYTES = 5 * MOST_BYTES  # that must be free
MOST_KEPT = 3  # files whose compiled code waits for their next training, the newest


def local_folder(run: Path) -> Path:
    """Where a run's compiled code is: on this machine's own disk, as results need not be.

    Compilers make thousands of small files, for which a network's volume takes its time. With the
    results, where there is little room, or where that name is somebody else's.
    """
    mine = Path(tempfile.gettempdir()) / f"autoresearch-{os.getuid()}"
    with contextlib.suppress(OSError):
        mine.mkdir(mode=0o700, exist_ok=True)
        status, free = os.lstat(mine), shutil.disk_usage(mine).free
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if ours and not status.st_mode & 0o077 and free > LOCAL_BYTES:
            return mine / hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:16]
    return run / "compile_cache"


class CompileCache:
    """One training's private copy, `path`. root: the run's folder, None where nothing is kept;
    work: the training's own folder."""

    def __init__(self, root: str | None, train_py: Path, work: Path) -> None:
        self.root = Path(root) if root else None
        self.path = (self.root or work) / "private"
        self._train_py = train_py
        self.compiled: bool | None = None  # whether the start-up compiled anything anew

    def lend(self) -> None:
        """Make the copy: whole, or empty."""
        remove_tree(self.path)
        if self.root:
            own, promoted = ready_of(self.root, self._train_py), self.root / "promoted"
            try:
                shutil.copytree(own if own.is_dir() else promoted, self.path)
            except OSError:  # there is none, or no room
                remove_tree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lent = count_files(self.path)

    def keep_ready(self) -> None:
        """The start-up is over, and training rows are not there yet: keep what it compiled."""
        self.compiled = count_files(self.path) > self._lent
        if not (self.root and self.compiled):
            return
        own = ready_of(self.root, self._train_py)
        remove_tree(own)
        kept = False
        with contextlib.suppress(OSError):  # no room
            kept = copy_plain_files(self.path, own, MOST_BYTES, MOST_FILES)
        if not kept:
            remove_tree(own)
        others = sorted(own.parent.iterdir(), key=lambda each: each.stat().st_mtime)
        for oldest in others[:-MOST_KEPT]:
            remove_tree(oldest)

    def close(self) -> None:
        """Remove the copy, with whatever the training left there."""
        remove_tree(self.path)


def ready_of(root: Path, train_py: Path) -> Path:
    """What is kept for a file, by what is in it."""
    return root / "ready" / sha256_file(train_py)


def promote(root: Path, train_py: Path) -> None:
    """Begin all others with what the file had compiled, unless it had found all that it needed."""
    own = ready_of(root, train_py)
    if own.is_dir():
        remove_tree(root / "promoted")
        own.rename(root / "promoted")


def count_files(folder: Path) -> int:
    """How many files lie in a folder and below."""
    return sum(len(files) for _, _, files in walk(folder))
