"""Whether what lies under experiments/ is what the journal speaks of. Part of `harness.check.check`; weights, losses and best/ are in `checked_weights`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.ground.files import read_json
from harness.rules.next_step import Step, step_after
from harness.run.run import Run
from harness.run.settings import Settings
from harness.run.state import Attempt, Experiment, Training
from harness.search.gate import source_hash

SCRATCH = ("work", "server_", "compile_cache")  # beginnings of folders that a run has only while something works in it
BETWEEN = ("control", "best.tmp", "best.old")  # folders of a run that are there for a moment only
ON_DISK = ("result.json", "run.log", "events.jsonl", "run.json")  # of a run that came to its own end


class Look(Run):
    """A run, read once: what comes while it is looked at is for the next look."""

    def __init__(
        self, folder: Path, repository: Path, settings: Settings | None, entries: list[dict], busy: bool, asked: frozenset[int]
    ) -> None:
        """busy: somebody works on it now. asked: experiments on which a person's word waits to take effect."""
        super().__init__(folder)
        self.repository, self.settings, self.read, self.busy, self.asked = repository, settings, entries, busy, asked

    @property
    def entries(self) -> list[dict]:
        return self.read

    @cached_property
    def step(self) -> Step:
        return step_after(self.state)

    @cached_property
    def settled(self) -> list[Experiment]:
        """Baseline and keeps whose commit is made: the last is the incumbent that files speak of."""
        return [experiment for experiment in self.state.kept if experiment.committed]

    @property
    def pending(self) -> Experiment | None:
        """The experiment that is decided and whose commit is being made: its files may have come or gone already."""
        return self.state.experiments[-1] if self.step.kind == "commit" else None

    @property
    def candidates(self) -> list[Experiment]:
        """The incumbent, and those that may be taking its place just now."""
        asked = [
            self.state.experiments[number] for number in sorted(self.asked) if number < len(self.state.experiments)
        ]
        coming = [self.pending] if self.pending and self.pending in self.state.kept else []
        return list({e.number: e for e in [*self.settled[-1:], *coming, *asked]}.values())

    @property
    def at_rest(self) -> bool:
        """Nobody works on the run, and it stands between two experiments."""
        return not self.busy and self.step.kind in ("propose", "control", "open")

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def names_in(folder: Path) -> list[str]:
    """Names in a folder, none when there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_experiments(look: Look) -> Iterator[str]:
    """Every experiment, attempt and run of the journal has its folder and files, and there are no others."""
    known = {f"{experiment.number:04d}" for experiment in look.state.experiments}
    if look.step.kind in ("propose", "control"):  # being written, or written when a kill came
        known.add(f"{look.step.experiment:04d}")
    yield from unknown(look, look.folder / "experiments", known, "experiment")
    for experiment in look.state.experiments:
        for number, attempt in enumerate(experiment.attempts):
            yield from check_attempt(look, experiment, attempt, look.attempt_folder(experiment.number, number))
        repairing = look.step.kind == "propose" and look.step.attempt and look.step.experiment == experiment.number
        tried = len(experiment.attempts) + bool(
            experiment.unrepaired or repairing
        )  # the last left only its exchange, so far
        attempts = {f"{number:02d}" for number in range(tried)}
        yield from unknown(look, look.attempt_folder(experiment.number).parent, attempts, "attempt")


def unknown(look: Look, folder: Path, known: set[str], what: str) -> Iterator[str]:
    for name in names_in(folder):
        if name not in known and not name.endswith(".tmp"):
            yield f"{look.name(folder / name)} is no {what} of the journal: move it elsewhere"


def check_attempt(look: Look, experiment: Experiment, attempt: Attempt, folder: Path) -> Iterator[str]:
    """Its train.py is the one that was proposed; its runs are there.

    Hashing a syntax tree takes 25 ms. Where there is a commit, that is compared with the file, byte for byte (see `checking`).
    """
    path = folder / "train.py"
    settled = experiment.committed and experiment.committed.get("commit") and experiment not in look.settled[-1:]
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"{look.name(path)} cannot be read ({error.__class__.__name__}): restore it from {history_of(look, experiment)}"
    else:
        if not settled and source_hash(source) != attempt.proposed["sha256"]:
            yield f"{look.name(path)} is not the file that was proposed, trained and scored: restore it from {history_of(look, experiment)}"
    yield from unknown(look, folder / "runs", {f"{run.number:02d}" for run in attempt.runs}, "run")
    for run in attempt.runs:
        yield from check_run_folder(look, run, folder / "runs" / f"{run.number:02d}")


def history_of(look: Look, experiment: Experiment) -> str:
    if experiment.committed and experiment.committed.get("commit"):
        return f"git show {experiment.committed['commit'][:10]}:train.py"
    return "a backup"


def check_run_folder(look: Look, run: Training, folder: Path) -> Iterator[str]:
    """A run that came to its own end has its files, and its result.json says what the journal says."""
    if run.trained is None or run.status == "interrupted":
        return
    names = names_in(folder)
    missing = [name for name in ON_DISK if name not in names]
    if missing:
        yield f"{look.name(folder)} has no {', '.join(missing)}: restore it from a backup if you need its log"
    else:
        yield from check_log(look, run, folder / "run.log")
    if "result.json" not in names or run.scored is None:
        return
    try:
        found = read_json(folder / "result.json").get("val_bpb")
    except (OSError, ValueError, AttributeError):
        yield f"{look.name(folder / 'result.json')} cannot be read: restore it from a backup"
        return
    if found != run.scored["val_bpb"]:
        yield f"{look.name(folder / 'result.json')} has val_bpb {found}, the journal {run.scored['val_bpb']}"


def check_log(look: Look, run: Training, log: Path) -> Iterator[str]:
    """It has all that the training wrote, and of a run with a score its summary."""
    known, size = run.trained.get("log_bytes") or 0, log.stat().st_size
    if size < known or (size == known and run.scored and run.scored["val_bpb"] is not None):
        left = f"has {size} of more than {known} bytes" if size else "is empty"
        yield f"{look.name(log)} {left}, though the run came to its end: restore it from a backup if you need it"


def left_behind(name: str) -> str:
    return f"{name} was left behind by something that was killed: the same command removes it"


def check_left_behind(look: Look) -> Iterator[str]:
    """No half-written file, and no folder that something worked in, outlives its work. Looks only where nobody works."""
    if look.busy:
        return
    if look.at_rest:
        for name in set(names_in(look.folder)) & set(BETWEEN):
            yield left_behind(name)
    working = None if look.at_rest else f"{look.step.experiment:04d}"
    for parent, folders, files in os.walk(look.folder):
        place = Path(parent)
        inside = place.relative_to(look.folder).parts
        if working and (inside[:2] == ("experiments", working) or inside[:1] != ("experiments",)):
            left = []  # the next start finishes it
        elif working and look.step.kind == "audit":  # the incumbent's runs are measured with a candidate's
            left = []
        else:
            scratch = [name for name in folders if len(inside) == 6 and name.startswith(SCRATCH)]
            left = scratch + [name for name in files if name.startswith(".") and name.endswith(".tmp")]
        for name in sorted(left):
            yield left_behind(look.name(place / name))
        folders[:] = [name for name in folders if name != "compile_cache" and not name.startswith(SCRATCH)]
