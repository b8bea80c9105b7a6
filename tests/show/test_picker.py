"""The picker of notebook 04: menus over several runs, up to four experiments side by side, and the
export.
"""

import os

import journals
import pandas as pd
from checkout import ROOT

from harness.show import picker
from harness.show.chart_files import export
from harness.show.frame import load_results_tsv, load_run

UPSTREAM = ROOT / "tests/support/data" / "upstream-mar8-results.tsv"


def make_runs(folder, *tags: str) -> list:
    for seed, tag in enumerate(tags):
        journals.write_run(
            folder, journals.make_journal(6, seed=seed, crash_rate=0.2), journals.make_settings(tag)
        )
    return [load_run(folder, tag) for tag in tags]


def pages_of(menus: picker.Picker) -> list[str]:
    """Filled with each page that the view is given."""
    pages: list[str] = []
    menus.follow(pages.append)
    return pages


def test_an_experiment_is_shown_and_nobody_is_trusted(tmp_path):
    folder = journals.write_run(tmp_path, journals.make_journal(12, crash_rate=0.3, seed=2))
    bad = "<script>alert(1)</script>"
    for name in ("train.diff", "runs/00/run.log"):
        for path in folder.glob(f"experiments/*/attempts/*/{name}"):
            path.write_text("first\n" + "x\n" * 500 + bad + "\n")
    run = load_run(tmp_path, "nov23")
    menus = picker.Picker([run], tmp_path)
    assert menus.chosen() == [(run, run.best)] and len(menus.list.options) == 13
    shown = menus.html()
    assert bad not in shown and "&lt;script&gt;" in shown
    assert (
        "data:image/png;base64," in shown
        and "382 more lines" in shown
        and "<details open>" in shown
    )
    assert len(picker.log_tail(run, 0).splitlines()) == picker.LOG_LINES


def test_experiments_of_several_runs_are_compared_side_by_side(tmp_path):
    first, second = make_runs(tmp_path, "first", "second")
    menus = picker.Picker([first, second], tmp_path)
    pages = pages_of(menus)
    lines = menus.list.options
    assert len(lines) == 14 and lines[-1].startswith("second  0006")
    menus.list.value = (lines[0], lines[9], lines[10])  # by click
    assert "<table" in pages[-1] and pages[-1].count("<h4>") == 3 and "second 0002" in pages[-1]
    assert "<details open>" not in pages[-1], "of several, diffs and logs are folded"
    menus.list.value = lines[:6]
    assert pages[-1].count("<h4>") == 4 and "2 more chosen" in pages[-1]


def test_words_choose_by_keyboard(tmp_path):
    first, second = make_runs(tmp_path, "first", "second")
    menus = picker.Picker([first, second], tmp_path)
    pages = pages_of(menus)
    for words, wanted in (
        ("0003", [(first, 3), (second, 3)]),
        ("Second 0002, first baseline", [(first, 0), (second, 2)]),
        ("second", [(second, 0), (second, 1), (second, 2), (second, 3)]),
    ):
        menus.find.value = words
        assert [(run, record.experiment) for run, record in menus.chosen()] == wanted
        assert pages[-1].count("<h4>") == len(wanted)
    assert len(menus.list.options) == 7, "what else was found stays in the list"
    menus.find.value = "no such word"
    assert menus.list.options == () and menus.list.value == ()
    count = len(pages)
    menus.find.value = ""
    assert len(menus.list.options) == 14 and len(pages) == count, (
        "the last page stays until another is chosen"
    )


def test_a_run_without_experiments_and_a_bare_table(tmp_path):
    journals.write_run(tmp_path, journals.opened_only(), journals.make_settings("empty"))
    assert (
        "Run empty has no decided experiment"
        in picker.Picker([load_run(tmp_path, "empty")], tmp_path).html()
    )
    menus = picker.Picker([load_results_tsv(UPSTREAM)], tmp_path)
    assert (
        "nothing on disk" in menus.html()
        and "<img" not in menus.html()
        and len(menus.list.options) == 126
    )


def test_the_button_exports_every_chart_and_table_and_says_where_or_why_not(tmp_path):
    journals.write_run(
        tmp_path,
        journals.tuned(journals.make_journal(60)),
        journals.make_settings("night"),
        files_of=3,
    )
    menus = picker.Picker([load_run(tmp_path, "night")], tmp_path)
    (tmp_path / "exports").write_text("a file is in the way")
    menus.button.click()
    assert "Nothing could be written" in menus.said.outputs[0]["data"]["text/markdown"]
    (tmp_path / "exports").unlink()
    menus.button.click()
    [said] = menus.said.outputs
    files = {path.name: path for path in (tmp_path / "exports" / "night").iterdir()}
    assert {"progress.png", "progress.svg", "overlay.svg", "chosen.png", "constants_3.svg"} <= set(
        files
    )
    assert {"experiments.csv", "outcomes.csv", "curves.csv", "time.csv", "importances.csv"} <= set(
        files
    )
    for name, path in files.items():
        assert f"[{name}](<{os.path.relpath(path)}>)" in said["data"]["text/markdown"]
        data = path.read_bytes()
        assert {".png": b"\x89PNG" in data[:8], ".svg": b"<svg" in data, ".csv": b"," in data}[
            path.suffix
        ], name
    assert list(pd.read_csv(files["experiments.csv"])["experiment"]) == list(range(61))


def test_a_run_without_experiments_is_exported_too(tmp_path):
    journals.write_run(tmp_path, journals.opened_only(), journals.make_settings("empty"))
    names = {path.name for path in export([load_run(tmp_path, "empty")], tmp_path)}
    assert {"progress.png", "progress.svg", "outcomes.csv"} <= names and "curves.csv" not in names
