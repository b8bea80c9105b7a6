"""The control panel without a browser: what it shows of runs, and what its buttons start."""

import json
import shutil
import time

import journals
import pytest
from checkout import ROOT

from harness.run.run import Run
from harness.show import panel
from harness.show.panel import Panel

SETTINGS = json.loads((ROOT / "results" / "sample" / "run.json").read_text())
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def write_run(results, tag: str, experiments: int):
    entries = journals.make_journal(experiments)
    folder = journals.write_run(results, entries, SETTINGS | {"tag": tag})
    return folder if folder.name == tag else folder.rename(results / tag)


@pytest.fixture
def results(tmp_path):
    write_run(tmp_path, "first", 12)
    shutil.copytree(ROOT / "results" / "sample", tmp_path / "sample")
    return tmp_path


def html_of(shown: Panel) -> str:
    parts = (shown.state, shown.figures, shown.now, shown.chart, shown.detail, shown.machine)
    return "".join(part.value for part in parts)


def test_a_folder_without_runs(tmp_path):
    shown = Panel(results=str(tmp_path / "nowhere"))
    assert "no run yet" in shown.state.value and shown.run is None
    assert "no run yet" in shown.picture()


def test_the_newest_run_is_shown_and_another_can_be_chosen(results):
    shown = Panel(results=str(results))
    assert shown.tag.value == "first" and list(shown.tag.options) == ["first", "sample"]
    assert len(shown.list.options) == 13 and "<svg" in shown.chart.value
    shown.tag.value = "sample"
    assert "1.7882 (experiment 4)" in shown.figures.value and len(shown.list.options) == 7


def test_an_experiment_is_shown_with_its_reason_and_diff(results):
    shown = Panel("sample", str(results))
    shown.list.value = 4
    assert "Rotate only half of each head" in shown.detail.value
    assert "holdout agrees" in shown.detail.value and "<svg" in shown.detail.value
    assert "rotary_tables" in shown.detail.value  # a line of its diff


def test_the_list_can_be_filtered_sorted_and_searched(results):
    shown = Panel("sample", str(results))
    shown.shown.value = "kept"
    assert [number for _, number in shown.list.options] == [4, 1, 0]
    shown.order.value = "largest gain first"
    assert [number for _, number in shown.list.options] == [1, 4, 0]
    shown.find.value = "ROTATE"
    assert [number for _, number in shown.list.options] == [4]
    shown.find.value = "nothing has this title"
    assert not shown.list.options and not shown.detail.value


def test_what_a_proposer_wrote_is_text(results):
    entries = journals.make_journal(3)
    for entry in entries:
        if entry.get("title") and entry.get("experiment") == 2:
            entry["title"] = MARKUP * 2000
    journals.write_run(results, entries, SETTINGS | {"tag": "nov23"})
    shown = Panel("nov23", str(results))
    shown.list.value = 2
    assert (
        "alert(1)" in shown.detail.value
        and "<script" not in html_of(shown)
        and "<img" not in html_of(shown)
    )


def test_a_run_begun_elsewhere_appears_and_grows(results):
    shown = Panel("first", str(results))
    write_run(results, "second", 2)
    shown.refresh()
    assert "second" in shown.tag.options and shown.tag.value == "first"
    journal = results / "first" / "journal.jsonl"
    more = journals.make_journal(14)
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in more))
    shown.run = Run(shown.run.folder)
    shown.refresh()
    assert len(shown.list.options) == 15


@pytest.mark.parametrize("damage", ["a cut line", "no settings", "other settings", "half deleted"])
def test_a_damaged_run_is_a_sentence_and_the_panel_goes_on(results, damage):
    folder = results / "first"
    if damage == "a cut line":
        with (folder / "journal.jsonl").open("a") as file:
            file.write('{"seq": 99999, "ti')
    elif damage == "no settings":
        (folder / "run.json").unlink()
    elif damage == "other settings":
        (folder / "run.json").write_text('{"format": 99}')
    else:
        shutil.rmtree(folder / "experiments")
    shown = Panel("first", str(results))
    assert shown.state.value
    shown.tag.value = "sample"
    shown.refresh()
    assert "sample" in shown.state.value and "1.7882" in shown.figures.value


def test_an_error_in_the_thread_is_shown_and_the_next_look_works(results, monkeypatch):
    shown = Panel("sample", str(results))
    with monkeypatch.context() as patch:
        patch.setattr(panel, "look_at", lambda run, run_bytes: 1 / 0)
        shown.refresh()
        assert "ZeroDivisionError" in shown.state.value
    shown.refresh()
    assert "no night is running" in shown.state.value


def test_the_buttons_fit_the_state(results):
    shown = Panel("sample", str(results))
    assert not shown.begin.disabled and shown.stop.disabled and shown.stop_now.disabled
    shown.begin.click()
    assert "give a new name" in shown.said.value
    shown.try_it.click()
    assert "Make a copy first" in shown.said.value


def test_a_night_is_started_by_the_same_command_and_its_refusal_is_told(results):
    shown = Panel("first", str(results))
    shown.new_tag.value = "not/a tag"
    shown.one.click()
    deadline = time.monotonic() + 60
    while "ended with status 1" not in shown.said.value and time.monotonic() < deadline:
        time.sleep(0.2)
        shown.refresh()
    assert "not/a tag" in shown.said.value and not (results / "not").exists()


def test_one_experiment_is_the_next_of_a_run_and_the_first_of_a_new_one(results, monkeypatch):
    shown, launched = Panel("first", str(results)), []
    monkeypatch.setattr(
        shown.commands, "launch", lambda *words: launched.append(words) or "started"
    )
    shown.one.click()
    assert launched[0][:5] == ("overnight", "--tag", "first", "--experiments", "13")
    shown.new_tag.value, shown.proposer.value = "second", "tpe"
    shown.one.click()
    assert launched[1] == (
        *("overnight", "--tag", "second"),
        *("--experiments", "1", "--proposer", "tpe"),
    )
    write_run(results, "second", 1)
    shown.refresh()
    assert shown.tag.value == "second"  # what was started here is shown as soon as it is there


def test_the_idea_in_the_panel_links_to_nothing_of_the_reports_folder(results):
    (results / "sample" / "notebooks").mkdir()
    (results / "sample" / "notebooks" / "0004.html").write_text("")
    shown = Panel("sample", str(results))
    shown.list.value = 4
    assert "<a " not in shown.detail.value


def test_a_cell_that_is_run_again_leaves_one_panel_at_work(results):
    panel.show("sample", str(results))
    [first] = panel.OPEN
    panel.show("sample", str(results))
    assert not first.is_open and panel.OPEN[0].is_open
    panel.OPEN.pop().is_open = False
