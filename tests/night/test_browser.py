"""The notebooks, run from top to bottom in a real JupyterLab by a real browser, as a person would."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from checkout import copy_checkout, environment

from harness.run.results import read_results

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NOTEBOOKS = ("01_prepare", "02_baseline", "03_agent_loop", "05_close_out", "04_analysis")
RUN_ALL = """async (path) => {
  const app = window.jupyterapp;
  await app.restored;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  app.commands.execute('notebook:run-all-cells');
  window.panelUnderTest = panel;
}"""
STATE = """() => {
  const cells = window.panelUnderTest.content.widgets.filter(w => w.model.type === 'code');
  const errors = cells.flatMap(w => w.model.outputs.toJSON()).filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue);
  return {done: cells.every(w => w.model.executionCount !== null && !w.model.executionState?.includes('running')), errors,
          busy: window.panelUnderTest.sessionContext.session.kernel.status, counts: cells.map(w => w.model.executionCount)};
}"""


def set_parameters(notebook: Path, **values: object) -> None:
    """Edit literals of the parameters cell, as a person would."""
    content = nbformat.read(notebook, 4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in values.items():
        cell.source, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        assert count == 1, (notebook, name)
    nbformat.write(content, notebook)


@pytest.fixture(scope="module")
def browser():
    from environment.browser import find_chromium
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
        ]
        path = find_chromium()
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """JupyterLab on a copy of the checkout, with folders of its own; yields (checkout, url)."""
    folder = tmp_path_factory.mktemp("jupyter")
    checkout = copy_checkout(folder / "lab")
    variables = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    variables |= {
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", "--LabApp.expose_app_in_browser=True",
        "--IdentityProvider.token=", "--ServerApp.root_dir=" + str(checkout), "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = folder / "jupyter.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=checkout, env=environment(checkout, folder / "cache") | variables, stdout=file, stderr=file
        )
    deadline, url = time.monotonic() + 90, None
    while url is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        url = found.group(0) if found else None
        assert time.monotonic() < deadline and server.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    yield checkout, url
    server.terminate()
    server.wait(20)


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
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    time.sleep(1)
    page.screenshot(path=screenshots / f"{name}.png")


def test_the_notebooks_run_from_top_to_bottom(browser, jupyter, tmp_path):
    checkout, url = jupyter
    screenshots = Path(os.environ.get("AUTORESEARCH_SCREENSHOTS", tmp_path))
    set_parameters(checkout / "notebooks/01_prepare.ipynb", profile="tiny")
    set_parameters(checkout / "notebooks/02_baseline.ipynb", profile="tiny", tag="byhand")
    page = browser.new_page(viewport={"width": 1400, "height": 2200})
    page.goto(url + "lab")
    page.wait_for_function("() => window.jupyterapp !== undefined", timeout=60_000)
    for name in NOTEBOOKS:
        run_notebook(page, name, screenshots)
    text = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert any("byhand" in part for part in text)
    rows = read_results(checkout / "results" / "byhand" / "results.tsv")
    assert len(rows) == 2 and rows[0].status == "keep"
    journal = [json.loads(line) for line in (checkout / "results/byhand/journal.jsonl").read_text().splitlines()]
    assert journal[-1]["event"] == "committed" and journal[-1]["experiment"] == 1
    if screenshots != tmp_path:
        shutil.copytree(checkout / "results", screenshots / "results", dirs_exist_ok=True)
