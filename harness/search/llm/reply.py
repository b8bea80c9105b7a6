"""A model's reply: what it says about its idea, and the train.py that it asks for.

In: the text of a reply (without its reasoning), then the present train.py. Out: title, hypothesis,
category, expected delta and the change in one of three forms, SEARCH/REPLACE blocks, a unified diff
or the whole file; then the new train.py. What a model puts around these (prose, fences, markdown,
spellings of a header) is looked through. What can be read in two ways is refused: two ideas, two
forms, code left out by "...", a piece of a file. Nothing here ever returns the present train.py, or
a part of a change.
"""

import ast
import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.search.constants import BEGIN, END, keep_annotations
from harness.search.gate import MOST_BYTES, UNREADABLE
from harness.search.llm.copies import FENCE, as_in_source, plain_blanks
from harness.search.llm.headers import (
    Header,
    find_headers,
    header_values,
    read_category,
    read_delta,
)
from harness.search.llm.hunks import find_added_files, find_hunks
from harness.search.patch import Edit, Piece, apply_edits, find_blocks, split_lines

MOST_CHARACTERS = 1_000_000  # of a reply, fifteen times what max_output_tokens leaves room for
MOST_EDITS = 200
MOST_NAMED = 5  # ideas, in a message
_ANOTHER = re.compile(
    r"[\s>#*_\d.)-]{0,20}(?:or,? )?(?:alternatively\b"
    r"|(?:a |an |the )?(?:second|other|another|alternative|different) "
    r"(?:idea|option|proposal|approach|alternative|variant)\b"
    r"(?!\s+(?:would|could|might|may|is|was|that)\b))",
    re.IGNORECASE,
)
_WHOLE = (BEGIN, END, "def build_model(", "__main__")  # what every train.py has, no piece of one


class ReplyError(ValueError):
    """The reply cannot be used; the message tells the model why and what to send instead."""


@dataclass(frozen=True)
class Reply:
    """One idea. category: "" where no known one is named. change: edits, or the whole new file."""

    title: str
    hypothesis: str
    category: str
    expected_delta: float | None
    change: tuple[Edit, ...] | str


def parse_reply(text: str, before: str = "") -> Reply:
    """Return what a reply asks for. Raises ReplyError, or PatchError on a malformed block or diff.

    before: the model's last reply in the same chat: of one that only mends its change the header is
    there.
    """
    if len(text) > MOST_CHARACTERS:
        size = f"{len(text):,} characters, {MOST_CHARACTERS:,} are read"
        raise ReplyError(f"the reply has {size}: write less")
    lines = split_lines(plain_blanks(text))
    pieces = sorted(_pieces(lines), key=lambda piece: piece.start)
    prose = _without(lines, pieces)
    headers = find_headers(prose)
    first, last = _one_idea(headers, pieces, len(lines))
    pieces = [piece for piece in pieces if first <= piece.start < last]
    _check_form(pieces, prose)
    _check_alternatives(prose, pieces)
    said = header_values(prose, headers, first, last)
    if not said["title"]:
        earlier = split_lines(plain_blanks(before))
        said = header_values(earlier, find_headers(earlier), 0, len(earlier))
    if not said["title"]:
        raise ReplyError(
            "the reply names no idea: begin it with a line 'Title: ...' and one 'Hypothesis: ...'"
        )
    changes = list(dict.fromkeys(piece.change for piece in pieces))  # a block given twice is one
    wholes = [change for change in changes if isinstance(change, str)]
    if len(wholes) > 1:
        raise ReplyError("the reply holds two different whole files: send one")
    return Reply(
        said["title"],
        said["hypothesis"],
        read_category(said["category"]),
        read_delta(said["expected"]),
        wholes[0] if wholes else tuple(changes),
    )


def apply_reply(reply: Reply, source: str) -> str:
    """Return the train.py that a reply makes of the present one; it never returns source.

    Raises ReplyError or PatchError.
    """
    if isinstance(reply.change, str):
        changed = reply.change
        _check_size(changed)
        _check_elided({"the whole file": changed}, source)
        if split_lines(changed) == split_lines(source):
            raise ReplyError("the whole file is the present train.py: it changes nothing")
    else:
        changed = _apply_edits(reply.change, source)
    changed = keep_annotations(changed, source)
    if changed == source:
        raise ReplyError("it changes nothing but comments of the constants, which stay as they are")
    _check_python(changed)
    return changed


def _apply_edits(edits: Sequence[Edit], source: str) -> str:
    if len(edits) > MOST_EDITS:
        said = f"the reply holds {len(edits):,} edits, {MOST_EDITS} are applied"
        raise ReplyError(f"{said}: make one change, with fewer")
    _check_size("".join(edit.search for edit in edits))
    _check_size("".join(edit.replace for edit in edits))
    edits = [as_in_source(edit, source) for edit in edits]
    parts = {}
    for number, edit in enumerate(edits, 1):
        parts[f"edit {number}, SEARCH"] = edit.search
        parts[f"edit {number}, REPLACE"] = edit.replace
    _check_elided(parts, source)
    changed = apply_edits(source, edits)
    _check_size(changed)
    return changed


def _pieces(lines: Sequence[str]) -> list[Piece]:
    """Return all parts of changes; what is of one form is not searched for the next."""
    pieces = [piece for piece in find_added_files(lines) if _is_whole(piece.change)]
    for find in (find_blocks, find_hunks, _find_wholes):
        pieces += find(_without(lines, pieces))
    return pieces


def _without(lines: Sequence[str], pieces: Sequence[Piece]) -> list[str]:
    rest = list(lines)
    for piece in pieces:
        rest[piece.start : piece.stop] = [""] * (piece.stop - piece.start)
    return rest


def _find_wholes(lines: Sequence[str]) -> list[Piece]:
    """Return the whole files: between two fences or, in a reply without fences, below prose."""
    found, start = [], 0
    for number, line in enumerate([*lines, "```"]):
        if FENCE.fullmatch(line):
            if _is_whole("\n".join(lines[start:number])):
                begin = _first_of_file(lines, start, number)
                whole = "\n".join(lines[begin:number]).strip("\n") + "\n"
                found.append(Piece(begin, number, "a whole file", whole))
            start = number + 1
    return found


def _is_whole(text: str) -> bool:
    return all(part in text for part in _WHOLE)


def _first_of_file(lines: Sequence[str], start: int, stop: int) -> int:
    """Return where a file begins below prose: at the first line from which all is Python."""
    code = re.compile(r"\"\"\"|'''|from |import ")
    begins = (n for n in range(start, stop) if code.match(lines[n]) or n == start > 0)
    # Further down there is no prose before a file, only a file that is broken.
    for number in itertools.islice(begins, 20):
        text = "\n".join(lines[number:stop])
        # A file that is too long is refused, wherever it begins.
        if len(text) <= MOST_BYTES and _is_whole(text):
            try:
                ast.parse(text)
                return number
            except UNREADABLE:
                continue
    return start


def _one_idea(headers: Sequence[Header], pieces: Sequence[Piece], size: int) -> tuple[int, int]:
    """Return the lines, from and to, of the one idea that comes with a change.

    Raises ReplyError when two do. Ideas begin at titles that differ or, in a reply without titles,
    at numbered ideas; two numbered ideas with a change each are two under one title too, and so are
    two changes that differ under one title given twice.
    """
    _check_draft(headers, pieces)
    bounds = 0, size
    for key in ("idea", "title"):
        heads = [header for header in headers if header.key == key]
        if not heads or not pieces:
            continue
        starts = [0, *(header.line for header in heads[1:]), size]
        changes: dict[int, set[Edit | str]] = {}  # below which head
        for piece in pieces:
            number = bisect.bisect_right(starts, piece.start) - 1
            changes.setdefault(number, set()).add(piece.change)
        names = [heads[number].value for number in changes]
        if len({name.casefold() for name in names}) > 1:
            shown = " and ".join(repr(name[:60]) for name in names[:MOST_NAMED])
            said = f"the reply holds {len(names)} ideas, {shown}"
            raise ReplyError(f"{said}: send one, the better one, alone")
        first = min(changes)
        if any(made != changes[first] for made in changes.values()):
            raise ReplyError(
                f"the reply gives {names[0][:60]!r} {len(names)} times, with a different change "
                "each time: send the last word on it alone"
            )
        several = len({header.value.casefold() for header in heads}) > 1
        bounds = (starts[first], starts[first + 1]) if several else (0, size)
    return bounds


def _check_draft(headers: Sequence[Header], pieces: Sequence[Piece]) -> None:
    """Raise ReplyError when changes stand above the title and others below it."""
    heads = (header for key in ("title", "idea") for header in headers if header.key == key)
    first = next(heads, None)
    if first is None:
        return
    above = {piece.change for piece in pieces if piece.start < first.line}
    below = {piece.change for piece in pieces if piece.start > first.line}
    if above and below - above:
        raise ReplyError(
            f"blocks stand above the line {first.value[:60]!r} and others below it, so that nobody "
            "can tell whether the first ones are a draft: send one change, complete, below the "
            "four lines"
        )


def _check_alternatives(prose: Sequence[str], pieces: Sequence[Piece]) -> None:
    """Raise ReplyError when a line between two changes says that another idea follows."""
    for line in prose[pieces[0].stop : pieces[-1].start]:
        if _ANOTHER.match(line):
            raise ReplyError(
                f"the line {line.strip()[:60]!r} between two blocks reads as if a second idea "
                "followed: send one, the better one, alone"
            )


def _check_form(pieces: Sequence[Piece], prose: Sequence[str]) -> None:
    forms = list(dict.fromkeys(piece.form for piece in pieces))
    if len(forms) > 1:
        said = f"the reply gives its change as {' and as '.join(forms)}"
        raise ReplyError(f"{said}: give it once, as SEARCH/REPLACE blocks")
    if not forms:
        text = "\n".join(prose)
        lacking = [part for part in _WHOLE if part not in text]
        whole = ""
        if len(lacking) < len(_WHOLE):
            whole = f" (of a whole train.py this one lacks {', '.join(map(repr, lacking))})"
        raise ReplyError(
            f"the reply holds no change{whole}: give it as SEARCH/REPLACE blocks, or as the whole "
            "train.py from its docstring to its last line; a piece of it in a fence does not say "
            "where it goes"
        )


_SIGN = r"(#|//|\[|<|\()\s*"  # what a comment or a placeholder begins with
_DOTS = r"(\.{3}|…)"
_LEFT_OUT = r"\b(rest|remain\w*|existing|previous|other|unchanged|same|code|omitted|here)\b"
_KEPT = (
    r"\b(unchanged|the same|same as|as before|as is|omitted|remains?|stays?|for brevity"
    r"|not changed|no changes?)\b"
)
_ELIDED = re.compile(
    rf"{_DOTS}|{_SIGN}{_DOTS}[\s\])>*-]*"  # dots, alone or as a comment
    rf"|({_SIGN})?{_DOTS}.*{_LEFT_OUT}.*"
    rf"|{_SIGN}("
    rf".*{_LEFT_OUT}.*{_DOTS}\W*"
    r"|\(?(the )?(rest|remainder|remaining|everything else|other \w+|existing|previous|original)\b"
    rf".*{_KEPT}.*"
    r"|\(?(the )?(rest|remainder) of (the |this )?(\w+ )?"
    r"(code|file|class|function|method|module|script|block|loop|model)\b.*"
    r"|\(?(existing|previous|original|unchanged) (code|lines|implementation)\b.{0,20}"
    r"|\W*(unchanged|no changes?|same as (before|above))\W*"
    r")",
    re.IGNORECASE,
)


def _check_elided(parts: dict[str, str], source: str) -> None:
    """Raise ReplyError on a line, not one of the source, that stands for code left out.

    parts: {where: text}.
    """
    own = {line.strip() for line in split_lines(source)}
    for where, text in parts.items():
        for line in split_lines(text):
            bare = line.strip()
            # A line that says "and so on" is short; the pattern takes its time over a long one.
            if len(bare) < 200 and bare not in own and _ELIDED.fullmatch(bare):
                raise ReplyError(
                    f"{where}: the line {bare[:80]!r} stands for code left out, which cannot be "
                    "put back for sure: write every line, or make several smaller blocks, each "
                    "with only the lines around its change"
                )


def _check_size(source: str) -> None:
    """Raise ReplyError on what is too long for the gate: reading it would take minutes."""
    size = len(source.encode(errors="replace"))
    if size > MOST_BYTES:
        raise ReplyError(
            f"the changed train.py would have {size:,} bytes or more, and {MOST_BYTES:,} are "
            "allowed: compute what is written out"
        )


def _check_python(source: str) -> None:
    try:
        ast.parse(source)
    except (RecursionError, MemoryError):
        raise ReplyError(
            "the changed train.py would nest something too deeply to be read: split long "
            "expressions over statements"
        ) from None
    except UNREADABLE as error:
        number = getattr(error, "lineno", None) or 0
        first = max(0, number - 3)
        lines = split_lines(source)[first : number + 1]
        shown = "".join(f"\n{n:5d} | {line[:160]}" for n, line in enumerate(lines, first + 1))
        why = f"{getattr(error, 'msg', error)} at line {number}"
        raise ReplyError(f"the changed train.py would not be valid Python: {why}{shown}") from None
