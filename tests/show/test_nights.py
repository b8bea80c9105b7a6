"""Nights side by side, from journals and others' tables."""

import json
import math
import statistics
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from checkout import ROOT
from journals import make_journal, make_settings, write_run
from kept_runs import COMMENTED, MORE_DEPTH, MORE_HEADS, Kept

from harness.lab.close_out_questions import next_question
from harness.show.frame import choose_run
from harness.show.nights import (
    claimed_gain,
    compare_nights,
    trainings_of,
    verdicts_of,
    whose_ideas,
)

WORSE = [1.20, 1.21, 1.22]

UPSTREAM = ROOT / "tests/support/data/upstream-mar8-results.tsv"


def rows_of(page, first):
    return [line.split(" | ") for line in page.splitlines() if line.startswith(f"| {first} |")]


@pytest.fixture
def results(tmp_path):
    for number, tag in enumerate(("nov22", "nov23")):
        entries = make_journal(30, seed=number, tag=tag)
        write_run(tmp_path, entries, make_settings(tag))
    return tmp_path


def test_a_line_a_night_and_a_line_a_proposer_and_kind(results):
    runs = [choose_run(tag, results) for tag in ("nov22", "nov23")]
    page = compare_nights(runs)
    assert "not alike" not in page
    for run in runs:
        night, *groups = rows_of(page, run.tag)
        assert night[1] == "NVIDIA H200" and night[6] == "30"
        starts = [e for e in run.entries if e["event"] == "run_started" and e["kind"] != "smoke"]
        assert int(night[7]) == trainings_of(run) == len(starts)
        kinds = {record.category for record in run.records} - {"baseline"}
        assert {row[1] for row in groups} >= kinds
        assert sum(int(row[2]) for row in groups if row[1] in kinds) == 30


def test_a_gain_is_the_claims_and_nothing_where_none_was_made(results):
    run = choose_run("nov22", results)
    assert claimed_gain(run) is None  # something was kept, and nobody measured it
    sample = choose_run("sample", ROOT / "results")
    assert claimed_gain(sample) == sample.claimed["val"]["difference"]
    page = compare_nights([run, sample])
    assert "**not alike**" in page
    claim = rows_of(page, "sample")[0][10]
    assert claim.startswith(f"{sample.claimed['val']['difference']:+.4f} (")
    assert rows_of(page, "nov22")[0][10] == ""


def test_names_are_added_up_over_all_runs_and_means_have_an_interval(results):
    runs = [choose_run(tag, results) for tag in ("nov22", "nov23")]
    page = compare_nights(runs)
    gains = [r.gain for run in runs for r in run.records if r.category == "tune" and r.gain]
    pooled = next(row for row in rows_of(page, "all") if row[1] == "tune")
    each = [row for run in runs for row in rows_of(page, run.tag) if row[1] == "tune"]
    assert int(pooled[2]) == sum(int(row[2]) for row in each)
    error = 2 * statistics.stdev(gains) / math.sqrt(len(gains))
    mean, half = map(float, pooled[8].rstrip(" |").split(" ± "))
    assert mean == pytest.approx(statistics.fmean(gains), abs=1e-4)
    assert error < half < 1.2 * error
    assert rows_of(compare_nights(runs[:1]), "all") == []


def test_a_language_model_is_named_by_what_answered(tmp_path):
    entries = make_journal(4, seed=1, tag="nov24")
    proposed = [e for e in entries if e["event"] == "proposed" and e["experiment"]]
    for entry in [e for e in entries if e["event"] in ("proposed", "decided") and e["experiment"]]:
        entry["proposer"] = "llm"
    for number, entry in enumerate(proposed):
        entry["model"] = "asked-for"
        entry |= {"answered_by": "answered"} if number % 2 else {}
    write_run(tmp_path, entries, make_settings("nov24"))
    names = set(whose_ideas(choose_run("nov24", tmp_path)).values())
    assert names == {"llm (asked-for)", "llm (answered)"}


def test_hours_in_which_a_night_stood_still_are_not_its_work(tmp_path):
    entries = make_journal(6, seed=3, tag="nov25")
    half = len(entries) // 2
    for entry in entries[half:]:
        late = datetime.fromisoformat(entry["time"]) + timedelta(hours=5)
        entry["time"] = late.isoformat().replace("+00:00", "Z")
    write_run(tmp_path, entries, make_settings("nov25"))
    (night,) = rows_of(compare_nights([choose_run("nov25", tmp_path)]), "nov25")[:1]
    assert float(night[4]) - float(night[5]) == pytest.approx(5, abs=0.2)


def test_what_a_close_out_confirmed_counts_for_who_had_the_idea(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (COMMENTED,), (MORE_HEADS,))
    night.claim(baseline=WORSE)
    night.compare(next_question(night.run, night.found), file_without_1=WORSE)
    night.write_close_out()
    run = choose_run("t", tmp_path)
    assert verdicts_of(run) == {1: True, 2: False, 3: False}
    assert rows_of(compare_nights([run]), "t")[0][9] == "1 (33%)"


def test_others_tables_as_far_as_they_tell():
    page = compare_nights([choose_run(str(UPSTREAM))])
    (night,) = rows_of(page, UPSTREAM.stem)
    assert night[6] == "125" and night[1] == night[4] == night[10] == ""


def test_the_command(results):
    command = [sys.executable, "-m", "harness", "compare", "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert rows_of(done.stdout, "nov22") and rows_of(done.stdout, "nov23")
    done = subprocess.run([*command, "nov99"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no run 'nov99'" in done.stderr
    assert json.dumps(done.stdout) == '""'
