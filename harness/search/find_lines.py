"""Where the lines that an edit searches stand in a source, and what stands there instead when they do not.

In: the lines of a source and those searched. Out: the places, each the first line's index and the shift of indentation between the
two; or the likeliest stretch, as a proposer needs to see it. Nothing is decided here: two places are two places.
"""

import difflib
import re

MOST_SHOWN = 40  # lines of the source in a message

Shift = tuple[str, str]  # blanks to take from the beginning of each line, blanks to put there; one of them is ""


def find_exact(lines: list[str], search: list[str]) -> list[tuple[int, Shift]]:
    size = len(search)
    return [(i, ("", "")) for i in range(len(lines) - size + 1) if lines[i : i + size] == search]


def find_shifted(lines: list[str], search: list[str]) -> list[tuple[int, Shift]]:
    """Return the places that match but for trailing blanks and one shift common to all lines that are not blank."""
    bare, size = [line.strip() for line in search], len(search)
    stripped = [line.strip() for line in lines]
    found = []
    for start in range(len(lines) - size + 1):
        if stripped[start : start + size] == bare:
            pairs = zip(lines[start : start + size], search, strict=True)
            shifts = {_shift(indent(line), indent(wanted)) for line, wanted in pairs if wanted.strip()}
            if len(shifts) == 1 and None not in shifts:
                found.append((start, shifts.pop()))
    return found


def find_trimmed(lines: list[str], search: list[str]) -> list[tuple[int, Shift]]:
    """Return the places that match to the letter but for the indentation of the first line, which has none."""
    if len(search) < 2 or indent(search[0]):
        return []
    return [
        (i - 1, ("", "")) for i, _ in find_exact(lines, search[1:]) if i and lines[i - 1].strip() == search[0].strip()
    ]


def find_bare(lines: list[str], search: list[str]) -> list[tuple[int, int, Shift]]:
    """Return the places that match but for comments, blank lines and one common shift: first line, last line + 1, shift."""
    present = [(number, code) for number, line in enumerate(lines) if (code := without_comment(line))]
    wanted = [code for line in search if (code := without_comment(line))]
    found = []
    for start in range(len(present) - len(wanted) + 1) if wanted else ():
        pairs = list(zip(present[start : start + len(wanted)], wanted, strict=True))
        if all(code.strip() == want.strip() for (_, code), want in pairs):
            shifts = {_shift(indent(code), indent(want)) for (_, code), want in pairs}
            if len(shifts) == 1 and None not in shifts:
                found.append((pairs[0][0][0], pairs[-1][0][0] + 1, shifts.pop()))
    return found


def places_within(lines: list[str], found: list[tuple[int, Shift]], heads: tuple[str, ...]) -> list[tuple[int, Shift]]:
    """Return the places in the block that the lines `heads` head, one inside the other; [] where there is no such block, or another."""
    start, stop = 0, len(lines)
    for head in heads:
        first = [i for i in range(start, stop) if lines[i].strip().startswith(head.strip())]
        if len(first) != 1:
            return []
        start, margin = first[0], len(indent(lines[first[0]]))
        stop = next((i for i in range(start + 1, stop) if lines[i].strip() and len(indent(lines[i])) <= margin), stop)
    return [place for place in found if start <= place[0] < stop]


def without_comment(line: str) -> str:
    """A line's code, without its comment and the blanks at its end. Quotes are told; those over several lines are not."""
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote and line[place - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character == "#":
            return line[:place].rstrip()
    return line.rstrip()


def _shift(present: str, wanted: str) -> Shift | None:
    """Return what turns the indentation `wanted` into the one that is present; None if no shift does."""
    if present.endswith(wanted):
        return "", present.removesuffix(wanted)
    return (wanted.removesuffix(present), "") if wanted.endswith(present) else None


def without_blank_edges(search: list[str], replace: list[str]) -> tuple[list[str], list[str]]:
    """Return both without the blank lines that the search begins and ends with, of which the source has none."""
    filled = [i for i, line in enumerate(search) if line.strip()]
    before, after = filled[0], len(search) - 1 - filled[-1]
    first, stop = 0, len(replace)
    while first < min(before, stop) and not replace[first].strip():
        first += 1
    while stop > max(first, len(replace) - after) and not replace[stop - 1].strip():
        stop -= 1
    return search[filled[0] : filled[-1] + 1], replace[first:stop]


def nearest(lines: list[str], search: list[str], context: int = 1) -> str:
    """Return the stretch of source most like the searched lines, with line numbers, and where the two part."""
    start = _likeliest(lines, search)
    first, stop = max(0, start - context), min(len(lines), start + len(search) + context)
    shown = [f"{number:5d} | {line[:200]}" for number, line in enumerate(lines[first:stop][:MOST_SHOWN], first + 1)]
    for number, wanted in enumerate(search, start):
        present = lines[number] if 0 <= number < len(lines) else None
        if present is not None and present.rstrip() != wanted.rstrip():
            return "\n".join(
                [
                    *shown,
                    f"they part at line {number + 1}:",
                    f"  source {present[:200]!r}",
                    f"  edit   {wanted[:200]!r}",
                ]
            )
    return "\n".join(shown)


def _likeliest(lines: list[str], search: list[str]) -> int:
    """Return where the searched lines would begin: by their longest run of lines that are there or, with none, by the longest line."""
    stripped, bare = [line.strip() for line in lines], [line.strip() for line in search]
    named = {name: number for number, line in enumerate(lines) if (name := _name_of(line))}
    for number, line in enumerate(search):
        if (name := _name_of(line)) in named and name:
            return named[name] - number
    run = difflib.SequenceMatcher(lambda line: not line, stripped, bare, autojunk=False).find_longest_match()
    if run.size and any(bare[run.b : run.b + run.size]):
        return run.a - run.b
    anchor = max(range(len(bare)), key=lambda i: len(bare[i]))  # the longest line says most
    likeness = [difflib.SequenceMatcher(None, bare[anchor], line) for line in stripped]
    scores = [match.ratio() if match.real_quick_ratio() > 0.3 else 0.0 for match in likeness]
    return max(range(len(lines)), key=scores.__getitem__, default=0) - anchor


def _name_of(line: str) -> str:
    """What a line defines: a constant, a function or a class; "" for other lines."""
    found = re.match(r"\s*(?:(?:async\s+)?def|class)\s+(\w+)|([A-Z][A-Z0-9_]*)\s*=[^=]", line)
    return found[1] or found[2] if found else ""


def indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
