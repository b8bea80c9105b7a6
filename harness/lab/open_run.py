"""A run open for writing: what stages, trainings, rulings and the claim share.

In: its folder. Out: journal entries and results.tsv. One process holds the run's lock meanwhile (see `loop.Lab`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import harness
from harness.data.manifest import PreparedData
from harness.rules.next_step import Step, step_after
from harness.run.journal import Journal
from harness.run.results import results_from_journal, write_results
from harness.run.run import JOURNAL, Run
from harness.run.settings import check_unchanged
from harness.scoring.integrity import Integrity


class OpenRun(Run):
    """results/<tag>, with its prepared data and a journal to append to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data: PreparedData = check_unchanged(self.settings)
        self.journal = Journal(folder / JOURNAL, mend=False)  # not ours to write before the lock is held
        self.integrity = Integrity(self.data, self.settings.harness_hash)

    @property
    def entries(self) -> Sequence[dict]:
        return self.journal.entries

    @property
    def step(self) -> Step:
        """What the journal asks for next."""
        return step_after(self.state)

    def folder_of(self, step: Step) -> Path:
        return self.training_folder(*step.file, step.run)

    def note_run(self, event: str, step: Step, **facts: object) -> None:
        """Add an entry on the run of a step to the journal."""
        experiment, attempt = step.file
        self.journal.append(event, experiment=experiment, attempt=attempt, run=step.run, **facts)

    def write_table(self) -> Path | None:
        """Derive results.tsv; return the copy that was made of a file edited by hand, if it was."""
        entries = self.journal.entries
        last = max((number for number, entry in enumerate(entries) if entry["event"] == "ruled"), default=0)
        before = results_from_journal(entries[:last])  # a person's word changes a row that is there already
        return write_results(self.folder / "results.tsv", results_from_journal(entries), expected_previous=before)

    def template(self) -> str:
        """The committed template, as real nights begin with it but for the profile's constants."""
        return (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")
