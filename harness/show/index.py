"""Executed notebooks in, HTML pages out that open offline; and a run's index of all its experiments.

A page keeps what the notebook shows and none of what it could do: its policy forbids scripts and any request, because
titles, diffs and logs in it were written by others. Pages are small (no theme, no fonts), since a night makes a
hundred of them. Refuses a notebook that is not one with PageError.
"""

import contextlib
import html
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from harness.ground.errors import PageError
from harness.ground.files import write_text_atomic
from harness.ground.text import one_line
from harness.lab.close_out import claim_of
from harness.run.journal import read_journal
from harness.run.pace import cells_of_pace, words_of_pace
from harness.run.records import KEPT, Record, baseline_of, incumbent_of, records_from_journal
from harness.show.sentences import as_judged, headline, plural, say_claim
from harness.show.stage import in_flight

POLICY = (
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
ACTIVE = re.compile(r"<(/?)(script|meta|base|link|iframe|frame|object|embed|form|portal)\b", re.IGNORECASE)
SCRIPTS = re.compile(r"<script\b.*?</script\s*>", re.IGNORECASE | re.DOTALL)
REMOTE = re.compile(r"""(<[^<>]*\s)(src|srcset|poster|background)(\s*=\s*["']?\s*(?:https?:)?//)""", re.IGNORECASE)
STYLE = """
:root { color-scheme: light; --ink: #22262e; --muted: #5e6673; --line: #e3e6eb; --blue: #0072b2; }
body { margin: 0 auto; padding: 2rem 1.5rem 5rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.2rem; font-size: 1.25rem; } a { color: var(--blue); }
nav { display: flex; gap: 1.2rem; font-size: .9rem; } .muted, small { color: var(--muted); }
table { border-collapse: collapse; font-size: .9rem; } th { text-align: left; color: var(--muted); font-weight: 600; }
th, td { padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre, code { font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
"""
NOTEBOOK_STYLE = """
.prompt, .anchor-link { display: none; } .cell { margin: .6rem 0; } img, svg { max-width: 100%; height: auto; }
.input_area pre { margin: .3rem 0; padding: .6rem .9rem; background: #f6f7f9; border-radius: 6px; overflow-x: auto; }
.output pre { margin: .3rem 0; padding: .2rem .9rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.output_stderr pre, .output_error pre { background: #fdf3ee; border-radius: 6px; padding: .6rem .9rem; }
.output_html { overflow-x: auto; } .rendered_html code { background: #f1f3f5; padding: .1em .3em; border-radius: 4px; }
.rendered_html pre code { background: none; padding: 0; } blockquote { margin-left: 0; padding-left: 1rem;
  border-left: 3px solid var(--line); color: var(--muted); }
.ansi-red-fg, .ansi-red-intense-fg { color: #b3261e; } .ansi-green-fg, .ansi-green-intense-fg { color: #00704f; }
.ansi-yellow-fg, .ansi-yellow-intense-fg { color: #8a6100; } .ansi-blue-fg, .ansi-blue-intense-fg { color: #0072b2; }
.ansi-magenta-fg { color: #a04890; } .ansi-cyan-fg { color: #00748a; } .ansi-bold { font-weight: 700; }
"""
INDEX_STYLE = """
.kept, .baseline, .simplified { font-weight: 600; } .kept { color: #0072b2; } .simplified { color: #00704f; }
.crashed { color: #b04a00; } .quarantined { color: #8a6100; } .discarded, .no { color: var(--muted); }
svg { width: 100%; height: auto; margin: 1rem 0; } table { width: 100%; }
body { max-width: 74rem; } td.title { overflow-wrap: anywhere; width: 34%; } td:nth-child(2) { min-width: 6rem; }
td:last-child { white-space: nowrap; padding-right: 0; }
td a { margin-right: .6rem; }
"""


NUMBERS = ("val_bpb", "gain", "runs", "steps", "tokens/s", "others' cores")  # columns of the index


def export_notebook(ipynb_path: str | Path) -> Path:
    """Write <name>.html beside the notebook, atomically, and return its path; outputs appear as they are saved.

    Raises PageError for a file that is no notebook. The first call imports nbconvert (about a second).
    """
    import nbformat

    path = Path(ipynb_path)
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(json.loads(text).get("cells"), list):
            raise ValueError("it has no cells")
        notebook = nbformat.reads(text, as_version=4)
    except (OSError, ValueError, AttributeError) as error:
        raise PageError(f"{path} cannot be read as a notebook: {error}") from error
    body = without_active_parts(_exporter().from_notebook_node(notebook)[0])
    in_run = path.parent.name == "notebooks" and (path.parent.parent / "journal.jsonl").exists()
    links = ['<a href="index.html">all experiments</a>'] if in_run else []
    links.append(f'<a href="{html.escape(path.name)}">this notebook</a>')
    page = _page(path.stem, f"<nav>{' '.join(links)}</nav>\n{body}", NOTEBOOK_STYLE + _code_colours())
    target = path.with_suffix(".html")
    write_text_atomic(target, page)
    return target


@lru_cache(maxsize=1)
def _exporter():
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="basic")


@lru_cache(maxsize=1)
def _code_colours() -> str:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight")


def without_active_parts(body: str) -> str:
    """body without scripts, with every other element that could load or lead away shown as text."""
    body = SCRIPTS.sub("", body)
    return REMOTE.sub(r"\1data-\2\3", ACTIVE.sub(r"&lt;\1\2", body))


def _page(title: str, body: str, style: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def write_index(run_dir: str | Path) -> Path:
    """Write notebooks/index.html of a run, newest experiment first, with links to the pages there are; return it.

    A page whose making was cut off after its experiment was done is made up for.
    """
    run_dir = Path(run_dir)
    entries = read_journal(run_dir / "journal.jsonl")
    records, flight = records_from_journal(entries), in_flight(entries)
    folder = run_dir / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    export_missing(folder, records)
    present = {path.name for path in folder.iterdir()}
    rows = [_row(record, present) for record in reversed(records)]
    if flight and not any(record.experiment == flight.experiment for record in records):
        name = f"{flight.experiment:04d}"
        cells = [name, f"running: {flight.words}", one_line(flight.title), *[""] * 6, _links(name, present)]
        rows.insert(0, _cells(cells, "no"))
    heads = ["experiment", "decision", "idea", *NUMBERS, "pages"]
    head = "".join(f"<th{' class=number' if word in NUMBERS else ''}>{word}</th>" for word in heads)
    tip = incumbent_of(records)
    claimed = claim_of(run_dir, tip.experiment) if tip else None
    body = [
        f"<h1>{html.escape(headline(records, claimed))}</h1>",
        _words_of_scores(records, claimed),
        f'<p class="muted">Run {html.escape(run_dir.name)}. {_counts(records)} Scores in bits per byte; a gain is over '
        f"what was on the branch then. {_words_of_pace(records)}Titles are the proposers' words.</p>",
        _other_pages(present),
        progress_svg(records),
        f"<table>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>",
    ]
    target = folder / "index.html"
    write_text_atomic(target, _page(f"Run {run_dir.name}", "\n".join(body), INDEX_STYLE))
    return target


def _words_of_scores(records: Sequence[Record], claimed: dict | None) -> str:
    """The claim, and the scores that the night went by, as a paragraph."""
    tip = incumbent_of(records)
    if tip is None or tip.experiment == 0:
        return ""
    judged = as_judged(records)
    return f"<p>{html.escape(say_claim(records, claimed))} On the branch: {html.escape(judged)}.</p>"


def _words_of_pace(records: Sequence[Record]) -> str:
    """What the baseline's trainings came to, to compare with."""
    base = baseline_of(records)
    words = words_of_pace(base.pace) if base else ""
    return f"Steps and speed are of one training, the baseline's {words}. " if words else ""


def export_missing(folder: Path, records: Sequence[Record]) -> None:
    """Make the HTML page of every decided experiment that has a notebook and no page."""
    for record in records:
        notebook = folder / f"{record.experiment:04d}.ipynb"
        if notebook.exists() and not notebook.with_suffix(".html").exists():
            with contextlib.suppress(PageError):  # its writing was cut off, too
                export_notebook(notebook)


def _counts(records: Sequence[Record]) -> str:
    outcomes = [record.outcome for record in records]
    words = [f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes)]
    return f"{plural(len(records), 'experiment')}: {', '.join(words)}." if records else "No experiment decided yet."


def _row(record: Record, present: set[str]) -> str:
    name = f"{record.experiment:04d}"
    score = "" if record.val_bpb is None else f"{record.val_bpb:.6f}"
    gain = "" if record.gain is None else f"{record.gain:+.6f}"
    detail = record.status.replace("_", " ") if record.outcome == "crashed" and record.status != "crash" else ""
    decision = f"{record.outcome} ({detail})" if detail else record.outcome
    numbers = [score, gain, str(record.n_runs or ""), *cells_of_pace(record.pace)]
    cells = [name, decision, one_line(record.title), *numbers, _links(name, present)]
    return _cells(cells, record.outcome.split()[0])


def _cells(cells: Sequence[str], decision_class: str) -> str:
    classes = ["", decision_class, "title", *["number"] * len(NUMBERS), ""]
    escaped = [*(html.escape(cell) for cell in cells[:-1]), cells[-1]]
    return "<tr>" + "".join(f'<td class="{c}">{text}</td>' for c, text in zip(classes, escaped, strict=True)) + "</tr>"


def _links(name: str, present: set[str]) -> str:
    if name == "0000" and "0000.ipynb" not in present:
        name = "02_baseline"  # the notebook that ran it
    files = ((f"{name}.html", "page"), (f"{name}.ipynb", "notebook"))
    return " ".join(f'<a href="{file}">{word}</a>' for file, word in files if file in present)


def _other_pages(present: set[str]) -> str:
    """Links to the pages that are not experiments: preparation, baseline, analysis."""
    names = sorted(
        name for name in present if name.endswith(".html") and name != "index.html" and not name[:4].isdigit()
    )
    links = [f'<a href="{html.escape(name)}">{html.escape(name[:-5].replace("_", " "))}</a>' for name in names]
    return f"<nav>{' '.join(links)}</nav>" if links else ""


def progress_svg(records: Sequence[Record], width: int = 960, height: int = 220) -> str:
    """A small progress chart as inline SVG: dots by outcome and what was on the branch; what lies outside is left out."""
    scored = [record for record in records if record.val_bpb is not None]
    kept = [record.val_bpb for record in scored if record.outcome in KEPT]
    if len(scored) < 2 or not kept:
        return ""
    low, high, tip = min(kept), max(kept), incumbent_of(records)
    sigma = next((record.sigma for record in reversed(records) if record.sigma), 0.0)
    unit = max(high - low, 6 * sigma, high * 1e-4)
    low, high = low - 0.25 * unit, high + 0.4 * unit
    last = max(record.experiment for record in records)

    def place(experiment: int, score: float) -> tuple[float, float]:
        return round(10 + (width - 80) * experiment / max(last, 1), 1), round(height * (high - score) / (high - low), 1)

    dots: dict[bool, list[str]] = {True: [], False: []}
    for record in scored:
        if low <= record.val_bpb <= high:
            x, y = place(record.experiment, record.val_bpb)
            dots[record.outcome in KEPT].append(f"M{x} {y}h0")
    line = ""
    for record in records:
        if record.on_branch is not None:
            x, y = place(record.experiment, record.on_branch)
            line += f"H{x}V{y}" if line else f"M{x} {y}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="val_bpb by experiment, and what was on the branch">\n'
        f'<path d="{"".join(dots[False])}" stroke="#b4bac4" stroke-width="5" stroke-linecap="round" fill="none"/>\n'
        f'<path d="{line}" stroke="#0072b2" stroke-width="2" fill="none"/>\n'
        f'<path d="{"".join(dots[True])}" stroke="#0072b2" stroke-width="9" stroke-linecap="round" fill="none"/>\n'
        f'<text x="{x + 10:.0f}" y="{y + 5:.0f}" font-size="15" font-weight="600" fill="#0072b2">'
        f"{tip.val_bpb:.4f}</text>\n</svg>"
    )
