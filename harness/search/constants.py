"""Read and rewrite the annotated constants at the top of a train.py: the numeric search space.

In: the text of a train.py. Out: its constants (value, unit, range, meaning), or the text with some literals changed.
Every constant stands on one line between the two marker lines, in one of three forms:

    NAME = literal   # unit, LOW..HIGH scale: meaning      scale is int, pow2, linear or log
    NAME = literal   # unit, {a, b, c}: meaning            one of these literals
    NAME = literal   # unit, fixed: meaning                not searched

A literal is a Python number, string, bool, None or tuple; a power such as 2**14 counts as one, in values and in bounds.
Refused, always naming the line or the constant: a line of another form, an unknown name, a value of the wrong type, a
value out of range (unless `clamp=False`, for profiles). A rewrite that is refused changes nothing.
"""

import ast
import difflib
import io
import keyword
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError

BEGIN = "# === constants ==="
END = "# === end of constants ==="
MOST_WHOLE = 2**63
MOST_COMMENT = 1000  # characters of an annotation
SIGNIFICANT_DIGITS = 4  # of a rewritten float: short enough to read in a diff, fine enough for any schedule or rate

_UNIT, _MEANING = r"#\s*(?P<unit>[^,]*),\s*", r"\s*:\s*(?P<meaning>.*\S)\s*"
_RANGE = re.compile(_UNIT + r"(?P<low>\S+?)\.\.(?P<high>\S+)\s+(?P<scale>int|pow2|linear|log)" + _MEANING)
_CHOICE = re.compile(_UNIT + r"\{(?P<choices>[^}]*)\}" + _MEANING)
_FIXED = re.compile(_UNIT + "fixed" + _MEANING)
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_BARE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)\s*=[^=#][^#]*")  # without an annotation


@dataclass(frozen=True)
class Constant:
    """One annotated constant. scale: int, pow2, linear, log, choice or fixed; low, high, choices as the scale needs."""

    name: str
    value: Any
    unit: str
    scale: str
    low: float | int | None
    high: float | int | None
    choices: tuple[Any, ...] | None
    meaning: str
    line: int  # 1-based, in the source it was read from

    @property
    def is_int(self) -> bool:
        """Whole numbers only: int and pow2 always, linear and log when value and both bounds are written as ints."""
        if self.scale in ("int", "pow2"):
            return True
        return self.scale in ("linear", "log") and all(type(x) is int for x in (self.value, self.low, self.high))

    @property
    def searched(self) -> bool:
        return self.scale != "fixed"


def evaluate_literal(text: str) -> Any:
    """Return the value of a Python literal or of a power such as 2**14. Raises ConstantsError.

    A whole number beyond MOST_WHOLE is refused: some arithmetic with it is an OverflowError.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and type(part.value) is int and part.value > MOST_WHOLE:
                raise ConstantsError(f"{text.strip()[:40]!r} has a number larger than {MOST_WHOLE:,}")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            base, exponent = ast.literal_eval(node.left), ast.literal_eval(node.right)
            whole = type(base) is int and type(exponent) is int and 0 <= exponent <= 64 and abs(base) <= 64
            if whole and abs(base**exponent) <= MOST_WHOLE:
                return base**exponent
        return ast.literal_eval(node)
    except ConstantsError:
        raise
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ConstantsError(f"{text.strip()[:200]!r} is not a Python literal") from None


def parse_constants(source: str) -> dict[str, Constant]:
    """Return the constants of a train.py by name, in the order of the file. Raises ConstantsError."""
    return {constant.name: constant for constant, _ in _read(source)}


def constant_values(source: str) -> dict[str, Any]:
    """Return {name: value} of all constants of a train.py. Raises ConstantsError."""
    return {name: constant.value for name, constant in parse_constants(source).items()}


def rewrite_constants(source: str, values: Mapping[str, Any], clamp: bool = True) -> str:
    """Return source with the literals of the named constants replaced; all of them or, with ConstantsError, none.

    Only the literal's own characters change: spacing and comments stay. A value equal to the old one changes nothing.
    clamp: True (proposers) holds values within the annotated range and refuses fixed constants; False (profiles) lets
    a value of the right type lie outside of the range or replace a fixed one.
    """
    found = {constant.name: (constant, span) for constant, span in _read(source)}
    lines = source.splitlines(keepends=True)
    for name, value in values.items():
        if name not in found:
            raise ConstantsError(unknown_name(name, found))
        constant, (start, end) = found[name]
        value = checked_value(constant, value, clamp)
        if value == constant.value and type(value) is type(constant.value):
            continue
        line = lines[constant.line - 1]
        lines[constant.line - 1] = line[:start] + _literal(value, was=line[start:end]) + line[end:]
    return "".join(lines)


def keep_annotations(source: str, parent: str) -> str:
    """The source with the annotations of its parent's constants put back where lines of its block lost them.

    An annotation says how a constant is searched: whoever changes a value means to keep it.
    """
    try:
        old = parent.splitlines()
        notes = {c.name: old[c.line - 1][end:] for c, (_, end) in _read(parent)}
    except ConstantsError:
        return source
    lines = source.splitlines(keepends=True)
    marks = [i for i, line in enumerate(lines) if line.rstrip() in (BEGIN, END)]
    for number in range(marks[0], marks[-1]) if len(marks) == 2 else ():
        found = _BARE.fullmatch(lines[number].rstrip())
        if found and found["name"] in notes:
            line_end = lines[number][len(lines[number].rstrip("\r\n")) :]
            lines[number] = f"{found[0]}{notes[found['name']]}{line_end}"
    return "".join(lines)


def checked_value(constant: Constant, value: Any, clamp: bool = True) -> Any:
    """Return value as it would be written: right type, floats rounded. Raises ConstantsError when it cannot stand."""
    name = constant.name
    if constant.scale == "fixed":
        if clamp and not _same(value, constant.value):
            raise ConstantsError(f"{name} is fixed at {constant.value!r}: its annotation takes it out of the search")
        return _like(constant, value)
    if constant.scale == "choice":
        for choice in constant.choices or ():
            if _same(value, choice):
                return choice
        if clamp:
            raise ConstantsError(f"{name} must be one of {_choices_text(constant)}, not {value!r}")
        return value
    value = _number(constant, value)
    if clamp and not constant.low <= value <= constant.high:
        raise ConstantsError(f"{name} must lie in {constant.low}..{constant.high}, not {value!r}")
    if constant.is_int:
        return value
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return float(min(max(rounded, constant.low), constant.high)) if clamp else rounded  # rounding may cross a bound


def unknown_name(name: str, known: Mapping[str, Any]) -> str:
    """Return the sentence for a constant that does not exist, with the closest names that do."""
    close = difflib.get_close_matches(name.upper(), list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return f"no constant is called {name}: {hint}"


def _number(constant: Constant, value: Any) -> int | float:
    """Return value as a finite number of the constant's type; 8.0 counts as an int, a bool never as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConstantsError(f"{constant.name} must be a finite number, not {value!r}")
    if not constant.is_int:
        return float(value)
    if value != int(value):
        raise ConstantsError(f"{constant.name} must be a whole number, not {value!r}")
    value = int(value)
    if constant.scale == "pow2" and (value < 1 or value & (value - 1)):
        raise ConstantsError(f"{constant.name} must be a power of two, not {value!r}")
    return value


def _like(constant: Constant, value: Any) -> Any:
    """Return value for a fixed constant if it is of the type of the one it replaces (an int may stand for a float)."""
    if isinstance(constant.value, float) and type(value) is int:
        value = float(value)
    if constant.value is not None and type(value) is not type(constant.value):
        raise ConstantsError(f"{constant.name} must be a {type(constant.value).__name__}, not {value!r}")
    return value


def _same(a: Any, b: Any) -> bool:
    """Equal and of one type: True is not 1. Lists count as tuples, which JSON does not know."""
    a, b = (tuple(x) if isinstance(x, list) else x for x in (a, b))
    return a == b and (isinstance(a, bool) == isinstance(b, bool))


def _choices_text(constant: Constant) -> str:
    return "{" + ", ".join(repr(choice) for choice in constant.choices or ()) + "}"


def _literal(value: Any, was: str) -> str:
    """Return the text of a value; a power of two that replaces one written as 2**k is written as 2**k too."""
    if "**" in was and type(value) is int and value > 0 and not value & (value - 1):
        return f"2**{value.bit_length() - 1}"
    if isinstance(value, str) and was.startswith('"') and value.isprintable() and not set(value) & set('"\\'):
        return f'"{value}"'
    return repr(tuple(value) if isinstance(value, list) else value)


def _read(source: str) -> list[tuple[Constant, tuple[int, int]]]:
    """Return each constant with the (start, end) columns of its literal."""
    lines = source.splitlines()
    marks = [[i for i, line in enumerate(lines, 1) if line.rstrip() == mark] for mark in (BEGIN, END)]
    if [len(m) for m in marks] != [1, 1] or marks[0][0] > marks[1][0]:
        raise ConstantsError(f"train.py needs exactly one line {BEGIN!r} and, below it, one line {END!r}")
    first, last = marks[0][0] + 1, marks[1][0] - 1
    found: dict[str, tuple[Constant, tuple[int, int]]] = {}
    for number, tokens in _block_lines(lines[first - 1 : last], first):
        constant, span = _read_line(number, tokens)
        if constant.name in found:
            raise ConstantsError(f"line {number}: {constant.name} is set twice in the constants block")
        found[constant.name] = (constant, span)
    return list(found.values())


def _block_lines(block: list[str], first: int) -> list[tuple[int, list[tokenize.TokenInfo]]]:
    """Return (line number, tokens) of each line of the block that holds code."""
    lines: list[tuple[int, list[tokenize.TokenInfo]]] = []
    for number, line in enumerate(block, first):
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(line + "\n").readline))
        except (tokenize.TokenError, IndentationError, SyntaxError):
            raise ConstantsError(f"line {number}: a constant must be complete on one line: {line.strip()!r}") from None
        skip = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER)
        tokens = [token for token in tokens if token.type not in skip]
        if any(token.type != tokenize.COMMENT for token in tokens):
            lines.append((number, tokens))
    return lines


def _read_line(number: int, tokens: list[tokenize.TokenInfo]) -> tuple[Constant, tuple[int, int]]:
    texts = [token.string for token in tokens]
    named = len(tokens) >= 3 and _NAME.fullmatch(texts[0]) and texts[1] == "=" and not keyword.iskeyword(texts[0])
    if not named or tokens[0].type == tokenize.INDENT or tokens[-1].type != tokenize.COMMENT or len(tokens) < 4:
        raise ConstantsError(
            f"line {number}: the constants block holds only lines such as "
            f"'DEPTH = 8  # layers, 1..32 int: transformer blocks', not {' '.join(texts)!r}"
        )
    name, comment = texts[0], texts[-1]
    start, end = tokens[2].start[1], tokens[-2].end[1]
    try:
        value = evaluate_literal(tokens[0].line[start:end])
        constant = _annotated(name, value, comment, number)
    except ConstantsError as error:
        raise ConstantsError(f"line {number}, {name}: {error}") from None
    return constant, (start, end)


def _annotated(name: str, value: Any, comment: str, line: int) -> Constant:
    """Return the constant that an annotation describes; its value may lie outside (a profile may put it there)."""
    if len(comment) > MOST_COMMENT:
        raise ConstantsError(f"the comment has {len(comment):,} characters, {MOST_COMMENT:,} are read")
    if match := _FIXED.fullmatch(comment):
        return Constant(name, value, match["unit"].strip(), "fixed", None, None, None, match["meaning"], line)
    if match := _CHOICE.fullmatch(comment):
        choices = tuple(evaluate_literal(f"[{match['choices']}]"))
        if not choices:
            raise ConstantsError("the choices are empty")
        return Constant(name, value, match["unit"].strip(), "choice", None, None, choices, match["meaning"], line)
    match = _RANGE.fullmatch(comment)
    if not match:
        raise ConstantsError(
            "the comment must read 'unit, LOW..HIGH scale: meaning' (scale int, pow2, linear or log), "
            f"'unit, {{a, b}}: meaning' or 'unit, fixed: meaning', not {comment!r}"
        )
    low, high = evaluate_literal(match["low"]), evaluate_literal(match["high"])
    constant = Constant(name, value, match["unit"].strip(), match["scale"], low, high, None, match["meaning"], line)
    for number in (low, high, value):
        _number(constant, number)
    if not low < high or (match["scale"] == "log" and low <= 0):
        raise ConstantsError(f"the range {low}..{high} {match['scale']} is empty or cannot be on that scale")
    return constant
