"""A night's executed notebooks in, finished pages out: what came of an experiment first, and an
HTML page beside it that opens offline.

A page keeps what the notebook shows and none of what it could do: its policy forbids scripts and
any request, because titles, diffs and logs in it were written by others. Pages are small (no theme,
no fonts), since a night makes a hundred of them. Refuses a notebook that is not one with PageError.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from harness.ground.errors import PageError, SettingsError
from harness.ground.files import write_text_atomic
from harness.ground.text import one_line
from harness.run.journal import read_journal
from harness.run.records import OUTCOME_WORDS, Record, records_from_journal
from harness.run.run import Run, experiment_of_page, page_name
from harness.show.charts.svg import as_pictures, curves_svg
from harness.show.markup import GROUND, LINE, VIEWER_NOTE, VIEWER_STYLE, Html, link
from harness.show.report_page import curves_over_parent
from harness.show.sentences import plural, quoted, signed

HEAD, LINKS = "page-head", "page-links"  # cells that are put first on an experiment's page
WIDGET = "application/vnd.jupyter.widget-view+json"
POLICY = (
    "default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
ACTIVE = re.compile(
    r"<(/?)(script|meta|base|link|iframe|frame|object|embed|form|portal)\b", re.IGNORECASE
)
# Of a drawing: the picture for pages that take drawings out, which these are not.
PICTURES = re.compile(r"<desc>.*?</desc>", re.DOTALL)
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
<style>{}</style>
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
h1 {{ font-size: 1.7rem; line-height: 1.25; }} h1 code {{ font-size: inherit; }}
h2 {{ margin-top: 2.2rem; font-size: 1.25rem; }}
nav {{ display: flex; gap: 1.2rem; font-size: .9rem; }} small {{ color: var(--muted); }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th {{ text-align: left; color: var(--muted); font-weight: 600; }}
th, td {{ padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }}
pre, code {{ font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }}
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


# --- The page of a notebook ----------------------------------------------------------------------


def export_notebook(ipynb_path: str | Path) -> Path:
    """Write <name>.html beside the notebook, outputs as saved: of an experiment without the code,
    which is the same on every page. PageError where it is none.
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
    number = experiment_of_page(path)
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != LINKS]  # of notebooks
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output["data"].pop(WIDGET, None)  # without a kernel its picture is what there is
    exporter, code_style = _converter(number is not None)
    body = without_active_parts(PICTURES.sub("", exporter.from_notebook_node(notebook)[0]))
    beside = _neighbours(path, number) if number is not None else []
    links = [link(f"{name}.html", words) for words, name in beside]
    if (path.parents[1] / "journal.jsonl").exists():
        links.append(link("../report/report.html", "all experiments"))
    record = _record_of(path)
    title = _title(record) if record else path.stem
    page = PAGE.format(
        Html(POLICY),
        title,
        Html(STYLE + VIEWER_STYLE + code_style),
        VIEWER_NOTE + Html("<nav>{}</nav>\n").format(Html(" ").join(links)) + Html(body),
    )
    target = path.with_suffix(".html")
    write_text_atomic(target, page)
    return target


@lru_cache(maxsize=2)
def _converter(without_code: bool):
    """What makes a notebook's cells into HTML, and the style sheet of its code."""
    import nbconvert
    from pygments.formatters import HtmlFormatter

    formatter = HtmlFormatter(style="default", nobackground=True)
    # Of the environment that nbconvert is installed in, which may be another one than is running.
    templates = [str(Path(nbconvert.__file__).parents[4] / "share/jupyter/nbconvert/templates")]
    extra = {"extra_template_basedirs": templates, "extra_template_paths": templates}
    try:
        exporter = nbconvert.HTMLExporter(
            template_name="basic", exclude_input=without_code, **extra
        )
    except ValueError as error:
        raise SettingsError(
            "nbconvert lacks its templates: pip install --force-reinstall nbconvert"
        ) from error
    return exporter, formatter.get_style_defs(".highlight")


def without_active_parts(body: str) -> str:
    """body without scripts, with every other element that could load or lead away as text."""
    body = SCRIPTS.sub("", body)
    return REMOTE.sub(r"\1data-\2\3", ACTIVE.sub(r"&lt;\1\2", body))


def export_missing(folder: Path, records: Sequence[Record]) -> None:
    """Make the HTML page of every decided experiment that has a notebook and no page."""
    for record in records:
        notebook = folder / f"{page_name(record.experiment)}.ipynb"
        if notebook.exists() and not notebook.with_suffix(".html").exists():
            with contextlib.suppress(PageError):  # its writing was cut off, too
                export_notebook(notebook)


# --- The head of an experiment's page ------------------------------------------------------------


def finish_page(path: Path) -> None:
    """Say first on an executed notebook what came of its experiment, leave out or fold what is the
    same on every page, and export it as HTML; the page before it leads to it from now on.

    It becomes read-only: JupyterLab would save an older view over it.
    """
    number, pages = experiment_of_page(path) or 0, [path]
    if number > 1:
        pages.append(path.with_name(f"{page_name(number - 1)}.ipynb"))
    for page in pages:
        if page.exists():
            if record := _record_of(page):
                _put_head(page, record)
            page.chmod(0o444)
            export_notebook(page)


def _put_head(path: Path, record: Record) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if not _is_left_out(cell)]
    for cell in cells:
        if cell["cell_type"] == "code":
            cell["metadata"].setdefault("jupyter", {})["source_hidden"] = True
    run = Run(path.parents[1])
    links = [f"[{words}]({name}.ipynb)" for words, name in _neighbours(path, record.experiment)]
    links += ["[all experiments](index.md)", "[the report](../report/report.html)"]
    notebook["cells"] = [
        _markdown(HEAD, head_of_page(run, record)),
        _markdown(LINKS, " · ".join(links)),
        *cells,
    ]
    write_text_atomic(path, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")


def _is_left_out(cell: dict) -> bool:
    """Whether it explains the notebook, or is an earlier head."""
    return "how-to" in cell["metadata"].get("tags", []) or cell.get("id") in (HEAD, LINKS)


def _markdown(name: str, source: str) -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def head_of_page(run: Run, record: Record) -> str:
    """Number, outcome, idea, score, gain, reason and curve of an experiment in Markdown."""
    figures = []
    if record.val_bpb is not None:
        figures.append(f"**val_bpb {record.val_bpb:.4f}**, {plural(record.n_runs, 'run')}")
    if record.gain is not None:
        figures.append(f"gain {signed(record.gain)} on what was on the branch")
    if record.threshold is not None:
        figures.append(f"{record.threshold:.4f} was asked for")
    parts = (
        f"# {record.experiment:04d} {OUTCOME_WORDS[record.outcome]}: {quoted(record.title)}",
        "; ".join(figures),
        quoted(record.verdict or record.cause, 300),
        _curve(run, record),
    )
    return "\n\n".join(part for part in parts if part)


def _curve(run: Run, record: Record) -> str:
    """Its training loss over that of the file which it changes; "" where there is none."""
    experiments = run.state.experiments
    curves = curves_over_parent(run, experiments[record.experiment], experiments)
    shown = as_pictures(curves_svg(curves))
    ends = [f"{name}, {points[-1][1]:.3f} at its end" for name, points in curves if points]
    return f"{shown}\n\ntraining loss in nats; blue: {'; grey: '.join(ends)}" if shown else ""


def _neighbours(path: Path, number: int) -> list[tuple[str, str]]:
    """(words, name) of the pages before and after an experiment's, as far as they are there."""
    names = [("previous", page_name(number - 1)), ("next", page_name(number + 1))]
    return [each for each in names if path.with_name(f"{each[1]}.ipynb").exists()]


def _record_of(path: Path) -> Record | None:
    """The experiment that a page is of; None where that is not decided, and for other pages."""
    number = experiment_of_page(path)
    if number is None:
        return None
    records = records_from_journal(read_journal(path.parents[1] / "journal.jsonl"))
    return next((each for each in records if each.experiment == number), None)


def _title(record: Record) -> str:
    return f"{record.experiment:04d} {OUTCOME_WORDS[record.outcome]}: {one_line(record.title)[:80]}"
