"""Whether the machine is to blame where several ideas in a row failed in the same way.

In: a run's state. Out: the experiments in question. Pure.

A failure whose cause the harness saw itself (no process could be started, the card is gone, the
machine slept, a kill) never counts against an idea, and its training is repeated. If only the
training reports the cause, or could have brought it about, it is repeated a few times only, since a
file could report it each time. The same holds for a training that was disturbed on a card, whose
heat may come from the file itself. Where ideas fail alike one after another, one fault of the
machine may be the cause: then the best file so far is tried (`control`).
"""

from __future__ import annotations

import re

from harness.run.state import Experiment, State

ALIKE = 3  # experiments in a row
MACHINE_MAY_DO = (
    "crash",
    "timeout",
    "oom",
)  # statuses that a broken machine gives as well as a bad idea


def failed_alike(state: State) -> list[Experiment]:
    """The last ALIKE trained experiments, where all ended with the same words; else [].

    [] also where a control has looked since the first of them. Ideas that were never trained say
    nothing, and are passed over.
    """
    last = [e for e in state.experiments[1:] if e.decided and e.attempt.runs][-ALIKE:]
    ends = {end_of(e) for e in last}
    if len(last) < ALIKE or len(ends) > 1 or None in ends:
        return []
    looked = state.controlled > last[0].decided["seq"]
    return [] if looked or any(e.number in state.excused for e in last) else last


def end_of(experiment: Experiment) -> tuple[str, str] | None:
    """Status and words of a failure that a machine may bring about; None for other ends.

    Without what differs from run to run: numbers, addresses and paths.
    """
    run = experiment.attempt.failure
    if run and run.disturbed:
        return run.status, "disturbed"
    if run is None or run.status not in MACHINE_MAY_DO:
        return None
    words = re.sub(r"0x[0-9a-f]+|/[^\s'\"]+|\d+(\.\d+)?", "#", run.cause.lower())
    return run.status, words
