"""Text of others inside a prompt: logs, titles, diffs, a model's own earlier words. Data, never
instructions.

In: such a text. Out: the same without what could pass for something else, and inside marks that it
cannot close: escapes, control and invisible characters are gone, the markers of chat templates are
broken (a local server reads them wherever they stand), a long text is cut to its head and tail.
Nothing here makes a model immune: what it answers goes through the same gate, score and keep rule
whatever it read.
"""

import re
import unicodedata

from harness.ground.text import without_escapes

_CHAT_MARKS = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>"  # <|im_start|>, <｜User｜>
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think|thinking|reasoning"
    r"|system|user|assistant)>)"
    r"|\[(?=/?(?:INST|THINK|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
    r"|<(?=<SYS>>|</SYS>>)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Return a text as it would be read: no escapes, nothing invisible, progress as it ended."""
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return without_chat_marks(without_escapes(text))


def without_chat_marks(text: str) -> str:
    """Return a text, a whole message perhaps, without what only a model or its server would read:
    the markers of chat templates, and characters that nobody sees."""
    text = without_invisible(text)
    return _CHAT_MARKS.sub(lambda match: match[0] + " " if match[0] != ">" else " >", text)


def without_invisible(text: str) -> str:
    """Return a text without control and invisible characters; tabs and newlines stay."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def one_line(text: object, most_characters: int) -> str:
    """Return a text cleaned, on one line, and cut; columns of a table cannot be broken by it."""
    line = " ".join(clean(str(text or "")).replace("|", "/").split())
    return line if len(line) <= most_characters else line[: most_characters - 3].rstrip() + "..."


def head_and_tail(text: str, most_characters: int) -> str:
    """Return a text cut to about so many characters: its first third and last two thirds."""
    if len(text) <= most_characters:
        return text
    head, tail = text[: most_characters // 3], text[len(text) - most_characters * 2 // 3 :]
    head, tail = head.rpartition("\n")[0] or head, tail.partition("\n")[2] or tail
    missing = len(text) - len(head) - len(tail)
    return f"{head}\n[... {missing:,} characters left out ...]\n{tail}"


def quote(text: str, most_characters: int) -> str:
    """Return output of others, each line behind a mark of its own, which nothing inside closes."""
    lines = head_and_tail(clean(text).strip("\n"), most_characters).split("\n")
    return "\n".join(f"> {line[:500]}" for line in lines)


def fence(text: str, language: str = "") -> str:
    """Return a text to the letter between fences longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text.rstrip(chr(10))}\n{marks}"
