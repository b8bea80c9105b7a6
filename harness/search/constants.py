"""Read and rewrite the annotated constants at the top of a train.py: the numeric search space.

In: the text of a train.py. Out: its constants (value, unit, range, meaning), or the text with
some literals changed; and where in its range a value lies. Every constant stands on one line
between the two marker lines, in one of three forms:

    NAME = literal   # unit, LOW..HIGH scale: meaning      scale is int, pow2, linear or log
    NAME = literal   # unit, {a, b, c}: meaning            one of these literals
    NAME = literal   # unit, fixed: meaning                not searched

A literal is a Python number, string, bool, None or tuple; a power such as 2**14 counts as one, in
values and in bounds. Refused, always naming the line or the constant: a line of another form, an
unknown name, a value of the wrong type, a value out of range (unless `clamp=False`, for profiles).
A rewrite that is refused changes nothing.
"""

import ast
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.find_lines import without_comment

BEGIN = "# === constants ==="
END = "# === end of constants ==="
MOST_WHOLE = 2**63
MOST_COMMENT = 1000  # characters of an annotation
SIGNIFICANT_DIGITS = 4  # of a rewritten float: fine enough for any schedule or rate
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # of ast, on any text

_UNIT, _MEANING = r"#\s*[^,]*,\s*", r"\s*:\s*(?P<meaning>.*\S)\s*"
_RANGE = re.compile(
    _UNIT + r"(?P<low>\S+?)\.\.(?P<high>\S+)\s+(?P<scale>int|pow2|linear|log)" + _MEANING
)
_CHOICE = re.compile(_UNIT + r"\{(?P<choices>[^}]*)\}" + _MEANING)
_FIXED = re.compile(_UNIT + "fixed" + _MEANING)
_START = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)\s*=\s*")


@dataclass(frozen=True)
class Constant:
    """One annotated constant. scale: int, pow2, linear, log, choice or fixed.

    line: 1-based, in the source it was read from. span: columns of its literal there.
    """

    name: str
    value: Any
    line: int
    span: tuple[int, int]
    scale: str = "fixed"
    meaning: str = ""
    low: float | int | None = None
    high: float | int | None = None
    choices: tuple[Any, ...] = ()

    @property
    def is_int(self) -> bool:
        """Whole numbers only: linear and log when value and both bounds are written as ints."""
        if self.scale in ("int", "pow2"):
            return True
        numbers = (self.value, self.low, self.high)
        return self.scale in ("linear", "log") and all(type(x) is int for x in numbers)

    @property
    def searched(self) -> bool:
        return self.scale != "fixed"


def evaluate_literal(text: str) -> Any:
    """Return the value of a Python literal or of a power such as 2**14. Raises ConstantsError.

    A whole number beyond MOST_WHOLE is refused: some arithmetic with it is an OverflowError.
    """
    text = text.strip()
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            value = _power(ast.literal_eval(node.left), ast.literal_eval(node.right))
        else:
            value = ast.literal_eval(node)
    except (*UNREADABLE, TypeError):
        raise ConstantsError(f"{text[:200]!r} is not a Python literal") from None
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and type(part.value) is int and part.value > MOST_WHOLE:
            raise ConstantsError(f"{text[:40]!r} has a number larger than {MOST_WHOLE:,}")
    return value


def _power(base: Any, exponent: Any) -> int:
    """Return a power of whole numbers. Raises ValueError for others, and for a large one."""
    whole = type(base) is int and type(exponent) is int
    if not whole or abs(base) > 64 or not 0 <= exponent <= 64 or abs(base**exponent) > MOST_WHOLE:
        raise ValueError
    return base**exponent


def parse_constants(source: str) -> dict[str, Constant]:
    """Return {name: constant} of a train.py, in the order of the file. Raises ConstantsError."""
    lines = source.splitlines()
    marks = [[i for i, line in enumerate(lines) if line.rstrip() == mark] for mark in (BEGIN, END)]
    if [len(found) for found in marks] != [1, 1] or marks[0] > marks[1]:
        raise ConstantsError(
            f"train.py needs exactly one line {BEGIN!r} and, below it, one line {END!r}"
        )
    first, stop = marks[0][0] + 1, marks[1][0]
    try:
        statements = ast.parse("\n".join(lines[first:stop])).body
    except UNREADABLE as error:
        number = first + (getattr(error, "lineno", None) or 1)
        raise _not_a_constant(number, lines[number - 1]) from None
    found: dict[str, Constant] = {}
    for statement in statements:
        number = first + statement.lineno
        constant = _read_line(number, lines[number - 1], statement)
        if constant.name in found:
            raise ConstantsError(f"line {number}: {constant.name} is set twice in the block")
        found[constant.name] = constant
    return found


def constant_values(source: str) -> dict[str, Any]:
    """Return {name: value} of all constants of a train.py. Raises ConstantsError."""
    return {name: constant.value for name, constant in parse_constants(source).items()}


def rewrite_constants(source: str, values: Mapping[str, Any], clamp: bool = True) -> str:
    """Return source with the literals of the named constants replaced.

    All of them or, with ConstantsError, none. Only the literal's own characters change: spacing and
    comments stay. A value equal to the old one changes nothing. clamp: True (proposers) holds
    values within the annotated range and refuses fixed constants; False (profiles) lets a value of
    the right type lie outside of the range or replace a fixed one.
    """
    found = parse_constants(source)
    lines = source.splitlines(keepends=True)
    for name, value in values.items():
        if name not in found:
            raise ConstantsError(_unknown_name(name, list(found)))
        constant = found[name]
        value = checked_value(constant, value, clamp)
        if value != constant.value or type(value) is not type(constant.value):
            line, (start, end) = lines[constant.line - 1], constant.span
            literal = _literal(value, was=line[start:end])
            lines[constant.line - 1] = line[:start] + literal + line[end:]
    return "".join(lines)


def keep_annotations(source: str, parent: str) -> str:
    """The source with its parent's annotations where its constants have none, or other comments.

    An annotation says how a constant is searched: whoever changes a value means to keep it.
    """
    try:
        old = parent.splitlines()
        constants = parse_constants(parent).values()
        notes = {each.name: old[each.line - 1][each.span[1] :] for each in constants}
    except ConstantsError:
        return source
    lines = source.splitlines(keepends=True)
    marks = [i for i, line in enumerate(lines) if line.rstrip() in (BEGIN, END)]
    for number in range(marks[0], marks[-1]) if len(marks) == 2 else ():
        line, found = lines[number].rstrip("\r\n"), _START.match(lines[number])
        code = without_comment(line)
        if found and found["name"] in notes and not _annotation(line[len(code) :].strip()):
            lines[number] = code + notes[found["name"]] + lines[number][len(line) :]
    return "".join(lines)


def checked_value(constant: Constant, value: Any, clamp: bool = True) -> Any:
    """Return value as it would be written: right type, floats rounded. Raises ConstantsError."""
    name = constant.name
    if constant.scale == "fixed":
        if clamp and not _same(value, constant.value):
            raise ConstantsError(
                f"{name} is fixed at {constant.value!r}: its annotation takes it out of the search"
            )
        return _like(constant, value)
    if constant.scale == "choice":
        same = [choice for choice in constant.choices if _same(value, choice)]
        if clamp and not same:
            choices = ", ".join(map(repr, constant.choices))
            raise ConstantsError(f"{name} must be one of {{{choices}}}, not {value!r}")
        return same[0] if same else value
    value = _number(constant, value)
    low, high = constant.low, constant.high
    if clamp and not low <= value <= high:
        raise ConstantsError(f"{name} must lie in {low}..{high}, not {value!r}")
    if constant.is_int:
        return value
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return float(min(max(rounded, low), high)) if clamp else rounded  # rounding may cross a bound


def place(constant: Constant, value: Any) -> float:
    """Where in its range a value lies, on the annotation's scale: 0 to 1, or beyond."""
    low, high = constant.low, constant.high
    if constant.scale == "choice":
        value, last = as_written(value), len(constant.choices) - 1
        return constant.choices.index(value) / max(1, last) if value in constant.choices else 0.0
    if high == low:
        return 0.0
    if constant.scale in ("log", "pow2"):
        return math.log(value / low) / math.log(high / low) if value > 0 else 0.0
    return (value - low) / (high - low)


def value_at(constant: Constant, where: float) -> Any:
    """Return the value at a place of a constant's range."""
    low, high = constant.low, constant.high
    if constant.scale == "choice":
        return constant.choices[round(where * (len(constant.choices) - 1))]
    if constant.scale == "pow2":
        return 2 ** round(math.log2(low) + where * math.log2(high / low))
    value = low * (high / low) ** where if constant.scale == "log" else low + where * (high - low)
    return round(value) if constant.is_int else value


def distance(constant: Constant, a: Any, b: Any) -> float:
    """How far apart two values are, as a share of the range; 1 where unequal is all one can say."""
    if a == b:
        return 0.0
    low, high = constant.low, constant.high
    if low == high or not all(type(x) in (int, float) for x in (a, b)):
        return 1.0
    if constant.scale in ("log", "pow2"):
        return abs(math.log(a / b)) / math.log(high / low) if min(a, b) > 0 else 1.0
    return abs(a - b) / (high - low)


def as_written(value: Any) -> Any:
    """Return a value that came through JSON, which has lists where Python has tuples."""
    return tuple(value) if isinstance(value, list) else value


def _unknown_name(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.upper(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return f"no constant is called {name}: {hint}"


def _number(constant: Constant, value: Any) -> int | float:
    """Return value as a number of the constant's type; 8.0 counts as an int, a bool never does."""
    name = constant.name
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ConstantsError(f"{name} must be a finite number, not {value!r}")
    if not constant.is_int:
        return float(value)
    if value != int(value):
        raise ConstantsError(f"{name} must be a whole number, not {value!r}")
    value = int(value)
    if constant.scale == "pow2" and not _is_power_of_two(value):
        raise ConstantsError(f"{name} must be a power of two, not {value!r}")
    return value


def _like(constant: Constant, value: Any) -> Any:
    """Return value for a fixed constant, of the type of the one it replaces."""
    if isinstance(constant.value, float) and type(value) is int:
        value = float(value)
    if constant.value is not None and type(value) is not type(constant.value):
        raise ConstantsError(
            f"{constant.name} must be a {type(constant.value).__name__}, not {value!r}"
        )
    return value


def _same(a: Any, b: Any) -> bool:
    """Equal and of one type: True is not 1."""
    return as_written(a) == as_written(b) and isinstance(a, bool) == isinstance(b, bool)


def _is_power_of_two(value: int) -> bool:
    return value > 0 and not value & (value - 1)


def _literal(value: Any, was: str) -> str:
    """Return the text of a value; one that replaces 2**k is written as 2**k too where it can be."""
    if "**" in was and type(value) is int and _is_power_of_two(value):
        return f"2**{value.bit_length() - 1}"
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set('"\\')
    return f'"{value}"' if plain and was.startswith('"') else repr(as_written(value))


def _read_line(number: int, line: str, statement: ast.stmt) -> Constant:
    start = _START.match(line)
    end = len(line.encode()[: statement.end_col_offset].decode(errors="replace"))
    comment = line[end:].strip()
    whole = isinstance(statement, ast.Assign) and statement.end_lineno == statement.lineno
    if not start or not whole or not comment.startswith("#"):
        raise _not_a_constant(number, line)
    name, span = start["name"], (start.end(), end)
    try:
        value = evaluate_literal(line[slice(*span)])
        return _annotated(Constant(name, value, number, span), comment)
    except ConstantsError as error:
        raise ConstantsError(f"line {number}, {name}: {error}") from None


def _not_a_constant(number: int, line: str) -> ConstantsError:
    return ConstantsError(
        f"line {number}: the constants block holds only lines such as 'DEPTH = 8  # layers, "
        f"1..32 int: transformer blocks', each complete on one line, not {line.strip()!r}"
    )


def _annotation(comment: str) -> re.Match[str] | None:
    return _FIXED.fullmatch(comment) or _CHOICE.fullmatch(comment) or _RANGE.fullmatch(comment)


def _annotated(constant: Constant, comment: str) -> Constant:
    """Return the constant as its annotation describes it; its value may be out of the range."""
    if len(comment) > MOST_COMMENT:
        raise ConstantsError(
            f"the comment has {len(comment):,} characters, {MOST_COMMENT:,} are read"
        )
    match = _annotation(comment)
    if not match:
        raise ConstantsError(
            "the comment must read 'unit, LOW..HIGH scale: meaning' (scale int, pow2, linear or "
            f"log), 'unit, {{a, b}}: meaning' or 'unit, fixed: meaning', not {comment!r}"
        )
    found = match.groupdict()
    scale = found.get("scale", "choice" if "choices" in found else "fixed")
    constant = replace(constant, scale=scale, meaning=found["meaning"])
    if scale == "fixed":
        return constant
    if scale == "choice":
        choices = tuple(evaluate_literal(f"[{found['choices']}]"))
        if not choices:
            raise ConstantsError("the choices are empty")
        return replace(constant, choices=choices)
    low, high = evaluate_literal(found["low"]), evaluate_literal(found["high"])
    constant = replace(constant, low=low, high=high)
    for number in (low, high, constant.value):
        _number(constant, number)
    if not low < high or (scale == "log" and low <= 0):
        raise ConstantsError(f"the range {low}..{high} {scale} is empty or not one of that scale")
    return constant
