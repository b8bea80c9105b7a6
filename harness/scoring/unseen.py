"""Whether a gain is there on text that no scoring process ever had. numpy only.

In: rows of the split `unseen`, a model server in mode `logits`. Out: the loss at some places of it,
nats; and, beside the incumbent's at the same places, the gain there.

The audit proves that a model's losses do not depend on what follows, as long as the process that
answers cannot know what the scoring process was shown. Whatever passed between the two, none of it
is of this text: a server is shown what comes before a place, then a training row, and must name the
next token. So a gain that was looked up is missing here. The places are the same all night, for the
incumbent too, so that a difference is of the models and not of the text; what is left of chance, by
blocks of documents, says how much could be missed: `smallest_missed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.scoring.audit import ask_logits, losses_of, splice, spread
from harness.scoring.channel import ModelServer
from harness.scoring.holdout import STANDARD_ERRORS, Losses, gain_and_error, ratio_and_error

# Places for each row of validation text, and at most: they cost a forward pass of one row each.
SHARE, MOST = 2.0, 4096
# Standard errors: what is larger than these and STANDARD_ERRORS together is found with 90%.
FOUND_MOSTLY = 1.28


@dataclass(frozen=True)
class Text:
    """The unseen rows (n, T + 1), and rows of training text (m, T + 1) to go on with."""

    rows: np.ndarray
    others: np.ndarray
    token_bytes: np.ndarray


def count_places(validation_rows: int, batch_rows: int) -> int:
    """How many places are asked for: whole batches."""
    return batch_rows * max(1, round(min(MOST, SHARE * validation_rows) / batch_rows))


def measure_places(server: ModelServer, text: Text, count: int, seed: int = 0) -> np.ndarray:
    """Losses (3, n) float32: the row, the position and the nats of each place, n at most `count`.

    The same seed asks at the same places.
    """
    rng = np.random.default_rng(seed)
    batch_rows, length = server.header["batch_rows"], text.rows.shape[1] - 1
    scored = np.flatnonzero(text.token_bytes[text.rows[:, 1:]].ravel() > 0)
    places = rng.choice(scored, min(count, len(scored)), replace=False)
    rows, positions = np.divmod(places, length)
    order = spread(rows, positions, batch_rows, rng)
    asked = order >= 0
    rows, positions = rows[order], positions[order]
    inputs = splice(text.rows[rows], np.where(asked, positions, -1), text.others, rng)
    logits = ask_logits(server, inputs, positions, batch_rows)[asked]
    rows, positions = rows[asked], positions[asked]
    nats = losses_of(logits, text.rows[rows, positions + 1])
    return np.stack([rows, positions, nats]).astype(np.float32)


def gain_of_places(
    candidate: np.ndarray, incumbent: np.ndarray, documents: int
) -> tuple[float, float]:
    """Return (gain, its standard error), nats a token, of losses (3, n) at the same places."""
    difference = incumbent[2].astype(np.float64) - candidate[2]
    rows = candidate[0].astype(int)
    return ratio_and_error(np.bincount(rows, difference), np.bincount(rows), documents)


def smallest_missed(validation: Losses, error: float) -> float:
    """The gain that could be looked up and be missed one time in ten, in the unit of both."""
    return (STANDARD_ERRORS + FOUND_MOSTLY) * math.hypot(error, gain_and_error(validation)[1])
