"""The bank: structural ideas for the proposer that needs no key, in the order of a night.

In: the kind of device. Out: ideas, best expected gain first and cheap before expensive. What helps
a card that takes a thousand large steps need not help a CPU that takes as many small ones, so there
are two orders of the same ideas.
"""

from harness.search.bank.architecture import GATE, HALF_ROTARY, LEAKY, LEARNT_SHARPNESS, SKIPS
from harness.search.bank.attention import EARLIER_KEYS, EXCLUSIVE, HEADS_APART
from harness.search.bank.growth import GROWING_BATCH, GROWING_DEPTH, SHORT_ROWS
from harness.search.bank.idea import Idea
from harness.search.bank.lookups import REPEATS, SIGNS, TABLE_VALUES
from harness.search.bank.optimizer import (
    AVERAGE,
    COOLDOWN,
    EQUAL_ROWS,
    LOOK_AHEAD,
    NO_ROW_SCALING,
    ORTHOGONAL,
    TABLE_SCHEDULE,
    WARMDOWN_SHAPE,
)
from harness.search.bank.shape import (
    DEEPER,
    HALF_BATCH,
    LARGER,
    LONGER_RUNS,
    SHORT_CONVOLUTION,
    TOKEN_TABLES,
    WIDER,
)

# fmt: off
ON_CARDS = (
    SHORT_CONVOLUTION, TOKEN_TABLES, HALF_BATCH, REPEATS, LARGER, EXCLUSIVE, LEAKY, TABLE_VALUES,
    LOOK_AHEAD, EARLIER_KEYS, HEADS_APART, SIGNS, GROWING_BATCH, EQUAL_ROWS, SHORT_ROWS,
    GROWING_DEPTH, GATE, COOLDOWN, SKIPS, LONGER_RUNS, LEARNT_SHARPNESS, ORTHOGONAL, HALF_ROTARY,
    AVERAGE, DEEPER, NO_ROW_SCALING, TABLE_SCHEDULE, WARMDOWN_SHAPE, WIDER,
)
ON_A_CPU = (
    SHORT_CONVOLUTION, TOKEN_TABLES, REPEATS, LEAKY, TABLE_VALUES, EARLIER_KEYS, SIGNS, EQUAL_ROWS,
    EXCLUSIVE, HEADS_APART, GROWING_BATCH, SHORT_ROWS, HALF_ROTARY, NO_ROW_SCALING, WIDER, GATE,
    COOLDOWN, LONGER_RUNS, ORTHOGONAL, LEARNT_SHARPNESS, AVERAGE, LARGER, LOOK_AHEAD,
    TABLE_SCHEDULE, WARMDOWN_SHAPE, SKIPS, GROWING_DEPTH, HALF_BATCH, DEEPER,
)
# fmt: on


def ideas_for(device_kind: str) -> tuple[Idea, ...]:
    """Return all ideas in the order for a kind of device: cpu, or that of a card."""
    return ON_A_CPU if device_kind == "cpu" else ON_CARDS


def known_ideas(device_kind: str) -> tuple[Idea, ...]:
    """Return the ideas whose gain was measured on this kind of device: on cards nothing was."""
    return tuple(idea for idea in ON_A_CPU if idea.known_gain) if device_kind == "cpu" else ()


def largest_known_gain(device_kind: str) -> float:
    """Return the largest of these gains in bpb, 0 where there is none."""
    return max((idea.known_gain for idea in known_ideas(device_kind)), default=0.0)


def new_constants() -> set[str]:
    """Return the names that the ideas bring, so that a program may speak of them beforehand."""
    return set().union(*(idea.new_constants() for idea in ON_CARDS))
