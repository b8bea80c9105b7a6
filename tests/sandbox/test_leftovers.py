"""Ending every process of a run, and no other: marked ones, a wall that was killed while it was
being made, and a person's shell beside them.
"""

import json
import os
import pty
import subprocess
import sys
import time

import psutil
import pytest

from harness.run.locks import OnTheClock
from harness.sandbox import processes
from harness.sandbox.processes import (
    MARK,
    alive,
    find_process,
    identity,
    is_of_run,
    kill_all_of,
    kill_escaped,
    kill_leftover,
    may_live,
    note_process,
    wait_until_dead,
)

RUN = "experiments/0001/attempts/00/runs/00"
TRIES = 50


@pytest.fixture
def sleepers():
    """Start a process that sleeps: sleepers(command, folder=..., mark=...)."""
    started = []

    def start(*command, folder=None, mark=None):
        environment = os.environ | ({MARK: str(mark)} if mark else {})
        started.append(
            subprocess.Popen(
                command or ["sleep", "600"], cwd=folder, env=environment, start_new_session=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def half_made_wall(bubblewrap, sleepers, mark) -> psutil.Process:
    """The inner process of a wall whose outer one was killed as soon as there was an inner one: it
    waits for a word that nobody gives it.
    """
    for _ in range(TRIES):
        command = (
            bubblewrap.program,
            "--unshare-pid",
            "--die-with-parent",
            "--ro-bind",
            "/",
            "/",
            "sleep",
            "600",
        )
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


@pytest.mark.parametrize("place", [f"{RUN}/work", f"{RUN}/compile_cache"])
def test_a_shell_on_a_terminal_is_left_alone_even_where_trainings_work(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True)
    shell, terminal = pty.fork()
    if not shell:
        os.chdir(folder)
        os.execvp("sh", ["sh", "-c", "echo here; sleep 600"])
    try:
        assert os.read(terminal, 100).startswith(b"here")
        assert kill_all_of(tmp_path) == kill_escaped(folder) == [] and alive(psutil.Process(shell))
    finally:
        os.kill(shell, 9)
        os.waitpid(shell, 0)
        os.close(terminal)


def test_what_carries_a_mark_is_ended_on_a_terminal_too(tmp_path):
    shell, terminal = pty.fork()
    if not shell:
        os.execvpe(
            "sh",
            ["sh", "-c", "echo here; sleep 600"],
            os.environ | {MARK: str(tmp_path / RUN / "work")},
        )
    assert os.read(terminal, 100).startswith(b"here")
    assert shell in kill_all_of(tmp_path)
    os.waitpid(shell, 0)
    os.close(terminal)


@pytest.fixture
def clock_set(monkeypatch):
    """Set the clock on the wall ahead: clock_set(seconds)."""
    if not sys.platform.startswith("linux"):
        pytest.skip("there the date of a process's start does not move with the clock")
    booted = psutil.boot_time()

    def ahead(seconds):
        for module in (psutil, psutil._pslinux):
            monkeypatch.setattr(module, "boot_time", lambda: booted + seconds)

    return ahead


def test_a_process_is_known_by_what_no_clock_moves(sleepers, clock_set):
    process = sleepers()
    who = identity(process.pid)
    clock_set(60)
    assert (
        identity(process.pid) == who
        and find_process(process.pid, who)
        and may_live(process.pid, who)
    )
    process.kill()
    wait_until_dead([psutil.Process(process.pid)])
    assert not may_live(process.pid, who)  # nobody has asked for its end yet
    process.wait()
    assert not find_process(process.pid, who) and not may_live(process.pid, who)
    assert not may_live(os.getpid(), who)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_name_with_brackets_and_spaces_hides_nothing(sleepers, tmp_path):
    program = tmp_path / "a) 1 2 (b"
    program.symlink_to("/bin/sleep")
    process = sleepers(str(program), "600")
    while psutil.Process(process.pid).name() != program.name:
        time.sleep(0.01)
    ours, its = (int(identity(pid).partition("@")[0]) for pid in (os.getpid(), process.pid))
    assert ours < its < ours + 10**7
    assert processes.untended_place(psutil.Process(process.pid)) is not None


def test_what_a_dead_runner_left_is_ended_whatever_the_clock_says_and_nothing_that_may_be_anothers(
    sleepers, tmp_path, clock_set
):
    mine, others = sleepers(), sleepers()
    for name, process in (("mine", mine), ("others", others), ("rebooted", others)):
        (tmp_path / name).mkdir()
        note_process(tmp_path / name, process.pid)

    def renote(name, **fields):
        path = tmp_path / name / "process.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    renote("others", identity=identity(os.getpid()))
    renote("rebooted", pid=2**22 + 1, identity=identity(mine.pid)[:-1] + "x")
    clock_set(60)
    ended = [kill_leftover(tmp_path / name) for name in ("others", "rebooted", "mine")]
    assert ended == [[], [], [mine.pid]] and others.poll() is None


@pytest.mark.parametrize(
    "pid", ['"1"', "Infinity", "NaN", "-5", "1e9", "true", "4194305", "9" * 30, None]
)
def test_a_note_that_a_child_has_spoilt_ends_nothing(tmp_path, pid):
    note = f'{{"pid": {pid}, "identity": [1]}}' if pid else "[]"
    (tmp_path / "process.json").write_text(note)
    assert kill_leftover(tmp_path) == []


def test_who_trains_beside_us_is_seen_whatever_the_clock_says(
    sleepers, tmp_path, monkeypatch, clock_set
):
    monkeypatch.setenv("HOME", str(tmp_path))
    with OnTheClock("cpu", tmp_path / "other") as other:
        own = json.loads(other._note.read_text())
        process = sleepers()
        notes = {
            "theirs": {"identity": identity(process.pid)},
            "dated": {},
            "ended": {"identity": own["identity"]},
        }
        for name, who in notes.items():
            note = {
                "pid": process.pid,
                "create_time": psutil.Process(process.pid).create_time(),
                "host": own["host"],
                "run": name,
            }
            (other.folder / f"{name}.json").write_text(json.dumps(note | who))
        clock_set(60)
        other.look()
        assert other.others == ["theirs"] and sorted(
            path.stem for path in other.folder.glob("*.json")
        ) == sorted(["dated", "theirs", str(os.getpid())])


def test_another_run_whose_name_begins_alike_is_left_alone(sleepers, tmp_path):
    other = sleepers(mark=tmp_path / "night10" / RUN / "work")
    assert kill_all_of(tmp_path / "night1") == [] and other.poll() is None
