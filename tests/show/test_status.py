"""A run seen from outside: what --status and --status --json say of it.

Real processes hold its lock, stop, die and end.
"""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import journals
import psutil
import pytest
from checkout import ROOT, environment
from labs import copy_with_harness
from simulated_runs import Simulated

from harness.__main__ import main
from harness.night.progress import line_of_entry
from harness.run import heartbeat
from harness.run.heartbeat import age_seconds, beat, read_heartbeat, writer
from harness.run.journal import read_journal
from harness.run.run import Run
from harness.run.settings import write_settings
from harness.show import costs, report, status

DRIVER = """
import os, sys
from pathlib import Path
from harness.run import heartbeat
from harness.run.locks import hold
folder = Path(sys.argv[1])
with hold(folder, sys.argv[2], "a night", ""):
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "beat":
            state = "paused" if rest.startswith("paused") else "running"
            facts = {"command": "the same command", "still_seconds": 4.0, "limit_seconds": 60.0}
            heartbeat.write(folder, rest, {"state": state} | facts)
        if word == "slow":
            facts = {"state": "running", "still_seconds": 61.0, "limit_seconds": 60.0}
            heartbeat.write(folder, "training", facts)
        if word == "end":
            heartbeat.end(folder, 0, rest, done=rest == "done")
            break
        print("did", flush=True)
"""


class Driver:
    """A process that holds a run's lock and does what it is told."""

    def __init__(self, folder: Path, lock: str = "night") -> None:
        command = [sys.executable, "-c", DRIVER, str(folder), lock]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell("look")

    def tell(self, words: str) -> None:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self, words: str = "") -> None:
        self.tell(f"end {words}") if words else self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Simulated(tmp_path_factory.mktemp("simulated") / "results" / "t").until("in_flight", 6)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made.folder, tmp_path / "results" / "t")


@pytest.fixture
def driver(folder):
    driver = Driver(folder)
    yield driver
    driver.process.kill()
    driver.process.communicate()


def state(folder: Path) -> str:
    return status.look_at(Run(folder))["state"]


def wait_until_stopped(pid: int) -> None:
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        pass


def test_the_states_of_a_driver_that_lives(folder, driver):
    assert state(folder) == "running"  # it has just started
    driver.tell("beat training")
    found = status.look_at(Run(folder))
    assert (found["state"], found["pid"], found["stage_limit_seconds"]) == (
        "running",
        driver.process.pid,
        60.0,
    )
    assert found["stage_seconds"] >= 4 and found["next_command"].endswith(
        f"--stop --tag t --results {folder.parent}"
    )
    driver.tell("slow")
    assert state(folder) == "slow"
    driver.tell("beat paused: the disk is full")
    assert state(folder) == "paused" and "paused: the disk is full" in status.status_screen(
        Run(folder)
    )


def test_stopped_is_slow_and_killed_is_dead_at_once(folder, driver):
    driver.tell("beat training")
    driver.process.send_signal(signal.SIGSTOP)
    wait_until_stopped(driver.process.pid)
    assert state(folder) == "slow" and f"kill -CONT {driver.process.pid}" in status.status_screen(
        Run(folder)
    )
    driver.process.send_signal(signal.SIGCONT)
    driver.tell("beat training")
    assert state(folder) == "running"
    driver.end()
    found = status.look_at(Run(folder))
    assert (found["state"], found["pid"], found["next_command"]) == (
        "died",
        None,
        "the same command",
    )
    assert "died (last seen at: training); the same command continues" in status.status_screen(
        Run(folder)
    )


@pytest.mark.parametrize("words, expected", [("done", "finished"), ("stopped as asked", "stopped")])
def test_a_driver_that_ended_by_itself_did_not_die(folder, driver, words, expected):
    driver.tell("beat training")
    driver.end(words)
    found = status.look_at(Run(folder))
    assert (found["state"], found["exit_code"]) == (expected, 0) and words in found["why"]


def test_the_next_driver_that_dies_before_its_first_heartbeat_is_told_from_the_one_before(
    folder, driver
):
    driver.tell("beat training")
    driver.end("done")
    Driver(folder).end()
    assert state(folder) == "died" and "died as it started" in status.status_screen(Run(folder))


def test_an_old_heartbeat_is_slow_and_one_of_another_process_or_start_is_nobody_s(
    folder, driver, monkeypatch
):
    driver.tell("beat training")
    found = read_heartbeat(folder)
    assert writer(found).pid == driver.process.pid and 0 <= age_seconds(found) < 30
    # A date, which somebody may have set since.
    assert writer(found | {"create_time": 0}).pid == driver.process.pid
    # The number was given to another process.
    assert writer(found | {"identity": "another"}) is None
    assert (
        writer(found | {"boot_id": "another"}) is None
        and age_seconds(found | {"boot_id": "another"}) is None
    )
    monkeypatch.setattr(heartbeat, "wall_seconds", lambda: found["boot_seconds"] + 31)
    assert state(folder) == "slow" and "no sign of life for 31 s" in status.status_screen(
        Run(folder)
    )


def test_a_notebook_by_hand_is_no_night(folder):
    by_hand = Driver(folder, "experiment")
    try:
        assert state(folder) == "by hand"
    finally:
        by_hand.end()
    assert state(folder) == "idle" and "experiment 6 is unfinished" in status.status_screen(
        Run(folder)
    )


def test_a_heartbeat_is_written_every_five_seconds_at_most_and_never_ends_a_night(
    tmp_path, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    stages = []
    for seconds in (0.0, 4.9, 0.2, 5.0):
        clock[0] += seconds
        beat(tmp_path, f"at {clock[0]:.1f}", seen=1)
        stages.append(read_heartbeat(tmp_path)["stage"])
    assert stages == ["at 100.0", "at 100.0", "at 105.1", "at 110.1"]
    clock[0] += 10
    beat(tmp_path / "nowhere", "as on a full disk")
    assert read_heartbeat(tmp_path / "nowhere") is None and os.listdir(tmp_path) == [
        "heartbeat.json"
    ]


def test_the_object_for_scripts_has_the_documented_keys_at_every_moment(tmp_path, capsys):
    run, seen = Simulated(tmp_path / "results" / "t"), set()
    for number in range(4):
        for kind in ("propose", "check", "in_flight", "score", "commit"):
            if number or kind != "propose":
                run.until(kind, number) if kind != "score" or number != 2 else None
            found = status.look_at(Run(run.folder))
            seen.add(found["stage"])
            assert (
                list(found) == list(status.KEYS)
                and json.loads(json.dumps(found, allow_nan=False)) == found
            )
            screen = status.status_screen(Run(run.folder)).splitlines()
            assert len(screen) <= 22 and max(map(len, screen)) <= 160
    assert seen == {"preparing", "proposing", "checking", "starting", "scoring", "committing"}
    assert (
        main(
            [
                "overnight",
                "--status",
                "--json",
                "--tag",
                "t",
                "--results",
                str(tmp_path / "results"),
            ]
        )
        == 0
    )
    assert list(json.loads(capsys.readouterr().out)) == list(status.KEYS)


def test_a_card_is_named_with_what_it_did_of_late_and_a_cpu_is_not(folder, made):
    found = status.look_at(Run(folder))
    assert (found["card"], found["card_use"]) == (None, None)
    assert "\ncard " not in status.status_screen(Run(folder))
    card = {"kind": "cuda", "name": "NVIDIA H200", "memory_mb": 143_771}
    write_settings(folder, dataclasses.replace(made.settings, device=card))
    found = status.look_at(Run(folder))
    assert (found["card"], found["card_use"]) == ("NVIDIA H200", None)
    assert "card       NVIDIA H200: no training was watched" in status.status_screen(Run(folder))
    watched = {"sm_clock_mhz": 1755.0, "memory_mb": 31_000.0, "slowed_share": 0.3}
    watched |= {"others_share": 0.2, "waited_share": 0.1, "energy_joules": 195_000.0}
    lines = []
    for line in (folder / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "trained":
            # The baseline's were cold; only the last five count.
            heat = 40.0 if entry["experiment"] == 0 else 81.0
            entry |= {"card": watched | {"temperature_c": heat}}
        lines.append(json.dumps(entry))
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    found = status.look_at(Run(folder))
    assert list(found) == list(status.KEYS)
    assert found["card_use"].startswith("1,755 MHz, 81 °C at most, 31,000 MB in use, slowed down")
    assert "195,000 J" in found["card_use"]
    screen = status.status_screen(Run(folder)).splitlines()
    first = next(n for n, line in enumerate(screen) if line.startswith("card "))
    assert screen[first].startswith("card       NVIDIA H200: 1,755 MHz, 81 °C at most")
    assert "195,000 J" in " ".join(screen[first : first + 3]) and max(map(len, screen)) <= 160
    assert len(screen) <= 22


def test_figures_are_those_of_the_journal(folder, made):
    found = status.look_at(Run(folder))
    assert (found["experiment"], found["title"], found["stage"]) == (6, "depth 6", "starting")
    assert (found["experiments"], found["kept"], found["discarded"], found["crashed"]) == (
        5,
        1,
        2,
        2,
    )
    assert (found["best_experiment"], found["baseline_val_bpb"]) == (1, pytest.approx(2.0005))
    assert found["gain"] == pytest.approx(
        found["baseline_val_bpb"] - made.state.experiments[1].mean, abs=1e-6
    )
    assert [each["experiment"] for each in found["last_five"]] == [1, 2, 3, 4, 5]
    # Of experiments 1, 3 and 4, against 1000.
    assert (found["tokens_per_second"], found["drift"]) == (997.0, -0.003)
    assert found["run_bytes"] > 0 and found["free_bytes"] > 0


def write_close_out(folder: Path, *entries: dict) -> None:
    lines = [
        json.dumps({"seq": seq, "time": "2026-11-24T03:00:00.000Z", **entry}) + "\n"
        for seq, entry in enumerate(entries)
    ]
    (folder / "close_out.jsonl").write_text("".join(lines))


def test_the_claim_is_said_once_it_is_measured_and_until_then_the_scores_are_called_flattered(
    folder,
):
    assert status.look_at(Run(folder))["claim"] is None
    screen = status.status_screen(Run(folder))
    assert (
        "branch     stands at 1." in screen
        and "flattered by luck" in screen
        and "claim      not measured yet" in screen
    )
    size = {"difference": 0.02, "low": 0.01, "high": 0.03, "n_best": 3, "n_baseline": 3}
    best = status.look_at(Run(folder))["best_experiment"]
    claimed = {
        "event": "claimed",
        "best": best,
        "status": "ok",
        "cause": "",
        "val": size,
        "holdout": size,
    }
    write_close_out(
        folder,
        {"event": "claim_begun", "best": best, "seeds": 3, "first_seed": 9, "template": False},
        claimed,
    )
    assert "0.0200 bpb better than the baseline" in status.look_at(Run(folder))["claim"]
    lines = status.status_screen(Run(folder)).splitlines()
    assert "0.0200 bpb better than the baseline" in next(
        line for line in lines if line.startswith("claim ")
    )
    assert len(lines) <= 22 and max(map(len, lines)) <= 160
    write_close_out(
        folder,
        {**claimed, "event": "claim_begun", "seeds": 3, "first_seed": 9, "template": False},
        claimed | {"best": best + 1},
    )
    assert status.look_at(Run(folder))["claim"] is None, (
        "a claim on another file says nothing about this one"
    )


def test_a_night_that_measures_its_claim_says_so(tmp_path):
    folder = Simulated(tmp_path / "results" / "t").until("propose", 6).folder
    best = status.look_at(Run(folder))["best_experiment"]
    begun = {"event": "claim_begun", "best": best, "seeds": 3, "first_seed": 9, "template": False}
    write_close_out(folder, begun | {"time": "2099-01-01T00:00:00.000Z"})
    assert status.look_at(Run(folder))[
        "stage"
    ] == "proposing" and "claim      training 1 of 6" in status.status_screen(Run(folder))
    night = Driver(folder)
    try:
        night.tell("beat claim: training 1 of 6")
        assert status.look_at(Run(folder))[
            "stage"
        ] == "claiming" and "the claim is measured" in status.status_screen(Run(folder))
    finally:
        night.end()


def test_exit_statuses(folder, driver, capsys):
    results = ["--results", str(folder.parent), "--tag", "t"]
    assert main(["overnight", "--profile", "tiny", *results]) == 4
    assert f"process {driver.process.pid}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        main(["overnight", "--json", *results])
    assert wrong.value.code == 2 and "--json goes with --status" in capsys.readouterr().err
    driver.end("done")
    assert main(["overnight", "--check", *results]) == 0
    assert capsys.readouterr().out == "t: everything agrees with the journal\n"
    (folder / "results.tsv").write_text("mine\n")
    assert (
        main(["overnight", "--check", *results]) == 1
        and "results.tsv, line 1" in capsys.readouterr().out
    )
    assert main(["overnight", "--status", "--results", str(folder.parent), "--tag", "nowhere"]) == 1


@pytest.mark.slow
def test_a_real_night_is_running_stopped_and_dead(tmp_path, baseline, cache):
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    run = checkout / "results" / "t"
    command = [
        *(sys.executable, "-m", "harness", "overnight"),
        *("--profile", "tiny", "--tag", "t", "--experiments", "1"),
    ]
    with (tmp_path / "log").open("w") as log:
        night = subprocess.Popen(
            command, cwd=checkout, env=environment(checkout, cache), stdout=log, stderr=log
        )
    try:
        while not any(
            entry["event"] == "run_started" and entry["experiment"] == 1
            for entry in read_journal(run / "journal.jsonl")
        ):
            assert night.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        assert state(run) == "running"
        night.send_signal(signal.SIGSTOP)
        wait_until_stopped(night.pid)
        assert state(run) == "slow"
        night.send_signal(signal.SIGCONT)
    finally:
        night.kill()
        night.wait()
    found = status.look_at(Run(run))
    assert (
        found["state"] == "died"
        and found["next_command"]
        == "python3 scripts/overnight.py --tag t --profile tiny --experiments 1"
    )


def test_why_a_language_model_could_not_be_asked_is_on_the_screen(tmp_path):
    entries = journals.make_journal(4)
    for entry in entries:
        if entry["event"] == "proposed" and entry["experiment"] in (2, 3):
            entry["llm_failed"] = "it wrote 16,000 tokens and no answer:\nraise max_output_tokens"
    settings = json.loads((ROOT / "results" / "sample" / "run.json").read_text())
    folder = journals.write_run(tmp_path, entries, settings | {"tag": "nov23"})
    screen = status.status_screen(Run(folder))
    assert "2 times it could not be asked" in screen
    assert "raise max_output_tokens" in screen and "since" not in screen
    assert "raise max_output_tokens" in status.look_at(Run(folder))["llm_failed"]
    said = report.morning_report(entries, settings)
    assert "raise max_output_tokens" in said


def test_a_language_model_that_answers_again_is_said_to():
    def proposed(number, **more):
        return {"event": "proposed", "experiment": number, "proposer": "tpe", "title": "x"} | more

    failed = {"llm_failed": "unreachable: nobody answers"}
    entries = [proposed(1, **failed), proposed(2), proposed(3, **failed)]
    entries += [proposed(4, proposer="llm"), proposed(5), proposed(6, proposer="llm")]
    words = costs.failure_words(entries)
    assert words.startswith("2 times it could not be asked")
    assert "it has answered 2 times since; the last time: unreachable" in words
    assert costs.failure_words(entries[3:]) == ""


def test_the_terminal_says_once_why_a_language_model_could_not_be_asked():
    def proposed(number, why):
        entry = {"event": "proposed", "experiment": number, "title": "x", "category": "tune"}
        return entry | {"llm_failed": why, "proposer": "tpe" if why else "llm"}

    gone, refused = "unreachable: nobody answers", "unauthorised: the key is refused"
    entries = [proposed(n, why) for n, why in enumerate((gone, gone, refused, "", refused), 1)]
    lines = [line_of_entry(entry, entries[:n]) for n, entry in enumerate(entries)]
    assert [gone in line for line in lines] == [True, False, False, False, False]
    assert "could not, as before" in lines[1]
    assert [refused in line for line in lines] == [False, False, True, False, True]


def test_a_look_at_no_run_is_one_sentence_and_a_closed_stdout_is_no_error(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "results.tsv").touch()
    for look in (["--status"], ["--check"], ["--report"], ["--stop"], ["--accept", "3"]):
        assert main(["overnight", *look, "--tag", "nope", "--results", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"there is no run nope in {tmp_path} (there: there)" in said
    assert os.listdir(tmp_path) == ["there"]
    command = shlex.join(
        [sys.executable, "-m", "harness", "overnight", "--status", "--tag", "sample"]
    )
    done = subprocess.run(
        f"{command} >&-", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
