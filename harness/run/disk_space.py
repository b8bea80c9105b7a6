"""Whether a run's disk has room for what comes next, and where its bytes are.

In: a run's folder; an error. Out: "" or a sentence that says what is missing and what to do; bytes
by kind. Nothing is written and nothing is raised here: whoever asks decides whether to wait or to
end.

What a run keeps however long it goes on: weights and losses of the baseline, the incumbent, the
experiment in flight and the newest few in quarantine (see `kept_files`), pages up to PAGES_BYTES,
and of each training at most `child_log`'s two capped files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from harness.ground.files import walk

# What a run takes besides weights, losses and compile cache: logs, pages, git objects, everybody's
# temporary files.
SPARE_BYTES = 300 * 10**6
# What the first training of all needs: how large its weights are is not known yet.
UNKNOWN_BYTES = 500 * 10**6
WEIGHTS_TIMES, LOSSES_TIMES, CACHE_TIMES = 4, 2, 2
PAGES_BYTES = 10**9  # of notebooks/: beyond it the oldest pages go
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left on device", "Disk quota exceeded")
KINDS = ("weights", "losses", "notebooks", "logs", "caches", "rest")
TO_DO = "make room, then run the same command again: nothing is lost"


def lacking(folder: Path) -> str:
    """Why another training should not begin, "" when there is room for it. folder: the run's."""
    free, needed = free_bytes(folder), needed_bytes(folder)
    if free >= needed:
        return ""
    return f"only {in_words(free)} are free in {folder}, a run needs {in_words(needed)}: {TO_DO}"


def needed_bytes(folder: Path) -> int:
    """Bytes that must be free before a training of this run, by what is there of earlier ones.

    A training may take half of what is free for a copy of the compile cache and its weights, those
    perhaps larger than the incumbent's; then they may have to be copied once for the model servers
    and once for best/, where the disk knows no second names.
    """
    known = [folder / "best", *folder.glob("experiments/0000/attempts/*/runs/*")]
    weights = max((size_of(place / "weights.safetensors") for place in known), default=0)
    losses = max((size_of(place / "losses.npy") for place in known), default=0)
    if not weights:
        return UNKNOWN_BYTES
    cache = sum(on_disk(folder / "compile_cache").values())
    return SPARE_BYTES + WEIGHTS_TIMES * weights + LOSSES_TIMES * losses + CACHE_TIMES * cache


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write in the folder."""
    return shutil.disk_usage(folder).free


def is_full(error: BaseException | str) -> bool:
    """Whether an error, or what somebody else's said, means that the disk, or a quota, is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(words in str(error) for words in FULL_WORDS)


def full_words(folder: Path, error: BaseException | str) -> str:
    """What to say when writing failed in the middle of something: an error of is_full."""
    where, free = getattr(error, "filename", None) or folder, in_words(free_bytes(folder))
    return f"the disk is full ({free} free; {where} could not be written): {TO_DO}"


def stored(folder: Path) -> dict[str, int]:
    """Bytes on disk of a run by KINDS; a file with two names counts once."""
    sizes = dict.fromkeys(KINDS, 0)
    for path, size in on_disk(folder).items():
        sizes[kind_of(Path(path).relative_to(folder))] += size
    return sizes


def kind_of(path: Path) -> str:
    """Which of KINDS a file of a run is. path: within the run's folder."""
    if "compile_cache" in path.parts:
        return "caches"
    if path.name.endswith(".safetensors"):
        return "weights"
    if path.name.endswith("losses.npy"):
        return "losses"
    if path.suffix == ".log" or path.name == "events.jsonl":
        return "logs"
    return "notebooks" if path.parts[0] == "notebooks" else "rest"


def on_disk(folder: Path) -> dict[str, int]:
    """The bytes on disk of each file below a folder; one with two names is there once."""
    found: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    for place, _, names in walk(folder):
        for path in (os.path.join(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    blocks = getattr(status, "st_blocks", None)  # not on Windows
                    found[path] = status.st_size if blocks is None else 512 * blocks
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def in_words(size: int) -> str:
    """Bytes as 812 MB or 1.5 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def disk_use_in_words(folder: Path) -> str:
    """What a run has on disk, what is free, and what another training needs, as one line."""
    sizes = stored(folder)
    told = [kind for kind in KINDS[:-1] if sizes[kind] >= 10**6]
    most = ", ".join(f"{kind} {in_words(sizes[kind])}" for kind in told)
    held = f"{in_words(sum(sizes.values()))} kept" + (f" ({most})" if most else "")
    free, needed = in_words(free_bytes(folder)), in_words(needed_bytes(folder))
    return f"{held}, {free} free, {needed} needed for a run"
