"""What earlier runs in the same results folder found, as rows for a proposer.

In: a run. Out: rows of the experiments of other runs in the same results folder that are like it:
the same device, precision, threads, text, budget and clock. A score from another machine or budget
says nothing here, so those runs are never looked at. Writes nothing.
"""

from __future__ import annotations

from harness.ground.errors import LabError
from harness.rules.decision import history_row
from harness.run.records import noise_of_gain
from harness.run.run import Run, list_runs
from harness.run.settings import Settings

MOST_ROWS = 300  # the newest


def earlier_rows(run: Run) -> list[dict]:
    """The rows, oldest first: as a history's, with the run's tag and the error of the gain."""
    found: list[dict] = []
    alike = likeness(run.settings)
    others = [tag for tag in list_runs(run.folder.parent) if tag != run.folder.name]
    for tag in reversed(others):
        other = Run(run.folder.parent / tag)
        try:
            if other.settings.created < run.settings.created and likeness(other.settings) == alike:
                found = rows_of(other) + found
        except LabError:  # half deleted, or of another version: it teaches nothing
            continue
        if len(found) >= MOST_ROWS:  # older runs are not read for nothing
            break
    return found[-MOST_ROWS:]


def likeness(settings: Settings) -> tuple:
    """What two runs must have in common for their gains to be comparable."""
    device = settings.device
    machine = (device["kind"], device["name"], settings.dtype, settings.threads, settings.compile)
    return *machine, settings.data_hash, settings.budget_seconds, settings.core_rate


def rows_of(run: Run) -> list[dict]:
    """What its decided experiments came to; not those whose score is doubted or the machine's."""
    tag, state = run.folder.name, run.state
    rows = []
    for experiment in state.experiments:
        decided, ruled = experiment.decided, experiment.ruled
        if not decided or experiment.number in state.excused:
            continue
        if decided["decision"] == "quarantine" and not (ruled and ruled["accept"]):
            continue
        counts = (decided.get("n_runs") or 0, decided.get("incumbent_runs") or 0)
        row = history_row(experiment)
        row |= {"tag": tag, "error": noise_of_gain(decided.get("sigma"), *counts)}
        # Runs differ in level, as structures do: what each constant does is common to both.
        rows.append(row | {"structure": f"{tag} {row['structure']}"})
    return rows
