"""One run, read: results/<tag>, its settings, journal, state, and where its files are.

In: a folder. Out: what it tells now; only what the journal has gained is read anew. Writes nothing;
works on a run in progress and on one whose settings are not written yet.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from harness.ground.errors import LoopError
from harness.run.journal import JournalReader
from harness.run.settings import (
    SAMPLE_TAG,
    Settings,
    command_on,
    read_settings,
    results_folder,
)
from harness.run.state import Experiment, State, apply_entry

JOURNAL = "journal.jsonl"
PAGE = re.compile(r"03_(\d{4})\.")


class Run:
    """results/<tag>."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader = JournalReader(folder / JOURNAL)
        self._state, self._taken = State(), 0  # what the first entries add up to, and how many

    @cached_property
    def settings(self) -> Settings:
        """run.json. Raises SettingsError where there is none, or it cannot be read."""
        return read_settings(self.folder)

    @property
    def is_there(self) -> bool:
        """Whether its settings are written."""
        return (self.folder / "run.json").exists()

    @property
    def entries(self) -> Sequence[dict]:
        """All whole entries of the journal so far; none where there is no journal."""
        return self._reader.entries()

    @property
    def state(self) -> State:
        """What the entries add up to."""
        entries = self.entries
        for entry in entries[self._taken :]:
            apply_entry(self._state, entry)
        self._taken = len(entries)
        return self._state

    def attempt_folder(self, experiment: int, attempt: int = 0) -> Path:
        return self.folder / "experiments" / f"{experiment:04d}" / "attempts" / f"{attempt:02d}"

    def training_folder(self, experiment: int, attempt: int, training: int) -> Path:
        return self.attempt_folder(experiment, attempt) / "runs" / f"{training:02d}"

    def train_py(self, experiment: Experiment) -> Path:
        """The exact file of the experiment's last attempt."""
        return self.attempt_folder(experiment.number, len(experiment.attempts) - 1) / "train.py"


def page_name(experiment: int) -> str:
    """What a night calls the page of an experiment: the notebook that ran it, then the number, so
    that pages sort in the order of the night.
    """
    return f"03_{experiment:04d}" if experiment else "02_baseline"


def experiment_of_page(path: Path) -> int | None:
    """The experiment whose page a file is, also one that was cut off; None for other files."""
    found = PAGE.match(path.name)
    return int(found[1]) if found else None


def newest_run(results: str = "") -> Path:
    """The folder of the run that was worked on last. Raises LoopError where there is none."""
    folder = results_folder(results)
    journals = [path for path in folder.glob(f"*/{JOURNAL}") if path.parent.name != SAMPLE_TAG]
    if not journals:
        raise LoopError(
            f"no run in {folder} yet: run notebooks/01_prepare.ipynb and "
            "notebooks/02_baseline.ipynb first, or python3 scripts/overnight.py --demo"
        )
    return max(journals, key=lambda path: path.stat().st_mtime).parent


def list_runs(results: str | Path) -> list[str]:
    """Tags in a results folder without the sample, the one written to last at the end.

    A run that may not be looked into comes first. Raises PermissionError where the folder itself
    may not be read.
    """
    folders = Path(results).iterdir() if Path(results).exists() else ()
    found = [(time, folder.name) for folder in folders if (time := _written(folder)) is not None]
    return [name for _, name in sorted(found) if name != SAMPLE_TAG]


def _written(folder: Path) -> int | None:
    """When a run was written to last, 0 where nobody may know; None where there is no run."""
    for name in (JOURNAL, "results.tsv", "run.json"):
        try:
            return (folder / name).stat().st_mtime_ns
        except PermissionError:
            return 0
        except OSError:
            continue
    return None


def again_command(folder: Path, number: int) -> str:
    """What tries an experiment's change again; "" for the sample, which has no data."""
    if folder.name == SAMPLE_TAG:
        return ""
    where = [] if folder.parent == results_folder() else ["--results", str(folder.parent)]
    words = ["try", "--again", str(number), "--tag", folder.name, *where]
    return shlex.join([".venv/bin/python", "-m", "harness", *words])


def claim_command(folder: Path) -> str:
    """What measures a run's claim; "" for the sample, which has no data."""
    return "" if folder.name == SAMPLE_TAG else command_on(folder, "--close-out")
