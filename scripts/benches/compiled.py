"""Part `compiled`: what torch.compile is worth on a CPU, where no profile uses it.

The template trains eager and compiled in turn, seed by seed, on the CPU clock. The first compiled
training finds no compiled code (cold), the others that of the one before (warm), as experiments of
a night do whose change leaves the compiled functions as they are.
"""

from __future__ import annotations

import statistics

from benches.machine import Rates
from benches.markdown import table
from benches.setup import Bench

WAYS = {"eager": False, "compiled": True}


def compiled_section(bench: Bench, rates: Rates) -> str:
    """A line a training, then what compiling gives and costs."""
    cache = str(bench.work / "compiled_code")
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    for seed in range(1, bench.seeds + 1):
        for way, compiles in WAYS.items():
            name = f"{way}{seed}"
            how = {"compile": compiles, "startup_limit_seconds": 900.0}
            how |= {"compile_cache": cache if compiles else None}
            result = bench.train(name, seed, bench.seconds, **how)
            runs[way].append(result | {"seed": seed, "val_bpb": bench.score(name).val_bpb})
    lines = [
        [way, run["seed"], f"{run['val_bpb']:.4f}", run["num_steps"], run["startup_seconds"]]
        + [run["wall_seconds"], run["memory_mb"]]
        for way, own in runs.items()
        for run in own
    ]
    head = ["how", "seed", "val_bpb", "steps", "start-up, s", "training, s", "memory, MB"]
    words = f"Profile {bench.profile.name}, {bench.seconds:g} s of the CPU clock each, in turn."
    return f"## Compiled\n\n{words}\n\n{table(head, lines)}\n\n{verdict_words(runs)}"


def verdict_words(runs: dict[str, list[dict]]) -> str:
    """What compiling gives in steps and bpb, and what a cold and a warm start cost."""
    steps = [
        compiled["num_steps"] / eager["num_steps"]
        for eager, compiled in zip(runs["eager"], runs["compiled"], strict=True)
    ]
    gains = [
        eager["val_bpb"] - compiled["val_bpb"]
        for eager, compiled in zip(runs["eager"], runs["compiled"], strict=True)
    ]
    cold, *warm = (run["startup_seconds"] for run in runs["compiled"])
    eager = statistics.mean(run["startup_seconds"] for run in runs["eager"])
    words = (
        f"Compiled it does {statistics.mean(steps):.2f} times the steps for the same charge "
        f"({min(steps):.2f} to {max(steps):.2f}), and gains {statistics.mean(gains):+.4f} bpb "
        f"({min(gains):+.4f} to {max(gains):+.4f}). It starts in {cold:.0f} s cold"
    )
    words += f" and {statistics.mean(warm):.0f} s warm" if warm else ""
    return f"{words}, eager in {eager:.0f} s."
