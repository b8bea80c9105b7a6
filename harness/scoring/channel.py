"""The pipe to a model server: a child that runs a candidate, behind its caller's wall.

In: a header, rows; out: replies of known size, each with the sequence word of its request. Nothing
a child does can hold us past a deadline, make us read more than was asked for, or outlive the
server. numpy only; imports nothing of a candidate.
"""

from __future__ import annotations

import builtins
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
from harness.ground.text import last_line
from harness.sandbox.child import WAIT_SECONDS, child_command, kill_child
from harness.sandbox.memory_killer import KILLED_FROM_OUTSIDE, memory_kills, memory_was_there

SEQUENCE = struct.Struct("<I")
LOG_TAIL_BYTES = 20_000
LONGEST_LINE_BYTES = 65_536
# Names of exceptions that say nothing but what went wrong: Python's, torch's and our server's.
EXCEPTIONS = {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
EXCEPTIONS |= {"OutOfMemoryError", "AcceleratorError", "BackendCompilerFailed"}
EXCEPTIONS |= {"InductorError", "LinAlgError", "ContractError"}


class ScoreError(RuntimeError):
    """A score could not be measured.

    status: the run's: crash, nan, oom, timeout, cheating or infrastructure. sure: False for an end
    that a candidate may have brought about itself, and that is not held against it at once.
    """

    def __init__(self, status: str, cause: str, sure: bool = True) -> None:
        super().__init__(cause)
        self.status, self.cause, self.sure = status, cause, sure


@dataclass(frozen=True)
class Launch:
    """How a server is started. enclose: puts a command behind the wall.

    walled: the child sees no process of ours, so cannot compare its parent's id.
    """

    environment: Mapping[str, str]
    enclose: Callable[[list[str]], list[str]] = list
    walled: bool = False


class Exchanges:
    """Writes and reads a child's pipes on a daemon thread, so that no child can hold us."""

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
        if size:
            return self._from_child.read(size)
        return self._from_child.readline(LONGEST_LINE_BYTES)

    def ask(self, message: bytes, size: int, deadline: float) -> bytes:
        """Send a message and return `size` bytes (0: one line) of answer.

        A shorter one means that the child ended. deadline: of time.monotonic. Raises ScoreError
        `timeout` at the deadline; nothing can be asked after that.
        """
        self._requests.put((message, size))
        try:
            return self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ScoreError("timeout", "scoring took longer than its time limit") from None

    def close(self) -> None:
        self._requests.put(None)


class ModelServer:
    """A child process that serves one candidate; leaving its context leaves its group dead.

    The process starts at once and imports what it needs; it is told of a candidate, and loads it,
    when the context is entered, and from then on its time counts.
    """

    def __init__(self, header: dict, launch: Launch, folder: Path, limit_seconds: float) -> None:
        """header: see `server`. folder: the child's working folder, and its log's."""
        self.header, self.walled, self.limit_seconds = header, launch.walled, limit_seconds
        self.log_path = folder / "server.log"
        self._memory_kills = memory_kills()
        parent = 0 if launch.walled else os.getpid()
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            launch.enclose(child_command("harness.scoring.server", str(parent))),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(launch.environment),
            cwd=folder,
            start_new_session=True,
        )
        self._pipes = Exchanges(self.process.stdin, self.process.stdout)
        self._sequence = 0
        self._knows_private_text = False

    def __enter__(self) -> ModelServer:
        self._deadline = time.monotonic() + self.limit_seconds
        try:
            header = json.dumps(self.header).encode() + b"\n"
            if not self._pipes.ask(header, 0, self._deadline).startswith(b'{"ready"'):
                raise self._died()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the server and all it started; a second time does nothing."""
        if self._log.closed:
            return
        self._pipes.close()
        kill_child(self.process, self.walled)
        self._log.close()

    def losses(self, rows: np.ndarray, private: bool = True) -> np.ndarray:
        """Return float32 losses (B, T), nats, of rows (B, T + 1) uint16.

        private: whether the rows are of an evaluation split.
        """
        self._knows_private_text |= private
        return self._ask(rows.astype("<u2").tobytes(), (rows.shape[0], rows.shape[1] - 1))

    def logits(self, inputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return float32 logits (B, n_vocab) of private inputs (B, T) at one position each."""
        self._knows_private_text = True
        message = inputs.astype("<u2").tobytes() + positions.astype("<u2").tobytes()
        return self._ask(message, (len(inputs), self.header["n_vocab"]))

    def _ask(self, message: bytes, shape: tuple[int, int]) -> np.ndarray:
        """Send one request and return its answer, float32 of the shape."""
        word = SEQUENCE.pack(self._sequence)
        self._sequence += 1
        size = SEQUENCE.size + 4 * shape[0] * shape[1]
        answer = self._pipes.ask(word + message, size, self._deadline)
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
        # The second is how a wall's own process reports it.
        killed = status in (-signal.SIGKILL, 128 + signal.SIGKILL)
        if killed and memory_was_there(self._memory_kills):
            cause = f"the model server was {KILLED_FROM_OUTSIDE}"
            return ScoreError("infrastructure", cause, sure=False)
        log = end_of(self.log_path)
        said = last_line(log, otherwise="")[:500]
        out_of_memory = killed or "out of memory" in said.lower()
        if said and self._knows_private_text:
            said = plain_cause(log, Path(self.header["train_py"]))
        cause = said or f"model server ended with status {status} and no message"
        if killed:  # a card that is full says so itself, and is no container
            cause += memory_limit_words()
        return ScoreError("oom" if out_of_memory else "crash", cause)


def end_of(path: Path) -> str:
    """The last LOG_TAIL_BYTES of a child's log."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace")


def plain_cause(said: str, train_py: Path) -> str:
    """What kind of exception ended a server, and in which line of train.py.

    It is all that is taken from one that has seen private text: its messages, and the names of
    exceptions of its own, could hold that text.
    """
    kinds = re.findall(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?=:|$)", said, re.MULTILINE)
    kind = next((name for name in reversed(kinds) if name in EXCEPTIONS), "an exception of its own")
    last = len(train_py.read_bytes().splitlines())
    lines = [int(number) for number in re.findall(r'train\.py", line (\d{1,6})', said)]
    line = next((number for number in reversed(lines) if 1 <= number <= last), None)
    place = f" in line {line} of train.py" if line else ""
    broken = "; it does not return what the contract of train.py says"
    contract = broken if kind == "ContractError" else ""
    return f"{kind}{place}{contract}, while it saw private text: its message is not kept"
