"""SEARCH/REPLACE edits: how a structural idea, the bank's or a model's, changes a train.py; and the diff that is shown.

In: a source and edits, each some whole lines to find and the lines to put there:

    <<<<<<< SEARCH
    lines as they stand
    =======
    lines as they shall stand
    >>>>>>> REPLACE

Out: the new source, or a PatchError; never a source with some of the edits, never the old one in disguise. The lines
to find must stand in the source exactly once: to the letter or, failing that, all shifted by the same indentation (the
replacement is shifted with them). An edit that finds nothing, finds two places, or changes nothing is an error, and
the message shows the nearest lines, so that a proposer can correct itself.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HEAD, _MIDDLE, _TAIL = r"<{5,9} ?SEARCH", r"={5,9}", r">{5,9} ?REPLACE"


class PatchError(ValueError):
    """An edit does not apply; the message says which, why, and what stands there instead."""


@dataclass(frozen=True)
class Edit:
    """Replace the lines `search` by the lines `replace` (both without a final newline)."""

    search: str
    replace: str


def parse_edits(text: str) -> list[Edit]:
    """Return the edits in a text; lines outside of blocks are prose and skipped. Raises PatchError on a cut block."""
    edits: list[Edit] = []
    part, search, replace = None, [], []
    for number, line in enumerate(text.splitlines(), 1):
        mark = line.strip()
        if re.fullmatch(_HEAD, mark):
            if part:
                raise PatchError(f"line {number} of the edits: a new SEARCH begins before the last block was closed")
            part, search, replace = "search", [], []
        elif part == "search" and re.fullmatch(_MIDDLE, mark):
            part = "replace"
        elif part == "replace" and re.fullmatch(_TAIL, mark):
            edits.append(Edit("\n".join(search), "\n".join(replace)))
            part = None
        elif part:
            (search if part == "search" else replace).append(line)
    if part:
        raise PatchError("the last SEARCH/REPLACE block is not closed: was the answer cut off?")
    if not edits:
        raise PatchError("no SEARCH/REPLACE block found")
    return edits


def apply_edits(source: str, edits: Sequence[Edit]) -> str:
    """Return the source with all edits applied, one after the other. Raises PatchError, and then nothing is applied."""
    lines = source.splitlines()
    for number, edit in enumerate(edits, 1):
        name = f"edit {number} of {len(edits)}"
        search, replace = edit.search.splitlines(), edit.replace.splitlines()
        if not any(line.strip() for line in search):
            raise PatchError(f"{name}: the lines to find are empty; name the lines it goes next to")
        if search == replace:
            raise PatchError(f"{name}: it replaces lines by themselves and so changes nothing")
        start, shift = _find(lines, search, name)
        lines[start : start + len(search)] = [_shifted(line, shift) for line in replace]
    result = "\n".join(lines) + ("\n" if source.endswith("\n") or not source else "")
    if result == source:
        raise PatchError("the edits change nothing taken together")
    return result


def make_diff(old: str, new: str) -> str:
    """Return the unified diff from old to new, '' when they are equal; `git apply` takes it."""
    out = []
    for line in difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), "a/train.py", "b/train.py"
    ):
        out.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(out)


def _find(lines: list[str], search: list[str], name: str) -> tuple[int, int]:
    """Return where the searched lines begin, and by how many columns they are indented more (less: negative)."""
    size = len(search)
    exact = [i for i in range(len(lines) - size + 1) if lines[i : i + size] == search]
    found = [(i, 0) for i in exact] or _find_shifted(lines, search)
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(str(i + 1) for i, _ in found[:5])
        raise PatchError(f"{name}: the lines to find stand {len(found)} times (lines {places}); add lines around them")
    raise PatchError(f"{name}: the lines to find are not in the source; did you mean\n{_nearest(lines, search)}")


def _find_shifted(lines: list[str], search: list[str]) -> list[tuple[int, int]]:
    """Return the places that match but for trailing blanks and one indentation shift common to all non-empty lines."""
    bare = [line.strip() for line in search]
    found = []
    for start in range(len(lines) - len(search) + 1):
        window = lines[start : start + len(search)]
        if [line.strip() for line in window] == bare:
            shifts = {_indent(a) - _indent(b) for a, b in zip(window, search, strict=True) if b.strip()}
            if len(shifts) == 1:
                found.append((start, shifts.pop()))
    return found


def _nearest(lines: list[str], search: list[str], context: int = 1) -> str:
    """Return the stretch of source most like the searched lines, with line numbers."""
    bare = [line.strip() for line in search]
    anchor = max(range(len(bare)), key=lambda i: len(bare[i]))  # the longest line says most
    likeness = [difflib.SequenceMatcher(None, bare[anchor], line.strip()) for line in lines]
    scores = [match.ratio() if match.real_quick_ratio() > 0.3 else 0.0 for match in likeness]
    best = max(range(len(lines)), key=scores.__getitem__, default=0)
    start = max(0, best - anchor - context)
    stretch = enumerate(lines[start : best - anchor + len(search) + context], start + 1)
    return "\n".join(f"{number:5d} | {line}" for number, line in stretch)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _shifted(line: str, shift: int) -> str:
    """Return the line indented by shift columns more; it never loses more than its own blanks."""
    if not line.strip() or not shift:
        return line
    return " " * shift + line if shift > 0 else line[min(-shift, _indent(line)) :]
