"""Write docs/commands.md from the commands themselves (options, JSON keys, exit statuses), and
docs/machines.md.

python scripts/make_docs.py            write it
python scripts/make_docs.py --check    exit status 1 where it is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, (ROOT, ROOT / "scripts", ROOT / "tests" / "support"))

import machines

from harness.night import try_idea
from harness.options import make_parser
from harness.run import events
from harness.show import status

KEYS = {"overnight": ("`--status --json`", status.KEYS), "try": ("`try`", try_idea.KEYS)}


def page() -> str:
    """The page as Markdown."""
    commands = next(action for action in make_parser()._actions if action.choices).choices
    lines = [
        "# Commands",
        "",
        "Made by `python scripts/make_docs.py` from the commands themselves.",
    ]
    for name, parser in commands.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"`{parser.prog}`: {parser.description}",
            "",
            "| option | meaning |",
            "|---|---|",
        ]
        lines += [row_of(action) for action in parser._actions if action.help != argparse.SUPPRESS]
        lines += ["", "```", (parser.epilog or "").rstrip(), "```"]
        if name in KEYS:
            command, keys = KEYS[name]
            lines += [
                "",
                f"{command} prints one JSON object. Numbers are null where there are none.",
                "",
            ]
            lines += [
                "| key | meaning |",
                "|---|---|",
                *(f"| `{key}` | {words} |" for key, words in keys.items()),
            ]
    return "\n".join([*lines, *journal_lines()]) + "\n"


def journal_lines() -> list[str]:
    """What a journal's entries hold."""
    words = (
        "Each entry is one line of JSON, in results/TAG/journal.jsonl; the close-out's are in "
        "close_out.jsonl."
    )
    lines = [
        "",
        "## The journal",
        "",
        words,
        (events.__doc__ or "").split("\n\n")[1].replace("\n", " "),
    ]
    lines += ["", "| entry | written when, or for |", "|---|---|"]
    lines += [f"| `{event}` | {words} |" for event, words in events.ENTRIES.items()]
    lines += ["", "| entry | field | meaning |", "|---|---|---|"]
    for event, fields in events.EVENTS.items():
        rows = [
            (f"`{event}`", *next(iter(fields.items()))),
            *(("", *each) for each in list(fields.items())[1:]),
        ]
        lines += [f"| {name} | `{field}` | {meaning} |" for name, field, meaning in rows]
    return lines


def row_of(action: argparse.Action) -> str:
    """An option or argument as a row."""
    name = ", ".join(action.option_strings) or action.dest
    value = action.metavar or (
        action.dest.upper() if action.option_strings and action.nargs != 0 else ""
    )
    words = (action.help or "").replace("|", "\\|") % (vars(action) | {"prog": ""})
    return f"| `{name}{' ' + str(value) if value and action.option_strings else ''}` | {words} |"


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return any(path.read_text(encoding="utf-8") != written() for path, written in PAGES.items())
    for path, written in PAGES.items():
        path.write_text(written(), encoding="utf-8")
    return 0


PAGES = {ROOT / "docs" / "commands.md": page, ROOT / "docs" / "machines.md": machines.page}


if __name__ == "__main__":
    sys.exit(main())
