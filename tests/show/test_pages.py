"""Pages: what a browser would load or run from them (nothing), what they show, and the index."""

import html.parser
import re
import subprocess
import sys

import journals
import nbformat
import pytest
from checkout import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from harness.ground.errors import PageError, SettingsError
from harness.run.run import page_name
from harness.show import pages
from harness.show.index import write_index
from harness.show.pages import export_notebook, finish_page, without_active_parts

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


class Tags(html.parser.HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture
def notebook(tmp_path):
    outputs = [
        new_output("stream", name="stdout", text="loss <b>1.5</b> \x1b[31mred\x1b[0m\n"),
        new_output(
            "display_data",
            data={
                "text/html": (
                    "<table><tr><td>kept</td></tr></table><script"
                    ' src="https://cdn.x/y.js"></script>'
                )
            },
        ),
        new_output("display_data", data={"image/png": PIXEL, "text/plain": "figure"}),
        new_output(
            "display_data",
            data={
                "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                "text/plain": "HBox()",
            },
        ),
        new_output("error", ename="E", evalue="<i>boom</i>", traceback=["E: <i>boom</i>"]),
        new_output(
            "display_data",
            data={
                "text/html": (
                    '<meta http-equiv="refresh"'
                    ' content="0;url=//evil"><iframe src="//evil"></iframe>'
                )
            },
        ),
        new_output(
            "display_data", data={"text/html": '<img src="https://evil/x.png" onerror="alert(1)">'}
        ),
    ]
    cells = [
        new_markdown_cell("# Experiment 7\n\n<script>alert(1)</script>"),
        new_code_cell("print('x' < 'y')", outputs=outputs),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_page_shows_the_notebook_and_loads_nothing(notebook):
    page = export_notebook(notebook)
    assert page == notebook.with_suffix(".html")
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert not tags.named("script") and not tags.named("iframe") and not tags.named("link")
    assert [m.get("http-equiv") for m in tags.named("meta")] == [
        None,
        "Content-Security-Policy",
        None,
    ]
    assert "default-src 'none'" in tags.named("meta")[1]["content"]
    assert all(image["src"].startswith("data:") for image in tags.named("img") if "src" in image)
    assert f"data:image/png;base64,{PIXEL}" in text.replace("\n", "")
    assert (
        "loss <b>1.5</b> red" in tags.text and "E: <i>boom</i>" in tags.text and "kept" in tags.text
    )
    assert "print" in tags.text and "Experiment 7" in tags.text
    assert len(text) < 40_000, "a night writes a hundred of these"


def test_the_policy_comes_before_anything_untrusted(notebook):
    text = export_notebook(notebook).read_text()
    assert text.index("Content-Security-Policy") < text.index("<title>") < text.index("<body>")


def test_scripts_in_any_spelling_are_taken_out():
    body = without_active_parts(
        '<SCRIPT a=">">x</Script ><script>y</script>&lt;script&gt; <ScRiPt src=//z>'
        ' <pre>src="//kept"</pre>'
    )
    assert (
        not Tags(body).named("script")
        and "&lt;script&gt;" in body
        and '<pre>src="//kept"</pre>' in body
    )


def test_templates_are_those_of_the_environment_that_nbconvert_is_in(notebook):
    """Python may run from another one, whose folders are all that Jupyter looks at."""
    code = (
        "import sys, jupyter_core.paths; jupyter_core.paths.jupyter_path = lambda *names: [];"
        "from harness.show.pages import export_notebook; export_notebook(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(notebook)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=250)
    assert "Experiment 7" in notebook.with_suffix(".html").read_text()


def test_without_templates_the_index_is_written_and_what_is_missing_is_said(tmp_path, monkeypatch):
    entries = journals.make_journal(2)
    folder = journals.write_run(tmp_path, entries)
    (folder / "notebooks").mkdir()
    nbformat.write(new_notebook(), folder / "notebooks" / "03_0001.ipynb")
    monkeypatch.setattr("nbconvert.exporters.templateexporter.jupyter_path", lambda *names: [])
    monkeypatch.setattr("nbconvert.__file__", str(tmp_path / "a/b/c/d/nbconvert/__init__.py"))
    pages._converter.cache_clear()
    with pytest.raises(SettingsError, match="pip install --force-reinstall nbconvert"):
        write_index(folder)
    assert "[notebook](03_0001.ipynb)" in (folder / "notebooks" / "index.md").read_text()
    pages._converter.cache_clear()


def test_what_is_no_notebook_is_refused(tmp_path):
    for content in ("", "{", "[]", '{"cells": 3}'):
        (tmp_path / "x.ipynb").write_text(content)
        with pytest.raises(PageError, match="x.ipynb"):
            export_notebook(tmp_path / "x.ipynb")
    with pytest.raises(PageError):
        export_notebook(tmp_path / "absent.ipynb")
    assert not (tmp_path / "x.html").exists()


def test_the_index_has_a_row_for_each_experiment(tmp_path):
    entries = journals.make_journal(30)
    decided = [entry for entry in entries if entry["event"] == "decided"]
    decided[3]["title"] = "<img src=x onerror=alert(1)> [x](y) | `z`"
    folder = journals.write_run(tmp_path, entries)
    (folder / "notebooks").mkdir()
    names = (
        "03_0003.ipynb",
        "03_0003.html",
        "03_0004.ipynb",
        "02_baseline.html",
        "04_analysis.ipynb",
    )
    for name in names:
        (folder / "notebooks" / name).write_text("")
    text = write_index(folder).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| 0")]
    assert len(rows) == 31 + 1, "31 decided, one running"
    assert [row[2:6] for row in rows] == [f"{number:04d}" for number in range(31, -1, -1)]
    links = re.findall(r"\]\(([^)]*)\)", text.replace("[x](y)", ""))
    pages = [
        "../report/report.html",
        "04_analysis.ipynb",
        "03_0004.ipynb",
        "03_0003.ipynb",
        "03_0003.html",
    ]
    pages.append("02_baseline.html")
    assert links == pages
    # Code in Markdown: nothing in it means anything.
    assert "`<img src=x onerror=alert(1)> [x](y) / 'z'`" in text
    assert all(
        f"{entry['val_bpb']:.4f}" in text for entry in decided if entry["val_bpb"] is not None
    )
    assert len({row.count("|") for row in rows}) == 1
    assert [path.name for path in (folder / "notebooks").iterdir() if "tmp" in path.name] == []


@pytest.mark.parametrize(
    "entries",
    [[], journals.opened_only(), journals.crashes_only(), journals.make_journal(0)],
    ids=len,
)
def test_the_index_of_a_run_that_has_little(tmp_path, entries):
    text = write_index(journals.write_run(tmp_path, entries)).read_text()
    failed = sum(e["event"] == "decided" and e["status"] != "ok" for e in entries)
    assert text.count("| crashed") == failed
    assert text.startswith("# ")


def test_a_finished_page_says_first_what_came_of_it(tmp_path):
    entries = journals.make_journal(5)
    decided = {entry["experiment"]: entry for entry in entries if entry["event"] == "decided"}
    decided[2]["title"] = "<b>bold</b> $x$"
    folder = journals.write_run(tmp_path, entries)
    (folder / "notebooks").mkdir()
    write_plain(folder / "notebooks" / "02_baseline.ipynb")
    for number in (1, 2):
        finish_page(write_loop_page(folder / "notebooks" / f"03_000{number}.ipynb"))
    path = folder / "notebooks" / "03_0002.ipynb"
    first, links, *others = nbformat.read(path, 4).cells
    assert first.source.startswith("# 0002 ") and "`<b>bold</b> $x$`" in first.source
    assert (
        f"{decided[2]['val_bpb']:.4f}" in first.source
        and decided[2]["verdict"][:40] in first.source
    )
    assert "data:image/svg+xml" in first.source
    assert [cell.source for cell in others] == [
        "## The idea",
        "lab.propose()",
    ], "what explains is left out"
    assert others[1].metadata.jupyter.source_hidden
    found = re.findall(r"\]\(([^)]*)\)", links.source)
    assert found == ["03_0001.ipynb", "index.md", "../report/report.html"]
    assert not path.stat().st_mode & 0o222  # JupyterLab would save an older view over it
    page = path.with_suffix(".html").read_text()
    assert (
        page.index("0002") < page.index("The idea")
        and "<b>bold" not in page
        and "lab.propose" not in page
    )
    tags = Tags(page)
    addresses = ["03_0001.html", "../report/report.html"]
    assert [
        each["href"] for each in tags.named("a") if "anchor-link" not in each.get("class", "")
    ] == addresses
    assert "<title>0002 " in page and "&lt;b&gt;bold" in page


def test_a_page_leads_to_the_next_one_as_soon_as_that_is_there(tmp_path):
    folder = journals.write_run(tmp_path, journals.make_journal(5))
    (folder / "notebooks").mkdir()
    finish_page(write_loop_page(folder / "notebooks" / "03_0001.ipynb"))
    first = folder / "notebooks" / "03_0001.ipynb"
    assert "next" not in nbformat.read(first, 4).cells[1].source
    finish_page(write_loop_page(folder / "notebooks" / "03_0002.ipynb"))
    cells = nbformat.read(first, 4).cells
    assert "[next](03_0002.ipynb)" in cells[1].source and len(cells) == 4
    assert '"03_0002.html"' in first.with_suffix(".html").read_text()


def test_the_page_of_a_notebook_that_is_no_experiment_stays_as_it_is(tmp_path):
    folder = journals.write_run(tmp_path, journals.make_journal(1))
    (folder / "notebooks").mkdir()
    finish_page(write_plain(folder / "notebooks" / "02_baseline.ipynb"))
    assert nbformat.read(folder / "notebooks" / "02_baseline.ipynb", 4).cells[0].source == "x"


def test_pages_sort_in_the_order_of_the_night():
    names = [
        "01_prepare",
        "02_baseline",
        *(page_name(number) for number in (1, 2, 10, 1000)),
        "04_analysis",
    ]
    assert sorted(names) == names and page_name(0) == "02_baseline"


def write_loop_page(path):
    cells = [
        new_markdown_cell("# how to"),
        new_markdown_cell("## The idea"),
        new_code_cell("lab.propose()"),
    ]
    cells[0].metadata.tags = ["how-to"]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def write_plain(path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x")]), path)
    return path
