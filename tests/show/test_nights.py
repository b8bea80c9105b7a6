"""Nights side by side, from journals and others' tables."""

import json
import subprocess
import sys

import pytest
from checkout import ROOT
from journals import make_journal, make_settings, write_run

from harness.show.frame import choose_run
from harness.show.nights import claimed_gain, compare_nights, trainings_of

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
        assert night[1] == "NVIDIA H200" and night[5] == "30"
        starts = [e for e in run.entries if e["event"] == "run_started" and e["kind"] != "smoke"]
        assert int(night[6]) == trainings_of(run) == len(starts)
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
    claim = rows_of(page, "sample")[0][8]
    assert claim.startswith(f"{sample.claimed['val']['difference']:+.4f} (")
    assert rows_of(page, "nov22")[0][8] == ""


def test_others_tables_as_far_as_they_tell():
    page = compare_nights([choose_run(str(UPSTREAM))])
    (night,) = rows_of(page, UPSTREAM.stem)
    assert night[5] == "125" and night[1] == night[4] == night[8] == ""


def test_the_command(results):
    command = [sys.executable, "-m", "harness", "compare", "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert rows_of(done.stdout, "nov22") and rows_of(done.stdout, "nov23")
    done = subprocess.run([*command, "nov99"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no run 'nov99'" in done.stderr
    assert json.dumps(done.stdout) == '""'
