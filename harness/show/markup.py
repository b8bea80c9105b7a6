"""Small pieces of HTML that read the same in JupyterLab, light or dark, trusted or not, and in an exported page.

In: our words, and others' that are escaped here. Out: HTML with inline styles. No text has a colour of its own, since none is readable on white and on
black alike: text inherits, and a colour is a border, a translucent ground or a line. Pictures are `<img>` with the picture in them, which JupyterLab
shows in pages that nobody trusts; it takes an inline `<svg>` out.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from harness.ground.text import NO_MATHS, without_escapes

# At least 3:1 on white and on JupyterLab's black, as lines and marks need.
GREEN, RED, BLUE, AMBER, GREY = "#1fa37a", "#d9622b", "#2f7fd0", "#b87a00", "#808891"
LINE, GROUND = "rgba(127,127,127,.35)", "rgba(127,127,127,.12)"
ADDED, REMOVED, PLACE = "rgba(31,163,122,.22)", "rgba(217,98,43,.22)", "rgba(47,127,208,.18)"  # grounds of a diff's lines
COLOURS = {"keep": GREEN, "baseline": BLUE, "discard": GREY, "quarantine": AMBER, "crash": RED}
CELL = f"padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid {LINE}"
MONO = "font-family:monospace;font-size:12px;line-height:1.45"
MOST_CHARACTERS = 2000


def escape(text: object) -> str:
    """Foreign text as HTML text, at most 2,000 characters, without what would reorder or hide any of it."""
    return html.escape(without_escapes(str(text)[:MOST_CHARACTERS]))


def as_text(page: str) -> str:
    """HTML in which no dollar sign or backslash of anybody's means anything."""
    return f'<div class="{NO_MATHS}">{page}</div>'


def box(body: str, colour: str = LINE) -> str:
    return f'<div style="border-left:4px solid {colour};padding:6px 14px;margin:4px 0">{body}</div>'


def divs(lines: Sequence[object]) -> str:
    return "".join(f"<div>{escape(line)}</div>" for line in lines)


def soft(text: object) -> str:
    """A line beside the point."""
    return f"<div><small>{escape(text)}</small></div>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; cells are escaped."""
    head = "".join(f'<th style="{CELL}">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f'<td style="{CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return f'<table style="border-collapse:collapse"><tr>{head}</tr>{body}</table>'


def details(title: str, body: str, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{body}</details>"


def preformatted(text: str) -> str:
    """Text of others as it is, such as a log."""
    style = f"{MONO};background:{GROUND};border-radius:6px;padding:8px 12px;margin:4px 0;overflow-x:auto;white-space:pre"
    return f'<pre style="{style}">{html.escape(without_escapes(text))}</pre>'


def diff(text: str, most: int = 200) -> str:
    """A unified diff, escaped, on coloured grounds, cut after `most` lines."""
    grounds, lines = {"+": ADDED, "-": REMOVED, "@": PLACE}, text.splitlines()
    shown = "".join(
        f'<div style="background:{grounds.get(line[:1], "transparent")};white-space:pre">{escape(line) or " "}</div>' for line in lines[:most]
    )
    more = soft(f"{len(lines) - most} more lines in train.diff") if len(lines) > most else ""
    return f'<div style="{MONO};overflow-x:auto;border:1px solid {LINE};padding:6px">{shown}{more}</div>'


def picture(svg: str, words: str, width: int) -> str:
    """An SVG as an image with the words that stand for it."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f'<img alt="{html.escape(words)}" width="{width}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'


def curve(points: Sequence[tuple[float, float]], width: int = 460, height: int = 90) -> str:
    """A training's loss in nats over its progress 0..1, as a picture with the loss at its end below."""
    if len(points) < 2:
        return ""
    values = sorted(y for _, y in points)
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]  # the first steps would flatten the rest
    span = (high - low) or 1.0
    shown = [*points[:: max(1, len(points) // 200)], points[-1]]
    places = " ".join(f"{4 + x * (width - 8):.1f},{4 + (1 - min(1.0, (y - low) / span)) * (height - 8):.1f}" for x, y in shown)
    drawn = f'<line x1="4" y1="{height - 4}" x2="{width - 4}" y2="{height - 4}" stroke="{GREY}"/>'
    drawn += f'<polyline points="{places}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{drawn}</svg>'
    words = f"training loss {points[-1][1]:.3f} nats"
    return f"<div>{picture(svg, words, width)}</div>{soft(words)}"
