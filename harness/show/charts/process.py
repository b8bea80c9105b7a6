"""A run in, charts of how it went out: outcomes, training curves, time use.

As in scores, every function returns a Figure and draws something sensible for any run. Kept apart
from the score charts because none of this decides what is kept.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.run.records import OUTCOME_WORDS, OUTCOMES, TIME_KINDS, Record
from harness.show.analysis import (
    compare_runs,
    curves,
    final_losses,
    keep_rate,
    outcome_counts,
    time_use,
)
from harness.show.charts import figure as draw
from harness.show.charts.figure import LOOKS, LabFigure
from harness.show.frame import RunData
from harness.show.sentences import duration

CATEGORIES = 8  # more no chart holds
BARS = 120
MOST_COMPARED = 4  # curves of so many experiments can still be told apart

Choice = tuple[RunData, Record]


def plot_outcomes(run: RunData) -> LabFigure:
    """How many experiments ended in which way, in all and by category."""
    counts, rate = outcome_counts(run)["experiments"].drop("baseline"), keep_rate(run)
    counts = counts[counts > 0]
    if counts.empty:
        missing = "Outcomes appear with the first decision."
        return draw.empty_figure("No experiment has been decided yet", missing)
    interval = f"95% interval {rate['low']:.0%} to {rate['high']:.0%}"
    subtitle = f"keep rate {rate['rate']:.0%}, {interval}" if rate["candidates"] else ""
    groups = _by_category(run.experiments)
    labels = ["experiments", "experiments by category"][: 1 if len(groups) < 2 else 2]
    rows = max(len(counts), len(groups))
    figure, axes = draw.new_figure(
        f"{rate['kept']} of {rate['candidates']} candidates kept",
        subtitle,
        height=1.7 + 0.36 * rows,
        ncols=len(labels),
    )
    words = [OUTCOME_WORDS[name] for name in counts.index]
    colours = [LOOKS[name].colour for name in counts.index]
    bars = axes[0].barh(words, counts, color=colours, height=0.62)
    axes[0].bar_label(bars, padding=4, color=draw.INK)
    left = np.zeros(len(groups))
    for name in groups.columns:
        axes[-1].barh(groups.index, groups[name], left=left, color=LOOKS[name].colour, height=0.62)
        left = left + groups[name].to_numpy()
    for ax, label in zip(axes, labels, strict=True):
        ax.set_xlabel(label)
        ax.grid(False)
        ax.spines["left"].set_visible(False)
        draw.whole_numbers(ax)
        ax.set_ylim(max(rows, 3) - 0.5, -0.5)
        ax.margins(x=0.09)
    return figure


def _by_category(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts by category and outcome; empty where there is only one category."""
    rows = frame[(frame["outcome"] != "baseline") & (frame["category"] != "")]
    short = rows["category"].map(lambda word: draw.short(word, 18))
    table = pd.crosstab(short, rows["outcome"])
    table = table[[name for name in OUTCOMES if name in table]]
    largest = table.sum(axis=1).sort_values(ascending=False).index[:CATEGORIES]
    return table.loc[largest] if len(table) > 1 else table.iloc[:0, :0]


def plot_curves(run: RunData) -> LabFigure:
    """Training loss of what is on the branch against the baseline's."""
    both = [run.best] if run.best is run.baseline else [run.baseline, run.best]
    return compare_curves([(run, record) for record in both if record])


def compare_curves(chosen: Sequence[Choice]) -> LabFigure:
    """Training losses of the first MOST_COMPARED experiments, each given with its run."""
    chosen = chosen[:MOST_COMPARED]
    found = [curves(run, record.experiment) for run, record in chosen]
    if all(frame.empty for frame in found):
        missing = "The trainings left no steps to draw (or this is a bare results.tsv)."
        return draw.empty_figure("No training curves", missing)
    runs = list({run.tag: run for run, _ in chosen}.values())
    names = [_name(record) + f" of {run.tag}" * (len(runs) > 1) for run, record in chosen]
    warnings = compare_runs(runs)
    subtitle = "training loss, smoothed; each line is one seed or one confirmation"
    if warnings:
        subtitle = "THESE LOSSES DO NOT COMPARE: " + "; ".join(warnings)
    figure, (ax,) = draw.new_figure(_curve_title(names, found), subtitle, warn=bool(warnings))
    colours, late = iter(draw.RUN_COLOURS), []
    for (_, record), name, frame in zip(chosen, names, found, strict=True):
        colour, label = draw.MUTED, draw.safe(name)
        if record.outcome != "baseline":
            colour, label = next(colours), f"{label}: {draw.short(record.title, 40)}"
        for _, one in frame.groupby("run"):
            smooth = one["train_loss"].rolling(max(1, len(one) // 20), min_periods=1).mean()
            alpha = 0.9 if label else 0.5
            ax.plot(one["progress"] * 100, smooth, color=colour, lw=1.5, alpha=alpha, label=label)
            late += [*smooth[one["progress"] > 0.2]]
            label = None
    if late:
        low, high = min(late), max(late)
        ax.set_ylim(low - 0.06 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    ax.set(xlim=(0, 101), ylabel="training loss (nats per token)")
    ax.set_xlabel("share of the training budget (%)")
    draw.add_legend(ax, loc="upper right")
    return figure


def _name(record: Record) -> str:
    return "the baseline" if record.outcome == "baseline" else f"experiment {record.experiment:04d}"


def _curve_title(names: Sequence[str], found: Sequence[pd.DataFrame]) -> str:
    """What the last tenth of the budget says; or how far the last of them came."""
    ends = [final_losses(frame).mean() for frame in found]
    known = [(end, name) for end, name in zip(ends, names, strict=True) if math.isfinite(end)]
    if len(found[-1]) and not math.isfinite(ends[-1]):
        title = f"{names[-1]} stopped at {found[-1]['progress'].max():.0%} of its budget"
    elif len(known) == 2:
        (other_end, other), (end, name) = known
        side = "below" if end <= other_end else "above"
        apart = f"{abs(other_end - end):.3f} nats per token {side} {other}"
        title = f"{name} ends {apart} in training loss"
    elif known:
        end, name = min(known)
        where = "ends lowest, at" if len(known) > 1 else "ends at"
        title = f"{name} {where} {end:.3f} nats per token in training loss"
    else:
        title = "training loss"
    return title[0].upper() + title[1:]


def plot_time_use(run: RunData) -> LabFigure:
    """Where the wall-clock time went: in all, and by experiment (means of groups when many)."""
    minutes = time_use(run)
    if minutes.sum() <= 0:
        return draw.empty_figure("No times", "This file carries no times, or nothing has run yet.")
    share = minutes / minutes.sum()
    title = f"{share['training']:.0%} of {duration(60 * minutes.sum())} went into training"
    figure, (whole, each) = draw.new_figure(title, height=4.9, nrows=2, height_ratios=[1, 3.2])
    left = 0.0
    for kind in TIME_KINDS:
        label = f"{kind} {share[kind]:.1%}"
        whole.barh([0], [minutes[kind]], left=left, color=draw.TIME_COLOURS[kind], label=label)
        left += minutes[kind]
    whole.set(xlabel="minutes in all", yticks=[], xlim=(0, left))
    whole.grid(False)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": 5}
    draw.add_legend(whole, **place, handlelength=1.2, borderaxespad=0.2)
    _draw_time_by_experiment(each, run.experiments)
    return figure


def _draw_time_by_experiment(ax: Axes, frame: pd.DataFrame) -> None:
    group = max(1, math.ceil(len(frame) / BARS))
    kinds = [kind for kind in TIME_KINDS if kind != "waiting"]
    columns = [f"{kind}_seconds" for kind in kinds]
    table = frame.groupby(frame["experiment"] // group)[columns].mean() / 60
    x, width = table.index * group + (group - 1) / 2, group * 0.82
    bottom = np.zeros(len(table))
    for kind, column in zip(kinds, columns, strict=True):
        ax.bar(x, table[column], bottom=bottom, width=width, color=draw.TIME_COLOURS[kind])
        bottom += table[column].to_numpy()
    ax.set(xlabel="experiment (all its runs; waiting left out)", ylabel="minutes")
    if group > 1:
        ax.set_xlabel(f"mean of {group} experiments, in order")
    draw.whole_numbers(ax)
