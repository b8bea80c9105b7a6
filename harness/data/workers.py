"""Work for several processes: `map_in_processes`.

In: a top-level function and plain-data tasks. Out: results in the order of the tasks. A worker is a
fresh interpreter that reads tasks from a pipe, so unlike multiprocessing's it never imports the
caller's main module: a notebook, `python -c` and a script without a `__main__` guard all work, and
no thread or CUDA context is copied. When the parent goes, however it ends, the pipe closes and the
workers go after the task in hand; a worker that dies is a DataError here.
"""

import contextlib
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from harness.ground.cgroup import memory_limit_words
from harness.ground.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, ahead: int = 256
) -> Iterator[Result]:
    """Yield `function(task)` for every task, in order; in this process where one is enough.

    At most `ahead` tasks are begun and not yet yielded, which bounds memory. An exception in a
    worker is raised here. Leaving early waits for the tasks in hand and starts no other.
    """
    workers = min(workers, len(tasks))
    if workers < 2:
        yield from map(function, tasks)
        return
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def run(task: Task) -> Result:
        worker = free.get()
        try:
            return worker.call(function, task)
        finally:
            free.put(worker)

    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            free.put(stack.enter_context(Worker()))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        begun: deque[Future[Result]] = deque()
        left = (threads.submit(run, task) for task in tasks)
        try:
            begun.extend(islice(left, ahead))
            while begun:
                yield begun.popleft().result()
                begun.extend(islice(left, 1))
        finally:
            for future in begun:
                future.cancel()


class Worker(contextlib.AbstractContextManager):
    """A child interpreter that answers one call at a time."""

    def __init__(self) -> None:
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        # -P: no module of the current folder gets in
        command = [sys.executable, "-P", "-m", "harness.data.workers"]
        environment = {**os.environ, "PYTHONPATH": paths}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a dead worker's pipe
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def call(self, function: Callable[[Task], Result], task: Task) -> Result:
        """`function(task)`, done by the worker."""
        try:
            pickle.dump((function, task), self._process.stdin)
            self._process.stdin.flush()
            result, error = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as broken:
            raise DataError(
                f"a worker process ended with {self._process.wait()}, killed most often for want "
                f"of memory{memory_limit_words()}: run the same again with fewer workers; "
                "finished parts are kept"
            ) from broken
        if error is not None:
            raise error
        return result


def serve() -> None:
    """The worker's side: answer calls until the pipe closes. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing printed can get into the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, task = pickle.load(calls)
            pickle.dump(_answer(function, task), answers)
            answers.flush()


def _answer(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    try:
        return function(task), None
    except Exception as error:  # not hidden: it is raised again in the parent
        return None, error


def peak_rss_mb() -> int:
    """The most memory this process has held so far, in MB."""
    # Linux first: its ru_maxrss begins with the parent's size, VmHWM is this process's own
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


if __name__ == "__main__":
    serve()
