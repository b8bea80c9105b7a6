"""A run open for writing: what stages, trainings, rulings and the claim share.

In: its folder. Out: journal entries and results.tsv. One process holds the run's lock meanwhile
(see `loop.Lab`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import harness
from harness.data.manifest import PreparedData
from harness.lab.executor import Executor
from harness.rules.next_step import Step, step_after
from harness.run.git_history import commit_message
from harness.run.journal import Journal
from harness.run.results import results_from_journal, write_results
from harness.run.run import JOURNAL, Run
from harness.run.settings import check_unchanged
from harness.search.program import read_program


class OpenRun(Run):
    """results/<tag>, with its prepared data, a journal to append to, and who trains its files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data: PreparedData = check_unchanged(self.settings)
        self.journal = Journal(folder / JOURNAL, mend=False)  # not ours before the lock is held
        self.executor = Executor(self.settings, self.data, folder, folder.parent)

    @property
    def entries(self) -> Sequence[dict]:
        return self.journal.entries

    @property
    def step(self) -> Step:
        """What the journal asks for next."""
        return step_after(self.state)

    @property
    def rulings(self) -> list[Path]:
        """Files of a person's rulings on experiments in quarantine that are not yet carried out."""
        return sorted((self.folder / "rulings").glob("[0-9]*.json"))

    def folder_of(self, step: Step) -> Path:
        return self.training_folder(*step.file, step.run)

    def note_run(self, event: str, step: Step, **facts: object) -> None:
        """Add an entry on the run of a step to the journal."""
        experiment, attempt = step.file
        self.journal.append(event, experiment=experiment, attempt=attempt, run=step.run, **facts)

    def plan_commit(self, number: int, title: str, facts: Sequence[str]) -> dict | None:
        """What a commit on top of the branch is made of (`git_history.CommitPlan`), as the journal
        keeps it; None without history."""
        incumbent, base = self.state.incumbent, self.settings.base_commit
        parent = incumbent.commit if incumbent else base
        if not (parent and base):
            return None
        date, message = f"{int(time.time())} +0000", commit_message(number, title, facts)
        return {"parent": parent, "tree_of": base, "date": date, "message": message}

    def write_table(self) -> None:
        """Derive results.tsv; a file that was edited by hand is saved beside it first."""
        entries = self.journal.entries
        ruled = [number for number, entry in enumerate(entries) if entry["event"] == "ruled"]
        # a person's word changes a row that is there already
        before = results_from_journal(entries[: max(ruled, default=0)])
        rows = results_from_journal(entries)
        write_results(self.folder / "results.tsv", rows, expected_previous=before)

    def program_text(self) -> str:
        """program.md as it stands now: editing it steers the night. Raises ProgramError."""
        return read_program(harness.REPOSITORY / "program.md")

    def template(self) -> str:
        """The committed template, as real nights begin with it but for the profile's constants."""
        return (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")
