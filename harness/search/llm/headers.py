"""The header of a reply: title, hypothesis, category and expected delta, as models spell them.

In: the lines of a reply without its code. Out: the fields as plain text on one line each. Read are
`Title: x`, `**Title:** x`, `# Title` with x below, `- Title - x`, `Idea 2: x` and their like;
nothing is refused here, a field that is not found is empty.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.search.program import CATEGORIES

# The fields, and the most characters that are kept of each.
_MOST = {"title": 160, "idea": 160, "hypothesis": 2000, "category": 80, "expected": 200}
# In English; in the language of program.md they are found by their order, which the prompt gives.
_WORDS = {
    "title": "title",
    "hypothesis": "hypothesis|rationale",
    "category": "category",
    "expected": "expected",
}
_MARK = r"[*_`\"']*"
_BEFORE = rf"\s*(?:[-*+>]\s+|\d+[.)]\s+)*(?P<hashes>#{{1,6}}\s*)?(?P<bold>{_MARK})"
_NAMED = re.compile(
    rf"{_BEFORE}(?P<name>[^\W\d_][^:=()\[\]{{}}<>]{{0,40}}?){_MARK}\s*:(?P<value>.*\S.*)"
)
_HEADING = re.compile(r"#{1,6} [^:：]*")
_KINDS = {
    "tune": "tune|tuning|hyper-?parameters?",
    "architecture": "architectur\\w*|model",
    "optimizer": "optimi[sz]\\w*",
    "schedule": "schedul\\w*",
    "simplify": "simplif\\w*",
}
_NUMBER = re.compile(
    r"(?<![\w.])([-+−–]?)\s?(\d+(?:\.\d+)?(?:e-?\d+)?|\.\d+)(?![\w.]*\d)(?!\s?%)", re.IGNORECASE
)


@dataclass(frozen=True)
class Header:
    """A field of the header, the line it stands on, and what stands behind it there, or below."""

    line: int
    key: str
    value: str
    below: bool = False


def find_headers(lines: Sequence[str]) -> list[Header]:
    """Return the fields among lines; one whose value stands below it has that line's."""
    headers = _headers(lines, _WORDS)
    named = any(header.key in ("title", "idea", "hypothesis") for header in headers)
    if named or any(map(_HEADING.fullmatch, lines)):
        return headers
    return _headers(lines, _words_by_order(lines))


def _header(words: Mapping[str, str]) -> re.Pattern[str]:
    """The pattern of a field's line, its names in these words."""
    return re.compile(
        rf"{_BEFORE}(?:(?P<title>{words['title']})|(?P<hypothesis>{words['hypothesis']})"
        rf"|(?P<category>{words['category']})"
        r"|(?P<idea>(?:idea|option|proposal|approach|alternative)\s*+#?\s*+(?:\d+|[A-D])\b)"
        rf"|(?P<expected>(?:{words['expected']})(?![a-z])[^:=*]{{0,60}}?)){_MARK}"
        rf"(?:\s*[:=]\s*|\s+[-–—]+\s+|\s*$|\s+(?=[-+−~]?\d)){_MARK}\s*(?P<value>.*)",
        re.IGNORECASE,
    )


def _words_by_order(lines: Sequence[str]) -> dict[str, str]:
    """The names of the fields in another language: those of the lines `Name: value` around the one
    whose value is a category, else of the first ones; at least two.
    """
    named = [found for line in lines if (found := _NAMED.fullmatch(_plain_head(line)))]
    values = [_plain(found["value"]).casefold() for found in named]
    category = next((n for n, value in enumerate(values) if value in CATEGORIES), 2)
    fields = [*["title", "hypothesis"][:category], "category", "expected"]
    names = [re.escape(found["name"].strip()) for found in named[max(0, category - 2) :]]
    return _WORDS | (dict(zip(fields, names, strict=False)) if len(names) > 1 else {})


def _headers(lines: Sequence[str], words: Mapping[str, str]) -> list[Header]:
    found, below, pattern = [], _lines_below(lines), _header(words)
    for number, line in enumerate(lines):
        if match := pattern.fullmatch(_plain_head(line)):
            key = next(key for key in _MOST if match[key])
            here = _plain(match["value"])
            value = here or _plain(below[number])
            if key == "expected":  # "Expected gain: 0.002" says there which way
                value = f"{_plain(match[key])}: {value}"
            found.append(Header(number, key, value, below=not here))
    return found


def _plain_head(line: str) -> str:
    """The line, up to its first colon in plain letters: models write wide and ornamented ones."""
    head, colon, value = re.match(r"([^:：]{0,80})([:：]?)(.*)", line, re.DOTALL).groups()
    return unicodedata.normalize("NFKC", head + colon) + value


def _lines_below(lines: Sequence[str]) -> list[str]:
    """Return for each line the next one below it that is not blank, "" where there is none."""
    below, next_one = [], ""
    for line in reversed(lines):
        below.append(next_one)
        next_one = line if line.strip() else next_one
    return below[::-1]


def header_values(
    lines: Sequence[str], headers: Sequence[Header], first: int, last: int
) -> dict[str, str]:
    """Return title, hypothesis, category and expected of lines first up to last, "" if unsaid.

    Of a field that comes twice the first counts. A hypothesis may have several lines. Without a
    title a numbered idea's is taken, else a heading, else the first sentence of the hypothesis.
    """
    headers = [header for header in headers if first <= header.line < last]
    said, others = dict.fromkeys(_MOST, ""), {header.line for header in headers}
    for header in headers:
        if not said[header.key]:
            said[header.key] = header.value
            if header.key == "hypothesis":
                said["hypothesis"] = _paragraph(lines, header, others, last)
    headings = [_plain(line) for line in lines[first:last] if re.match(r"#{1,6} \S", line)]
    sentence = re.split(r"(?<=[.!?])\s", said["hypothesis"])[0].rstrip(".")
    said["title"] = said["title"] or said["idea"] or (headings or [sentence])[0]
    return {key: text[: _MOST[key]] for key, text in said.items()}


def _paragraph(lines: Sequence[str], header: Header, others: set[int], last: int) -> str:
    """Return the lines from a field's to the next blank one, fence or field."""
    texts = [] if header.below else [header.value]
    for number in range(header.line + 1, last):
        line = lines[number]
        if number in others or re.match(r"\s*(```|~~~|#{1,6} |<{3,})", line):
            break
        if line.strip():
            texts.append(line)
        elif texts:
            break
    return _plain(" ".join(texts))


def read_category(text: str) -> str:
    """Return the one of CATEGORIES that is named first, '' if none is."""
    words = {kind: re.search(rf"\b({_KINDS[kind]})\b", text, re.IGNORECASE) for kind in CATEGORIES}
    found = {kind: match.start() for kind, match in words.items() if match}
    return min(found, key=found.__getitem__, default="")


def read_delta(text: str) -> float | None:
    """Return the expected change of val_bpb, negative is better; None if no number states it.

    Of "-0.002 to -0.004" the middle. "0.003 lower" and "improves by 0.003" are -0.003.
    """
    signs = {"-": -1.0, "−": -1.0, "–": -1.0}
    numbers = [signs.get(sign, 1.0) * float(digits) for sign, digits in _NUMBER.findall(text)[:2]]
    if not numbers:
        return None
    words = r"\b(lower|better|gain|improve\w*|reduc\w*|decreas\w*|drop|less)\b"
    better = re.search(words, text, re.IGNORECASE)
    foreign = any(c.isalpha() and not c.isascii() for c in text)
    if foreign and not better and numbers[0] > 0 and "+" not in text:
        return None  # whether it is a gain is said in another language
    delta = sum(numbers) / len(numbers)
    if better and min(numbers) >= 0:
        delta = -delta
    return delta if math.isfinite(delta) and abs(delta) < 10 else None


def _plain(text: str) -> str:
    """Return a text on one line, without control characters and the markdown around it."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split()).strip('*`"# ').strip()
