"""results.tsv: records in, the five-column table of karpathy/autoresearch out; and it is read back.

The table is derived: the journal is the truth. It is kept so that tools written for the original
read our runs, and this module reads files the original wrote. Imports neither pandas nor matplotlib
(the loop uses it), refuses malformed rows with the line and what is wrong with it, and never
overwrites a hand-edited file without saving it beside first.
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.errors import ResultsError
from harness.ground.files import write_text_atomic
from harness.run.records import KEPT, Record, records_from_journal

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")
HEADER = "\t".join(COLUMNS)
STATUSES = ("keep", "discard", "crash")
FORMULA = tuple("=+-@＝＋－＠")  # wide ones, too: East Asian spreadsheets take them
QUARANTINED = "quarantined: "  # begins the description of what waits for a person


@dataclass(frozen=True)
class ResultRow:
    """One row. val_bpb, in bits per byte, and memory_gb are 0 for a crash; commit is any word."""

    commit: str
    val_bpb: float
    memory_gb: float
    status: str
    description: str


def read_results(path: str | Path) -> list[ResultRow]:
    """Rows of a results.tsv. Raises ResultsError for a missing file or a malformed line."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        advice = "run notebooks/02_baseline.ipynb first"
        raise ResultsError(f"no results table at {path}: {advice}") from None
    except UnicodeDecodeError as error:
        where = f"{path} is not UTF-8 text (byte {error.start})"
        raise ResultsError(f"{where}: save it as UTF-8") from None
    # By newline alone: a description may hold U+2028, which str.splitlines would break at.
    header, *lines = (line.rstrip("\r") for line in text.split("\n"))
    if header != HEADER:
        raise ResultsError(
            f"{path} line 1: the header must be {HEADER!r}, found {header[:80]!r}: "
            "is this a results.tsv?"
        )
    rows = enumerate(lines, start=2)
    return [_parse(line, f"{path} line {number}") for number, line in rows if line.strip()]


def _parse(line: str, where: str) -> ResultRow:
    cells = line.split("\t")
    if len(cells) != len(COLUMNS):
        hint = "columns are separated by tabs; a description has none"
        raise ResultsError(
            f"{where}: {len(cells)} columns instead of {len(COLUMNS)} ({hint}): {line[:80]!r}"
        )
    commit, val_bpb, memory_gb, status, description = cells
    if not commit.strip():
        raise ResultsError(f"{where}: the commit is empty: any word will do, such as 'baseline'")
    if status not in STATUSES:
        raise ResultsError(f"{where}: status {status[:40]!r} is none of {', '.join(STATUSES)}")
    score, memory = _number(val_bpb, "val_bpb", where), _number(memory_gb, "memory_gb", where)
    return ResultRow(commit, score, memory, status, description)


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ResultsError(
            f"{where}: {column} must be a number of at least 0 (0 for a crash), found {text[:40]!r}"
        )
    return value


def format_results(rows: Sequence[ResultRow]) -> str:
    """The whole file as text."""
    lines = [
        f"{r.commit}\t{r.val_bpb:.6f}\t{r.memory_gb:.1f}\t{r.status}\t{r.description}\n"
        for r in rows
    ]
    return f"{HEADER}\n{''.join(lines)}"


def clean_description(text: object) -> str:
    """Text as one printable line: single spaces, no control characters.

    A leading double quote would open a quoted field in most TSV readers and swallow the rows after
    it: it is softened.
    """
    words = " ".join(str(text or "").split())
    words = "".join(c for c in words if c.isprintable())
    return (words.replace('"', "'") if words.startswith('"') else words) or "(no title)"


def as_cell(text: str) -> str:
    """Text that a spreadsheet takes for text: an apostrophe before what begins like a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def results_from_journal(entries: Sequence[dict]) -> list[ResultRow]:
    """One row per committed experiment, in the order of their commits.

    Without git the commit column says exp0007. An experiment whose end was not its own doing has no
    row. Crash rows carry 0.000000 and 0.0 as the original's do.
    """
    records = records_from_journal(entries)
    return [row_of(each) for each in records if each.is_committed and each.outcome != "no result"]


def row_of(record: Record) -> ResultRow:
    commit = record.commit[:7] if record.commit else f"exp{record.experiment:04d}"
    title = as_cell(clean_description(record.title))
    if record.outcome == "crashed":
        kind = record.status.replace("_", " ")
        description = title if kind in ("crash", "ok") else f"{title} ({kind})"
        return ResultRow(commit, 0.0, 0.0, "crash", description)
    if record.outcome == "quarantined":
        title = QUARANTINED + title
    if record.ruled == "refused":
        title = f"refused: {title}"
    status = "keep" if record.outcome in KEPT else "discard"
    memory_gb = round(record.memory_gb or 0.0, 1)
    return ResultRow(commit, round(record.val_bpb, 6), memory_gb, status, title)


def write_results(
    path: Path, rows: Sequence[ResultRow], expected_previous: Sequence[ResultRow] = ()
) -> Path | None:
    """Write the table atomically; return the copy that was made of a hand-edited one, else None.

    The file is taken as untouched when it holds the first rows of `rows` (any number of them, as an
    earlier write left it), or expected_previous. Anything else somebody wrote: it is saved first,
    bytes as they are, in results.tsv.edited.
    """
    text, found = format_results(rows), path.read_bytes() if path.exists() else b""
    new, previous = text.encode(), format_results(expected_previous).encode()
    if found == new:
        return None
    is_prefix = not found or (new.startswith(found) and found.endswith(b"\n"))
    saved = None if is_prefix or found == previous else _save_edited(path, found)
    write_text_atomic(path, text)
    return saved


def _save_edited(path: Path, content: bytes) -> Path:
    """Put the edited bytes in .edited, .edited.1, ...: the first name that is free or has them."""
    for number in itertools.count():
        copy = path.with_name(f"{path.name}.edited" + (f".{number}" if number else ""))
        try:
            with open(copy, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return copy
        except FileExistsError:
            # A kill after the copy and before the rewrite: it is saved already.
            if copy.read_bytes() == content:
                return copy
