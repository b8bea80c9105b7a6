"""Whether close_out.jsonl and close_out/ agree with each other and the journal. A part of `check`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from harness.check.files import BACKUP, Look, missing_of, names_in
from harness.ground.errors import JournalError
from harness.lab.close_out import (
    BASELINE,
    NAME,
    OVER,
    TEMPLATE,
    CloseOut,
    built_name,
    fold_close_out,
)
from harness.run.journal import read_journal

FOLLOWS = {
    "begin": "claim_begun",
    "close": "trained",
    "train": "run_started",
    "score": "scored",
    "claim": "claimed",
    "nothing": "claim_begun",
}


def check_close_out(look: Look) -> Iterator[str]:
    """Each entry could come next, the claim is what its runs give, each training has its files."""
    try:
        entries = read_journal(look.folder / NAME)
    except JournalError as error:
        yield str(error)
        return
    kept = {experiment.number for experiment in look.state.kept}
    for number, entry in enumerate(entries):
        if wrong := misplaced(fold_close_out(entries[:number]), entry, kept):
            yield f"{NAME}, line {number + 1}: {wrong}"
            return
    found, folder = fold_close_out(entries), look.folder / "close_out"
    built = {
        built_name(role, each.begun["best"]) for each in found.comparisons for role in each.others
    }
    known = {built_name(TEMPLATE, 0), *built} | {f"{number:02d}" for number in range(found.numbers)}
    for name in sorted(set(names_in(folder)) - known):
        if name.endswith(".tmp"):  # of `check_left_behind`
            continue
        yield f"close_out/{name} is no training of {NAME}: move it elsewhere"
    for run in (run for each in found.comparisons for run in each.runs):
        training = folder / f"{run.number:02d}"
        if run.status == "ok" and (missing := missing_of(training)):
            yield f"{look.name(training)} has no {missing}: {BACKUP} if you need its log"


def misplaced(found: CloseOut, entry: dict, kept: set[int]) -> str:
    """Why this entry cannot come next, in words; "" when it can."""
    event, current = entry["event"], found.current
    if event == "claim_begun":  # a better file may have been kept before the last came to its end
        if entry["best"] not in kept:
            return f"experiment {entry['best']} was never kept"
        is_over = current.step in OVER or entry["best"] != current.begun["best"]
        return "" if is_over else f"a {current.kind} was begun and not finished"
    if event != FOLLOWS[current.step]:
        return f"`{event}` stands where `{FOLLOWS[current.step]}` was to come"
    if event == "run_started":
        asked = {"run": found.numbers, **asdict(current.next_trial)}
        other = [
            f"{key} {entry.get(key)}, its plan says {value}"
            for key, value in asked.items()
            if entry.get(key) != value
        ]
        return f"`run_started` has {'; '.join(other)}" if other else ""
    role = entry.get("against", BASELINE)
    if event == "claimed" and role not in current.others:
        return f"nothing was compared with the {role}"
    if event == "claimed" and entry["status"] == "ok":
        claims = current.claims_on(role)
        if any(not asdict(given).items() <= entry[name].items() for name, given in claims.items()):
            return "what is claimed is not what its runs give"
    return ""
