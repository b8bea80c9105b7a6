"""Parts `prepare`, `loader`, `startup`, `scoring`: what surrounds the steps of a training."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_model

from benches.machine import Rates, build
from benches.markdown import table
from benches.setup import Bench, BenchError
from harness.data.loader import TrainRows
from harness.ground.files import write_json_atomic
from harness.sandbox.child import child_environment
from harness.scoring import scorer
from harness.scoring.server import token_losses
from harness.training import attention

LEAST_LOADER_RATIO = 50  # times what training consumes
STEPS = 12  # of a stamped start: the first, and some to compare it with


def prepare_section(bench: Bench, rates: Rates) -> str:
    """The tables of scripts/bench_prepare.py, which says how they are made; --quick has but one."""
    import bench_prepare

    if bench.quick:
        return "## Prepare\n\n" + bench_prepare.ratio_table(2_000_000, 1)
    text = ["## Prepare", bench_prepare.whole_table(0.3)]
    text += ["Text to rows, against the original's method:", bench_prepare.ratio_table(48_000_000)]
    return "\n\n".join(
        [
            *text,
            "Bytes of text that stand in the rows, per byte of text:",
            bench_prepare.kept_table(),
        ]
    )


def loader_section(bench: Bench, rates: Rates) -> str:
    """Batches as a training takes them, without the training."""
    rows, tokens = bench.device_batch_rows, bench.device_batch_rows * bench.data.max_seq_len
    began = time.perf_counter()
    batches = TrainRows.of_folder(bench.data.train_dir).batches(rows, "cpu", 1)
    next(batches)
    first = time.perf_counter() - began
    seconds, used, count = time_batches(batches, 0.05 if bench.quick else 2.0)
    loaded, consumed = tokens * count / seconds, bench.short_run["tok_per_sec"]
    ratio = loaded / consumed
    verdict = "reached" if ratio >= LEAST_LOADER_RATIO else "missed"
    lines = [
        ("loader alone, tokens/s", loaded),
        ("the same by its CPU seconds", tokens * count / used),
        ("training consumes, tokens/s", consumed),
        (f"**ratio** (at least {LEAST_LOADER_RATIO}: {verdict})", f"{ratio:,.0f}"),
        ("share of training spent on loading, %", 100 / ratio),
        (f"one batch of {rows} x {bench.data.max_seq_len}, ms", 1000 * seconds / count),
        ("opening the rows and the first batch, ms", 1000 * first),
    ]
    return "## Loader\n\n" + table(["what", "value"], lines)


def time_batches(batches: Iterator, least_seconds: float) -> tuple[float, float, int]:
    """(seconds, CPU seconds, batches)"""
    began, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < least_seconds:
        for _ in range(10):
            next(batches)
        count += 10
    return time.perf_counter() - began, time.process_time() - used, count


def startup_section(bench: Bench, rates: Rates) -> str:
    """From the launch of a training to its first steps, part by part: the median of some starts."""
    starts = [stamped_start(bench) for _ in range(1 if bench.quick else 5)]
    parts = [part for part, _, _ in starts[0]]
    medians = {
        part: [
            statistics.median(values)
            for values in zip(*(start[i][1:] for start in starts), strict=True)
        ]
        for i, part in enumerate(parts)
    }
    before = {part: figures for part, figures in medians.items() if not part.startswith("step ")}
    whole = [sum(figures) for figures in zip(*before.values(), strict=True)]
    lines = [
        (part, seconds, cpu, 100 * seconds / whole[0]) for part, (seconds, cpu) in before.items()
    ]
    lines += [("**launch to `ready`**", *whole, 100.0)]
    lines += [
        ("the same in a run, by the runner's clock", bench.short_run["startup_seconds"], None, None)
    ]
    later = [
        statistics.median(medians[f"step {n}"][i] for n in range(3, STEPS + 1)) for i in (0, 1)
    ]
    lines += [
        ("the first step, on the clock", *medians["step 1"], None),
        ("a later step", *later, None),
    ]
    return f"## Start-up\n\nMedians of {len(starts)} starts.\n\n" + table(
        ["part", "seconds", "CPU seconds", "%"], lines
    )


def stamped_start(bench: Bench) -> list[tuple[str, float, float]]:
    """Start a training in a process of its own, as the runner would; return its stamps."""
    folder = bench.work / "startup"
    folder.mkdir(exist_ok=True)
    request = folder / "run.json"
    write_json_atomic(request, asdict(bench.request("startup", 1, 600.0)))
    script = Path(__file__).with_name("stamps.py")
    launched = time.monotonic()
    command = [
        sys.executable,
        "-P",
        str(script),
        str(launched),
        str(bench.train_py),
        str(request),
        str(STEPS),
    ]
    environment = child_environment(TORCHINDUCTOR_CACHE_DIR=str(folder / "compile_cache"))
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise BenchError(
            f"the stamped start ended with {done.returncode}:"
            f" {' '.join(done.stderr.splitlines()[-1:])}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def scoring_section(bench: Bench, rates: Rates) -> str:
    """Scoring as after every training, part by part.

    The server's start, the evaluation behind its pipe, and the same without server and pipe.
    """
    bench.short_run  # noqa: B018  its weights are scored
    scorings = []
    for _ in range(1 if bench.quick else 3):
        began, ready, marks = time.monotonic(), [], []
        with mock.patch.object(scorer, "ModelServer", stamping_server(ready)):
            score = bench.score("short", lambda share, marks=marks: marks.append(time.monotonic()))
        scorings.append((score.seconds, ready[0] - began, marks[-1] - ready[0]))
    whole, start, evaluation = (statistics.median(values) for values in zip(*scorings, strict=True))
    plain = evaluate_here(bench)
    tokens = len(score.losses) * bench.data.max_seq_len
    budget = bench.profile.budget_seconds
    lines = [
        ("start of the model server", start, None, 100 * start / whole),
        ("evaluation", evaluation, tokens / evaluation, 100 * evaluation / whole),
        (
            "the scorer's sums and the end",
            whole - start - evaluation,
            None,
            100 * (whole - start - evaluation) / whole,
        ),
        ("**whole**", whole, tokens / whole, 100.0),
        ("evaluation without server and pipe", plain, tokens / plain, 100 * plain / whole),
    ]
    rate = tokens * rates.flops_per_token / 3 / evaluation
    alone = rates.model[bench.settings.dtype]
    words = (
        f"{tokens:,} tokens. Scoring takes {100 * whole / budget:.1f}% of a budget of {budget:g} s;"
        f" the pipe and the server make the evaluation {evaluation / plain:.2f} times as long; it"
        f" multiplies {rate / 1e9:.1f} GFLOP/s, {100 * rate / alone:.0f}%"
        " of what the products of a training step reach alone."
    )
    return "## Scoring\n\n" + table(["part", "seconds", "tokens/s", "%"], lines) + "\n\n" + words


def stamping_server(ready: list[float]) -> type[scorer.ModelServer]:
    """The scorer's server, which notes when it is ready."""

    class StampingServer(scorer.ModelServer):
        def __enter__(self) -> StampingServer:
            super().__enter__()
            ready.append(time.monotonic())
            return self

    return StampingServer


def evaluate_here(bench: Bench) -> float:
    """Seconds to evaluate the same rows in this process, the model ready."""
    rows = np.memmap(bench.data.private_dir / "val.bin", dtype="<u2", mode="r").reshape(
        -1, bench.data.max_seq_len + 1
    )
    dtype = getattr(torch, bench.settings.dtype)
    attention.select(torch.device("cpu"), dtype, bench.data.max_seq_len)
    model = build(bench)
    load_model(model, bench.work / "short" / "weights.safetensors")
    model.eval()
    began = time.perf_counter()
    for _, batch in scorer.iter_batches(rows, bench.data.manifest["eval_batch_rows"]):
        token_losses(model, torch.from_numpy(batch.astype(np.int64)), bench.data.n_vocab, dtype)
    return time.perf_counter() - began
