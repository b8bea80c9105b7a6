"""What others wrote changes no page, table or terminal: a results folder is read in which each word
is hostile, as edited code, a model's server or who hands a folder over may have made it.

The oracle is the same run with plain words: whatever is made of the two has the same elements in
the same order, and only its text differs.
"""

import csv
import html.parser
import io
import json
import re

import journals
import mistune
import pytest
from kept_runs import MORE_DEPTH, MORE_HEADS, Kept

from harness.__main__ import main
from harness.lab.close_out import NAME, words_of_claim
from harness.lab.close_out_questions import next_question
from harness.run.journal import read_journal
from harness.run.run import Run
from harness.show import analysis, analysis_words, chart_files, importances, picker
from harness.show.close_out_page import close_out_page
from harness.show.export import card
from harness.show.frame import load_run
from harness.show.index import write_index
from harness.show.panel import Panel
from harness.show.report import write_report

HOSTILE = (
    " <img src=//evil.example/b>![i](http://evil.example/p.png)[l](javascript:alert(1))</code>"
    "</td></div><script>alert(1)</script>\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u061c|`z`"
    "$\\href{javascript:alert(2)}{x}$ \r\n\n# head\n- item\n\n```\n<b onclick=alert(3)>"
)
PLAIN = " of somebody"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Words that the harness itself reads.
OURS = {"event", "decision", "status", "kind", "sha256", "commit", "created", "state", "boot_id"}
OURS |= {"harness_hash", "memory_kind", "time", "role", "against", "identity", "proposer"}


def with_words(value, words: str, key: str = ""):
    """The value with words at the end of each text in it."""
    if isinstance(value, dict):
        return {name: with_words(each, words, name) for name, each in value.items()}
    if isinstance(value, list):
        return [with_words(each, words, key) for each in value]
    return value + words if isinstance(value, str) and key not in OURS else value


def write_night(results, tag: str, words: str, **settings):
    """A night of some outcomes whose every text ends with the words."""
    entries = journals.tuned(journals.make_journal(14, seed=3, crash_rate=0.2))
    for entry in entries:
        number, is_proposal = entry.get("experiment"), entry["event"] == "proposed"
        if entry["event"] == "decided" and number == 5:
            entry |= {"decision": "quarantine", "kind": "quarantine"}
        if entry["event"] == "trained" and number == 6:
            entry |= {"shared_with": ["another"]}
        entry |= {"model": "model", "answered_by": "other"} if is_proposal and number else {}
        entry |= {"llm_failed": "it is gone"} if is_proposal and number == 4 else {}
    frozen = journals.make_settings(tag, **settings)
    frozen["profile"]["startup_limit_seconds"] = 300.0
    frozen["device"] |= {"compile_error": "no compiler", "wall_error": "no wall"}
    folder = journals.write_run(results, with_words(entries, words), frozen)
    (folder / "run.json").write_text(json.dumps(with_words(frozen, words)))
    for path in folder.glob("experiments/*/attempts/*/runs/*/run.log"):
        path.write_text(words * 3)
    for path in folder.glob("experiments/*/attempts/*/train.diff"):
        path.write_text(path.read_text() + f"+{words.splitlines()[0]}\x0b-x\u2028+forged\n")
    beat = {"pid": 1, "identity": "", "time": "2026-11-30T00:00:00Z", "boot_seconds": 1.0}
    beat |= {"boot_id": "", "stage": "night", "state": "ended", "done": False, "command": "go on"}
    (folder / "heartbeat.json").write_text(json.dumps(with_words(beat, words)))
    (folder / "night.log").write_text("night" + words)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two results folders alike but for the words; the first is the hostile one."""
    made = {}
    for name, words in (("hostile", HOSTILE), ("plain", PLAIN)):
        results = tmp_path_factory.mktemp(name)
        write_night(results, "one", words)
        write_night(results, "two", words, dtype="float32", data_id="other text")
        made[name] = results
    return made["hostile"], made["plain"]


class Elements(html.parser.HTMLParser):
    """Tags in order, with the names of their attributes; addresses that lead elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(" ".join([tag, *sorted(name for name, _ in attrs)]))
        addresses = [value or "" for name, value in attrs if name in ("src", "href")]
        self.foreign += [each for each in addresses if re.match(r"(\w+:)?//|javascript:", each)]

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")


GLYPHS = ("path", "use")  # a chart's words are drawn, as many shapes as they have letters


def elements(page: str) -> list[str]:
    found = Elements()
    found.feed(page)
    assert not found.foreign and not CONTROLS.search(page), (found.foreign, page[:300])
    return [tag for tag in found.tags if tag.strip("/").split()[0] not in GLYPHS]


def elements_of_markdown(text: str) -> list[str]:
    """As a reader shows it that obeys HTML."""
    return elements(mistune.create_markdown(escape=False, plugins=["table"])(text))


MARKDOWN = {
    "report": lambda run: write_report(run.folder).read_text(),
    "index": lambda run: write_index(run.folder).read_text(),
    "run": analysis_words.say_run,
    "progress": analysis_words.say_progress,
    "constants": lambda run: importances.say_constants(run.entries),
    "overlay": lambda run: analysis_words.say_overlay([run, load_run(run.folder.parent, "two")]),
}
PAGES = {
    "report": lambda run: write_report(run.folder).with_suffix(".html").read_text(),
    "gains": lambda run: analysis.table_html(analysis.best_by_gain(run)),
    "chosen": lambda run: picker.chosen_html([(run, each) for each in run.records[:6]]),
    "panel": lambda run: Panel("one", str(run.folder.parent)).picture(),
    "details": lambda run: details(Panel("one", str(run.folder.parent))),
}


def details(panel: Panel) -> str:
    """Each experiment as the panel shows it, and the log."""
    shown = []
    for _, number in panel.list.options:
        panel.list.value = number
        shown.append(panel.detail.value)
    return panel.log.value + "".join(shown)


@pytest.mark.parametrize("name", MARKDOWN)
def test_markdown_has_no_element_of_others(both, name):
    hostile, plain = (MARKDOWN[name](load_run(results, "one")) for results in both)
    assert elements_of_markdown(hostile) == elements_of_markdown(plain)
    assert "owned" not in hostile


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_element_of_others(both, name):
    hostile, plain = (str(PAGES[name](load_run(results, "one"))) for results in both)
    assert elements(hostile) == elements(plain)


def test_dollar_signs_of_others_begin_no_mathematics(both):
    """JupyterLab typesets what it shows, links in it included, but for elements of this class."""
    run = load_run(both[0], "one")
    panel = Panel("one", str(both[0]))
    for page in (PAGES["gains"](run), PAGES["chosen"](run), panel.state.value, panel.log.value):
        assert page.startswith('<div class="mathjax_ignore"'), page[:60]


def said(capsys, *words: str) -> str:
    main([*words])
    shown = capsys.readouterr()
    return shown.out + shown.err


COMMANDS = {
    "status": ("overnight", "--status", "--tag", "one"),
    "status as JSON": ("overnight", "--status", "--json", "--tag", "one"),
    "check": ("overnight", "--check", "--tag", "one"),
    "report": ("overnight", "--report", "--tag", "one"),
    "compare": ("compare", "one", "two"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_is_told_nothing_that_it_obeys(both, name, capsys):
    hostile, plain = (said(capsys, *COMMANDS[name], "--results", str(results)) for results in both)
    assert not CONTROLS.search(hostile), CONTROLS.search(hostile)
    assert len(hostile.splitlines()) == len(plain.splitlines())
    assert "\n# head" not in hostile and "\n- item" not in hostile


def test_json_for_programs_is_ascii(both, capsys):
    shown = said(capsys, *COMMANDS["status as JSON"], "--results", str(both[0]))
    assert shown.isascii() and json.loads(shown)["tag"] == "one"


def test_comparing_nights_is_one_table_a_heading(both, capsys):
    hostile, plain = (said(capsys, *COMMANDS["compare"], "--results", str(r)) for r in both)
    assert elements_of_markdown(hostile) == elements_of_markdown(plain)


def test_no_cell_of_an_exported_table_is_a_formula(tmp_path):
    entries = journals.tuned(journals.make_journal(60))
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    text = text.replace('"MATRIX_LR": ', '"=cmd|A0": ').replace('"title": "', '"title": "@')
    folder = journals.write_run(tmp_path, list(map(json.loads, text.splitlines())))
    tables = chart_files.tables_of(load_run(tmp_path, folder.name))
    assert "=cmd|A0" in tables["importances"].index
    for table in tables.values():
        written = chart_files.harmless(table).to_csv(index=False)
        words = [cell for row in csv.reader(io.StringIO(written)) for cell in row]
        assert not [each for each in words if re.match(r"[=@+-](?![\d.])", each)]
    assert "'=cmd|A0" in chart_files.harmless(tables["importances"]).to_csv(index=False)


# --- after the night -----------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path):
    """Runs that kept two changes, closed out: claims that failed with a cause of edited code."""
    made = []
    for name, words in (("hostile", HOSTILE), ("plain", PLAIN)):
        night = Kept(tmp_path / name / "t", (MORE_DEPTH,), (MORE_HEADS,))
        night.claim(baseline=[1.20, 1.21, 1.22])
        question = next_question(night.run, night.found)
        night.compare(question, file_without_1="crash", file_without_2=[1.20, 1.21, 1.22])
        night.write_close_out()
        path = night.run.folder / NAME
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(end_with(e, words)) + "\n" for e in lines))
        journal = night.run.folder / "journal.jsonl"
        entries = [with_words(entry, words) for entry in read_journal(journal)]
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        made.append(Run(night.run.folder))
    return made


def end_with(entry: dict, words: str) -> dict:
    return entry | {"cause": entry["cause"] + words} if entry.get("cause") else entry


def test_a_close_out_says_causes_and_titles_as_words(closed):
    from harness.lab.close_out import read_close_out

    pages = [str(close_out_page(run, read_close_out(run.folder))) for run in closed]
    assert "KeyError" in pages[0] and elements(pages[0]) == elements(pages[1])
    reports = [write_report(run.folder).read_text() for run in closed]
    assert "KeyError" in reports[0]
    assert elements_of_markdown(reports[0]) == elements_of_markdown(reports[1])
    cards = [card(run, read_close_out(run.folder), []) for run in closed]
    assert elements_of_markdown(cards[0]) == elements_of_markdown(cards[1])


def test_a_claim_that_failed_says_why_in_plain_words(closed):
    found = {"event": "claimed", "status": "crash", "cause": "nothing: ended with" + HOSTILE}
    from harness.lab.close_out import fold_close_out

    begun = {"event": "claim_begun", "best": 1, "seeds": 1, "first_seed": 1}
    claimed = fold_close_out([begun, found]).claimed
    assert elements_of_markdown(words_of_claim(claimed)) == elements_of_markdown("nothing")
