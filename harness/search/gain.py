"""A gain that was measured, and what several measurements of one come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CLEAR = 2.0  # errors that a gain or a loss is away from 0


@dataclass(frozen=True)
class Gain:
    """bpb, positive is better; error: one standard error. clear: the gain, 0 where it may be
    chance."""

    gain: float
    error: float

    @property
    def clear(self) -> float:
        return self.gain if abs(self.gain) > CLEAR * self.error else 0.0


UNKNOWN = Gain(0.0, math.inf)


def pool(gains: Sequence[Gain]) -> Gain:
    """Return their mean, weighted by their errors; UNKNOWN for none."""
    if not gains:
        return UNKNOWN
    weights = [each.error**-2 for each in gains]
    mean = sum(each.gain * w for each, w in zip(gains, weights, strict=True)) / sum(weights)
    return Gain(mean, sum(weights) ** -0.5)
