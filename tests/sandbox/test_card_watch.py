"""What a card does meanwhile: a stand-in for nvidia-smi, real processes, and what comes of it."""

import errno
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from checkout import ROOT
from living import alive_with
from waiting import wait_until

from harness.ground.files import write_json_atomic
from harness.run.pace import words_of_card
from harness.sandbox import card_watch
from harness.sandbox.card_watch import (
    CardWatch,
    lines_so_far,
    read_others,
    read_samples,
    why_disturbed,
)
from harness.show import status

# Says what the files beside it hold, over and over where it is asked to watch.
SMI = f"""#!{sys.executable}
import pathlib, sys, time
here = pathlib.Path(__file__).parent
arguments = " ".join(sys.argv[1:])
assert "--id=GPU-0a1b" in sys.argv
if "clocks_event_reasons" in arguments and (here / "old driver").exists():
    sys.exit("Field clocks_event_reasons.active is not a valid field to query.")
name = "pmon" if "pmon" in arguments else "samples"
while True:
    print((here / name).read_text(), end="", flush=True)
    if "--loop-ms" not in arguments and name == "samples":
        break
    time.sleep(0.02)
"""
QUIET, HOT = "0x0000000000000004", "0x0000000000000024"
SAMPLE = "1755, 62, 650.5, 31000, {}\n"
HEAD = "# gpu         pid   type     sm    mem    enc    dec    command\n"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """The folder of a stand-in for nvidia-smi that is first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(SMI)
    (folder / "nvidia-smi").chmod(0o755)
    (folder / "samples").write_text(SAMPLE.format(QUIET))
    (folder / "pmon").write_text(HEAD)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def training(tmp_path):
    """A process that stands for a training, and the folder where it is noted."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write_json_atomic(tmp_path / "process.json", {"pid": process.pid})
    yield process
    process.kill()
    process.wait()


def watched(folder) -> dict | None:
    """The facts of a training that is watched for a moment."""
    with CardWatch("0a1b", folder) as watch:
        watch.hear({"event": "ready"})
        wait_until(lambda: all(len(card_watch.lines_so_far(f)) > 5 for f in watch._said))
        watchers = alive_with("nvidia-smi", mine=True)
        watch.hear({"event": "stop"})
    assert len(watchers) == 2 and not any(map(psutil.Process.is_running, watchers))
    return watch.facts


@pytest.mark.parametrize("driver", ["new driver", "old driver"])
def test_clock_heat_energy_and_memory_are_noted(smi, training, tmp_path, driver):
    (smi / driver).touch()
    (smi / "pmon").write_text(f"{HEAD}    0  {training.pid}     C     97     40      -      -  x\n")
    facts = watched(tmp_path)
    expected = {"sm_clock_mhz": 1755.0, "temperature_c": 62.0, "memory_mb": 31000.0}
    expected |= {"slowed_share": 0.0, "others_share": 0.0}
    assert facts.items() >= expected.items()
    assert 0 <= facts["own_cores_share"] < card_watch.OWN_CORES
    assert facts["energy_joules"] == pytest.approx(650.5 * facts["seconds"], rel=0.5)
    assert why_disturbed(facts, None) == ""


def test_what_a_training_starts_on_its_clock_is_no_other(smi, tmp_path):
    begins = "import subprocess, sys; input(); "
    begins += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    training = psutil.Popen([sys.executable, "-c", begins], stdin=subprocess.PIPE)
    write_json_atomic(tmp_path / "process.json", {"pid": training.pid})
    with CardWatch("0a1b", tmp_path) as watch:
        watch.hear({"event": "ready"})
        training.stdin.write(b"\n")
        training.stdin.flush()
        wait_until(training.children)
        (child,) = training.children()
        lines = [
            f"    0  {pid}     C     50     40      -      -  x\n"
            for pid in (training.pid, child.pid)
        ]
        (tmp_path / "new").write_text("".join([HEAD, *lines]))
        (tmp_path / "new").replace(smi / "pmon")
        wait_until(lambda: any(str(child.pid) in line for line in lines_so_far(watch._said[1])))
        wait_until(lambda: lines_so_far(watch._said[0]))
        watch.hear({"event": "stop"})
    for process in (child, training):
        process.kill()
    training.wait()
    assert watch.facts["others_share"] == 0.0


def test_without_memory_for_the_tool_nothing_is_known(smi, training, tmp_path, monkeypatch):
    with CardWatch("0a1b", tmp_path) as watch:
        full = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        started = iter([subprocess.Popen, None])

        def start(*arguments, **options):
            if (begin := next(started)) is None:
                raise full
            return begin(*arguments, **options)

        monkeypatch.setattr(card_watch.subprocess, "Popen", start)
        watch.hear({"event": "ready"})
        watch.hear({"event": "stop"})
    assert watch.facts is None and not alive_with("nvidia-smi", mine=True)


def test_without_the_tool_or_a_card_nothing_is_known_and_nothing_started(smi, training, tmp_path):
    for uuid, there in (("", True), ("0a1b", False)):
        if not there:
            (smi / "samples").write_text("")
        with CardWatch(uuid, tmp_path) as watch:
            watch.hear({"event": "ready"})
            assert not alive_with("nvidia-smi", mine=True)
            watch.hear({"event": "stop"})
        assert watch.facts is None and why_disturbed(None, None) == ""


def test_on_amd_nothing_is_watched_and_the_docs_and_the_status_say_so(
    smi, training, tmp_path, monkeypatch
):
    """Also where amdsmi is installed, and where an NVIDIA card is in the same machine."""
    monkeypatch.setitem(sys.modules, "amdsmi", SimpleNamespace())
    with CardWatch("another-vendors", tmp_path) as watch:
        watch.hear({"event": "ready"})
        watch.hear({"event": "stop"})
    assert watch.facts is None and why_disturbed(watch.facts, {"slowed_share": 0.0}) == ""
    assert words_of_card([{"card": watch.facts}]) == ""
    unseen = "no training was watched"
    (row,) = status.card_rows({"card": "AMD Instinct MI300X", "card_use": None})
    assert unseen in row[1]
    page = " ".join((ROOT / "docs" / "data-and-hardware.md").read_text().split())
    assert "On AMD nothing is watched" in page and f"`--status` says that {unseen}" in page


def test_only_slowdown_by_heat_and_hardware_counts():
    lines = [SAMPLE.format(QUIET), SAMPLE.format(HOT), "1755, [N/A], [N/A], 31000, 0x88", "175"]
    assert [sample[-1] for sample in read_samples([line.strip() for line in lines])] == [0, 1, 1]
    assert read_samples(["[N/A], 62, 1.0, 5, [N/A]", ""]) == []


@pytest.mark.parametrize(
    "others, share",
    [([], 0.0), (["    0   77   G   -   -   -   -  desktop"], 0.0), ([" 0 78 C 30 9 - - y"], 0.3)],
)
def test_others_are_those_that_the_training_did_not_start(others, share):
    lines = [HEAD, "    0   7   C   60   40   -   -   x", *others] * 3
    assert read_others(lines, {7, 8}) == share
    assert read_others(lines, {5}) is None  # numbers of another namespace say nothing


def test_a_line_that_is_not_whole_yet_is_none(tmp_path):
    said = tmp_path / "said"
    said.write_text(f"{HEAD}    0   7   C   60   40   -   -   x\n    0   781   C   9")
    with said.open("rb") as file:
        lines = lines_so_far(file)
        assert len(lines) == 2 and read_others(lines, {7}) == 0.0
        assert file.tell() == 0
    said.write_text("    0   781")
    with said.open("rb") as file:
        assert lines_so_far(file) == []
    assert read_others([HEAD, "    0   7   C   60   40   -   -   x", "    0   781   C"], {7}) == 0.0


CALM = {"seconds": 300.0, "slowed_share": 0.04, "others_share": None, "waited_share": 0.01}


def test_a_training_is_disturbed_by_each_of_three_and_a_short_one_by_none():
    assert why_disturbed(CALM, CALM) == ""
    for name in ("slowed_share", "others_share", "waited_share"):
        assert "30%" in why_disturbed(CALM | {name: 0.3}, CALM)
        assert why_disturbed(CALM | {name: 0.3, "seconds": 20.0}, CALM) == ""


def test_waiting_for_cores_that_it_keeps_busy_itself_disturbs_no_training(training):
    waits = CALM | {"waited_share": 0.3}
    assert "30%" in why_disturbed(waits | {"own_cores_share": 0.1}, CALM)
    assert why_disturbed(waits | {"own_cores_share": 0.9}, CALM) == ""
    before = card_watch.cpu_seconds({os.getpid(), training.pid})
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert card_watch.cpu_seconds({os.getpid(), training.pid, 2**22}) >= before + 0.04


@pytest.mark.parametrize("name", ["slowed_share", "others_share", "waited_share"])
def test_a_card_that_is_always_hot_or_used_still_has_a_night(name):
    usual = CALM | {name: 0.8}
    assert why_disturbed(usual, None) == why_disturbed(usual, usual) == ""
    assert why_disturbed(CALM, usual) == ""
    assert "90%" in why_disturbed(usual | {name: 0.9}, usual)


def test_time_without_a_core_is_counted(training):
    before = card_watch.waited_seconds({training.pid, os.getpid()})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            pass
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert card_watch.waited_seconds({training.pid, os.getpid()}) > before
