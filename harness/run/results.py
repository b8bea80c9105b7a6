"""results.tsv: journal entries in, the five-column table of karpathy/autoresearch out, and such a table read back.

The table is derived: the journal is the truth. It is kept so that tools written for the original read our runs, and
this module reads files the original wrote. Imports neither pandas nor matplotlib (the loop uses it), refuses malformed
rows with the line and what is wrong with it, and never overwrites a hand-edited file without saving it beside first.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.ground.errors import ResultsError
from harness.ground.files import write_text_atomic

COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")
HEADER = "\t".join(COLUMNS)
STATUSES = ("keep", "discard", "crash")
CRASH_STATUSES = ("crash", "invalid_patch", "oom", "nan", "timeout", "cheating")
QUARANTINED = "quarantined: "  # begins the description of what waits for a person
FORMULA = ("=", "+", "-", "@")
NO_ROW_STATUSES = ("infrastructure", "interrupted")  # nobody's idea failed: the machine did, or a person stopped it


@dataclass(frozen=True)
class ResultRow:
    """One row. val_bpb in bits per byte and memory_gb in GB are 0 for a crash; commit is any word.

    raw is the row as it stood in the file, line end and blank lines after it included; None for a new row.
    """

    commit: str
    val_bpb: float
    memory_gb: float
    status: str
    description: str
    raw: str | None = field(default=None, compare=False, repr=False)


def read_results(path: str | Path) -> list[ResultRow]:
    """Rows of a results.tsv in file order; format_results of them gives the file back byte for byte.

    A byte-order mark is read over (and not written back). Raises ResultsError for a missing file or a malformed line.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ResultsError(f"no results table at {path}: run notebooks/02_baseline.ipynb first") from None
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    header, *lines = _split_lines(text)
    if header.rstrip("\r\n") != HEADER:
        shown = header.rstrip("\r\n")[:80]
        raise ResultsError(f"{path} line 1: the header must be {HEADER!r}, found {shown!r}: is this a results.tsv?")
    rows: list[ResultRow] = []
    for number, line in enumerate(lines, start=2):
        if not line.strip() and rows:
            last = rows.pop()
            rows.append(_parse(last.raw + line, path, number))  # blank lines stay with the row above them
        else:
            rows.append(_parse(line, path, number))
    return rows


def _split_lines(text: str) -> list[str]:
    """Lines by newline alone: a description may hold U+2028 and its like, which str.splitlines would break at."""
    parts = text.split("\n")
    lines = [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    return lines or [""]


def _parse(line: str, path: Path | str, number: int) -> ResultRow:
    cells = line.rstrip("\r\n").split("\t")
    where = f"{path} line {number}"
    if len(cells) != len(COLUMNS):
        hint = "tabs are not allowed in the description" if len(cells) > 5 else "columns are separated by tabs"
        raise ResultsError(f"{where}: {len(cells)} columns instead of {len(COLUMNS)} ({hint}): {line.strip()[:80]!r}")
    commit, val_bpb, memory_gb, status, description = cells
    if not commit.strip():
        raise ResultsError(f"{where}: the commit is empty: any word will do, for example 'baseline'")
    if status not in STATUSES:
        raise ResultsError(f"{where}: status {status[:40]!r} is none of {', '.join(STATUSES)}")
    return ResultRow(
        commit,
        _number(val_bpb, "val_bpb", where),
        _number(memory_gb, "memory_gb", where),
        status,
        description,
        raw=line,
    )


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ResultsError(f"{where}: {column} must be a number of at least 0 (0 for a crash), found {text[:40]!r}")
    return value


def format_results(rows: Sequence[ResultRow]) -> str:
    """The whole file as text: rows read from a file and not changed since come out as they stood."""
    lines = [_line(row) for row in rows]
    line_end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    closed = [line if line.endswith("\n") else line + line_end for line in lines[:-1]] + lines[-1:]
    return HEADER + line_end + "".join(closed)


def _line(row: ResultRow) -> str:
    if row.raw is not None and _parse(row.raw, "row", 0) == row:  # dataclasses.replace keeps raw: it must not win
        return row.raw
    return f"{row.commit}\t{row.val_bpb:.6f}\t{row.memory_gb:.1f}\t{row.status}\t{row.description}\n"


def clean_description(text: object) -> str:
    """Text as one printable line: whitespace of any kind becomes single spaces, control characters vanish.

    A leading double quote would open a quoted field in most TSV readers and swallow the rows after it: it is softened.
    """
    words = " ".join(str(text or "").split())
    words = "".join(c for c in words if c.isprintable())
    return (words.replace('"', "'") if words.startswith('"') else words) or "(no title)"


def as_cell(text: str) -> str:
    """Text that a spreadsheet takes for text: what begins like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(FORMULA) else text


def results_from_journal(entries: Sequence[dict]) -> list[ResultRow]:
    """One row per committed experiment, in the order of their commits; the baseline is one row, kept.

    Without git the commit column says exp0007. An experiment whose end was not its own doing (infrastructure,
    interrupted) has no row. Crash rows carry 0.000000 and 0.0 as the original's do.
    """
    decided: dict[int, dict] = {}
    rows: dict[int, ResultRow] = {}
    for entry in entries:
        if entry.get("event") == "decided":
            decided[entry["experiment"]] = entry
        elif entry.get("event") == "committed" and entry.get("experiment") in decided:
            line = decided[entry["experiment"]]
            if line.get("status") not in NO_ROW_STATUSES:
                rows.setdefault(entry["experiment"], _row(line, entry.get("commit")))
        elif entry.get("event") == "ruled" and entry.get("experiment") in rows:
            rows[entry["experiment"]] = _ruled(rows[entry["experiment"]], entry)
    return list(rows.values())


def _ruled(row: ResultRow, ruled: dict) -> ResultRow:
    """The row of a quarantined experiment after a person's word on it."""
    title = row.description.removeprefix(QUARANTINED)
    if not ruled.get("accept"):
        return replace(row, description=f"refused: {title}")
    return replace(row, status="keep" if ruled.get("becomes_incumbent") else "discard", description=title)


def _row(decided: dict, commit: str | None) -> ResultRow:
    number, status, decision = decided["experiment"], decided.get("status"), decided.get("decision")
    name = str(commit)[:7] if commit else f"exp{number:04d}"
    title = as_cell(clean_description(decided.get("title") or ("baseline" if number == 0 else "")))
    if status in CRASH_STATUSES or decided.get("val_bpb") is None:
        description = title if status in ("crash", None, "ok") else f"{title} ({str(status).replace('_', ' ')})"
        return ResultRow(name, 0.0, 0.0, "crash", description)
    if decision == "quarantine":
        title = QUARANTINED + title
    kept = decision in ("keep", "baseline")
    val_bpb, memory_gb = round(float(decided["val_bpb"]), 6), round(float(decided.get("memory_gb") or 0.0), 1)
    return ResultRow(name, val_bpb, memory_gb, "keep" if kept else "discard", title)


def write_results(
    path: str | Path, rows: Sequence[ResultRow], expected_previous: Sequence[ResultRow] | str | None = None
) -> Path | None:
    """Write the table atomically; return the .edited copy that was made of a hand-edited one, else None.

    The file is taken as untouched when it holds the first rows of `rows` (any number of them, as an earlier write left
    it), or expected_previous (rows, or the text). Anything else somebody wrote: it is saved first, bytes as they are.
    """
    path, text = Path(path), format_results(rows)
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        write_text_atomic(path, text)
        return None
    new = text.encode("utf-8")
    if found == new:
        return None
    previous = expected_previous if isinstance(expected_previous, str | None) else format_results(expected_previous)
    is_prefix = not found or (new.startswith(found) and found.endswith(b"\n"))
    untouched = is_prefix or (previous is not None and found == previous.encode("utf-8"))
    saved = None if untouched else _save_edited(path, found)
    write_text_atomic(path, text)
    return saved


def _save_edited(path: Path, content: bytes) -> Path:
    """Put the edited bytes in results.tsv.edited, .edited.1, ...: the first name that is free or already holds them."""
    number = 0
    while True:
        copy = path.with_name(f"{path.name}.edited" + (f".{number}" if number else ""))
        try:
            with open(copy, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return copy
        except FileExistsError:
            if copy.read_bytes() == content:  # a kill after the copy and before the rewrite: it is saved already
                return copy
            number += 1
