"""A long night, measured: what experiments cost and processes hold, early against late.

    python3 scripts/soak.py             60 tiny experiments, then 10 more beside a journal of 1,000
                                        entries (20 minutes)
    python3 scripts/soak.py --experiments 6 --more 3
                                        shows that everything runs
    python3 scripts/soak.py --flood 2   only a training that prints 2 GB and sends 2 GB of events
    python3 scripts/soak.py --write results/benchmarks/long_run.md

Real driver, papermill, kernels, trainings and model servers, on the profile tiny in a copy of this
checkout; nothing else should run meanwhile. The first tenth of the experiments stands against the
last tenth: what grows with the length of a night shows there. Then the journal is made long with
copies of discarded experiments, folders, pages and git refs included, and the night goes on beside
them. At the end a flood of output is shown to be bounded.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from environment.setup import become, python_or_exit

ROWS = (
    ("seconds per experiment", "seconds"),
    ("of them neither training nor measuring", "overhead"),
    ("entries in the journal", "entries"),
    ("journal, KB", "journal_kb"),
    ("driver, resident MB", "driver_mb"),
    ("driver, open files", "driver_files"),
    ("forkserver, resident MB", "forkserver_mb"),
    ("forkserver, open files", "forkserver_files"),
    ("kernel of an experiment, resident MB", "kernel_mb"),
    ("processes below the driver at a commit", "processes"),
    ("most processes in an experiment", "most_processes"),
    ("memory available on the machine, MB", "free_memory_mb"),
)
FLOOD = """
import os, sys, threading
amount, events = {amount}, int(os.environ["AUTORESEARCH_EVENTS_FD"])
def flood(descriptor, line):
    block, left = line * (65536 // len(line)), amount
    while left > 0:
        left -= os.write(descriptor, block)
event = (
    b'{{"event": "step", "step": 1, "progress": 0.5, "train_loss": 1.0, "tok_per_sec": 1.0,'
    b' "tokens": 1}}\\n'
)
floods = [(1, b"x" * 79 + b"\\n"), (events, event)]
threads = [threading.Thread(target=flood, args=args) for args in floods]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=60, help="of the night (60)")
    parser.add_argument(
        "--more", type=int, default=10, help="experiments beside the long journal (10)"
    )
    parser.add_argument("--entries", type=int, default=1000, help="of the long journal (1000)")
    parser.add_argument(
        "--flood", type=float, metavar="GB", help="only this: a training that writes so much, twice"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is printed")
    options = parser.parse_args(arguments)
    if min(options.experiments, options.more) < 1:
        parser.error(
            "at least one experiment is needed before the journal is made long, and one after"
        )
    return options


def night_section(options: argparse.Namespace, work: Path) -> str:
    """The table of a night, its first tenth, its last tenth and beside a long journal."""
    from benches.markdown import table
    from killing.soak import lengthen, make_checkout, watch_night

    checkout = make_checkout(work / "checkout")
    early = watch_night(checkout, options.experiments)
    there = lengthen(checkout, options.entries)
    late = watch_night(checkout, there + options.more)
    tenth = max(1, len(early) // 10)
    groups = {
        f"experiments {words(early[:tenth])}": early[:tenth],
        f"experiments {words(early[-tenth:])}": early[-tenth:],
        f"beside {late[0].entries:,} entries ({words(late)})": late,
    }
    rows = [
        (label, *(middle(getattr(s, name) for s in group) for group in groups.values()))
        for label, name in ROWS
    ]
    kinds = [kind for kind in early[-1].disk if any(sample.disk[kind] for sample in early)]
    disk = [
        (f"disk, {kind}, MB", *(group[-1].disk[kind] / 1e6 for group in groups.values()))
        for kind in kinds
    ]
    title = (
        f"## A night of {len(early)} experiments, and {len(late)} more beside a long journal\n\n"
    )
    return (
        title
        + "Medians; the disk's figures are those at the end of each group.\n\n"
        + table(["what", *groups], rows + disk)
    )


def words(samples: Sequence) -> str:
    return f"{samples[0].experiment} to {samples[-1].experiment}"


def middle(values) -> float:
    return float(statistics.median(values))


def flood_section(gigabytes: float, work: Path) -> str:
    """A training that never gets to train, because it prints and sends events without end."""
    import psutil
    from benches.markdown import table
    from benches.setup import make_bench

    from harness.sandbox.runner import run_training

    bench = make_bench("tiny", None, work, lambda line: print(line, file=sys.stderr, flush=True))
    train_py = work / "flood.py"
    train_py.write_text(FLOOD.format(amount=int(gigabytes * 1e9)), encoding="utf-8")
    request = dataclasses.replace(
        bench.request("flood", 1, 1.0), train_py=str(train_py), startup_limit_seconds=3600.0
    )
    me = psutil.Process()
    before, most, began = me.memory_info().rss, [0], time.monotonic()

    def look(event: dict) -> None:
        most[0] = max(most[0], me.memory_info().rss)

    result = run_training(request, look)
    seconds = time.monotonic() - began
    look({})
    folder = work / "flood"
    rows = [
        ("written to its output, MB", gigabytes * 1000),
        ("sent as events, MB", gigabytes * 1000),
        ("seconds", seconds),
        ("both together, MB/s", 2 * gigabytes * 1000 / seconds),
        ("run.log, MB", (folder / "run.log").stat().st_size / 1e6),
        ("events.jsonl, MB", (folder / "events.jsonl").stat().st_size / 1e6),
        ("the runner's memory grew by, MB", (most[0] - before) / 1e6),
        ("the run's status", result["status"]),
    ]
    return "## A training that prints without end\n\n" + table(["what", "value"], rows)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    python = python_or_exit()
    if python != Path(sys.executable):
        become(python, [__file__, *arguments])
    command = " ".join(["python3 scripts/soak.py", *arguments])
    sections = [f"# A long run\n\nMade by `{command}`, {date.today()}, on {os.cpu_count()} cores."]
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        if options.flood is None:
            sections.append(night_section(options, Path(folder)))
        sections.append(
            flood_section(1.0 if options.flood is None else options.flood, Path(folder))
        )
    text = "\n\n".join(sections) + "\n"
    print(text, end="", flush=True)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
