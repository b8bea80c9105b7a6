"""Where the lines that an edit searches stand in a source, and what stands there when they do not.

In: the lines of a source and those searched. Out: the places; or the likeliest stretch, as a
proposer needs to see it. Nothing is decided here: two places are two places.
"""

import difflib
import re
from typing import NamedTuple

MOST_SHOWN = 40  # lines of the source in a message
_WORDS = re.compile(r"""\"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\w+|[^\w\s]""")


class Place(NamedTuple):
    """The lines from start up to stop, and how their indentation differs from the searched ones'.

    less: blanks to take from the beginning of each line; more: blanks to put there; one is "".
    """

    start: int
    stop: int
    less: str = ""
    more: str = ""


def find_exact(lines: list[str], search: list[str]) -> list[Place]:
    size = len(search)
    starts = range(len(lines) - size + 1)
    return [Place(i, i + size) for i in starts if lines[i : i + size] == search]


def find_shifted(lines: list[str], search: list[str]) -> list[Place]:
    """Return the places that match but for trailing blanks and one common shift."""
    bare, size = [line.strip() for line in search], len(search)
    stripped = [line.strip() for line in lines]
    found = []
    for start in range(len(lines) - size + 1):
        if stripped[start : start + size] == bare:
            pairs = zip(lines[start : start + size], search, strict=True)
            filled = [(line, wanted) for line, wanted in pairs if wanted.strip()]
            found += _shifted_places(start, start + size, filled)
    return found


def find_trimmed(lines: list[str], search: list[str]) -> list[Place]:
    """Return the places that match but for the indentation of the first line, which has none."""
    if len(search) < 2 or indent(search[0]):
        return []
    rest = [place for place in find_exact(lines, search[1:]) if place.start]
    wanted = search[0].strip()
    return [
        Place(place.start - 1, place.stop)
        for place in rest
        if lines[place.start - 1].strip() == wanted
    ]


def find_bare(lines: list[str], search: list[str]) -> list[Place]:
    """Return the one place that matches but for comments, blanks, blank lines and one common shift.

    Blanks within a text in quotes count.
    """
    present = [(i, code) for i, line in enumerate(lines) if (code := without_comment(line))]
    wanted = [code for line in search if (code := without_comment(line))]
    words, wanted_words = [code_words(code) for _, code in present], [*map(code_words, wanted)]
    found = []
    for first in range(len(present) - len(wanted) + 1) if wanted else ():
        if words[first : first + len(wanted)] == wanted_words:
            stretch = present[first : first + len(wanted)]
            pairs = [(code, want) for (_, code), want in zip(stretch, wanted, strict=True)]
            found += _shifted_places(stretch[0][0], stretch[-1][0] + 1, pairs)
    return found if len(found) == 1 else []


def _shifted_places(start: int, stop: int, pairs: list[tuple[str, str]]) -> list[Place]:
    """Return the place, if one shift turns the indentation of all searched lines into theirs."""
    shifts = {_shift(indent(line), indent(wanted)) for line, wanted in pairs}
    if len(shifts) != 1 or None in shifts:
        return []
    return [Place(start, stop, *shifts.pop())]


def _shift(present: str, wanted: str) -> tuple[str, str] | None:
    """Return what to take from the blanks `wanted` and to put there; None if no shift does."""
    if present.endswith(wanted):
        return "", present.removesuffix(wanted)
    return (wanted.removesuffix(present), "") if wanted.endswith(present) else None


def places_within(lines: list[str], found: list[Place], heads: tuple[str, ...]) -> list[Place]:
    """Return the places in the block that the lines `heads` head, one inside the other.

    [] where there is no such block, or another.
    """
    start, stop = 0, len(lines)
    for head in heads:
        first = [i for i in range(start, stop) if lines[i].strip().startswith(head.strip())]
        if len(first) != 1:
            return []
        start, margin = first[0], len(indent(lines[first[0]]))
        after = (i for i in range(start + 1, stop) if lines[i].strip())
        stop = next((i for i in after if len(indent(lines[i])) <= margin), stop)
    return [place for place in found if start <= place.start < stop]


def without_comment(line: str) -> str:
    """A line's code, without its comment and the blanks at its end.

    Quotes are told; those over several lines are not.
    """
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote and line[place - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character == "#":
            return line[:place].rstrip()
    return line.rstrip()


def code_words(line: str) -> list[str]:
    """The words and signs of a line's code, whatever blanks are between them."""
    return _WORDS.findall(without_comment(line))


def with_comments(replace: list[str], present: list[str]) -> list[str]:
    """The lines to put there, with the comments and blanks of those that stand there already."""
    known = {words: line.strip() for line in present if (words := tuple(code_words(line)))}

    def kept(line: str) -> str:
        commented = without_comment(line) != line.rstrip()
        there = "" if commented else known.get(tuple(code_words(line)), "")
        return indent(line) + there if there else line

    return [kept(line) for line in replace]


def without_blank_edges(search: list[str], replace: list[str]) -> tuple[list[str], list[str]]:
    """Return both without the blank lines that the search begins and ends with."""
    filled = [i for i, line in enumerate(search) if line.strip()]
    before, after = filled[0], len(search) - 1 - filled[-1]
    first, stop = 0, len(replace)
    while first < min(before, stop) and not replace[first].strip():
        first += 1
    while stop > max(first, len(replace) - after) and not replace[stop - 1].strip():
        stop -= 1
    return search[filled[0] : filled[-1] + 1], replace[first:stop]


def nearest(lines: list[str], search: list[str]) -> str:
    """Return the source most like the searched lines, numbered, and where the two part."""
    start = _likeliest(lines, search)
    first, stop = max(0, start - 1), min(len(lines), start + len(search) + 1)
    near = lines[first:stop][:MOST_SHOWN]
    shown = [f"{number:5d} | {line[:200]}" for number, line in enumerate(near, first + 1)]
    for number, wanted in enumerate(search, start):
        if 0 <= number < len(lines) and lines[number].rstrip() != wanted.rstrip():
            shown += [f"they part at line {number + 1}:", f"  source {lines[number][:200]!r}"]
            shown += [f"  edit   {wanted[:200]!r}"]
            break
    return "\n".join(shown)


def _likeliest(lines: list[str], search: list[str]) -> int:
    """Return where the searched lines would begin.

    By a name that they define, by their longest run of lines that are there or, with none, by the
    longest line, which says most.
    """
    stripped, bare = [line.strip() for line in lines], [line.strip() for line in search]
    named = {name: number for number, line in enumerate(lines) if (name := _name_of(line))}
    for number, line in enumerate(search):
        if (name := _name_of(line)) in named:
            return named[name] - number
    matcher = difflib.SequenceMatcher(lambda line: not line, stripped, bare, autojunk=False)
    run = matcher.find_longest_match()
    if run.size and any(bare[run.b : run.b + run.size]):
        return run.a - run.b
    anchor = max(range(len(bare)), key=lambda i: len(bare[i]))
    likeness = [difflib.SequenceMatcher(None, bare[anchor], line) for line in stripped]
    scores = [match.ratio() if match.real_quick_ratio() > 0.3 else 0.0 for match in likeness]
    return max(range(len(lines)), key=scores.__getitem__, default=0) - anchor


def _name_of(line: str) -> str:
    """What a line defines: a constant, a function or a class; "" for other lines."""
    found = re.match(r"\s*(?:(?:async\s+)?def|class)\s+(\w+)|([A-Z][A-Z0-9_]*)\s*=[^=]", line)
    return found[1] or found[2] if found else ""


def indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
