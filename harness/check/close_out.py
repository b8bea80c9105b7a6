"""Whether close_out.jsonl and close_out/ agree with each other and with the journal. Part of `harness.check.check`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from harness.check.files import ON_DISK, Look, names_in
from harness.ground.errors import JournalError
from harness.lab.close_out import NAME, CloseOut, fold_close_out
from harness.run.journal import read_journal

FOLLOWS = {
    "begin": "claim_begun", "close": "trained", "train": "run_started", "score": "scored", "claim": "claimed",
    "nothing": "claim_begun",
}  # fmt: skip


def check_close_out(look: Look) -> Iterator[str]:
    """Each entry is one that could come next; what was claimed is what its runs give; each training has its files, and there are no others."""
    try:
        entries = read_journal(look.folder / NAME)
    except JournalError as error:
        yield str(error)
        return
    kept, trained = {e.number for e in look.state.kept}, 0
    for number, entry in enumerate(entries):
        found = fold_close_out(entries[:number])
        if wrong := misplaced(found, entry, kept):
            yield f"{NAME}, line {number + 1}: {wrong}"
            return
        trained += entry["event"] == "run_started"
    known = {f"{number:02d}" for number in range(trained)} | {"train_template.py"}
    for name in set(names_in(look.folder / "close_out")) - known:
        yield f"close_out/{name} is no training of {NAME}: move it elsewhere"
    for run in fold_close_out(entries).runs:
        folder = look.folder / "close_out" / f"{run.number:02d}"
        missing = [name for name in ON_DISK if name not in names_in(folder)]
        if run.status == "ok" and missing:
            yield f"{look.name(folder)} has no {', '.join(missing)}: restore it from a backup if you need its log"


def misplaced(found: CloseOut, entry: dict, kept: set[int]) -> str:
    """Why this entry cannot come next, in words; "" when it can."""
    event = entry["event"]
    if event == "claim_begun":  # a better file may have been kept before the last close-out came to its end
        return "" if entry["best"] in kept else f"experiment {entry['best']} was never kept"
    if event != FOLLOWS[found.step]:
        return f"`{event}` stands where `{FOLLOWS[found.step]}` was to come"
    if event == "run_started":
        trial = found.next_trial
        asked = {"run": found.numbers, "role": trial.role, "experiment": trial.experiment, "seed": trial.seed}
        other = [f"{key} {entry.get(key)}, its plan says {value}" for key, value in asked.items() if entry.get(key) != value]
        return f"`run_started` has {'; '.join(other)}" if other else ""
    if event == "claimed" and entry["status"] == "ok":
        agree = (entry[name] == asdict(given) for name, given in found.claims().items())
        return "" if all(agree) else "what is claimed is not what its runs give"
    return ""
