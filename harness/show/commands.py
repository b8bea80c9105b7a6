"""What the panel starts: the lab's own commands, as processes that outlive the notebook's kernel.

In: a results folder. Out: a night, one idea or an answer; and in words how what was started ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import psutil

from harness import REPOSITORY
from harness.ground.text import last_line

ANSWER_SECONDS = 120.0


class Commands:
    """Runs `python -m harness` on the runs of one folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._child: subprocess.Popen | None = None
        self._out: IO[bytes] | None = None  # what the child says: a night has its own log

    def launch(self, *words: str) -> str:
        """Start a command as a process of its own; return what to tell."""
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self._child = subprocess.Popen(
            self._line(*words),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return f"started, process {self._child.pid}"

    def ended(self) -> str:
        """How the last one ended, told once; "" before: a refusal is in no file of the run."""
        if self._child is None or self._child.poll() is None:
            return ""
        with self._out as out:
            out.seek(0)
            last = last_line(out.read().decode("utf-8", errors="replace"), otherwise="")
        status, self._child = self._child.returncode, None
        return f"ended with status {status}: {last}"

    def answer(self, *words: str) -> str:
        """Run a command that answers at once; return the last line of what it said."""
        done = subprocess.run(
            self._line(*words),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
        return last_line(done.stderr or done.stdout, otherwise="")

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "harness", *words, "--results", str(self.results)]


def end_night(pid: int | None) -> str:
    """Ask a night's driver to end at once; return what to tell."""
    try:
        if pid:
            psutil.Process(pid).terminate()
            return f"process {pid} is asked to end"
    except psutil.Error as error:
        return str(error)
    return "no night is running"


def copy_of_best(folder: Path) -> Path:
    """A copy of a run's best train.py to edit, beside the notebooks; one that is there stays."""
    target = own_file(folder)
    if not target.exists():
        target.write_bytes((folder / "best" / "train.py").read_bytes())
    return target


def own_file(folder: Path) -> Path:
    return REPOSITORY / "notebooks" / f"my_{folder.name}_train.py"
