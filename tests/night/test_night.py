"""Whole nights on the tiny profile, in a copy of the checkout.

Real papermill, real kernels, real trainings.
"""

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from checkout import copy_checkout, git, overnight, warm_environment
from labs import copy_with_harness

from harness.check.check import check_run
from harness.run.journal import read_journal
from harness.run.results import read_results
from harness.run.settings import read_settings
from harness.run.state import fold


def outputs_text(path) -> str:
    cells = nbformat.read(path, 4).cells
    return json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)


@pytest.mark.slow
def test_a_night_from_nothing_and_the_same_command_again(tmp_path, cache):
    checkout = copy_checkout(tmp_path / "lab")
    cache = shutil.copytree(cache, tmp_path / "cache")  # it will lack a file
    done = overnight(checkout, cache, "--profile", "tiny", "--tag", "t", "--experiments", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        *("1 of 5", "2 of 5", "3 of 5", "5 of 5", "experiment 1"),
        *("experiment 2", "2 experiments", "report.html"),
    ):
        assert words in done.stdout
    run = checkout / "results" / "t"
    state = fold(read_journal(run / "journal.jsonl"))
    assert [e.number for e in state.experiments] == [0, 1, 2] and all(
        e.committed for e in state.experiments
    )
    # At least one is structural.
    assert any(e.attempt.proposed["category"] != "tune" for e in state.experiments[1:])
    assert [row.commit for row in read_results(run / "results.tsv")] == [
        e.committed["commit"][:7] for e in state.experiments
    ]
    refs = git(checkout, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/experiments/t")
    assert refs.split() == ["0000", "0001", "0002"]
    assert git(checkout, "status", "--porcelain") == ""
    pages = {path.name for path in (run / "notebooks").iterdir()}
    assert {
        "01_prepare.ipynb",
        "02_baseline.ipynb",
        "03_0001.ipynb",
        "03_0002.ipynb",
        "03_0001.html",
        "04_analysis.ipynb",
        "index.md",
    } <= pages
    page = outputs_text(run / "notebooks" / "03_0001.ipynb")
    assert (
        state.experiments[1].attempt.proposed["title"] in html.unescape(page)
        and "0001" in (run / "notebooks" / "index.md").read_text()
    )
    assert (run / "report" / "report.md").exists() and (run / "best" / "train.py").exists()

    status = overnight(checkout, cache, "--status")
    assert status.returncode == 0 and "no night is running" in status.stdout
    other = overnight(checkout, cache, "--profile", "cpu", "--tag", "t")
    assert other.returncode == 1 and "has profile tiny, asked for cpu" in other.stdout
    report = overnight(checkout, cache, "--report", "--tag", "t")
    assert report.returncode == 0 and "## The claim" in report.stdout

    rows_file = Path(read_settings(run).data_folder) / "train" / "rows.bin"
    for experiments, rows, said in (
        ("2", 3, "as the run began with it"),
        ("3", 4, "1 of 5, prepare data"),
    ):
        done = overnight(
            checkout, cache, "--profile", "tiny", "--tag", "t", "--experiments", experiments
        )
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
        # The same command adds nothing, more experiments are added.
        assert len(read_results(run / "results.tsv")) == rows
        rows_file.unlink(missing_ok=True)  # prepared again by the next
    assert check_run(run) == []


@pytest.fixture
def begun(tmp_path, cache, baseline):
    """A run whose baseline is done: (checkout, run folder, a function that starts the night)."""
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    run = checkout / "results" / "t"
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "harness",
            "overnight",
            "--profile",
            "tiny",
            "--tag",
            "t",
            *arguments,
        ]
        log = (tmp_path / f"night{len(started)}.log").open("w+")
        process = subprocess.Popen(
            command,
            cwd=checkout,
            env=warm_environment(checkout, cache),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield checkout, run, start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(
    run, event: str, experiment: int, process: subprocess.Popen, seconds: float = 120
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(
            e["event"] == event and e.get("experiment") == experiment
            for e in read_journal(run / "journal.jsonl")
        ):
            return
        assert process.poll() is None, "the night ended early"
        time.sleep(0.05)
    raise AssertionError(f"no {event} of experiment {experiment} in time")


def processes_of(checkout) -> list[psutil.Process]:
    """Living processes that work in this checkout."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            mine = (
                str(checkout) in " ".join(process.info["cmdline"] or [])
                or str(checkout) in process.cwd()
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.slow
def test_ctrl_c_finishes_the_experiment_and_twice_stops_at_once_and_both_continue(begun):
    checkout, run, start = begun
    night = start("--experiments", "3")
    wait_for(run, "run_started", 1, night)
    night.send_signal(signal.SIGINT)
    assert night.wait(120) == 0
    assert [e.number for e in fold(read_journal(run / "journal.jsonl")).experiments] == [0, 1]
    night = start("--experiments", "3")
    wait_for(run, "run_started", 2, night)
    night.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 30
    while (run / "night.log").read_text().count(
        "Ctrl-C again stops at once"
    ) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(4):  # once more is enough, and more often is no matter
        night.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert night.wait(30) == 130
    deadline = time.monotonic() + 30
    while processes_of(checkout) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(checkout) == []
    night = start("--experiments", "2")
    assert night.wait(200) == 0
    rows = read_results(run / "results.tsv")
    assert len(rows) == 3


@pytest.mark.slow
def test_a_second_driver_is_refused_and_stop_from_another_terminal_works(begun, cache):
    checkout, run, start = begun
    night = start("--experiments", "5")
    wait_for(run, "run_started", 1, night)
    second = overnight(checkout, cache, "--profile", "tiny", "--tag", "t", "--experiments", "5")
    assert (
        second.returncode == 4
        and f"process {night.pid}" in second.stderr
        and "in use by" in second.stderr
    )
    assert "a night is running" in overnight(checkout, cache, "--status", "--tag", "t").stdout
    stop = overnight(checkout, cache, "--stop", "--tag", "t")
    assert "stops after the experiment in flight" in stop.stdout
    assert night.wait(120) == 0
    assert len(fold(read_journal(run / "journal.jsonl")).experiments) == 2


@pytest.mark.slow
def test_an_edited_program_steers_the_next_experiment_and_a_broken_one_stops_with_its_line(
    begun, cache
):
    checkout, run, start = begun
    program = checkout / "program.md"
    text = program.read_text()
    assert 'allowed_categories = ["tune", "architecture"' in text
    program.write_text(
        text.replace(
            'allowed_categories = ["tune", "architecture"',
            'allowed_categories = ["tune", "architektur"',
        )
    )
    done = overnight(checkout, cache, "--profile", "tiny", "--tag", "t", "--experiments", "1")
    assert done.returncode == 1 and "architektur" in done.stdout and "line" in done.stdout
    program.write_text(
        text.replace('["tune", "architecture", "optimizer", "schedule", "simplify"]', '["tune"]')
    )
    done = overnight(checkout, cache, "--profile", "tiny", "--tag", "t", "--experiments", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        fold(read_journal(run / "journal.jsonl")).experiments[1].attempt.proposed["category"]
        == "tune"
    )


@pytest.mark.slow
def test_by_hand_papermill_says_what_to_run_first_and_names_parameters(tmp_path, cache, baseline):
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    output = tmp_path / "out.ipynb"

    def papermill(notebook: str, *arguments: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-m",
            "papermill",
            f"notebooks/{notebook}.ipynb",
            str(output),
            "-k",
            "python3",
            *arguments,
        ]
        return subprocess.run(
            command,
            cwd=checkout,
            env=warm_environment(checkout, cache),
            capture_output=True,
            text=True,
            timeout=200,
        )

    missing = papermill("03_agent_loop", "-p", "results_dir", str(tmp_path / "elsewhere"))
    assert missing.returncode != 0 and "01_prepare.ipynb" in missing.stderr
    wrong = papermill("03_agent_loop", "-p", "tga", "nov23")
    assert wrong.returncode != 0 and "Did you mean tag" in wrong.stderr
    done = papermill("03_agent_loop", "-p", "tag", "t")
    assert done.returncode == 0, done.stderr
    assert len(read_results(checkout / "results" / "t" / "results.tsv")) == 2
    pages = checkout / "results" / "t" / "notebooks"
    page = (pages / "03_0001.html").read_text()
    assert "<title>0001 " in page and "What was learnt" in page
    assert "[notebook](03_0001.ipynb)" in (pages / "index.md").read_text()
    assert (pages.parent / "report" / "report.html").exists()
    links = re.findall(r'href="([^"#]+)"', page)
    assert links and all((pages / link).exists() for link in links), links
