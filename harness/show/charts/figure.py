"""What all charts share: one palette, one layout with title and subtitle, y-limits no outlier can flatten, labels.

In: numbers and words. Out: Figures that belong to no global state (pyplot is never imported), show themselves in a
notebook, and save as PNG or SVG. Colours are Okabe and Ito's, which the common kinds of colour blindness tell apart;
shape repeats what colour says.
"""

import io
import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

INK, MUTED, FAINT, GRID = "#22262E", "#5E6673", "#B4BAC4", "#E8EAEE"
BLUE, GREEN, ORANGE, RED, PURPLE, SKY = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#AA4499", "#56B4E9"
OUTCOME_STYLE = {  # outcome: colour, marker, size factor, word of the legend
    "discarded": (FAINT, "o", 0.8, "discarded"),
    "kept": (BLUE, "o", 1.5, "kept"),
    "simplified": (GREEN, "D", 1.2, "kept as simpler"),
    "baseline": (INK, "s", 1.3, "baseline"),
    "quarantined": (ORANGE, "^", 1.1, "quarantined"),
    "crashed": (RED, "x", 1.0, "crashed"),
    "no result": (MUTED, "+", 1.0, "no result"),
}
TIME_COLOURS = {"training": BLUE, "startup": SKY, "scoring": GREEN, "overhead": ORANGE, "waiting": "#D9DCE2"}
RUN_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, INK)
STYLE = {
    "font.size": 10, "axes.edgecolor": FAINT, "axes.labelcolor": MUTED, "axes.labelsize": 10, "xtick.color": MUTED,
    "ytick.color": MUTED, "xtick.labelsize": 9, "ytick.labelsize": 9, "text.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8,
    "axes.axisbelow": True, "xtick.major.size": 3, "ytick.major.size": 0, "legend.frameon": False, "legend.fontsize": 9,
    "figure.facecolor": "white", "axes.facecolor": "white", "svg.fonttype": "none", "axes.formatter.useoffset": False,
}  # fmt: skip


class LabFigure(Figure):
    """A Figure that notebooks show as it is (no pyplot, no magic), sharp, and with its title for screen readers."""

    title_text = ""

    def _repr_png_(self) -> tuple[bytes, dict]:
        width, height = self.get_size_inches()
        return self.png(), {"width": int(width * 88), "height": int(height * 88), "alt": self.title_text}

    def png(self, dpi: int = 144) -> bytes:
        """The figure as a PNG file's bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
        return buffer.getvalue()


def new_figure(
    title: str, subtitle: str = "", width: float = 10.0, height: float = 5.0, warn: bool = False, **subplots
) -> tuple[LabFigure, np.ndarray]:
    """A figure with its finding as title, and its axes as a flat array. warn: a red subtitle. subplots: of Figure."""
    with matplotlib.rc_context(STYLE):
        figure = LabFigure(figsize=(width, height), layout="constrained")
        figure.title_text = title
        title = textwrap.fill(safe(title), int(width * 8.6))
        subtitle = textwrap.fill(safe(subtitle), int(width * 13.6), break_on_hyphens=False)
        inches = 0.14 + 0.26 * (title.count("\n") + 1)
        figure.text(0.012, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", va="top", linespacing=1.25)
        if subtitle:
            figure.text(
                0.012,
                1 - inches / height,
                subtitle,
                fontsize=9.5,
                color=RED if warn else MUTED,
                va="top",
                linespacing=1.3,
            )
            inches += 0.1 + 0.19 * (subtitle.count("\n") + 1)
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - inches / height), w_pad=0.08, h_pad=0.08)
        axes = np.atleast_1d(figure.subplots(**subplots)).ravel()
    return figure, axes


def empty_figure(title: str, message: str) -> LabFigure:
    """A small figure that says why there is nothing to draw."""
    figure, (ax,) = new_figure(title, height=2.2)
    ax.set_axis_off()
    ax.text(0.5, 0.5, textwrap.fill(message, 90), ha="center", va="center", color=MUTED, fontsize=11)
    return figure


def safe(text: str) -> str:
    """Untrusted words for matplotlib: a dollar sign would start mathematics, and fail to draw when it is none."""
    return str(text).replace("$", r"\$")


def short(text: str, limit: int = 34) -> str:
    """text on one line, cut at a word when it is longer than limit characters."""
    return safe(textwrap.shorten(" ".join(str(text).split()), limit, placeholder="…") or str(text)[:limit])


def focused_limits(scores: Sequence[float], anchors: Sequence[float], sigma: float = math.nan) -> tuple[float, float]:
    """y-limits that show all anchors (baseline, kept scores) and the bulk of the scores; the rest is to be clipped.

    The room above the anchors is at most 60% of their span, or six sigma where that is more.
    """
    scores, anchors = _finite(scores), _finite(anchors)
    if len(scores) == 0:
        return 0.0, 1.0
    if len(anchors) == 0:
        anchors = np.percentile(scores, [10, 60])
    low, high = anchors.min(), anchors.max()
    unit = max(high - low, 6 * (sigma if math.isfinite(sigma) else 0.0), abs(high) * 1e-4)
    bulk_low, bulk_high = np.percentile(scores, [1, 92])
    top = min(max(high, bulk_high), high + 0.6 * unit) + 0.08 * unit
    bottom = max(min(low, bulk_low), low - 0.6 * unit) - 0.12 * unit
    return float(bottom), float(top)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype="float64")
    return array[np.isfinite(array)]


def mark_clipped(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Arrows at the edge for points outside the y-limits, and in words how many they are and how far they go."""
    low, high = ax.get_ylim()
    words = []
    for outside, edge, marker, word, farthest in (
        (y > high, 0.985, "^", "above", np.max),
        (y < low, 0.06, "v", "below", np.min),
    ):
        if outside.any():
            ax.plot(
                x[outside], np.full(outside.sum(), edge), marker, transform=ax.get_xaxis_transform(), ms=5, color=MUTED,
                alpha=0.7, mec="none", clip_on=False, zorder=3,
            )  # fmt: skip
            words.append(f"{outside.sum()} {word} the scale (as far as {farthest(y[outside]):.3f})")
    if words:
        ax.text(1, 1.012, ", ".join(words), transform=ax.transAxes, ha="right", va="bottom", fontsize=8.5, color=MUTED)


def add_legend(ax: Axes, below: float | None = None, **options) -> None:
    """A legend without a frame; below puts it in one row under the axes, that many axes heights down."""
    if below is not None:
        options = {"loc": "upper center", "bbox_to_anchor": (0.5, -below), "ncols": 9, "handletextpad": 0.4, **options}
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.5, **options)


def whole_numbers(ax: Axes) -> None:
    """Ticks of the x-axis at whole numbers: there is no experiment 2.5."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def label_points(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    words: Sequence[str],
    lines: Sequence[np.ndarray],
    dots: np.ndarray,
) -> int:
    """Write words beside points where they hide neither dots, lines nor one another; return how many found room.

    lines: polylines, and dots: points, each an (n, 2) array in data units. Earlier words are placed first, and one
    without room is left out. Greedy: meant for a dozen words and some thousands of obstacles.
    """
    ax.figure.draw_without_rendering()  # the layout must be known before anything can be placed in it
    room = LabelRoom(ax, lines, dots)
    for px, py, word in zip(x, y, words, strict=True):
        halo = [withStroke(linewidth=2.5, foreground="white")]
        look = {"fontsize": 8.5, "color": INK, "zorder": 6, "textcoords": "offset points", "path_effects": halo}
        probe = ax.annotate(short(word), (px, py), xytext=(0, 0), **look)
        offset = room.place((px, py), probe.get_window_extent())
        probe.remove()
        if offset is None:
            continue
        dx, dy = offset
        leader = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
        far = math.hypot(dx, dy) > 16
        side = {"ha": "left" if dx >= 0 else "right", "va": "center"}
        text = ax.annotate(short(word), (px, py), xytext=offset, arrowprops=leader if far else None, **side, **look)
        text.set_in_layout(False)  # or the axes would shrink to make room for it, and every place found be wrong
    return len(room.boxes)


class LabelRoom:
    """Where on the axes there is still room for a label; everything in pixels."""

    REACHES = (10, 20, 32, 46, 62)  # points
    ANGLES = (-150, -30, 30, 150, -125, -55, 55, 125, 0, 180)  # degrees

    def __init__(self, ax: Axes, lines: Sequence[np.ndarray], dots: np.ndarray):
        to_pixels = ax.transData.transform
        self.axes_box, self.pixels_per_point = ax.get_window_extent(), ax.figure.dpi / 72
        self.to_pixels, self.boxes, self.leaders = to_pixels, [], np.empty((0, 2))
        self.lines = np.vstack([_dense(to_pixels(line)) for line in lines if len(line)] or [np.empty((0, 2))])
        self.dots = to_pixels(dots) if len(dots) else np.empty((0, 2))

    def place(self, point: tuple[float, float], size: Bbox) -> tuple[float, float] | None:
        """The offset in points of the cheapest free place for a label of this size, taken from now on; or None."""
        anchor = np.asarray(self.to_pixels(point))
        angles = np.radians(self.ANGLES)
        offsets = [(r * math.cos(a), r * math.sin(a)) for r in self.REACHES for a in angles]
        costs = [self._cost(anchor, size, offset) for offset in offsets]
        cheapest = int(np.argmin(costs))
        if costs[cheapest] > 6:
            return None
        box, leader = self._shape(anchor, size, offsets[cheapest])
        self.boxes.append(box)
        self.leaders = np.vstack([self.leaders, leader])
        return offsets[cheapest]

    def _shape(self, anchor: np.ndarray, size: Bbox, offset: tuple[float, float]) -> tuple[Bbox, np.ndarray]:
        end = anchor + np.array(offset) * self.pixels_per_point
        left = end[0] - (0 if offset[0] >= 0 else size.width)
        box = Bbox.from_bounds(left - 4, end[1] - size.height / 2 - 1, size.width + 8, size.height + 2)
        return box, anchor + (end - anchor) * np.linspace(0.15, 1, 14)[:, None]

    def _cost(self, anchor: np.ndarray, size: Bbox, offset: tuple[float, float]) -> float:
        """What a place hides or crosses, and a little for distance; infinite outside the axes and on another label."""
        box, leader = self._shape(anchor, size, offset)
        frame = self.axes_box
        if box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1:
            return math.inf
        if any(box.overlaps(other) or _count(leader, other) for other in self.boxes) or _count(self.leaders, box):
            return math.inf
        hidden = 3 * _count(self.dots, box) + 1.5 * _count(self.lines, box)
        near = (
            np.abs(self.lines[:, None] - leader[None, 3:]).max(axis=2).min(axis=0)
            if len(self.lines)
            else np.ones(1) * 99
        )
        return hidden + 1.0 * np.count_nonzero(near < 4) + math.hypot(*offset) / 24


def _count(points: np.ndarray, box: Bbox) -> int:
    x, y = points[:, 0], points[:, 1]
    return int(np.count_nonzero((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)))


def _dense(line: np.ndarray) -> np.ndarray:
    """A polyline in pixels as points at most 5 pixels apart."""
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    at = np.linspace(0, length[-1], max(2, int(length[-1] / 5)))
    return np.column_stack([np.interp(at, length, line[:, 0]), np.interp(at, length, line[:, 1])])
