"""What PyTorch compiles for cards that are not here: machine code, and bytes moved.

    python scripts/card_rehearsal.py                       all of the table, on one core
    python scripts/card_rehearsal.py --profiles small --cards sm_75

In: a torch that was built for the CPU, a C++ compiler, and triton from PyPI: where it is not
installed, `pip install --no-deps --target FOLDER triton` and --triton FOLDER. Out: Markdown on
standard output and in results/benchmarks/card_rehearsal.md, rewritten after each row. The template
is rehearsed with all of train(), compiled, as each profile begins, one pass a step; a card before
sm_80 computes in float32. Nothing is computed and no time is measured. Exits with 1 where a kernel
could not be made.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from benches.markdown import table
from rehearsal.fake_card import CARDS, ROOT, ask_child, build_guard, why_impossible

from harness.run.profiles import PROFILES
from harness.search.constants import rewrite_constants

CARD_PROFILES = ("large", "medium", "small")
OUTPUT = ROOT / "results" / "benchmarks" / "card_rehearsal.md"
HEAD = (
    *("profile", "card", "layers", "tokens a step", "graphs", "kernels made", "failed"),
    *("most shared memory", "forward, GB", "backward, GB", "optimizer, GB", "at least, ms"),
)
WORDS = """# The card path, rehearsed without a card

`python scripts/card_rehearsal.py` on {torch} and triton {triton}: the template, with all of
`train()`, compiled for cards that were not there; one before sm_80 computes in float32. **Kernels
made**: Triton kernels of forward, backward and optimizer that became machine code, each counted
once; what they compute was not looked at. Products and attention are calls to libraries. **GB**:
what the graphs of one step of one pass read and write, by Inductor's count. **At least**: the time
that this takes at the bandwidth that the card's maker publishes. Nothing in this table was measured
on a card.

{rows}
"""


def constants_of(profile: str, depth: int) -> dict:
    """The profile's, one pass a step. depth: layers, 0 for the profile's own."""
    chosen = PROFILES[profile]
    batch = chosen.constants["DEVICE_BATCH_SIZE"] * chosen.max_seq_len
    return chosen.constants | {"TOTAL_BATCH_SIZE": batch} | ({"DEPTH": depth} if depth else {})


def row_of(profile: str, card: str, constants: dict, facts: dict) -> list[str]:
    """One line of the table."""
    moved, tokens = facts["moved"], constants["TOTAL_BATCH_SIZE"]
    least_ms = sum(moved.values()) / CARDS[card].gb_per_s / 1e6
    return [
        *(profile, f"{card} ({CARDS[card].name})", str(constants["DEPTH"]), f"{tokens:,}"),
        *(str(facts["graphs"]), str(facts["kernels"]), str(len(facts["failed"]))),
        f"{facts['shared_bytes'] / 2**10:.0f} KiB",
        *(f"{moved[kind] / 1e9:.2f}" for kind in ("forward", "backward", "optimizer")),
        f"{least_ms:.2f}",
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profiles", default=",".join(CARD_PROFILES), help="(%(default)s)")
    parser.add_argument("--cards", default=",".join(CARDS), help="(%(default)s)")
    parser.add_argument("--depth", type=int, default=0, help="layers (the profile's)")
    parser.add_argument("--template", type=Path, default=ROOT / "train_template.py")
    parser.add_argument("--triton", type=Path, help="the folder that triton was installed in")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the Markdown file")
    options = parser.parse_args(arguments)
    if why := why_impossible():
        parser.error(why)
    if options.triton:
        sys.path.append(str(options.triton.resolve()))
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        parser.error("triton is not installed: pip install --no-deps --target FOLDER triton")
    lines, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="card_rehearsal_") as folder:
        guard = build_guard(Path(folder))
        os.environ |= {
            "TMPDIR": folder,
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        for profile in options.profiles.split(","):
            constants = constants_of(profile, options.depth)
            text = options.template.read_text(encoding="utf-8")
            source = rewrite_constants(text, constants, clamp=False)
            for card in options.cards.split(","):
                began = time.monotonic()
                jobs = [{"source": source, "profile": profile, "card": card}]
                more = [options.triton.resolve()] if options.triton else []
                (facts,) = ask_child("rehearsal.machine_code", jobs, guard, more)
                lines.append(row_of(profile, card, constants, facts))
                failed += len(facts["failed"])
                print(*facts["failed"], sep="\n")
                print(*lines[-1], f"{time.monotonic() - began:.0f} s", sep=" | ", flush=True)
                words = {"torch": f"torch {importlib.metadata.version('torch')}", "triton": version}
                page = WORDS.format(rows=table(HEAD, lines), **words)
                options.output.write_text(page, encoding="utf-8")
    print(page)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
