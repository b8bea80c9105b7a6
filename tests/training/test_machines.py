"""What the user of each simulated machine reads before a night; and that a night on the wrong
device is not begun.
"""

from types import SimpleNamespace

import pytest
from machines import MACHINES, simulated, told

from harness.ground.errors import DeviceRefused
from harness.lab import executor as executor_module
from harness.lab.executor import Executor, clock_name
from harness.night.driver import Driver
from harness.night.wishes import Wishes
from harness.run.locks import OnTheClock
from harness.run.profiles import PROFILES
from harness.sandbox import device
from harness.sandbox.wall import VARIABLE, Wall, find_wall
from harness.training import trial

BY_NAME = {machine.what: machine for machine in MACHINES}
REFUSED = [machine for machine in MACHINES if told(machine)[0].startswith("cannot go on")]


@pytest.mark.parametrize("machine", REFUSED, ids=lambda machine: machine.what)
def test_a_card_that_cannot_be_used_stops_a_night_with_one_sentence_on_what_to_do(machine):
    [words] = told(machine)
    assert "\n" not in words and any(
        name in words for name in ("--device cpu", "--set compile=False", VARIABLE)
    )
    if machine.sees is None:
        assert told(machine, device="cpu") == ["goes on with profile cpu, eager"]


def settle(machine, folder, **asked):
    """The beginning of a night: what it says, and the device that it goes on with."""
    said, wishes = [], Wishes("t", results=str(folder), **asked)
    night = SimpleNamespace(run=SimpleNamespace(is_there=False), wishes=wishes, say=said.append)
    night.say_all = lambda words: Driver.say_all(night, words)
    with simulated(machine, folder):
        Driver.find_device(night)
    return said, wishes.device


@pytest.mark.parametrize(
    "machine",
    [each for each in REFUSED if "compile" not in told(each)[0]],
    ids=lambda machine: machine.what,
)
def test_a_demo_goes_on_with_the_cpu_and_says_so(machine, tmp_path):
    said, device = settle(machine, tmp_path / "demo", profile="demo")
    assert device == "cpu" and said[0].startswith(
        "the demo goes on with the CPU, as a real night would not: "
    )
    assert told(machine)[0].removeprefix("cannot go on: ") in said[0]
    with pytest.raises(DeviceRefused):
        settle(machine, tmp_path / "night")
    with pytest.raises(DeviceRefused):
        settle(machine, tmp_path / "asked", profile="demo", device="cuda")


def test_a_large_card_without_a_compiler_goes_on_when_it_is_asked_to():
    words = told(BY_NAME["large card, no compiler"], overrides="compile=False")
    assert words[-1] == "goes on with profile large, eager" and not any(
        "compiled" in each for each in words
    )


def test_the_profile_follows_the_measured_speed_and_not_the_memory_alone():
    chosen = {
        what: told(BY_NAME[what])[-1]
        for what in (
            "unified memory (DGX Spark)",
            "an H200, all well",
            "a 24 GB card",
            "AMD, ROCm's build",
        )
    }
    assert [words.split()[4].rstrip(",") for words in chosen.values()] == [
        "small",
        "large",
        "medium",
        "large",
    ]
    for name in ("large", "medium"):
        assert set(PROFILES[name].needs) == {"memory_mb", "tflops", "copy_gb_per_s"}


def test_what_is_lacking_for_compiling_is_looked_for_where_this_machine_would_have_it(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert "apt install gcc" in trial.lacking_for_compiling("cuda")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "apt install g++" in trial.lacking_for_compiling("cpu")


def test_without_the_devices_nodes_behind_it_there_is_no_wall(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert (
        find_wall(unfit="no card there").kind == "limits"
        and find_wall(unfit="no card there").why == "no card there"
    )
    monkeypatch.setenv(VARIABLE, "bubblewrap")
    with pytest.raises(Exception, match="asks for bubblewrap.*no card there"):
        find_wall(unfit="no card there")


def test_two_cards_of_one_name_do_not_share_a_clock(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = SimpleNamespace(device={"kind": "cuda", "name": "NVIDIA L4"})
    names = []
    for uuid in ("0a1b", "2c3d"):
        monkeypatch.setattr(
            executor_module,
            "detect_device",
            lambda kind, uuid=uuid: settings.device | {"uuid": uuid},
        )
        names.append(clock_name(Executor._device_now(SimpleNamespace(settings=settings))))
    assert names == ["cuda NVIDIA L4 0a1b", "cuda NVIDIA L4 2c3d"]
    with (
        OnTheClock(names[0], tmp_path / "a") as first,
        OnTheClock(names[1], tmp_path / "b") as second,
    ):
        assert first.folder != second.folder and first.others == second.others == []


def test_a_card_that_is_lost_in_mid_run_is_no_fault_of_the_idea(tmp_path, monkeypatch):
    settings = SimpleNamespace(device={"kind": "cuda", "name": "NVIDIA H200"})
    for name in (
        "card lost, and nvidia-smi still lists it",
        "the driver is loaded and nvidia-smi fails (Xid)",
    ):
        with simulated(BY_NAME[name], tmp_path / name):
            words = Executor._why_device_is_gone(SimpleNamespace(settings=settings))
        assert words.startswith("the card is gone: ") and "a restart of the machine" in words
    with simulated(BY_NAME["an H200, all well"], tmp_path / "well"):
        assert Executor._why_device_is_gone(SimpleNamespace(settings=settings)) == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_wall_is_tried_with_a_real_process_and_a_real_compiler(bubblewrap, monkeypatch):
    monkeypatch.delenv(device.DEVICE_VARIABLE, raising=False)
    assert device.try_device("cpu", compiles=True) == {"compile_error": "", "wall_error": ""}

    def unasked(*arguments):
        raise AssertionError("it was tried again")

    monkeypatch.setattr(device, "ask_device", unasked)
    # Known now, also to what is started from here.
    assert device.try_device("cpu", compiles=True)["wall_error"] == ""


def test_what_works_outside_alone_is_told_apart_from_what_works_nowhere(monkeypatch):
    wall = Wall("bubblewrap", "a wall", "", "bwrap")
    monkeypatch.setattr(device, "find_wall", lambda: wall)
    for inside, outside, found in (
        ("", "", {"compile_error": "", "wall_error": ""}),
        (
            "no cc",
            "",
            {
                "compile_error": "",
                "wall_error": "cuda works outside of bubblewrap and not behind it: no cc",
            },
        ),
        ("no cc", "no cc at all", {"compile_error": "no cc at all", "wall_error": ""}),
    ):
        answers = {True: inside, False: outside}
        monkeypatch.setattr(
            device,
            "ask_device",
            lambda kind, compiles, behind, answers=answers: {
                "compile_error": answers[behind is wall]
            },
        )
        monkeypatch.delenv(device.DEVICE_VARIABLE, raising=False)
        assert device.try_device("cuda", compiles=True) == found
