"""Diffs in a reply, read as edits: each hunk is the lines to find and the lines to put there.

In: the lines of a text. Out: an edit per hunk, whose context and removed lines must then stand in
the source like those of any other edit. Read are unified diffs and the patches of coding agents:

    *** Begin Patch
    *** Update File: train.py
    @@ class FeedForward(nn.Module):
     a line of context
    -a line that goes
    +a line that comes
    *** End Patch

Line numbers and counts in a hunk's header are not believed: models rarely get them right. Text in
it names the class or the function around the hunk, and is asked where the lines stand several
times. Refused: a diff of another file, a hunk with nothing to find its place by, and a line inside
of a hunk that says neither "there", "goes" nor "comes", since what it was meant to be would be a
guess.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from harness.search.patch import Edit, PatchError, Piece, join_lines

# Not indented: that would be a line of the diff.
_FENCE = re.compile(r"(?:`{3,}|~{3,})\s*([\w.+-]*).*")
_HUNK = re.compile(
    r"@@(?:\s*-\d+(?:,\d+)? \+\d+(?:,\d+)?\s*@@|\s*\.\.\.)?\s*(?P<within>.*?)\s*(?:@@)?"
)
_PATCH = re.compile(
    r"\*\*\* *(?:Begin Patch|End Patch|End of File"
    r"|(?P<do>Update|Add|Delete) File: *(?P<path>\S+)|Move to: *(?P<to>\S+)) *",
    re.IGNORECASE,
)
_FILE = re.compile(r"(?:---|\+\+\+) (?P<path>\S+).*")
_GIT = re.compile(
    r"(diff --git|index [0-9a-f]+\.\.|new file mode|old mode|new mode|similarity index).*"
)


@dataclass
class _Hunk:
    start: int
    within: tuple[str, ...] = ()
    search: list[str] = field(default_factory=list)
    replace: list[str] = field(default_factory=list)
    stop: int = 0

    def add(self, line: str, number: int) -> None:
        sign, text = line[:1], line[1:]
        if sign in ("", " ", "-"):  # "": an empty line of context whose blank was lost
            self.search.append(text)
        if sign in ("", " ", "+"):
            self.replace.append(text)
        self.stop = number + 1

    def piece(self) -> Piece:
        search, replace = self.search, self.replace
        # Blank lines at the end, as after the last hunk.
        while search and replace and not search[-1].strip() and not replace[-1].strip():
            del search[-1], replace[-1]
        if not any(line.strip() for line in search):
            raise PatchError(
                f"line {self.start + 1} of the reply: the hunk has no line of the present train.py "
                "in it to find its place by"
            )
        edit = Edit(join_lines(search), join_lines(replace), within=self.within)
        return Piece(self.start, self.stop, "a diff", edit)


def find_hunks(lines: Sequence[str]) -> list[Piece]:
    """Return the hunks of the unified diffs among the lines of a text. Raises PatchError."""
    hunks: list[Piece] = []
    start, tagged = 0, False  # of the stretch below a fence; tagged: the fence says diff
    for number, line in enumerate([*lines, "```"]):
        if fence := _FENCE.fullmatch(line):
            hunks += _hunks(lines, start, number, tagged)
            start, tagged = number + 1, fence[1].lower() in ("diff", "patch")
    return hunks


def _hunks(lines: Sequence[str], start: int, stop: int, tagged: bool) -> list[Piece]:
    """Return the hunks of a stretch between fences.

    What stands before the first header is prose, if the fence does not say diff.
    """
    headed = any(_HUNK.fullmatch(line) or _PATCH.fullmatch(line) for line in lines[start:stop])
    if not headed and not tagged:
        return []
    hunks: list[_Hunk] = []
    inside, new = not headed, True  # new: the next line of a diff begins a hunk
    for number in range(start, stop):
        line = lines[number]
        if header := _HUNK.fullmatch(line):
            within = (header["within"],) if header["within"] else ()
            if inside and hunks and not hunks[-1].stop:  # a class, and below it a function
                within = (*hunks.pop().within, *within)
            hunks.append(_Hunk(number, within))
            inside, new = True, False
        elif patch := _PATCH.fullmatch(line):
            _check_patch(patch, number)
            inside, new = bool(patch["do"]), True
        elif _begins_a_file(lines, number):
            _check_path(lines, number)
            inside = False
        elif _begins_a_file(lines, number - 1) or _GIT.fullmatch(line):
            inside = False
        elif inside:
            if line[:1] not in ("", " ", "+", "-", "\\"):
                _check_prose(lines, number, stop)
                break
            if new and line.strip():
                hunks.append(_Hunk(number))
                new = False
            if not new and not line.startswith("\\"):  # "\ No newline at end of file"
                hunks[-1].add(line, number)
    return [hunk.piece() for hunk in hunks]


def find_added_files(lines: Sequence[str]) -> list[Piece]:
    """Return what patches add as a new train.py."""
    found = []
    for number, line in enumerate(lines):
        patch = _PATCH.fullmatch(line)
        if patch and (patch["do"] or "").lower() == "add" and _is_ours(patch["path"]):
            stop = number + 1
            while stop < len(lines) and lines[stop].startswith("+"):
                stop += 1
            text = join_lines(added[1:] for added in lines[number + 1 : stop])
            above = _PATCH.fullmatch(lines[number - 1]) if number else None
            again = above and above["do"] and _is_ours(above["path"])  # deleted, to be added anew
            found.append(Piece(number - bool(again), stop, "a whole file", text))
    return found


def _is_ours(path: str) -> bool:
    return PurePosixPath(path).name in ("train.py", "train_template.py")


def _begins_a_file(lines: Sequence[str], number: int) -> bool:
    """--- and +++ in a row: one of them alone may be a line of code that goes or comes."""
    return [line[:4] for line in lines[number : number + 2]] == ["--- ", "+++ "]


def _check_patch(patch: re.Match[str], number: int) -> None:
    """Raise PatchError on what a patch may not do: name another file, delete or rename."""
    path = patch["path"] or patch["to"]
    if not path:
        return
    if not _is_ours(path) or (patch["do"] or "").lower() != "update":
        raise PatchError(
            f"line {number + 1} of the reply: {patch[0].strip()[:80]!r}: only train.py may be "
            "changed, and it stays where it is: *** Update File: train.py"
        )


def _check_path(lines: Sequence[str], number: int) -> None:
    for line in lines[number : number + 2]:
        match = _FILE.fullmatch(line)
        if not match or not _is_ours(match["path"]):
            said = f"line {number + 1} of the reply: {line.strip()[:80]!r}"
            raise PatchError(f"{said}: only train.py may be changed")


def _check_prose(lines: Sequence[str], number: int, stop: int) -> None:
    """A line that is none of a diff ends it, if no line of a diff follows."""
    if any(re.match(r"[+\- ]|@@", line) for line in lines[number:stop]):
        raise PatchError(
            f"line {number + 1} of the reply: {lines[number][:60]!r} stands inside of a diff and "
            "begins with none of ' ', '+' and '-': give the change as SEARCH/REPLACE blocks"
        )
