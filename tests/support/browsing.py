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
LEAST_CONTRAST = 4.5  # of text on its ground, as WCAG asks
# Contrast of each text that can be seen below `root`, on the grounds of all that it lies on:
# [[ratio, text], ...].
CONTRASTS = """(root) => {
  const parts = (colour) => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
    const context = canvas.getContext('2d');
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) =>
    [r, g, b].map((value, i) => value * a + below[i] * (1 - a)).concat(1);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    [0.2126 * linear(r / 255), 0.7152 * linear(g / 255), 0.0722 * linear(b / 255)]
      .reduce((sum, v) => sum + v, 0);
  const found = [], words = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode())
    words.push([walker.currentNode.textContent.trim(), walker.currentNode.parentElement]);
  // Of a chart, whose letters are shapes.
  for (const word of root.querySelectorAll('g[id^="text_"] > g'))
    words.push([word.closest('svg').getAttribute('aria-label'), word]);
  for (const [text, element] of words) {
    if (!text || !element.getClientRects().length) continue;
    if (element.closest('[disabled], option, script, style, desc')) continue;
    const style = getComputedStyle(element), grounds = [];
    for (let each = element; each; each = each.parentElement)
      grounds.push(parts(getComputedStyle(each).backgroundColor));
    const ground = grounds.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
    const drawn = element instanceof SVGElement;
    const ink = over(parts(drawn ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 60)]);
  }
  return found;
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


def faint_texts(page) -> list:
    """[contrast, text] of each text that can be seen and has too little of it."""
    found = page.evaluate(f"() => ({CONTRASTS})(document.body)")
    return [each for each in found if each[0] < LEAST_CONTRAST]
