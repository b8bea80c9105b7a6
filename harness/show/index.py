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
from harness.run.journal import read_journal
from harness.run.pace import cells_of_pace, words_of_pace
from harness.run.records import (
    OUTCOME_WORDS,
    Record,
    baseline_of,
    incumbent_of,
    records_from_journal,
)
from harness.show.markup import GROUND, LINE, Html, link
from harness.show.sentences import (
    as_judged,
    claim_on_branch,
    headline,
    plural,
    quoted,
    say_claim,
    say_counts,
    say_standing,
    signed,
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
HEADS = ("val_bpb", "gain", "runs", "steps", "tokens/s", "others' cores")


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
        links.insert(0, link("../report/report.html", "all experiments"))
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
    """Write notebooks/index.md of a run, and pages whose making was cut off; return its path.

    Markdown, since JupyterLab and git hosts follow its links: those of an HTML file JupyterLab
    answers with 403.
    """
    run_dir = Path(run_dir)
    entries = read_journal(run_dir / "journal.jsonl")
    folder = run_dir / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    export_missing(folder, records_from_journal(entries))
    target = folder / "index.md"
    write_text_atomic(target, index_text(run_dir, entries))
    return target


def index_text(run_dir: Path, entries: Sequence[dict]) -> str:
    """The index as Markdown: what came of the night, and a row for each experiment, newest
    first.
    """
    records, flight = records_from_journal(entries), in_flight(entries)
    folder = run_dir / "notebooks"
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    rows = [_row(record, present) for record in reversed(records)]
    if flight and all(record.experiment != flight.experiment for record in records):
        cells = [f"{flight.experiment:04d}", f"running: {flight.words}", quoted(flight.title)]
        rows.insert(0, _line([*cells, *[""] * len(HEADS), _links(cells[0], present)]))
    claimed = claim_on_branch(run_dir, records)
    others = [
        f"[{name.removesuffix('.ipynb').replace('_', ' ')}]({name})"
        for name in sorted(present)
        if name.endswith(".ipynb") and not name[:4].isdigit() and ".cut" not in name
    ]
    parts = [
        f"# {headline(records, claimed)}",
        _scores(records, claimed),
        _facts(run_dir.name, records),
        " · ".join(["[the report](../report/report.html)", *others]),
        "\n".join([_line(["#", "outcome", "idea", *HEADS, "pages"]), "|---" * 10 + "|", *rows]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows_of_index(text: str) -> dict[int, str]:
    """The row of each experiment in an index, without its links."""
    rows = [line for line in text.splitlines() if re.match(r"\| \d{4} \|", line)]
    return {int(row[2:6]): row.rpartition("|")[0].rpartition("|")[0] for row in rows}


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
    base, counts = baseline_of(records), say_counts(records)
    stands = f" {say_standing(records)}." if base else ""
    pace = words_of_pace(base.pace) if base else ""
    speed = f"Steps and speed are of one training, the baseline's {pace}. " if pace else ""
    return (
        f"Run {tag}. {counts}.{stands} Scores in bits per byte; a gain is over what was on the branch "
        f"then. {speed}Titles are the proposers' words."
    )


def _row(record: Record, present: set[str]) -> str:
    score = "" if record.val_bpb is None else f"{record.val_bpb:.4f}"
    gain = signed(record.gain)
    outcome = OUTCOME_WORDS[record.outcome]
    if record.outcome == "crashed" and record.status != "crash":
        outcome = f"crashed ({record.status.replace('_', ' ')})"
    figures = (score, gain, str(record.n_runs or ""), *cells_of_pace(record.pace))
    name = f"{record.experiment:04d}"
    return _line([name, outcome, quoted(record.title), *figures, _links(name, present)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _links(name: str, present: set[str]) -> str:
    """The pages of an experiment that there are."""
    if name == "0000" and "0000.ipynb" not in present:
        name = "02_baseline"  # the notebook that ran it
    files = ((f"{name}.ipynb", "notebook"), (f"{name}.html", "page"))
    return " ".join(f"[{word}]({file})" for file, word in files if file in present)


# --- The head of an experiment's page ------------------------------------------------------------


def finish_page(path: Path) -> None:
    """Put what came of an experiment first on its executed notebook, make that read-only, and
    export it as HTML.

    Read-only: JupyterLab would save an older view over it.
    """
    if head := head_of_page(path):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cell = {"cell_type": "markdown", "id": "page-head", "metadata": {}, "source": head}
        notebook["cells"].insert(0, cell)
        write_text_atomic(path, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    path.chmod(0o444)
    export_notebook(path)


def head_of_page(path: Path) -> str:
    """Number, outcome, idea, score, gain and reason in Markdown; "" where the page is of no
    decided experiment.
    """
    run_dir = path.parent.parent
    if path.parent.name != "notebooks" or not path.stem.isdigit():
        return ""
    number = int(path.stem)
    records = records_from_journal(read_journal(run_dir / "journal.jsonl"))
    record = next((each for each in records if each.experiment == number), None)
    if record is None:
        return ""
    figures = []
    if record.val_bpb is not None:
        figures.append(f"**val_bpb {record.val_bpb:.4f}**, {plural(record.n_runs, 'run')}")
    if record.gain is not None:
        figures.append(f"gain {signed(record.gain)} on what was on the branch")
    if record.threshold is not None:
        figures.append(f"{record.threshold:.4f} was asked for")
    before = f"[previous]({number - 1:04d}.ipynb) · " if number > 1 else ""
    return "\n\n".join(
        part
        for part in (
            f"# {number:04d} {OUTCOME_WORDS[record.outcome]}: {quoted(record.title)}",
            "; ".join(figures),
            quoted(record.verdict or record.cause, 300),
            f"{before}[all experiments](index.md) · [the report](../report/report.html)",
        )
        if part
    )
