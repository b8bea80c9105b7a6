"""Plays a journal back: could `next_step` have led to each of its entries?

In: entries. Out: the state they lead to, and what is wrong with the first that cannot follow those
before it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.rules.decision import decision
from harness.rules.next_step import Step, last_attempt, step_after
from harness.run.state import State, apply_entry

ANSWERS = {  # kind of a step: what is written when it is done
    "open": "opened",
    "propose": "proposed",
    "control": "controlled",
    "check": "checked",
    "train": "run_started",
    "in_flight": "trained",
    "score": "scored",
    "audit": "audited",
    "decide": "decided",
    "commit": "committed",
}
RUN_PLACE = ("experiment", "attempt", "run")
PLACES = {  # event: what it says of its place; the others are of a run
    "opened": (),
    "controlled": (),
    "committed": RUN_PLACE[:1],
    "proposed": RUN_PLACE[:2],
    "checked": RUN_PLACE[:2],
    "decided": RUN_PLACE[:2],
}
# Between these a rule chooses, which another version of the harness may have had otherwise.
JUDGED = ("train", "audit", "decide")
# What the runs of an experiment alone give.
DECIDED = ("decision", "status", "val_bpb", "n_runs", "incumbent")


def replay(entries: Sequence[dict], budget_seconds: float | None) -> tuple[State, str]:
    """Return (state, ""), or the state before the first entry that cannot stand where it does.

    With that what is wrong with it. budget_seconds: the run's; None where it is unknown or the run
    began under another harness: then what rules chose (another run or not, which seed, keep or
    discard) is taken as it stands.
    """
    state = State()
    step = step_after(state)
    for entry in entries:
        try:
            wrong = misplaced(state, step, entry, budget_seconds)
            if not wrong:
                apply_entry(state, entry)
                step = step_after(state)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            what = f"({type(error).__name__}: {error})"
            wrong = f"`{entry['event']}` has not the fields it needs {what}"
        if wrong:
            return state, f"journal.jsonl, line {entry['seq'] + 1}: {wrong}"
    return state, ""


def misplaced(state: State, step: Step, entry: dict, budget_seconds: float | None) -> str:
    """Why this entry cannot come next, in words; "" when it can."""
    event, asked = entry["event"], asked_for(step)
    instead = f"{words_of(entry)} stands where {words_of(asked)} was to come"
    if event == "note":
        return ""
    if event == "ruled":
        return ruled_wrongly(state, entry)
    if event == "unrepaired":
        place = ("propose", entry["experiment"], entry["attempt"])
        fits = step.attempt and (step.kind, step.experiment, step.attempt) == place
        return "" if fits else instead
    if any(entry[name] != value for name, value in asked.items()):
        free = budget_seconds is None and step.kind in JUDGED and follows_loosely(state, entry)
        return "" if free else instead
    if event == "run_started" and budget_seconds is not None:
        chosen = {
            "kind": step.run_kind,
            "seed": step.seed,
            "device_batch_limit": step.device_batch_limit,
            "beside": step.experiment if step.of else None,
        }
        return differences(entry, chosen, "the rules ask for")
    if event == "decided" and budget_seconds is not None:
        given = decision(state, budget_seconds)
        return differences(entry, {name: given[name] for name in DECIDED}, "its runs give")
    return ""


def asked_for(step: Step) -> dict:
    """Event and place of the entry that says that a step is done."""
    event, place = ANSWERS[step.kind], dict(zip(RUN_PLACE, (*step.file, step.run), strict=True))
    return {"event": event} | {name: place[name] for name in PLACES.get(event, RUN_PLACE)}


def ruled_wrongly(state: State, entry: dict) -> str:
    """A person's word comes between two experiments, on one that waits for it."""
    waiting = [e.number for e in state.experiments if e.in_quarantine and e.committed]
    if step_after(state, rulings_wait=True).kind == "rule" and entry["experiment"] in waiting:
        return ""
    return f"{words_of(entry)}, which was not in quarantine then"


def follows_loosely(state: State, entry: dict) -> bool:
    """Whether some rule could have chosen this entry: another run, a look at one, or a decision."""
    experiment, is_run = state.experiments[-1], entry["event"] == "run_started"
    if is_run and experiment.number and entry.get("beside") == experiment.number:
        experiment = state.incumbent
    if (entry.get("experiment"), entry.get("attempt")) != last_attempt(experiment):
        return False
    runs = experiment.attempt.runs
    if is_run:
        return entry["run"] == len(runs)
    return entry["event"] == "decided" or (
        entry["event"] == "audited" and 0 <= entry["run"] < len(runs)
    )


def differences(entry: dict, expected: dict, who: str) -> str:
    """Which fields are otherwise, as a sentence; "" for none."""
    other = [
        f"{key} {entry.get(key)}, {who} {value}"
        for key, value in expected.items()
        if entry.get(key) != value
    ]
    return f"{words_of(entry)} has {'; '.join(other)}" if other else ""


def words_of(entry: dict) -> str:
    """An entry by its name and place."""
    place = [f"{key} {entry[key]}" for key in RUN_PLACE if key in entry]
    return f"`{entry['event']}`" + (f" of {', '.join(place)}" if place else "")
