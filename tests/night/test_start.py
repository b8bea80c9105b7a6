"""How a run begins and what it holds to: settings, profiles, overrides, tags.

Each refusal names both sides and what to do.
"""

import argparse
import dataclasses
import errno
import fcntl
import os
import re
import shlex
import shutil

import pytest
from checkout import ROOT, TEMPLATE, git

from harness.__main__ import run_folder
from harness.ground.errors import (
    ConstantsError,
    LabError,
    LoopError,
    ParameterError,
    ProfileError,
    SettingsError,
)
from harness.lab import start
from harness.lab.loop import Lab, open_lab
from harness.night import wishes
from harness.night.driver import hold_and_drive
from harness.night.wishes import Wishes
from harness.options import add_overnight, make_parser
from harness.run import profiles, settings
from harness.run.settings import RESERVED
from harness.search.constants import constant_values, rewrite_constants


def test_another_harness_data_device_or_torch_is_refused_and_both_are_named(lab, monkeypatch):
    lab.release()
    monkeypatch.setattr(settings, "harness_hash", lambda: "f" * 64)
    with pytest.raises(SettingsError, match="began with harness .* here is ffffffffffff"):
        Lab(lab.folder)
    monkeypatch.undo()
    text = (lab.folder / "run.json").read_text()
    for old, new, words in (
        (lab.settings.versions["torch"], "1.0.0", "began with torch 1.0.0"),
        (lab.settings.data_hash, "0" * 64, "began with data"),
        (lab.settings.device["name"], "another CPU", "began with device cpu \\(another CPU\\)"),
    ):
        (lab.folder / "run.json").write_text(text.replace(old, new))
        with pytest.raises(SettingsError, match=words):
            Lab(lab.folder)


def test_the_precision_a_run_began_with_stays_whatever_a_self_test_says_later(lab, monkeypatch):
    lab.release()
    other = "float32" if lab.settings.dtype == "bfloat16" else "bfloat16"
    monkeypatch.setattr(
        settings, "detect_device", lambda kind: lab.settings.device | {"dtype": other}
    )
    assert Lab(lab.folder).settings.dtype == lab.settings.dtype != other


def test_a_profile_that_was_never_run_on_its_hardware_is_labelled_wherever_it_is_named(lab):
    for name in profiles.PROFILES:
        named = dataclasses.replace(
            lab.settings, profile=dataclasses.asdict(profiles.PROFILES[name])
        )
        words = settings.environment_words(named)
        assert words.startswith(f"profile {name}") and ("never run" in words) is (
            profiles.PROFILES[name].tested == profiles.NEVER_RUN
        )


def test_the_harness_hash_ignores_copies_that_jupyterlab_makes(tmp_path):
    shutil.copytree(
        ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    before = settings.harness_hash(tmp_path / "harness")
    copies = tmp_path / "harness" / "lab" / ".ipynb_checkpoints"
    copies.mkdir()
    (copies / "loop-checkpoint.py").write_text("x = 1\n")
    assert settings.harness_hash(tmp_path / "harness") == before == settings.harness_hash()
    (tmp_path / "harness" / "lab" / "loop.py").write_text("x = 1\n")
    assert settings.harness_hash(tmp_path / "harness") != before


def test_the_command_that_continues_a_night_says_all_that_was_asked_for():
    asked = {
        "tag": "t",
        "profile": "cpu",
        "experiments": 9,
        "results": "/r s",
        "overrides": "DEPTH=3",
        "hours": 2.0,
    }
    words = shlex.split(wishes.Wishes(**asked).command_line)
    assert words[:2] == ["python3", "scripts/overnight.py"]
    parser = argparse.ArgumentParser()
    add_overnight(parser.add_subparsers(dest="command"))
    options = parser.parse_args(["overnight", *words[2:]])
    found = {
        name: getattr(options, name)
        for name in ("tag", "profile", "experiments", "results", "hours")
    }
    assert found | {"overrides": " ".join(options.set)} == asked


def test_what_is_missing_is_said_with_what_to_run(tmp_path, cache, monkeypatch):
    with pytest.raises(LoopError, match="01_prepare"):
        open_lab("", str(tmp_path))
    with pytest.raises(SettingsError, match="02_baseline"):
        open_lab("nov1", str(tmp_path))
    with pytest.raises(Exception, match="01_prepare"):
        start.start_run(tmp_path / "nov1", "tiny", cache=str(tmp_path / "no cache"))
    with pytest.raises(ParameterError, match="letters, digits"):
        start.run_folder("a tag/with slashes", str(tmp_path))


def test_a_tag_of_an_earlier_run_or_another_profile_is_refused(lab, cache, tmp_path):
    lab.release()
    with pytest.raises(SettingsError, match="has profile tiny, asked for demo"):
        start.start_run(lab.folder, "demo", cache=str(cache))
    with pytest.raises(SettingsError, match="refs/heads/autoresearch/t from an earlier run"):
        start.start_run(tmp_path / "elsewhere" / "t", "tiny", cache=str(cache))


def test_overrides_reach_the_run_and_are_kept_to(lab, cache, tmp_path):
    lab.release()
    profile, _ = start.find_profile(
        "tiny", "cpu", overrides="budget_seconds=2, DEPTH=3 vocab_size=300"
    )
    assert (
        profile.budget_seconds,
        profile.vocab_size,
        profile.constants["DEPTH"],
        profile.constants["N_HEAD"],
    ) == (2.0, 300, 3, 1)
    with pytest.raises(SettingsError, match="vocab_size 256, asked for 300"):
        start.start_run(lab.folder, "tiny", cache=str(cache), overrides="vocab_size=300")
    with pytest.raises(SettingsError, match="DEPTH 2, asked for 3"):
        start.start_run(lab.folder, "tiny", cache=str(cache), overrides="DEPTH=3")
    for wrong, words in (
        ("vocab=3", "Did you mean vocab_size"),
        ("vocab_size=many", "positive int"),
        ("vocab_size", "NAME=VALUE"),
    ):
        with pytest.raises(ProfileError, match=words):
            start.find_profile("tiny", "cpu", overrides=wrong)
    with pytest.raises(ConstantsError, match="DEPTH"):
        start.find_profile("tiny", "cpu", overrides="DEPHT=3")


def test_profiles_fit_the_cards_they_are_chosen_for():
    from harness.search.limits import Limits, estimate_memory_mb

    def card(memory_mb: int, tflops: float, copy_gb_per_s: float) -> dict:
        return {
            "kind": "cuda",
            "memory_mb": memory_mb,
            "tflops": tflops,
            "copy_gb_per_s": copy_gb_per_s,
        }

    chosen = {
        (80_000, 600, 2600): "large",
        (45_000, 300, 750): "medium",
        (80_000, 13, 2600): "small",
        (123_904, 95, 220): "small",
    }
    assert {facts: profiles.choose_profile("auto", card(*facts)).name for facts in chosen} == chosen
    # Nothing was measured.
    assert profiles.choose_profile("auto", {"kind": "cuda", "memory_mb": 80_000}).name == "small"
    apple = {"kind": "mps", "backend": "mps", "memory_mb": 90_000, "dtype": "float32"}
    assert profiles.choose_profile("auto", apple).name == "small"
    template = TEMPLATE
    least = {name: profiles.PROFILES[name].needs["memory_mb"] for name in ("large", "medium")}
    for name, memory in (*least.items(), ("small", 8_000), ("cpu", 4_000)):
        profile = profiles.PROFILES[name]
        values = constant_values(rewrite_constants(template, profile.constants, clamp=False))
        limits = Limits(profile.max_seq_len, profile.vocab_size + 1)
        assert estimate_memory_mb(values, limits) < memory, name
        if name == "small":
            # What a smaller card comes down to, row by row.
            assert estimate_memory_mb(values, limits, 1) < 2_000


def test_the_shipped_noise_holds_only_for_what_it_was_measured_on():
    assert profiles.override(profiles.PROFILES["demo"], {"baseline_seeds": 3}).prior
    for change in ({"budget_seconds": 30}, {"DEPTH": 3}, {"vocab_size": 1024}):
        assert profiles.override(profiles.PROFILES["demo"], change).prior is None


def test_where_the_shipped_noise_does_not_hold_four_seeds_measure_it():
    demo = profiles.PROFILES["demo"]
    assert (profiles.override(demo, {}).prior, demo.baseline_seeds) == (demo.prior, 2)
    changed = profiles.override(demo, {"DEPTH": 3})
    assert (changed.prior, changed.baseline_seeds) == (None, 4)
    assert profiles.override(demo, {"DEPTH": 3, "baseline_seeds": 3}).baseline_seeds == 3
    on_a_card = start.for_this_device(demo, {"kind": "cuda"})
    assert (on_a_card.prior, on_a_card.baseline_seeds) == (None, 4)


def test_a_cpu_counts_work_and_other_devices_and_clocks_wall_time(monkeypatch):
    demo, cpu = profiles.PROFILES["demo"], {"kind": "cpu"}
    assert settings.choose_core_rate(demo, cpu) == settings.CORE_RATE
    assert settings.choose_core_rate(demo, {"kind": "mps"}) == 0.0
    stepped = profiles.override(demo, {"clock_step_seconds": 0.5})
    assert settings.choose_core_rate(stepped, cpu) == 0.0
    monkeypatch.setattr(
        settings, "why_wall_time", lambda: "/proc/stat cannot be read: Permission denied"
    )
    assert settings.choose_core_rate(demo, cpu) == 0.0


def test_a_run_does_not_go_on_with_other_threads_or_without_its_clock(lab, monkeypatch):
    settings.check_same_cores(lab.settings, {"kind": "cpu"})
    monkeypatch.setattr(settings, "worker_threads", lambda device: lab.settings.threads + 1)
    with pytest.raises(SettingsError, match="began with threads ."):
        settings.check_same_cores(lab.settings, {"kind": "cpu"})
    monkeypatch.setattr(settings, "worker_threads", lambda device: lab.settings.threads)
    monkeypatch.setattr(settings, "why_wall_time", lambda: "gone")
    counted = dataclasses.replace(lab.settings, core_rate=0.9)
    with pytest.raises(SettingsError, match="began with clock CPU time, here is wall time"):
        settings.check_same_cores(counted, {"kind": "cpu"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tag": "benchmarks"}, "the folder of the project's own measurements"),
        ({"tag": "Sample"}, "comes with the project"),
        ({"tag": "a/b"}, "cannot name a folder"),
        ({"profile": "nosuch"}, "no profile 'nosuch'"),
        ({"overrides": "DEPHT=3"}, "did you mean DEPTH"),
        ({"overrides": "DEPTH=deep"}, "DEPTH must be"),
        ({"source": "nosuch:1"}, "unknown source"),
    ],
)
def test_what_can_be_no_run_is_refused_before_anything_is_made(tmp_path, asked, said):
    with pytest.raises(LabError, match=re.escape(said)):
        hold_and_drive(Wishes(**{"tag": "x", "results": str(tmp_path)} | asked))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_named(tmp_path, monkeypatch, number):
    """As NFS without its lock daemon, and some cloud drives, answer."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SettingsError, match="has no locks for files .* with --results"):
        hold_and_drive(Wishes(tag="x", results=str(tmp_path)))


def test_every_folder_of_results_that_is_committed_is_no_tag():
    committed = {name.split("/")[1] for name in git(ROOT, "ls-files", "results").split("\n")}
    assert committed and committed <= RESERVED.keys()
    for tag in ("..", "by-hand", "a/b"):  # a look at what can be no run says so too
        with pytest.raises(ParameterError):
            run_folder(make_parser().parse_args(["overnight", "--status", "--tag", tag]))
