"""Whether a gain is there on text that no scoring process ever had. numpy only.

In: rows of the split `unseen`, a model server in mode `logits`. Out: the loss at some places of it, nats; and, beside the
incumbent's at the same places, whether the gain on validation text stands.

The audit proves that a model's losses do not depend on what follows, as long as the process that answers cannot know what
the scoring process was shown. Whatever passed between the two, none of it is of this text: a server is shown what comes
before a place, then a training row, and must name the next token. So a gain that was looked up is missing here. The places
are the same all night, for the incumbent too, so that a difference is of the models and not of the text; what is left of
chance, by blocks of documents, says how much could be missed: `smallest_missed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.scoring.audit import ask_logits, losses_of, spread
from harness.scoring.channel import ModelServer
from harness.scoring.holdout import Losses, blocks_of, gain_and_error, ratio_and_error

SHARE, MOST = 2.0, 4096  # places for each row of validation text, and at most: they cost a forward pass of one row each
STANDARD_ERRORS = 4  # of the difference: 0 false alarms in 300 are asked for
FOUND_MOSTLY = 1.28  # standard errors: what is larger than both together is found with 90% probability


@dataclass(frozen=True)
class Text:
    """The unseen rows (n, T + 1), rows of training text (m, T + 1) to go on with, and how many documents the first are of."""

    rows: np.ndarray
    others: np.ndarray
    token_bytes: np.ndarray
    documents: int


def count_places(validation_rows: int, batch_rows: int) -> int:
    """How many places are asked for: whole batches."""
    return batch_rows * max(1, round(min(MOST, SHARE * validation_rows) / batch_rows))


def measure_places(server: ModelServer, text: Text, count: int, seed: int = 0) -> np.ndarray:
    """Losses (3, n) float32: the row, the position and the nats of each place, n at most `count`; the same seed asks at the same places."""
    rng = np.random.default_rng(seed)
    batch_rows, length = server.header["batch_rows"], text.rows.shape[1] - 1
    scored = np.flatnonzero(text.token_bytes[text.rows[:, 1:]].ravel() > 0)
    where, positions = np.divmod(rng.choice(scored, min(count, len(scored)), replace=False), length)
    order = spread(where, positions, batch_rows, math.ceil(len(where) / batch_rows) + 1, rng)
    asked = order >= 0
    rows, positions = np.where(asked, where[order], 0), np.where(asked, positions[order], 0)
    tails = text.others[rng.integers(0, len(text.others), len(order)), :length]
    inputs = np.where(np.arange(length) > positions[:, None], tails, text.rows[rows, :length]).astype(np.uint16)
    logits = ask_logits(server, inputs, positions, batch_rows)[asked]
    rows, positions = rows[asked], positions[asked]
    return np.stack([rows, positions, losses_of(logits, text.rows[rows, positions + 1])]).astype(np.float32)


def gain_of_places(candidate: np.ndarray, incumbent: list[np.ndarray], documents: int) -> tuple[float, float]:
    """Return (gain, its standard error), nats a token, from losses (3, n) at the same places; positive is better for the candidate."""
    difference = np.mean([losses[2] for losses in incumbent], axis=0, dtype=np.float64) - candidate[2]
    rows = candidate[0].astype(int)
    totals, counts = np.bincount(rows, difference), np.bincount(rows).astype(np.float64)
    return ratio_and_error(totals, counts, blocks_of(len(totals), documents))


def agrees(validation: Losses, gain: float, error: float) -> bool:
    """Whether a gain at the places, with its standard error, falls short of that on validation text by no more than chance."""
    recorded, its_error = gain_and_error(validation)
    return recorded - gain <= STANDARD_ERRORS * math.hypot(error, its_error)


def smallest_missed(validation: Losses, error: float) -> float:
    """The gain that could be looked up and be missed one time in ten, in the unit of both."""
    return (STANDARD_ERRORS + FOUND_MOSTLY) * math.hypot(error, gain_and_error(validation)[1])
