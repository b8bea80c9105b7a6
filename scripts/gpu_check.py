"""What a CUDA card gives: does a night work on it, how fast the template trains, where time goes.

    python scripts/gpu_check.py             9 minutes, no network
    python scripts/gpu_check.py --dry-run   the same code on a CPU with tiny shapes: a test of it
    python scripts/gpu_check.py --only attention,training

In: a machine that has torch, numpy, tiktoken and safetensors. Out: Markdown on standard output and
in results/benchmarks/gpu_check_<device>.md, rewritten after each part, with all rows as JSON beside
it. Each part has a share of the time and passes on what it leaves; what it cannot finish is named
in the table. Every task runs in a child process (see `gpu/parts.py`), so that one that fails, hangs
or dies costs one row; this process never touches the card. Exits with 1 when the template could not
be trained at all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from gpu import attention, first, machine, runs, training
from gpu.parts import Rows, run_part
from gpu.settings import ROOT, Settings, card_settings, dry_settings
from gpu.tables import SECTIONS, document

NEED_CORPUS = {"large", "training", "profile", "start-up", "evaluation"}
SPARE_SECONDS = 10.0  # kept back for writing and for children that die slowly


@dataclass(frozen=True)
class Part:
    """One part of the check.

    module: what its children run. seconds: its share of the time. task_seconds: when one task
    counts as hanging. tasks: most wanted first.
    """

    module: str
    seconds: float
    task_seconds: float
    tasks: Callable[[Settings, dict[str, list[str]]], Sequence[str]]


# What only a card can tell comes first, then how fast it is. On a bare machine the experiment is
# over at once, and start-up and evaluation say of the loop what can be said there.
PARTS = {
    "machine": Part("gpu.machine", 20, 60, lambda settings, ranked: machine.TASKS),
    "first": Part("gpu.first", 55, 60, lambda settings, ranked: first.TASKS),
    "corpus": Part("gpu.corpus", 15, 60, lambda settings, ranked: ["corpus"]),
    "large": Part("gpu.training", 75, 150, lambda settings, ranked: ["default/ladder/long"]),
    "experiment": Part("gpu.loop", 235, 300, lambda settings, ranked: ["whole"]),
    "attention": Part(
        "gpu.attention", 45, 40, lambda settings, ranked: attention.list_tasks(settings)
    ),
    "training": Part("gpu.training", 45, 150, training.list_tasks),
    "profile": Part("gpu.profiling", 20, 60, lambda settings, ranked: list(settings.shapes)),
    "start-up": Part("gpu.runs", 15, 70, lambda settings, ranked: runs.START_TASKS),
    "evaluation": Part("gpu.runs", 5, 40, lambda settings, ranked: list(settings.eval_tokens)),
}


def run_parts(
    names: Sequence[str],
    settings: Settings,
    seconds: float,
    show: Callable[[str, dict[str, Rows], dict], None],
) -> dict[str, Rows]:
    """Run the named parts within `seconds`; return the rows of all.

    show: called as `show(part, results, ranked)` after each.
    """
    results: dict[str, Rows] = {}
    ranked: dict[str, list[str]] = {"full": [], "windowed": []}
    deadline = time.monotonic()
    scale = (seconds - SPARE_SECONDS) / sum(PARTS[name].seconds for name in names)
    for name in names:
        part = PARTS[name]
        # Counted from the start, so that time left over goes to the next.
        deadline += part.seconds * scale
        results[name] = run_part(
            part.module, part.tasks(settings, ranked), settings, deadline, part.task_seconds
        )
        if name == "attention":
            ranked = attention.ranking(results[name])
        show(name, results, ranked)
    return results


def default_output(results: dict[str, Rows], dry: bool) -> Path:
    """results/benchmarks/gpu_check_<device>.md"""
    device = (
        "dry_run"
        if dry
        else results.get("machine", {}).get("versions", {}).get("device", "unknown")
    )
    return (
        ROOT
        / "results"
        / "benchmarks"
        / f"gpu_check_{re.sub(r'[^a-z0-9]+', '_', device.lower()).strip('_')}.md"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="CPU, tiny shapes")
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole time (%(default)s)")
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, separated by commas (%(default)s)"
    )
    parser.add_argument("--output", type=Path, help="the Markdown file")
    parser.add_argument(
        "--work",
        type=Path,
        help="a folder to work in and leave logs and trace in; else a temporary one",
    )
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    options = parser.parse_args(arguments)
    names = [name for name in PARTS if name in options.only.split(",")]
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"no part called {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if "corpus" not in names and NEED_CORPUS & set(names):
        names.insert(names[:1] == ["machine"], "corpus")

    def show(part: str, results: dict[str, Rows], ranked: dict[str, list[str]]) -> None:
        path = options.output or default_output(results, options.dry_run)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            document(results, ranked, options.dry_run, not options.eager), encoding="utf-8"
        )
        path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(SECTIONS[part](results[part]), f"\n\n(written to {path})\n", flush=True)

    with tempfile.TemporaryDirectory(prefix="gpu_check_") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        settings = (dry_settings if options.dry_run else card_settings)(
            str(work), not options.eager
        )
        results = run_parts(names, settings, 60 * options.minutes, show)
    rows = [row for part in ("large", "training") for row in results.get(part, {}).values()]
    return 0 if not rows or any("failed" not in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
