"""Whether a gain on validation text is there on private text, too. numpy only, no files.

In: losses per token of candidate and incumbent on the validation rows and on the holdout rows. Out:
whether they agree, and nothing else: a figure from the holdout that reached a proposer, or the keep
rule, would make it a second validation text, and in the end one that is fitted.

The same trained models are compared on both texts, so the noise of training is in both gains and
cancels; what is left is the texts' own. A document is easy or hard as a whole, and goes over
several rows: the standard error of a gain comes from blocks of rows that hold some documents each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# By which the gain on private text may fall short: what disagrees waits for a person, so it must be
# rare. For places of unseen text 0 false alarms in 300 are asked for.
STANDARD_ERRORS = 4
DOCUMENTS_EACH = 2  # documents in a block, on average
FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Losses:
    """One text's targets. weights (rows,): of each row, its scored bytes or tokens.

    candidate, incumbent: each run's nats (rows,). documents: how many the rows are of.
    """

    weights: np.ndarray
    candidate: Sequence[np.ndarray]
    incumbent: Sequence[np.ndarray]
    documents: int


def row_nats(losses: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Sum of the scored losses of each row, nats (rows,) float64. losses, targets: (rows, T)."""
    return np.where(token_bytes[targets] > 0, losses.astype(np.float64), 0.0).sum(axis=1)


def ratio_and_error(totals: np.ndarray, weights: np.ndarray, documents: int) -> tuple[float, float]:
    """Return (sum of totals / sum of weights, its standard error) from rows in order.

    Blocks of neighbours are one draw each. documents: how many the rows are of.
    """
    blocks = min(len(totals), max(FEWEST_BLOCKS, documents // DOCUMENTS_EACH))
    first = np.linspace(0, len(totals), blocks, endpoint=False).astype(int)
    total, weight = np.add.reduceat(totals, first), np.add.reduceat(weights, first)
    ratio = total.sum() / weight.sum()
    squares = float(((total - ratio * weight) ** 2).sum())
    spread = math.sqrt(squares * blocks / (blocks - 1)) if blocks > 1 else 0.0
    return float(ratio), spread / float(weight.sum())


def gain_and_error(text: Losses) -> tuple[float, float]:
    """Return (gain, its standard error), nats per unit of weight; positive is better."""
    difference = np.mean(text.incumbent, axis=0) - np.mean(text.candidate, axis=0)
    return ratio_and_error(difference, text.weights, text.documents)


def agrees(validation: Losses, gain: float, error: float) -> bool:
    """Whether the gain on private text falls short of the other one by no more than chance."""
    recorded, its_error = gain_and_error(validation)
    return recorded - gain <= STANDARD_ERRORS * math.hypot(error, its_error)
