"""When a training is hopeless: far behind the best file at equal progress.

In: the state, how far behind in nats of training loss. Out: the loss that is hopeless at some
places of the budget. Pure. `scripts/early_stopping.py` replays recorded curves: how much time that
saves, and which good ideas it would have lost. Off unless the run's `hopeless_nats` asks for it.

Losses are what the trainings say themselves. An idea that says too little is trained to its end as
all are; a best file that did would end the ideas after it, and gain nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.run.state import State
from harness.search.bank.order import new_constants

PLACES = ("25", "50", "75")  # % of the budget, of those at which losses are noted
# Constants that bend the curve: where they differ, two curves compare at the end alone. The
# template's, and those that the bank's schedules bring.
OF_THE_TEMPLATE = {"TOTAL_BATCH_SIZE", "WARMUP_RATIO", "WARMDOWN_RATIO", "FINAL_LR_FRAC"}
BENT = OF_THE_TEMPLATE | new_constants("schedule")


def is_bent(proposed: Mapping) -> bool:
    """Whether schedule or batch of a file differ from those of the file it was made from.

    proposed: its category, and the constants_changed where that is known.
    """
    changed = set(proposed.get("constants_changed") or ())
    return proposed["category"] == "schedule" or bool(changed & BENT)


def hopeless_losses(state: State, nats: float) -> dict[int, float]:
    """By % of the budget the training loss from which on the newest experiment is hopeless.

    {} where nothing compares: nats is 0, or schedule or batch differ from the best file's.
    """
    proposed = state.experiments[-1].attempt.proposed
    if not nats or is_bent(proposed):
        return {}
    curves = [run.trained.get("losses") or {} for run in state.rivals]
    found = {}
    for place in PLACES:
        losses = [curve[place] for curve in curves if curve.get(place) is not None]
        if losses:
            found[int(place)] = sum(losses) / len(losses) + nats
    return found
