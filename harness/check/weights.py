"""Whether weights and losses are there, whole, and only where they should be, and best/ is the incumbent's. Part of `harness.check.check`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only, of weights their headers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from harness.check.files import Look, names_in
from harness.ground.files import read_json
from harness.ground.text import one_line
from harness.run.state import Experiment

WEIGHTS = "weights.safetensors"
HEAVY = (WEIGHTS, "losses.npy", "holdout_losses.npy", "unseen_losses.npy")  # of a run: they go with a discard


def check_weights(look: Look) -> Iterator[str]:
    """Weights and losses of baseline and incumbent are there, those of others are gone once decided; so are compile caches."""
    staying = [look.settled[0], look.settled[-1]] if look.settled else []
    moving = {e.number for e in look.candidates if e not in staying} | look.asked
    if look.pending or look.asked:
        moving |= {e.number for e in look.settled[1:]}  # the old incumbent's go when a new one comes
    for experiment in look.state.experiments:
        folder = look.train_py(experiment).parent
        if not experiment.committed or experiment in staying or experiment.in_quarantine:
            yield from check_whole(look, experiment, folder)
        if not experiment.committed:
            continue
        if experiment in staying:
            scored = [run.number for run in experiment.attempt.scored]
            wanted = [folder / "runs" / f"{number:02d}" / name for number in scored for name in HEAVY[:2]]
            gone = [look.name(path) for path in wanted if not path.exists()]
            if gone and experiment.number not in moving:
                yield f"the {'best' if experiment.number else 'baseline'} has no {', '.join(gone)}: later audits have less to compare with"
        elif experiment.number not in moving and not experiment.in_quarantine:
            left = [path for run in names_in(folder / "runs") for path in heavy_files(folder / "runs" / run)]
            if left:
                yield f"{', '.join(map(look.name, left))} should be gone, experiment {experiment.number} is decided: delete what takes room"


def check_whole(look: Look, experiment: Experiment, folder: Path) -> Iterator[str]:
    """What is there of the weights and losses of an experiment's last attempt is whole: a power cut, or a full disk, may leave a file short."""
    best = look.folder / "best" / WEIGHTS
    for run in experiment.attempt.runs:
        if run.trained is None or run.trained["status"] != "ok":
            continue
        place = folder / "runs" / f"{run.number:02d}"
        if words := weights_damage(place / WEIGHTS):
            mend = "restore it from a backup, else later audits have less to compare with"
            if experiment in look.settled[-1:] and place / WEIGHTS in weights_in_best(look) and is_whole(best):
                mend = f"copy best/{WEIGHTS} over it"
            yield f"{look.name(place / WEIGHTS)} {words}: {mend}"
        if words := losses_damage(place / "losses.npy", (run.scored or {}).get("scored_tokens") or 0):
            yield f"{look.name(place / 'losses.npy')} {words}: restore it from a backup, else later audits have less to compare with"
        for name in ("holdout_losses.npy", "unseen_losses.npy"):
            if words := losses_damage(place / name):
                yield f"{look.name(place / name)} {words}: delete it, and the next audit that needs it measures it again"


def is_whole(weights: Path) -> bool:
    return weights.exists() and not weights_damage(weights)


def heavy_files(folder: Path) -> list[Path]:
    return [folder / name for name in names_in(folder) if name in HEAVY]


def check_best(look: Look) -> Iterator[str]:
    """best/ holds the incumbent's train.py, weights and provenance; while another takes its place, either's."""
    if not look.settled:  # the baseline's commit makes it
        return
    best, incumbent = look.folder / "best", look.settled[-1]
    mend = "copy it from the incumbent's folder under experiments/"
    try:
        provenance = read_json(best / "provenance.json")
        named, commit = provenance["experiment"], provenance["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        if len(look.candidates) > 1 and not best.exists():  # the old one is away, the new one not yet there
            return
        yield f"best/provenance.json cannot be read: the best is experiment {incumbent.number}; {mend}"
        return
    if named not in [e.number for e in look.candidates]:
        yield f"best/provenance.json names experiment {named}, the journal's best is {incumbent.number}: {mend}"
    elif named == incumbent.number and commit != incumbent.commit:
        yield f"best/provenance.json names commit {commit}, the journal {incumbent.commit} for experiment {named}"
    weights = weights_in_best(look)
    for name, sources in (
        ("train.py", candidate_files(look)),
        (WEIGHTS, weights if all(map(is_whole, weights)) else []),
    ):
        if sources and not any(same_file(best / name, path) for path in sources):
            yield f"best/{name} is not that of experiment {incumbent.number}: {mend}"
    said = all(map(is_whole, weights)) or any(is_one_file(best / WEIGHTS, path) for path in weights)
    if not said and (words := weights_damage(best / WEIGHTS)):
        yield f"best/{WEIGHTS} {words}: restore it from a backup"


def candidate_files(look: Look) -> list[Path]:
    return [look.train_py(experiment) for experiment in look.candidates]


def weights_in_best(look: Look) -> list[Path]:
    """Where the weights that best/ may hold come from: each candidate's first. What is gone or cut of them is said elsewhere."""
    found = []
    for experiment in look.candidates:
        first = next((run.number for run in experiment.attempt.runs if run.val_bpb is not None), 0)
        found.append(look.train_py(experiment).parent / "runs" / f"{first:02d}" / WEIGHTS)
    return found


def is_one_file(one: Path, other: Path) -> bool:
    """Whether both are names of one file on the disk, so that what is wrong with it is said once."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether both are there and alike: by size and for small ones byte for byte, since weights may be gigabytes."""
    try:
        if one.stat().st_size != other.stat().st_size:
            return False
        return one.stat().st_size > 2**22 or one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def weights_damage(path: Path) -> str:
    """What is wrong with a safetensors file, in words that go on from its name; "" for one that is whole, or not there."""

    def read() -> None:
        with safe_open(path, framework="numpy"):
            pass

    return damage(path, read)


def losses_damage(path: Path, least: int = 0) -> str:
    """The same of losses (rows, T) float32, of which there must be `least`."""

    def read() -> None:
        losses = np.load(path, mmap_mode="r", allow_pickle=False)
        if losses.dtype != np.float32 or losses.ndim != 2 or losses.size < least:
            raise ValueError(f"an array {losses.shape} of {losses.dtype}")

    return damage(path, read)


def damage(path: Path, read: Callable[[], None]) -> str:
    """What a library that reads a file's header finds wrong with it."""
    try:
        if not path.stat().st_size:
            return "is empty"
        read()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        return f"is damaged ({one_line(error)})"
    return ""
