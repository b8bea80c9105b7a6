"""The settings block of program.md: what the human lets every proposer do, the keyless one too.

In: the text of program.md. Out: ProgramSettings, and with them the constants as narrowed for the
search. The block is one fence of TOML, every key of which may be missing:

    ```settings
    allowed_categories = ["tune", "architecture"]  # default: all of CATEGORIES
    forbidden_ideas = ["bigram", "tying"]          # ids, names of constants, words of titles
    earlier_runs = true                            # learn from like runs in the same folder
    [ranges]
    DEPTH = [2, 6]                                 # of a constant with choices: those that stay
    [fixed]
    names = ["HEAD_DIM"]
    ```

Ranges narrow an annotation in train.py and never widen it: the annotation is where a range is
argued for, and only it is held by the applier of constants. Without a block the defaults hold.
Refused, with the line and what to do: two blocks, an open fence, broken TOML, an unknown key,
category or constant (with the closest names that exist), values of a wrong type, a range outside of
the annotation's.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError, ProgramError
from harness.search.constants import Constant, checked_value

CATEGORIES = ("tune", "architecture", "optimizer", "schedule", "simplify")
_FENCE = re.compile(r"\s*(```+|~~~+)\W*(?:toml\W+)?settings(?:\W+toml)?\W*", re.IGNORECASE)
_KEYS = ("allowed_categories", "forbidden_ideas", "earlier_runs", "ranges", "fixed")


@dataclass(frozen=True)
class ProgramSettings:
    """What the settings block says. ranges: {constant: (low, high), or the choices that stay};
    lines: of the keys.
    """

    allowed_categories: tuple[str, ...] = CATEGORIES
    forbidden_ideas: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    earlier_runs: bool = True

    def forbids(self, idea_id: str | None, title: str) -> str | None:
        """Return the entry of forbidden_ideas that an idea runs into, or None.

        An entry forbids the idea of that id and every idea in whose title its words stand, in that
        order.
        """
        words = f" {_words(title)} "
        for entry in self.forbidden_ideas:
            if entry == idea_id or f" {_words(entry)} " in words:
                return entry
        return None


def read_program(path: Path) -> str:
    """Return the text of a program.md. Raises ProgramError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ProgramError(f"program.md cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ProgramError("program.md is not UTF-8: save it in that encoding") from None


def parse_program(text: str) -> ProgramSettings:
    """Return the settings of a program.md, the defaults where it has no block of them. Raises
    ProgramError.
    """
    if not has_settings(text):
        return ProgramSettings()
    block, first = _block(text)
    try:
        table = tomllib.loads("\n" * (first - 1) + block)  # so that errors name lines of program.md
    except tomllib.TOMLDecodeError as error:
        raise ProgramError(f"program.md: the settings block is not valid TOML: {error}") from None
    lines = _key_lines(block, first)
    for key in table:
        if key not in _KEYS:
            raise _error(lines, key, f"unknown setting {key!r}{_closest(key, _KEYS)}")
    categories = _strings(table, "allowed_categories", lines, CATEGORIES)
    for category in categories:
        if category not in CATEGORIES:
            hint = _closest(category, CATEGORIES)
            raise _error(lines, "allowed_categories", f"unknown category {category!r}{hint}")
    if not categories:
        raise _error(
            lines,
            "allowed_categories",
            "an empty allowed_categories leaves nothing to do: name at least one",
        )
    fixed = _table(table, "fixed", lines)
    for key in fixed:
        if key != "names":
            raise _error(lines, key, f'[fixed] holds one key, names = ["DEPTH", ...], not {key!r}')
    names = _strings(fixed, "names", lines, ())
    ideas = tuple(entry.strip() for entry in _strings(table, "forbidden_ideas", lines, ()))
    if not all(_words(entry) for entry in ideas):
        raise _error(
            lines, "forbidden_ideas", "an empty entry in forbidden_ideas forbids nothing: remove it"
        )
    ranges = {
        name: _range(name, value, lines) for name, value in _table(table, "ranges", lines).items()
    }
    earlier_runs = table.get("earlier_runs", True)
    if not isinstance(earlier_runs, bool):
        raise _error(lines, "earlier_runs", "earlier_runs is true or false")
    return ProgramSettings(categories, ideas, ranges, names, lines, earlier_runs)


def has_settings(text: str) -> bool:
    """Whether there is a settings block: the steering files of others have none."""
    return any(_FENCE.fullmatch(line) for line in text.splitlines())


def narrow_constants(
    settings: ProgramSettings, constants: Mapping[str, Constant], also_known: Iterable[str] = ()
) -> dict[str, Constant]:
    """Return the constants that may be searched, with the program's ranges.

    constants: those of the incumbent's train.py. also_known: names that other versions of it have,
    which the program may mention too. Raises ProgramError on a name that is nowhere, or on a range
    that the annotation does not hold.
    """
    known = {*constants, *also_known}
    for name, key in [(name, name) for name in settings.ranges] + [
        (name, "names") for name in settings.fixed
    ]:
        if name not in known:
            raise _error(
                settings.lines, key, f"no constant is called {name}{_closest(name, sorted(known))}"
            )
    space = {}
    for name, constant in constants.items():
        if constant.searched and name not in settings.fixed and not settings.forbids(name, name):
            values = settings.ranges.get(name)
            space[name] = (
                constant if values is None else _narrowed(constant, values, settings.lines)
            )
    return space


def _narrowed(constant: Constant, values: tuple[Any, ...], lines: Mapping[str, int]) -> Constant:
    name = constant.name
    try:
        values = tuple(checked_value(constant, value) for value in values)
    except ConstantsError as error:
        remedy = "narrow it further, or change the annotation in train_template.py before a new run"
        raise _error(
            lines, name, f"the range of {name} leaves the annotation's: {error}; {remedy}"
        ) from None
    if constant.scale == "choice":
        return replace(constant, choices=values)
    if len(values) != 2 or not values[0] <= values[1]:
        raise _error(lines, name, f"the range of {name} must be [low, high], not {list(values)}")
    return replace(constant, low=values[0], high=values[1])


def _block(text: str) -> tuple[str, int]:
    """Return the text within the settings fence and the number of its first line in program.md."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _FENCE.fullmatch(line)]
    if len(starts) != 1:
        found = f"{len(starts)} settings blocks (lines {', '.join(str(i + 1) for i in starts)})"
        raise ProgramError(
            f"program.md needs exactly one block fenced by ```settings and ```; found {found}"
        )
    start = starts[0]
    mark = _FENCE.fullmatch(lines[start])[1]
    for end in range(start + 1, len(lines)):
        if re.fullmatch(rf"\s*{mark}{mark[0]}*\s*", lines[end]):
            return "\n".join(lines[start + 1 : end]), start + 2
    raise ProgramError(
        f"program.md line {start + 1}: the settings block is never closed: add a line {mark}"
        " below it"
    )


def _key_lines(block: str, first: int) -> dict[str, int]:
    """Return the line of program.md at which each key or table stands."""
    found: dict[str, int] = {}
    for number, line in enumerate(block.splitlines(), first):
        if match := re.match(r"""\s*\[?\s*["']?([A-Za-z0-9_-]+)["']?\s*(\]|=)""", line):
            found.setdefault(match[1], number)
    return found


def _error(lines: Mapping[str, int], key: str, message: str) -> ProgramError:
    where = f" line {lines[key]}" if key in lines else ""
    return ProgramError(f"program.md{where}: {message}")


def _closest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or difflib.get_close_matches(
        name.upper(), known
    )
    return f": did you mean {' or '.join(close)}?" if close else f": there are {', '.join(known)}"


def _strings(
    table: Mapping[str, Any], key: str, lines: Mapping[str, int], default: tuple[str, ...]
) -> tuple[str, ...]:
    value = table.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _error(
            lines, key, f'{key} must be a list of words in quotes, such as ["tune"], not {value!r}'
        )
    return tuple(value)


def _table(table: Mapping[str, Any], key: str, lines: Mapping[str, int]) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise _error(
            lines, key, f"{key} must be a table: a line [{key}] with one setting a line below it"
        )
    return value


def _range(name: str, value: Any, lines: Mapping[str, int]) -> tuple[Any, ...]:
    if (
        not isinstance(value, list)
        or not value
        or any(isinstance(item, (list, dict)) for item in value)
    ):
        raise _error(
            lines,
            name,
            f"the range of {name} must be [low, high] or a list of choices, not {value!r}",
        )
    return tuple(value)


def _words(text: str) -> str:
    """Return the lower-case words of a text, single spaces between; a constant's name is one
    word.
    """
    return " ".join(re.findall(r"\w+", text.lower()))
