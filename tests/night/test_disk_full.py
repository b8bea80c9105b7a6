"""A disk that is full for real, at each place where a night writes.

Nothing is lost or half written, and with room the same stages go on.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from checkout import ROOT, command_of, git, make_repository, warm_environment
from labs import copy_of, copy_with_harness, incumbent_source, put_candidate, with_prior
from safetensors import SafetensorError
from safetensors.torch import save_file
from small_disk import mounted

import harness
from harness.check.check import check_run
from harness.ground import files as ground_files
from harness.ground.errors import Paused
from harness.lab import loop
from harness.lab.loop import Lab
from harness.night.notebook_process import NotebookProcess, make_context
from harness.night.terminal import Terminal
from harness.rules import decision
from harness.run import disk_space, git_history
from harness.run.journal import Journal, read_journal
from harness.run.results import read_results
from harness.run.state import fold
from harness.sandbox.child_log import LOG_CAP_BYTES
from harness.scoring import measure
from harness.training.launch import classify

PAGES = 30  # 150 kB a step, where a pipe holds 64
INSIDE = "AUTORESEARCH_TEST_MAY_MOUNT"  # set where these tests run in a namespace of their own


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", 128) as small:
        yield small


@pytest.fixture
def full_lab(disk, baseline, monkeypatch):
    """(disk, lab): the run whose baseline is done, on the small disk."""
    monkeypatch.setattr(disk_space, "SPARE_BYTES", 10**6)
    with copy_of(baseline, disk.path / "run") as lab:
        yield disk, lab


def test_in_a_namespace_of_its_own_where_we_may_not_mount(tmp_path):
    """All tests of this file, for a user who is not root."""
    if os.geteuid() == 0:
        pytest.skip("root mounts without one")
    namespace = ["unshare", "-rm"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*namespace, "true"], capture_output=True).returncode
    ):
        pytest.skip("this system gives users no namespaces")
    command = [
        *namespace,
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {INSIDE: "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


# --- what each file promises ----------------------------------------------------------------------


def test_a_journal_line_is_written_whole_or_not_at_all(disk):
    journal = Journal(disk.path / "journal.jsonl")
    journal.append("note", text="first")
    before = journal.path.read_bytes()
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        # The first of it would still have fitted into the last page.
        journal.append("note", text="x" * 10_000)
    assert journal.path.read_bytes() == before
    disk.make_room()
    journal.append("note", text="second")
    assert [entry["text"] for entry in read_journal(journal.path)] == ["first", "second"]


def test_an_atomic_file_stays_the_old_one(disk):
    path = disk.path / "results.tsv"
    path.write_text("old")
    disk.fill()
    with pytest.raises(OSError, match="No space left"), ground_files.open_atomic(path) as file:
        file.write(b"x" * 10_000)
    assert path.read_text() == "old" and sorted(os.listdir(disk.path)) == ["ballast", "results.tsv"]


def test_a_night_log_has_whole_lines_and_ends_quietly(disk):
    with open(os.devnull, "w") as screen:
        terminal = Terminal(disk.path / "night.log", screen)
        terminal.say("before")
        disk.fill()
        terminal.say("x" * 10_000)
        disk.make_room()
        terminal.say("after")
        disk.fill()
        terminal.close()
    assert [line[25:] for line in (disk.path / "night.log").read_text().splitlines()] == [
        "before",
        "after",
    ]


def test_a_git_object_is_made_once_there_is_room(disk, tmp_path):
    repository = disk.path / "checkout"
    repository.mkdir()
    (repository / "README.md").write_text("hello\n")
    make_repository(repository)
    train_py = tmp_path / "train.py"
    train_py.write_bytes(os.urandom(20_000))
    base = git_history.head_commit(repository)
    plan = git_history.CommitPlan(base, base, "1700000000 +0000", "0000: baseline\n")
    disk.fill()
    with pytest.raises(
        git_history.HistoryError,
        match="(?s)No space left on device.*make room, then run the same command",
    ):
        git_history.record_experiment(repository, "t", 0, plan, train_py, advance=True)
    disk.make_room()
    commit = git_history.record_experiment(repository, "t", 0, plan, train_py, advance=True)
    assert (
        git(repository, "rev-parse", "autoresearch/t") == commit
        and git(repository, "fsck", "--no-dangling") == ""
    )


def test_a_repository_that_became_read_only_says_so_and_goes_on_when_it_can_be_written(
    disk, tmp_path
):
    repository = copy_of_checkout(disk.path / "checkout")
    base = git_history.head_commit(repository)
    plan = git_history.CommitPlan(base, base, "1700000000 +0000", "0000: baseline\n")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    with pytest.raises(
        git_history.HistoryError,
        match="(?s)Read-only file system.*make the repository writable again",
    ):
        git_history.record_experiment(
            repository, "t", 0, plan, repository / "train.py", advance=True
        )
    subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
    assert git_history.record_experiment(
        repository, "t", 0, plan, repository / "train.py", advance=True
    )


def copy_of_checkout(folder):
    folder.mkdir()
    (folder / "train.py").write_text("x = 1\n")
    return make_repository(folder)


@pytest.mark.slow
def test_a_notebook_that_cannot_be_saved_is_told_from_a_broken_one(disk):
    cells = [
        nbformat.v4.new_code_cell(f"x = {number}  # {'much text, ' * 2_000}") for number in range(3)
    ]
    notebook = disk.path / "in.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    disk.fill()
    process = NotebookProcess(make_context(), notebook, disk.path / "in.out.ipynb", {})
    while process.running(1.0):
        pass
    failure = process.failure()
    assert failure and disk_space.lacking(disk.path)
    disk.make_room()
    process = NotebookProcess(make_context(), notebook, disk.path / "in.out.ipynb", {})
    while process.running(1.0):
        pass
    assert process.failure() is None
    assert sorted(path.name for path in disk.path.glob("*.ipynb")) == [
        "in.ipynb",
        "in.out.cut1.ipynb",
        "in.out.ipynb",
    ]


def test_weights_that_find_no_room_say_so_through_the_library_that_writes_them(disk):
    disk.fill()
    weights = {"wte.weight": torch.zeros(100_000)}
    with pytest.raises(SafetensorError) as raised:
        save_file(weights, disk.path / "weights.tmp")
    assert classify(raised.value) == "infrastructure"
    assert classify(RuntimeError("bad header (os error 2)")) == "crash"


# --- an experiment whose disk fills up ------------------------------------------------------------


def to_the_end(lab: Lab) -> None:
    """What is left of the experiment in flight, by a process that takes the run up anew."""
    lab.release()
    with Lab(lab.folder) as again:
        again.begin()
        for stage in (again.propose, again.check, again.train, again.decide, again.commit):
            stage()
    assert check_run(lab.folder, harness.REPOSITORY) == []


def begin(lab: Lab, source: str | None = None) -> None:
    put_candidate(lab, source or incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()


def talkative(lab: Lab) -> str:
    """The incumbent, which prints more at each step than a pipe holds: we hear of each in time."""
    line = next(line for line in incumbent_source(lab).splitlines() if "session.log(" in line)
    indent = line[: len(line) - len(line.lstrip())]
    pages = f"{indent}print(('x' * 5_000 + '\\n') * {PAGES}, end='')\n"
    return incumbent_source(lab).replace(line, pages + line)


@pytest.mark.slow
def test_a_log_that_finds_no_room_costs_its_lines_and_not_the_training(full_lab):
    disk, lab = full_lab
    begin(lab, talkative(lab))

    def listen(event):
        if event.get("event") == "step" and event["stage"] == "training":
            disk.make_room() if event["progress"] > 0.6 else disk.fill()

    lab.train(listen)
    assert {run.status for run in lab.experiment.attempt.runs} == {"ok"}
    log = (lab.training_folder(1, 0, 0) / "run.log").read_text()
    assert "more bytes of output were not kept]\n" in log
    assert len(log) < LOG_CAP_BYTES / 2  # for want of room, long before its cap
    assert {len(line) for line in log.splitlines() if line.startswith("x")} == {5_000}
    for line in (lab.training_folder(1, 0, 0) / "events.jsonl").read_text().splitlines():
        json.loads(line)
    to_the_end(lab)


@pytest.mark.slow
def test_weights_that_find_no_room_are_not_held_against_the_idea(full_lab):
    disk, lab = full_lab
    begin(lab)

    def listen(event):
        if event.get("event") == "step" and event["progress"] > 0.3:
            disk.fill()

    with pytest.raises(Paused, match="make room, then run the same command again"):
        lab.train(listen)
    assert [run.status for run in lab.experiment.attempt.runs] in (["infrastructure"], [None])
    disk.make_room()
    to_the_end(lab)
    state = fold(read_journal(lab.folder / "journal.jsonl"))
    assert state.experiments[1].decided["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("room", [True, False])
def test_a_failure_is_the_ideas_only_while_the_disk_has_room(full_lab, monkeypatch, room):
    disk, lab = full_lab
    broken = incumbent_source(lab).replace(
        "model = build_model", "raise ValueError('bad')\n    model = build_model"
    )
    begin(lab, broken)

    def listen(event):
        if event["stage"] == "training" and not room:
            # What a run needs is no longer there.
            monkeypatch.setattr(disk_space, "SPARE_BYTES", 10**12)

    with contextlib.nullcontext() if room else pytest.raises(Paused, match="make room"):
        lab.train(listen)
    run = lab.experiment.attempt.runs[-1]
    assert run.status == ("crash" if room else "infrastructure") and "ValueError: bad" in run.cause
    assert ("are free" in run.cause) is not room and bool(lab.experiment.attempt.failure) is room


@pytest.mark.slow
def test_losses_that_find_no_room_are_measured_again(full_lab, monkeypatch):
    disk, lab = full_lab
    begin(lab)
    save = measure.save_losses

    def save_on_a_full_disk(path, losses):
        disk.fill()
        save(path, losses)

    with monkeypatch.context() as patch, pytest.raises(Paused, match="the disk is full.*make room"):
        patch.setattr(measure, "save_losses", save_on_a_full_disk)
        lab.train()
    assert (
        lab.journal.entries[-1]["event"] == "trained"
        and not (lab.training_folder(1, 0, 0) / "losses.npy").exists()
    )
    disk.make_room()
    to_the_end(lab)
    assert (
        len(
            fold(read_journal(lab.folder / "journal.jsonl"))
            .experiments[1]
            .attempt.runs[0]
            .scored["audit"]
        )
        > 0
    )


@pytest.fixture(scope="module")
def measured(baseline, tmp_path_factory):
    """The run with one more experiment that is about to be kept.

    It is trained, scored and looked at closely; made once, copied by each test.
    """
    folder = tmp_path_factory.mktemp("measured")
    score_model = measure.score_model
    with copy_of(baseline, folder) as lab, pytest.MonkeyPatch.context() as patch:

        def flattered(data, job, *arguments):
            score = score_model(data, job, *arguments)
            # Not the incumbent's, trained again beside it.
            return lower(score) if "0001" in job.train_py.parts else score

        patch.setattr(measure, "score_model", flattered)
        with_prior(lab)
        begin(lab)
        lab.train()
        assert lab.step.kind == "decide"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", ["decided", "git", "best", "committed", "results.tsv"])
def test_the_end_of_an_experiment_is_made_whole_once_there_is_room(
    disk, measured, monkeypatch, place
):
    monkeypatch.setattr(disk_space, "SPARE_BYTES", 10**6)
    monkeypatch.setattr(decision, "quarantine_reasons", lambda *facts: [])

    def after_filling(function):
        def filled(*arguments, **options):
            disk.fill()
            return function(*arguments, **options)

        return filled

    with copy_of(measured, disk.path / "run") as lab:
        lab.number = 1
        append = lab.journal.append

        def full(event, **fields):
            if event == place:
                disk.fill()
            name = {"decided": "noise", "committed": "commit"}.get(event)
            return append(event, **fields | ({name: "x" * 5_000} if name else {}))

        with (
            monkeypatch.context() as patch,
            pytest.raises(Paused, match="make room, then run the same command"),
        ):
            if place in ("decided", "committed"):
                patch.setattr(lab.journal, "append", full)
            if place == "git":
                patch.setattr(git_history, "make_commit", after_filling(git_history.make_commit))
            if place == "best":
                patch.setattr(loop, "update_best", after_filling(loop.update_best))
            if place == "results.tsv":
                patch.setattr(lab, "write_table", after_filling(lab.write_table))
            lab.decide()
            lab.commit()
        best = json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"]
        kept = {0: lab.state.experiments[0], 1: lab.experiment}[best]
        # All old or all new.
        assert (lab.folder / "best" / "train.py").read_bytes() == lab.train_py(kept).read_bytes()
        assert len(read_results(lab.folder / "results.tsv")) == 1
        disk.make_room()
        lab.release()
        entries = read_journal(lab.folder / "journal.jsonl")
        with Lab(lab.folder) as again:
            again.number = 1
            again.decide()
            again.commit()
            assert again.state.incumbent.number == 1
        assert check_run(lab.folder, harness.REPOSITORY) == []
        assert read_journal(lab.folder / "journal.jsonl")[: len(entries)] == entries


def lower(score):
    return dataclasses.replace(score, val_bpb=score.val_bpb - 3.0)


# --- a whole night --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_whose_disk_fills_up_goes_on_by_the_same_command(tmp_path, cache, baseline):
    """Full while experiment 1 trains: log, weights, notebook, index, all that it writes then."""
    with mounted(tmp_path / "disk", 1500) as disk:
        checkout = copy_with_harness(baseline, disk.path / "lab")
        run = checkout / "results" / "t"
        said = tmp_path / "said.log"
        command = command_of("--profile", "tiny", "--tag", "t", "--experiments", "1")

        def start():
            with said.open("a") as log:
                return subprocess.Popen(
                    command,
                    cwd=checkout,
                    env=warm_environment(checkout, cache),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

        night = start()
        try:
            wait_until(
                night,
                lambda: any(
                    e["event"] == "run_started" and e["experiment"] == 1
                    for e in read_journal(run / "journal.jsonl")
                ),
            )
            disk.fill()
            wait_until(night, lambda: "make room" in said.read_text(), may_end=True)
            night.terminate()  # it would look again by itself, in a minute
            wait_until(night, lambda: False, may_end=True)
            assert night.returncode == 130
            disk.make_room()
            night = start()
            wait_until(night, lambda: False, may_end=True)
            assert night.returncode == 0, said.read_text()
        finally:
            night.kill()
            night.wait()
        assert check_run(run) == []
        state = fold(read_journal(run / "journal.jsonl"))
        assert [e.number for e in state.experiments] == [0, 1] and all(
            e.committed for e in state.experiments
        )
        assert all(
            run.status in ("ok", "interrupted", "infrastructure")
            for e in state.experiments
            for run in e.attempt.runs
        )
        assert "Traceback" not in said.read_text()
        refs = git(checkout, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/experiments/t")
        assert refs.split() == ["0000", "0001"] and len(read_results(run / "results.tsv")) == 2
        assert {"03_0001.ipynb", "index.md"} <= {
            path.name for path in (run / "notebooks").iterdir()
        }


def wait_until(night: subprocess.Popen, seen, may_end: bool = False, seconds: float = 280) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if night.poll() is not None:
            assert may_end, "the night ended early"
            return
        assert time.monotonic() < deadline, "nothing of the kind happened in time"
        time.sleep(0.02)
