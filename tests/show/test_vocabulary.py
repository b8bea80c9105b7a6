"""One vocabulary and the same numbers wherever a night is shown.

A simulated night keeps ideas as better and one as simpler (which scores worse, so that the best
score is no longer what the branch stands at), discards, crashes, and has one in quarantine; another
keeps nothing.
"""

import functools
import re

import pytest
from simulated_runs import Simulated

from harness.night.progress import result_words
from harness.run.records import (
    OUTCOME_WORDS,
    baseline_of,
    best_of,
    incumbent_of,
    records_from_journal,
)
from harness.run.run import Run
from harness.show import index, status
from harness.show.charts.scores import plot_progress
from harness.show.charts.svg import progress_svg
from harness.show.frame import load_run
from harness.show.pages import head_of_page
from harness.show.panel import Panel
from harness.show.report import write_report

SHORTER = (
    16  # an experiment of the night with fewer statements and a score that is no worse than noise
)

EVERYWHERE = {
    "terminal",
    "index",
    "report.md",
    "report.html",
    "picture",
    "chart",
    "page",
    "panel",
    "--status",
}


class Night(Simulated):
    def code_lines(self, experiment):
        return 60 if experiment == SHORTER else 100

    def score_of(self, step):
        if step.experiment == SHORTER:
            return self.state.incumbent.mean + 0.0001
        return super().score_of(step)


class BarrenNight(Simulated):
    def score_of(self, step):
        return 2.05


def shown(folder) -> dict[str, str]:
    """All that says where a night stands, as the text that a person reads, by who says it."""
    run = Run(folder)
    records = records_from_journal(run.entries)
    chosen = min(SHORTER, records[-1].experiment)
    write_report(folder)
    panel = Panel(folder.name, str(folder.parent))
    panel.list.value = chosen
    pages = {
        "terminal": result_words(run),
        "index": index.write_index(folder).read_text(),
        "report.md": (folder / "report" / "report.md").read_text(),
        "report.html": (folder / "report" / "report.html").read_text(),
        "picture": plot_progress(load_run(folder.parent, folder.name)).title_text,
        "chart": str(progress_svg(records)),
        "page": head_of_page(run, records[chosen]),
        "panel": panel.figures.value
        + "".join(f" {label};" for label, _ in panel.list.options)
        + panel.detail.value,
        "--status": status.status_screen(run),
    }
    # The last holds the table's filters, one of which is for both kinds of keep.
    unread = r"<(style|script|fieldset)\b.*?</\1>|<[^>]+>"
    return {
        name: " ".join(re.sub(unread, " ", page, flags=re.S).split())
        for name, page in pages.items()
    }


@functools.cache
def shown_once(folder) -> dict[str, str]:
    return shown(folder)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    return Night(tmp_path_factory.mktemp("kept") / "results" / "t").until("propose", 17).folder


@pytest.fixture(scope="module")
def barren(tmp_path_factory):
    return (
        BarrenNight(tmp_path_factory.mktemp("barren") / "results" / "t").until("propose", 7).folder
    )


def numbers_after(words: str, pages: dict[str, str]) -> dict[str, set[str]]:
    """The figure that follows the words, in each page that has them."""
    found = {
        name: set(re.findall(rf"{words}:? ?(\d\.\d{{4}})(?!\d)", page, re.I))
        for name, page in pages.items()
    }
    return {name: figures for name, figures in found.items() if figures}


def test_the_simulated_night_is_one_in_which_the_words_differ(night):
    records = records_from_journal(Run(night).entries)
    outcomes = {record.outcome for record in records}
    assert outcomes >= {"kept", "simplified", "discarded", "crashed", "quarantined"}
    assert best_of(records) != incumbent_of(records)


def test_best_score_branch_and_baseline_are_the_same_numbers_everywhere(night):
    pages, records = shown_once(night), records_from_journal(Run(night).entries)
    for words, record, where in (
        ("best score", best_of(records), EVERYWHERE - {"picture", "chart", "page"}),
        ("stands at", incumbent_of(records), EVERYWHERE - {"chart", "page"}),
        ("baseline", baseline_of(records), EVERYWHERE - {"chart", "page"}),
    ):
        found = numbers_after(words, pages)
        assert where <= set(found), (words, where - set(found))
        assert {figure for figures in found.values() for figure in figures} == {
            f"{record.val_bpb:.4f}"
        }, (words, found)
    told, tip = status.look_at(Run(night)), incumbent_of(records)
    assert (told["branch_val_bpb"], told["branch_experiment"]) == (tip.val_bpb, tip.experiment)
    assert (told["best_val_bpb"], told["best_experiment"]) == (
        best_of(records).val_bpb,
        best_of(records).experiment,
    )


def test_what_was_kept_is_called_and_counted_alike(night):
    pages, records = shown_once(night), records_from_journal(Run(night).entries)
    for outcome in ("kept", "simplified", "crashed", "quarantined"):
        count, word = sum(record.outcome == outcome for record in records), OUTCOME_WORDS[outcome]
        for name in ("terminal", "index", "panel", "--status"):
            if (name, outcome) != ("panel", "quarantined"):
                assert f"{count} {word}" in pages[name], (name, word)
        if outcome in ("kept", "simplified"):
            assert f"{word} {count}" in pages["report.html"], word
    for name in ("index", "report.html", "chart", "page", "panel", "--status"):
        assert re.search(rf"{SHORTER:04d}\W+kept as simpler", pages[name]), name
    told = status.look_at(Run(night))
    assert told["kept"] == 2 and told["simplified"] == 1 and told["experiments"] == 16


def test_a_word_has_no_other_beside_it(night, barren):
    for pages in (shown_once(night), shown_once(barren)):
        for name, page in pages.items():
            assert not re.search(
                r"\bsimplified\b|branch (is )?at\b|\d kept(?! as)|\d{4} kept(?! as)", page
            ), name


def test_a_night_without_a_keep_says_so_everywhere_and_contradicts_itself_nowhere(barren):
    pages, records = shown_once(barren), records_from_journal(Run(barren).entries)
    baseline = f"{baseline_of(records).val_bpb:.4f}"
    for words in ("best score", "stands at", "baseline"):
        for name, figures in numbers_after(words, pages).items():
            assert figures == {baseline}, (words, name)
    for name in ("index", "report.md", "report.html", "picture"):
        assert "none of 6 experiments was kept" in pages[name], name
    assert all(
        "kept as" not in pages[name] for name in ("terminal", "index", "report.md", "--status")
    )
