"""A run in, charts of how it went out: outcomes, training curves, time use.

As in plots_scores, every function returns a Figure and draws something sensible for any run. Kept apart from the score
charts because none of this decides what is kept.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.run.records import OUTCOMES, TIME_KINDS
from harness.show.analysis import curves, final_losses, keep_rate, outcome_counts, time_use
from harness.show.charts.figure import (
    BLUE,
    INK,
    MUTED,
    OUTCOME_STYLE,
    TIME_COLOURS,
    LabFigure,
    add_legend,
    empty_figure,
    new_figure,
    short,
    whole_numbers,
)
from harness.show.frame import RunData


def plot_outcomes(run: RunData) -> LabFigure:
    """How many experiments ended in which way, in all and by category."""
    counts, rate = outcome_counts(run)["experiments"].drop("baseline"), keep_rate(run)
    if counts.sum() == 0:
        return empty_figure("No experiment has been decided yet", "Outcomes appear with the first decision.")
    counts = counts[counts > 0]
    title = f"{rate['kept']} of {rate['candidates']} candidates kept"
    subtitle = (
        f"keep rate {rate['rate']:.0%}, 95% interval {rate['low']:.0%} to {rate['high']:.0%}"
        if rate["candidates"]
        else ""
    )
    groups = _by_category(run.experiments)
    panels = 1 if len(groups) < 2 else 2
    rows = max(len(counts), len(groups) if panels == 2 else 0)
    figure, axes = new_figure(title, subtitle, height=1.7 + 0.36 * rows, ncols=panels)
    bars = axes[0].barh(
        [OUTCOME_STYLE[n][3] for n in counts.index],
        counts,
        color=[OUTCOME_STYLE[n][0] for n in counts.index],
        height=0.62,
    )
    axes[0].bar_label(bars, padding=4, color=INK)
    for name in groups.columns if panels == 2 else []:
        left = groups.loc[:, :name].iloc[:, :-1].sum(axis=1)
        axes[1].barh(groups.index, groups[name], left=left, color=OUTCOME_STYLE[name][0], height=0.62)
    for ax, what in zip(axes, ("experiments", "experiments by category"), strict=False):
        ax.set_xlabel(what)
        ax.grid(False)
        ax.spines["left"].set_visible(False)
        whole_numbers(ax)
        ax.set_ylim(max(rows, 3) - 0.5, -0.5)
        ax.margins(x=0.09)
    return figure


def _by_category(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[(frame["outcome"] != "baseline") & (frame["category"] != "")]
    table = pd.crosstab(rows["category"].map(lambda word: short(word, 18)), rows["outcome"])
    table = table[[name for name in ("kept", "simplified", *OUTCOMES[3:]) if name in table]]
    return table.loc[table.sum(axis=1).sort_values(ascending=False).index[:8]]


def plot_curves(run: RunData, experiment: int | None = None) -> LabFigure:
    """Training loss of one experiment (that on the branch) against the baseline, by share of the budget used."""
    base, best = run.baseline, run.best
    chosen = experiment if experiment is not None else None if best is None else int(best["experiment"])
    wanted = {} if base is None else {int(base["experiment"]): (MUTED, "baseline")}
    if chosen is not None and chosen not in wanted:
        wanted[chosen] = (BLUE, "on the branch" if best is not None and chosen == best["experiment"] else "chosen")
    found = {number: curves(run, number) for number in wanted}
    if all(frame.empty for frame in found.values()):
        return empty_figure(
            "No training curves", "The trainings of this run left no steps to draw (or this is a bare results.tsv)."
        )
    subtitle = "training loss, smoothed; each line is one seed or one confirmation"
    figure, (ax,) = new_figure(_curve_title(run, chosen, found), subtitle)
    for number, frame in found.items():
        colour, word = wanted[number]
        for index, (_, one) in enumerate(_smooth(frame).groupby("run")):
            label = f"{word}: {number:04d} {short(_title(run, number), 40)}" if index == 0 else None
            ax.plot(
                one["progress"] * 100,
                one["smooth"],
                color=colour,
                lw=1.5,
                alpha=0.9 if index == 0 else 0.5,
                label=label,
            )
    late = np.concatenate([_smooth(f).query("progress > 0.2")["smooth"].to_numpy() for f in found.values() if len(f)])
    if len(late):
        low, high = late.min(), late.max()
        ax.set_ylim(low - 0.06 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    ax.set(xlim=(0, 101), xlabel="share of the training budget (%)", ylabel="training loss (nats per token)")
    add_legend(ax, loc="upper right")
    return figure


def _title(run: RunData, number: int) -> str:
    rows = run.experiments.loc[run.experiments["experiment"] == number, "title"]
    return "" if number == 0 or not len(rows) else rows.iloc[0]


def _curve_title(run: RunData, chosen: int | None, found: dict[int, pd.DataFrame]) -> str:
    """What the last tenth of the budget says; or how far the chosen one came."""
    ends = {number: final_losses(frame).mean() for number, frame in found.items()}
    base = math.nan if run.baseline is None else ends[int(run.baseline["experiment"])]
    end = ends.get(chosen, math.nan)
    if run.baseline is not None and chosen == run.baseline["experiment"] and math.isfinite(base):
        return f"The baseline's training loss ends at {base:.3f} nats per token"
    if math.isfinite(end) and math.isfinite(base):
        where = "below" if end <= base else "above"
        return (
            f"Experiment {chosen:04d} ends {abs(base - end):.3f} nats per token {where} the baseline in training loss"
        )
    reach = found[chosen]["progress"].max() if chosen in found and len(found[chosen]) else math.nan
    return f"Experiment {chosen:04d} stopped at {reach:.0%} of its budget" if math.isfinite(reach) else "Training loss"


def _smooth(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over a trailing fortieth of each training; column smooth."""
    window = lambda losses: losses.rolling(max(1, len(losses) // 40), min_periods=1).mean()  # noqa: E731
    return frame.assign(smooth=frame.groupby("run")["train_loss"].transform(window))


def plot_time_use(run: RunData) -> LabFigure:
    """Where the wall-clock time went: in all, and by experiment (means of groups when there are many)."""
    minutes = time_use(run)
    if minutes.sum() <= 0:
        return empty_figure("No times", "This file carries no times, or nothing has run yet.")
    share = minutes / minutes.sum()
    title = f"{share['training']:.0%} of {_duration(minutes.sum())} went into training"
    figure, axes = new_figure(title, "", height=4.9, nrows=2, height_ratios=[1, 3.2])
    left = 0.0
    for kind in TIME_KINDS:
        axes[0].barh([0], [minutes[kind]], left=left, color=TIME_COLOURS[kind], label=f"{kind} {share[kind]:.1%}")
        left += minutes[kind]
    axes[0].set(xlabel="minutes in all", yticks=[], xlim=(0, left))
    axes[0].grid(False)
    add_legend(axes[0], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, handlelength=1.2, borderaxespad=0.2)
    _draw_time_by_experiment(axes[1], run.experiments)
    return figure


def _draw_time_by_experiment(ax: Axes, frame: pd.DataFrame) -> None:
    kinds = [kind for kind in TIME_KINDS if kind != "waiting"]
    columns = [f"{kind}_seconds" for kind in kinds]
    group = max(1, math.ceil(len(frame) / 120))
    table = frame.groupby(frame["experiment"] // group)[columns].mean() / 60
    bottom = np.zeros(len(table))
    for kind, column in zip(kinds, columns, strict=True):
        ax.bar(
            table.index * group + (group - 1) / 2,
            table[column],
            bottom=bottom,
            width=group * 0.82,
            color=TIME_COLOURS[kind],
        )
        bottom += table[column].to_numpy()
    many = f"mean of {group} experiments, in order" if group > 1 else "experiment (all its runs; waiting left out)"
    ax.set(xlabel=many, ylabel="minutes")
    whole_numbers(ax)


def _duration(minutes: float) -> str:
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
