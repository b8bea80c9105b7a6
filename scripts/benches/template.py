"""Part `template`: the template trained and scored as in a night, and where its steps go.

The split of a step is gpu_check's: its session marks the borders of loading, forward, backward and
optimizer in the real template, and its classes of work are those of `gpu/split.py`. What no
operator accounts for between the marks is Python and dispatch.
"""

from __future__ import annotations

import math
import statistics
import time

from gpu.parts import run_part
from gpu.profiling import PROFILED_STEPS, padded_sizes
from gpu.settings import Settings
from gpu.split import find_phases

from benches.machine import Rates, build, measure_pace
from benches.markdown import table
from benches.setup import Bench, BenchError
from harness.ground.files import read_json
from harness.sandbox.child import SPIN_COUNT
from harness.search.constants import constant_values

PROFILES = 5  # of which the median counts
REST = "Python and dispatch"  # what no operator of torch accounts for
MATMULS = ("linears", "head")


def template_section(bench: Bench, rates: Rates) -> str:
    """val_bpb over seeds, FLOP/s against the machine's, and the split of a step."""
    runs = [train_and_score(bench, seed) for seed in range(1, bench.seeds + 1)]
    text = [
        "## Template",
        scores_table(bench, runs),
        flops_table(bench, rates, runs),
        split_text(bench, rates),
    ]
    return "\n\n".join(text)


def train_and_score(bench: Bench, seed: int) -> dict:
    """One seed: the runner's result with val_bpb, seconds of the whole, the machine's pace.

    The pace is measured just before.
    """
    name, pace = f"seed{seed}", measure_pace(bench.quick)
    cache = bench.work / "compiled"  # by the first seed, as in a night
    began = time.monotonic()
    result = bench.train(name, seed, bench.seconds, compile_cache=str(cache))
    trained = time.monotonic()
    score = bench.score(name)
    ended = time.monotonic()
    times = {
        "train_seconds": trained - began,
        "score_seconds": ended - trained,
        "whole_seconds": ended - began,
    }
    return result | times | {"seed": seed, "val_bpb": score.val_bpb, "pace": pace}


def scores_table(bench: Bench, runs: list[dict]) -> str:
    """A line a seed, then the mean and, from two seeds on, the sample's standard deviation."""
    head = {
        "tokens/s": "tok_per_sec",
        "steps": "num_steps",
        "epochs": "epochs",
        "start-up, s": "startup_seconds",
        "training, s": "training_seconds",
        "scoring, s": "score_seconds",
        "**whole process, s**": "whole_seconds",
        "memory, MB": "memory_mb",
    }
    columns = {name: [run[key] for run in runs] for name, key in head.items()}
    columns["fp32 GFLOP/s before"] = [run["pace"].flops / 1e9 for run in runs]
    scores = [run["val_bpb"] for run in runs]
    lines = [
        [run["seed"], f"{run['val_bpb']:.4f}", *(values[i] for values in columns.values())]
        for i, run in enumerate(runs)
    ]
    lines += [
        [
            "**mean**",
            f"**{statistics.mean(scores):.4f}**",
            *(float(statistics.mean(values)) for values in columns.values()),
        ]
    ]
    if len(runs) > 1:
        lines += [
            [
                "standard deviation",
                f"{statistics.stdev(scores):.4f}",
                *(statistics.stdev(values) for values in columns.values()),
            ]
        ]
    words = (
        f"Profile {bench.profile.name} with {bench.seconds:g} s of training, by the real runner and"
        f" scorer; {bench.data.data_id}."
    )
    return (
        words
        + "\n\n"
        + table(["seed", "val_bpb", *columns], lines)
        + pace_line([run["num_steps"] for run in runs], scores)
    )


def pace_line(steps: list[int], scores: list[float]) -> str:
    """What the machine's pace did to the scores: least squares of val_bpb against ln(steps).

    Beside it stands what is left of their spread without it.

    Empty below four seeds or where the pace was the same for all, since a line would then say
    nothing.
    """
    if len(scores) < 4 or len(set(steps)) == 1:
        return ""
    logs = [math.log(count) for count in steps]
    slope, intercept = statistics.linear_regression(logs, scores)
    squares = sum(
        (score - slope * log - intercept) ** 2 for log, score in zip(logs, scores, strict=True)
    )
    left = math.sqrt(squares / (len(scores) - 2))
    return (
        f"\n\nLeast squares: val_bpb changes by {slope:+.2f} for each unit of ln(steps),"
        " the machine's pace; about that line the seeds lie with a standard deviation of"
        f" {left:.4f} ({len(scores) - 2} degrees of freedom):"
        " what a machine with a steady pace would see."
    )


def flops_table(bench: Bench, rates: Rates, runs: list[dict]) -> str:
    """What the template computes in a second beside what the machine can."""
    model = build(bench)
    count = getattr(model, "flops_per_token", lambda max_seq_len: rates.flops_per_token)(
        bench.data.max_seq_len
    )
    speed = statistics.mean(run["tok_per_sec"] for run in runs)
    achieved, dtype = count * speed, bench.settings.dtype
    lines = [
        ("parameters, M", sum(p.numel() for p in model.parameters()) / 1e6),
        ("MFLOP per token, by the template's own count", count / 1e6),
        ("MFLOP per token, products of matrices as executed", rates.flops_per_token / 1e6),
        ("**achieved, GFLOP/s**, by the template's own count", achieved / 1e9),
        *(
            (f"% of {name} at 1024^3 ({rate / 1e9:,.0f} GFLOP/s)", 100 * achieved / rate)
            for name, rate in rates.square.items()
        ),
        (
            f"% of {dtype} at the model's own shapes ({rates.model[dtype] / 1e9:,.0f} GFLOP/s)",
            100 * achieved / rates.model[dtype],
        ),
    ]
    return "### Against the machine\n\n" + table(["what", "value"], lines)


def split_text(bench: Bench, rates: Rates) -> str:
    """Milliseconds of each class of work in a step, medians over some profiled trainings."""
    rows = [profile_steps(bench, number) for number in range(1 if bench.quick else PROFILES)]
    step, profiled = (
        statistics.median(row[key] for row in rows) for key in ("step_ms", "profiled_ms")
    )
    split = {
        name: statistics.median(row["split_ms"][name] for row in rows)
        for name in rows[0]["split_ms"]
    }
    alone = alone_ms(bench, rates)
    lines = [(name, ms, 100 * ms / profiled, alone.get(name)) for name, ms in split.items()]
    lines.append(
        (REST, profiled - sum(split.values()), 100 - 100 * sum(split.values()) / profiled, None)
    )
    lines.append(("**step, profiled**", profiled, 100.0, sum(alone.values())))
    lines.append(("a step without profiler", step, 100 * step / profiled, None))
    unknown = list(dict.fromkeys(name for row in rows for name in row["unclassified"]))
    words = (
        f"Medians of {len(rows)} profiled trainings; how each class is told:"
        " `scripts/gpu/split.py`. The profiler slows small operators and Python down, so the"
        " shares of many small pieces are rather less than stated. *alone*: the same products of"
        " matrices at the rates above."
    )
    text = [
        "### Where a step's time goes",
        words,
        table(["class", "ms", "% of the profiled step", "alone, ms"], lines),
    ]
    return "\n\n".join(
        text + [f"Unclassified: {', '.join(f'`{name}`' for name in unknown[:5])}."] * bool(unknown)
    )


def alone_ms(bench: Bench, rates: Rates) -> dict[str, float]:
    """Milliseconds of the products in one step, each alone: (the head's, the other matrices').

    Those of attention are not among them.
    """
    constants = constant_values(bench.train_py.read_text(encoding="utf-8"))
    passes = constants["TOTAL_BATCH_SIZE"] / (bench.device_batch_rows * bench.data.max_seq_len)
    vocabulary = {bench.data.n_vocab, *padded_sizes(build(bench), bench.data.n_vocab)}
    times = dict.fromkeys(MATMULS, 0.0)
    for product, count in rates.products.items():
        if len(product.a[0]) == 2:
            name = "head" if vocabulary & {*product.a[0], *product.b[0]} else "linears"
            times[name] += (
                1000 * passes * count * product.flops / rates.alone[bench.settings.dtype][product]
            )
    return times


def profile_steps(bench: Bench, number: int) -> dict:
    """gpu_check's profile of the template, on the CPU, in a process of its own.

    `profiled_ms` is added, the wall clock of a profiled step.
    """
    folder = bench.work / f"profile{number}"
    folder.mkdir()
    (folder / "data").symlink_to(bench.data.folder.resolve())
    constants = constant_values(bench.train_py.read_text(encoding="utf-8"))
    settings = Settings(
        str(folder),
        "cpu",
        bench.settings.compile,
        bench.data.max_seq_len,
        shapes={"template": constants},
        eval_tokens={},
        corpus_bytes=0,
        matmul_size=0,
        copy_mb=0,
        attention_shape=(0, 0, 0),
        short_windows=(),
        timing_seconds=0.0,
        train_seconds=0.3 if bench.quick else 3.0,
        long_seconds=0.0,
        startup_seconds=0.0,
        loop_options=(),
        loop_seconds=0.0,
        environment={"GOMP_SPINCOUNT": SPIN_COUNT, "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE": "1"},
    )
    row = run_part("gpu.profiling", ["template"], settings, time.monotonic() + 600, 300)["template"]
    if "split_ms" not in row:
        raise BenchError(f"no step could be profiled: {row.get('failed')}")
    spans = [
        span for span in read_json(folder / "trace.json")["traceEvents"] if span.get("ph") == "X"
    ]
    microseconds = sum(end - start for start, end, _ in find_phases(spans))
    return row | {"profiled_ms": microseconds / 1000 / PROFILED_STEPS}
