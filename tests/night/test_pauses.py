"""A night that cannot go on for now waits, looks again, and gives up only after hours.

Real driver, real papermill, a disk that says it is full.
"""

import json
import subprocess
import sys
import time

import pytest
from checkout import environment
from labs import copy_with_harness
from warm import warm_kernels

from harness.run import locks
from harness.run.journal import read_journal
from harness.run.state import fold

FULL = """
import shutil
from pathlib import Path
_room = shutil.disk_usage
def _room_or_none(path):
    full = Path({flag!r}).exists() and "results" in str(path)
    return _room(path)._replace(free=0) if full else _room(path)
shutil.disk_usage = _room_or_none
"""


@pytest.fixture
def night(tmp_path, baseline, cache):
    """A night that finds the disk full while a flag is there.

    Yields (flag, run folder, start(give up after) -> a driver that looks again at once).
    """
    checkout, flag = copy_with_harness(baseline, tmp_path / "lab"), tmp_path / "full"
    flag.touch()
    full = FULL.format(flag=str(flag))  # in the driver, and in every kernel
    kernels = warm_kernels(tmp_path / "ipython")
    (tmp_path / "ipython" / "profile_default" / "startup" / "full.py").write_text(full)
    run, started = checkout / "results" / "t", []

    def start(give_up: float, *more: str) -> subprocess.Popen:
        lines = (
            full,
            "import sys",
            "from harness.__main__ import main",
            "from harness.night import notebook_runner",
            f"notebook_runner.PAUSES, notebook_runner.GIVE_UP_SECONDS = (0.1,), {give_up}",
            (
                "sys.exit(main(['overnight', '--profile', 'tiny',"
                f" '--tag', 't', '--experiments', '1', *{more!r}]))"
            ),
        )
        command = [sys.executable, "-c", "\n".join(lines)]
        given = environment(checkout, cache) | kernels
        started.append(
            subprocess.Popen(
                command, cwd=checkout, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
        return started[-1]

    yield flag, run, start
    for process in started:
        process.kill()
        process.stdout.close()


def wait_for_words(run, words: str, process: subprocess.Popen) -> None:
    """Until the night has said so since it was started last."""
    until, log = time.monotonic() + 120, run / "night.log"
    while not log.exists() or words not in log.read_text():
        assert process.poll() is None and time.monotonic() < until, process.stdout.read().decode()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_night_without_room_waits_gives_up_late_and_goes_on_when_there_is_room(night):
    flag, run, start = night
    assert start(0.05).wait(timeout=200) == 3
    said = (run / "night.log").read_text()
    assert "paused: only 0 MB" in said and "cannot go on: paused for" in said
    assert "as it stands no training can begin: only 0 MB are free" in said.partition("1 of 5")[0]
    (run / "night.log").unlink()
    told = run.parent / "told.jsonl"
    waiting = start(3600.0, "--notify", f"cat >> '{told}'")
    wait_for_words(run, "paused", waiting)
    flag.unlink()
    assert waiting.wait(timeout=250) == 0
    events = [json.loads(line) for line in told.read_text().splitlines()]
    assert [event["event"] for event in events] == ["paused", "ended"]
    assert "only 0 MB" in events[0]["words"] and events[1]["state"] == "finished"
    state = fold(read_journal(run / "journal.jsonl"))
    assert [e.number for e in state.experiments] == [0, 1] and all(
        e.committed for e in state.experiments
    )


@pytest.mark.slow
def test_a_paused_night_can_be_stopped(night):
    flag, run, start = night
    waiting = start(3600.0)
    wait_for_words(run, "paused", waiting)
    (run / "STOP").write_text("")
    assert waiting.wait(timeout=100) == 0
    assert "stopped as asked" in (run / "night.log").read_text()


@pytest.mark.slow
def test_a_notebook_by_hand_between_two_experiments_is_waited_for(night):
    flag, run, start = night
    flag.unlink()
    with locks.hold(run, "experiment", "an experiment", "wait"):
        waiting = start(3600.0)
        wait_for_words(run, "paused: run t is in use", waiting)
    assert waiting.wait(timeout=200) == 0
    assert [e.number for e in fold(read_journal(run / "journal.jsonl")).experiments] == [0, 1]
