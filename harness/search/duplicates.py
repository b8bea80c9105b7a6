"""Has this been tried? What a train.py does apart from its numbers, and what comes too near to it.

In: a candidate, the train.py it was made from, and the history as plain rows. Out: a hash of the
structure; a sentence that quotes the earlier result, '' when there is none. Near means either of
two things. The same code with no annotated constant further off than NEAR of its range: no run
could tell the two apart. Or the same change of code on an earlier incumbent, where it failed or
lost clearly; one that lost narrowly may gain on another incumbent. Comments, layout and docstrings
never count.
"""

import ast
import functools
import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import UNREADABLE, Constant, as_written, distance, parse_constants
from harness.search.gate import without_docstrings
from harness.search.llm.quoting import one_line
from harness.search.patch import make_diff

NEAR = 0.02  # of a constant's annotated range
CLEARLY = 2.0  # sigma of one run: a loss beyond it is no matter of luck
MOST_COMPARED = 5  # earlier changes, the likeliest: to read a thousand whole takes minutes
TITLE_CHARACTERS, CAUSE_CHARACTERS = 100, 160
_NOT_THE_IDEAS = ("infrastructure", "interrupted")  # statuses that say nothing about an idea
_BODIES = {"body", "orelse", "finalbody", "handlers", "cases"}
Row = Mapping[str, Any]


@functools.lru_cache(maxsize=64)
def structure_hash(source: str) -> str:
    """Return the sha256 of a train.py's syntax tree without docstrings and constants' values.

    '' for a source that cannot be read. Two sources of one structure differ in nothing but the
    numbers that are searched.
    """
    try:
        lines = {constant.line for constant in parse_constants(source).values()}
        tree = without_docstrings(ast.parse(source))
        for node in tree.body:
            if isinstance(node, ast.Assign) and node.lineno in lines:
                node.value = ast.Constant(None)
        text = ast.dump(tree)
    except (ConstantsError, *UNREADABLE):
        return ""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def near_duplicate(candidate: str, parent_source: str, history: Sequence[Row]) -> str:
    """Return why a candidate need not be trained, '' when nothing like it was tried.

    history: what a proposer knows of each experiment, with its folder, whose train.py is read where
    the code itself must be compared; a lost one compares with nothing.
    """
    structure = structure_hash(candidate)
    if not structure:
        return ""
    rows = [row for row in history if row["status"] not in _NOT_THE_IDEAS]
    constants = parse_constants(candidate)
    for row in reversed(rows):
        differences = row.get("structure") == structure and _near(constants, row["constants"])
        if differences:
            return (
                f"{_quoted(row)}: the same code{differences}. Propose something that differs more"
            )
    return _made_before(candidate, parent_source, rows)


def _near(constants: Mapping[str, Constant], earlier: Row) -> str:
    """Return how little the numbers differ, "" where one differs by more than that."""
    if constants.keys() != earlier.keys():
        return ""
    pairs = [(each, as_written(earlier[name]), each.value) for name, each in constants.items()]
    if any(distance(*pair) > NEAR for pair in pairs):
        return ""
    listed = [f"{each.name} {a!r} then and {b!r} now" for each, a, b in pairs if a != b]
    if not listed:
        return " with the same numbers"
    return f", and no number is further off than {NEAR:.0%} of its range ({', '.join(listed)})"


def _made_before(candidate: str, parent_source: str, rows: Sequence[Row]) -> str:
    """Return the sentence about an experiment that changed the same statements in the same way."""
    change = _change(parent_source, candidate)
    if not any(change):
        return ""
    words = _words(make_diff(parent_source, candidate))
    by_number = {row["experiment"]: row for row in rows}
    for row in heapq.nlargest(
        MOST_COMPARED,
        (row for row in rows if not _may_come_again(row)),
        key=lambda row: _likeness(words, _words(read_file(row, "train.diff"))),
    ):
        before = read_file(by_number.get(row["parent"], {}), "train.py")
        after = read_file(row, "train.py")
        if before and after and _change(before, after) == change:
            return (
                f"{_quoted(row)}: the same change, made to an earlier train.py. Propose another one"
            )
    return ""


def _may_come_again(row: Row) -> bool:
    """A narrow loss may gain on another incumbent; what was kept is in it, or was left behind."""
    gain, sigma = row.get("gain"), row.get("sigma")
    narrow = None not in (gain, sigma) and gain >= -CLEARLY * sigma
    return narrow or row["decision"] == "keep"


def read_file(row: Row, name: str) -> str:
    """Return a file of an experiment's last attempt, '' when it is lost."""
    try:
        return (Path(row["folder"]) / name).read_text(encoding="utf-8") if row.get("folder") else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _words(diff: str) -> set[str]:
    changed = [line for line in diff.splitlines() if line.startswith(("+", "-"))]
    return set(re.findall(r"\w+", " ".join(changed)))


def _likeness(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _change(before: str, after: str) -> tuple[Counter, Counter]:
    """Return the statements that a change takes away and those it brings, wherever they are."""
    old, new = Counter(_statements(before)), Counter(_statements(after))
    return old - new, new - old


def _statements(source: str) -> list[str]:
    """Return each statement as normalised text, of a compound one its head.

    None of a source that cannot be read.
    """
    kinds = (ast.stmt, ast.excepthandler, ast.match_case)
    try:
        tree = without_docstrings(ast.parse(source))
        found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        for node in found:
            for name in _BODIES & set(node._fields):
                setattr(node, name, [])
        return [ast.dump(node) for node in found]
    except UNREADABLE:
        return []


def _quoted(row: Row) -> str:
    """Return an experiment and its result; words of others on one line, cleaned and cut."""
    tried = f"this was tried as experiment {row['experiment']}"
    tried += f" ({one_line(row['title'], TITLE_CHARACTERS)})"
    score, gain, sigma = row["val_bpb"], row.get("gain"), row.get("sigma")
    if score is None:
        cause = one_line(row["cause"], CAUSE_CHARACTERS)
        return f"{tried}, which ended with {row['status']}: {cause}"
    found = f"{row['decision']}, val_bpb {score:.5f}"
    if gain is not None:
        found += f", {abs(gain):.5f} {'better' if gain > 0 else 'worse'} than its parent"
    if gain is not None and sigma:
        found += f", {abs(gain) / sigma:.1f} sigma"
    return f"{tried}: {found}"
