"""Small pieces of HTML that read the same on white and on black, in JupyterLab and in a page.

In: our words, and others'. Out: Html, in which everything that is not Html itself was escaped, with
inline styles. No text has a colour of its own, since none is readable on white and on black alike:
text inherits, and a colour is a border, a translucent ground or a line. Pictures are `<img>` with
the picture in them, which JupyterLab shows in pages that nobody trusts; it takes an inline `<svg>`
out.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence

import markupsafe

from harness.ground.text import NO_MATHS, without_escapes

# At least 3:1 on white and on JupyterLab's black, as lines and marks need.
GREEN, RED, BLUE, AMBER, GREY = "#1fa37a", "#d9622b", "#2f7fd0", "#b87a00", "#808891"
LINE, GROUND = "rgba(127,127,127,.35)", "rgba(127,127,127,.12)"
# Grounds of a diff's lines, by what they begin with.
DIFF_GROUNDS = {
    "+": "rgba(31,163,122,.22)",
    "-": "rgba(217,98,43,.22)",
    "@": "rgba(47,127,208,.18)",
}
CELL = f"padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid {LINE}"
MONO = "font-family:monospace;font-size:12px;line-height:1.45"
MOST_CHARACTERS = 2000
# JupyterLab's viewer of HTML files shows a copy, to which it appends a style. Its server refuses
# what links in it lead to, as browsers name no referrer there: a 403 would take the page's place.
VIEWER_STYLE = """.viewer { display: none; } body:has(> style) .viewer { display: block; }
body:has(> style) a:not([href^="#"]) { pointer-events: none; color: inherit; text-decoration: none }
"""


class Html(markupsafe.Markup):
    """Text that is HTML. Whatever is put in by `format`, `join` or `+` is escaped, but for Html.

    Of foreign text at most 2,000 characters, and nothing that would reorder or hide any of it.
    """

    @classmethod
    def escape(cls, text: object) -> Html:
        if not hasattr(text, "__html__"):
            text = without_escapes(str(text)[:MOST_CHARACTERS])
        return super().escape(text)


DOT = Html(
    '<span style="display:inline-block;width:.7em;height:.7em;border-radius:50%;background:{}">'
    "</span>"
)
VIEWER_NOTE = Html(
    '<p class="viewer"><small>JupyterLab follows no links from here to other files: its own list of'
    " pages is notebooks/index.md, in this run's folder.</small></p>"
)


def as_text(page: Html) -> Html:
    """HTML in which no dollar sign or backslash of anybody's means anything."""
    return Html('<div class="{}">{}</div>').format(NO_MATHS, page)


def box(body: object, colour: str = LINE) -> Html:
    style = f"border-left:4px solid {colour};padding:6px 14px;margin:4px 0"
    return Html('<div style="{}">{}</div>').format(style, body)


def bold(text: object) -> Html:
    return Html("<b>{}</b>").format(text)


def divs(lines: Iterable[object]) -> Html:
    """Each on a line of its own."""
    return Html().join(Html("<div>{}</div>").format(line) for line in lines)


def small(text: object) -> Html:
    return Html("<small>{}</small>").format(text)


def soft(text: object) -> Html:
    """A line beside the point."""
    return divs([small(text)])


def folded(title: object, body: object, is_open: bool = False) -> Html:
    """What is there for whoever asks."""
    opened = Html(" open") if is_open else ""
    return Html("<details{}><summary>{}</summary>{}</details>").format(opened, title, body)


def link(address: str, words: object) -> Html:
    return Html('<a href="{}">{}</a>').format(address, words)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    head = Html().join(Html('<th style="{}">{}</th>').format(CELL, word) for word in header)
    body = Html()
    for row in rows:
        cells = Html().join(Html('<td style="{}">{}</td>').format(CELL, cell) for cell in row)
        body += Html("<tr>{}</tr>").format(cells)
    whole = Html('<table style="border-collapse:collapse;margin:6px 0"><tr>{}</tr>{}</table>')
    return whole.format(head, body)


def preformatted(text: str) -> Html:
    """Text of others as it is, such as a log."""
    style = f"{MONO};background:{GROUND};border-radius:6px;padding:8px 12px;margin:4px 0"
    whole = Html(markupsafe.escape(without_escapes(text)))
    return Html('<pre style="{};overflow-x:auto;white-space:pre">{}</pre>').format(style, whole)


def diff(text: str, most: int = 200) -> Html:
    """A unified diff on coloured grounds, cut after `most` lines."""
    shown, lines = Html(), text.removesuffix("\n").split("\n")  # other marks break no line of code
    for ground, alike in itertools.groupby(lines[:most], lambda line: DIFF_GROUNDS.get(line[:1])):
        whole = Html('<div style="background:{}">{}</div>' if ground else "<div>{1}</div>")
        shown += whole.format(ground, Html("\n").join(line or " " for line in alike))
    more = soft(f"{len(lines) - most} more lines in train.diff") if len(lines) > most else ""
    style = f"{MONO};white-space:pre;overflow-x:auto;border:1px solid {LINE};padding:6px"
    return Html('<div style="{}">{}{}</div>').format(style, shown, more)


def picture(data: bytes, kind: str, words: str, width: int) -> Html:
    """An image with the words that stand for it. kind: png or svg+xml."""
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    whole = Html('<img alt="{}" width="{}" style="max-width:100%" src="{}">')
    return whole.format(words, width, Html(address))


def drawing(drawn: str, words: str, width: int, height: int) -> Html:
    """A picture of what an SVG of this size draws."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{drawn}</svg>'
    return picture(svg.encode(), "svg+xml", words, width)


def curve(points: Sequence[tuple[float, float]]) -> Html:
    """A training's loss in nats over its progress 0..1, as a picture with the last loss below."""
    if len(points) < 2:
        return Html()
    width, height = 460, 90
    values = sorted(y for _, y in points)
    # The losses of the first steps would flatten the rest.
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    span = (high - low) or 1.0
    places = []
    for x, y in [*points[:: max(1, len(points) // 200)], points[-1]]:
        down = 1 - min(1.0, (y - low) / span)
        places.append(f"{4 + x * (width - 8):.1f},{4 + down * (height - 8):.1f}")
    base = height - 4
    drawn = (
        f'<line x1="4" y1="{base}" x2="{width - 4}" y2="{base}" stroke="{GREY}"/><polyline '
        f'points="{" ".join(places)}" fill="none" stroke="{BLUE}" stroke-width="1.6"/>'
    )
    words = f"training loss {points[-1][1]:.3f} nats"
    return divs([drawing(drawn, words, width, height)]) + soft(words)
