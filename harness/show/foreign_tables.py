"""Tables of other people's nights: whatever has a number for each experiment, by the names that its columns have.

In: a file of tab- or comma-separated text with a header. Out: rows with a score, an outcome and words. Columns are found by
name, in any order, and kin names are taken (val_loss, status or result, title or description, peak_mem_gb); columns that say
nothing here are left alone. A table without a status is read by its scores: what beat all before it was kept. Refused: a
file without a header, or without a column of numbers that could be a score.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.errors import AnalysisError

NAMES = {
    "status": ("status", "decision", "result", "outcome", "verdict", "kept", "keep", "action"),
    "title": ("description", "desc", "title", "idea", "change", "summary", "hypothesis", "note", "notes", "name", "label", "what"),
    "commit": ("commit", "sha", "hash", "commit_hash", "git", "id", "experiment", "exp", "run", "iteration", "iter", "trial", "step", "#"),
    "memory": ("memory_gb", "peak_mem_gb", "mem_gb", "vram_gb", "peak_memory_gb", "memory_mb", "peak_vram_mb", "vram_mb", "peak_mem_mb"),
}
SCORES = (r"val_?bpb", r"bpb", r"bits_per_byte", r"val_?loss", r"(val|valid|validation|eval|test)_.*", r".*(loss|bpb|ppl|perplexity).*")
SCORES += (r".*(rmse|mse|mae|error|wer|cer|fid).*", r".*(acc|f1|auc|score|metric|reward|bleu|rouge|map|sharpe|elo).*", r"value|objective|result")
NO_SCORE = re.compile(r".*(mem|vram|time|sec|minute|hour|step|param|mfu|tok|lr|rate|depth|width|epoch|seed|batch|cost|gpu|flop|date|delta|diff|gain).*")
HIGHER = re.compile(r".*(acc|f1|auc|score|reward|bleu|rouge|map|sharpe|elo|mfu|r2).*")
KEPT = ("keep", "kept", "accept", "accepted", "baseline", "success", "improved", "win", "merged", "best", "yes", "true", "1", "pass", "ok", "new_best", "y")
LOST = ("discard", "discarded", "reject", "rejected", "revert", "reverted", "no", "worse", "false", "0", "neutral", "drop", "dropped", "n", "fail_metric")
FAILED = ("crash", "crashed", "fail", "failed", "error", "oom", "nan", "timeout", "skip", "skipped", "invalid", "abort", "aborted", "killed")
DELIMITERS = ("\t", ",", ";", "|")
CONFLICT = re.compile(r"(<{7}|={7}|>{7})( |$)")  # of a merge that nobody finished


@dataclass(frozen=True)
class ForeignRow:
    """One experiment. score: None where there is none; outcome: kept, discarded or crashed; memory: GB or None."""

    score: float | None
    outcome: str
    title: str
    commit: str
    memory: float | None


@dataclass(frozen=True)
class ForeignTable:
    """metric: the name of the column that is the score."""

    rows: list[ForeignRow]
    metric: str
    higher_is_better: bool


def read_foreign_table(path: str | Path) -> ForeignTable:
    """Read a table. Raises AnalysisError with what it lacks."""
    try:
        raw = Path(path).read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig", errors="replace")
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read: {error.strerror}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    lines = [line.strip().strip("|") if line.lstrip().startswith("|") else line for line in lines]
    lines = [line for line in lines if not re.fullmatch(r"[\s|:+-]+", line)]  # the rule below a Markdown table's head
    lines = [line for number, line in enumerate(lines) if not CONFLICT.match(line) and (line != lines[0] or not number)]
    if lines and not any(map(lines[0].count, DELIMITERS)):  # an editor's blanks for tabs
        lines = [re.sub(r"\\t| {2,}", "\t", line.strip()) for line in lines]
    if len(lines) < 2:
        raise AnalysisError(f"{path} holds no table: a header and a row for each experiment are needed")
    delimiter = max(DELIMITERS, key=lines[0].count)
    try:
        head, *rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE)
    except csv.Error as error:
        raise AnalysisError(f"{path} cannot be read as a table: {error}") from error
    names = [re.sub(r"\W+", "_", name.strip().casefold()).strip("_") or "#" * (not number) for number, name in enumerate(head)]
    rows = [fitted(row, len(names), delimiter) for row in rows]
    columns = {name: [row[number].strip() for row in rows] for number, name in reversed(list(enumerate(names))) if name}
    metric = find_score(columns)
    if metric is None:
        raise AnalysisError(f"{path} has no column of numbers that could be a score: it has {', '.join(names)}")
    found = {kind: next((name for name in wanted if name in columns and name != metric), None) for kind, wanted in NAMES.items()}
    higher = bool(HIGHER.fullmatch(metric)) and not re.search("loss|error|bpb", metric)
    return ForeignTable(list(rows_of(columns, metric, found, higher)), metric, higher)


def fitted(row: Sequence[str], width: int, delimiter: str) -> list[str]:
    """A row of so many cells: what is too many belongs to the last one, whose text holds the delimiter."""
    return [*row[: width - 1], delimiter.join(row[width - 1 :])] if len(row) > width else [*row, *[""] * (width - len(row))]


def find_score(columns: dict[str, list[str]]) -> str | None:
    """The column that is the score: by its name, among those that hold numbers; else the first that holds them."""
    numeric = [name for name, cells in columns.items() if share_of_numbers(cells) >= 0.3]
    for wanted in SCORES:
        for name in reversed(numeric):  # columns are kept from the last to the first
            if re.fullmatch(wanted, name) and not (NO_SCORE.fullmatch(name) and "loss" not in name and "bpb" not in name):
                return name
    known = {name for names in NAMES.values() for name in names}
    return next((name for name in reversed(numeric) if name not in known and not NO_SCORE.fullmatch(name)), None)


def share_of_numbers(cells: Sequence[str]) -> float:
    filled = [cell for cell in cells if cell not in ("", "-")]
    return sum(number_in(cell) is not None for cell in filled) / len(filled) if filled else 0.0


def number_in(cell: str) -> float | None:
    """A finite number, with a sign of its unit or an error behind it or not; None for anything else."""
    found = re.match(r"\s*[~≈]?([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:%|±.*|gb|mb)?\s*$", cell, re.IGNORECASE)
    value = float(found[1]) if found else math.nan
    return value if math.isfinite(value) else None


def rows_of(columns: dict[str, list[str]], metric: str, found: dict[str, str | None], higher: bool):
    """Yield the rows in the table's order."""
    best: float | None = None
    typical = statistics.median([abs(n) for cell in columns[metric] if (n := number_in(cell))] or [0.0])
    for number, cell in enumerate(columns[metric]):
        said = {kind: columns[name][number] if name else "" for kind, name in found.items()}
        score, status = number_in(cell), re.sub(r"\W+", "_", said["status"].casefold()).strip("_")
        word = status.split("_")[0]
        failed = status in FAILED or word in FAILED
        if score is None or (failed and abs(score) < typical / 100):  # a crash's score is 0 in many tables
            score = None
        better = score is not None and (best is None or (score > best if higher else score < best))
        if score is None:
            outcome = "crashed"
        elif status in KEPT or word in KEPT:
            outcome = "kept"
        elif failed or status in LOST or word in LOST:
            outcome = "discarded"
        else:
            outcome = "kept" if better else "discarded"
        if outcome == "kept":
            best = score
        memory = number_in(said["memory"])
        if memory is not None and found["memory"].endswith("mb"):
            memory /= 1024
        yield ForeignRow(score, outcome, said["title"], said["commit"] or f"row{number}", memory or None)
