"""Runs in, charts of their scores out: progress, memory against score, several runs overlaid, the noise of a baseline.

Every function returns a Figure, touches no global state, and draws something sensible for an empty run, one of crashes
only, and a thousand rows. A title states what its chart shows. Only the claim is called an improvement.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.rules.keep import judge
from harness.run.facts import plain_settings
from harness.run.noise import KNOWN_DF, Noise
from harness.run.records import KEPT, OUTCOMES
from harness.show.analysis import compare_runs
from harness.show.charts.figure import (
    BLUE,
    GREEN,
    INK,
    OUTCOME_STYLE,
    RUN_COLOURS,
    SKY,
    LabFigure,
    add_legend,
    empty_figure,
    focused_limits,
    label_points,
    mark_clipped,
    new_figure,
    safe,
    whole_numbers,
)
from harness.show.frame import RunData
from harness.show.sentences import headline, plural

BPB = "val_bpb (bits per byte, lower is better)"
LABELLED = 10  # more titles than this no chart holds


def plot_progress(run: RunData) -> LabFigure:
    """Every experiment by number: keeps labelled, what is on the branch as a step, its noise, crashes at the edge."""
    frame = run.experiments
    title, subtitle = run.in_its_unit(headline(run.records, run.claimed)), describe(run)
    if frame["val_bpb"].notna().sum() == 0:
        return empty_figure(title, subtitle)
    figure, (ax,) = new_figure(title, subtitle, height=5.6)
    kept = frame[frame["outcome"].isin(KEPT)]
    band = (kept["val_bpb"].max() if run.higher_is_better else kept["val_bpb"].min()) + np.array([-2.2, 2.2]) * run.sigma
    ax.set_ylim(focused_limits(frame["val_bpb"], [*kept["val_bpb"], *band], run.sigma))
    reach = max(len(frame), 12)
    ax.set_xlim(-0.02 * reach - 0.3, frame["experiment"].max() + 0.1 * reach)
    lines = _draw_branch(ax, frame, run)
    _draw_outcomes(ax, frame, "experiment")
    mark_clipped(ax, frame["experiment"].to_numpy(), frame["val_bpb"].to_numpy())
    ax.set(xlabel="experiment", ylabel=score_label(run))
    whole_numbers(ax)
    add_legend(ax, below=0.12)
    worth = 0.03 * (kept["val_bpb"].max() - kept["val_bpb"].min())  # smaller gains would only crowd the others out
    named = kept[(kept["outcome"] != "baseline") & (kept["gain"] > worth)].nlargest(LABELLED, "gain")
    dots = frame[["experiment", "val_bpb"]].dropna().to_numpy(dtype="float64")
    label_points(ax, list(named["experiment"]), list(named["val_bpb"]), list(named["title"]), lines, dots)
    return figure


def score_label(run: RunData) -> str:
    """What the axis of scores says."""
    better = "higher" if run.higher_is_better else "lower"
    return BPB if run.metric == "val_bpb" else f"{run.metric} ({better} is better)"


def describe(run: RunData) -> str:
    """Where the figures come from: tag, counts, budget, device, noise."""
    counts, facts = run.experiments["outcome"].value_counts(), plain_settings(run.settings)
    budget = facts["budget_seconds"]
    words = [
        f"run {run.tag}",
        ", ".join(f"{counts[name]} {OUTCOME_STYLE[name][3]}" for name in OUTCOMES[1:] if name in counts),
        f"{budget:g} s each" if isinstance(budget, int | float) else "",
        str(facts["device"] or ""),
        f"sigma of one run {run.sigma:.4f}" if math.isfinite(run.sigma) else "noise not measured",
    ]
    return "   ·   ".join(word for word in words if word)


def _draw_branch(ax: Axes, frame: pd.DataFrame, run: RunData) -> list[np.ndarray]:
    """The step line with its end value, its noise band, the baseline's line; return the lines as points."""
    steps = frame.dropna(subset=["on_branch"])
    end = frame["experiment"].max() + 0.02 * max(len(frame), 12)
    if len(steps) == 0:
        return []
    x = np.append(steps["experiment"], end).astype("float64")
    best = np.append(steps["on_branch"], steps["on_branch"].iloc[-1])
    known = steps["sigma"].where(steps["df"] >= KNOWN_DF).ffill()  # fewer trainings give no band that holds its promise
    sigma = np.append(known, known.iloc[-1])
    if np.isfinite(sigma).any():
        label = "±2 sigma of one run"
        ax.fill_between(x, best - 2 * sigma, best + 2 * sigma, step="post", color=SKY, alpha=0.18, lw=0, label=label)
    ax.step(x, best, where="post", color=BLUE, lw=1.7, label="on the branch, as judged", zorder=2.5)
    lines = [np.column_stack([np.repeat(x, 2)[1:], np.repeat(best, 2)[:-1]])]
    ends, base = [(best[-1], BLUE)], run.baseline
    if base is not None and base["val_bpb"] != best[-1]:
        lines.append(np.array([[x[0], base["val_bpb"]], [end, base["val_bpb"]]]))
        ax.plot(*lines[-1].T, color=INK, lw=0.9, ls=(0, (5, 4)), zorder=1.5)
        ends.append((base["val_bpb"], INK))
    beside = {"textcoords": "offset points", "xytext": (5, 0), "fontsize": 9, "fontweight": "bold"}
    heights = ax.transData.transform([(end, value) for value, _ in ends])[:, 1] * 72 / ax.figure.dpi
    close = len(ends) > 1 and np.ptp(heights) < 12  # points: the words would cover each other, so they go apart
    for (value, colour), side in zip(ends, ("top", "bottom"), strict=False):
        ax.annotate(f"{value:.4f}", (end, value), color=colour, va=side if close else "center", **beside)
    return lines


def _draw_outcomes(ax: Axes, frame: pd.DataFrame, x: str) -> None:
    """Dots by outcome; what has no score is marked along the lower edge."""
    size = float(np.clip(34 * 60 / max(len(frame), 60), 10, 34))
    for name, (colour, marker, factor, word) in OUTCOME_STYLE.items():
        rows = frame[frame["outcome"] == name]
        scored = rows.dropna(subset=["val_bpb"])
        line = marker in "x+"
        look = {"color": colour, "marker": marker, "s": size * factor, "lw": 1.2 if line else 0, "label": word}
        if line and len(rows):
            ax.scatter(
                rows[x], np.full(len(rows), 0.02), transform=ax.get_xaxis_transform(), clip_on=False, zorder=4, **look
            )
        elif len(scored):
            ax.scatter(
                scored[x],
                scored["val_bpb"],
                zorder=3 if name == "discarded" else 5,
                alpha=0.75 if name == "discarded" else 1,
                **look,
            )


def plot_memory_against_score(run: RunData) -> LabFigure:
    """Memory of each scored experiment against its val_bpb: what a lower score cost."""
    frame = run.experiments.dropna(subset=["val_bpb", "memory_gb"])
    base, best = run.baseline, run.best
    if frame.empty or best is None:
        return empty_figure("No memory figures", "Memory appears with the first scored experiment.")
    title = f"The file on the branch uses {best['memory_gb']:.1f} GB"
    if base is not None and best["experiment"] != base["experiment"]:
        title += f", the baseline {base['memory_gb']:.1f} GB"
    side, better = ("upper", "higher") if run.higher_is_better else ("lower", "lower")
    figure, (ax,) = new_figure(title, f"{side} left is better: a {better} score from less memory", height=4.6)
    kept = frame[frame["outcome"].isin(KEPT)]
    ax.set_ylim(focused_limits(frame["val_bpb"], kept["val_bpb"], run.sigma))
    _draw_outcomes(ax, frame, "memory_gb")
    ax.margins(x=0.08)
    mark_clipped(ax, frame["memory_gb"].to_numpy(), frame["val_bpb"].to_numpy())
    ax.set(xlabel="peak memory (GB)", ylabel=score_label(run))
    add_legend(ax, below=0.15)
    return figure


def plot_overlay(runs: Sequence[RunData]) -> LabFigure:
    """What was on the branch of several runs, and how far below its own baseline; that alone when they do not compare."""
    drawn = [run for run in runs if run.experiments["on_branch"].notna().any()]
    if not drawn:
        return empty_figure("No scored run to overlay", "Curves appear once a run has a baseline.")
    warnings = compare_runs(drawn)
    subtitle = "same data, budget, profile, hardware and harness" if len(drawn) > 1 else ""
    if warnings:
        subtitle = "SCORES DO NOT COMPARE, so only gains are drawn, and they too are a rough guide. " + "; ".join(
            warnings
        )
    figure, axes = new_figure(
        _overlay_title(drawn), subtitle, height=4.9, warn=bool(warnings), ncols=1 if warnings else 2
    )
    for index, run in enumerate(drawn):
        frame = run.experiments.dropna(subset=["on_branch"])
        best, colour = frame["on_branch"], RUN_COLOURS[index % len(RUN_COLOURS)]
        for ax, values in zip(axes[::-1], (best.iloc[0] - best, best), strict=False):
            ax.step(frame["experiment"], values, where="post", color=colour, lw=1.7, label=safe(run.tag))
            ax.plot(frame["experiment"].iloc[-1:], values.iloc[-1:], "o", color=colour, ms=4.5)
    axes[0].set_ylabel(BPB)
    axes[-1].set_ylabel("gain over own baseline, as judged (bits per byte)")
    for ax in axes:
        ax.set_xlabel("experiment")
        whole_numbers(ax)
    add_legend(axes[0], loc="best")
    return figure


def _overlay_title(runs: Sequence[RunData]) -> str:
    gains = {run.tag: _total_gain(run) for run in runs}
    winner = max(gains, key=lambda tag: gains[tag])
    if len(runs) == 1:
        return f"Run {winner} alone: branch {gains[winner]:.4f} bits per byte below its baseline, as judged"
    return f"Run {winner} came furthest below its own baseline: {gains[winner]:.4f} bits per byte, as judged"


def _total_gain(run: RunData) -> float:
    best = run.experiments["on_branch"].dropna()
    return float(best.iloc[0] - best.iloc[-1])


def plot_noise(values: Sequence[float], noise: Noise) -> LabFigure:
    """What the baseline's seeds teach: each seed's val_bpb, their mean, +-2 sigma, and the line one run must pass.

    That line is the keep rule's own threshold for a candidate's first run against these seeds.
    """
    scores = np.asarray(values, dtype="float64")
    if len(scores) == 0:
        return empty_figure("No baseline yet", "The seeds appear once the baseline has run.")
    mean, known = float(scores.mean()), math.isfinite(noise.sigma)
    sigma, threshold = (noise.sigma if known else 0.0), judge([mean], list(scores), noise).threshold
    moves = f"one run moves by about {sigma:.4f} from seed to seed" if known else "its noise is unknown"
    figure, (ax,) = new_figure(f"Baseline {mean:.4f} bits per byte; {moves}", noise.words, height=3.4)
    if noise.df >= KNOWN_DF:
        ax.axvspan(mean - 2 * sigma, mean + 2 * sigma, color=SKY, alpha=0.18, lw=0, label="±2 sigma of one run")
    ax.axvline(mean, color=INK, lw=1.2, label=f"mean of {plural(len(scores), 'seed')}")
    seeds = np.arange(len(scores)) + 1
    ax.scatter(scores, seeds, s=60, color=INK, zorder=4, label="one training each")
    if threshold is not None:
        edge = mean - threshold
        ax.axvline(edge, color=GREEN, lw=1.6, ls=(0, (5, 3)), label=f"kept at once at {edge:.4f} or less")
    reach = max(3.2 * sigma, 1.3 * (threshold or 0), 1.2 * np.abs(scores - mean).max(), 1e-4)
    ax.set(xlim=(mean - reach, mean + reach), ylim=(0.3, len(scores) + 0.7), yticks=seeds, xlabel=BPB, ylabel="seed")
    ax.grid(False)
    add_legend(ax, below=0.24)
    return figure
