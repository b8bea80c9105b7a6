"""Clocks that are wrong: one that stands still in sleep, one that somebody set back in mid-run."""

import json
import time
from datetime import timedelta

import pytest
from journals import make_journal, write_run
from simulated_runs import Simulated

from harness.ground import clock
from harness.night.wishes import Wishes
from harness.run.records import parse_time, records_from_journal, time_use
from harness.show.report import write_report
from harness.show.status import time_words


def test_sleep_is_what_the_wall_saw_and_the_training_did_not(monkeypatch):
    assert abs(clock.Sleep().seconds) == 0.0
    awake, slept = clock.wall_seconds, []
    monkeypatch.setattr(clock, "wall_seconds", lambda: awake() + sum(slept))
    sleep = clock.Sleep()
    slept.append(1.0)
    assert sleep.seconds == 0.0  # as long as a busy machine may take to read two clocks
    slept.append(3599.0)
    assert 3599 < sleep.seconds < 3601


def test_the_clock_on_the_wall_goes_on():
    before = clock.wall_seconds()
    time.sleep(0.01)
    assert 0.01 <= clock.wall_seconds() - before < 60


def test_a_date_set_back_in_mid_run_breaks_no_table_page_or_report(tmp_path):
    lines = make_journal(20)
    honest = [record.minutes for record in records_from_journal(lines)]
    for line in lines[len(lines) // 2 :]:
        line["time"] = (
            (parse_time(line["time"]) - timedelta(hours=3)).isoformat().replace("+00:00", "Z")
        )
    records = records_from_journal(lines)
    minutes = [record.minutes for record in records]
    assert minutes == sorted(minutes) and minutes[0] == honest[0] and len(records) == 21
    assert all(seconds >= 0 for seconds in time_use(lines).values())
    assert " so far, " in time_words(lines, records)
    folder = write_run(tmp_path, lines)
    assert "On the branch" in write_report(folder).read_text()


@pytest.mark.parametrize("set_by", [timedelta(days=-1), timedelta(minutes=-4), timedelta(days=1)])
def test_a_date_that_is_set_changes_nothing_about_how_long_an_experiment_takes(tmp_path, set_by):
    run = Simulated(tmp_path / "t").until("propose", 6)
    path, last = run.folder / "journal.jsonl", timedelta(seconds=100)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    began = parse_time(lines[0]["time"])
    for line in lines:
        number = line.get("experiment", 0)
        line["time"] = (began + number * last + (set_by if number > 3 else timedelta())).isoformat()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Wishes("t", results=str(tmp_path)).seconds_per_experiment == 100.0
