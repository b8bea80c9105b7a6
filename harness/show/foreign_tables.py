"""Tables of other people's nights: whatever has a number for each experiment, by its columns.

In: a file of text, a row a line, separated by tabs, commas, semicolons or bars. Out: rows with a
score, an outcome and words. Columns are found by name, in any order, and kin names are taken
(val_loss, status or result, title or description, peak_mem_gb); columns that say nothing here are
left alone. Where there is no header they are found by what they hold. A table without a status is
read by its scores: what beat all before it was kept. Refused: a file without a column of numbers
that could be a score.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.errors import AnalysisError

NAMES = {
    "status": ("status", "decision", "result", "outcome", "verdict", "kept", "keep", "action"),
    "title": (
        *("description", "desc", "title", "idea", "change", "summary", "hypothesis"),
        *("note", "notes", "name", "label", "what"),
    ),
    "commit": (
        *("commit", "sha", "hash", "commit_hash", "git", "id", "experiment", "exp", "run"),
        *("iteration", "iter", "trial", "step", "#"),
    ),
    "memory": (
        *("memory_gb", "peak_mem_gb", "mem_gb", "vram_gb", "peak_memory_gb"),
        *("memory_mb", "peak_vram_mb", "vram_mb", "peak_mem_mb"),
    ),
}
SCORES = (
    r"val_?bpb",
    r"bpb",
    r"bits_per_byte",
    r"val_?loss",
    r"(val|valid|validation|eval|test)_.*",
    r".*(loss|bpb|ppl|perplexity).*",
    r".*(rmse|mse|mae|error|wer|cer|fid).*",
    r".*(acc|f1|auc|score|metric|reward|bleu|rouge|map|sharpe|elo).*",
    r"value|objective|result",
)
NO_SCORE = re.compile(
    r".*(mem|vram|time|sec|minute|hour|step|param|mfu|tok|lr|rate|depth|width|epoch|seed|batch"
    r"|cost|gpu|flop|date|delta|diff|gain).*"
)
HIGHER = re.compile(r".*(acc|f1|auc|score|reward|bleu|rouge|map|sharpe|elo|mfu|r2).*")
KEPT = (
    *("keep", "kept", "accept", "accepted", "baseline", "success", "improved", "win", "merged"),
    *("best", "yes", "true", "1", "pass", "ok", "new_best", "y"),
)
LOST = (
    *("discard", "discarded", "reject", "rejected", "revert", "reverted", "no", "worse", "false"),
    *("0", "neutral", "drop", "dropped", "n", "fail_metric"),
)
FAILED = (
    *("crash", "crashed", "fail", "failed", "error", "oom", "nan", "timeout", "skip", "skipped"),
    *("invalid", "abort", "aborted", "killed"),
)
DELIMITERS = ("\t", ",", ";", "|")
CONFLICT = re.compile(r"(<{7}|={7}|>{7})( |$)")  # of a merge that nobody finished
COMMENT = re.compile(r"\s*#(?!\s*\d*\s*[\t,;|])")  # "#" and "#12" are a column's name and a number
NUMBER = re.compile(
    r"\s*[~≈]?([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
    r"\s*(?:%|±.*|g?i?b|mi?b|bpb|bits?(?:(?:/| per )byte)?|nats?|ppl)?\s*",
    re.IGNORECASE,
)
WITH_COMMAS = re.compile(r"\W*\d{1,3}(,\d{3})+(\.\d+)?\D*|\W*\d+,\d+\D*")
WITHOUT_HEADER = "column"  # and its number


@dataclass(frozen=True)
class ForeignRow:
    """One experiment. score: None where there is none; outcome: kept, discarded or crashed;
    memory: GB or None.
    """

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
    head, rows = read_cells(path)
    names = [re.sub(r"\W+", "_", name.strip().casefold()).strip("_") for name in head]
    names = [name or "#" * (not number) for number, name in enumerate(names)]
    columns = {
        name: without_commas([row[number].strip() for row in rows])
        for number, name in reversed(list(enumerate(names)))
        if name
    }
    metric = find_score(columns)
    if metric is None:
        has = ", ".join(names)
        raise AnalysisError(f"{path} has no column of numbers that could be a score: it has {has}")
    found = {
        kind: next((name for name in wanted if name in columns and name != metric), None)
        for kind, wanted in NAMES.items()
    }
    higher = bool(HIGHER.fullmatch(metric)) and not re.search("loss|error|bpb", metric)
    return ForeignTable(list(rows_of(columns, metric, found, higher)), metric, higher)


def read_cells(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, each as wide as the header. Raises AnalysisError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read: {error.strerror}") from error
    wide = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = raw.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not CONFLICT.match(line)]
    lines = [line.strip().strip("|") if line.lstrip().startswith("|") else line for line in lines]
    # Comments, and the rule below the head of a Markdown table.
    lines = [ln for ln in lines if not COMMENT.match(ln) and not re.fullmatch(r"[\s|:+-]+", ln)]
    if lines and not any(map(lines[0].count, DELIMITERS)):  # an editor's blanks for tabs
        lines = [re.sub(r"\\t| {2,}", "\t", line.strip()) for line in lines]
    delimiter = max(DELIMITERS, key=lines[0].count) if lines else "\t"
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, quoting=quoting))
    except csv.Error as error:
        raise AnalysisError(f"{path} cannot be read as a table: {error}") from error
    if rows and not any(number_in(cell) is not None for cell in rows[0]):
        head, *rows = rows
        rows = [fitted(row, len(head), delimiter) for row in rows if row != head]
    else:
        width = max(map(len, rows), default=0)
        rows = [fitted(row, width, delimiter) for row in rows]
        head = names_by_content(rows)
    if not rows:
        raise AnalysisError(f"{path} holds no table: it needs a row for each experiment")
    return head, rows


def names_by_content(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names for the columns of a table without a header: the score is the first column of numbers
    with a fraction, the status that of words for an outcome, the title the longest text.
    """
    columns = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    names = [f"{WITHOUT_HEADER}_{number}" for number in range(1, len(columns) + 1)]

    def give(name: str, choices: list[int]) -> None:
        free = [number for number in choices if names[number].startswith(WITHOUT_HEADER)]
        if free:
            names[free[0]] = name

    every = range(len(columns))
    words = {*KEPT, *LOST, *FAILED}
    numbers = [n for n in every if share_of_numbers(columns[n]) >= 0.3]
    give("score", [n for n in numbers if any(re.search(r"\d[.,]\d", c) for c in columns[n])])
    give("status", [n for n in every if n not in numbers and words >= set(map(plain, columns[n]))])
    by_length = sorted(every, key=lambda n: -sum(map(len, columns[n])))
    give("description", [n for n in by_length if n not in numbers])
    give("commit", list(every[:1]))
    return names


def plain(cell: str) -> str:
    """A word of a status as this module writes it."""
    return re.sub(r"\W+", "_", cell.casefold()).strip("_")


def without_commas(cells: list[str]) -> list[str]:
    """A column with points in its numbers: commas are decimal commas, or part thousands where all
    numbers that have one have groups of three digits behind it.
    """
    having = [cell for cell in cells if WITH_COMMAS.fullmatch(cell)]
    thousands = all(re.search(r",\d{3}(\D|$)", cell) and "0," not in cell for cell in having)
    return [
        cell.replace(",", "" if thousands else ".") if cell in having else cell for cell in cells
    ]


def fitted(row: Sequence[str], width: int, delimiter: str) -> list[str]:
    """A row of so many cells: what is too many belongs to the last, whose text has the
    delimiter.
    """
    return (
        [*row[: width - 1], delimiter.join(row[width - 1 :])]
        if len(row) > width
        else [*row, *[""] * (width - len(row))]
    )


def find_score(columns: dict[str, list[str]]) -> str | None:
    """The column that is the score: by its name, among those of numbers; else the first of them."""
    numeric = [name for name, cells in columns.items() if share_of_numbers(cells) >= 0.3]
    for wanted in SCORES:
        for name in reversed(numeric):  # columns are kept from the last to the first
            if re.fullmatch(wanted, name) and not (
                NO_SCORE.fullmatch(name) and "loss" not in name and "bpb" not in name
            ):
                return name
    known = {name for names in NAMES.values() for name in names}
    return next(
        (name for name in reversed(numeric) if name not in known and not NO_SCORE.fullmatch(name)),
        None,
    )


def share_of_numbers(cells: Sequence[str]) -> float:
    filled = [cell for cell in cells if cell not in ("", "-")]
    return sum(number_in(cell) is not None for cell in filled) / len(filled) if filled else 0.0


def number_in(cell: str) -> float | None:
    """A finite number, alone or with its unit or its error behind it; None for anything else."""
    found = NUMBER.fullmatch(cell)
    value = float(found[1]) if found else math.nan
    return value if math.isfinite(value) else None


def rows_of(
    columns: dict[str, list[str]], metric: str, found: dict[str, str | None], higher: bool
) -> Iterator[ForeignRow]:
    """Yield the rows in the table's order."""
    best: float | None = None
    sizes = [abs(n) for cell in columns[metric] if (n := number_in(cell))]
    least = statistics.median(sizes or [0.0]) / 100
    for number, cell in enumerate(columns[metric]):
        said = {kind: columns[name][number] if name else "" for kind, name in found.items()}
        score, status = number_in(cell), plain(said["status"])
        words = {status, status.split("_")[0]}
        failed, kept, lost = (not words.isdisjoint(known) for known in (FAILED, KEPT, LOST))
        # In many tables what has no score has a 0.
        if score is None or (abs(score) < least and (failed or (not higher and not kept))):
            score, outcome = None, "crashed"
        elif kept or failed or lost:
            outcome = "kept" if kept else "discarded"
        else:
            better = best is None or (score > best if higher else score < best)
            outcome = "kept" if better else "discarded"
        if outcome == "kept":
            best = score
        memory = number_in(said["memory"])
        if memory is not None and found["memory"].endswith("mb"):
            memory /= 1024
        commit = said["commit"].lstrip("#").strip() or f"row{number}"
        yield ForeignRow(score, outcome, said["title"], commit, memory or None)
