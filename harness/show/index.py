"""Executed notebooks in, HTML pages out that open offline; and a run's index of its experiments.

A page keeps what the notebook shows and none of what it could do: its policy forbids scripts and
any request, because titles, diffs and logs in it were written by others. Pages are small (no theme,
no fonts), since a night makes a hundred of them. The index reads on white and on black. Refuses a
notebook that is not one with PageError.
"""

import contextlib
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
from harness.run.records import Record, baseline_of, incumbent_of, records_from_journal
from harness.show.charts.svg import progress_svg
from harness.show.markup import AMBER, BLUE, GREEN, GROUND, LINE, RED, Html, link
from harness.show.sentences import (
    as_judged,
    counts_in_words,
    headline,
    plural,
    say_claim,
)
from harness.show.stage import in_flight

POLICY = (
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
ACTIVE = re.compile(
    r"<(/?)(script|meta|base|link|iframe|frame|object|embed|form|portal)\b", re.IGNORECASE
)
SCRIPTS = re.compile(r"<script\b.*?</script\s*>", re.IGNORECASE | re.DOTALL)
REMOTE = re.compile(
    r"""(<[^<>]*\s)(src|srcset|poster|background)(\s*=\s*["']?\s*(?:https?:)?//)""", re.IGNORECASE
)
PAGE = Html("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{}</title>
<style>{}{}</style>
</head>
<body>
{}
</body>
</html>
""")
STYLE = f"""
:root {{ --muted: color-mix(in srgb, CanvasText 68%, Canvas); --line: {LINE}; }}
body {{ margin: 0 auto; padding: 2rem 1.5rem 5rem; max-width: 62rem; color: CanvasText;
  background: Canvas;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; }} h2 {{ margin-top: 2.2rem; font-size: 1.25rem; }}
nav {{ display: flex; gap: 1.2rem; font-size: .9rem; }} .muted, small {{ color: var(--muted); }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th {{ text-align: left; color: var(--muted); font-weight: 600; }}
th, td {{ padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
pre, code {{ font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }}
"""
NOTEBOOK_STYLE = f"""
:root {{ color-scheme: light; }} .prompt, .anchor-link {{ display: none; }}
.cell {{ margin: .6rem 0; }} img, svg {{ max-width: 100%; height: auto; }}
.input_area pre, .output pre {{ margin: .3rem 0; padding: .2rem .9rem; overflow-x: auto; }}
.output pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.input_area pre, .output_stderr pre, .output_error pre {{ background: {GROUND}; border-radius: 6px;
  padding: .6rem .9rem; }}
.output_stderr pre, .output_error pre {{ background: #fdf3ee; }}
.output_html {{ overflow-x: auto; }} .rendered_html pre code {{ background: none; padding: 0; }}
.rendered_html code {{ background: {GROUND}; padding: .1em .3em; border-radius: 4px; }}
blockquote {{ margin-left: 0; padding-left: 1rem; border-left: 3px solid var(--line);
  color: var(--muted); }}
.ansi-red-fg, .ansi-red-intense-fg {{ color: #b3261e; }} .ansi-cyan-fg {{ color: #00748a; }}
.ansi-green-fg, .ansi-green-intense-fg {{ color: #00704f; }} .ansi-bold {{ font-weight: 700; }}
.ansi-yellow-fg, .ansi-yellow-intense-fg {{ color: #8a6100; }}
.ansi-blue-fg, .ansi-blue-intense-fg {{ color: #0072b2; }} .ansi-magenta-fg {{ color: #a04890; }}
"""
INDEX_STYLE = f"""
:root {{ color-scheme: light dark; }} body {{ max-width: 74rem; }} table {{ width: 100%; }}
td.title {{ overflow-wrap: anywhere; width: 34%; }} td a {{ margin-right: .6rem; }}
td:last-child {{ white-space: nowrap; padding-right: 0; }}
td:nth-child(2) {{ min-width: 6rem; border-left: 4px solid transparent; padding-left: .5rem; }}
td.kept, td.simplified {{ font-weight: 600; border-left-color: {GREEN}; }}
td.baseline {{ font-weight: 600; border-left-color: {BLUE}; }}
td.crashed {{ border-left-color: {RED}; }} td.quarantined {{ border-left-color: {AMBER}; }}
.discarded, .no {{ color: var(--muted); }}
"""
NUMBERS = ("val_bpb", "gain", "runs", "steps", "tokens/s", "others' cores")  # columns of the index
CELLS = '<td>{}</td><td class="{}">{}</td><td class="title">{}</td>'
CELLS += '<td class="number">{}</td>' * len(NUMBERS)
LISTED = re.compile(
    r'<tr><td>(\d{4})</td><td class="\w+">([^<]*)</td><td class="title">[^<]*</td>'
    r'<td class="number">([^<]*)</td>'
)


# --- The page of a notebook ----------------------------------------------------------------------


def export_notebook(ipynb_path: str | Path) -> Path:
    """Write <name>.html beside the notebook, outputs as saved. PageError where it is none."""
    import nbformat

    path = Path(ipynb_path)
    try:
        text = path.read_text(encoding="utf-8")
        if not isinstance(json.loads(text).get("cells"), list):
            raise ValueError("it has no cells")
        notebook = nbformat.reads(text, as_version=4)
    except (OSError, ValueError, AttributeError) as error:
        raise PageError(f"{path} cannot be read as a notebook: {error}") from error
    exporter, code_style = _converter()
    body = without_active_parts(exporter.from_notebook_node(notebook)[0])
    links = [link(path.name, "this notebook")]
    if path.parent.name == "notebooks" and (path.parents[1] / "journal.jsonl").exists():
        links.insert(0, link("index.html", "all experiments"))
    page = _page(path.stem, _nav(links) + Html(body), NOTEBOOK_STYLE + code_style)
    target = path.with_suffix(".html")
    write_text_atomic(target, page)
    return target


@lru_cache(maxsize=1)
def _converter():
    """What makes a notebook's cells into HTML, and the style sheet of its code."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    formatter = HtmlFormatter(style="default", nobackground=True)
    return HTMLExporter(template_name="basic"), formatter.get_style_defs(".highlight")


def without_active_parts(body: str) -> str:
    """body without scripts, with every other element that could load or lead away as text."""
    body = SCRIPTS.sub("", body)
    return REMOTE.sub(r"\1data-\2\3", ACTIVE.sub(r"&lt;\1\2", body))


def _page(title: str, body: Html, style: str) -> Html:
    return PAGE.format(Html(POLICY), title, Html(STYLE), Html(style), body)


def _nav(links: Sequence[Html]) -> Html:
    return Html("<nav>{}</nav>\n").format(Html(" ").join(links)) if links else Html()


# --- The index of a run --------------------------------------------------------------------------


def write_index(run_dir: str | Path) -> Path:
    """Write notebooks/index.html of a run, and pages whose making was cut off; return its path."""
    run_dir = Path(run_dir)
    entries = read_journal(run_dir / "journal.jsonl")
    records, flight = records_from_journal(entries), in_flight(entries)
    folder = run_dir / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    export_missing(folder, records)
    present = {path.name for path in folder.iterdir()}
    rows = [_row(record, present) for record in reversed(records)]
    if flight and all(record.experiment != flight.experiment for record in records):
        running = (f"running: {flight.words}", one_line(flight.title), *[""] * len(NUMBERS))
        rows.insert(0, _cells(flight.experiment, "no", running, present))
    tip = incumbent_of(records)
    claimed = claim_of(run_dir, tip.experiment) if tip else None
    body = [
        Html("<h1>{}</h1>").format(headline(records, claimed)),
        Html("<p>{}</p>").format(_scores(records, claimed)),
        Html('<p class="muted">{}</p>').format(_facts(run_dir.name, records)),
        _nav(_other_pages(present)),
        Html(progress_svg(records)),
        Html("<table>\n{}\n{}\n</table>").format(_head(), Html("\n").join(rows)),
    ]
    target = folder / "index.html"
    write_text_atomic(target, _page(f"Run {run_dir.name}", Html("\n").join(body), INDEX_STYLE))
    return target


def read_index(folder: Path) -> dict[int, tuple[str, str]]:
    """(decision, score) of each experiment that a run's index lists, as it says them."""
    try:
        page = (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {int(number): (decision, score) for number, decision, score in LISTED.findall(page)}


def export_missing(folder: Path, records: Sequence[Record]) -> None:
    """Make the HTML page of every decided experiment that has a notebook and no page."""
    for record in records:
        notebook = folder / f"{record.experiment:04d}.ipynb"
        if notebook.exists() and not notebook.with_suffix(".html").exists():
            with contextlib.suppress(PageError):  # its writing was cut off, too
                export_notebook(notebook)


def _scores(records: Sequence[Record], claimed: dict | None) -> str:
    """The claim, and the scores that the night went by."""
    tip = incumbent_of(records)
    if tip is None or tip.experiment == 0:
        return ""
    return f"{say_claim(records, claimed)} On the branch: {as_judged(records)}."


def _facts(tag: str, records: Sequence[Record]) -> str:
    """How many experiments ended how, and what the figures are."""
    base, counts = baseline_of(records), "No experiment decided yet"
    if records:
        counts = f"{plural(len(records), 'experiment')}: {counts_in_words(records)}"
    pace = words_of_pace(base.pace) if base else ""
    speed = f"Steps and speed are of one training, the baseline's {pace}. " if pace else ""
    return (
        f"Run {tag}. {counts}. Scores in bits per byte; a gain is over what was on the branch "
        f"then. {speed}Titles are the proposers' words."
    )


def _head() -> Html:
    cells = [Html("<th>{}</th>").format(word) for word in ("experiment", "decision", "idea")]
    cells += [Html('<th class="number">{}</th>').format(word) for word in NUMBERS]
    return Html("<tr>{}<th>pages</th></tr>").format(Html().join(cells))


def _row(record: Record, present: set[str]) -> Html:
    score = "" if record.val_bpb is None else f"{record.val_bpb:.6f}"
    gain = "" if record.gain is None else f"{record.gain:+.6f}"
    decision = record.outcome
    if record.outcome == "crashed" and record.status != "crash":
        decision = f"crashed ({record.status.replace('_', ' ')})"
    figures = (score, gain, record.n_runs or "", *cells_of_pace(record.pace))
    said = (decision, one_line(record.title), *figures)
    return _cells(record.experiment, record.outcome.split()[0], said, present)


def _cells(experiment: int, kind: str, said: Sequence[object], present: set[str]) -> Html:
    """A row, with links to the pages there are. said: decision, title, NUMBERS."""
    name = f"{experiment:04d}"
    cells = Html(CELLS).format(name, kind, *said)
    if name == "0000" and "0000.ipynb" not in present:
        name = "02_baseline"  # the notebook that ran it
    files = ((f"{name}.html", "page"), (f"{name}.ipynb", "notebook"))
    links = [link(file, word) for file, word in files if file in present]
    return Html("<tr>{}<td>{}</td></tr>").format(cells, Html(" ").join(links))


def _other_pages(present: set[str]) -> list[Html]:
    """Links to the pages that are not experiments: preparation, baseline, analysis."""
    names = [name for name in sorted(present - {"index.html"}) if not name[:4].isdigit()]
    pages = [name for name in names if name.endswith(".html")]
    return [link(name, name.removesuffix(".html").replace("_", " ")) for name in pages]
