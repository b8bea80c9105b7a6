"""Has this been tried? What a train.py does apart from its numbers, and whether a candidate comes too near to an earlier one.

In: a candidate, the train.py it was made from, and the history as plain rows. Out: a hash of the structure; a sentence that quotes
the earlier result, '' when there is none. Near means either of two things. The same code with no annotated constant further off
than NEAR of its range: no run could tell the two apart. Or the same change of code on an earlier incumbent, where it failed or lost
clearly; one that lost narrowly may gain on another incumbent. Comments, layout and docstrings never count.
"""

import ast
import functools
import hashlib
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import Constant, parse_constants
from harness.search.gate import UNREADABLE, without_docstrings
from harness.search.llm.quoting import one_line
from harness.search.patch import make_diff

NEAR = 0.02  # of a constant's annotated range
CLEARLY = 2.0  # sigma of one run: a loss beyond it is no matter of luck
MOST_COMPARED = 5  # earlier changes, those with most words in common: to read a thousand whole takes minutes
TITLE_CHARACTERS, CAUSE_CHARACTERS = 100, 160
_NOT_THE_IDEAS = ("infrastructure", "interrupted")  # statuses that say nothing about an idea
Row = Mapping[str, Any]


@functools.lru_cache(maxsize=64)
def structure_hash(source: str) -> str:
    """Return the sha256 of a train.py's syntax tree without docstrings and without the annotated constants' values.

    '' for a source that cannot be read. Two sources of one structure differ in nothing but the numbers that are searched.
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
    """Return why a candidate need not be trained, quoting the earlier result; '' when nothing like it was tried.

    history: rows with structure, constants, parent, folder, title, decision, status, val_bpb, gain, sigma, cause; those of an earlier
    version may lack any of them. The folder's train.py is read where the code itself must be compared; a lost one compares with nothing.
    """
    structure = structure_hash(candidate)
    if not structure:
        return ""
    rows = [row for row in history if row.get("status") not in _NOT_THE_IDEAS]
    constants = parse_constants(candidate)
    for row in reversed(rows):
        if row.get("structure") == structure:
            differences = _differences(constants, row.get("constants") or {})
            if differences is not None:
                return f"{_quoted(row)}: the same code{_numbers(differences)}. Propose something that differs more"
    return _made_before(candidate, parent_source, rows)


def _made_before(candidate: str, parent_source: str, rows: Sequence[Row]) -> str:
    """Return the sentence about an earlier experiment that changed the same statements in the same way, '' if none did."""
    words = _words(make_diff(parent_source, candidate))
    likeness = [(_likeness(words, _words(_read(row, "train.diff"))), row) for row in rows if not _may_come_again(row)]
    likeliest = heapq.nlargest(MOST_COMPARED, likeness, key=lambda pair: pair[0])
    change = _change(parent_source, candidate)
    parents = {row.get("experiment"): row for row in rows}
    for alike, row in likeliest if any(change) else ():
        before, after = _read(parents.get(row.get("parent"), {}), "train.py"), _read(row, "train.py")
        if alike and before and after and _change(before, after) == change:
            return f"{_quoted(row)}: the same change, made to an earlier train.py. Propose another one"
    return ""


def _differences(constants: Mapping[str, Constant], earlier: Row) -> dict[str, tuple[Any, Any]] | None:
    """Return {name: (then, now)} of constants that differ, all by little; None when one differs by more."""
    if set(constants) != set(earlier):
        return None
    pairs = {name: (_tuple(earlier[name]), constant.value) for name, constant in constants.items()}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return differing if all(_distance(constants[name], *pair) <= NEAR for name, pair in differing.items()) else None


def _distance(constant: Constant, a: Any, b: Any) -> float:
    """Return how far two values lie apart as a share of the annotated range, 1 for values that have no distance."""
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (a, b, constant.low, constant.high))
    if not numbers:
        return 1.0
    if constant.scale in ("log", "pow2"):
        if min(a, b, constant.low) <= 0:
            return 1.0
        span = math.log(constant.high) - math.log(constant.low)
        return abs(math.log(a) - math.log(b)) / span if span else 1.0
    return abs(a - b) / (constant.high - constant.low)


def _numbers(differences: Mapping[str, tuple[Any, Any]]) -> str:
    listed = ", ".join(f"{name} {then!r} then and {now!r} now" for name, (then, now) in differences.items())
    return (
        f", and no number is further off than {NEAR:.0%} of its range ({listed})"
        if listed
        else " with the same numbers"
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON knows no tuples


def _may_come_again(row: Row) -> bool:
    """A narrow loss may turn into a gain on another incumbent; what was kept is in the incumbent, or was left behind with it."""
    gain, sigma = row.get("gain"), row.get("sigma")
    if row.get("decision") == "keep" or not isinstance(gain, (int, float)):
        return row.get("decision") == "keep"
    return isinstance(sigma, (int, float)) and gain >= -CLEARLY * sigma


def _read(row: Row, name: str) -> str:
    """Return a file of an experiment's last attempt, '' when it is lost."""
    try:
        return (Path(row["folder"]) / name).read_text(encoding="utf-8") if row.get("folder") else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _words(diff: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(line for line in diff.splitlines() if line[:1] in ("+", "-"))))


def _likeness(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _change(before: str, after: str) -> tuple[Counter, Counter]:
    """Return the statements that a change takes away and those that it brings, wherever they stand."""
    old, new = Counter(_statements(before)), Counter(_statements(after))
    return old - new, new - old


def _statements(source: str) -> list[str]:
    """Return each statement of a source as normalised text, of a compound one its head; none of a source that cannot be read."""
    try:
        return list(_heads(without_docstrings(ast.parse(source))))
    except UNREADABLE:
        return []


def _heads(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):
            head = {name: value for name, value in ast.iter_fields(node) if name not in _BODIES}
            yield type(node).__name__ + repr({name: _dumped(value) for name, value in head.items()})


_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


def _dumped(value: Any) -> Any:
    if isinstance(value, list):
        return [_dumped(item) for item in value]
    return ast.dump(value) if isinstance(value, ast.AST) else value


def _quoted(row: Row) -> str:
    """Return an earlier experiment and its result, in words; those of others on one line, cleaned and cut, as in a prompt's table."""
    title = f" ({one_line(row['title'], TITLE_CHARACTERS)})" if row.get("title") else ""
    score, gain, sigma = (row.get(key) for key in ("val_bpb", "gain", "sigma"))
    if not isinstance(score, (int, float)):
        cause = f": {one_line(row['cause'], CAUSE_CHARACTERS)}" if row.get("cause") else ""
        return (
            f"this was tried as experiment {row.get('experiment')}{title}, which ended with {row.get('status')}{cause}"
        )
    found = f"{row.get('decision') or 'undecided'}, val_bpb {score:.5f}"
    if isinstance(gain, (int, float)):
        found += f", {abs(gain):.5f} {'better' if gain > 0 else 'worse'} than its parent"
        if isinstance(sigma, (int, float)) and sigma > 0:
            found += f", {abs(gain) / sigma:.1f} sigma"
    return f"this was tried as experiment {row.get('experiment')}{title}: {found}"
