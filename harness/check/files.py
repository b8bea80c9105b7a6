"""Whether what lies under experiments/ is what the journal speaks of. A part of `check`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only.
Weights, losses and best/ are for `weights`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from harness.ground.files import read_json, walk
from harness.rules.next_step import Step, step_after
from harness.run.run import Run
from harness.run.settings import Settings
from harness.run.state import Attempt, Experiment, Training
from harness.search.gate import source_hash

BACKUP = "restore it from a backup"
# Beginnings of folders that a run has only while something works in it.
SCRATCH = ("work", "server_", "compile_cache")
# Folders of a run that are there for a moment only.
BETWEEN = ("control", "best.tmp", "best.old")
# Of a training that came to its own end.
ON_DISK = ("result.json", "run.log", "events.jsonl", "run.json")


class Look(Run):
    """A run, read once: what comes while it is looked at is for the next look.

    busy: somebody works on it now. asked: experiments on which a person's word waits to take
    effect.
    """

    def __init__(
        self,
        folder: Path,
        repository: Path,
        settings: Settings | None,
        entries: list[dict],
        busy: bool,
    ) -> None:
        super().__init__(folder)
        self.repository, self.settings, self.read, self.busy = repository, settings, entries, busy
        rulings = [re.fullmatch(r"(\d{4})\.json", name) for name in names_in(folder / "rulings")]
        self.asked = {int(ruling[1]) for ruling in rulings if ruling}

    @property
    def entries(self) -> list[dict]:
        return self.read

    @cached_property
    def step(self) -> Step:
        return step_after(self.state)

    @cached_property
    def settled(self) -> list[Experiment]:
        """Baseline and keeps with a commit: the last is the incumbent that files speak of."""
        return [experiment for experiment in self.state.kept if experiment.committed]

    @property
    def pending(self) -> Experiment | None:
        """The experiment whose commit is being made: its files may have come or gone already."""
        return self.state.experiments[-1] if self.step.kind == "commit" else None

    @property
    def candidates(self) -> list[Experiment]:
        """The incumbent, and those that may be taking its place just now."""
        experiments = self.state.experiments
        asked = [experiments[number] for number in sorted(self.asked) if number < len(experiments)]
        coming = [self.pending] if self.pending and self.pending in self.state.kept else []
        return list({e.number: e for e in [*self.settled[-1:], *coming, *asked]}.values())

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def names_in(folder: Path) -> list[str]:
    """Names in a folder, none when there is no folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_experiments(look: Look) -> Iterator[str]:
    """Every experiment, attempt and run of the journal has its files, and there are no others."""
    step, experiments = look.step, look.state.experiments
    known = {f"{experiment.number:04d}" for experiment in experiments}
    if step.kind in ("propose", "control"):  # being written, or written when a kill came
        known.add(f"{step.experiment:04d}")
    yield from unknown(look, look.folder / "experiments", known, "experiment")
    for experiment in experiments:
        for number, attempt in enumerate(experiment.attempts):
            folder = look.attempt_folder(experiment.number, number)
            yield from check_attempt(look, experiment, attempt, folder)
        # A repair that was not proposed, or not yet, left its exchange.
        repairing = step.kind == "propose" and step.attempt and step.experiment == experiment.number
        tried = len(experiment.attempts) + bool(experiment.unrepaired or repairing)
        attempts = {f"{number:02d}" for number in range(tried)}
        yield from unknown(look, look.attempt_folder(experiment.number).parent, attempts, "attempt")


def unknown(look: Look, folder: Path, known: set[str], what: str) -> Iterator[str]:
    for name in names_in(folder):
        if name not in known and not name.endswith(".tmp"):
            yield f"{look.name(folder / name)} is no {what} of the journal: move it elsewhere"


def check_attempt(
    look: Look, experiment: Experiment, attempt: Attempt, folder: Path
) -> Iterator[str]:
    """Its train.py is the one that was proposed; its runs are there.

    Hashing a syntax tree takes 25 ms. Where there is a commit, that is compared with the file, byte
    for byte (see `check_history`).
    """
    path, commit = folder / "train.py", (experiment.committed or {}).get("commit")
    where = f"git show {commit[:10]}:train.py" if commit else "a backup"
    is_compared = commit and experiment not in look.settled[-1:]
    try:
        source = path.read_text(encoding="utf-8")
        if not is_compared and source_hash(source) != attempt.proposed["sha256"]:
            wrong = "is not the file that was proposed, trained and scored"
            yield f"{look.name(path)} {wrong}: restore it from {where}"
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"cannot be read ({error.__class__.__name__})"
        yield f"{look.name(path)} {wrong}: restore it from {where}"
    yield from unknown(look, folder / "runs", {f"{run.number:02d}" for run in attempt.runs}, "run")
    for run in attempt.runs:
        yield from check_run_folder(look, run, folder / "runs" / f"{run.number:02d}")


def check_run_folder(look: Look, run: Training, folder: Path) -> Iterator[str]:
    """A run that came to its own end has its files, and result.json says what the journal says."""
    if run.trained is None or run.status == "interrupted":
        return
    yield from check_log(look, run, folder)
    path = folder / "result.json"
    if not path.exists() or run.scored is None:
        return
    try:
        found = read_json(path).get("val_bpb")
    except (OSError, ValueError, AttributeError):
        yield f"{look.name(path)} cannot be read: {BACKUP}"
        return
    if found != run.scored["val_bpb"]:
        yield f"{look.name(path)} has val_bpb {found}, the journal {run.scored['val_bpb']}"


def check_log(look: Look, run: Training, folder: Path) -> Iterator[str]:
    """Its files are there, and its log has all that it wrote, and its summary where it scored."""
    log = folder / "run.log"
    if missing := missing_of(folder):
        yield f"{look.name(folder)} has no {missing}: {BACKUP} if you need its log"
        return
    known, size = run.trained.get("log_bytes") or 0, log.stat().st_size
    is_scored = run.scored and run.scored["val_bpb"] is not None
    if size < known or (size == known and is_scored):
        left = f"has {size} of more than {known} bytes" if size else "is empty"
        yield f"{look.name(log)} {left}, though the run came to its end: {BACKUP} if you need it"


def missing_of(folder: Path) -> str:
    """Which files of a training that came to its own end are not there."""
    names = names_in(folder)
    return ", ".join(name for name in ON_DISK if name not in names)


def check_left_behind(look: Look) -> Iterator[str]:
    """No half-written file or scratch folder outlives its work. Looks only where nobody works."""
    if look.busy:
        return
    between_two = look.step.kind in ("propose", "control", "open")
    if between_two:
        for name in set(names_in(look.folder)) & set(BETWEEN):
            yield left_behind(name)
    working = None if between_two else f"{look.step.experiment:04d}"
    for parent, folders, files in walk(look.folder):
        place = Path(parent)
        inside = place.relative_to(look.folder).parts
        left = [name for name in files if name.startswith(".") and name.endswith(".tmp")]
        if len(inside) == 6:
            left += [name for name in folders if name.startswith(SCRATCH)]
        # The next start finishes that; the incumbent's runs are measured with a candidate's.
        is_worked_in = inside[:1] != ("experiments",) or inside[:2] == ("experiments", working)
        if not working or not (is_worked_in or look.step.kind == "audit"):
            for name in sorted(left):
                yield left_behind(look.name(place / name))
        folders[:] = [name for name in folders if not name.startswith(SCRATCH)]


def left_behind(name: str) -> str:
    mend = "the same command removes it"
    return f"{name} was left behind by something that was killed: {mend}"
