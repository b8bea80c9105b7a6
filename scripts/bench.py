"""Everything that needs no GPU, measured on this machine beside the machine's own rates.

    python3 scripts/bench.py                          all parts, with nothing else running
    python3 scripts/bench.py loader startup scoring   some of them
    python3 scripts/bench.py template --seeds 3 --seconds 60
                                                      val_bpb of the template, profile `cpu`
    python3 scripts/bench.py loop --runs results/nov23
                                                      what the loop cost in a real run
    python3 scripts/bench.py --quick                  tiny sizes: the figures mean nothing
    python3 scripts/bench.py --write results/benchmarks/cpu.md

Out: Markdown tables. Parts: prepare (MB/s, memory, share of text kept, against the original's
method), loader (against what training consumes), startup (part by part, from launch to `ready`),
scoring (server, evaluation, pipe), loop (what an experiment costs besides training), template
(seeds, FLOP/s, split of a step), compiled (the template eager and compiled, in turn). Machines and
hours differ, so read the ratios: before the first part and after each one the machine multiplies
and copies for a second, and what it gave stands above the part's table. A part that fails says so,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from environment.setup import become, python_or_exit

PARTS = ("prepare", "loader", "startup", "scoring", "loop", "template", "compiled")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--profile", help="of the trainings (cpu; tiny with --quick)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="prepared data (the profile's, prepared if need be)",
    )
    parser.add_argument("--seeds", type=int, help="trainings of the template (3; 1 with --quick)")
    parser.add_argument("--seconds", type=float, help="of each of them (60; 1 with --quick)")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="journals for `loop` (a night made for it)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is printed")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part called {', '.join(unknown)}: there are {', '.join(PARTS)}")
    options.profile = options.profile or ("tiny" if options.quick else "cpu")
    options.seeds = options.seeds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 60.0)
    return options


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def section_of(part: str) -> Callable:
    """The function that measures a part: (Bench, Rates) -> Markdown."""
    from benches.compiled import compiled_section
    from benches.loop import loop_section
    from benches.runs import loader_section, prepare_section, scoring_section, startup_section
    from benches.template import template_section

    sections = (
        *(prepare_section, loader_section, startup_section),
        *(scoring_section, loop_section, template_section, compiled_section),
    )
    return dict(zip(PARTS, sections, strict=True))[part]


def measure(options: argparse.Namespace, work: Path, show: Callable[[str], None]) -> int:
    """Measure the machine and the parts asked for; return the number of parts that failed.

    show: gets each section.
    """
    import torch
    from benches.machine import machine_section, measure_pace, measure_rates
    from benches.setup import make_bench

    fields = {name: getattr(options, name) for name in ("quick", "seeds", "seconds", "runs")}
    bench = make_bench(options.profile, options.data, work, say, **fields)
    torch.set_num_threads(bench.settings.threads or 1)
    rates, pace = measure_rates(bench), measure_pace(bench.quick)
    show(machine_section(bench, rates, pace))
    failed = 0
    for part in options.parts or PARTS:
        say(f"{part} ...")
        began = time.monotonic()
        try:
            text = section_of(part)(bench, rates)
        except Exception as error:  # one part that cannot be measured takes no other with it
            text, failed = f"## {part}\n\n**Failed**: {type(error).__name__}: {error}", failed + 1
        after = measure_pace(bench.quick)
        title, _, rest = text.partition("\n")
        beside = " and ".join(
            f"{pace.flops / 1e9:,.0f} GFLOP/s, copy {pace.copied / 1e9:.1f} GB/s"
            for pace in (pace, after)
        )
        show(
            f"{title}\n\nThe machine before and after: fp32 at 1024^3 {beside}."
            f" The part took {time.monotonic() - began:.0f} s.\n{rest}"
        )
        pace = after
    return failed


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    python = python_or_exit()
    if python != Path(sys.executable):
        become(python, [__file__, *arguments])
    from harness.sandbox.child import SPIN_COUNT

    # As trainings have it; read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    command = " ".join(["python3 scripts/bench.py", *arguments])
    sections = [f"# Benchmarks on a CPU\n\nMade by `{command}`, {date.today()}."]
    if options.quick:
        sections[0] += " **Tiny sizes: these figures mean nothing.**"

    def show(text: str) -> None:
        sections.append(text)
        print(text, end="\n\n", flush=True)

    print(sections[0], end="\n\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        failed = measure(options, Path(folder), show)
    if options.write:
        options.write.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
