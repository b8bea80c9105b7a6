"""A run's folder in, one RunData out: settings, entries, and a frame with a row per experiment.

Reads results/<tag>/ (run.json, journal.jsonl), a bare results.tsv of the original, or somebody
else's table, and writes nothing. Works on a run in progress, an empty one, one of crashes only.
Refuses what is no run with AnalysisError.
"""

import math
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from harness.ground.errors import AnalysisError, LabError, ResultsError
from harness.ground.files import read_json
from harness.run.journal import read_journal
from harness.run.pace import Pace
from harness.run.records import (
    KEPT,
    TIME_KINDS,
    Record,
    baseline_of,
    incumbent_of,
    records_from_journal,
)
from harness.run.results import QUARANTINED, ResultRow, clean_description, read_results
from harness.run.run import SAMPLE_TAG, claim_command, list_runs
from harness.run.settings import results_folder
from harness.show.foreign_tables import ForeignRow, ForeignTable, read_foreign_table
from harness.show.sentences import claim_on_branch, latest_sigma

TABLES = (".tsv", ".csv", ".md", ".txt")
DTYPES = {int: "int64", str: "str", datetime | None: "datetime64[us, UTC]", str | None: "str"}
NUMBER = "float64"  # of what may be missing


@dataclass(frozen=True)
class RunData:
    """One run. experiments: see frame_of.

    claimed: the claim on what is on the branch, None while that is not measured. folder is None and
    settings and entries are empty for a bare table. metric: what its scores are, where somebody's
    table has another.
    """

    tag: str
    folder: Path | None
    settings: dict
    entries: list[dict]
    experiments: pd.DataFrame
    records: list[Record] = field(repr=False)
    claimed: dict | None = None
    metric: str = "val_bpb"
    higher_is_better: bool = False

    def in_its_unit(self, text: str) -> str:
        """A sentence as it holds for a table of another score."""
        if self.metric == "val_bpb":
            return text
        return re.sub(r"\b(?:bits per byte|val_bpb|bpb)\b", self.metric, text)

    @property
    def baseline(self) -> Record | None:
        """The baseline, when it has a score."""
        return baseline_of(self.records)

    @property
    def best(self) -> Record | None:
        """What is on the branch: kept last, or the baseline; None when nothing has a score."""
        return incumbent_of(self.records)

    @property
    def claim_command(self) -> str:
        """What measures the claim; "" for a bare table, and for the sample."""
        return claim_command(self.folder) if self.folder else ""

    @property
    def sigma(self) -> float:
        """The latest estimate of the noise of one run, bits per byte; NaN when unknown."""
        sigma = latest_sigma(self.records)
        return math.nan if sigma is None else sigma


def load_run(results_dir: str | Path, tag: str) -> RunData:
    """Read results/<tag>/: its journal, else its results.tsv. Raises AnalysisError for neither."""
    folder = Path(results_dir) / tag
    journal, table = folder / "journal.jsonl", folder / "results.tsv"
    settings = folder / "run.json"
    if not journal.exists() and table.exists():
        return replace(load_results_tsv(table), tag=tag)
    if not journal.exists() and not settings.exists():
        known = ", ".join(list_runs(results_dir)) or "none"
        there = f"no run {tag!r} in {results_dir} (there: {known})"
        raise AnalysisError(f"{there}: run notebooks/02_baseline.ipynb first")
    entries = read_journal(journal)
    records = records_from_journal(entries)
    return RunData(
        tag,
        folder,
        read_json(settings) if settings.exists() else {},
        entries,
        frame_of(records),
        records,
        claim_on_branch(folder, records),
    )


def load_results_tsv(path: str | Path) -> RunData:
    """Read a bare table, the original's or another's: no times, seeds or noise."""
    path = Path(path)
    try:
        return run_of_table(path.stem, table_of(read_results(path)))
    except ResultsError as error:
        if not path.is_file():
            raise
        try:
            return run_of_table(path.stem, read_foreign_table(path))
        except AnalysisError as other:
            raise AnalysisError(f"{error}. As a table of another kind: {other}") from error


def table_of(results: Sequence[ResultRow]) -> ForeignTable:
    """A results.tsv, in which a crash has a score of 0, as any table is read."""
    rows = []
    for row in results:
        outcome = outcome_of(row)
        score = None if outcome == "crashed" else row.val_bpb
        memory = row.memory_gb or None
        rows.append(ForeignRow(score, outcome, row.description, row.commit, memory))
    return ForeignTable(rows, "val_bpb", higher_is_better=False)


def outcome_of(row: ResultRow) -> str:
    if row.status == "crash" or not row.val_bpb:
        return "crashed"
    if row.status == "keep":
        return "kept"
    return "quarantined" if row.description.startswith(QUARANTINED) else "discarded"


def run_of_table(tag: str, table: ForeignTable) -> RunData:
    """A table as a run, whose baseline is the first row that was kept."""
    decisions = {"crashed": "crash"} | dict.fromkeys(KEPT, "keep")
    records: list[Record] = []
    last = None
    for number, row in enumerate(table.rows):
        outcome = "baseline" if row.outcome == "kept" and last is None else row.outcome
        title, gain = clean_description(row.title), None
        if row.score is not None and last is not None:
            gain = row.score - last if table.higher_is_better else last - row.score
        last = row.score if outcome in KEPT else last
        records.append(
            Record(
                number,
                outcome,
                decision=decisions.get(outcome, "discard"),
                status="crash" if row.score is None else "ok",
                title=title,
                val_bpb=row.score,
                n_runs=int(row.score is not None),
                gain=gain,
                memory_gb=row.memory,
                commit=row.commit,
                cause=title if row.score is None else "",
                on_branch=last,
            )
        )
    unit = {"metric": table.metric, "higher_is_better": table.higher_is_better}
    return RunData(tag, None, {}, [], frame_of(records), records, **unit)


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """A row per decided experiment, NaN where nothing was measured; typed also when there are none.

    The columns are the fields of Record, with those of its pace, and <kind>_seconds for its times.
    """
    kinds = typing.get_type_hints(Record)
    dtypes = {name: DTYPES.get(kind, NUMBER) for name, kind in kinds.items()}
    del dtypes["pace"], dtypes["seconds"]
    dtypes |= dict.fromkeys([*vars(Pace()), *(f"{kind}_seconds" for kind in TIME_KINDS)], NUMBER)
    rows = []
    for record in records:
        seconds = {f"{kind}_seconds": spent for kind, spent in record.seconds.items()}
        rows.append(vars(record) | vars(record.pace) | seconds)
    frame = pd.DataFrame(rows, columns=list(dtypes))
    frame["commit"] = frame["commit"].fillna("")
    return frame.astype(dtypes)


# --- Which run ---------------------------------------------------------------------------------


def choose_run(tag: str = "", results_dir: str | Path = "") -> RunData:
    """The run a reader means: a tag, or a table; with "" the newest run, else the sample.

    Raises AnalysisError where there is none, or it may not be read.
    """
    folder = results_folder(str(results_dir))
    try:
        if tag.endswith(TABLES) or folder.suffix in TABLES:
            return load_results_tsv(tag if tag.endswith(TABLES) else folder)
        return load_run(folder, tag or (list_runs(folder) or [SAMPLE_TAG])[-1])
    except OSError as error:
        place = error.filename or folder
        raise AnalysisError(f"{place} cannot be read: {error.strerror or error}") from error


def choose_runs(first: RunData, compare: str = "", results_dir: str | Path = "") -> list[RunData]:
    """The run and those named in compare (tags or tables, comma-separated); with "" the newest."""
    asked = [name.strip() for name in compare.split(",") if name.strip()]
    found = []
    if not asked and first.folder is not None:
        found = list_runs(results_folder(str(results_dir)))[-6:]  # of more lines none can be told
    others = []
    for name in dict.fromkeys(asked or found):
        if name != first.tag:
            try:
                others.append(choose_run(name, results_dir))
            except LabError:
                if asked:
                    raise  # one that was only found lying about does not spoil this run's analysis
    return [first, *others]


def attempt_folder(run: RunData, experiment: int) -> Path | None:
    """The folder of the attempt that was decided on, else of the last; None where there is none."""
    if run.folder is None:
        return None
    folder = run.folder / "experiments" / f"{experiment:04d}" / "attempts"
    decided = [record.attempt for record in run.records if record.experiment == experiment]
    names = [f"{number:02d}" for number in decided if number is not None]
    there = [folder / name for name in names if (folder / name).exists()]
    return there[0] if there else max(folder.glob("[0-9]*"), default=None)


def run_folders(run: RunData, experiment: int) -> list[Path]:
    """Folders of the trainings of that attempt, in order."""
    attempt = attempt_folder(run, experiment)
    return sorted((attempt / "runs").glob("[0-9]*")) if attempt else []
