"""Give the thirty scripted replies of a language model to the real client, and count.

In: tests/support/scripted_replies.py, written without looking at the code that reads them. Out: a
markdown table on the screen; `--write` puts it into results/benchmarks/replies.md. Seconds. A reply
is recovered where the train.py that its author meant is proposed, to the letter, without a question
back.
"""

import argparse
import logging
import platform
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

from benches.markdown import table
from scripted_outcomes import give_each, recovered
from scripted_replies import REPLIES, ScriptedReply

HEAD = (
    "# What is made of thirty scripted replies\n\n"
    "Made by `scripts/recover_replies.py`, which says how. No real model wrote these.\n"
)
REASON_CHARACTERS = 150


def words_of(reply: ScriptedReply, found: dict) -> str:
    proposal, why, bodies = found[reply.name]
    if proposal is None:
        shown = why.removeprefix("not_applicable: ").partition("the last one because ")[2] or why
        if len(shown) > REASON_CHARACTERS:
            shown = shown[:REASON_CHARACTERS] + "..."
        return f"refused {len(bodies)} times: {shown}".replace("|", "/")
    return "as meant" if recovered(reply, found) else "**something else**"


def report(found: dict) -> str:
    """Counts and the table."""
    replies = REPLIES.values()
    asked = [reply for reply in replies if reply.well_formed]
    malformed = [reply for reply in replies if not reply.well_formed and reply.edits is not None]
    hopeless = [reply for reply in replies if not reply.well_formed and reply.edits is None]
    refused = {reply.name for reply in replies if found[reply.name][0] is None}
    as_meant = {reply.name for reply in replies if recovered(reply, found)}

    def share(of: list[ScriptedReply], among: set[str]) -> str:
        return f"{sum(reply.name in among for reply in of)} of {len(of)}"

    rows = [(reply.name, reply.form, words_of(reply, found)) for reply in replies]
    lines = [
        f"- as asked: {share(asked, as_meant)} applied as meant",
        "- malformed, but a careful person sees what is meant:"
        f" {share(malformed, as_meant)} applied as meant",
        f"- nobody could tell what is meant: {share(hopeless, refused)} refused",
        f"- applied otherwise than meant: {len(REPLIES.keys() - refused - as_meant)}",
    ]
    return "\n".join(
        [
            HEAD,
            *lines,
            "",
            table(["reply", "form", "what was made of it"], rows),
            "",
            f"Python {platform.python_version()}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into results/benchmarks/replies.md")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    with tempfile.TemporaryDirectory(prefix="replies-") as folder:
        text = report(give_each(Path(folder)))
    print(text)
    if options.write:
        (ROOT / "results/benchmarks/replies.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
