"""Whether weights and losses are there, whole, and only where they should be. A part of `check`.

Also whether best/ is the incumbent's. In: a Look, one reading of a run. Out: sentences, each one
thing that does not agree. Reads only, of weights their headers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from harness.check.files import BACKUP, Look, names_in
from harness.ground.files import read_json
from harness.ground.text import one_line
from harness.run.state import Experiment

WEIGHTS, LOSSES = "weights.safetensors", "losses.npy"
MEASURED_AGAIN = ("holdout_losses.npy", "unseen_losses.npy")
LESS = "later audits have less to compare with"
SMALL_BYTES = 2**22


def check_weights(look: Look) -> Iterator[str]:
    """Those of baseline and incumbent are there, those of others are gone once decided."""
    staying = [look.settled[0], look.settled[-1]] if look.settled else []
    moving = {e.number for e in look.candidates if e not in staying} | look.asked
    if look.pending or look.asked:
        # The old incumbent's go when a new one comes.
        moving |= {experiment.number for experiment in look.settled[1:]}
    for experiment in look.state.experiments:
        is_staying = experiment in staying or experiment.in_quarantine
        if is_staying or not experiment.committed:
            yield from check_whole(look, experiment)
        if not experiment.committed or experiment.number in moving:
            continue
        runs = look.train_py(experiment).parent / "runs"
        if experiment in staying:
            scored = [runs / f"{run.number:02d}" for run in experiment.attempt.scored]
            wanted = [folder / name for folder in scored for name in (WEIGHTS, LOSSES)]
            gone = ", ".join(look.name(path) for path in wanted if not path.exists())
            if gone:
                yield f"the {'best' if experiment.number else 'baseline'} has no {gone}: {LESS}"
        elif not is_staying:
            heavy = {WEIGHTS, LOSSES, *MEASURED_AGAIN}
            folders = [runs / name for name in names_in(runs)]
            left = [look.name(f / name) for f in folders for name in names_in(f) if name in heavy]
            if left:
                decided = f"experiment {experiment.number} is decided"
                yield f"{', '.join(left)} should be gone, {decided}: delete what takes room"


def check_whole(look: Look, experiment: Experiment) -> Iterator[str]:
    """What is there of weights and losses is whole: a power cut may leave a file short."""
    for run in experiment.attempt.runs:
        if run.trained is None or run.trained["status"] != "ok":
            continue
        folder = look.train_py(experiment).parent / "runs" / f"{run.number:02d}"
        weights, losses = folder / WEIGHTS, folder / LOSSES
        if words := damage(weights):
            mend = f"{BACKUP}, else {LESS}"
            is_in_best = experiment in look.settled[-1:] and weights in weights_in_best(look)
            if is_in_best and is_whole(look.folder / "best" / WEIGHTS):
                mend = f"copy best/{WEIGHTS} over it"
            yield f"{look.name(weights)} {words}: {mend}"
        if words := damage(losses, (run.scored or {}).get("scored_tokens") or 0):
            yield f"{look.name(losses)} {words}: {BACKUP}, else {LESS}"
        for path in (folder / name for name in MEASURED_AGAIN):
            if words := damage(path):
                mend = "delete it, and the next audit that needs it measures it again"
                yield f"{look.name(path)} {words}: {mend}"


def check_best(look: Look) -> Iterator[str]:
    """best/ is the incumbent's; while another takes its place, either's."""
    if not look.settled:  # the baseline's commit makes it
        return
    best, incumbent = look.folder / "best", look.settled[-1]
    mend = "copy it from the incumbent's folder under experiments/"
    try:
        provenance = read_json(best / "provenance.json")
        named, commit = provenance["experiment"], provenance["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        if len(look.candidates) == 1 or best.exists():  # else the old one is away for a moment
            wrong = "best/provenance.json cannot be read"
            yield f"{wrong}: the best is experiment {incumbent.number}; {mend}"
        return
    names = f"best/provenance.json names experiment {named}"
    if named not in [candidate.number for candidate in look.candidates]:
        yield f"{names}, the journal's best is {incumbent.number}: {mend}"
    elif named == incumbent.number and commit != incumbent.commit:
        journal = f"the journal {incumbent.commit} for experiment {named}"
        yield f"best/provenance.json names commit {commit}, {journal}"
    sources, weights = [look.train_py(each) for each in look.candidates], weights_in_best(look)
    other = f"is not that of experiment {incumbent.number}: {mend}"
    if not any(same_file(best / "train.py", path) for path in sources):
        yield f"best/train.py {other}"
    if all(map(is_whole, weights)):
        if not any(same_file(best / WEIGHTS, path) for path in weights):
            yield f"best/{WEIGHTS} {other}"
    elif any(is_one_file(best / WEIGHTS, path) for path in weights):
        pass  # said of the other name
    elif words := damage(best / WEIGHTS):
        yield f"best/{WEIGHTS} {words}: {BACKUP}"


def weights_in_best(look: Look) -> list[Path]:
    """Where the weights in best/ come from: each candidate's first run with a score."""
    found = []
    for experiment in look.candidates:
        first = next((run.number for run in experiment.attempt.runs if run.val_bpb is not None), 0)
        found.append(look.train_py(experiment).parent / "runs" / f"{first:02d}" / WEIGHTS)
    return found


def is_one_file(one: Path, other: Path) -> bool:
    """Whether both are names of one file, so that what is wrong with it is said once."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether both are there and alike: by size, and small ones byte for byte."""
    try:
        size = one.stat().st_size
        if size != other.stat().st_size:
            return False
        return size > SMALL_BYTES or one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def is_whole(weights: Path) -> bool:
    return weights.exists() and not damage(weights)


def damage(path: Path, least: int = 0) -> str:
    """What is wrong with a file, to follow its name; "" when it is whole, or not there.

    It holds weights (safetensors), or losses: (rows, T) float32, of which there must be `least`.
    """
    try:
        if not path.stat().st_size:
            return "is empty"
        if path.name == WEIGHTS:
            with safe_open(path, framework="numpy"):
                return ""
        losses = np.load(path, mmap_mode="r", allow_pickle=False)
        if losses.dtype != np.float32 or losses.ndim != 2 or losses.size < least:
            raise ValueError(f"an array {losses.shape} of {losses.dtype}")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        return f"is damaged ({one_line(error)})"
    return ""
