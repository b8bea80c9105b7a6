"""A run in, charts of its constants out: which mattered, what moving each gained, and the files.

Drawn from the tuned experiments, those that changed nothing but constants. What too few of them
cannot show is left out; the sentences beside the charts (`say_constants`) say what is missing.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from harness.run.records import KEPT
from harness.search.constants import as_written
from harness.show.charts import figure as draw
from harness.show.charts.figure import LabFigure
from harness.show.frame import RunData
from harness.show.importances import Tuned, constant_importances, is_number, tuned_experiments
from harness.show.sentences import SURE, plural

BARS, PANELS, AXES = 12, 8, 8  # constants in a chart
PANELS_IN_ROW = 4
WIDE = 8.0  # a constant whose largest value is so many times its smallest is drawn on a log scale
WORSE_TO_BETTER = LinearSegmentedColormap.from_list("", [draw.GRID, draw.BLUE])


def plot_constants(run: RunData) -> list[LabFigure]:
    """Importances, slices and parallel coordinates, as far as there is enough for each."""
    tuned = tuned_experiments(run.entries)
    if not tuned:
        missing = "Nothing that only changed constants has a score (or this is a bare results.tsv)."
        return [draw.empty_figure("No tuned experiments", missing)]
    shares = constant_importances(tuned)
    moved = Counter(name for each in tuned for name in each.moved)
    names = [name for name, _ in shares] or [name for name, _ in moved.most_common()]
    figures = [_importances(shares, moved, len(tuned))] if shares else []
    figures.append(_slices(tuned, names[:PANELS], run))
    whole = [each for each in tuned if all(name in each.constants for name in names[:AXES])]
    if len(whole) > 1 and len(names) > 1:
        figures.append(_parallel(whole, names[:AXES]))
    return figures


def _importances(shares: Sequence[tuple[str, float]], moved: Counter, count: int) -> LabFigure:
    shown = shares[:BARS]
    title = f"{shown[0][0]} mattered most in {count} tuned experiments"
    subtitle = (
        "share in what sets those apart whose score moved most, up or down (PED-ANOVA); rough"
    )
    figure, (ax,) = draw.new_figure(title, subtitle, height=1.4 + 0.3 * len(shown))
    words = [f"{name}, moved {plural(moved[name], 'time')}" for name, _ in shown]
    bars = ax.barh(words, [share for _, share in shown], color=draw.BLUE, height=0.62)
    ax.bar_label(bars, labels=[f"{share:.0%}" for _, share in shown], padding=4, color=draw.INK)
    ax.set(xticks=[])
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.invert_yaxis()
    ax.margins(x=0.06)
    return figure


def _slices(tuned: Sequence[Tuned], names: Sequence[str], run: RunData) -> LabFigure:
    """For each constant a line per experiment: from the old value to the new one and its gain."""
    rows = math.ceil(len(names) / PANELS_IN_ROW)
    grid = {"nrows": rows, "ncols": PANELS_IN_ROW, "sharey": True}
    noise = run.experiments["noise_of_gain"].median()
    look = {"height": 1.2 + 2.1 * rows, **grid}
    figure, axes = draw.new_figure(_slices_title(tuned), _slices_key(noise), **look)
    kept = [each.gain for each in tuned if each.outcome in KEPT]
    losses = [-each.gain for each in tuned]
    low, high = draw.focused_limits([*losses, 0.0], [0.0, *(-gain for gain in kept)], noise)
    axes[0].set_ylim(-high, -low)
    for ax, name in zip(axes, names, strict=False):
        if math.isfinite(noise):
            ax.axhspan(-SURE * noise, SURE * noise, color=draw.BLUE, alpha=0.15, lw=0)
        ax.axhline(0, color=draw.INK, lw=0.8)
        _draw_slice(ax, name, [each for each in tuned if name in each.moved])
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax in axes[::PANELS_IN_ROW]:
        ax.set_ylabel("gain (bits per byte)")
    return figure


def _slices_title(tuned: Sequence[Tuned]) -> str:
    better, count = sum(each.gain > 0 for each in tuned), plural(len(tuned), "tuned experiment")
    if not better:
        return f"None of {count} gained"
    best = max(tuned, key=lambda each: each.gain)
    most = f"{best.experiment:04d} most: {best.gain:.4f} bits per byte"
    return f"{better} of {count} gained, {most}"


def _slices_key(noise: float) -> str:
    band = " Band: what chance alone gives or takes." if math.isfinite(noise) else ""
    return (
        "A line per experiment, from the old value to the new one and its gain. Hollow: it moved "
        f"other constants too. Triangle: below the scale.{band}"
    )


def _draw_slice(ax: Axes, name: str, tuned: Sequence[Tuned]) -> None:
    scale = Scale([value for each in tuned for value in each.moved[name]])
    floor = ax.get_ylim()[0]
    floor += 0.03 * (ax.get_ylim()[1] - floor)
    for each in tuned:
        old, new = (scale.place(value) for value in each.moved[name])
        colour = draw.BLUE if each.outcome in KEPT else draw.MUTED
        end, marker = max(each.gain, floor), "v" if each.gain < floor else "o"
        ax.plot([old, new], [0, end], color=colour, lw=0.8, alpha=0.6)
        fill = colour if len(each.moved) == 1 else "none"
        ax.plot(new, end, marker, color=colour, mfc=fill, ms=5, zorder=3)
    ax.set_title(draw.safe(name), fontsize=9.5, color=draw.INK)
    ax.set_xticks(*zip(*scale.ticks, strict=True))
    ax.margins(x=0.12)


def _parallel(tuned: Sequence[Tuned], names: Sequence[str]) -> LabFigure:
    """A line per tuned file through the values of its constants to its score."""
    ranked = sorted(tuned, key=lambda each: -each.val_bpb)
    title = f"The best tuned file, {ranked[-1].experiment:04d} at {ranked[-1].val_bpb:.4f}"
    subtitle = "each line is the file of one tuned experiment; the stronger, the better it scored"
    figure, (ax,) = draw.new_figure(title, subtitle, height=4.4)
    ax.set_axis_off()
    lines = []
    look = {"fontsize": 8.5, "ha": "center", "color": draw.INK}
    for x, name in enumerate([*names, "val_bpb"]):
        values = [each.constants.get(name, each.val_bpb) for each in ranked]
        scale = Scale(values)
        lines.append([scale.share(value) for value in values])
        ax.plot([x, x], [0, 1], color=draw.MUTED, lw=0.8, zorder=1)
        ax.text(x, 1.13, draw.safe(name), va="bottom", **look)
        ax.text(x, 1.03, _label(scale.values[-1]), va="bottom", **look)
        ax.text(x, -0.03, _label(scale.values[0]), va="top", **look)
    for rank, line in enumerate(zip(*lines, strict=True), 1):
        is_best = rank == len(ranked)
        colour = WORSE_TO_BETTER(rank / len(ranked))
        ax.plot(line, color=colour, lw=2.4 if is_best else 1.2, zorder=1 + rank)
    ax.set(ylim=(-0.12, 1.25), xlim=(-0.5, len(names) + 0.5))
    return figure


class Scale:
    """Where the values of one constant lie on an axis: numbers by size, words in their order."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = sorted({as_written(value) for value in values}, key=_order)
        self.is_of_numbers = all(is_number(value) for value in self.values)
        low, high = self.values[0], self.values[-1]
        self.is_log = self.is_of_numbers and low > 0 and high >= WIDE * low

    def place(self, value: Any) -> float:
        if not self.is_of_numbers:
            return float(self.values.index(as_written(value)))
        return math.log(value) if self.is_log else float(value)

    def share(self, value: Any) -> float:
        """Its place as a share of the way from the lowest to the highest."""
        low, high = self.place(self.values[0]), self.place(self.values[-1])
        return (self.place(value) - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and words of the lowest, the highest and what lies in the middle."""
        middle = [value for value in self.values if 0.35 < self.share(value) < 0.65]
        shown = dict.fromkeys([self.values[0], *middle[len(middle) // 2 :][:1], self.values[-1]])
        return [(self.place(value), _label(value)) for value in shown]


def _order(value: Any) -> tuple:
    return (0, value, "") if is_number(value) else (1, 0, repr(value))


def _label(value: Any) -> str:
    if not is_number(value):
        return draw.short(value, 12)
    return f"{value / 1000:.3g}k" if abs(value) >= 10_000 else f"{value:.4g}"
