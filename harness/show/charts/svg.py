"""Charts as SVG text, for the report and the panel: no library, the colours of the page around
them.

In: records, or points of training curves. Out: an `<svg>` element whose text and axes have the
colour of the text around it (`currentColor`), so that it reads in light and dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from harness.run.records import KEPT, OUTCOME_WORDS, Record, incumbent_of, short_title
from harness.show.markup import (
    AMBER,
    BLUE,
    DOT,
    GREEN,
    GREY,
    MOST_CHARACTERS,
    RED,
    Html,
    picture,
    soft,
)

COLOURS = {
    "baseline": BLUE,
    "kept": BLUE,
    "simplified": GREEN,
    "discarded": GREY,
    "quarantined": AMBER,
    "crashed": RED,
}
LEFT, RIGHT, TOP, BOTTOM = 52, 78, 12, 26
MOST_POINTS = 50  # of a curve
DRAWING = re.compile(r'<svg [^>]*viewBox="0 0 (\d+) [^>]*aria-label="([^"]*)".*?</svg>', re.DOTALL)
WORDS = re.compile(r"<text.*?</text>")

Points = Sequence[tuple[float, float]]


def as_pictures(page: str) -> Html:
    """A page whose drawings are pictures without words. JupyterLab takes drawings out of what
    nobody trusts, and leaves their words; and no grey is 4.5:1 on white and on its black.
    """

    def as_picture(drawing: re.Match) -> Html:
        svg = WORDS.sub("", drawing[0]).encode()
        return picture(svg, "svg+xml", drawing[2], int(drawing[1]))

    return Html(DRAWING.sub(as_picture, page))


def progress_svg(
    records: Sequence[Record],
    link: Callable[[int], str] | None = None,
    width: int = 960,
    height: int = 280,
) -> Html:
    """Every score by experiment, what was on the branch, and what one run must reach to be kept.

    link: the address that an experiment's dot leads to. What lies outside of the scale is drawn at
    its edge, as a triangle. "" before two experiments have a score.
    """
    scored = [record for record in records if record.val_bpb is not None]
    tip = incumbent_of(records)
    if len(scored) < 2 or tip is None:
        return Html()
    asked = next((r.threshold for r in reversed(scored) if r.threshold is not None), None)
    need = tip.val_bpb - asked if asked is not None else None
    low, high = _limits(records, need)
    last = max(record.experiment for record in scored)

    def x(experiment: int) -> float:
        return LEFT + (width - LEFT - RIGHT) * experiment / max(last, 1)

    def y(score: float) -> float:
        share = (high - min(max(score, low), high)) / (high - low)
        return TOP + (height - TOP - BOTTOM) * share

    drawn = [_axis(low + (high - low) * k / 4, y, width) for k in range(5)]
    drawn += [_label(x(n), height - 6, str(n)) for n in sorted({0, last // 2, last})]
    if need is not None and low <= need:
        drawn.append(
            f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y(need):.1f}" y2="{y(need):.1f}"'
            f' stroke="{GREEN}" stroke-dasharray="5 4"><title>what one run must reach to be kept:'
            f" {need:.4f}</title></line>"
            + _label(width - RIGHT + 6, y(need) + 4, "to be kept", anchor="start")
        )
    dots = [
        (r, _dot(r, x(r.experiment), y(r.val_bpb), low <= r.val_bpb <= high, link)) for r in scored
    ]
    drawn += [dot for record, dot in dots if record.outcome not in KEPT]
    drawn.append(_branch(records, x, y))
    drawn += [dot for record, dot in dots if record.outcome in KEPT]
    drawn.append(
        f'<text x="{width - RIGHT + 8}" y="{y(tip.val_bpb) - 5:.1f}" font-weight="700"'
        f' fill="currentColor">{tip.val_bpb:.4f}</text>'
    )
    words = "val_bpb by experiment, and what was on the branch"
    return _svg(drawn, (width, height), words, 12, "height:auto")


def legend_of(records: Sequence[Record]) -> Html:
    """What the colours of the chart's dots mean, of those outcomes that it has."""
    scored = {record.outcome for record in records if record.val_bpb is not None}
    words = [
        Html("{} {}").format(DOT.format(COLOURS.get(name, GREY)), word)
        for name, word in OUTCOME_WORDS.items()
        if name in scored - {"baseline"}
    ]
    axes = "val_bpb by experiment, lower is better; the line is the branch, from the baseline on"
    return soft(Html(" &ensp; ").join([axes, *words])) if words else Html()


def _limits(records: Sequence[Record], need: float | None) -> tuple[float, float]:
    """The scale: all that was on the branch, what is asked for, and scores not far from these."""
    scores = sorted(record.val_bpb for record in records if record.val_bpb is not None)
    anchors = [r.val_bpb for r in records if r.outcome in KEPT and r.val_bpb is not None]
    sigma = next((r.sigma for r in reversed(records) if r.sigma), 0.0)
    low, high = min([*anchors, *([need] if need is not None else [])]), max(anchors)
    unit = max(high - low, 4 * sigma, abs(high) * 1e-4)
    most = scores[int(0.92 * (len(scores) - 1))]
    return max(min(low, scores[0]), low - unit) - 0.08 * unit, min(
        max(high, most), high + unit
    ) + 0.08 * unit


def _axis(value: float, y: Callable[[float], float], width: int) -> str:
    return (
        f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        ' stroke="currentColor" opacity=".15"/>'
        + _label(LEFT - 6, y(value) + 4, f"{value:.3f}", anchor="end")
    )


def _label(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{text}</text>'


def _branch(
    records: Sequence[Record], x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    path = ""
    for record in records:
        if record.on_branch is not None:
            place = f"{x(record.experiment):.1f}", f"{y(record.on_branch):.1f}"
            path += f"H{place[0]}V{place[1]}" if path else f"M{place[0]} {place[1]}"
    return f'<path d="{path}" fill="none" stroke="{BLUE}" stroke-width="2"/>'


def _dot(
    record: Record, x: float, y: float, inside: bool, link: Callable[[int], str] | None
) -> str:
    colour = COLOURS.get(record.outcome, GREY)
    gain = f", gain {record.gain:+z.4f}" if record.gain is not None else ""
    head = f"{record.experiment:04d} {OUTCOME_WORDS[record.outcome]}"
    words = f"{head}: {short_title(record)}\n{record.val_bpb:.4f}{gain}"
    size = 6 if record.outcome in KEPT else 4.5
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}">'
        if inside
        else f'<path d="M{x - 5:.1f} {y + 4:.1f}h10l-5 -8z" fill="{colour}">'
    )
    end = "</circle>" if inside else "</path>"
    dot = f"{shape}<title>{html.escape(words[:MOST_CHARACTERS])}</title>{end}"
    return f'<a href="{html.escape(link(record.experiment))}">{dot}</a>' if link else dot


def curves_svg(curves: Sequence[tuple[str, Points]]) -> Html:
    """Training losses in nats over progress 0 to 1, the first in front; "" without one of two
    points.

    curves: (name, points); the first is the experiment's own, the others are drawn thin behind it.
    """
    curves = [(name, points) for name, points in curves if len(points) > 1]
    if not curves:
        return Html()
    width, height = 420, 110
    values = sorted(loss for _, points in curves for _, loss in points)
    low, high = values[0], values[int(0.96 * (len(values) - 1))]  # the first steps flatten the rest
    span = (high - low) or 1.0
    drawn = []
    for number, (name, points) in reversed(list(enumerate(curves))):
        most = MOST_POINTS // 2 if number else MOST_POINTS
        shown = [*points[:: max(1, len(points) // most)], points[-1]]
        falls = [(at, (high - min(loss, high)) / span) for at, loss in shown]
        places = " ".join(
            f"{44 + at * (width - 52):.0f},{6 + fall * (height - 26):.0f}" for at, fall in falls
        )
        style = f'stroke="{GREY}"' if number else f'stroke="{BLUE}" stroke-width="2"'
        drawn.append(
            f'<polyline points="{places}" fill="none" {style}><title>{Html.escape(name)}:'
            f" {points[-1][1]:.3f} nats at its end</title></polyline>"
        )
    drawn += [_label(40, 12, f"{high:.2f}", "end"), _label(40, height - 18, f"{low:.2f}", "end")]
    drawn.append(_label(44, height - 4, "start", "start"))
    drawn.append(_label(width - 8, height - 4, "end of the budget", "end"))
    return _svg(drawn, (width, height), "training loss in nats", 11, f"max-width:{width}px")


def _svg(drawn: Sequence[str], size: tuple[int, int], words: str, font: int, style: str) -> Html:
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img"'
        f' aria-label="{words}" font-size="{font}" style="width:100%;{style}">'
        f"{''.join(drawn)}</svg>"
    )
