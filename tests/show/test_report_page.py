"""report.html in every state of a run: its size, its links, its words of others, and that nothing
in it can run.
"""

import csv
import html.parser
import io
import re
import shutil
from pathlib import Path

import journals
import pytest
from checkout import ROOT

from harness.ground.text import without_escapes
from harness.lab.close_out import read_close_out
from harness.run.records import TITLE_CHARACTERS, records_from_journal
from harness.run.results import FORMULA, format_results, results_from_journal
from harness.run.run import Run
from harness.show.chart_files import harmless, tables_of
from harness.show.frame import load_run
from harness.show.report import write_page
from harness.show.status import status_screen

MARKUP = "</title></summary><script>alert(1)</script><img src=x onerror=alert(2)>\u202e`| "
DIFF = (ROOT / "results/sample/experiments/0001/attempts/00/train.diff").read_text()


class Page(html.parser.HTMLParser):
    """Its elements, ids and links."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.size, self.elements = path, path.stat().st_size, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def named(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def dead_links(self) -> list[str]:
        links = {attributes["href"] for attributes in self.named("a")}
        files = {link for link in links if not link.startswith("#")}
        dead = {link for link in links - files if link[1:] not in self.ids}
        return sorted(dead | {link for link in files if not (self.path.parent / link).exists()})


def page_of(results: Path, entries: list[dict], **files) -> Page:
    folder = journals.write_run(results, entries, **files)
    (folder / "best").mkdir()
    (folder / "best" / "train.py").write_text("")
    for path in folder.glob("experiments/*/attempts/*/train.diff"):
        path.write_text(DIFF * 3)  # longer than most: of a language model's ideas
    return Page(write_page(folder, live=False))


@pytest.mark.parametrize("count, most", [(100, 500_000), (1000, 3_000_000)])
def test_a_night_fits_into_a_mail(tmp_path, count, most):
    entries = journals.make_journal(count)
    page = page_of(tmp_path, entries, files_of=count)
    assert page.size < most
    records = records_from_journal(entries)
    folded = {int(name[1:]) for name in page.ids if re.fullmatch(r"e\d{4}", name)}
    kept = {
        record.experiment
        for record in records
        if record.outcome in ("baseline", "kept", "simplified")
    }
    assert kept <= folded and len(folded) >= count // 6, "what is told has room, whatever else has"
    assert page.dead_links() == [] and len(page.named("tr")) > count


def test_titles_of_100_kilobytes_of_markup_are_short_words(tmp_path):
    entries = journals.make_journal(6)
    for entry in entries:
        for name in ("title", "hypothesis", "cause", "verdict"):
            if entry.get(name) and entry.get("experiment"):
                entry[name] = (MARKUP * 2000)[:100_000]
    page = page_of(tmp_path, entries)
    assert page.size < 120_000
    assert len(page.named("script")) == 1 and not page.named("img") and page.dead_links() == []
    text = page.path.read_text(encoding="utf-8")
    assert "\u202e" not in text and not re.search(
        r"on(error|load)=\w", re.sub(r"&lt;.*?&gt;|‹.*?›", "", text)
    )
    titles = re.findall(r'<td class="title">(?:<a [^>]*>)?(.*?)(?:</a>)?</td>', text)
    assert all(len(title) < 6 * TITLE_CHARACTERS for title in titles) and "&lt;script&gt;" in text


def test_every_training_of_the_close_out_is_drawn(tmp_path):
    shutil.copytree(ROOT / "results/sample", tmp_path / "sample")
    page = Page(write_page(tmp_path / "sample", live=False))
    found = read_close_out(tmp_path / "sample")
    files = sum(len(each.made) + 1 for each in found.comparisons)
    intervals = sum(len(each.claims) for each in found.comparisons)
    drawn = page.named("img")
    assert len(drawn) == files + intervals + 1  # the template's one training
    assert all(each["src"].startswith("data:image/svg+xml") for each in drawn)
    scores = found.scores("best")
    assert any(each["alt"] == ", ".join(f"{x:.4f}" for x in scores) for each in drawn)


HOSTILE = {
    "markup": MARKUP,
    "escapes": "\x1b]0;owned\x07\x1b[2J\x9b31m a\x00b \x0b\x0c",
    "direction": "a\u202egnp.exe\u2066\u2069\u200f",
    "separators": '\t=1\r\nb\tc\u2028d\x85e,"f";g',
    "formula": "=HYPERLINK(1)",
    "wide formula": "＝1+1",
    "cells": '{"cells":[{"cell_type":"code"}]}"},{',
    "svg": "</text></svg><svg onload=alert(1)>]]><!--",
}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE)
def test_no_words_break_a_table_a_page_or_a_terminal(tmp_path, words):
    entries = journals.make_journal(6, unfinished=False)
    for entry in entries:
        for name in {"title", "hypothesis", "cause"} & entry.keys():
            entry[name] = words
    page = page_of(tmp_path, entries)
    assert len(page.named("script")) == 1 and not page.named("img")
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    run = load_run(tmp_path, "nov23")
    table = tables_of(run)["experiments"]
    written = harmless(table).to_csv(index=False)
    read = list(csv.reader(io.StringIO(written)))
    assert len(read) == len(table) + 1 and {len(row) for row in read} == {len(read[0])}
    title = [row[read[0].index("title")] for row in read[2:]]
    assert not any(cell.startswith(FORMULA) for cell in title)
    rows = results_from_journal(entries)
    text = format_results(rows)
    assert text.count("\n") == len(rows) + 1 and text.count("\t") == 4 * (len(rows) + 1)
    for shown in (
        text.replace("\t", ""),
        written,
        page.path.read_text(),
        status_screen(Run(run.folder)),
    ):
        assert without_escapes(shown) == shown


@pytest.mark.parametrize(
    "entries",
    [
        [],
        journals.opened_only(),
        journals.crashes_only(),
        journals.make_journal(0),
        journals.make_journal(8, step=0.0, crash_rate=0),
    ],
    ids=["empty", "opened", "crashed", "baseline", "nothing kept"],
)
def test_a_run_with_little_to_tell_has_a_page_whose_links_lead_somewhere(tmp_path, entries):
    page = page_of(tmp_path, entries)
    assert page.dead_links() in ([], ["../best/train.py"]) and len(page.named("h1")) == 1
    assert "None" not in re.sub(r"<h2>Failures</h2>\s*<p>None.</p>", "", page.path.read_text())


def test_without_a_baseline_there_is_a_sentence_and_no_card_of_scores(tmp_path):
    entries = journals.make_journal(0, unfinished=False)[:5]
    assert entries[-1]["event"] == "trained"
    entries[-1].update(status="crash", cause="no compiler")
    text = page_of(tmp_path, entries).path.read_text()
    assert "No experiment decided yet" in text and "best score" not in text


def test_the_script_is_the_one_that_the_policy_names_and_details_open_without_it(tmp_path):
    page = page_of(tmp_path, journals.make_journal(3))
    policy = page.named("meta")[1]["content"]
    assert (
        policy.startswith("default-src 'none'")
        and "script-src 'sha256-" in policy
        and "'unsafe-inline'" in policy.split("style-src")[1]
    )
    inside = page.path.read_text().split("<details")[1:]
    assert all(re.search(r'</summary><div id="e\d{4}">', part) for part in inside), (
        "a browser opens what holds the target"
    )
