"""The bank: structural ideas for the proposer that needs no key, in the order of a night.

In: the kind of device. Out: ideas. What helps a card that takes a thousand large steps need not
help a CPU that takes as many small ones. On cards nothing was measured: best expected gain first,
and cheap before expensive. On a CPU the order is that of what was measured (see `measured`). What
lost there comes last and is not left out: with five times the budget, larger models may gain.
"""

from harness.search.bank.architecture import GATE, HALF_ROTARY, LEAKY, LEARNT_SHARPNESS, SKIPS
from harness.search.bank.attention import EARLIER_KEYS, EXCLUSIVE, HEADS_APART
from harness.search.bank.growth import GROWING_BATCH, GROWING_DEPTH, SHORT_ROWS
from harness.search.bank.idea import Idea
from harness.search.bank.lookups import REPEATS, SIGNS, TABLE_VALUES
from harness.search.bank.measured import FILES, largest_clear_gain, measured, worth
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
# fmt: on
ON_A_CPU = tuple(sorted(ON_CARDS, key=lambda idea: -worth(idea.id).gain))


def ideas_for(device_kind: str) -> tuple[Idea, ...]:
    """Return the ideas in the order for a kind of device: cpu, or that of a card."""
    return ON_A_CPU if device_kind == "cpu" else ON_CARDS


def known_ideas(device_kind: str) -> tuple[Idea, ...]:
    """Return the ideas that clearly gained on this kind of device."""
    found = (idea for idea in ON_A_CPU if worth(idea.id).clear > 0)
    return tuple(found) if device_kind == "cpu" else ()


def largest_known_gain(device_kind: str) -> float:
    """Return the largest gain of an idea there in any file, bpb, 0 where there is none."""
    ideas = ON_A_CPU if device_kind == "cpu" else ()
    return max((largest_clear_gain(idea.id) for idea in ideas), default=0.0)


def measured_lines(device_kind: str) -> str:
    """Return what was measured of the ideas on this kind of device, for a prompt; "" for cards."""
    if device_kind != "cpu":
        return ""
    head = (
        "Trainings of 60 s on CPUs; gain in bpb ± one standard error, positive is better: alone in "
        "a plain GPT | in the template that nights begin with | idea."
    )
    return "\n".join([head, *(_line(idea) for idea in ON_A_CPU if idea.id in measured())])


def _line(idea: Idea) -> str:
    found = measured()[idea.id]
    gains = [found.get(file) for file in FILES]
    cells = [f"{each.gain:+.3f} ± {each.error:.3f}" if each else "" for each in gains]
    return f"{' | '.join(cells)} | {idea.title}"


def new_constants(*categories: str) -> set[str]:
    """Return the names that the ideas bring, those of some categories or all, so that a program may
    speak of them beforehand."""
    ideas = (idea for idea in ON_CARDS if not categories or idea.category in categories)
    return set().union(*(idea.new_constants() for idea in ideas))
