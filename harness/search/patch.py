"""Edits: how a structural idea changes a train.py; and the diff that is shown.

In: a source and edits, each some whole lines to find and the lines to put there. The bank has them
as diffs, a model writes them as blocks:

    <<<<<<< SEARCH
    lines as they stand
    =======
    lines as they shall stand
    >>>>>>> REPLACE

Out: the new source, or a PatchError; never a source with some of the edits, never the old one in
disguise. The lines to find must stand in the source exactly once: to the letter or, failing that,
but for trailing blanks and for one indentation that all of them have too much or too little (the
replacement is then shifted with them) or, failing that, without the blank lines they begin and end
with, the indentation of their first line, or all comments, blanks and blank lines. An edit that
finds nothing or two places, and edits that change nothing together, are an error; the message shows
the nearest lines, so that a proposer can correct itself. Line ends stay as they are in the source,
whatever those of the edits.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.search.find_lines import (
    find_bare,
    find_exact,
    find_shifted,
    find_trimmed,
    indent,
    nearest,
    places_within,
    with_comments,
    without_blank_edges,
)

# A marker stands alone on its line; models vary its length, its spacing and what they add to it.
_MARKERS = {
    "head": re.compile(
        r"(?:<{3,}|-{5,})\s*(?:SEARCH|ORIGINAL|OLD|HEAD|BEFORE)[\s:<>]*(?:\S+\.py)?:?|<{5,}",
        re.IGNORECASE,
    ),
    "middle": re.compile(r"={4,}"),
    "tail": re.compile(
        r"(?:>{3,}|\+{5,})\s*(?:REPLACE|UPDATED|NEW|AFTER)[\s:<>]*|>{5,}", re.IGNORECASE
    ),
}
_LIKE_A_MARKER = re.compile(r"<{5,}.*|>{5,}.*|[<>+-]{3,}\s*(SEARCH|REPLACE)\b.*")
# {(a marker, the part of a block it stands in): what is wrong with that}
_MISPLACED = {
    ("head", "search"): "a new SEARCH begins before the last block was closed",
    ("head", "replace"): "a new SEARCH begins before the last block was closed by >>>>>>> REPLACE",
    ("middle", "replace"): "a second ======= within one block, so its two parts are not clear",
    ("tail", "search"): "REPLACE ends a block that has no line ======= between its parts",
    ("tail", ""): "REPLACE ends a block that no line <<<<<<< SEARCH began",
}
_LINE = re.compile(
    r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+"
)  # not splitlines, which cuts at form feeds too


class PatchError(ValueError):
    """An edit does not apply; the message says which, why, and what stands there instead."""


@dataclass(frozen=True)
class Edit:
    """Replace the lines `search` by the lines `replace`: texts of whole lines.

    The newline of the last may lack. in_a_list: the whole block stood indented, as in a list, so
    that its indentation need not be the source's. within: lines that head the class or function it
    is in, outermost first; of several places they choose.
    """

    search: str
    replace: str
    in_a_list: bool = False
    within: tuple[str, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        return split_lines(self.search) == split_lines(self.replace)


@dataclass(frozen=True)
class Piece:
    """A part of a change, an edit or a whole file, and the lines of a text that say it.

    They are those from `start` to `stop` (0-based, exclusive). form: that of the change, in words.
    """

    start: int
    stop: int
    form: str
    change: Edit | str


def split_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends, cut where Python cuts a source."""
    return [line.rstrip("\r\n") for line in _LINE.findall(text)]


def join_lines(lines: Iterable[str]) -> str:
    """Return the text of whole lines; '' for none, which is not the same as an empty line."""
    return "".join(line + "\n" for line in lines)


def find_blocks(lines: Sequence[str]) -> list[Piece]:
    """Return the SEARCH/REPLACE blocks among the lines of a text; other lines are prose.

    Raises PatchError on a block that is cut or that can be read in two ways: to skip it would apply
    the others alone.
    """
    blocks: list[Piece] = []
    part, start, texts = "", 0, {}
    for number, line in enumerate(lines):
        marker = _marker(line, number)
        if marker == "head" and not part:
            part, start, texts = "search", number, {"search": [], "replace": []}
        elif marker == "middle" and part == "search":
            part = "replace"
        elif marker == "tail" and part == "replace":
            edit = _edit(lines[start], **texts)
            blocks.append(Piece(start, number + 1, "SEARCH/REPLACE blocks", edit))
            part = ""
        elif marker and (part or marker == "tail" and "REPLACE" in line.upper()):
            raise PatchError(f"line {number + 1} of the reply: {_MISPLACED[marker, part]}")
        elif part:
            texts[part].append(line)
    if part:
        raise PatchError("the last SEARCH/REPLACE block is not closed: was the reply cut off?")
    return blocks


def _marker(line: str, number: int) -> str:
    """Return head, middle or tail, "" for a line that is none.

    Raises PatchError on one that may be meant as one.
    """
    bare = line.strip(" \t*`")
    for name, pattern in _MARKERS.items():
        if pattern.fullmatch(bare):
            return name
    if _LIKE_A_MARKER.fullmatch(bare):
        raise PatchError(
            f"line {number + 1} of the reply: {bare[:60]!r} is no marker; a block has the lines "
            "'<<<<<<< SEARCH', '=======' and '>>>>>>> REPLACE' with nothing else on them"
        )
    return ""


def _edit(head: str, search: list[str], replace: list[str]) -> Edit:
    """Return the edit of a block; one that is indented with its markers loses that indentation."""
    blanks = indent(head)
    filled = [line for line in search + replace if line.strip()]
    in_a_list = bool(blanks) and all(line.startswith(blanks) for line in filled)
    if in_a_list:
        search = [line.removeprefix(blanks) if line.strip() else line for line in search]
        replace = [line.removeprefix(blanks) if line.strip() else line for line in replace]
    return Edit(join_lines(search), join_lines(replace), in_a_list)


def apply_edits(source: str, edits: Sequence[Edit]) -> str:
    """Return the source with all edits applied in turn; a block that is given twice is one edit,
    and one that changes nothing is passed over, whether its lines are there or not.

    Raises PatchError, and then nothing is applied.
    """
    rows = _LINE.findall(source)
    end = rows[0][len(rows[0].rstrip("\r\n")) :] or "\n" if rows else "\n"
    closed = not rows or rows[-1].endswith(("\r", "\n"))
    if not closed:
        rows[-1] += end
    for number, edit in enumerate(edits, 1):
        if edit not in edits[: number - 1] and not edit.changes_nothing:
            try:
                start, stop, lines = _place([row.rstrip("\r\n") for row in rows], edit)
            except PatchError as error:
                raise PatchError(f"edit {number} of {len(edits)}: {error}") from None
            rows[start:stop] = [line + end for line in lines]
    result = "".join(rows) if closed else "".join(rows).removesuffix(end)
    if result == source:
        raise PatchError("it changes nothing: the edits change nothing taken together")
    return result


def make_diff(old: str, new: str) -> str:
    """Return the unified diff from old to new, '' when they are equal; `git apply` takes it."""
    sides = [re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old, new)]  # lines as git sees them
    out = []
    for line in difflib.unified_diff(*sides, "a/train.py", "b/train.py"):
        out.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(out)


def _place(lines: list[str], edit: Edit) -> tuple[int, int, list[str]]:
    """Return where an edit begins and ends in the source's lines, and the lines to put there."""
    search, replace = split_lines(edit.search), split_lines(edit.replace)
    if not any(line.strip() for line in search):
        raise PatchError("the lines to find are empty; name the lines it goes next to")
    found = [] if edit.in_a_list else find_exact(lines, search)
    found = found or find_shifted(lines, search)
    if not found:
        search, replace = without_blank_edges(search, replace)
        found = find_shifted(lines, search)
    if not found and replace[:1] == search[:1] and (found := find_trimmed(lines, search)):
        replace = [lines[found[0].start], *replace[1:]]
    if not found and (found := find_bare(lines, search)):
        replace = with_comments(replace, lines[found[0].start : found[0].stop])
    if len(found) > 1 and edit.within:
        found = places_within(lines, found, edit.within) or found
    if not found:
        hint = nearest(lines, search)
        raise PatchError(f"the lines to find are not in the source; did you mean\n{hint}")
    if len(found) > 1:
        places = ", ".join(str(place.start + 1) for place in found[:5])
        raise PatchError(
            f"the lines to find stand {len(found)} times (lines {places}); add lines around them "
            "until they stand once"
        )
    (place,) = found
    new = [_shifted(line, place.less, place.more) for line in replace]
    _check_head(lines[place.start], new[0] if new else "")
    return place.start, place.stop, new


def _check_head(present: str, new: str) -> None:
    """Raise PatchError on a replacement that forgot its indentation.

    Python may take a method at column 0 for a function.
    """
    same = new.strip() == present.strip() and new.rstrip().endswith(":")
    if same and indent(new) != indent(present):
        raise PatchError(
            f"the replacement begins with the line {new.strip()!r} at another indentation than the "
            "source has it; copy its indentation or, if it is to move, let SEARCH and REPLACE "
            "begin with the line above"
        )


def _shifted(line: str, less: str, more: str) -> str:
    if not line.strip():
        return line
    if not line.startswith(less):
        raise PatchError(
            "the lines to find are indented deeper than in the source, and the replacement cannot "
            "be moved with them, since a line of it is indented less; copy the lines with their "
            "indentation"
        )
    return more + line.removeprefix(less)
