"""The notebooks, run from top to bottom in a real JupyterLab by a real browser."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import journals
import nbformat
import pytest
from browsing import (
    COMMAND,
    CONTRASTS,
    LEAST_CONTRAST,
    RUN_ALL,
    faint_texts,
    open_browser,
    open_lab,
    serve_jupyter,
)
from checkout import ROOT, copy_checkout, environment

from harness.run.results import read_results

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NOTEBOOKS = ("01_prepare", "02_baseline", "03_agent_loop", "05_close_out", "04_analysis", "00_lab")
OUTPUTS = f"() => [...document.querySelectorAll('.jp-OutputArea-output')].flatMap({CONTRASTS})"
STATE = """() => {
  const panel = window.panelUnderTest;
  const cells = panel.content.widgets.map(w => w.model).filter(model => model.type === 'code');
  const outputs = cells.flatMap(cell => cell.outputs.toJSON());
  return {
    done: cells.every(cell =>
      cell.executionCount !== null && !cell.executionState?.includes('running')),
    errors: outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue),
    busy: panel.sessionContext.session.kernel.status,
    counts: cells.map(cell => cell.executionCount),
  };
}"""


def set_parameters(notebook: Path, **values: object) -> None:
    """Edit literals of the parameters cell, as a person would."""
    content = nbformat.read(notebook, 4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in values.items():
        cell.source, count = re.subn(
            rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE
        )
        assert count == 1, (notebook, name)
    nbformat.write(content, notebook)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """JupyterLab on a copy of the checkout, with folders of its own; yields (checkout, url)."""
    folder = tmp_path_factory.mktemp("jupyter")
    checkout = copy_checkout(folder / "lab")
    with serve_jupyter(checkout, environment(checkout, folder / "cache")) as url:
        yield checkout, url


def run_notebook(page, name: str, screenshots: Path) -> None:
    page.evaluate(RUN_ALL, f"notebooks/{name}.ipynb")
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        state = page.evaluate(STATE)
        assert state["errors"] == [], (name, state["errors"])
        if state["done"] and state["busy"] == "idle":
            break
        time.sleep(0.5)
    else:
        raise AssertionError(f"{name} did not finish: {state}")
    page.evaluate(COMMAND, ["docmanager:save", {}])
    time.sleep(1)
    page.screenshot(path=screenshots / f"{name}.png")


def kept_in_sample() -> int:
    """The baseline among them."""
    rows = read_results(ROOT / "results/sample/results.tsv")
    return sum(row.status == "keep" for row in rows)


def contrasts_of(page, name: str, theme: str) -> list:
    """[ratio, text] of each text in a notebook's outputs."""
    page.evaluate(COMMAND, ["apputils:change-theme", {"theme": theme}])
    path = f"notebooks/{name}.ipynb"
    page.evaluate(COMMAND, ["docmanager:open", {"path": path}])
    time.sleep(2)
    return page.evaluate(OUTPUTS)


@pytest.mark.timeout(900)
def test_the_notebooks_run_from_top_to_bottom(browser, jupyter, tmp_path):
    checkout, url = jupyter
    screenshots = Path(os.environ.get("AUTORESEARCH_SCREENSHOTS", tmp_path))
    set_parameters(checkout / "notebooks/01_prepare.ipynb", profile="tiny")
    set_parameters(checkout / "notebooks/02_baseline.ipynb", profile="tiny", tag="byhand")
    page = open_lab(browser, url, height=2200)
    for name in NOTEBOOKS:
        run_notebook(page, name, screenshots)
    text = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert any("byhand" in part for part in text)
    rows = read_results(checkout / "results" / "byhand" / "results.tsv")
    assert len(rows) == 2 and rows[0].status == "keep"
    journal = [
        json.loads(line)
        for line in (checkout / "results/byhand/journal.jsonl").read_text().splitlines()
    ]
    assert journal[-1]["event"] == "committed" and journal[-1]["experiment"] == 1
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        for name in NOTEBOOKS:
            shown = contrasts_of(page, name, theme)
            page.screenshot(path=screenshots / f"{name} {theme}.png")
            faint = [(round(ratio, 2), text) for ratio, text in shown if ratio < LEAST_CONTRAST]
            assert shown and not faint, (name, theme, faint[:10])
    if screenshots != tmp_path:
        shutil.copytree(checkout / "results", screenshots / "results", dirs_exist_ok=True)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_charts_that_nobody_trusts_are_pictures_without_stray_words(browser, jupyter, theme):
    from harness.run.run import Run
    from harness.show.charts import plots
    from harness.show.frame import load_run
    from harness.show.panel import Panel

    checkout, url = jupyter
    figure = plots.plot_progress(load_run(ROOT / "results", "sample"))
    tip = Run(ROOT / "results/sample").state.incumbent
    picture = Panel("sample", str(ROOT / "results")).picture()
    outputs = [
        nbformat.v4.new_output("display_data", data={"text/html": html})
        for html in (figure.html(), picture)
    ]
    cells = [nbformat.v4.new_code_cell("", outputs=[output]) for output in outputs]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else it is asked for
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, checkout / "untrusted.ipynb")
    page = open_lab(browser, url)
    page.evaluate(COMMAND, ["apputils:change-theme", {"theme": theme}])
    page.evaluate(COMMAND, ["docmanager:open", {"path": "untrusted.ipynb"}])
    shown = page.locator(".jp-NotebookPanel:visible")  # other tests left theirs open
    shown.locator(".jp-OutputArea-output img").nth(1).wait_for()
    chart, panel = shown.locator(".jp-OutputArea-output").all()
    for each in (chart, panel):
        assert each.locator("img").evaluate_all("all => all.every(img => img.naturalWidth > 0)")
        assert not each.locator("svg").count()
    assert chart.inner_text().strip() == ""
    assert f"the branch stands at {tip.mean:.4f}" in panel.inner_text()
    assert "to be kept" not in panel.inner_text()
    page.evaluate(COMMAND, ["application:close-all", {}])
    page.close()


@pytest.mark.timeout(600)
def test_experiments_are_compared_by_keyboard_and_by_mouse_and_exported(browser, jupyter, tmp_path):
    checkout, url = jupyter
    shutil.copytree(ROOT / "results" / "sample", checkout / "results" / "sample")
    set_parameters(checkout / "notebooks/04_analysis.ipynb", tag="sample")
    page, said = browser.new_page(viewport={"width": 1400, "height": 2200}), []
    page.on(
        "console", lambda message: said.append(message.text) if "state" in message.text else None
    )
    page.goto(url + "lab")
    page.wait_for_function("() => window.jupyterapp !== undefined", timeout=60_000)
    run_notebook(page, "04_analysis", tmp_path)
    headings = page.locator(".jp-OutputArea-output h4")
    shown = page.locator(".jp-NotebookPanel:visible")  # other tests left theirs open
    find = shown.locator(".jupyter-widgets input[type=text]").first
    lines = shown.locator(".jupyter-widgets option")
    find.click()
    page.keyboard.type("sample 0003, sample baseline")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea-output h4').length === 2", timeout=60_000
    )
    assert ["0000" in headings.nth(0).inner_text(), "0003" in headings.nth(1).inner_text()] == [
        True,
        True,
    ]
    page.keyboard.press("Control+a")
    page.keyboard.type("sample")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea-output h4').length === 4", timeout=60_000
    )
    lines.nth(2).click()
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea-output h4').length === 1", timeout=60_000
    )
    lines.nth(5).click(modifiers=["Control"])
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea-output h4').length === 2", timeout=60_000
    )
    shown.locator(".jupyter-widgets button", has_text="Export").click()
    shown.locator(".jupyter-widgets a", has_text="chosen.svg").click(timeout=120_000)
    page.locator(".lm-TabBar-tab", has_text="chosen.svg").wait_for(timeout=60_000)
    page.locator(".lm-TabBar-tab", has_text="04_analysis.ipynb").first.click()
    page.evaluate(COMMAND, ["docmanager:save", {}])
    time.sleep(2)
    saved = (checkout / "notebooks/04_analysis.ipynb").read_text()
    assert "children=" not in saved and "0005" in saved, (
        "a saved copy shows what was chosen last, and no widget's insides"
    )
    assert not said, said
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_reads_in_light_and_dark_on_a_phone_and_asks_for_nothing(
    browser, tmp_path, scheme, width
):
    from harness.show.report import write_page

    run = shutil.copytree(ROOT / "results" / "sample", tmp_path / "sample")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(write_page(run, live=False).as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")
    assert not faint_texts(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(asked) == 1 and not said
    page.locator("th", has_text="val_bpb").first.click()
    first = page.locator("#experiments tbody tr").first.inner_text()
    page.locator("th", has_text="val_bpb").first.click()
    assert page.locator("#experiments tbody tr").first.inner_text() != first
    page.locator("#show-kept").check()
    assert page.locator("#experiments tbody tr:visible").count() == kept_in_sample()
    for link in page.locator("a[href^='#']").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    context.close()


def rich_run(results: Path) -> Path:
    """A night with keeps, near misses, failures, long words of others, and both models' text."""
    entries = journals.make_journal(30)
    for entry in entries:
        if entry.get("title") and entry["experiment"] % 3 == 1:
            entry["title"] += " " + "unbroken_" * 12
    folder = journals.write_run(results, entries)
    tip = [entry["experiment"] for entry in entries if entry.get("decision") == "keep"][-1]
    models = [
        {"experiment": number, "texts": ["def " + "x" * 300] * 3, "cause": ""}
        for number in (0, tip)
    ]
    (folder / "model_text.json").write_text(
        json.dumps({"beginnings": ["import os"] * 3, "models": models})
    )
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_of_a_night_with_everything_in_it_reads_at_both_widths(
    browser, tmp_path, scheme, width
):
    from harness.show.report import write_page

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(write_page(rich_run(tmp_path), live=False).as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = true)")
    assert (
        page.locator("h2", has_text="What the models write").is_visible()
        and page.locator("h2", has_text="Near misses").is_visible()
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not faint_texts(page)
    context.close()


def test_without_scripts_the_report_opens_ideas_and_filters_and_in_print_it_is_whole_on_white(
    browser, tmp_path
):
    from harness.show.report import write_page

    run = shutil.copytree(ROOT / "results" / "sample", tmp_path / "sample")
    context = browser.new_context(
        java_script_enabled=False, color_scheme="dark", viewport={"width": 1200, "height": 900}
    )
    page = context.new_page()
    page.goto(write_page(run, live=False).as_uri())
    idea = page.locator("#e0004")
    assert not idea.is_visible()
    page.locator("#experiments a[href='#e0004']").click()
    assert idea.is_visible() and not page.locator("#e0002").is_visible()
    page.locator("#show-kept").check()
    assert page.locator("#experiments tbody tr:visible").count() == kept_in_sample()
    page.locator("#show-all").check()
    context.close()
    # A4 less its margins.
    context = browser.new_context(color_scheme="dark", viewport={"width": 704, "height": 1000})
    page = context.new_page()
    page.goto((run / "report" / "report.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown = page.evaluate(
        "[...document.querySelectorAll('details > div')].map(each =>"
        " each.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert len(shown) == 7 + 1 and all(shown), "each idea, and the close-out's trainings"
    assert (
        page.evaluate("document.documentElement.scrollWidth") <= 704
        and not page.locator("fieldset").is_visible()
    )
    context.close()
