"""Foreign text made harmless to show. Standard library only."""

from __future__ import annotations

import re

# Terminal escapes, control characters, and those that turn the direction of text round. Tabs and
# newlines stay.
ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor movements
    r"|\x1b[\]PX^_][^\n]*?(?:\x07|\x1b\\|$)"  # titles, links and other strings, to the line's end
    r"|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]",
    re.MULTILINE,
)
# What means something in Markdown, in a table, in HTML or in mathematics, and what is read instead.
MARKS = str.maketrans("`|<>[]*\\", "'/‹›()·/", "$")
# Class of an HTML element in which JupyterLab typesets no mathematics, whose \href is a link.
NO_MATHS = "mathjax_ignore"


def without_escapes(text: str) -> str:
    """The text without what could move a cursor, change a title, or reorder what is read."""
    return ESCAPES.sub("", text)


def last_line(text: str, otherwise: str = "no message") -> str:
    """The last line that says something, harmless to show."""
    lines = without_escapes(text).strip().splitlines()
    return lines[-1] if lines else otherwise


def one_line(text: object) -> str:
    """The text as one line of what can be seen: single spaces, no escapes, nothing invisible."""
    words = " ".join(without_escapes(str(text)).split())
    return "".join(character for character in words if character.isprintable())


def plain_words(text: object) -> str:
    """The text as one line of words that are the same in a terminal, in Markdown and on a page."""
    return one_line(text).translate(MARKS)
