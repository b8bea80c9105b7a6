"""A real browser and a real JupyterLab on the loopback address, for tests that click."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
]
# A command of JupyterLab, carried out; what it gives is a widget, which cannot be brought over.
COMMAND = """async ([name, options]) => {
  await window.jupyterapp.commands.execute(name, options);
}"""
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


@contextlib.contextmanager
def open_browser() -> Iterator:
    """The system's Chromium, or playwright's own."""
    from environment.browser import find_chromium
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def serve_jupyter(checkout: Path, variables: dict, base_url: str = "/") -> Iterator[str]:
    """JupyterLab with that checkout as its root and folders of its own beside it; its address."""
    folder = checkout.parent
    own = {
        f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    own |= {
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    command = [
        *(
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            "--port=0",
            "--allow-root",
        ),
        *("--LabApp.expose_app_in_browser=True", "--IdentityProvider.token="),
        *(f"--ServerApp.root_dir={checkout}", f"--ServerApp.base_url={base_url}"),
        *(
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ),
    ]
    log = folder / "jupyter.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=checkout, env=variables | own, stdout=file, stderr=file
        )
    try:
        deadline, found = time.monotonic() + 90, None
        while found is None:
            found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
            assert time.monotonic() < deadline and server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        yield found[0] + base_url.strip("/") + "/" * (base_url != "/")
    finally:
        server.terminate()
        server.wait(20)


def open_lab(browser, url: str, width: int = 1400, height: int = 900):
    """A page with JupyterLab, ready to be used."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(url + "lab")
    wait_for_lab(page)
    return page


def wait_for_lab(page) -> None:
    page.wait_for_function("() => window.jupyterapp !== undefined", timeout=60_000)
    page.evaluate("async () => { await window.jupyterapp.restored; }")
