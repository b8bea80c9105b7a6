"""What all charts share: one palette, one layout with title and subtitle, limits, and labels.

In: numbers and words. Out: Figures that belong to no global state (pyplot is never imported), show
themselves in a notebook in the colour of its text, and save as PNG or SVG. Colours are the pages'
own, as lines and marks at least 3:1 on white and on black; all words are in ink. Shape repeats what
colour says. No outlier can flatten what matters.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from harness.ground.text import one_line
from harness.show.markup import AMBER, BLUE, GREEN, GREY, RED, Html, picture

INK, MUTED = "#22262E", "#5E6673"  # in a notebook both are the colour of its text
GRID = (0.5, 0.5, 0.5, 0.25)
PURPLE = "#AA4499"
NOT_DRAWN = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)


class Look(NamedTuple):
    """How an outcome is drawn. size: a factor."""

    colour: str
    marker: str
    size: float


LOOKS = {
    "discarded": Look(GREY, "o", 0.8),
    "kept": Look(BLUE, "o", 1.5),
    "simplified": Look(GREEN, "D", 1.2),
    "baseline": Look(INK, "s", 1.3),
    "quarantined": Look(AMBER, "^", 1.1),
    "crashed": Look(RED, "x", 1.0),
    "no result": Look(MUTED, "+", 1.0),
}
TIME_COLOURS = {
    "training": BLUE,
    "startup": PURPLE,
    "scoring": GREEN,
    "overhead": AMBER,
    "waiting": GREY,
}
RUN_COLOURS = (BLUE, RED, GREEN, PURPLE, AMBER, INK, GREY)
# fmt: off
STYLE = {
    "font.size": 10, "text.color": INK, "figure.facecolor": "white", "axes.facecolor": "white",
    "axes.edgecolor": GREY, "axes.labelcolor": MUTED, "axes.labelsize": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8,
    "xtick.color": MUTED, "xtick.labelsize": 9, "xtick.major.size": 3,
    "ytick.color": MUTED, "ytick.labelsize": 9, "ytick.major.size": 0,
    "legend.frameon": False, "legend.fontsize": 9, "svg.fonttype": "none",
    "axes.formatter.useoffset": False,
}
# fmt: on


class LabFigure(Figure):
    """A Figure that notebooks draw on their own ground, with its title for screen readers."""

    title_text = ""

    def html(self) -> Html:
        """The drawing. JupyterLab takes drawings out of what nobody trusts and leaves their
        pictures: what stays then is a picture on white, in the description that no browser shows.
        """
        width, height = (int(inches * 88) for inches in self.get_size_inches())
        return Html(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-label="{}"'
            ' stroke-linejoin="round" style="width:{}px;max-width:100%"><desc>{}</desc>{}</svg>'
        ).format(
            *(72 * inches for inches in self.get_size_inches()),
            self.title_text,
            width,
            picture(self.png(dpi=100), "png", self.title_text, width),
            self._drawn(),
        )

    _repr_html_ = html

    def _drawn(self) -> Html:
        """What an SVG of it draws, without a ground, and its ink as the colour of text."""
        buffer = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": self.title_text}):
            self.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        drawn = NOT_DRAWN.sub("", buffer.getvalue())
        for ink in (INK, MUTED):
            drawn = drawn.replace(ink.lower(), "currentColor")
        return Html(drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")])

    def png(self, dpi: int = 144) -> bytes:
        """The figure as a PNG file's bytes."""
        buffer = io.BytesIO()
        options = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
        self.savefig(buffer, format="png", dpi=dpi, **options)
        return buffer.getvalue()


def new_figure(
    title: str, subtitle: str = "", height: float = 5.0, warn: bool = False, **subplots
) -> tuple[LabFigure, np.ndarray]:
    """A figure with its finding as title, and its axes. warn: bold subtitle; subplots: Figure's."""
    width = 10.0
    with matplotlib.rc_context(STYLE):
        figure = LabFigure(figsize=(width, height), layout="constrained")
        figure.title_text = title
        title = textwrap.fill(safe(title), int(width * 8.6))
        subtitle = textwrap.fill(safe(subtitle), int(width * 13.6), break_on_hyphens=False)
        left, top = 0.012, 1 - 0.1 / height
        figure.text(left, top, title, fontsize=13, fontweight="bold", va="top", linespacing=1.25)
        inches = 0.14 + 0.26 * (title.count("\n") + 1)
        if subtitle:
            top, weight = 1 - inches / height, "bold" if warn else "normal"
            look = {"fontsize": 9.5, "fontweight": weight, "va": "top", "linespacing": 1.3}
            figure.text(left, top, subtitle, **look)
            inches += 0.1 + 0.19 * (subtitle.count("\n") + 1)
        rect = (0, 0, 1, 1 - inches / height)
        figure.get_layout_engine().set(rect=rect, w_pad=0.08, h_pad=0.08)
        axes = np.atleast_1d(figure.subplots(**subplots)).ravel()
    return figure, axes


def empty_figure(title: str, message: str) -> LabFigure:
    """A small figure that says why there is nothing to draw."""
    figure, (ax,) = new_figure(title, height=2.2)
    ax.set_axis_off()
    message = textwrap.fill(message, 90)
    ax.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, fontsize=11)
    return figure


def safe(text: str) -> str:
    """Untrusted words for matplotlib, where a dollar sign would start mathematics, or fail to."""
    return one_line(text).replace("$", r"\$")


def short(text: str, limit: int = 34) -> str:
    """text on one line, cut at a word when it is longer than limit characters."""
    words = textwrap.shorten(" ".join(str(text).split()), limit, placeholder="…")
    return safe(words or str(text)[:limit])


def focused_limits(
    scores: Sequence[float], anchors: Sequence[float], sigma: float = math.nan
) -> tuple[float, float]:
    """y-limits that show all anchors (baseline, kept scores) and the bulk of the scores.

    The rest is to be clipped. The room above the anchors is at most 60% of their span, or six sigma
    where that is more.
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
    """Arrows at the edge for points outside the y-limits; in words how many, and how far."""
    low, high = ax.get_ylim()
    look = {"ms": 5, "color": MUTED, "alpha": 0.7, "mec": "none", "clip_on": False, "zorder": 3}
    words = []
    for outside, edge, marker, word, farthest in (
        (y > high, 0.985, "^", "above", np.max),
        (y < low, 0.06, "v", "below", np.min),
    ):
        if outside.any():
            edges, transform = np.full(outside.sum(), edge), ax.get_xaxis_transform()
            ax.plot(x[outside], edges, marker, transform=transform, **look)
            far = f"as far as {farthest(y[outside]):.3f}"
            words.append(f"{outside.sum()} {word} the scale ({far})")
    look = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": MUTED}
    ax.text(1, 1.012, ", ".join(words), transform=ax.transAxes, **look)


def add_legend(ax: Axes, below: float | None = None, **options) -> None:
    """A legend without a frame; below: in one row under the axes, so many axes heights down."""
    if below is not None:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -below), "ncols": 9}
        options = {**place, "handletextpad": 0.4}
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.5, **options)


def whole_numbers(ax: Axes) -> None:
    """Ticks of the x-axis at whole numbers: there is no experiment 2.5."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


# --- Labels --------------------------------------------------------------------------------------

REACHES = (10, 20, 32, 46, 62)  # points from a dot to its label
ANGLES = np.radians((-150, -30, 30, 150, -125, -55, 55, 125, 0, 180))
OFFSETS = [(reach * math.cos(a), reach * math.sin(a)) for reach in REACHES for a in ANGLES]
HIGHEST_COST = 6


def label_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    words: Sequence[str],
    lines: Sequence[np.ndarray],
    dots: np.ndarray,
) -> None:
    """Write words beside points where they hide neither dots, lines nor one another.

    lines: polylines, and dots: points, each an (n, 2) array in data units. Earlier words are placed
    first, and one without room is left out. Greedy: meant for a dozen words and some thousands of
    obstacles.
    """
    ax.figure.draw_without_rendering()  # the layout must be known before anything can be placed
    to_pixels, pixels_per_point = ax.transData.transform, ax.figure.dpi / 72
    dense = [_dense(to_pixels(line)) for line in lines]
    dots, lines = to_pixels(dots), np.vstack([np.empty((0, 2)), *dense])
    taken: list[Place] = []
    look = {"fontsize": 8.5, "color": INK, "zorder": 6, "textcoords": "offset points"}
    for point, word in zip(points, words, strict=True):
        probe = ax.annotate(short(word), point, xytext=(0, 0), **look)
        anchor, size = to_pixels(point), probe.get_window_extent()
        probe.remove()
        places = [Place(offset, anchor, size, pixels_per_point) for offset in OFFSETS]
        free = [place for place in places if place.is_free(ax.bbox, taken)]
        costs = [place.cost(dots, lines) for place in free]
        if min(costs, default=math.inf) > HIGHEST_COST:
            continue
        place = free[int(np.argmin(costs))]
        taken.append(place)
        side = {"ha": "left" if place.offset[0] >= 0 else "right", "va": "center"}
        leader = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
        arrow = leader if math.hypot(*place.offset) > 16 else None
        text = ax.annotate(short(word), point, place.offset, arrowprops=arrow, **side, **look)
        # Or the axes would shrink to make room for it, and every place found be wrong.
        text.set_in_layout(False)


class Place:
    """Where a label may stand, and its leader; everything in pixels but the offset, in points."""

    def __init__(
        self, offset: tuple[float, float], anchor: np.ndarray, size: Bbox, pixels_per_point: float
    ) -> None:
        end = anchor + np.array(offset) * pixels_per_point
        left = end[0] - (0 if offset[0] >= 0 else size.width)
        bottom = end[1] - size.height / 2
        self.offset = offset
        self.box = Bbox.from_bounds(left - 4, bottom - 1, size.width + 8, size.height + 2)
        self.leader = anchor + (end - anchor) * np.linspace(0.15, 1, 14)[:, None]

    def is_free(self, frame: Bbox, taken: Sequence[Place]) -> bool:
        """Whether it is inside the axes, and meets no other label."""
        is_inside = frame.containsx(self.box.x0) and frame.containsx(self.box.x1)
        is_inside = is_inside and frame.containsy(self.box.y0) and frame.containsy(self.box.y1)
        return is_inside and not any(
            self.box.overlaps(other.box)
            or other.box.count_contains(self.leader)
            or self.box.count_contains(other.leader)
            for other in taken
        )

    def cost(self, dots: np.ndarray, lines: np.ndarray) -> float:
        """What it hides or crosses, and a little for distance."""
        hidden = 3 * self.box.count_contains(dots) + 1.5 * self.box.count_contains(lines)
        apart = np.abs(lines[:, None] - self.leader[None, 3:]).max(axis=2)
        crossed = np.count_nonzero((apart < 4).any(axis=0))
        return hidden + crossed + math.hypot(*self.offset) / 24


def _dense(line: np.ndarray) -> np.ndarray:
    """A polyline in pixels as points at most 5 pixels apart."""
    length = np.r_[0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    at = np.linspace(0, length[-1], max(2, int(length[-1] / 5)))
    return np.column_stack([np.interp(at, length, line[:, axis]) for axis in (0, 1)])
