"""What a model adds to lines that it copies, taken off again.

In: the text of a reply, an edit of it, the present train.py. Out: the same without blanks and
characters that nobody sees, fences, line numbers, the signs of a diff, typographic quotes, tabs for
blanks. Of what stands in train.py to the letter nothing is taken.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from harness.search.patch import Edit, join_lines, split_lines

FENCE = re.compile(r"\s*(?:`{3,}|~{3,}).*")
_UNSEEN = {"Zs": " ", "Cf": ""}  # by category: blanks of other widths, marks without any
_TYPOGRAPHY = str.maketrans("“”„‟‘’‚‛−", "\"\"\"\"''''-")
_NUMBERED = re.compile(r"\s*\d+ ?[|:→\t] ?(.*)")  # "  52 | x = 1", "52: x = 1"
_PLACE = re.compile(r":(start|end)_line:\s*\d+|-{5,}")  # above the lines of a SEARCH


def plain_blanks(text: str) -> str:
    """The text with plain blanks: editors and chat pages put in others, which Python refuses."""
    return re.sub(r"[^\x00-\x7f]", lambda at: _UNSEEN.get(unicodedata.category(at[0]), at[0]), text)


def as_in_source(edit: Edit, source: str) -> Edit:
    """The edit without what its lines have and those of the source have not."""
    own = split_lines(source)
    if not any(FENCE.fullmatch(line) for line in own):
        edit = _unfenced(edit)
    if "\t" in edit.search and "\t" not in source:
        edit = _changed(edit, lambda line: re.sub(r"^[ \t]+", lambda at: at[0].expandtabs(4), line))
    there = {line.strip() for line in own}
    for taken_off in (_unplaced, _unnumbered, _unsigned, _plain_type):
        first = next((line for line in split_lines(edit.search) if line.strip()), "")
        if first.strip() in there:
            break
        edit = taken_off(edit)
    return edit


def _changed(edit: Edit, change: Callable[[str], str]) -> Edit:
    search, replacement = (
        join_lines(map(change, split_lines(text))) for text in (edit.search, edit.replace)
    )
    return replace(edit, search=search, replace=replacement)


def _unplaced(edit: Edit) -> Edit:
    search = itertools.dropwhile(_PLACE.fullmatch, split_lines(edit.search))
    return replace(edit, search=join_lines(search))


def _unnumbered(edit: Edit) -> Edit:
    return _without_margin(edit, _NUMBERED, _NUMBERED)


def _unsigned(edit: Edit) -> Edit:
    return _without_margin(edit, re.compile("-(.*)"), re.compile(r"\+(.*)"))


def _without_margin(edit: Edit, searched: re.Pattern[str], new: re.Pattern[str]) -> Edit:
    """The edit without what stands before all of its lines."""
    search, replacement = split_lines(edit.search), split_lines(edit.replace)
    pairs = [(searched, line) for line in search] + [(new, line) for line in replacement]
    if not all(margin.fullmatch(line) for margin, line in pairs if line.strip()):
        return edit
    bare = [margin.sub(r"\1", line) for margin, line in pairs]
    return replace(
        edit, search=join_lines(bare[: len(search)]), replace=join_lines(bare[len(search) :])
    )


def _plain_type(edit: Edit) -> Edit:
    return _changed(edit, lambda line: line.translate(_TYPOGRAPHY))


def _unfenced(edit: Edit) -> Edit:
    """Return the edit without fences at the edges of its two parts."""
    search, replacement = split_lines(edit.search), split_lines(edit.replace)
    bare = _without_fences(search)
    filled = [line for line in replacement if line.strip()]
    paired = len(filled) > 1 and FENCE.fullmatch(filled[0]) and FENCE.fullmatch(filled[-1])
    if bare != search or paired:
        replacement = _without_fences(replacement)
    return replace(edit, search=join_lines(bare), replace=join_lines(replacement))


def _without_fences(lines: list[str]) -> list[str]:
    below = _below_fence(lines)
    return _below_fence(below[::-1])[::-1]


def _below_fence(lines: list[str]) -> list[str]:
    """Return the lines below a fence that stands above all of them that are not blank."""
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    fenced = first is not None and FENCE.fullmatch(lines[first])
    return lines[first + 1 :] if fenced else lines
