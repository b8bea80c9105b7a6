"""Executes one notebook through papermill in a killable child process.

In: notebook, output path, parameters. Out: a NotebookProcess to watch, and how it ended. The child
is forked from a server that has papermill loaded (about two seconds saved each time), leads a
session of its own and dies with us. What an experiment's status is, is never read from the
notebook: the journal has it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pathlib import Path

import psutil

from harness import REPOSITORY
from harness.ground.errors import LoopError
from harness.run.locks import is_held
from harness.sandbox.processes import alive, kill_all_of, wait_until_dead

PRELOAD = [
    "harness.night.notebook_process",
    "harness.show.index",
    "papermill.execute",
    "papermill.clientwrap",
    "nbconvert.exporters.html",
]
STARTS = 10  # times that the server is asked for a process
# Before the next time: one that was killed refuses connections for a moment before it counts as
# dead.
AGAIN_SECONDS = 0.2
MOST_CUT = 3


def make_context() -> BaseContext:
    """A forkserver with papermill loaded; where there is none (Windows), plain spawn. Raises
    LoopError where no notebook could run."""
    if os.path.expanduser("~") == "~":
        raise LoopError("this user has no home folder: set HOME to one that you can write")
    try:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            socket.create_connection(probe.getsockname(), timeout=5).close()
    except OSError as error:
        raise LoopError(
            f"no socket can be opened here ({error}), and notebooks need some: let this "
            "command run outside of the sandbox of a coding agent (docs/agents.md), or the like"
        ) from error
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class NotebookProcess:
    """One execution of one notebook."""

    def __init__(
        self, context: BaseContext, notebook: Path, output: Path, parameters: dict
    ) -> None:
        put_aside(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        self._receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=execute,
            args=(str(notebook), str(output), parameters, sender),
            name=f"papermill {output.name}",
            # One that nobody watches, since a signal came just then, is not waited for.
            daemon=True,
        )
        for tries_left in reversed(range(STARTS)):
            try:
                self.process.start()
                break
            except (EOFError, OSError) as error:
                if "AF_UNIX path too long" in str(error):
                    raise LoopError(
                        "the folder of temporary files has too long a name for a socket"
                        f" ({tempfile.gettempdir()}): set TMPDIR to a shorter one, such as /tmp"
                    ) from error
                # Else its server was killed while it was asked: asked again, another is started.
                if not tries_left:
                    raise
                time.sleep(AGAIN_SECONDS)
        sender.close()
        try:
            self._child: psutil.Process | None = psutil.Process(self.process.pid)
        except psutil.NoSuchProcess:  # ended already
            self._child = None

    def running(self, wait_seconds: float) -> bool:
        """Wait up to wait_seconds; True while the child lives.

        Where the server that forked it has been killed, multiprocessing takes the child for dead,
        but it works on, and can report to us.
        """
        self.process.join(wait_seconds)
        if self.process.is_alive():
            return True
        lives = self._child is not None and alive(self._child)
        if lives:
            time.sleep(wait_seconds)
        return lives

    def failure(self) -> tuple[str, str] | None:
        """(exception name, message) of a child that has ended badly, None when it did its work."""
        try:
            return (
                self._receiver.recv()
                if self._receiver.poll()
                else (
                    "DeadProcess",
                    f"the notebook's process ended with status {self.process.exitcode}",
                )
            )
        except EOFError:
            return (
                "DeadProcess",
                f"the notebook's process ended with status {self.process.exitcode}",
            )

    def kill(self, run: Path) -> None:
        """End the child and all it started: kernel, training, model server. run: the folder of the
        run that it works on.
        """
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._child is not None:
                family = [self._child, *self._child.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.join(10)
        wait_until_dead(family)
        # Else a notebook by hand works on the run, and this one did not.
        if not is_held(run, "experiment"):
            kill_all_of(run)


def put_aside(output: Path) -> None:
    """Keep the page of an execution that was cut off, beside the one that will replace it; of one
    page's the newest MOST_CUT.
    """
    if not output.exists():
        return
    asides = [output.with_suffix(f".cut{number}.ipynb") for number in range(1, MOST_CUT + 1)]
    if all(aside.exists() for aside in asides):
        for older, newer in zip(asides, asides[1:], strict=False):
            os.replace(newer, older)
    os.replace(output, next(aside for aside in asides if not aside.exists()))


def end_with_driver() -> None:
    """End this process as soon as the driver has ended. Its server does not: it lives as long as
    any of its children.
    """
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def execute(notebook: str, output: str, parameters: dict, sender: Connection) -> None:
    """In the child: execute, export the page as HTML, and report None or (exception name,
    message).
    """
    threading.Thread(target=end_with_driver, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal is the driver's to answer
    log = os.open(
        Path(output).parent / "papermill.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
    )
    # A kernel that is killed says so on its stderr, in the middle of our progress line.
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "AUTORESEARCH_NIGHT": "1",
        "AUTORESEARCH_PREFIX": sys.prefix,
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    sender.send(run_papermill(notebook, output, parameters))
    from harness.show.pages import finish_page

    if Path(output).exists():
        finish_page(Path(output))


def run_papermill(notebook: str, output: str, parameters: dict) -> tuple[str, str] | None:
    """Execute through papermill; return None or (exception name, message)."""
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    try:
        nbformat.read(notebook, as_version=nbformat.NO_CONVERT)
    except Exception as error:  # nbformat raises whatever its JSON makes of a file
        path = Path(notebook)
        restore = f"`git checkout -- notebooks/{path.name}` brings back the one that was committed"
        return "PageError", f"{path} is no notebook ({type(error).__name__}): {restore}"
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name="python3",
            cwd=str(Path(notebook).parent),
            progress_bar=False,
            log_output=False,
            coalesce_streams=True,
            start_timeout=120,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        return error.ename, error.evalue
    except Exception as error:
        # Told by its own name: without a report the driver takes it for a dead process.
        return type(error).__name__, str(error)
    return None
