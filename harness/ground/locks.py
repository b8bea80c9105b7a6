"""One process at a time; the next one waits and says so.

In: a path for the lock file. Out: a context in which no other process holds it. The lock goes with
its process, however that ends.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def wait_for_lock(path: Path, busy: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock; `busy` is said when somebody else holds it first. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        progress(busy)
        held = lock.acquire()
    with held:
        yield
