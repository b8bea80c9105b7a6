"""Whose fault it was: when the same end, again and again, is the machine's.

In: a run's state. Out: the experiments in question. Pure.

An end that the harness saw itself (no process could be started, the card is gone, the machine
slept, a kill) is never held against an idea, and its run is repeated. One that only the training
tells of, or that it could have brought about itself, is repeated too, but not for ever: a file
could say so each time. Nor is one that was disturbed on a card, whose heat may be the file's own
doing. Ideas that fail alike, one after another, may have been met by one fault of the machine: then
the best file so far is tried (`control`).
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
