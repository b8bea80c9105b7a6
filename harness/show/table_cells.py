"""The cells of a table in a file of text, whatever separates them.

In: a file, a row a line, separated by tabs, commas, semicolons, bars or blanks; a table of Markdown
among other text; objects of JSON, one a line or in a list. Out: the header, [] where the first row
has numbers as all others have, and the rows, all of one width. Comments and what a merge left
behind are no rows. Refused: a file that cannot be read, or holds nothing of that kind.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ground.errors import AnalysisError

DELIMITERS = ("\t", ",", ";", "|")
CONFLICT = re.compile(r"(<{7}|={7}|>{7})( |$)")  # of a merge that nobody finished
COMMENT = re.compile(r"\s*#(?!\s*\d*\s*[\t,;|])")  # "#" and "#12" are a column's name and a number
RULE = re.compile(r"[\s|:+-]+")  # below the head of a Markdown table
NUMBER = re.compile(
    r"(?:.*(?:→|->))?\s*[~≈]?([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
    r"\s*(?:%|±.*|\(.*\)|g?i?b|mi?b|bpb|bits?(?:(?:/| per )byte)?|nats?|ppl)?\s*",
    re.IGNORECASE,
)


def read_cells(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows. Raises AnalysisError."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read: {error.strerror}") from error
    wide = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = raw.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    try:
        head, rows = _of_objects(text) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
    except csv.Error as error:
        raise AnalysisError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise AnalysisError(f"{path} holds no table: it needs a row for each experiment")
    return head, rows


def number_in(cell: str) -> float | None:
    """A finite number, alone or with its unit or its error behind it; None for anything else."""
    found = NUMBER.fullmatch(cell)
    value = float(found[1]) if found else math.nan
    return value if math.isfinite(value) else None


def _of_lines(text: str) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in text.splitlines() if line.strip() and not CONFLICT.match(line)]
    if any("|" in line and RULE.fullmatch(line) for line in lines):  # prose around it is none of it
        lines = [line for line in lines if "|" in line]
    lines = [line.strip().strip("|") if line.lstrip().startswith("|") else line for line in lines]
    lines = [line for line in lines if not COMMENT.match(line) and not RULE.fullmatch(line)]
    if lines and not any(map(lines[0].count, DELIMITERS)):
        lines = [_with_tabs(line, lines[0]) for line in lines]
    delimiter = max(DELIMITERS, key=lines[0].count) if lines else "\t"
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    rows = [
        [_bare(cell, delimiter) for cell in row]
        for row in csv.reader(lines, delimiter=delimiter, quoting=quoting)
    ]
    head: list[str] = []
    if rows and not any(number_in(cell) is not None for cell in rows[0]):
        head, *rows = rows
    width = len(head) or max(map(len, rows), default=0)
    return head, [_fitted(row, width, delimiter) for row in rows if row != head]


def _with_tabs(line: str, head: str) -> str:
    """A line whose tabs an editor made blanks; where single ones part the header, they part all."""
    several = re.search(r"\\t| {2,}", head.strip())
    return re.sub(
        r"\\t| {2,}" if several else " +",
        "\t",
        line.strip(),
        count=0 if several else head.strip().count(" "),
    )


def _bare(cell: str, delimiter: str) -> str:
    """A cell without quotes around it or, in Markdown, the marks of letters."""
    cell = cell.strip()
    if delimiter == "|":
        return cell.strip("*`~ ")
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _fitted(row: Sequence[str], width: int, delimiter: str) -> list[str]:
    """A row of so many cells. Those too many belong to the last, whose text has the delimiter."""
    if len(row) > width:
        return [*row[: width - 1], delimiter.join(row[width - 1 :])]
    return [*row, *[""] * (width - len(row))]


def _of_objects(text: str) -> tuple[list[str], list[list[str]]]:
    rows = [dict(_fields(each)) for each in _objects(text)]
    head = list(dict.fromkeys(name for row in rows for name in row))
    return head, [[row.get(name, "") for name in head] for row in rows]


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The objects of a list, of the first list in an object, or of the lines."""
    try:
        whole = json.loads(text)
    except ValueError:
        try:
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return []
    except RecursionError:
        return []
    if isinstance(whole, dict):
        whole = next((value for value in whole.values() if isinstance(value, list)), [whole])
    return [each for each in whole if isinstance(each, dict)]


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields of an object, also those of the objects in it."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", str(each)) for inner, each in value.items())
        else:
            yield name, "" if value is None else str(value)
