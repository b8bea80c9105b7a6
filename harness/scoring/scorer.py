"""Measures val_bpb from losses per token that a model server returns over a pipe.

In: prepared data, a train.py and its weights (paths, passed on), a time limit. Out: a `Score` with
nats, bytes and val_bpb. Refuses losses that are missing, late, not finite or negative, and totals
that differ from the manifest's. Whether the losses are the model's own is for `audit` to find out.
numpy only; imports nothing of a candidate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data.manifest import PreparedData
from harness.scoring.channel import Launch, ModelServer, ScoreError


@dataclass(frozen=True)
class Score:
    """nats: sum over scored targets. scored_bytes: their raw bytes.

    losses: (rows, T) float32, nats, all targets.
    """

    val_bpb: float
    nats: float
    scored_tokens: int
    scored_bytes: int
    losses: np.ndarray
    seconds: float


def bits_per_byte(
    losses: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray
) -> tuple[float, int, int]:
    """Return (nats, tokens, bytes) over the targets that are not special.

    Bits per byte is nats / (ln 2 * bytes). losses, targets: (rows, T). token_bytes: (n_vocab,) int,
    raw bytes of each token, 0 for specials. Sums are taken in float64.
    """
    target_bytes = token_bytes[targets]
    scored = target_bytes > 0
    nats = float(losses.astype(np.float64)[scored].sum())
    return nats, int(scored.sum()), int(target_bytes.sum())


def check_losses(losses: np.ndarray) -> None:
    """Raise ScoreError unless every loss is finite and not negative."""
    if bad := int((~np.isfinite(losses)).sum()):
        raise ScoreError("nan", f"{bad} losses are not finite")
    if bad := int((losses < 0).sum()):
        raise ScoreError("crash", f"{bad} losses are negative: they are no cross-entropy")


def iter_batches(rows: np.ndarray, batch_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, batch) of a fixed shape, the last one filled up with its last row."""
    for first in range(0, len(rows), batch_rows):
        places = np.minimum(np.arange(first, first + batch_rows), len(rows) - 1)
        yield first, rows[places]


def open_rows(data: PreparedData, split: str) -> np.ndarray:
    """The rows (n, T + 1) uint16 of a split, memory-mapped. DataError where it is lacking."""
    rows = np.memmap(data.rows_path(split), dtype="<u2", mode="r")
    return rows.reshape(-1, data.max_seq_len + 1)


def open_token_bytes(data: PreparedData) -> np.ndarray:
    """Raw bytes of each token, (n_vocab,), 0 for specials."""
    return np.load(data.train_dir / "token_bytes.npy", allow_pickle=False)


@dataclass(frozen=True)
class ServerJob:
    """A trained file, and how a model server is started on it.

    threads: None for torch's own choice. folder: the server's working folder and log. server: one
    that was started on it before, in the mode that will be asked for, and waits.
    """

    train_py: Path
    weights: Path
    device: str
    dtype: str
    threads: int | None
    launch: Launch
    folder: Path
    limit_seconds: float
    server: ModelServer | None = None


def start_server(data: PreparedData, job: ServerJob, mode: str, batch_rows: int = 0) -> ModelServer:
    """A model server, started; it knows nothing of the candidate until it is entered.

    Close it, if it never is. mode: `losses` of all targets, or `logits` at one position of each
    row. batch_rows: rows of a request, 0 for as many as an evaluation takes.
    """
    header = {
        "mode": mode,
        "train_py": str(job.train_py),
        "weights": str(job.weights),
        "n_vocab": data.n_vocab,
        "max_seq_len": data.max_seq_len,
        "batch_rows": batch_rows or data.manifest["eval_batch_rows"],
        "device": job.device,
        "dtype": job.dtype,
        "threads": job.threads,
    }
    return ModelServer(header, job.launch, job.folder, job.limit_seconds)


def server_of(data: PreparedData, job: ServerJob, mode: str) -> ModelServer:
    """The server that waits for this job, else a new one."""
    return job.server or start_server(data, job, mode)


def score_one_batch(data: PreparedData, job: ServerJob) -> None:
    """Raise ScoreError unless a batch of training rows can be scored."""
    batch_rows = data.manifest["eval_batch_rows"]
    _, batch = next(iter_batches(open_rows(data, "train")[:batch_rows], batch_rows))
    with server_of(data, job, "losses") as server:
        check_losses(server.losses(batch, private=False))


def score_model(
    data: PreparedData,
    job: ServerJob,
    split: str = "val",
    progress: Callable[[float], None] = lambda share: None,
) -> Score:
    """Measure bits per byte of weights on `val` or `holdout`. Raises ScoreError."""
    started = time.monotonic()
    rows, token_bytes = open_rows(data, split), open_token_bytes(data)
    batch_rows = data.manifest["eval_batch_rows"]
    losses = np.full((len(rows), data.max_seq_len), np.nan, dtype=np.float32)
    with server_of(data, job, "losses") as server:
        for first, batch in iter_batches(rows, batch_rows):
            losses[first : first + batch_rows] = server.losses(batch)[: len(rows) - first]
            progress(min(1.0, (first + batch_rows) / len(rows)))
    check_losses(losses)
    nats, tokens, scored_bytes = bits_per_byte(losses, rows[:, 1:], token_bytes)
    expected = data.manifest["scored"][split]
    if (tokens, scored_bytes) != (expected["tokens"], expected["bytes"]):
        cause = f"scored {tokens} tokens, {scored_bytes} bytes; the manifest says {expected}"
        raise ScoreError("infrastructure", cause)
    val_bpb, seconds = nats / (math.log(2) * scored_bytes), time.monotonic() - started
    return Score(val_bpb, nats, tokens, scored_bytes, losses, seconds)
