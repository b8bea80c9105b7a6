"""Ending every process of a run, and no other: marked ones, a wall that was killed while it was being made, and a person's shell beside them."""

import os
import subprocess
import time

import psutil
import pytest

from harness.lab.leftovers import MARK, alive, is_of_run, kill_all_of

RUN = "experiments/0001/attempts/00/runs/00"
TRIES = 50


@pytest.fixture
def sleepers():
    """Start a process that sleeps: sleepers(command, folder=..., mark=...)."""
    started = []

    def start(*command, folder=None, mark=None):
        environment = os.environ | ({MARK: str(mark)} if mark else {})
        started.append(
            subprocess.Popen(command or ["sleep", "600"], cwd=folder, env=environment, start_new_session=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def half_made_wall(bubblewrap, sleepers, mark) -> psutil.Process:
    """The inner process of a wall whose outer one was killed as soon as there was an inner one: it waits for a word that nobody gives it."""
    for _ in range(TRIES):
        command = (bubblewrap.program, "--unshare-pid", "--die-with-parent", "--ro-bind", "/", "/", "sleep", "600")
        outer = sleepers(*command, mark=mark)
        while not (inner := psutil.Process(outer.pid).children()) and outer.poll() is None:
            pass
        outer.kill()
        outer.wait()
        time.sleep(0.1)
        if inner and alive(inner[0]):
            return inner[0]
    pytest.skip(f"{TRIES} walls were killed in the making, and none left a process")


def test_a_wall_that_was_killed_in_the_making_leaves_nothing(bubblewrap, sleepers, tmp_path):
    inner = half_made_wall(bubblewrap, sleepers, tmp_path / RUN / "work")
    assert inner.pid in kill_all_of(tmp_path)
    assert not [each for each in psutil.process_iter() if is_of_run(each, tmp_path) and alive(each)]


def test_what_carries_a_mark_or_works_where_only_trainings_do_is_ended(sleepers, tmp_path):
    inside = tmp_path / RUN / "work"
    inside.mkdir(parents=True)
    marked, working = sleepers(mark=inside), sleepers(folder=inside)
    assert sorted(kill_all_of(tmp_path)) == sorted([marked.pid, working.pid])


def test_a_run_is_found_behind_a_link(sleepers, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    marked = sleepers(mark=link / "night" / RUN / "work")
    assert kill_all_of(link / "night") == [marked.pid]


@pytest.mark.parametrize("place", [".", "experiments", "experiments/0001", RUN])
def test_a_shell_that_stands_in_a_run_is_left_alone(sleepers, tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    shell = sleepers(folder=tmp_path / place)
    assert kill_all_of(tmp_path) == [] and shell.poll() is None


def test_another_run_whose_name_begins_alike_is_left_alone(sleepers, tmp_path):
    other = sleepers(mark=tmp_path / "night10" / RUN / "work")
    assert kill_all_of(tmp_path / "night1") == [] and other.poll() is None
