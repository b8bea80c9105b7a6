"""What the loop itself costs, outside training and scoring.

    python scripts/measure_loop.py results/demo ...     where the seconds between trainings went in real runs
    python scripts/measure_loop.py --sizes              cost per experiment at 10, 100 and 1,000 experiments in the journal

In: the journals of runs, or synthetic ones. Out: Markdown tables on standard output; --write puts them into results/benchmarks/loop_cost.md. Run
it with the project's environment (.venv/bin/python); nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.lab.journal import JournalReader, fold, next_step, read_journal  # noqa: E402
from harness.lab.pages import write_index  # noqa: E402
from harness.lab.records import parse_time  # noqa: E402
from harness.lab.results import results_from_journal, write_results  # noqa: E402
from harness.search.constants import constant_values  # noqa: E402

GAPS = {
    "proposed": "last page's end, kernel start, imports, data and harness checked, proposal",
    "checked": "gate",
    "run_started": "disk check, request",
    "decided": "keep rule",
    "committed": "git commit and refs, best/, tidying",
}


def overhead_table(folders: list[Path]) -> str:
    """Seconds per experiment between the journal's entries that are neither training nor scoring, averaged over real runs."""
    rows = []
    for folder in folders:
        entries = read_journal(folder / "journal.jsonl")
        seconds: dict[str, list[float]] = {name: [] for name in GAPS}
        for before, entry in zip(entries, entries[1:], strict=False):
            if entry.get("experiment", 0) > 0 and entry["event"] in seconds:
                seconds[entry["event"]].append((parse_time(entry["time"]) - parse_time(before["time"])).total_seconds())
        count = sum(e["event"] == "committed" and e["experiment"] > 0 for e in entries)
        for name, gaps in seconds.items():
            rows.append((folder.name, GAPS[name], sum(gaps) / count))
        rows.append((folder.name, f"**sum, mean of {count} experiments**", sum(map(sum, seconds.values())) / count))
    lines = [
        "| run | what | seconds per experiment |",
        "|---|---|---|",
        *(f"| {run} | {what} | {value:.2f} |" for run, what, value in rows),
    ]
    return "\n".join(lines)


def synthetic_entries(experiments: int) -> Iterator[dict]:
    """A plausible journal: a baseline and so many tuning experiments, every tenth kept."""
    rng = random.Random(0)
    constants = constant_values((ROOT / "train_template.py").read_text(encoding="utf-8"))
    yield {
        "event": "opened",
        "tag": "synthetic",
        "seeds": [1, 2],
        "max_looks": 3,
        "prior": {"sigma": 0.02, "df": 4, "note": ""},
    }
    best = 1.7
    for number in range(experiments + 1):
        at = {"experiment": number, "attempt": 0}
        changed = dict(
            constants, MATRIX_LR=round(rng.uniform(0.01, 0.1), 5), EMBEDDING_LR=round(rng.uniform(0.1, 2.0), 4)
        )
        idea = {
            "title": f"idea {number}",
            "hypothesis": "it may help",
            "category": "tune",
            "proposer": "tpe",
            "bank_id": None,
            "parent": 0 if number else None,
        }
        yield {
            "event": "proposed",
            **at,
            **idea,
            "sha256": f"{number:064x}",
            "constants": changed,
            "constants_changed": {},
            "not_applicable": [],
            "code_lines": 260,
        }
        yield {"event": "checked", **at, "ok": True, "reasons": []}
        for run in range(1 if number else 2):
            score = best + rng.gauss(0.03, 0.03) if number else best + rng.gauss(0, 0.02)
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
            yield {"event": "trained", **at, "run": run, **trained}
            yield {
                "event": "scored",
                **at,
                "run": run,
                "status": "ok",
                "cause": "",
                "val_bpb": round(score, 6),
                "score_seconds": 2.0,
            }
        decision = "baseline" if number == 0 else "keep" if number % 10 == 0 else "discard"
        facts = {
            "val_bpb": round(score, 6),
            "n_runs": 1,
            "gain": 0.0,
            "sigma": 0.02,
            "df": 5,
            "threshold": 0.05,
            "verdict": "a verdict",
            "memory_gb": 0.5,
        }
        yield {
            "event": "decided",
            **at,
            "decision": decision,
            "status": "ok",
            "kind": "gain",
            "title": idea["title"],
            "category": "tune",
            "proposer": "tpe",
            "incumbent": 0,
            **facts,
        }
        yield {"event": "committed", "experiment": number, "commit": f"{number:040x}"}


def timed(function: Callable[[], object], repeats: int = 3) -> float:
    """The least milliseconds of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        best = min(best, 1000 * (time.perf_counter() - started))
    return best


def sizes_table(sizes: tuple[int, ...] = (10, 100, 1000)) -> str:
    """Milliseconds of what an experiment does with the whole journal, by the number of experiments in it."""
    columns = [measure_size(size) for size in sizes]
    lines = [
        "| milliseconds, with so many experiments in the journal | " + " | ".join(f"{size:,}" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    return "\n".join(
        lines + [f"| {name} | " + " | ".join(f"{column[name]:.1f}" for column in columns) + " |" for name in columns[0]]
    )


def measure_size(experiments: int) -> dict[str, float]:
    """The figures of one column."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = folder / "journal.jsonl"
        stamp = "2026-11-23T00:00:00.000Z"
        lines = [
            json.dumps({"seq": i, "time": stamp} | entry) for i, entry in enumerate(synthetic_entries(experiments))
        ]
        journal.write_text("\n".join(lines) + "\n", encoding="utf-8")
        entries = read_journal(journal)
        state = fold(entries)
        reader = JournalReader(journal)
        reader.entries()
        rows = results_from_journal(entries)
        request = make_request(state, folder)
        figures = {
            "read the journal": timed(lambda: read_journal(journal)),
            "next step": timed(lambda: next_step(entries)),
            "noise and state": timed(lambda: fold(entries).noise),
            "a look by the night's watcher": timed(reader.entries),
            "results.tsv": timed(lambda: write_results(folder / "results.tsv", rows)),
            "index page": timed(lambda: write_index(folder)),
            "proposal, the whole process": timed(
                lambda: subprocess.run(
                    [sys.executable, "-m", "harness.search.propose", str(request)], cwd=ROOT, check=True
                )
            ),
        }
        return figures | {"journal, KB": journal.stat().st_size / 1000}


def make_request(state, folder: Path) -> Path:
    """A request for a tune, as the loop writes it."""
    from harness.lab.decisions import history_row

    request = {
        "format_version": 1, "experiment": 3 * len(state.experiments) + 2, "attempt": 0, "run_seed": 1, "out_dir": str(folder),
        "program_md": (ROOT / "program.md").read_text(encoding="utf-8"), "parent_train_py": (ROOT / "train_template.py").read_text(encoding="utf-8"),
        "parent_experiment": 0, "proposer": "tpe", "incumbent_val_bpb": 1.7, "history": [history_row(e) for e in state.experiments],
        "limits": {"max_seq_len": 256, "n_vocab": 2049, "device_kind": "cpu", "memory_mb": None}, "force_category": "tune", "allow_structural": True,
    }  # fmt: skip
    path = folder / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    parts = []
    if options.runs:
        parts.append("## Between trainings, in real runs\n\n" + overhead_table(options.runs))
    if options.sizes:
        parts.append("## By the length of the journal\n\nThe least of three repeats.\n\n" + sizes_table())
    text = (
        "# What the loop costs\n\nMade by `python scripts/measure_loop.py RUN ... --sizes --write`.\n\n"
        + "\n\n".join(parts)
        + "\n"
    )
    print(text)
    if options.write:
        (ROOT / "results" / "benchmarks" / "loop_cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
