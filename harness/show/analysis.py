"""A run in, short tables out: outcomes, keep rate, best by gain, time use, training curves.

Also says whether runs compare. Reads events.jsonl of the trainings asked for and writes nothing.
All of it works on a run in progress, an empty one, one of crashes only, and on the original's bare
file, for which what was never measured is NaN or an empty table.
"""

import itertools
import math
from collections.abc import Sequence

import pandas as pd

from harness.ground.text import plain_words
from harness.run.facts import FACTS, plain_settings
from harness.run.noise import KNOWN_DF
from harness.run.records import OUTCOME_WORDS, OUTCOMES
from harness.run.records import time_use as seconds_of
from harness.show.frame import RunData, run_folders
from harness.show.frame import choose_run as choose_run
from harness.show.frame import choose_runs as choose_runs
from harness.show.markup import Html, as_text, table
from harness.show.sentences import candidates_of, kept_of
from harness.show.stage import read_curve

# Standard deviations by which two scores of one file differ hardly ever by chance, be it the worst
# of the twenty pairs of seven runs.
APART = 3
CURVE_COLUMNS = ("run", "progress", "train_loss")


def outcome_counts(run: RunData) -> pd.DataFrame:
    """Experiments by outcome, in the order of OUTCOMES, and their share without the baseline."""
    counts = run.experiments["outcome"].value_counts().reindex(list(OUTCOMES), fill_value=0)
    candidates = counts.drop("baseline").sum()
    share = (counts / max(candidates, 1)).where(counts.index != "baseline")
    return pd.DataFrame({"experiments": counts, "share": share}).rename_axis("outcome")


def keep_rate(run: RunData) -> dict[str, float]:
    """kept, candidates, rate, and its 95% interval low..high (Wilson's)."""
    kept, n = len(kept_of(run.records)), len(candidates_of(run.records))
    rate = low = high = math.nan
    if n:
        z, rate = 1.96, kept / n
        centre, scale = rate + z * z / (2 * n), 1 + z * z / n
        half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        low, high = max(0.0, (centre - half) / scale), (centre + half) / scale
    return {"kept": kept, "candidates": n, "rate": rate, "low": low, "high": high}


def best_by_gain(run: RunData, n: int = 10) -> pd.DataFrame:
    """The n experiments kept for the largest gain, as judged; in sigmas where sigma is known."""
    kept = run.experiments[run.experiments["outcome"].isin(["kept", "simplified"])]
    top = kept.sort_values("gain", ascending=False, kind="stable").head(n)
    columns = ["experiment", "title", "category", "val_bpb", "gain", "n_runs", "verdict"]
    in_sigma = (top["gain"] / top["noise_of_gain"]).where(top["df"] >= KNOWN_DF)
    table = top[columns].copy()
    table.insert(5, "gain_in_sigma", in_sigma)
    return table.set_index("experiment")


def time_use(run: RunData) -> pd.Series:
    """Wall-clock minutes by TIME_KINDS, the unfinished experiment included; 0 without times."""
    return pd.Series(seconds_of(run.entries), name="minutes", dtype="float64") / 60


def compare_runs(runs: Sequence[RunData]) -> list[str]:
    """A warning for each fact in which runs differ or that is not stated; where all are the same,
    one if a baseline of the same file says that the machine was not; [] where they compare.
    """
    warnings = []
    unknown = [plain_words(run.tag) for run in runs if not run.settings]
    if unknown and len(runs) > 1:
        names = ", ".join(unknown)
        warnings.append(f"nothing is known of the data, budget and hardware of {names}")
    facts = {plain_words(run.tag): plain_settings(run.settings) for run in runs if run.settings}
    other_data = len({fact["data_id"] for fact in facts.values()}) > 1
    for name, word in FACTS.items():
        if other_data and name in ("data_hash", "eval_tokens"):
            continue  # which follows
        tags: dict[str, list[str]] = {}
        for tag, fact in facts.items():
            tags.setdefault(_short(fact[name]), []).append(tag)
        if len(tags) > 1:
            values = ", ".join(f"{value} ({', '.join(those)})" for value, those in tags.items())
            warnings.append(f"{word} differs: {values}")
    return warnings or _baselines_apart(runs)


def baseline_gaps(runs: Sequence[RunData]) -> list[tuple[float, float, RunData, RunData]]:
    """Of every two runs that began with the same file: how far apart its scores are, the standard
    deviation of that by chance, and the two. Without those whose noise is not known.
    """
    gaps = []
    for one, other in itertools.combinations(runs, 2):
        a, b = one.baseline, other.baseline
        if a and b and _first_file(one) and _first_file(one) == _first_file(other):
            noise = math.hypot(one.sigma / math.sqrt(a.n_runs), other.sigma / math.sqrt(b.n_runs))
            gaps.append((abs(a.val_bpb - b.val_bpb), noise, one, other))
    return [gap for gap in gaps if math.isfinite(gap[1])]


def _first_file(run: RunData) -> str:
    """Hash of the file that a run began with; "" where it is not told."""
    first = (e for e in run.entries if e.get("event") == "proposed" and e["experiment"] == 0)
    return next(first, {}).get("sha256") or ""


def _baselines_apart(runs: Sequence[RunData]) -> list[str]:
    """A warning where one file scored so differently that something else must have changed."""
    gaps = [gap for gap in baseline_gaps(runs) if gap[0] > APART * gap[1]]
    if not gaps:
        return []
    gap, noise, *pair = max(gaps, key=lambda gap: gap[0] / max(gap[1], 1e-9))
    scores = [f"{run.baseline.val_bpb:.4f} in {plain_words(run.tag)}" for run in pair]
    steps = [run.baseline.pace.steps for run in pair]
    pace = f", after {steps[0]:.0f} and {steps[1]:.0f} steps" if all(steps) else ""
    return [
        f"one file, the baseline, scored {scores[0]} and {scores[1]}{pace}: {gap:.4f} apart, where "
        f"chance mostly stays under {APART * noise:.4f} ({APART} standard deviations)"
    ]


def _short(value: object) -> str:
    if value is None:
        return "not stated"
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    return text if len(text) <= 60 else text[:12]


def curves(run: RunData, experiment: int) -> pd.DataFrame:
    """Logged steps of every training of the experiment's decided attempt, one row a step.

    Has CURVE_COLUMNS, and may be empty. progress is 0..1 of the budget, train_loss is in nats per
    token. Lines that are not steps are passed over.
    """
    rows = []
    for number, folder in enumerate(run_folders(run, experiment)):
        rows += [(number, *point) for point in read_curve(folder)]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS)).astype("float64").dropna()


def final_losses(steps: pd.DataFrame) -> pd.Series:
    """Mean training loss over the last tenth of the budget, for each training that got so far."""
    return steps[steps["progress"] >= 0.9].groupby("run")["train_loss"].mean()


def table_html(frame: pd.DataFrame) -> Html:
    """A table of this module as HTML, without columns that hold nothing; empty when it is."""
    frame = frame.reset_index().replace("", math.nan).dropna(axis="columns", how="all")
    rows = [[_cell(*cell) for cell in row.items()] for row in frame.to_dict("records")]
    return as_text(table(list(frame), rows)) if rows else Html()


def _cell(name: str, value: object) -> object:
    """Shares in percent, scores to four places, titles as code."""
    shapes = {"share": "{:.0%}", "gain_in_sigma": "{:.1f}"}
    if pd.isna(value):
        return ""
    if name == "outcome":
        return OUTCOME_WORDS[value]
    if name == "title":
        return Html("<code>{}</code>").format(value)
    return shapes.get(name, "{:.4f}").format(value) if isinstance(value, float) else value
