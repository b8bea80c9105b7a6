"""Whether a gain on validation text is there on private text, too. numpy only, no files.

In: losses per token of candidate and incumbent on the validation rows and on the holdout rows. Out: agrees or disagrees, and nothing else: a figure from
the holdout that reached a proposer, or the keep rule, would make it a second validation text, and in the end one that is fitted.

The same trained models are compared on both texts, so the noise of training is in both gains and cancels; what is left is the texts' own. Gains are
told apart by the rows: the standard error of a gain comes from the spread of the rows' contributions to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STANDARD_ERRORS = 3  # by which the gain on the holdout may fall short of that on validation text


@dataclass(frozen=True)
class Losses:
    """One text's targets: row_bytes (rows,) of the scored ones, and each run's nats (rows,) for candidate and incumbent."""

    row_bytes: np.ndarray
    candidate: Sequence[np.ndarray]
    incumbent: Sequence[np.ndarray]


def row_nats(losses: np.ndarray, targets: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Sum of the scored losses of each row, nats (rows,) float64. losses, targets: (rows, T)."""
    return np.where(token_bytes[targets] > 0, losses.astype(np.float64), 0.0).sum(axis=1)


def gain_and_error(text: Losses) -> tuple[float, float]:
    """Return (gain, its standard error over rows), bits per byte; positive is better for the candidate."""
    difference = np.mean(text.incumbent, axis=0) - np.mean(text.candidate, axis=0)
    row_bytes = text.row_bytes.astype(np.float64)
    total = row_bytes.sum()
    gain = difference.sum() / total
    spread = (
        (difference - gain * row_bytes).std(ddof=1) * math.sqrt(len(difference)) / total if len(difference) > 1 else 0.0
    )
    return gain / math.log(2), spread / math.log(2)


def agrees(validation: Losses, holdout: Losses) -> bool:
    """True unless the gain on the holdout falls short of the gain on validation text by more than STANDARD_ERRORS."""
    (gain, error), (private_gain, private_error) = gain_and_error(validation), gain_and_error(holdout)
    return gain - private_gain <= STANDARD_ERRORS * math.hypot(error, private_error)
