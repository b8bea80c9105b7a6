"""The pipe to a model server: a child process that runs a candidate, behind whatever wall its caller puts it.

In: a header, rows; out: replies of known size, each with the sequence word of its request. Nothing a child does can hold us past a deadline, make us read
more than was asked for, or outlive the server. numpy only; imports nothing of a candidate.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import queue
import re
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.ground.cgroup import memory_limit_words
from harness.ground.text import without_escapes
from harness.sandbox.child import child_command
from harness.sandbox.memory_killer import KILLED_FROM_OUTSIDE, memory_kills, memory_was_there

SEQUENCE = struct.Struct("<I")
LOG_TAIL_BYTES = 20_000
LONGEST_LINE_BYTES = 65_536
WAIT_SECONDS = 5.0  # for what was killed to end
# Names of exceptions that say nothing but what went wrong: Python's, and those of torch and of our server.
EXCEPTIONS = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)} | {
    *("OutOfMemoryError", "AcceleratorError", "BackendCompilerFailed", "InductorError", "LinAlgError", "ContractError"),
}


class ScoreError(RuntimeError):
    """A score could not be measured; `status` is the run's: crash, nan, oom, timeout, cheating or infrastructure.

    sure: False for an end that a candidate may have brought about itself, and that is not held against it at once.
    """

    def __init__(self, status: str, cause: str, sure: bool = True) -> None:
        super().__init__(cause)
        self.status, self.cause, self.sure = status, cause, sure


@dataclass(frozen=True)
class Launch:
    """How a server is started. enclose: puts a command behind the wall; walled: the child sees no process of ours, so cannot compare its parent's id."""

    environment: Mapping[str, str]
    enclose: Callable[[list[str]], list[str]] = list
    walled: bool = False


class Deadline:
    """A point in time that every wait shares."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())


class Exchanges:
    """Writes and reads a child's pipes on a daemon thread, so that one that neither reads nor answers cannot hold us past the deadline."""

    def __init__(self, to_child: IO[bytes], from_child: IO[bytes]) -> None:
        """Both unbuffered: a lock that the blocked thread held would hold who closes them."""
        self._to_child, self._from_child = to_child, io.BufferedReader(from_child)
        self._requests: queue.Queue[tuple[bytes, int] | None] = queue.Queue()
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with self._to_child, self._from_child:
            for message, size in iter(self._requests.get, None):
                self._answers.put(self._exchange(memoryview(message), size))

    def _exchange(self, message: memoryview, size: int) -> bytes:
        try:
            while message:
                message = message[self._to_child.write(message) :]
        except BrokenPipeError:
            return b""
        return self._from_child.read(size) if size else self._from_child.readline(LONGEST_LINE_BYTES)

    def ask(self, message: bytes, size: int, deadline: Deadline) -> bytes:
        """Send a message and return `size` bytes (0: one line) of answer; a shorter one means that the child ended.

        Raises ScoreError `timeout` at the deadline; nothing can be asked after that.
        """
        self._requests.put((message, size))
        try:
            return self._answers.get(timeout=deadline.left)
        except queue.Empty:
            raise ScoreError("timeout", "scoring took longer than its time limit") from None

    def close(self) -> None:
        self._requests.put(None)


class ModelServer:
    """A child process that serves one candidate; a context manager that always leaves its process group dead.

    The process starts at once and imports what it needs; it is told of a candidate, and loads it, when the context is entered.
    """

    def __init__(self, header: dict, launch: Launch, folder: Path, deadline: Deadline) -> None:
        """header: see `server`. folder: the child's working folder, and its log's."""
        self.header, self.walled, self.deadline, self.log_path = header, launch.walled, deadline, folder / "server.log"
        self._memory_kills = memory_kills()
        parent = 0 if launch.walled else os.getpid()
        command = launch.enclose(child_command("harness.scoring.server", str(parent)))
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=dict(launch.environment), cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        self._pipes = Exchanges(self.process.stdin, self.process.stdout)
        self._sequence, self._closed = 0, False
        self._knows_private_text = False

    def __enter__(self) -> ModelServer:
        try:
            header = json.dumps(self.header).encode() + b"\n"
            if not self._pipes.ask(header, 0, self.deadline).startswith(b'{"ready"'):
                raise self._died()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the server and all it started; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._pipes.close()
        if self.walled and self.process.poll() is None:
            for inner in inner_processes(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a device that lets nobody go
                self.process.wait(timeout=WAIT_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it has ended already
            os.killpg(self.process.pid, signal.SIGKILL)  # the group: helpers outlive their parent
        self.process.wait()
        self._log.close()

    def losses(self, rows: np.ndarray, private: bool = True) -> np.ndarray:
        """Return float32 losses (B, T), nats, of rows (B, T + 1) uint16. private: whether the rows are of an evaluation split."""
        self._knows_private_text |= private
        return self._ask(rows.astype("<u2").tobytes(), (rows.shape[0], rows.shape[1] - 1))

    def logits(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return float32 logits (B, n_vocab) of inputs (B, T) uint16, private ones, at one position of each, (B,)."""
        self._knows_private_text = True
        message = inputs.astype("<u2").tobytes() + positions.astype("<u2").tobytes()
        return self._ask(message, (len(inputs), self.header["n_vocab"]))

    def _ask(self, message: bytes, shape: tuple[int, int]) -> np.ndarray:
        """Send one request and return its answer, float32 of the shape."""
        word = SEQUENCE.pack(self._sequence)
        self._sequence += 1
        size = SEQUENCE.size + 4 * shape[0] * shape[1]
        answer = self._pipes.ask(word + message, size, self.deadline)
        if len(answer) != size:
            raise self._died()
        if answer[: SEQUENCE.size] != word:
            raise ScoreError("crash", "the model server's stream is out of step")
        return np.frombuffer(answer, dtype="<f4", offset=SEQUENCE.size).reshape(shape)

    def _died(self) -> ScoreError:
        try:
            status = self.process.wait(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        killed = status in (-signal.SIGKILL, 128 + signal.SIGKILL)  # the second: as a wall's own process reports it
        if killed and memory_was_there(self._memory_kills):
            return ScoreError("infrastructure", f"the model server was {KILLED_FROM_OUTSIDE}", sure=False)
        said = last_line(self.log_path)
        out_of_memory = killed or "out of memory" in said.lower()
        if said and self._knows_private_text:
            said = plain_cause(tail_of(self.log_path), Path(self.header["train_py"]))
        cause = said or f"model server ended with status {status} and no message"
        if killed:  # a card that is full says so itself, and is no container
            cause += memory_limit_words()
        return ScoreError("oom" if out_of_memory else "crash", cause)


def inner_processes(pid: int) -> list[int]:
    """What a wall's own process started: it ends only when they have, and their memory, a card's too, is free then."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or this kernel does not say
        return []


def tail_of(path: Path) -> str:
    """The end of a child's log."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()


def last_line(path: Path) -> str:
    """The last line of a child's log, harmless to show, at most 500 characters; "" when it said nothing."""
    lines = tail_of(path).splitlines()
    return without_escapes(lines[-1])[:500] if lines else ""


def plain_cause(said: str, train_py: Path) -> str:
    """What kind of exception ended a server, and in which line of train.py: all that is taken from one that has seen private text.

    Its messages, and the names of exceptions of its own, could hold that text.
    """
    kinds = re.findall(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?=:|$)", said, re.MULTILINE)
    kind = next((name for name in reversed(kinds) if name in EXCEPTIONS), "an exception of its own")
    lines = [int(number) for number in re.findall(r'train\.py", line (\d{1,6})', said)]
    last = len(train_py.read_bytes().splitlines())
    line = next((number for number in reversed(lines) if 1 <= number <= last), None)
    place = f" in line {line} of train.py" if line else ""
    contract = "; it does not return what the contract of train.py says" if kind == "ContractError" else ""
    return f"{kind}{place}{contract}, while it saw private text: its message is not kept"
