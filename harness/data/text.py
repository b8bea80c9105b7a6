"""Foreign text made harmless to show: one character in, one or none out. Standard library only."""

from __future__ import annotations

import re

# Terminal escapes (CSI, OSC, others), control characters, and those that turn the direction of text round. Tabs and newlines stay.
ESCAPES = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def without_escapes(text: str) -> str:
    """The text without what could move a terminal's cursor, change its title, or reorder what is read."""
    return ESCAPES.sub("", text)
