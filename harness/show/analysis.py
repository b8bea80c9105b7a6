"""A run in, short tables out: outcomes, keep rate, best by gain, time use, training curves, and whether runs compare.

Reads events.jsonl of the trainings asked for and writes nothing. All of it works on a run in progress, an empty one,
one of crashes only, and on the original's bare file, for which what was never measured is NaN or an empty table.
"""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from harness.ground.errors import AnalysisError
from harness.run.facts import FACTS, plain_settings
from harness.run.noise import KNOWN_DF
from harness.run.records import OUTCOMES
from harness.run.records import time_use as seconds_of
from harness.show.frame import RunData, choose_run, choose_runs, list_runs, load_results_tsv, load_run, run_folders

__all__ = [
    "AnalysisError",
    "RunData",
    "best_by_gain",
    "choose_run",
    "choose_runs",
    "compare_runs",
    "curves",
    "final_losses",
    "keep_rate",
    "list_runs",
    "load_results_tsv",
    "load_run",
    "outcome_counts",
    "run_folders",
    "table_html",
    "time_use",
]

CURVE_COLUMNS = ("run", "t", "step", "progress", "train_loss", "tok_per_sec")


def outcome_counts(run: RunData) -> pd.DataFrame:
    """Experiments and their share by outcome, in the order of OUTCOMES; the share leaves the baseline out."""
    counts = run.experiments["outcome"].value_counts().reindex(list(OUTCOMES), fill_value=0)
    candidates = counts.drop("baseline").sum()
    share = (counts / candidates if candidates else counts * 0.0).where(counts.index != "baseline")
    return pd.DataFrame({"experiments": counts, "share": share}).rename_axis("outcome")


def keep_rate(run: RunData) -> dict[str, float]:
    """kept, candidates (no baseline, nothing without a result), rate, and its 95% Wilson interval low..high."""
    outcomes = run.experiments["outcome"]
    n = int((~outcomes.isin(["baseline", "no result"])).sum())
    kept = int(outcomes.isin(["kept", "simplified"]).sum())
    if n == 0:
        return {"kept": 0, "candidates": 0, "rate": math.nan, "low": math.nan, "high": math.nan}
    z, rate = 1.96, kept / n
    centre, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return {
        "kept": kept,
        "candidates": n,
        "rate": rate,
        "low": max(0.0, (centre - half) / scale),
        "high": (centre + half) / scale,
    }


def best_by_gain(run: RunData, n: int = 10) -> pd.DataFrame:
    """The n kept experiments of the largest gain over what they replaced, as judged, with the gain in units of its noise.

    Where sigma rests on few trainings no such unit is given.
    """
    kept = run.experiments[run.experiments["outcome"].isin(["kept", "simplified"])]
    top = kept.sort_values("gain", ascending=False, kind="stable").head(n)
    table = top[["experiment", "title", "category", "val_bpb", "gain", "n_runs", "verdict"]].copy()
    table.insert(5, "gain_in_sigma", (top["gain"] / top["noise_of_gain"]).where(top["df"] >= KNOWN_DF))
    return table.set_index("experiment")


def time_use(run: RunData) -> pd.Series:
    """Wall-clock minutes by TIME_KINDS, the unfinished experiment included; all 0 when the file has no times."""
    return pd.Series(seconds_of(run.entries), name="minutes", dtype="float64") / 60


def compare_runs(runs: Sequence[RunData]) -> list[str]:
    """One warning per fact in which runs differ or that is not stated; empty when their scores may be compared."""
    warnings = []
    unknown = [run.tag for run in runs if not run.settings]
    if unknown and len(runs) > 1:
        warnings.append(f"nothing is known of the data, budget and hardware of {', '.join(unknown)}")
    facts = {run.tag: plain_settings(run.settings) for run in runs if run.settings}
    for name, word in FACTS.items():
        values: dict[str, list[str]] = {}
        for tag, fact in facts.items():
            values.setdefault(_short(fact[name]), []).append(tag)
        follows = name in ("data_hash", "eval_tokens") and any("data differs" in warning for warning in warnings)
        if len(values) > 1 and not follows:
            warnings.append(f"{word} differs: " + ", ".join(f"{v} ({', '.join(tags)})" for v, tags in values.items()))
    return warnings


def _short(value: object) -> str:
    text = "not stated" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)
    return text if len(text) <= 60 else text[:12]


def curves(run: RunData, experiment: int) -> pd.DataFrame:
    """Logged steps of every training of the experiment's decided attempt: CURVE_COLUMNS, one row a step; may be empty.

    progress is 0..1 of the budget, train_loss is in nats per token. Lines that are not steps are passed over.
    """
    rows = []
    for number, folder in enumerate(run_folders(run, experiment)):
        for event in _events(folder / "events.jsonl"):
            rows.append({"run": number, **{key: event.get(key) for key in CURVE_COLUMNS[1:]}})
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS)).apply(pd.to_numeric, errors="coerce").astype("float64")
    return frame.dropna(subset=["progress", "train_loss"])


def final_losses(steps: pd.DataFrame) -> pd.Series:
    """Mean training loss over the last tenth of the budget, nats per token, for each training that got so far."""
    return steps[steps["progress"] >= 0.9].groupby("run")["train_loss"].mean()


def table_html(frame: pd.DataFrame) -> str:
    """A table of this module as HTML: shares in percent, scores to four places, words escaped; "" when empty.

    Titles stand as code, because a notebook would typeset one with two dollar signs in it as mathematics.
    """
    frame = frame.reset_index().replace("", math.nan).dropna(axis="columns", how="all")  # a bare table has no verdicts
    if frame.empty:
        return ""
    columns = {}
    for name in frame:
        if name == "share":
            columns[name] = "{:.0%}".format
        elif pd.api.types.is_float_dtype(frame[name]):
            places = 1 if name.endswith("in_sigma") else 4
            columns[name] = f"{{:.{places}f}}".format
        elif not pd.api.types.is_integer_dtype(frame[name]):
            shape = "<code>{}</code>" if name == "title" else "{}"
            columns[name] = lambda value, shape=shape: shape.format(html.escape(str(value)))
    return frame.to_html(formatters=columns, escape=False, border=0, justify="left", index=False, na_rep="")


def _events(path: Path) -> list[dict]:
    if not path.exists():
        return []
    steps = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last line of a training that was killed
        if isinstance(event, dict) and event.get("event") == "step":
            steps.append(event)
    return steps
