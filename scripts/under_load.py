"""Does a CPU's budget mean the same beside others? Trainings and whole demos under named loads.

    python scripts/under_load.py pace                      trainings while others come and go:
                                                           steps per second that is charged
    python scripts/under_load.py seeds                     ten seeds of the demo's training under
                                                           each load
    python scripts/under_load.py seeds --load two --runs 3 three of them, beside two busy processes
    python scripts/under_load.py demos                     two demos under each load, with claims
    python scripts/under_load.py demos --without-first     the same without the first idea
    python scripts/under_load.py keeps                     keeps that fresh seeds called worse: ten
                                                           seeds with and without
    python scripts/under_load.py table --write             results/benchmarks/under_load.md

In: this checkout; demos run in copies of it. Out: a row a training or demo in
results/benchmarks/under_load.jsonl, as it ends. What has a row already is not done again, so the
script may be stopped and called again. A load is made of processes that compute for ever, each in a
session of its own as another user's would be.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

from benches.markdown import table
from benches.rows import append_row, machine_of, read_rows
from benches.setup import Bench, train_and_score
from checkout import command_of, copy_checkout, environment

from harness.data.manifest import open_prepared
from harness.lab.clock_fit import find_worth
from harness.lab.close_out import read_close_out, words_of_claim
from harness.lab.executor import Executor
from harness.lab.start import find_profile, prepare_profile
from harness.run.journal import read_journal
from harness.run.settings import Settings, read_settings, training_request
from harness.run.state import fold
from harness.sandbox.runner import run_training
from harness.scoring.integrity import harness_hash
from harness.search.bank.order import ideas_for
from harness.search.constants import rewrite_constants
from harness.training.devices import cpu_name

ROWS, PAGE = ROOT / "results/benchmarks/under_load.jsonl", ROOT / "results/benchmarks/under_load.md"
BUSY = {"nobody": 0, "one": 1, "two": 2, "three": 3}
# The last: two busy processes that end once the baseline is trained.
LOADS = (*BUSY, "bursts", "leaves")
BURST_SECONDS = 7.0
FIRST_IDEA = "short-convolution"
SEEDS, DEMOS = 10, 2
# Keeps of the demos whose three fresh seeds said worse than before: each file is the demo's with
# these in it, and the last of a line is what was kept.
DOUBTED_KEEPS = (
    ("short-convolution", "token-tables"),
    ("short-convolution", "EMBEDDING_LR"),
    ("short-convolution", "EMBEDDING_LR", "half-rotary"),
)
KEPT_VALUES = {"EMBEDDING_LR": 0.8}


class Load:
    """Processes that compute for ever while this context lasts, as many as are wanted."""

    def __init__(self, name: str) -> None:
        self.name, self._burners, self._ended = name, [], threading.Event()

    def wanted(self) -> None:
        """Begin the load."""
        self._set(BUSY.get(self.name, 2))

    def _set(self, count: int) -> None:
        while len(self._burners) < count:
            command = [sys.executable, "-c", "while True: pass"]
            self._burners.append(subprocess.Popen(command, start_new_session=True))
        while len(self._burners) > count:
            burner = self._burners.pop()
            burner.kill()
            burner.wait()

    def leave(self) -> None:
        """The neighbour leaves, where this load is one that does."""
        if self.name == "leaves":
            self._set(0)

    def _burst(self) -> None:
        on = True
        while not self._ended.wait(BURST_SECONDS):
            on = not on
            self._set(2 * on)

    def __enter__(self) -> Load:
        self.wanted()
        self._thread = threading.Thread(target=self._burst, daemon=True)
        if self.name == "bursts":
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        with contextlib.suppress(RuntimeError):  # never started
            self._thread.join()
        self._set(0)


def rows_of(part: str) -> list[dict]:
    """The rows there are of a part."""
    return [row for row in read_rows(ROWS) if row["part"] == part]


def measured(bench: Bench) -> Settings:
    """The bench's settings, with what a CPU second beside others is worth on this machine."""
    executor = Executor(bench.settings, bench.data, bench.work, bench.work)
    worth = find_worth(executor, bench.train_py.read_text(encoding="utf-8"))
    if worth == 1:
        sys.exit("what a CPU second beside others is worth is not known: end what else runs")
    return dataclasses.replace(bench.settings, worth_beside=worth)


# --- One training while others come and go --------------------------------------------------------

STEP_OF_TEMPLATE = "        step += 1\n"
TELL = (
    "        print('PACE', step, __import__('time').monotonic(), session.progress,"
    " __import__('time').thread_time())\n"
)
PACE_RUNS, PACE_SECONDS, TOGGLE_SECONDS, SETTLE_SECONDS = 4, 60.0, 4.0, 0.3
LEAST_STEPS = 8  # in an interval that is to count


def run_pace(loads: list[str], runs: int, cache: str) -> None:
    """The pace of the demo's file with and without busy processes, which come and go in turn.

    Within one training the machine's own drift, which is larger than the effect, meets both alike.
    """
    profile, device = find_profile("demo")
    data = prepare_profile(profile, cache)
    here = [row for row in rows_of("pace") if machine_of(row) == cpu_name()]
    done = {(row["load"], row["seed"]) for row in here}
    asked = [(load, seed) for seed in range(1, runs + 1) for load in loads if BUSY.get(load)]
    with tempfile.TemporaryDirectory() as work:
        settings = measured(Bench(Path(work), profile, device, data))
    for load, seed in asked:
        if (load, seed) in done:
            continue
        with tempfile.TemporaryDirectory() as work:
            bench = Bench(Path(work), profile, device, data)
            source = bench.train_py.read_text(encoding="utf-8")
            assert source.count(STEP_OF_TEMPLATE) == 1, "the template's training loop has changed"
            bench.train_py.write_text(
                source.replace(STEP_OF_TEMPLATE, STEP_OF_TEMPLATE + TELL), encoding="utf-8"
            )
            folder = bench.work / "run"
            request = training_request(settings, data, folder, bench.train_py, seed)
            with Toggled(load) as toggled:
                run_training(dataclasses.replace(request, budget_seconds=PACE_SECONDS))
            lines = (folder / "run.log").read_text(encoding="utf-8").splitlines()
        steps = [tuple(map(float, line.split()[1:])) for line in lines if line.startswith("PACE ")]
        row = {"part": "pace", "load": load, "seed": seed, "worth_beside": settings.worth_beside}
        append_row(ROWS, row | paces(steps, toggled.changes))


def paces(steps: list[tuple[float, ...]], changes: list[tuple[float, bool]]) -> dict:
    """Steps per charged second, a figure an interval, alone and beside others.

    And the same per CPU second of the main thread, as if each were worth the same to everybody.
    steps: (number, wall time, share of the budget that is spent, CPU seconds).
    """
    names = ("alone", "beside", "alone_cpu", "beside_cpu")
    found: dict[str, list[float]] = {name: [] for name in names}
    for (began, busy), (ended, _) in zip(changes, changes[1:], strict=False):
        inside = [step for step in steps if began + SETTLE_SECONDS < step[1] < ended]
        if len(inside) > LEAST_STEPS:
            count, _, share, seconds = (
                last - first for first, last in zip(inside[0], inside[-1], strict=True)
            )
            name = "beside" if busy else "alone"
            found[name].append(round(count / (PACE_SECONDS * share), 3))
            found[f"{name}_cpu"].append(round(count / seconds, 3))
    return found


class Toggled(Load):
    """A load that is away for TOGGLE_SECONDS, there for twice as long, and so on.

    changes: (when, whether it is there from then on).
    """

    def __enter__(self) -> Toggled:
        self.changes: list[tuple[float, bool]] = []
        self._thread = threading.Thread(target=self._toggle, daemon=True)
        self._thread.start()
        return self

    def _toggle(self) -> None:
        on = False
        while not self._ended.is_set():
            self._set(BUSY[self.name] * on)
            self.changes.append((time.monotonic(), on))
            self._ended.wait(TOGGLE_SECONDS * (1 + on))
            on = not on


def pace_table() -> Iterator[str]:
    """A line a load: the mean over its trainings of how their pace differs beside others."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows_of("pace"):
        groups.setdefault((machine_of(row), row["load"]), []).append(row)
    seeds = [row for row in rows_of("seeds") if row["val_bpb"]]
    lines = []
    for place, rows in groups.items():
        if len(rows) < 2:
            continue
        charged, cpu = pace_changes(rows), pace_changes(rows, "_cpu")
        shift = ""
        if seeds:
            one = steps_slope(seeds) / idle_sigma(seeds)
            shift = f"{one * charged[0]:+.2f} ± {abs(one) * charged[1]:.2f}"
        pairs = zip(*map(both, rows), strict=True)
        means = (statistics.mean(map(statistics.mean, each)) for each in pairs)
        cells = [f"{mean:+.1%} ± {error:.1%}" for mean, error in (charged, cpu)]
        lines.append([*place, len(rows), *(f"{mean:.2f}" for mean in means), *cells, shift])
    if not lines:
        return
    yield (
        "## Trainings while others come and go\n\n"
        "Steps per charged second while busy processes are away and while they are there, a few\n"
        "seconds each, in turn, within one training: drift of the machine meets both alike. The\n"
        "difference has its standard error over trainings. *By CPU time* is the same per CPU\n"
        "second of the main thread, as if each were worth the same to everybody. *Shift*:\n"
        "of val_bpb, in standard deviations of idle seeds, by the slope of val_bpb over the\n"
        "logarithm of the steps in the next table's trainings, on whatever machine those ran.\n"
    )
    heads = [
        "machine",
        "busy processes",
        "trainings",
        "alone",
        "beside them",
        "difference",
        "by CPU time",
    ]
    yield table([*heads, "shift, sigma"], lines)


def both(row: dict, unit: str = "") -> tuple[list[float], list[float]]:
    """A training's paces alone and beside others. unit: "_cpu" for those per CPU second."""
    return row[f"alone{unit}"], row[f"beside{unit}"]


def pace_changes(rows: list[dict], unit: str = "") -> tuple[float, float]:
    """Mean and standard error over trainings of ln(pace beside others / pace alone)."""
    changes = [
        math.log(statistics.mean(beside) / statistics.mean(alone))
        for alone, beside in (both(row, unit) for row in rows)
    ]
    return statistics.mean(changes), standard_error(changes)


def standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def steps_slope(rows: list[dict]) -> float:
    """Of val_bpb over ln(steps), by least squares: one file, trained at other speeds."""
    steps = [math.log(row["num_steps"]) for row in rows]
    return statistics.linear_regression(steps, [row["val_bpb"] for row in rows]).slope


def idle_sigma(rows: list[dict]) -> float:
    return statistics.stdev(row["val_bpb"] for row in rows if row["load"] == "nobody")


# --- Trainings of one file ------------------------------------------------------------------------


def run_seeds(loads: list[str], runs: int, cache: str) -> None:
    """The demo's baseline file, one seed after the other.

    Loads take turns, so that they share the machine's hours.
    """
    profile, device = find_profile("demo")
    data = prepare_profile(profile, cache)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), profile, device, data)
        settings = measured(bench)
        done = {(row["load"], row["seed"]) for row in rows_of("seeds")}
        for seed in range(1, runs + 1):
            for load in loads:
                if (load, seed) not in done:
                    with Load(load):
                        folder = bench.work / f"run{seed}"
                        found = train_and_score(settings, data, bench.train_py, folder, seed)
                        found["worth_beside"] = settings.worth_beside
                        append_row(ROWS, {"part": "seeds", "load": load, "seed": seed} | found)


# --- Keeps that fresh seeds doubted ---------------------------------------------------------------


def run_keeps(runs: int, cache: str) -> None:
    """Each doubted keep and the file before it on the same seeds, one file after the other."""
    profile, device = find_profile("demo")
    data = prepare_profile(profile, cache)
    files = sorted(
        {changes[:end] for changes in DOUBTED_KEEPS for end in (len(changes) - 1, len(changes))}
    )
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), profile, device, data)
        done = {(tuple(row["changes"]), row["seed"]) for row in rows_of("keeps")}
        for seed in range(1, runs + 1):
            for changes in files:
                if (changes, seed) in done:
                    continue
                folder = bench.work / f"{'+'.join(changes)}-{seed}"
                folder.mkdir()
                train_py = folder / "train.py"
                train_py.write_text(
                    changed_source(bench.train_py.read_text(encoding="utf-8"), changes),
                    encoding="utf-8",
                )
                found = train_and_score(bench.settings, data, train_py, folder / "run", seed)
                append_row(ROWS, {"part": "keeps", "changes": changes, "seed": seed} | found)


def changed_source(source: str, changes: tuple[str, ...]) -> str:
    """Return the source with ideas of the bank, or values, in it."""
    for change in changes:
        if change in KEPT_VALUES:
            source = rewrite_constants(source, {change: KEPT_VALUES[change]})
        else:
            source = next(idea for idea in ideas_for("cpu") if idea.id == change).apply(source)
    return source


# --- Demos ----------------------------------------------------------------------------------------


def run_demos(loads: list[str], runs: int, cache: str, without_first: bool) -> None:
    done = {(row["load"], row["number"], row["without_first"]) for row in rows_of("demos")}
    for number in range(1, runs + 1):
        for load in loads:
            if (load, number, without_first) not in done:
                row = {
                    "part": "demos",
                    "load": load,
                    "number": number,
                    "without_first": without_first,
                }
                append_row(ROWS, row | run_demo(load, number, cache, without_first))


def run_demo(load: str, number: int, cache: str, without_first: bool) -> dict:
    """One demo in a copy of this checkout, to its end."""
    with tempfile.TemporaryDirectory() as work:
        checkout = copy_checkout(Path(work) / "lab")
        if without_first:
            program = checkout / "program.md"
            text = program.read_text(encoding="utf-8")
            program.write_text(
                text.replace("forbidden_ideas = []", f'forbidden_ideas = ["{FIRST_IDEA}"]'),
                encoding="utf-8",
            )
        tag, began = f"{load}{number}", time.monotonic()
        where = {"cwd": checkout, "env": environment(checkout, Path(cache))}
        with Load(load) as neighbour, (Path(work) / "demo.log").open("w") as log:
            night = subprocess.Popen(
                command_of("--demo", "--tag", tag), stdout=log, stderr=log, **where
            )
            journal = checkout / "results" / tag / "journal.jsonl"
            while night.poll() is None:
                if any(entry["event"] == "decided" for entry in read_journal(journal)):
                    neighbour.leave()
                time.sleep(1.0)
        took = {"minutes": round((time.monotonic() - began) / 60, 1), "exit": night.returncode}
        return (
            took
            | facts_of(journal.parent)
            | {"true_gains": true_gains(journal.parent, Path(work) / "again")}
        )


def true_gains(run: Path, work: Path) -> list[float]:
    """What each keep of a demo gained over the file before it, by fresh runs.

    The claim has those of the first and the last; as many more are made of those between.
    """
    state, found = fold(read_journal(run / "journal.jsonl")), read_close_out(run)
    if not found.claimed or found.claimed["status"] != "ok":
        return []
    settings = dataclasses.replace(read_settings(run), harness_hash=harness_hash())
    data, means = open_prepared(settings.data_folder), [statistics.mean(found.scores("baseline"))]
    for kept in state.kept[1:-1]:
        train_py = (
            run / f"experiments/{kept.number:04d}/attempts/{len(kept.attempts) - 1:02d}/train.py"
        )
        seeds = range(1, found.claim.begun["seeds"] + 1)
        folders = [(seed, work / f"{kept.number}-{seed}") for seed in seeds]
        means.append(
            statistics.mean(
                train_and_score(settings, data, train_py, folder, seed)["val_bpb"]
                for seed, folder in folders
            )
        )
    means.append(statistics.mean(found.scores("best")))
    return [round(before - after, 4) for before, after in zip(means, means[1:], strict=False)]


def facts_of(run: Path) -> dict:
    """What a demo came to."""
    state, claimed = fold(read_journal(run / "journal.jsonl")), read_close_out(run).claimed
    decided = [e.decided for e in state.experiments[1:] if e.decided]
    facts = {
        "baseline": state.experiments[0].mean if state.experiments else None,
        "kept": [d["title"] for d in decided if d["decision"] == "keep"],
        "refreshes": sum(
            run.started["kind"] == "refresh" for e in state.kept for run in e.attempt.runs
        ),
        "quarantined": sum(d["decision"] == "quarantine" for d in decided),
    }
    if claimed and claimed["status"] == "ok":
        facts |= {
            name: [round(claimed[name][key], 4) for key in ("difference", "low", "high")]
            for name in ("val", "holdout")
        }
        facts |= {"template_bpb": claimed["template_bpb"], "words": words_of_claim(claimed)}
    return facts


# --- The page -------------------------------------------------------------------------------------


def seeds_table() -> Iterator[str]:
    rows = [row for row in rows_of("seeds") if row["val_bpb"]]
    groups = {load: [row for row in rows if row["load"] == load] for load in LOADS}
    idle = [row["val_bpb"] for row in groups["nobody"]]
    if len(idle) < 2:
        return
    sigma, lines = statistics.stdev(idle), []
    for load, group in groups.items():
        if not group:
            continue
        scores = [row["val_bpb"] for row in group]
        names = ("num_steps", "training_seconds", "wall_seconds")
        means = [statistics.mean(row[name] for row in group) for name in names]
        error = sigma * math.sqrt(1 / len(scores) + (1 / len(idle) if load != "nobody" else 0))
        shift = statistics.mean(scores) - statistics.mean(idle)
        lines.append(
            [
                load,
                len(scores),
                f"{statistics.mean(scores):.4f}",
                f"{statistics.stdev(scores):.4f}" if len(scores) > 1 else "",
                "" if load == "nobody" else f"{shift / sigma:+.2f} ± {error / sigma:.2f}",
                *(f"{mean:.1f}" for mean in means),
            ]
        )
    yield "\n## One file under load\n"
    yield (
        "The demo's baseline file; the same seeds under each load. The shift of the mean from\n"
        "idle is in standard deviations of the idle runs, with its standard error.\n"
    )
    yield table(
        [
            *("beside it", "seeds", "mean val_bpb", "standard deviation"),
            *("shift, sigma", "steps", "charged, s", "wall, s"),
        ],
        lines,
    )


def keeps_table() -> Iterator[str]:
    scores: dict[tuple[str, ...], dict[int, float]] = {}
    for row in rows_of("keeps"):
        if row["val_bpb"]:
            scores.setdefault(tuple(row["changes"]), {})[row["seed"]] = row["val_bpb"]
    lines = []
    for changes in DOUBTED_KEEPS:
        after, before = scores.get(changes, {}), scores.get(changes[:-1], {})
        if min(len(after), len(before)) < 2:
            continue
        sides = [list(side.values()) for side in (before, after)]
        gain = statistics.mean(sides[0]) - statistics.mean(sides[1])
        error = math.sqrt(sum(statistics.variance(side) / len(side) for side in sides))
        sigma = math.sqrt(statistics.mean(statistics.variance(side) for side in sides))
        lines.append(
            [
                changes[-1],
                " and ".join(changes[:-1]),
                len(after),
                f"{gain:+.4f} ± {error:.4f}",
                f"{sigma:.4f}",
                f"{gain / sigma:+.2f}",
            ]
        )
    if lines:
        yield "\n## Keeps that fresh seeds doubted\n"
        yield (
            "What three fresh seeds of a demo called worse than"
            " the file before it, on more seeds beside nobody.\n"
        )
        yield table(
            [
                *("kept", "over the demo's file with", "seeds"),
                *("gain, bpb", "seed sigma", "gain in sigma"),
            ],
            lines,
        )


def demos_table() -> Iterator[str]:
    rows = rows_of("demos")
    if not rows:
        return
    above = sum("val" in row and row["val"][1] > 0 for row in rows)
    yield (
        f"\n## Demos\n\n{above} of {len(rows)} end with a claim whose interval lies above zero"
        " on the validation text.\n"
        "These, and the keeps below, were measured before worth_beside was.\n"
    )
    lines = [
        [
            row["load"] + (", without the first idea" if row["without_first"] else ""),
            row["minutes"],
            f"{row['baseline']:.4f}" if row["baseline"] else "",
            "; ".join(re.sub(r"[|]", "/", title)[:40] for title in row["kept"]),
            ", ".join(f"{gain:+.3f}" for gain in row["true_gains"]),
            "{:+.4f} ({:+.4f} to {:+.4f})".format(*row["val"]) if "val" in row else "none",
            "{:+.4f} ({:+.4f} to {:+.4f})".format(*row["holdout"]) if "holdout" in row else "none",
            f"{row['template_bpb']:.4f}" if row.get("template_bpb") else "",
        ]
        for row in rows
    ]
    heads = ["beside it", "minutes", "baseline", "kept", "gains of these on fresh seeds"]
    heads += ["claim, validation", "claim, holdout", "the template, one run"]
    yield table(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "parts",
        nargs="+",
        choices=("pace", "seeds", "demos", "keeps", "table"),
        metavar="PART",
        help="pace, seeds, demos, keeps, table",
    )
    parser.add_argument(
        "--load", action="append", choices=LOADS, help="one of these alone; may be given again"
    )
    parser.add_argument("--runs", type=int, default=0, help="seeds, or demos, under each load")
    parser.add_argument(
        "--without-first",
        action="store_true",
        help="demos: forbid the idea that they would try first",
    )
    parser.add_argument(
        "--cache", default=str(Path.home() / ".cache/autoresearch-lab"), help="of prepared data"
    )
    parser.add_argument("--write", action="store_true", help="table: write the page too")
    options = parser.parse_args()
    loads = options.load or list(LOADS)
    parts: dict[str, Callable[[], None]] = {
        "pace": lambda: run_pace(loads, options.runs or PACE_RUNS, options.cache),
        "seeds": lambda: run_seeds(
            [load for load in loads if load != "leaves"], options.runs or SEEDS, options.cache
        ),
        "demos": lambda: run_demos(
            loads, options.runs or DEMOS, options.cache, options.without_first
        ),
        "keeps": lambda: run_keeps(options.runs or SEEDS, options.cache),
        "table": lambda: None,
    }
    for part in options.parts:
        parts[part]()
    page = (
        "# A CPU's budget beside others\n\n"
        "Made by `python scripts/under_load.py`, which has every row in under_load.jsonl.\n\n"
    )
    page += "\n".join([*pace_table(), *seeds_table(), *demos_table(), *keeps_table()]) + "\n"
    if options.write:
        PAGE.write_text(page, encoding="utf-8")
    if "table" in options.parts:
        print(page)


if __name__ == "__main__":
    main()
