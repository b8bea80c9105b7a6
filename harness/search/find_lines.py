"""Where the lines that an edit searches stand in a source, and what stands there instead when they do not.

In: the lines of a source and those searched. Out: the places, each the first line's index and the shift of indentation between the
two; or the likeliest stretch, as a proposer needs to see it. Nothing is decided here: two places are two places.
"""

import difflib

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
    run = difflib.SequenceMatcher(lambda line: not line, stripped, bare, autojunk=False).find_longest_match()
    if run.size and any(bare[run.b : run.b + run.size]):
        return run.a - run.b
    anchor = max(range(len(bare)), key=lambda i: len(bare[i]))  # the longest line says most
    likeness = [difflib.SequenceMatcher(None, bare[anchor], line) for line in stripped]
    scores = [match.ratio() if match.real_quick_ratio() > 0.3 else 0.0 for match in likeness]
    return max(range(len(lines)), key=scores.__getitem__, default=0) - anchor


def indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
