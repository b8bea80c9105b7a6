"""Measures val_bpb from losses per token that a model server returns over a pipe. numpy only; imports nothing of a candidate.

In: prepared data, a train.py and its weights (paths, passed on), a deadline. Out: a `Score` with nats, bytes and val_bpb, and losses.npy.
Refuses losses that are missing, late, not finite or negative, and totals that differ from the manifest's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.data.manifest import PreparedData

SEQUENCE = struct.Struct("<I")


class ScoreError(RuntimeError):
    """A score could not be measured; `status` is the run's: crash, nan, oom, timeout or infrastructure."""

    def __init__(self, status: str, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause


@dataclass(frozen=True)
class Score:
    """nats: sum over scored targets. scored_bytes: their raw bytes. losses: (rows, T) float32, nats, all targets."""

    val_bpb: float
    nats: float
    scored_tokens: int
    scored_bytes: int
    losses: np.ndarray
    seconds: float


def bits_per_byte(losses: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> tuple[float, int, int]:
    """Return (nats, tokens, bytes) over the targets that are not special; bits per byte is nats / (ln 2 * bytes).

    losses, targets: (rows, T). token_bytes: (n_vocab,) int, raw bytes of each token, 0 for specials. Sums are taken in float64.
    """
    target_bytes = token_bytes[targets]
    scored = target_bytes > 0
    nats = float(losses.astype(np.float64)[scored].sum())
    return nats, int(scored.sum()), int(target_bytes.sum())


def check_losses(losses: np.ndarray) -> None:
    """Raise ScoreError unless every loss is finite and not negative: a model may be bad, not undefined."""
    if not np.isfinite(losses).all():
        raise ScoreError("nan", f"{int((~np.isfinite(losses)).sum())} losses are not finite")
    if (losses < 0).any():
        raise ScoreError("crash", f"{int((losses < 0).sum())} losses are negative: they are no cross-entropy")


class Deadline:
    """A point in time that every wait shares."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())


class PipeReader:
    """Reads exact sizes from a pipe on a daemon thread, so that a silent child cannot hold us past the deadline."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._sizes: queue.Queue[int | None] = queue.Queue()
        self._chunks: queue.Queue[bytes] = queue.Queue()
        self._pipe = pipe
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        for size in iter(self._sizes.get, None):
            self._chunks.put(self._pipe.readline(65536) if size == 0 else self._pipe.read(size))

    def read(self, size: int, deadline: Deadline) -> bytes:
        """Return `size` bytes (0: one line). Raises ScoreError `timeout` at the deadline; a shorter answer means the child ended."""
        self._sizes.put(size)
        try:
            return self._chunks.get(timeout=deadline.left)
        except queue.Empty:
            raise ScoreError("timeout", "scoring took longer than its time limit") from None

    def close(self) -> None:
        self._sizes.put(None)


def iter_batches(rows: np.ndarray, batch_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, batch) of a fixed shape; the last batch is filled up with copies of its own last row."""
    for first in range(0, len(rows), batch_rows):
        batch = rows[first : first + batch_rows]
        if len(batch) < batch_rows:
            batch = np.concatenate((batch, np.repeat(batch[-1:], batch_rows - len(batch), axis=0)))
        yield first, np.ascontiguousarray(batch)


class ModelServer:
    """A child process that serves one candidate's losses; a context manager that always leaves its process group dead."""

    def __init__(
        self, header: dict, environment: Mapping[str, str], log_path: Path, folder: Path, deadline: Deadline
    ) -> None:
        self.header, self.deadline, self.log_path = header, deadline, log_path
        command = [sys.executable, "-m", "harness.scoring.server", str(os.getpid())]
        self._log = log_path.open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=dict(environment), cwd=folder, start_new_session=True
        )  # fmt: skip
        self.reader = PipeReader(self.process.stdout)

    def __enter__(self) -> ModelServer:
        try:
            self._write(json.dumps(self.header).encode() + b"\n")
            if not self.reader.read(0, self.deadline).startswith(b'{"ready"'):
                raise self._died()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the server and all it started."""
        self.reader.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it has ended already
            os.killpg(self.process.pid, signal.SIGKILL)  # the group: helpers outlive their parent
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it did not read before it died
            self.process.stdin.close()
        self._log.close()

    def losses(self, sequence: int, rows: np.ndarray) -> np.ndarray:
        """Return float32 losses (B, T) of rows (B, T + 1) uint16."""
        word = SEQUENCE.pack(sequence)
        self._write(word + rows.astype("<u2").tobytes())
        size = SEQUENCE.size + 4 * rows.shape[0] * (rows.shape[1] - 1)
        answer = self.reader.read(size, self.deadline)
        if len(answer) != size:
            raise self._died()
        if answer[: SEQUENCE.size] != word:
            raise ScoreError("crash", "the model server's stream is out of step")
        return np.frombuffer(answer, dtype="<f4", offset=SEQUENCE.size).reshape(rows.shape[0], -1)

    def _write(self, message: bytes) -> None:
        try:
            self.process.stdin.write(message)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> ScoreError:
        try:
            returncode = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            returncode = None
        lines = self.log_path.read_bytes()[-20_000:].decode(errors="replace").strip().splitlines()
        cause = lines[-1][:500] if lines else f"model server ended with status {returncode} and no message"
        status = "oom" if returncode == -signal.SIGKILL or "out of memory" in cause.lower() else "crash"
        return ScoreError(status, cause)


def score_model(
    data: PreparedData,
    train_py: Path,
    weights: Path,
    *,
    device: str,
    dtype: str,
    threads: int | None,
    environment: Mapping[str, str],
    folder: Path,
    limit_seconds: float,
    progress: Callable[[float], None] = lambda share: None,
) -> Score:
    """Measure val_bpb of a candidate's weights on the validation rows. folder: the server's working folder and log.

    Raises ScoreError with the status of the run.
    """
    started = time.monotonic()
    rows = np.memmap(data.private_dir / "val.bin", dtype="<u2", mode="r").reshape(-1, data.max_seq_len + 1)
    batch_rows = data.manifest["eval_batch_rows"]
    header = {
        "train_py": str(train_py), "weights": str(weights), "n_vocab": data.n_vocab, "max_seq_len": data.max_seq_len,
        "batch_rows": batch_rows, "device": device, "dtype": dtype, "threads": threads,
    }  # fmt: skip
    losses = np.full((len(rows), data.max_seq_len), np.nan, dtype=np.float32)
    with ModelServer(header, environment, folder / "server.log", folder, Deadline(limit_seconds)) as server:
        for sequence, (first, batch) in enumerate(iter_batches(rows, batch_rows)):
            answer = server.losses(sequence, batch)
            losses[first : first + batch_rows] = answer[: len(rows) - first]
            progress(min(1.0, (first + batch_rows) / len(rows)))
    check_losses(losses)
    token_bytes = np.load(data.train_dir / "token_bytes.npy", allow_pickle=False)
    nats, tokens, scored_bytes = bits_per_byte(losses, rows[:, 1:], token_bytes)
    expected = data.manifest["scored"]["val"]
    if (tokens, scored_bytes) != (expected["tokens"], expected["bytes"]):
        raise ScoreError(
            "infrastructure", f"scored {tokens} tokens, {scored_bytes} bytes; the manifest says {expected}"
        )
    return Score(nats / (math.log(2) * scored_bytes), nats, tokens, scored_bytes, losses, time.monotonic() - started)
