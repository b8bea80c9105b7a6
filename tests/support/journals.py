"""Synthetic journals and run folders: an independent statement of the format.

make_journal(n) gives the lines of a plausible night: baseline seeds, n experiments with repairs,
confirmations, crashes of every kind, and an unfinished tail. write_run puts them, with the files of
each experiment, into a folder.
"""

import hashlib
import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

IDEAS = [
    ("DEPTH 8 -> 9", "architecture"),
    ("TOTAL_BATCH_SIZE 2**19 -> 2**18", "tune"),
    ("add 5% warm-up", "schedule"),
    ("warm-down 0.5 -> 0.7", "schedule"),
    ("short window 1/8 of the context", "architecture"),
    ("embedding LR 0.6 -> 0.8", "tune"),
    ("RoPE base 10k -> 200k", "tune"),
    ("remove the value embeddings of odd layers", "simplify"),
    ("Muon 5 -> 6 steps", "optimizer"),
    ("SwiGLU in place of relu squared", "architecture"),
    ("final LR 0 -> 5%", "schedule"),
    ("parallel attention and MLP", "architecture"),
]
FAILURES = [
    ("crash", "RuntimeError: shape '[8, 2048, 5, 128]' is invalid for input of size 8388608"),
    ("oom", "CUDA out of memory"),
    ("nan", "train_loss became nan at step 212"),
    ("timeout", "no finish within 300 + 60 s"),
    ("invalid_patch", "N_EMBD 640 is not divisible by HEAD_DIM 96"),
]


class Clock:
    """Writes journal lines with rising seq and time."""

    def __init__(self, start: datetime):
        self.now, self.lines = start, []

    def add(self, event: str, after: float = 0.05, **fields) -> dict:
        self.now += timedelta(seconds=after)
        stamp = self.now.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        self.lines.append({"seq": len(self.lines), "time": stamp, "event": event, **fields})
        return self.lines[-1]


def make_settings(
    tag: str = "nov23", budget_seconds: float = 300.0, device: dict | None = None, **changes
) -> dict:
    """run.json of a run; changes replace whole top-level fields."""
    return {
        "format_version": 1,
        "tag": tag,
        "created": "2026-11-23T22:00:00.000Z",
        "run_seed": 1,
        "profile": {
            "name": "large",
            "source": "python-stdlib",
            "vocab_size": 8192,
            "max_seq_len": 2048,
            "eval_tokens": 262144,
            "budget_seconds": budget_seconds,
            "baseline_seeds": 3,
            "constants": {"DEPTH": 9},
            "prior": {"sigma": 0.0009, "df": 4, "note": "measured on an H200"},
        },
        "seeds": [1, 2, 3],
        "device": device or {"kind": "cuda", "name": "NVIDIA H200", "memory_mb": 143000},
        "dtype": "bfloat16",
        "compile": True,
        "threads": None,
        "data_id": "python-stdlib-3.11.7-1a2b3c4d-v8192-t2048-e262144",
        "data_hash": "d" * 64,
        "data_folder": "/cache/x",
        "harness_hash": "a" * 64,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "base_commit": "b" * 40,
        **changes,
    }


def make_journal(
    n: int,
    *,
    seed: int = 0,
    tag: str = "nov23",
    baseline_seeds: int = 3,
    budget: float = 300.0,
    start_bpb: float = 0.9979,
    sigma: float = 0.0008,
    step: float = 0.012,
    crash_rate: float = 0.08,
    unfinished: bool = True,
    git: bool = True,
    start: datetime = datetime(2026, 11, 23, 22, 0, 0, tzinfo=UTC),
) -> list[dict]:
    """Journal lines of n decided experiments after the baseline.

    unfinished: one more is in its training.
    """
    rng, clock = random.Random(seed), Clock(start)
    clock.add(
        "opened",
        tag=tag,
        seeds=list(range(1, baseline_seeds + 1)),
        max_confirmations=2,
        prior={"sigma": sigma * 1.1, "df": 4, "note": "measured on an H200"},
    )
    _propose(clock, 0, "baseline", "baseline", "harness", None)
    values = [
        _run(clock, rng, 0, 0, run, "score", budget, start_bpb + rng.gauss(0, sigma))
        for run in range(baseline_seeds)
    ]
    best = {"experiment": 0, "values": values, "true": start_bpb}
    _decide(
        clock,
        0,
        0,
        "baseline",
        "ok",
        "baseline",
        values,
        best,
        sigma,
        title="baseline",
        category="baseline",
        proposer="harness",
        git=git,
    )
    for number in range(1, n + 1):
        best = _experiment(
            clock, rng, number, best, budget, sigma, step / (1 + number / 8), crash_rate, git
        )
    if unfinished:
        _propose(clock, n + 1, "QK scale 1.0 -> 1.15", "tune", "tpe", best["experiment"], after=4)
        clock.add("run_started", experiment=n + 1, attempt=0, run=0, kind="score", seed=1)
    return clock.lines


def _experiment(clock, rng, number, best, budget, sigma, step, crash_rate, git) -> dict:
    title, category = rng.choice(IDEAS)
    proposer = rng.choice(["tpe", "llm"])
    shared = dict(title=title, category=category, proposer=proposer, git=git)
    _propose(clock, number, title, category, proposer, best["experiment"], after=rng.uniform(2, 20))
    attempt = 0
    if rng.random() < 0.05:  # a repaired attempt
        clock.lines[-1].update(ok=False, reasons=["build_model is gone"])
        attempt = 1
        _propose(clock, number, title, category, proposer, best["experiment"], attempt=1, after=6)
    if rng.random() < crash_rate:
        status, cause = rng.choice(FAILURES)
        if status == "invalid_patch":
            clock.lines[-1].update(ok=False, reasons=[cause])
        else:
            _run(clock, rng, number, attempt, 0, "score", budget, None, status=status, cause=cause)
        _decide(clock, number, attempt, "discard", status, status, [], best, sigma, **shared)
        return best
    true = (
        best["true"]
        + step * (rng.expovariate(1.0) - 0.8)
        + (rng.uniform(0.05, 0.4) if rng.random() < 0.03 else 0)
    )
    values = [_run(clock, rng, number, attempt, 0, "score", budget, true + rng.gauss(0, sigma))]
    mean = sum(best["values"]) / len(best["values"])
    while True:
        gain = mean - sum(values) / len(values)
        threshold = 2.1 * sigma * math.sqrt(1 / len(values) + 1 / len(best["values"]))
        if len(values) == 3 or gain >= threshold or gain < 0.3 * threshold:
            break
        values.append(
            _run(
                clock,
                rng,
                number,
                attempt,
                len(values),
                "confirm",
                budget,
                true + rng.gauss(0, sigma),
            )
        )
    decision, kind = (
        ("keep", "gain")
        if gain >= threshold
        else ("discard", "worse" if gain < -threshold else "within noise")
    )
    if kind == "within noise" and category == "simplify" and gain > 0:
        decision, kind = "keep", "simplification"
    _decide(clock, number, attempt, decision, "ok", kind, values, best, sigma, **shared)
    return {"experiment": number, "values": values, "true": true} if decision == "keep" else best


def _propose(clock, number, title, category, proposer, parent, attempt=0, after=1.0):
    digest = hashlib.sha256(f"{number}/{attempt}".encode()).hexdigest()
    clock.add(
        "proposed",
        after,
        experiment=number,
        attempt=attempt,
        title=title,
        hypothesis=f"{title}: fewer steps wasted",
        category=category,
        proposer=proposer,
        parent=parent,
        sha256=digest,
        constants_changed={},
        bank_id=None,
    )
    clock.add("checked", 0.3, experiment=number, attempt=attempt, ok=True, reasons=[])


def _run(clock, rng, number, attempt, run, kind, budget, val_bpb, status="ok", cause=None):
    where = dict(experiment=number, attempt=attempt, run=run)
    clock.add("run_started", 0.2, **where, kind=kind, seed=run + 1)
    trained = budget if status in ("ok", "timeout") else budget * rng.random()
    total, memory = trained + rng.uniform(8, 14), 45000 * rng.uniform(0.9, 1.35)
    failed = status != "ok"
    clock.add(
        "trained",
        total + 0.2,
        **where,
        status=status,
        cause=cause,
        training_seconds=round(trained, 1),
        total_seconds=round(total, 1),
        num_steps=0 if failed else 953,
        total_tokens=0 if failed else 499_712_000,
        tok_per_sec=0 if failed else 1_665_000,
        memory_mb=round(memory, 1),
        memory_kind="vram",
        num_params=50_300_000,
    )
    if failed:
        return None
    score_seconds = round(rng.uniform(9, 12), 2)
    value = round(val_bpb, 8)
    clock.add(
        "scored",
        score_seconds + 0.1,
        **where,
        status="ok",
        cause=None,
        val_bpb=value,
        score_seconds=score_seconds,
    )
    return value


def _decide(
    clock,
    number,
    attempt,
    decision,
    status,
    kind,
    values,
    best,
    sigma,
    *,
    title,
    category,
    proposer,
    git,
):
    mean = sum(values) / len(values) if values else None
    first = number == 0
    incumbent = sum(best["values"]) / len(best["values"])
    gain = None if mean is None or first else incumbent - mean
    threshold = (
        None if gain is None else 2.1 * sigma * math.sqrt(1 / len(values) + 1 / len(best["values"]))
    )
    memory = 44.0 + number % 7 if values else None
    clock.add(
        "decided",
        0.1,
        experiment=number,
        attempt=attempt,
        decision=decision,
        status=status,
        kind=kind,
        val_bpb=mean,
        n_runs=len(values),
        gain=gain,
        sigma=sigma,
        df=5.0,
        threshold=threshold,
        verdict=_words(kind, gain, threshold),
        memory_gb=memory,
        title=title,
        category=category,
        proposer=proposer,
        incumbent=None if first else best["experiment"],
        incumbent_runs=None if first else len(best["values"]),
        code_lines=610,
        git={
            "base": "b" * 40,
            "parent": "b" * 40,
            "author": "lab <lab@localhost>",
            "date": clock.lines[-1]["time"],
        },
    )
    sha = hashlib.sha1(str(number).encode()).hexdigest()
    clock.add("committed", 0.05, experiment=number, commit=sha if git else None)


def _words(kind, gain, threshold):
    if gain is None:
        return "the yardstick of this run" if kind == "baseline" else "no score to judge"
    return f"{kind}: {gain:+.5f} against a threshold of {threshold:.5f}"


def crashes_only(n: int = 8) -> list[dict]:
    return make_journal(n, crash_rate=1.0, seed=5, unfinished=False)


CONSTANTS = {
    "DEPTH": 8,
    "MATRIX_LR": 0.04,
    "WINDOW": "SL",
    "WARMUP": 0.0,
    "HEADS": 4,
    "DECAY": 0.2,
    "ROPE": 10000,
    "CAP": 15.0,
    "QK": 1.0,
}


def tuned(entries: list[dict], seed: int = 0) -> list[dict]:
    """The same journal, in which every experiment changed one to three constants of its parent."""
    rng, files = random.Random(seed), {0: CONSTANTS}
    for entry in entries:
        if entry["event"] == "proposed" and entry["experiment"]:
            parent = files[entry["parent"]]
            new = {
                name: _moved(rng, parent[name])
                for name in rng.sample(sorted(parent), rng.choice((1, 2, 3)))
            }
            changed = {name: [parent[name], value] for name, value in new.items()}
            files[entry["experiment"]] = parent | new
            entry |= {"category": "tune", "constants_changed": changed, "constants": parent | new}
        elif entry["event"] == "decided" and entry["experiment"]:
            entry["category"] = "tune"
    return entries


def _moved(rng: random.Random, value):
    if isinstance(value, str):
        return rng.choice(["SL", "L", "SSL $\\frac{"])
    return (
        value + rng.choice((1, 2))
        if isinstance(value, int)
        else round(value * rng.uniform(0.5, 2) + 0.01, 3)
    )


def nothing_kept(n: int = 9) -> list[dict]:
    """A night whose ideas all scored worse."""
    entries = make_journal(n, seed=6, crash_rate=0, step=0, unfinished=False)
    base = next(e["val_bpb"] for e in entries if e["event"] == "decided")
    for entry in entries:
        if entry["event"] == "decided" and entry["experiment"]:
            entry |= {
                "decision": "discard",
                "kind": "worse",
                "incumbent": 0,
                "val_bpb": base + 0.001 * entry["experiment"],
            }
            entry["gain"] = base - entry["val_bpb"]
    return tuned(entries)


def sigma_unknown(n: int = 9) -> list[dict]:
    """A night in which no file has a second run."""
    entries = make_journal(n, seed=6, unfinished=False)
    return tuned(
        [
            (
                entry | {"sigma": None, "df": 0, "threshold": None}
                if entry["event"] == "decided"
                else entry
            )
            for entry in entries
        ]
    )


def opened_only(tag: str = "nov23") -> list[dict]:
    return make_journal(0, tag=tag)[:1]


def write_run(
    results_dir: Path, entries: list[dict], settings: dict | None = None, files_of: int = 30
) -> Path:
    """Write results/<tag>/: run.json, journal.jsonl and the files of experiments.

    These are the first files_of ones.
    """
    settings = settings or make_settings()
    folder = Path(results_dir) / settings["tag"]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    # A test may have left some out.
    numbered = [{**entry, "seq": seq} for seq, entry in enumerate(entries)]
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in numbered)
    (folder / "journal.jsonl").write_text(lines, encoding="utf-8")
    scores = {
        (e["experiment"], e["attempt"], e["run"]): e["val_bpb"]
        for e in entries
        if e["event"] == "scored"
    }
    for entry in entries:
        if entry["event"] == "proposed" and entry["experiment"] <= files_of:
            _write_proposal(folder, entry)
        if entry["event"] == "trained" and entry["experiment"] <= files_of:
            _write_training(folder, entry, scores)
    return folder


def attempt_folder(folder: Path, entry: dict) -> Path:
    return (
        folder
        / "experiments"
        / f"{entry['experiment']:04d}"
        / "attempts"
        / f"{entry['attempt']:02d}"
    )


def _write_proposal(folder: Path, entry: dict) -> None:
    place = attempt_folder(folder, entry)
    place.mkdir(parents=True, exist_ok=True)
    proposal = {
        key: entry[key]
        for key in ("title", "hypothesis", "category", "proposer", "bank_id", "sha256", "parent")
    }
    (place / "proposal.json").write_text(json.dumps(proposal) + "\n", encoding="utf-8")
    (place / "train.py").write_text("DEPTH = 9   # layers, 1..24 int: depth\n", encoding="utf-8")
    diff = (
        "--- a/train.py\n"
        "+++ b/train.py\n"
        "@@ -12,2 +12,2 @@\n"
        " # === constants ===\n"
        "-DEPTH = 8\n"
        "+DEPTH = 9\n"
    )
    (place / "train.diff").write_text("" if entry["experiment"] == 0 else diff, encoding="utf-8")


def _write_training(folder: Path, entry: dict, scores: dict) -> None:
    place = attempt_folder(folder, entry) / "runs" / f"{entry['run']:02d}"
    place.mkdir(parents=True, exist_ok=True)
    rng, steps, seconds = random.Random(str(place.parts[-4:])), 120, entry["training_seconds"]
    score = scores.get((entry["experiment"], entry["attempt"], entry["run"]), 1.05)
    events = [{"t": 9.0, "event": "ready"}]
    for step in range(steps if entry["status"] == "ok" else 40):
        progress = step / steps
        loss = 2.75 * score + 5.5 * math.exp(-9 * progress) - 0.12 * progress + rng.gauss(0, 0.02)
        events.append(
            {
                "t": round(9 + progress * seconds, 2),
                "event": "step",
                "step": step,
                "progress": progress,
                "train_loss": round(loss, 5),
                "tok_per_sec": 1_665_000 + rng.gauss(0, 9000),
            }
        )
    if entry["status"] == "ok":
        events.append({"t": 9 + seconds, "event": "finish"})
    (place / "events.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in events), encoding="utf-8"
    )
    log = "".join(
        f"step {e['step']:05d} | loss {e['train_loss']:.4f}\n"
        for e in events
        if e["event"] == "step"
    )
    log += (
        f"---\nval_bpb: {score:.6f}\n"
        if entry["status"] == "ok"
        else f"Traceback (most recent call last):\n{entry['cause']}\n"
    )
    (place / "run.log").write_text(log, encoding="utf-8")
