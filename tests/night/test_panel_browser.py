"""The control panel and the pages of a night in a real JupyterLab under a base URL, and in a
browser alone.

Every link that they have is clicked.
"""

import json
import re
import time
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import nbformat
import pytest
from browsing import (
    COMMAND,
    RUN_ALL,
    faint_texts,
    open_browser,
    open_lab,
    serve_jupyter,
    wait_for_lab,
)
from checkout import overnight, warm_environment
from labs import copy_with_harness

from harness.run.journal import read_journal
from harness.run.run import page_name
from harness.show.panel_words import NO_SCORE

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PANEL = "notebooks/00_lab.ipynb"
NIGHT_SECONDS = 400
A_LINK = "a[href]:not(.jp-InternalAnchorLink)"
# Where the links of the document in front lead to, as JupyterLab has resolved them.
LINKS = f"""() => {{
  const shown = window.jupyterapp.shell.currentWidget.node;
  return [...shown.querySelectorAll('{A_LINK}')].filter(a => a.getClientRects().length)
    .map(a => decodeURIComponent(new URL(a.href).pathname.split('/files/')[1]));
}}"""
OPEN = """async ([path, factory]) => {
  const opened = await window.jupyterapp.commands.execute('docmanager:open', {path, factory});
  await opened.context.ready;
  await opened.revealed;
  window.jupyterapp.shell.activateById(opened.id);
}"""
IN_FRONT = "() => window.jupyterapp.shell.currentWidget?.context?.path"
CLOSE_THE_OTHERS = """async () => {
  for (const widget of [...window.jupyterapp.shell.widgets('main')]) {
    if (widget === window.jupyterapp.shell.currentWidget) continue;
    if (widget.context) widget.context.model.dirty = false;  // or it asks whether to save
    widget.close();
  }
}"""


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, baseline, cache):
    """A checkout with a run of two experiments that a night has finished."""
    checkout = copy_with_harness(baseline, tmp_path_factory.mktemp("panel") / "lab")
    done = overnight(checkout, cache, "--tag", "t", "--experiments", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


@pytest.fixture(scope="module")
def lab_page(browser, checkout, cache):
    """JupyterLab under a base URL, as behind a hub or a proxy."""
    with serve_jupyter(checkout, warm_environment(checkout, cache), "/x/") as url:
        page = open_lab(browser, url)
        yield page
        page.close()


def wait_until(holds, seconds: float, what: str):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
    return found


def text_of(page) -> str:
    return "\n".join(page.locator(".jp-OutputArea-output").all_inner_texts())


def wait_for_text(page, *words: str, seconds: float = 60) -> None:
    wait_until(
        lambda: all(word in text_of(page) for word in words),
        seconds,
        f"{words} in:\n{text_of(page)}",
    )


def wait_in_front(page, path: str) -> None:
    wait_until(
        lambda: page.evaluate(IN_FRONT) == path, 30, f"{path} opens, not {page.evaluate(IN_FRONT)}"
    )


def wait_for_address(page, address: str, downloads: list) -> None:
    wait_until(
        lambda: page.url == address or address in downloads, 60, f"{address} opens, not {page.url}"
    )


def open_panel(page) -> None:
    page.evaluate(RUN_ALL, PANEL)
    wait_for_text(page, "no night is running")


@pytest.mark.timeout(900)
def test_a_night_from_the_panel_through_a_reload_to_the_page_of_its_experiment(lab_page, checkout):
    page, journal = lab_page, checkout / "results" / "t" / "journal.jsonl"
    open_panel(page)
    page.get_by_role("button", name="Start night").click()
    wait_until(
        lambda: any(e.get("experiment") == 3 for e in read_journal(journal)), 120, "experiment 3"
    )
    title = next(
        e["title"]
        for e in read_journal(journal)
        if e.get("experiment") == 3 and e["event"] == "proposed"
    )
    wait_for_text(page, "a night is running", "experiment 3")
    assert page.get_by_role("button", name="Start night").is_disabled()
    page.evaluate(COMMAND, ["docmanager:save", {}])
    page.reload()
    wait_for_lab(page)
    wait_for_text(page, "a night is running", title[:40])
    page.get_by_role("button", name="Stop after this one").click()
    wait_for_text(page, "no night is running: stopped as asked", seconds=NIGHT_SECONDS)
    decided = [
        entry["experiment"] for entry in read_journal(journal) if entry["event"] == "decided"
    ]
    last = decided[-1]
    label = next(
        text
        for text in page.locator("select option").all_inner_texts()
        if text.startswith(f"{last:04d}")
    )
    page.locator("select[size]").select_option(label=label)
    page.get_by_role("link", name="its page").click()
    wait_in_front(page, f"results/t/notebooks/{page_name(last)}.ipynb")
    shown = page.locator(".jp-Notebook:visible h1").first
    shown.wait_for()
    assert shown.inner_text().startswith(f"{last:04d} ")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("path", "factory"),
    [
        ("results/t/notebooks/index.md", "Markdown Preview"),
        ("results/t/report/report.md", "Markdown Preview"),
        ("results/t/notebooks/03_0001.ipynb", "Notebook"),
        ("results/t/notebooks/04_analysis.ipynb", "Notebook"),
        (PANEL, "Notebook"),
    ],
)
def test_every_link_is_followed_in_jupyterlab(lab_page, checkout, path, factory):
    page = lab_page
    if path == PANEL:
        open_panel(page)
        page.locator("select[size]").select_option(index=0)
        page.get_by_role("link", name="its page").wait_for()
    else:
        page.evaluate(OPEN, [path, factory])
    paths = wait_until(lambda: page.evaluate(LINKS), 30, "a link")
    for number, target in enumerate(paths):
        assert (checkout / target).exists(), target
        page.evaluate(OPEN, [path, factory])
        page.evaluate(CLOSE_THE_OTHERS)
        wait_until(lambda: page.evaluate(LINKS) == paths, 30, "the same links")
        in_front = page.locator(".lm-DockPanel-widget:not(.lm-mod-hidden)")
        in_front.locator(f"{A_LINK}:visible").nth(number).click()
        wait_in_front(page, target)
        assert not page.locator(".jp-Dialog").count() and len(page.context.pages) == 1


def test_the_list_has_the_font_of_the_other_controls_and_its_figures_stand_below_one_another(
    lab_page,
):
    open_panel(lab_page)
    found = lab_page.evaluate("""(texts) => {
      const list = document.querySelector('select[size]');
      const other = document.querySelector('.widget-dropdown select');
      const context = document.createElement('canvas').getContext('2d');
      context.font = getComputedStyle(list).font;
      return [getComputedStyle(list).fontFamily === getComputedStyle(other).fontFamily,
              ...texts.map(text => context.measureText(text).width)];
    }""", ["1.7882", NO_SCORE, "+0.1111", "\u22120.8888"])  # fmt: skip
    same_font, score, blank, more, less = found
    assert same_font and abs(score - blank) < 1 and abs(more - less) < 1, found


def test_every_link_of_the_exported_pages_and_of_the_report_is_followed_in_a_browser(
    browser, checkout
):
    run = checkout / "results" / "t"
    documents = [run / "report" / "report.html", *sorted((run / "notebooks").glob("*.html"))]
    page, clicked, downloads = browser.new_page(), 0, []
    page.on("download", lambda download: downloads.append(download.url))
    for document in documents:
        page.goto(document.as_uri())
        links = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        for number, href in enumerate(links):
            link = page.locator("a[href]").nth(number)
            if not link.is_visible():  # in a folded idea, or the chart for the other width
                page.evaluate(
                    "() => document.querySelectorAll('details').forEach(each => each.open = true)"
                )
            if not link.is_visible():
                continue
            target = urljoin(document.as_uri(), href)
            assert (run / url2pathname(urlsplit(target).path)).exists(), (document, href)
            if link.get_attribute("target"):
                with page.expect_popup() as opened:
                    link.click()
                wait_for_address(opened.value, target, downloads)
                opened.value.close()
            else:
                link.click()
                wait_for_address(page, target, downloads)
                if href.startswith("#"):
                    assert page.locator(href).is_visible()
                page.goto(document.as_uri())
            clicked += 1
    assert clicked > 20
    page.close()


@pytest.mark.parametrize("name", ["report/report.html", "notebooks/03_0001.html"])
def test_jupyterlabs_viewer_of_html_follows_links_within_a_page_and_loses_no_page_to_others(
    lab_page, checkout, name
):
    """Its server refuses other files there, trusted or not; see VIEWER_STYLE."""
    lab_page.evaluate(OPEN, [f"results/t/{name}", "HTML Viewer"])
    lab_page.evaluate(CLOSE_THE_OTHERS)
    shown = lab_page.frame_locator(".jp-HTMLViewer iframe")
    shown.get_by_text("its own list of pages is notebooks/index.md").wait_for()
    assert (checkout / "results/t/notebooks/index.md").exists()
    title = shown.locator("h1").first.inner_text()
    links = shown.locator("a[href]:visible")
    hrefs = links.evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert len(hrefs) > 1
    for number, href in sorted(enumerate(hrefs), key=lambda each: each[1].startswith("#")):
        links.nth(number).click(force=True)
        if href.startswith("#"):
            shown.locator(href).wait_for()
        assert shown.locator("h1").first.inner_text() == title, href


def test_links_in_markdown_lead_to_files_as_a_git_host_reads_them(checkout):
    run = checkout / "results" / "t"
    for name in (
        "notebooks/index.md",
        "report/report.md",
        "notebooks/03_0001.ipynb",
        "notebooks/03_0002.ipynb",
    ):
        text = (run / name).read_text()
        if name.endswith(".ipynb"):
            text = "\n".join(
                "".join(c["source"])
                for c in json.loads(text)["cells"]
                if c["cell_type"] == "markdown"
            )
        links = re.findall(r"\]\(<?([^)>]*)>?\)", text)
        assert len(links) > 1 and all(
            (run / name).parent.joinpath(link).exists() for link in links
        ), (name, links)


def test_pages_are_notebooks_that_other_programs_show_too(checkout):
    """Valid, and with outputs that editors draw without JupyterLab."""
    pages = sorted((checkout / "results" / "t" / "notebooks").glob("*.ipynb"))
    assert len(pages) >= 3
    for path in pages:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        kinds = [set(output["data"]) for output in outputs if "data" in output]
        widgets = "application/vnd.jupyter.widget-view+json"
        plain = {"text/plain", "text/html", "text/markdown", widgets}
        assert all(kind <= plain and kind != {widgets} for kind in kinds), (path, kinds)
        html = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
        assert not re.findall(r'(?:href|src)="(?:https?:|/|file:)', html), path


@pytest.mark.parametrize(("width", "height"), [(1200, 900), (390, 844)])
def test_the_first_screen_of_a_page_tells_what_was_tried_and_what_came_of_it(
    browser, checkout, width, height
):
    run = checkout / "results" / "t"
    decided = {
        e["experiment"]: e for e in read_journal(run / "journal.jsonl") if e["event"] == "decided"
    }
    page = browser.new_page(viewport={"width": width, "height": height})
    for number in (1, 2):
        page.goto((run / "notebooks" / f"{page_name(number)}.html").as_uri())
        assert (
            page.title().startswith(f"{number:04d} ")
            and decided[number]["title"][:30] in page.title()
        )
        words = [page.locator("h1").first, page.get_by_text(decided[number]["verdict"][:40]).first]
        if decided[number]["val_bpb"] is not None:
            words += [
                page.get_by_text(f"{decided[number]['val_bpb']:.4f}").first,
                page.locator("img").first,
            ]
        for each in words:
            place = each.bounding_box()
            assert place["y"] + place["height"] <= height, (number, each, place)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not faint_texts(page)
    page.close()


@pytest.mark.parametrize("number", [1, 2])
def test_the_first_screen_in_jupyterlab_is_the_same(lab_page, checkout, number):
    path = f"results/t/notebooks/{page_name(number)}.ipynb"
    lab_page.evaluate(OPEN, [path, "Notebook"])
    decided = read_journal(checkout / "results" / "t" / "journal.jsonl")
    score = next(
        e["val_bpb"] for e in decided if e["event"] == "decided" and e["experiment"] == number
    )
    title = lab_page.locator(".lm-TabBar-tab.jp-mod-current .lm-TabBar-tabLabel").first.inner_text()
    assert title == f"{page_name(number)}.ipynb"
    for words in (f"{number:04d} ", f"val_bpb {score:.4f}" if score else "crashed"):
        shown = (
            lab_page.locator(".jp-Notebook:visible .jp-RenderedMarkdown").get_by_text(words).first
        )
        shown.wait_for()
        place = shown.bounding_box()
        assert place["y"] + place["height"] <= 900, (words, place)
