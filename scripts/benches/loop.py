"""Part `loop`: what an experiment costs besides training and scoring.

In: the journals of runs, else of one night on the tiny profile, made here in a copy of the
checkout; and synthetic journals. Out: two tables.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benches.machine import Rates
from benches.markdown import table
from benches.setup import Bench, BenchError
from harness import REPOSITORY
from harness.rules.decision import history_row
from harness.rules.next_step import next_step
from harness.run.journal import JournalReader, read_journal
from harness.run.profiles import PROFILES
from harness.run.records import parse_time
from harness.run.results import results_from_journal, write_results
from harness.run.state import State, fold
from harness.search.constants import constant_values
from harness.show.index import write_index

EXPERIMENTS = 4  # of the night that is made here
NIGHT = (  # `python -m harness ...`, which ends when this process does
    "import sys; from harness.ground.parent import die_with_parent;"
    " die_with_parent(int(sys.argv[1])); from harness.__main__ import main;"
    " sys.exit(main(sys.argv[2:]))"
)
GAPS = {
    "proposed": "last page's end, kernel start, imports, data and harness checked, proposal",
    "checked": "gate",
    "run_started": "disk check, request",
    "decided": "keep rule",
    "committed": "git commit and refs, best/, tidying",
}


def loop_section(bench: Bench, rates: Rates) -> str:
    """Seconds between trainings, and milliseconds by the number of experiments."""
    runs = list(bench.runs) or [run_night(bench.work)]
    sizes, repeats = ((3,), 1) if bench.quick else ((10, 100, 1000), 3)
    return "\n\n".join(
        [
            "## Loop",
            "Between trainings, in real runs:",
            overhead_table(runs, PROFILES["cpu"].budget_seconds),
            f"With so many experiments in the journal, least milliseconds of {repeats} repeats:",
            sizes_table(sizes, repeats),
        ]
    )


def run_night(work: Path) -> Path:
    """Run a few experiments of a second each in a copy of the checkout; return the run's folder.

    Notebooks and git are included.
    """
    checkout = work / "checkout"
    for name in ("harness", "notebooks"):
        shutil.copytree(
            REPOSITORY / name,
            checkout / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    for name in ("train_template.py", "program.md", ".gitignore"):
        shutil.copy(REPOSITORY / name, checkout / name)
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "bench"]):
        subprocess.run(["git", "-C", str(checkout), *command], check=True, capture_output=True)
    options = [
        "overnight",
        "--tag",
        "bench",
        "--profile",
        "tiny",
        "--experiments",
        str(EXPERIMENTS),
    ]
    command = [sys.executable, "-c", NIGHT, str(os.getpid()), *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(
            f"the night ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        )
    return checkout / "results" / "bench"


def overhead_table(folders: Sequence[Path], budget_seconds: float) -> str:
    """Seconds per experiment that are neither training nor scoring, averaged over each run.

    They are read between the journal's entries.
    """
    rows: list[tuple[object, ...]] = []
    for folder in folders:
        seconds, count = gap_seconds(read_journal(folder / "journal.jsonl"))
        if not count:
            raise BenchError(f"{folder} has no finished experiment: give a run that has some")
        rows += [(folder.name, GAPS[name], total / count, None) for name, total in seconds.items()]
        each = sum(seconds.values()) / count
        rows.append(
            (
                folder.name,
                f"**sum, mean of {count} experiments**",
                each,
                100 * each / budget_seconds,
            )
        )
    return table(
        ["run", "what", "seconds per experiment", f"% of a budget of {budget_seconds:g} s"], rows
    )


def gap_seconds(entries: list[dict]) -> tuple[dict[str, float], int]:
    """(seconds before each kind of entry in all, finished experiments), without the baseline."""
    seconds = dict.fromkeys(GAPS, 0.0)
    for before, entry in zip(entries, entries[1:], strict=False):
        if entry.get("experiment", 0) > 0 and entry["event"] in seconds:
            seconds[entry["event"]] += (
                parse_time(entry["time"]) - parse_time(before["time"])
            ).total_seconds()
    return seconds, sum(e["event"] == "committed" and e["experiment"] > 0 for e in entries)


def synthetic_entries(experiments: int) -> Iterator[dict]:
    """A plausible journal: a baseline and so many tuning experiments, every tenth kept."""
    rng = random.Random(0)
    constants = constant_values((REPOSITORY / "train_template.py").read_text(encoding="utf-8"))
    tuned = sorted(name for name, value in constants.items() if type(value) is float)[:2]
    prior = {"sigma": 0.02, "df": 4, "note": ""}
    yield {"event": "opened", "tag": "synthetic", "seeds": [1, 2], "max_looks": 3, "prior": prior}
    for number in range(experiments + 1):
        at = {"experiment": number, "attempt": 0}
        changed = constants | {
            name: constants[name] * round(rng.uniform(0.9, 1.1), 4) for name in tuned
        }
        about = {"title": f"idea {number}", "category": "tune", "proposer": "tpe"}
        proposed = about | {
            "hypothesis": "it may help",
            "bank_id": None,
            "parent": 0 if number else None,
            "sha256": f"{number:064x}",
            "constants": changed,
            "constants_changed": {},
            "not_applicable": [],
            "code_lines": 260,
        }
        yield {"event": "proposed", **at} | proposed
        yield {"event": "checked", **at, "ok": True, "reasons": []}
        for run in range(1 if number else 2):
            score = round(1.7 + rng.gauss(0.03 if number else 0, 0.03), 6)
            trained = {
                "status": "ok",
                "cause": "",
                "training_seconds": 25.0,
                "total_seconds": 27.0,
                "tok_per_sec": 22000.0,
                "memory_mb": 500.0,
                "memory_kind": "rss",
            }
            yield {"event": "run_started", **at, "run": run, "kind": "score", "seed": run}
            yield {"event": "trained", **at, "run": run} | trained
            yield {
                "event": "scored",
                **at,
                "run": run,
                "status": "ok",
                "cause": "",
                "val_bpb": score,
                "score_seconds": 2.0,
            }
        decision = "baseline" if number == 0 else "keep" if number % 10 == 0 else "discard"
        facts = {
            "decision": decision,
            "status": "ok",
            "kind": "gain",
            "incumbent": 0,
            "val_bpb": score,
            "n_runs": 1,
            "gain": 0.0,
            "sigma": 0.02,
            "df": 5,
            "threshold": 0.05,
            "verdict": "a verdict",
            "memory_gb": 0.5,
        }
        yield {"event": "decided", **at} | about | facts
        yield {"event": "committed", "experiment": number, "commit": f"{number:040x}"}


def timed(function: Callable[[], object], repeats: int) -> float:
    """The least milliseconds of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        best = min(best, 1000 * (time.perf_counter() - started))
    return best


def sizes_table(sizes: Sequence[int], repeats: int) -> str:
    """Milliseconds of what an experiment does with the whole journal, by its length."""
    columns = [measure_size(size, repeats) for size in sizes]
    rows = [(name, *(f"{column[name]:.1f}" for column in columns)) for name in columns[0]]
    return table(["milliseconds", *(f"{size:,}" for size in sizes)], rows)


def measure_size(experiments: int, repeats: int) -> dict[str, float]:
    """The figures of one column."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = folder / "journal.jsonl"
        stamp = "2026-11-23T00:00:00.000Z"
        lines = [
            json.dumps({"seq": i, "time": stamp} | entry)
            for i, entry in enumerate(synthetic_entries(experiments))
        ]
        journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
        entries = read_journal(journal)
        state = fold(entries)
        reader = JournalReader(journal)
        reader.entries()
        rows = results_from_journal(entries)
        request = make_request(state, folder)
        looks = {
            "read the journal": lambda: read_journal(journal),
            "next step": lambda: next_step(entries),
            "noise and state": lambda: fold(entries).noise,
            "a look by the night's watcher": reader.entries,
            "results.tsv": lambda: write_results(folder / "results.tsv", rows),
            "index page": lambda: write_index(folder),
            "proposal, the whole process": lambda: propose(request),
        }
        figures = {name: timed(look, repeats) for name, look in looks.items()}
        return figures | {"journal, KB": journal.stat().st_size / 1000}


def propose(request: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "harness.search.propose", str(request)], cwd=REPOSITORY, check=True
    )


def make_request(state: State, folder: Path) -> Path:
    """A request for a tune, as the loop writes it."""
    texts = {"program_md": "program.md", "parent_train_py": "train_template.py"}
    request = {
        name: (REPOSITORY / file).read_text(encoding="utf-8") for name, file in texts.items()
    } | {
        "experiment": 3 * len(state.experiments) + 2,
        "attempt": 0,
        "run_seed": 1,
        "out_dir": str(folder),
        "parent_experiment": 0,
        "proposer": "tpe",
        "incumbent_val_bpb": 1.7,
        "history": [history_row(e) for e in state.experiments],
        "limits": {"max_seq_len": 256, "n_vocab": 2049, "device_kind": "cpu", "memory_mb": None},
    }
    path = folder / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path
