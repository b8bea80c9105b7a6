"""A run's folder in, one RunData out: settings, journal entries, and a frame with a row per decided experiment.

Reads results/<tag>/ (run.json, journal.jsonl) or a bare results.tsv of the original, and writes nothing. Works on a
run in progress, an empty one, one of crashes only. Refuses what is no run with AnalysisError.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from harness.ground.errors import AnalysisError, LabError, ResultsError
from harness.ground.files import read_json
from harness.lab.close_out import claim_of
from harness.run.journal import read_journal
from harness.run.records import KEPT, TIME_KINDS, Record, incumbent_of, records_from_journal
from harness.run.results import ResultRow, clean_description, read_results
from harness.run.settings import command_on
from harness.show.foreign_tables import ForeignTable, read_foreign_table
from harness.show.stage import Stage, in_flight

TABLES = (".tsv", ".csv", ".md", ".txt")
SAMPLE_TAG = "sample"  # a small real run of this project, committed so that the analysis reads well on a fresh clone
COLUMNS = {
    "experiment": "int64",
    "time": "datetime64[us, UTC]",
    "decision": "str",
    "status": "str",
    "kind": "str",
    "outcome": "str",
    "category": "str",
    "proposer": "str",
    "title": "str",
    "val_bpb": "float64",
    "n_runs": "int64",
    "gain": "float64",
    "sigma": "float64",
    "df": "float64",
    "threshold": "float64",
    "noise_of_gain": "float64",
    "verdict": "str",
    "memory_gb": "float64",
    "commit": "str",
    "attempt": "float64",
    "incumbent": "float64",
    "cause": "str",
    "minutes": "float64",
    "on_branch": "float64",
    "steps": "float64",
    "tokens_per_second": "float64",
    "others_cores": "float64",
    **{f"{kind}_seconds": "float64" for kind in TIME_KINDS},
}


@dataclass(frozen=True)
class RunData:
    """One run. experiments has the columns of COLUMNS, one row per decided experiment, NaN where nothing was measured.

    claimed: the claim on what is on the branch, None while that is not measured. folder is None and settings and entries
    are empty for a bare results.tsv. metric: what its scores are, where somebody's table has another.
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
        return text if self.metric == "val_bpb" else re.sub(r"\b(?:bits per byte|val_bpb|bpb)\b", self.metric, text)

    @property
    def in_flight(self) -> Stage | None:
        return in_flight(self.entries)

    @property
    def baseline(self) -> pd.Series | None:
        return _first(self.experiments[self.experiments["outcome"] == "baseline"])

    @property
    def best(self) -> pd.Series | None:
        """What is on the branch: the experiment kept last, or the baseline; None when nothing has a score."""
        tip = incumbent_of(self.records)
        return _first(self.experiments[self.experiments["experiment"] == tip.experiment]) if tip else None

    @property
    def claim_command(self) -> str:
        """What to type to have the claim measured; "" for a bare table, and for the sample, which lacks what that needs."""
        return command_on(self.folder, "--close-out") if self.folder and self.folder.name != SAMPLE_TAG else ""

    @property
    def sigma(self) -> float:
        """The latest estimate of the noise of one run, bits per byte; NaN when unknown."""
        known = self.experiments["sigma"].dropna()
        return float(known.iloc[-1]) if len(known) else math.nan


def _first(frame: pd.DataFrame) -> pd.Series | None:
    return frame.iloc[0] if len(frame) else None


def default_results_dir() -> Path:
    """results/ of this checkout."""
    return Path(__file__).resolve().parents[2] / "results"


def load_run(results_dir: str | Path, tag: str) -> RunData:
    """Read results/<tag>/: the journal, or its results.tsv where there is no journal. AnalysisError if neither."""
    folder = Path(results_dir) / tag
    journal, table = folder / "journal.jsonl", folder / "results.tsv"
    if not journal.exists() and table.exists():
        return replace(load_results_tsv(table), tag=tag)
    if not journal.exists() and not (folder / "run.json").exists():
        known = ", ".join(list_runs(results_dir)) or "none"
        raise AnalysisError(f"no run {tag!r} in {results_dir} (there: {known}): run notebooks/02_baseline.ipynb first")
    settings = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    entries = read_journal(journal) if journal.exists() else []
    records = records_from_journal(entries)
    return RunData(tag, folder, settings, entries, frame_of(records), records, claim_on_branch(folder, records))


def claim_on_branch(folder: Path, records: Sequence[Record]) -> dict | None:
    """The `claimed` entry on what is on the branch; None while that is not measured."""
    tip = incumbent_of(records)
    return claim_of(folder, tip.experiment) if tip else None


def load_results_tsv(path: str | Path) -> RunData:
    """Read a bare table, the original's or another's: no times, seeds or noise. The first kept row is the baseline, else the first scored one."""
    try:
        rows = read_results(path)
    except ResultsError as error:
        if not Path(path).is_file():
            raise
        try:
            return run_of_table(Path(path).stem, read_foreign_table(path))
        except AnalysisError as other:
            raise AnalysisError(f"{error}. As a table of another kind: {other}") from error
    records: list[Record] = []
    last = None
    for number, row in enumerate(rows):
        title, score = (
            clean_description(row.description),
            row.val_bpb if row.status != "crash" and row.val_bpb > 0 else None,
        )
        result = _outcome_of_row(row, score, is_first=last is None)
        gain = last - score if score is not None and last is not None else None
        records.append(
            Record(
                number,
                result,
                decision=row.status,
                status="crash" if score is None else "ok",
                title=title,
                val_bpb=score,
                n_runs=int(score is not None),
                gain=gain,
                memory_gb=row.memory_gb or None,
                commit=row.commit,
                cause=title if score is None else "",
                on_branch=score if result in KEPT else last,
            )
        )
        last = records[-1].on_branch
    return RunData(Path(path).stem, None, {}, [], frame_of(records), records)


def run_of_table(tag: str, table: ForeignTable) -> RunData:
    """A table of somebody else's as a run."""
    first = next((number for number, row in enumerate(table.rows) if row.outcome == "kept"), None)
    if first is None:
        first = next((number for number, row in enumerate(table.rows) if row.score is not None), None)
    records: list[Record] = []
    last = None
    for number, row in enumerate(table.rows):
        result = "baseline" if number == first else "discarded" if first is None or number < first else row.outcome
        result = "crashed" if row.score is None else result
        gain = None if row.score is None or last is None else row.score - last if table.higher_is_better else last - row.score
        records.append(
            Record(
                number,
                result,
                decision={"crashed": "crash", "discarded": "discard"}.get(result, "keep"),
                status="crash" if row.score is None else "ok",
                title=clean_description(row.title),
                val_bpb=row.score,
                n_runs=int(row.score is not None),
                gain=gain,
                memory_gb=row.memory,
                commit=row.commit,
                cause=row.title if row.score is None else "",
                on_branch=row.score if result in KEPT else last,
            )
        )
        last = records[-1].on_branch
    return RunData(tag, None, {}, [], frame_of(records), records, metric=table.metric, higher_is_better=table.higher_is_better)


def _outcome_of_row(row: ResultRow, score: float | None, is_first: bool) -> str:
    if score is None:
        return "crashed"
    if row.status == "keep":
        return "baseline" if is_first else "kept"
    return "quarantined" if row.description.startswith("quarantined:") else "discarded"


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """Records as a frame with the columns and types of COLUMNS, also when there are none."""
    rows = [{**vars(r), **vars(r.pace), **{f"{kind}_seconds": r.seconds[kind] for kind in TIME_KINDS}} for r in records]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["commit"] = frame["commit"].fillna("")
    return frame.astype(COLUMNS)


def list_runs(results_dir: str | Path) -> list[str]:
    """Tags in a results folder, the one written to last at the end; the committed sample is not among them."""
    folders = [path for path in Path(results_dir).glob("*") if path.is_dir() and path.name != SAMPLE_TAG]
    marks = {
        path: next((m for name in ("journal.jsonl", "results.tsv", "run.json") if (m := path / name).exists()), None)
        for path in folders
    }
    found = [(mark.stat().st_mtime_ns, path.name) for path, mark in marks.items() if mark]
    return [name for _, name in sorted(found)]


def choose_run(tag: str = "", results_dir: str | Path = "") -> RunData:
    """The run a reader means: a tag, the path of a .tsv file, or with "" the newest run, else the committed sample."""
    if tag.endswith(TABLES):
        return load_results_tsv(tag)
    folder = Path(results_dir) if str(results_dir) else default_results_dir()
    if folder.suffix in TABLES:
        return load_results_tsv(folder)
    if not tag:
        tag = (list_runs(folder) or [SAMPLE_TAG])[-1]
    return load_run(folder, tag)


def choose_runs(first: RunData, compare: str = "", results_dir: str | Path = "") -> list[RunData]:
    """The run and those named in compare (tags or .tsv files, comma-separated); with "" the newest in the folder."""
    names = [name.strip() for name in compare.split(",") if name.strip()]
    folder = Path(results_dir) if str(results_dir) else default_results_dir()
    if not names and first.folder is not None:
        names = list_runs(folder)[-6:]  # more lines than that nobody can tell apart
    others = []
    for name in dict.fromkeys(names):
        if name != first.tag:
            try:
                others.append(choose_run(name, results_dir))
            except LabError:
                if compare.strip():
                    raise  # asked for by name; one that was only found lying about must not spoil this run's analysis
    return [first, *others]


def attempt_folder(run: RunData, experiment: int) -> Path | None:
    """Folder of the attempt that the experiment's decision is about, else its last; None when nothing is on disk."""
    if run.folder is None:
        return None
    attempts = sorted((run.folder / "experiments" / f"{experiment:04d}" / "attempts").glob("[0-9]*"))
    decided = next((record.attempt for record in run.records if record.experiment == experiment), None)
    named = [path for path in attempts if decided is not None and path.name == f"{decided:02d}"]
    return (named or attempts or [None])[-1]


def run_folders(run: RunData, experiment: int) -> list[Path]:
    """Folders of the trainings of that attempt, in order."""
    attempt = attempt_folder(run, experiment)
    return sorted((attempt / "runs").glob("[0-9]*")) if attempt else []
