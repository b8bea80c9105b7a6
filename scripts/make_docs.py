"""Write docs/commands.md from the commands themselves: options, JSON keys, exit statuses.

    python scripts/make_docs.py            write it
    python scripts/make_docs.py --check    exit status 1 where it is not what would be written
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.night import try_idea  # noqa: E402
from harness.options import make_parser  # noqa: E402
from harness.show import status  # noqa: E402

PAGE = ROOT / "docs" / "commands.md"
WIDTH = "98"


def page() -> str:
    """The page as Markdown."""
    os.environ["COLUMNS"] = WIDTH
    commands = next(action for action in make_parser()._actions if action.choices).choices
    lines = ["# Commands", "", "Made by `python scripts/make_docs.py` from the commands themselves."]
    for name, parser in commands.items():
        lines += ["", f"## {name}", "", "```", parser.format_help().rstrip(), "```"]
        keys = {"overnight": status.KEYS, "try": try_idea.KEYS}.get(name)
        if keys:
            what = "`--status --json`" if name == "overnight" else "`try`"
            lines += ["", f"One JSON object is what {what} prints. Numbers are null where there are none.", ""]
            lines += ["| key | meaning |", "|---|---|", *(f"| `{key}` | {words} |" for key, words in keys.items())]
    return "\n".join(lines) + "\n"


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return PAGE.read_text(encoding="utf-8") != page()
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
