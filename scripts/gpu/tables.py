"""gpu_check's results as Markdown.

In: rows of each part, as far as there are any. Out: text. Standard library only.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from benches.markdown import cell, table

Rows = dict[str, dict]
TARGET = (
    "545M tokens in 300 s, 1.82M tokens/s:"
    " the target at the original's shape on an H200 without FA3"
)
DRY_WORDS = "CPU dry run: figures say nothing about a GPU; CUDA unmeasured"


def document(
    results: dict[str, Rows], ranked: dict[str, list[str]], dry: bool, compiled: bool = True
) -> str:
    """All parts that there are results of, in order, below a heading that names the device."""
    versions = results.get("machine", {}).get("versions", {})
    name = versions.get("device", "unknown device")
    text = [
        f"# gpu_check: {name}",
        (
            "Made by `python"
            f" scripts/gpu_check.py{' --dry-run' if dry else ''}{'' if compiled else ' --eager'}`,"
            f" {datetime.date.today():%Y-%m-%d}."
        ),
    ]
    text += [f"**{DRY_WORDS}.**"] if dry else []
    for part, section in SECTIONS.items():
        if part in results:
            text += [section(results[part])]
            if part == "attention":
                text += [ranking_sentence(ranked)]
    return "\n\n".join(text) + "\n"


def machine(rows: Rows) -> str:
    pairs = [
        (key, value)
        for row in rows.values()
        for key, value in row.items()
        if key not in ("seconds", "failed")
    ]
    pairs += [(task, f"failed: {row['failed']}") for task, row in rows.items() if "failed" in row]
    return "## Machine\n\n" + table(["what", "value"], pairs)


def first(rows: Rows) -> str:
    lines = [
        (
            task,
            row.get("works")
            or row.get("failed")
            or f"full {row['full']}, windowed {row['windowed']}"
            + f"; rejected: {row['rejected']}" * bool(row["rejected"]),
            row.get("seconds"),
        )
        for task, row in rows.items()
    ]
    return "## First of all\n\n" + table(["tried", "found", "seconds"], lines)


def experiment(rows: Rows) -> str:
    """A line an entry of the journal."""
    text = ["## One experiment through the whole loop"]
    for row in rows.values():
        ended = row.get("failed") or f"{row['whole_seconds']:.0f} s in all"
        text += [f"{row.get('way', '')}: {ended}".strip(": ")]
        head = ["second", "experiment/run", "event", "what came of it"]
        text += [table(head, row["events"])] if row.get("events") else []
    return "\n\n".join(text)


def corpus(rows: Rows) -> str:
    return "## Corpus\n\n" + table(
        ["what", "value"], [pair for row in rows.values() for pair in row.items() if pair[1] != ""]
    )


def attention(rows: Rows) -> str:
    """One line a rung and kind.

    The worst errors over its cases, milliseconds at the timing shape, and what went wrong.
    """
    lines = []
    for key in dict.fromkeys(task.rpartition("/")[0] for task in rows):
        own = {
            task.rpartition("/")[2]: row
            for task, row in rows.items()
            if task.rpartition("/")[0] == key
        }
        checked = [row for row in own.values() if "right" in row]
        worst = [
            max((row[name] for row in checked), default=None) for name in ("forward", "backward")
        ]
        times = [row for row in own.values() if "both_ms" in row]
        number = sum(not check.startswith("time") for check in own)
        lines.append(
            [*key.split("/"), f"{sum(row['right'] for row in checked)} of {number}", *worst]
            + [
                " / ".join(cell(row[name]) for row in times)
                for name in ("window", "forward_ms", "both_ms", "tflops")
            ]
            + [trouble(own)]
        )
    head = [
        *("layers", "rung", "cases right", "error forward"),
        *("error backward", "window", "ms forward", "ms with backward"),
    ]
    head += ["TFLOP/s forward", "what is wrong"]
    note = (
        "Errors: the largest over all cases, as a share of"
        " the largest value that the float32 formula gives."
    )
    return f"## Attention\n\n{note}\n\n" + table(head, lines)


def trouble(own: Rows) -> str:
    """Reasons of failed checks, those alike once; and which cases are wrong."""
    reasons: dict[str, list[str]] = {}
    for check, row in own.items():
        if "failed" in row:
            reasons.setdefault(row["failed"], []).append(check)
        elif not row.get("right", True):
            reasons.setdefault(f"wrong: {row['case']}", []).append(check)
    if len(reasons) == 1 and len(next(iter(reasons.values()))) == len(own):
        return f"not available: {next(iter(reasons))}"
    return "; ".join(f"{', '.join(checks)}: {reason}" for reason, checks in reasons.items())


def ranking_sentence(ranked: dict[str, list[str]]) -> str:
    """Rungs by time, for comparison with the order of harness.training.attention.ladder."""
    return (
        "Right in every case, fastest first: "
        + "; ".join(f"{kind} {', '.join(names) or 'none'}" for kind, names in ranked.items())
        + "."
    )


def large(rows: Rows) -> str:
    return training(rows, "The profile for large cards, first of all")


def training(rows: Rows, title: str = "Training") -> str:
    head = {
        "full": "full",
        "windowed": "windowed",
        "device batch": "device_batch",
        "total batch": "total_batch",
        "params, M": "params_M",
        "MFLOP/token": "flops_per_token_M",
        "tokens/s": "tok_per_sec",
        "step, ms": "step_ms",
        "MFU, %": "mfu_percent",
        "TFLOP/s": "model_tflops",
        "peak, MB": "peak_mb",
        "start-up, s": "startup_seconds",
        "graphs": "graphs",
        "on the clock": "graphs_on_the_clock",
        "graph breaks": "graph_breaks",
        "first loss": "first_loss",
        "last loss": "last_loss",
    }
    lines = [
        [
            task,
            *(row.get(key) for key in head.values()),
            300 * row["tok_per_sec"] / 1e6 if "tok_per_sec" in row else None,
        ]
        + [
            "; ".join(
                filter(
                    None,
                    [row.get("failed"), row.get("rejected"), *row.get("graph_break_reasons", [])],
                )
            )
        ]
        for task, row in rows.items()
    ]
    note = (
        "MFU by the template's own count (as the original's: no causal halving)."
        " On the clock: graphs compiled after the clock had started,"
        f" which cost training time; none should be. {TARGET}."
    )
    return f"## {title}\n\n{note}\n\n" + table(
        ["shape and attention", *head, "M tokens in 300 s", "notes"], lines
    )


def split(rows: Rows) -> str:
    """A column per shape: milliseconds and share of a step for each class, idle last."""
    good = {task: row for task, row in rows.items() if "split_ms" in row}
    text = [
        "## Where a step's time goes",
        (
            "From torch.profiler's trace, the device waited for between loading,"
            " forward, backward and optimizer; how each class is told:"
            " `scripts/gpu/split.py`. Idle: a step measured without profiler,"
            " less all of it; a negative one means that the profiler slowed the work down."
        ),
    ]
    for task, row in good.items():
        parts = row["split_ms"] | {"idle": row["step_ms"] - sum(row["split_ms"].values())}
        lines = [(name, ms, f"{100 * ms / row['step_ms']:.1f}") for name, ms in parts.items()]
        lines += [
            ("**step**", row["step_ms"], "100"),
            ("loader, on the host", row["loader_host_ms"], ""),
        ]
        text += [table([task, "ms", "% of the step"], lines)]
        text += (
            [f"Longest unclassified: {', '.join(f'`{name}`' for name in row['unclassified'])}."]
            if row["unclassified"]
            else []
        )
    text += [f"{task}: {row['failed']}" for task, row in rows.items() if "failed" in row]
    return "\n\n".join(text)


def startup(rows: Rows) -> str:
    head = {
        "to session": "to_open",
        "to training": "to_ready",
        "training": "training",
        "whole": "to_end",
        "steps": "num_steps",
        "tokens/s": "tok_per_sec",
        "attention": "attention",
    }
    lines = [
        [task, *(row.get(key) for key in head.values()), row.get("failed")]
        for task, row in rows.items()
    ]
    return (
        "## Start-up of a whole run, seconds from its launch\n\n"
        "Cold: compile cache empty; warm: filled by the run before.\n\n"
        + table(["compile cache", *head, "failed"], lines)
    )


def evaluation(rows: Rows) -> str:
    lines = [
        [
            task,
            row.get("tokens"),
            row.get("scoring_seconds"),
            row["tokens"] / row["scoring_seconds"] if "tokens" in row else None,
        ]
        + [row.get("val_bpb"), row.get("weights"), row.get("failed")]
        for task, row in rows.items()
    ]
    head = [
        *("size", "scored tokens", "seconds with the server's start"),
        *("tokens/s", "val_bpb of these rows", "weights", "failed"),
    ]
    return "## Evaluation\n\n" + table(head, lines)


SECTIONS: dict[str, Callable[[Rows], str]] = {
    "machine": machine,
    "first": first,
    "corpus": corpus,
    "large": large,
    "experiment": experiment,
    "attention": attention,
    "training": training,
    "profile": split,
    "start-up": startup,
    "evaluation": evaluation,
}
