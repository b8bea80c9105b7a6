"""The control panel without a browser: what it shows of runs, and what its buttons start."""

import html
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import journals
import papermill
import pytest
from checkout import ROOT
from labs import copy_with_harness

from harness.check.check import check_run
from harness.options import make_parser
from harness.run.run import Run
from harness.show import commands, panel
from harness.show.pages import export_notebook
from harness.show.panel import Panel

SAMPLE = Run(ROOT / "results" / "sample")
SETTINGS = json.loads((SAMPLE.folder / "run.json").read_text())
TIP = f"{SAMPLE.state.incumbent.mean:.4f}"  # the sample's, which is another after each new sample
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
    assert f"{TIP} (experiment {SAMPLE.state.incumbent.number})" in shown.figures.value
    assert len(shown.list.options) == 7


def test_an_experiment_is_shown_with_its_reason_and_diff(results):
    shown = Panel("sample", str(results))
    kept = SAMPLE.state.incumbent
    shown.list.value = kept.number
    assert kept.decided["title"] in html.unescape(shown.detail.value)
    assert "holdout agrees" in shown.detail.value and "<svg" in shown.detail.value
    diff = SAMPLE.folder / f"experiments/{kept.number:04}/attempts/00/train.diff"
    added = [x[1:] for x in diff.read_text().splitlines() if x[:1] == "+" and x[:3] != "+++"]
    assert added and all(line.split()[0] in shown.detail.value for line in added if line.strip())


def test_the_list_can_be_filtered_sorted_and_searched(results):
    shown = Panel("first", str(results))
    shown.shown.value = "kept"
    kept = [experiment.number for experiment in shown.run.state.kept]
    assert len(kept) > 2 and [number for _, number in shown.list.options] == kept[::-1]
    shown.order.value = "largest gain first"
    gains = {record.experiment: record.gain for record in shown.records}
    by_gain = sorted(kept[1:], key=gains.get, reverse=True)
    assert by_gain != kept[:0:-1] and [number for _, number in shown.list.options] == [*by_gain, 0]
    shown.find.value = shown.run.state.kept[1].decided["title"].upper()
    assert [number for _, number in shown.list.options] == kept[1:2]
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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: append(run / "journal.jsonl", '{"seq": 99999, "ti'), "no night is running"),
        (
            lambda run: append(run / "journal.jsonl", "cut\nmore\n"),
            "is damaged: restore the file from a backup",
        ),
        (lambda run: (run / "journal.jsonl").unlink(), "no night is running"),
        (lambda run: (run / "run.json").unlink(), "run notebooks/02_baseline.ipynb"),
        (
            lambda run: (run / "run.json").write_text('{"format_version": 99}'),
            "has format 99, this code reads 1",
        ),
        (
            lambda run: (run / "run.json").write_text(json.dumps(SETTINGS | {"colour": "blue"})),
            "was written by another version of this code: start a new tag",
        ),
        (lambda run: shutil.rmtree(run / "experiments"), "no night is running"),
        (lambda run: shutil.rmtree(run), TIP),  # the next one is shown
    ],
)
def test_a_damaged_run_is_a_sentence_and_the_others_are_shown(results, damage, said):
    shown = Panel("first", str(results))
    assert len(shown.list.options) == 13
    damage(results / "first")
    opened_after = Panel("first", str(results))
    assert said in opened_after.state.value + opened_after.figures.value
    for each in (opened_after, shown):
        each.refresh()
        assert each.state.value and "Error:" not in each.state.value
        if each.records:
            each.list.value = 4
            assert each.detail.value
        else:
            assert not each.chart.value and not each.list.options and each.stop.disabled
        each.tag.value = "sample"
        assert "sample" in each.state.value and TIP in each.figures.value


def append(path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


LOOK = """
import sys
from harness.show.panel import Panel
shown = Panel(results=sys.argv[1])
print([*shown.tag.options], shown.state.value, shown.figures.value)
shown.tag.value = "sample" if "sample" in shown.tag.options else None
print(shown.figures.value)
"""


@pytest.mark.parametrize(
    ("locked", "tags", "said"),
    [
        (".", "[]", "cannot be read: Permission denied"),
        ("first", "['first', 'sample']", "cannot be read: Permission"),
    ],
)
def test_a_folder_without_rights_is_a_sentence(results, locked, tags, said):
    (results / locked).chmod(0)
    # To root every folder is open, unless it does without that right.
    powerless = (
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    )
    command = [*powerless, sys.executable, "-c", LOOK, str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (results / locked).chmod(0o755)
    assert tags in done.stdout and said in done.stdout, done.stdout
    assert (TIP in done.stdout) == (locked == "first")


@pytest.mark.slow
def test_of_two_panels_that_start_a_night_at_once_one_does_and_the_other_says_why_not(
    tmp_path, baseline, monkeypatch
):
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    monkeypatch.setattr(commands, "REPOSITORY", checkout)
    panels = [Panel("t", str(checkout / "results")) for _ in range(2)]
    for each in panels:
        each.one.click()

    def refused():
        for each in panels:
            each.refresh()
        return [each.said.value for each in panels if "is in use by a night" in each.said.value]

    assert len(wait_for(refused)) == 1
    for each in panels:
        assert "a night is running" in each.state.value and each.begin.disabled
    panels[0].sure.value = True
    panels[0].stop_now.click()  # the one night, whoever started it
    wait_for(
        lambda: [each.refresh() for each in panels] and "stopped at once" in panels[1].state.value
    )
    assert check_run(checkout / "results" / "t") == []


def wait_for(holds, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_without_a_kernel_the_panel_is_a_picture(tmp_path):
    output, asked = (
        tmp_path / "panel.ipynb",
        {
            "tag": "sample",
            "results_dir": str(ROOT / "results"),
        },
    )
    papermill.execute_notebook(
        ROOT / "notebooks/00_lab.ipynb", output, asked, cwd=ROOT, progress_bar=False
    )
    text = export_notebook(output).read_text()
    assert "data:image/svg+xml" in text and f"{TIP} (experiment " in text and "VBox(" not in text


def test_an_error_in_the_thread_is_shown_and_the_next_look_works(results, monkeypatch):
    shown = Panel("sample", str(results))
    with monkeypatch.context() as patch:
        patch.setattr(panel, "look_at", lambda run, run_bytes: 1 / 0)
        shown.refresh()
        assert "ZeroDivisionError" in shown.state.value
    shown.refresh()
    assert "no night is running" in shown.state.value


def test_the_end_of_a_command_is_told_once_and_ends_no_thread(results, monkeypatch):
    shown = Panel("sample", str(results))
    monkeypatch.setattr(shown.commands, "ended", lambda: 1 / 0)
    shown.refresh()
    assert "no night is running" in shown.state.value
    looking = []

    def ended() -> str:
        looking.append(len(looking))
        time.sleep(0.05)
        assert looking.pop() == 0  # two at once would both read and close what it said
        return ""

    monkeypatch.setattr(shown.commands, "ended", ended)
    monkeypatch.setattr(shown, "_show_only", pytest.fail)
    threads = [threading.Thread(target=shown.refresh) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_answer_that_does_not_come_is_told(results, monkeypatch):
    shown = Panel("sample", str(results))
    monkeypatch.setattr(commands, "ANSWER_SECONDS", 0.01)
    shown.stop.disabled = False
    shown.stop.click()
    assert "timed out after 0.01 seconds" in shown.said.value


def test_words_that_begin_like_an_option_are_an_idea(results, monkeypatch, tmp_path):
    shown, launched = Panel("first", str(results)), []
    monkeypatch.setattr(panel, "own_file", lambda folder: tmp_path)
    monkeypatch.setattr(shown.commands, "launch", lambda *words: launched.append(words) or "")
    shown.idea.value, shown.why.value = "-wd", "--why not"
    shown.try_it.click()
    options = make_parser().parse_args(launched[0])
    assert (options.idea, options.hypothesis, options.tag) == ("-wd", "--why not", "first")


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


def test_a_cards_clock_and_power_are_told_where_its_driver_tells_them(results, monkeypatch):
    assert "card at" not in Panel("sample", str(results)).machine.value  # of a machine without one
    driver = results / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text(
        '#!/bin/sh\n[ "$2" = --format=csv,noheader ] && echo "1980 MHz, 512.30 W, 21345 MiB"\n'
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}:{os.environ['PATH']}")
    assert (
        "; card at 1980 MHz, 512.30 W, 21345 MiB; " in Panel("sample", str(results)).machine.value
    )
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert "card at" not in Panel("sample", str(results)).machine.value


def test_the_idea_in_the_panel_links_to_nothing_of_the_reports_folder(results):
    (results / "sample" / "notebooks").mkdir()
    (results / "sample" / "notebooks" / "03_0004.html").write_text("")
    shown = Panel("sample", str(results))
    shown.list.value = 4
    assert "<a " not in shown.detail.value


def test_a_cell_that_is_run_again_leaves_one_panel_at_work(results):
    panel.show("sample", str(results))
    [first] = panel.OPEN
    panel.show("sample", str(results))
    assert not first.is_open and panel.OPEN[0].is_open
    panel.OPEN.pop().is_open = False
