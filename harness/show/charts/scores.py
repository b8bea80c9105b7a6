"""Runs in, charts of their scores out: progress, memory, several runs overlaid, a baseline's noise.

Every function returns a Figure, touches no global state, and draws something sensible for an empty
run, one of crashes only, and a thousand rows. A title states what its chart shows. Only the claim
is called an improvement.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.rules.keep import judge
from harness.run.noise import KNOWN_DF, Noise
from harness.run.records import KEPT, OUTCOME_WORDS
from harness.show.analysis import compare_runs
from harness.show.charts import figure as draw
from harness.show.charts.figure import BLUE, GREEN, INK, LOOKS, LabFigure
from harness.show.frame import RunData
from harness.show.sentences import counts_in_words, facts_in_words, headline, plural

BPB = "val_bpb (bits per byte, lower is better)"
LABELLED = 10  # more titles than this no chart holds
LEAST_REACH = 12  # experiments that the x-axis has room for


def plot_progress(run: RunData) -> LabFigure:
    """Every experiment by number: keeps labelled, what is on the branch, its noise, crashes."""
    frame, subtitle = run.experiments, describe(run)
    title = run.in_its_unit(headline(run.records, run.claimed))
    if frame["val_bpb"].isna().all():
        return draw.empty_figure(title, subtitle)
    figure, (ax,) = draw.new_figure(title, subtitle, height=5.6)
    kept = frame[frame["outcome"].isin(KEPT)]
    best = kept["val_bpb"].max() if run.higher_is_better else kept["val_bpb"].min()
    band = [best - 2.2 * run.sigma, best + 2.2 * run.sigma]
    limits = draw.focused_limits(frame["val_bpb"], [*kept["val_bpb"], *band], run.sigma)
    ax.set_ylim(limits)
    reach = max(len(frame), LEAST_REACH)
    ax.set_xlim(-0.02 * reach - 0.3, frame["experiment"].max() + 0.1 * reach)
    lines = _draw_branch(ax, frame, run)
    _draw_outcomes(ax, frame, "experiment")
    draw.mark_clipped(ax, frame["experiment"].to_numpy(), frame["val_bpb"].to_numpy())
    ax.set(xlabel="experiment", ylabel=score_label(run))
    draw.whole_numbers(ax)
    draw.add_legend(ax, below=0.12)
    # Smaller gains would only crowd the others out.
    worth = 0.03 * (kept["val_bpb"].max() - kept["val_bpb"].min())
    large = kept[(kept["outcome"] != "baseline") & (kept["gain"] > worth)]
    named = large.nlargest(LABELLED, "gain")
    place = ["experiment", "val_bpb"]
    dots = frame[place].dropna().to_numpy(dtype="float64")
    draw.label_points(ax, named[place].to_numpy(), named["title"], lines, dots)
    return figure


def score_label(run: RunData) -> str:
    """What the axis of scores says."""
    better = "higher" if run.higher_is_better else "lower"
    return BPB if run.metric == "val_bpb" else f"{run.metric} ({better} is better)"


def describe(run: RunData) -> str:
    """Where the figures come from: tag, counts, budget, device, noise."""
    tried = [record for record in run.records if record.outcome != "baseline"]
    known = math.isfinite(run.sigma)
    words = [
        f"run {run.tag}",
        counts_in_words(tried),
        *facts_in_words(run.settings, "budget_seconds", "device"),
        f"sigma of one run {run.sigma:.4f}" if known else "noise not measured",
    ]
    return "   ·   ".join(word for word in words if word)


def _draw_branch(ax: Axes, frame: pd.DataFrame, run: RunData) -> list[np.ndarray]:
    """The step line with its end, its noise, the baseline's line; return the lines as points."""
    steps = frame.dropna(subset=["on_branch"])
    if steps.empty:
        return []
    end = frame["experiment"].max() + 0.02 * max(len(frame), LEAST_REACH)
    x = np.append(steps["experiment"], end).astype("float64")
    best = np.append(steps["on_branch"], steps["on_branch"].iloc[-1])
    # Fewer trainings give no band that holds its promise.
    known = steps["sigma"].where(steps["df"] >= KNOWN_DF).ffill()
    width = 2 * np.append(known, known.iloc[-1])
    if np.isfinite(width).any():
        look = {"color": BLUE, "alpha": 0.15, "lw": 0, "label": "±2 sigma of one run"}
        ax.fill_between(x, best - width, best + width, step="post", **look)
    label = "on the branch, as judged"
    ax.step(x, best, where="post", color=BLUE, lw=1.7, label=label, zorder=2.5)
    lines = [np.column_stack([np.repeat(x, 2)[1:], np.repeat(best, 2)[:-1]])]
    ends, base = [best[-1]], run.baseline
    if base and base.val_bpb != best[-1]:
        lines.append(np.array([[x[0], base.val_bpb], [end, base.val_bpb]]))
        ax.plot(*lines[-1].T, color=INK, lw=0.9, ls=(0, (5, 4)), zorder=1.5)
        ends.append(base.val_bpb)
    _write_ends(ax, end, ends)
    return lines


def _write_ends(ax: Axes, x: float, ends: Sequence[float]) -> None:
    """The values at the ends of lines; apart where they would overlap."""
    heights = ax.transData.transform([(x, value) for value in ends])[:, 1] * 72 / ax.figure.dpi
    are_close = len(ends) > 1 and np.ptp(heights) < 12  # points
    beside = {"textcoords": "offset points", "xytext": (5, 0), "fontsize": 9, "fontweight": "bold"}
    for value, side in zip(ends, ("top", "bottom"), strict=False):
        side = side if are_close else "center"
        ax.annotate(f"{value:.4f}", (x, value), color=INK, va=side, **beside)


def _draw_outcomes(ax: Axes, frame: pd.DataFrame, x: str) -> None:
    """Dots by outcome; what has no score is marked along the lower edge."""
    size = float(np.clip(34 * 60 / max(len(frame), 60), 10, 34))
    for name, look in LOOKS.items():
        rows = frame[frame["outcome"] == name]
        scored = rows.dropna(subset=["val_bpb"])
        dots = {"color": look.colour, "marker": look.marker, "s": size * look.size}
        dots["label"] = OUTCOME_WORDS[name]
        if look.marker in "x+" and len(rows):
            edge, transform = np.full(len(rows), 0.02), ax.get_xaxis_transform()
            dots |= {"transform": transform, "lw": 1.2, "clip_on": False, "zorder": 4}
            ax.scatter(rows[x], edge, **dots)
        elif len(scored):
            layer = 3 if name == "discarded" else 5
            ax.scatter(scored[x], scored["val_bpb"], lw=0, zorder=layer, **dots)


def plot_memory_against_score(run: RunData) -> LabFigure:
    """Memory of each scored experiment against its val_bpb: what a lower score cost."""
    frame = run.experiments.dropna(subset=["val_bpb", "memory_gb"])
    base, best = run.baseline, run.best
    if best is None or best.memory_gb is None:
        missing = "Memory appears with the first scored experiment."
        return draw.empty_figure("No memory figures", missing)
    title = f"The file on the branch uses {best.memory_gb:.1f} GB"
    if base and best.experiment != base.experiment and base.memory_gb is not None:
        title += f", the baseline {base.memory_gb:.1f} GB"
    side, better = ("upper", "higher") if run.higher_is_better else ("lower", "lower")
    subtitle = f"{side} left is better: a {better} score from less memory"
    figure, (ax,) = draw.new_figure(title, subtitle, height=4.6)
    kept = frame[frame["outcome"].isin(KEPT)]
    ax.set_ylim(draw.focused_limits(frame["val_bpb"], kept["val_bpb"], run.sigma))
    _draw_outcomes(ax, frame, "memory_gb")
    ax.margins(x=0.08)
    draw.mark_clipped(ax, frame["memory_gb"].to_numpy(), frame["val_bpb"].to_numpy())
    ax.set(xlabel="peak memory (GB)", ylabel=score_label(run))
    draw.add_legend(ax, below=0.15)
    return figure


def plot_overlay(runs: Sequence[RunData]) -> LabFigure:
    """What was on the branch of several runs, and its gain; only that if they do not compare."""
    drawn = [run for run in runs if run.experiments["on_branch"].notna().any()]
    if not drawn:
        missing = "Curves appear once a run has a baseline."
        return draw.empty_figure("No scored run to overlay", missing)
    subtitle = "same data, budget, profile, hardware and harness" if len(drawn) > 1 else ""
    if warnings := compare_runs(drawn):
        subtitle = (
            "SCORES DO NOT COMPARE, so only gains are drawn, and they too are a rough guide: "
            + "; ".join(warnings)
        )
    look = {"height": 4.9, "warn": bool(warnings), "ncols": 1 if warnings else 2}
    figure, axes = draw.new_figure(_overlay_title(drawn), subtitle, **look)
    for index, run in enumerate(drawn):
        frame = run.experiments.dropna(subset=["on_branch"])
        colour = draw.RUN_COLOURS[index % len(draw.RUN_COLOURS)]
        x, best, label = frame["experiment"], frame["on_branch"], draw.safe(run.tag)
        for ax, y in zip(axes[::-1], (best.iloc[0] - best, best), strict=False):
            ax.step(x, y, where="post", color=colour, lw=1.7, label=label)
            ax.plot(x.iloc[-1:], y.iloc[-1:], "o", color=colour, ms=4.5)
    axes[0].set_ylabel(BPB)
    axes[-1].set_ylabel("gain over own baseline, as judged (bits per byte)")
    for ax in axes:
        ax.set_xlabel("experiment")
        draw.whole_numbers(ax)
    draw.add_legend(axes[0], loc="best")
    return figure


def _overlay_title(runs: Sequence[RunData]) -> str:
    best = {run.tag: run.experiments["on_branch"].dropna() for run in runs}
    gains = {tag: scores.iloc[0] - scores.iloc[-1] for tag, scores in best.items()}
    winner = max(gains, key=lambda tag: gains[tag])
    gain = f"{gains[winner]:.4f} bits per byte"
    if len(runs) == 1:
        return f"Run {winner} alone: branch {gain} below its baseline, as judged"
    return f"Run {winner} came furthest below its own baseline: {gain}, as judged"


def plot_noise(values: Sequence[float], noise: Noise) -> LabFigure:
    """What the baseline's seeds teach: val_bpb of each, their mean, and the line one run must pass.

    That line is the keep rule's own threshold for a candidate's first run against these seeds.
    """
    scores = np.asarray(values, dtype="float64")
    if len(scores) == 0:
        missing = "The seeds appear once the baseline has run."
        return draw.empty_figure("No baseline yet", missing)
    mean, is_known = float(scores.mean()), math.isfinite(noise.sigma)
    sigma = noise.sigma if is_known else 0.0
    threshold = judge([mean], list(scores), noise).threshold
    moves = f"one run moves by about {sigma:.4f} from seed to seed"
    title = f"Baseline {mean:.4f} bits per byte; {moves if is_known else 'its noise is unknown'}"
    figure, (ax,) = draw.new_figure(title, noise.words, height=3.4)
    if noise.df >= KNOWN_DF:
        look = {"color": BLUE, "alpha": 0.15, "lw": 0, "label": "±2 sigma of one run"}
        ax.axvspan(mean - 2 * sigma, mean + 2 * sigma, **look)
    ax.axvline(mean, color=INK, lw=1.2, label=f"mean of {plural(len(scores), 'seed')}")
    seeds = np.arange(len(scores)) + 1
    ax.scatter(scores, seeds, s=60, color=INK, zorder=4, label="one training each")
    if threshold is not None:
        edge = mean - threshold
        label = f"kept at once at {edge:.4f} or less"
        ax.axvline(edge, color=GREEN, lw=1.6, ls=(0, (5, 3)), label=label)
    spread = 1.2 * np.abs(scores - mean).max()
    reach = max(3.2 * sigma, 1.3 * (threshold or 0), spread, 1e-4)
    ax.set(xlim=(mean - reach, mean + reach), xlabel=BPB)
    ax.set(ylim=(0.3, len(scores) + 0.7), yticks=seeds, ylabel="seed")
    ax.grid(False)
    draw.add_legend(ax, below=0.24)
    return figure
