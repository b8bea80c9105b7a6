"""A model's reply: what it says about its idea, and the train.py that it asks for.

In: the text of a reply (without its reasoning), then the present train.py. Out: title, hypothesis, category, expected delta and
the change in one of three forms, SEARCH/REPLACE blocks, a unified diff or the whole file; then the new train.py. What a model
puts around these (prose, fences, markdown, spellings of a header) is looked through. What can be read in two ways is refused:
two ideas, two forms, code left out by "...", a piece of a file. Nothing here ever returns the present train.py, or a part of a change.
"""

import ast
import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields

from harness.search.constants import BEGIN, END, keep_annotations
from harness.search.gate import MOST_BYTES, UNREADABLE
from harness.search.llm.headers import Header, find_headers, header_values, read_category, read_delta
from harness.search.llm.hunks import find_added_files, find_hunks
from harness.search.patch import Edit, apply_edits, find_blocks, join_lines, split_lines

MOST_CHARACTERS = 1_000_000  # of a reply, fifteen times what max_output_tokens leaves room for
MOST_EDITS = 200
MOST_NAMED = 5  # ideas, in a message
FENCE = re.compile(r"\s*(?:`{3,}|~{3,}).*")
_ANOTHER = re.compile(
    r"[\s>#*_\d.)-]{0,20}(?:or,? )?(?:alternatively\b|(?:a |an |the )?(?:second|other|another|alternative|different) "
    r"(?:idea|option|proposal|approach|alternative|variant)\b(?!\s+(?:would|could|might|may|is|was|that)\b))",
    re.IGNORECASE,
)
_WHOLE = (BEGIN, END, "def build_model(", "__main__")  # what every train.py has, and no piece of one


class ReplyError(ValueError):
    """The reply cannot be used; the message tells the model why and what to send instead."""


@dataclass(frozen=True)
class Reply:
    """One idea. category: '' where none of the known ones is named. Either edits or whole is None."""

    title: str
    hypothesis: str
    category: str
    expected_delta: float | None
    edits: tuple[Edit, ...] | None
    whole: str | None


@dataclass(frozen=True)
class _Piece:
    """A part of a change and where in the reply it stands."""

    start: int
    stop: int
    form: str
    edit: Edit | None = None
    whole: str | None = None

    @property
    def change(self) -> Edit | str | None:
        return self.edit or self.whole


def parse_reply(text: str, before: str = "") -> Reply:
    """Return what a reply asks for. Raises ReplyError, or PatchError on a malformed block or diff.

    before: the model's last reply in the same chat: of one that only mends its change the header is there.
    """
    if len(text) > MOST_CHARACTERS:
        raise ReplyError(f"the reply has {len(text):,} characters, {MOST_CHARACTERS:,} are read: write less")
    lines = split_lines(_plain_blanks(text))
    pieces = sorted(_pieces(lines), key=lambda piece: piece.start)
    prose = _without(lines, pieces)
    headers = find_headers(prose)
    first, last = _one_idea(headers, pieces, len(lines))
    pieces = [piece for piece in pieces if first <= piece.start < last]
    _check_form(pieces, prose)
    _check_alternatives(prose, pieces)
    said = header_values(prose, [header for header in headers if first <= header.line < last], first, last)
    earlier = split_lines(_plain_blanks(before))
    said = said if said["title"] else header_values(earlier, find_headers(earlier), 0, len(earlier))
    if not said["title"]:
        raise ReplyError("the reply names no idea: begin it with a line 'Title: ...' and one 'Hypothesis: ...'")
    wholes = {piece.whole for piece in pieces if piece.whole is not None}
    if len(wholes) > 1:
        raise ReplyError("the reply holds two different whole files: send one")
    return Reply(
        said["title"],
        said["hypothesis"],
        read_category(said["category"]),
        read_delta(said["expected"]),
        None if wholes else tuple(piece.edit for piece in pieces if piece.edit),
        wholes.pop() if wholes else None,
    )


def _plain_blanks(text: str) -> str:
    """The text with one kind of blank, and without characters of no width: Python takes neither, and editors and chat pages put them in."""
    return re.sub("[\u200b\u2060\ufeff]", "", re.sub("[\u00a0\u2000-\u200a\u202f\u205f\u3000]", " ", text))


def apply_reply(reply: Reply, source: str) -> str:
    """Return the train.py that a reply makes of the present one. Raises ReplyError or PatchError; it never returns source."""
    given = list(dict.fromkeys(reply.edits or ()))  # a block given twice is one
    if len(given) > MOST_EDITS:
        raise ReplyError(f"the reply holds {len(given):,} edits, {MOST_EDITS} are applied: make one change, with fewer")
    for text in (reply.whole or "", "".join(edit.search for edit in given), "".join(edit.replace for edit in given)):
        _check_size(text)
    if reply.whole is not None:
        _check_elided(reply.whole, source, "the whole file")
        changed = reply.whole
        if split_lines(changed) == split_lines(source):
            raise ReplyError("the whole file is the present train.py: it changes nothing")
    else:
        edits = [_unfenced(edit, source) for edit in given]
        for number, edit in enumerate(edits, 1):
            _check_elided(edit.search, source, f"edit {number}, SEARCH")
            _check_elided(edit.replace, source, f"edit {number}, REPLACE")
        changed = apply_edits(source, edits)
        _check_size(changed)
    changed = keep_annotations(changed, source)
    if changed == source:
        raise ReplyError("it changes nothing but comments of the constants, which stay as they are")
    _check_python(changed)
    return changed


def _pieces(lines: Sequence[str]) -> list[_Piece]:
    """Return all parts of changes in a reply, in the order of the forms: what is one form's is not searched for the next."""
    added = [_Piece(start, stop, "a whole file", whole=text) for start, stop, text in find_added_files(lines)]
    pieces = [piece for piece in added if _is_whole(split_lines(piece.whole))]
    for form, find in (("SEARCH/REPLACE blocks", find_blocks), ("a diff", find_hunks)):
        pieces += [_Piece(b.start, b.stop, form, edit=b.edit) for b in find(_without(lines, pieces))]
    return pieces + _find_wholes(_without(lines, pieces))


def _without(lines: Sequence[str], pieces: Sequence[_Piece]) -> list[str]:
    rest = list(lines)
    for piece in pieces:
        rest[piece.start : piece.stop] = [""] * (piece.stop - piece.start)
    return rest


def _find_wholes(lines: Sequence[str]) -> list[_Piece]:
    """Return the whole files: each stands alone between two fences, or below the prose of a reply without fences."""
    found, start = [], 0
    for number, line in enumerate([*lines, "```"]):
        if FENCE.fullmatch(line):
            if _is_whole(lines[start:number]):
                begin = _first_of_file(lines, start, number)
                found.append(_Piece(begin, number, "a whole file", whole=_whole(lines[begin:number])))
            start = number + 1
    return found


def _is_whole(lines: Sequence[str]) -> bool:
    text = "\n".join(lines)
    return all(part in text for part in _WHOLE)


def _first_of_file(lines: Sequence[str], start: int, stop: int) -> int:
    """Return where a file begins that prose may stand above: at the first line of code from which all below is Python."""
    begins = (n for n in range(start, stop) if re.match(r"\"\"\"|'''|from |import ", lines[n]) or n == start > 0)
    for number in itertools.islice(
        begins, 20
    ):  # further down there is no prose before a file, only a file that is broken
        text = "\n".join(lines[number:stop])
        if len(text) <= MOST_BYTES and _is_whole(lines[number:stop]):  # a longer one is refused, wherever it begins
            try:
                ast.parse(text)
                return number
            except UNREADABLE:
                continue
    return start


def _whole(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip("\n") + "\n"


def _one_idea(headers: Sequence[Header], pieces: Sequence[_Piece], size: int) -> tuple[int, int]:
    """Return the lines, from and to, of the one idea that comes with a change. Raises ReplyError when two do.

    Ideas begin at titles that differ or, in a reply without titles, at numbered ideas; two numbered ideas with a change each are two
    under one title too, and so are two changes that differ under one title given twice.
    """
    bounds = 0, size
    _check_draft(headers, pieces)
    for key in ("idea", "title"):
        heads = [header for header in headers if header.key == key]
        starts = [0, *(header.line for header in heads[1:]), size]
        spans = zip(heads, starts, starts[1:], strict=False)
        changing = [(*span, made) for span in spans if (made := _made(pieces, *span[1:]))]
        names = list(dict.fromkeys(head.value.casefold() for head, *_ in changing))
        if len(names) > 1:
            said = " and ".join(repr(header.value[:60]) for header, *_ in changing[:MOST_NAMED])
            raise ReplyError(f"the reply holds {len(changing)} ideas, {said}: send one, the better one, alone")
        if len({made for *_, made in changing}) > 1:
            raise ReplyError(
                f"the reply gives {changing[0][0].value[:60]!r} {len(changing)} times, with a different change each time: send the last "
                "word on it alone"
            )
        titled = any(header.key == "title" for header in headers)
        if changing and len({head.value.casefold() for head in heads}) > 1 and (key == "title" or not titled):
            bounds = changing[0][1:3]
    return bounds


def _check_draft(headers: Sequence[Header], pieces: Sequence[_Piece]) -> None:
    """Raise ReplyError when changes stand above the title and others below it: was the first a draft, or a part?"""
    first = next((header for key in ("title", "idea") for header in headers if header.key == key), None)
    if first is None:
        return
    above = {piece.change for piece in pieces if piece.start < first.line}
    below = {piece.change for piece in pieces if piece.start > first.line}
    if above and below - above:
        raise ReplyError(
            f"blocks stand above the line {first.value[:60]!r} and others below it, so that nobody can tell whether the first "
            "ones are a draft: send one change, complete, below the four lines"
        )


def _check_alternatives(prose: Sequence[str], pieces: Sequence[_Piece]) -> None:
    """Raise ReplyError when a line between two changes says that what follows is another idea."""
    for number in range(pieces[0].stop, pieces[-1].start):
        if _ANOTHER.match(prose[number]):
            raise ReplyError(
                f"the line {prose[number].strip()[:60]!r} between two blocks reads as if a second idea followed: send one, the better one, alone"
            )


def _made(pieces: Sequence[_Piece], start: int, stop: int) -> frozenset[Edit | str | None]:
    """Return the changes that stand from one line up to another."""
    first, last = (bisect.bisect_left(pieces, line, key=lambda piece: piece.start) for line in (start, stop))
    return frozenset(piece.change for piece in pieces[first:last])


def _check_form(pieces: Sequence[_Piece], prose: Sequence[str]) -> None:
    forms = list(dict.fromkeys(piece.form for piece in pieces))
    if len(forms) > 1:
        raise ReplyError(
            f"the reply gives its change as {' and as '.join(forms)}: give it once, as SEARCH/REPLACE blocks"
        )
    if not forms:
        text = "\n".join(prose)
        lacking = [part for part in _WHOLE if part not in text]
        whole = (
            f" (of a whole train.py this one lacks {', '.join(map(repr, lacking))})"
            if len(lacking) < len(_WHOLE)
            else ""
        )
        raise ReplyError(
            f"the reply holds no change{whole}: give it as SEARCH/REPLACE blocks, or as the whole train.py from its docstring to its last "
            "line; a piece of it in a fence does not say where it goes"
        )


def _unfenced(edit: Edit, source: str) -> Edit:
    """Return the edit without fences at the edges of its two parts, unless the source has such lines itself."""
    if any(FENCE.fullmatch(line) for line in split_lines(source)):
        return edit
    search, replace = split_lines(edit.search), split_lines(edit.replace)
    bare = _without_fences(search)
    filled = [line for line in replace if line.strip()]
    paired = len(filled) > 1 and all(FENCE.fullmatch(line) for line in (filled[0], filled[-1]))
    if bare != search or paired:
        replace = _without_fences(replace)
    return replace_fields(edit, search=join_lines(bare), replace=join_lines(replace))


def _without_fences(lines: list[str]) -> list[str]:
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if filled and FENCE.fullmatch(lines[filled[0]]):
        lines = lines[filled[0] + 1 :]
        filled = [i for i, line in enumerate(lines) if line.strip()]
    if filled and FENCE.fullmatch(lines[filled[-1]]):
        lines = lines[: filled[-1]]
    return lines


_LEFT_OUT = r"\b(rest|remain\w*|existing|previous|other|unchanged|same|code|omitted|here)\b"
_KEPT = r"\b(unchanged|the same|same as|as before|as is|omitted|remains?|stays?|for brevity|not changed|no changes?)\b"
_ELIDED = re.compile(
    r"\.{3}|…|(#|//|\[|<|\()\s*(\.{3}|…)[\s\])>*-]*"  # dots, alone or as a comment
    rf"|((#|//|\[|<|\()\s*)?(\.{{3}}|…).*{_LEFT_OUT}.*"
    r"|(#|//|\[|<|\()\s*("
    rf".*{_LEFT_OUT}.*(\.{{3}}|…)\W*"
    rf"|\(?(the )?(rest|remainder|remaining|everything else|other \w+|existing|previous|original)\b.*{_KEPT}.*"
    r"|\(?(the )?(rest|remainder) of (the |this )?(\w+ )?(code|file|class|function|method|module|script|block|loop|model)\b.*"
    r"|\(?(existing|previous|original|unchanged) (code|lines|implementation)\b.{0,20}"
    r"|\W*(unchanged|no changes?|same as (before|above))\W*"
    r")",
    re.IGNORECASE,
)


def _check_elided(text: str, source: str, where: str) -> None:
    """Raise ReplyError on a line that stands for code left out; one that the source has is a line like any other."""
    own = {line.strip() for line in split_lines(source)}
    for line in split_lines(text):
        bare = line.strip()
        short = len(bare) < 200  # a line that says "and so on" is; the pattern takes its time over a long one
        if short and _ELIDED.fullmatch(bare) and bare not in own:
            raise ReplyError(
                f"{where}: the line {bare[:80]!r} stands for code left out, which cannot be put back for sure: write every line, or make "
                "several smaller blocks, each with only the lines around its change"
            )


def _check_size(source: str) -> None:
    """Raise ReplyError on what the gate would refuse as too long, before anything reads it: that would take minutes."""
    size = len(source.encode(errors="replace"))
    if size > MOST_BYTES:
        raise ReplyError(
            f"the changed train.py would have {size:,} bytes or more, and {MOST_BYTES:,} are allowed: compute what is written out"
        )


def _check_python(source: str) -> None:
    try:
        ast.parse(source)
    except (RecursionError, MemoryError):
        raise ReplyError(
            "the changed train.py would nest something too deeply to be read: split long expressions over statements"
        ) from None
    except UNREADABLE as error:
        number = getattr(error, "lineno", None) or 0
        lines = split_lines(source)[max(0, number - 3) : number + 1]
        shown = "".join(f"\n{n:5d} | {line[:160]}" for n, line in enumerate(lines, max(0, number - 3) + 1))
        raise ReplyError(
            f"the changed train.py would not be valid Python: {getattr(error, 'msg', error)} at line {number}{shown}"
        ) from None
