"""Whether a gain on validation text is there on private text, too. numpy only, no files.

In: losses per token of candidate and incumbent on the validation rows and on the holdout rows. Out: agrees or disagrees,
and nothing else: a figure from the holdout that reached a proposer, or the keep rule, would make it a second validation
text, and in the end one that is fitted.

The same trained models are compared on both texts, so the noise of training is in both gains and cancels; what is left is
the texts' own. A document is easy or hard as a whole, and goes over several rows: the standard error of a gain comes from
blocks of rows that hold some documents each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STANDARD_ERRORS = 4  # by which the gain on the holdout may fall short: what disagrees waits for a person, so it must be rare
DOCUMENTS_EACH = 2  # documents in a block, on average
FEWEST_BLOCKS = 8


@dataclass(frozen=True)
class Losses:
    """One text's targets. weights (rows,): of each row, its scored bytes or tokens; candidate, incumbent: each run's nats (rows,).

    documents: how many the rows are of.
    """

    weights: np.ndarray
    candidate: Sequence[np.ndarray]
    incumbent: Sequence[np.ndarray]
    documents: int


def row_nats(losses: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Sum of the scored losses of each row, nats (rows,) float64. losses, targets: (rows, T)."""
    return np.where(token_bytes[targets] > 0, losses.astype(np.float64), 0.0).sum(axis=1)


def blocks_of(rows: int, documents: int) -> int:
    """Into how many blocks rows are put together."""
    return min(rows, max(FEWEST_BLOCKS, documents // DOCUMENTS_EACH))


def ratio_and_error(totals: np.ndarray, weights: np.ndarray, blocks: int) -> tuple[float, float]:
    """Return (sum of totals / sum of weights, its standard error) from rows in order, blocks of neighbours being one draw each."""
    first = np.linspace(0, len(totals), blocks, endpoint=False).astype(int)
    total, weight = np.add.reduceat(totals, first), np.add.reduceat(weights.astype(np.float64), first)
    ratio = total.sum() / weight.sum()
    spread = math.sqrt(float(((total - ratio * weight) ** 2).sum()) * blocks / (blocks - 1)) if blocks > 1 else 0.0
    return float(ratio), spread / float(weight.sum())


def gain_and_error(text: Losses) -> tuple[float, float]:
    """Return (gain, its standard error), nats for each unit of the weights; positive is better for the candidate."""
    difference = np.mean(text.incumbent, axis=0) - np.mean(text.candidate, axis=0)
    return ratio_and_error(difference, text.weights, blocks_of(len(difference), text.documents))


def agrees(validation: Losses, holdout: Losses) -> bool:
    """True unless the gain on the holdout falls short of the gain on validation text by more than STANDARD_ERRORS."""
    (gain, error), (private_gain, private_error) = gain_and_error(validation), gain_and_error(holdout)
    return gain - private_gain <= STANDARD_ERRORS * math.hypot(error, private_error)
