"""Trainings by hand, as a person types them: what is trained, refused, and how one is stopped."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from checkout import ROOT, TEMPLATE, copy_checkout, environment

from harness.__main__ import main
from harness.data.hub import ClimbMix
from harness.data.source import RemoteFile
from harness.ground.errors import ByHandError, DataError
from harness.night import by_hand
from harness.run.profiles import PROFILES
from harness.search.constants import constant_values, rewrite_constants
from harness.search.gate import check_candidate, check_contract

UPSTREAM = """
import torch
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader
DEPTH = 9
print("---")
"""


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """From arguments of `train` to what stderr says, with no device asked and no folder made."""
    monkeypatch.setattr(
        by_hand, "find_profile", lambda *_, **__: pytest.fail("the device was asked")
    )
    monkeypatch.setattr(by_hand, "results_folder", lambda: tmp_path / "results")

    def refused(*arguments: str) -> str:
        assert main(["train", *map(str, arguments)]) == 1
        assert not (tmp_path / "results").exists()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    return refused


def test_what_is_no_file_of_python_is_refused_before_the_device_is_asked(tmp_path, refused):
    file = tmp_path / "idea.py"
    assert f"{file} cannot be read: No such file" in refused(file)
    assert "is no file" in refused(tmp_path)
    for content, words in (
        (b"\xff\xfe", "not UTF-8"),
        (b"x = (", "not valid Python at line 1"),
        (b"\0", "not valid Python"),
    ):
        file.write_bytes(content)
        assert words in refused(file)


def test_an_upstream_train_py_is_told_what_it_is_and_what_to_do(tmp_path, refused):
    file = tmp_path / "train.py"
    file.write_text(UPSTREAM)
    words = refused(file)
    assert (
        "karpathy/autoresearch" in words
        and "harness.training.session" in words
        and "train_template.py" in words
    )
    file.write_text(TEMPLATE.replace("def build_model", "def make_model"))
    assert "must define build_model" in (words := refused(file)) and "karpathy" not in words


def test_a_constant_that_was_asked_for_must_be_there(tmp_path, refused):
    assert "no constant is called DEPHT: did you mean DEPTH" in refused(
        ROOT / "train_template.py", "--set", "DEPHT=3"
    )
    assert "DEPTH must be a whole number" in refused(
        ROOT / "train_template.py", "--set", "DEPTH=1.5"
    )
    assert "is not NAME=VALUE" in refused(ROOT / "train_template.py", "--set", "DEPTH")
    bare = tmp_path / "bare.py"
    bare.write_text(
        "\n".join(line for line in TEMPLATE.splitlines() if not line.startswith("# ==="))
    )
    assert "constants" in refused(bare, "--set", "DEPTH=3")


def test_the_contract_is_what_training_needs_and_no_policy():
    assert check_contract(TEMPLATE) == []
    unusual = TEMPLATE.replace("import math\n", "import math\nimport os\n").replace(
        "# === constants ===", ""
    )
    assert check_contract(unusual) == [] and len(check_candidate(unusual)) == 2
    assert (
        "karpathy/autoresearch" in check_contract(UPSTREAM)[0]
        and check_candidate(UPSTREAM)[0] == check_contract(UPSTREAM)[0]
    )
    assert len(check_contract("x = (")) == 1


def test_the_profiles_constants_are_set_as_in_a_baseline_but_for_those_asked_for(capsys):
    profile = PROFILES["tiny"]
    assert by_hand.under_profile(TEMPLATE, profile, {}) == rewrite_constants(
        TEMPLATE, profile.constants, clamp=False
    )
    asked = rewrite_constants(TEMPLATE, {"DEPTH": 3})
    values = constant_values(by_hand.under_profile(asked, profile, {"DEPTH": 3}))
    assert values == constant_values(TEMPLATE) | profile.constants | {"DEPTH": 3}
    assert capsys.readouterr().out == ""
    without = "\n".join(line for line in TEMPLATE.splitlines() if not line.startswith("NGRAM_ROWS"))
    assert constant_values(by_hand.under_profile(without, profile, {}))["DEPTH"] == 2
    assert "no such constants: NGRAM_ROWS of" in capsys.readouterr().out
    assert by_hand.under_profile("x = 1\n", profile, {}) == "x = 1\n"
    assert "DEPTH, N_HEAD" in capsys.readouterr().out


def test_a_training_by_hand_keeps_no_compiled_code(tmp_path, monkeypatch):
    class Trains:
        def __init__(self, *arguments, results) -> None:
            self.settings, self.compiled = None, tmp_path / "compiled"
            self.limits = {}

        def request(self, train_py, folder, seed, **limits):
            self.limits = {"compile_cache": str(self.compiled)} | limits
            return self.limits

        def train(self, request, listen):
            assert request["compile_cache"] is None  # its folder has a name of its own each time
            return {"status": "crash", "cause": "enough"}

    monkeypatch.setattr(by_hand, "Executor", Trains)
    settings = SimpleNamespace(run_seed=1)
    with pytest.raises(ByHandError, match="enough"):
        by_hand.train_and_score(settings, None, tmp_path / "by-hand" / "20261130-101112")


def test_what_must_be_downloaded_is_not_begun(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    files = [RemoteFile("a", 300_000_000, "", have=100_000_000), RemoteFile("b", 100_000_000, "")]
    monkeypatch.setattr(ClimbMix, "plan_download", lambda self, workers: files)
    with pytest.raises(
        DataError, match="300 MB .* -m harness.data.prepare --source climbmix:4 --vocab-size 4096"
    ):
        by_hand.find_or_prepare(PROFILES["small"])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, cache):
    """A checkout where `auto` is tiny, since a file that is started by itself takes no options."""
    folder = copy_checkout(tmp_path_factory.mktemp("by_hand") / "checkout")
    profiles = folder / "harness" / "run" / "profiles.py"
    text = profiles.read_text()
    assert 'name = "cpu" if device' in text
    profiles.write_text(text.replace('name = "cpu" if device', 'name = "tiny" if device'))
    return folder


def begin(checkout, cache, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment(checkout, cache),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(checkout, cache, *arguments: str) -> str:
    """Run a command to its end; return what it printed."""
    process = begin(checkout, cache, *arguments)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def folder_of(checkout):
    """Of the newest training by hand."""
    return max((checkout / "results" / "by-hand").iterdir())


@pytest.mark.slow
def test_a_file_that_is_started_by_itself_prepares_trains_and_scores(checkout, tmp_path):
    out = finish(checkout, tmp_path / "cache", "train_template.py")
    assert "preparing python-stdlib" in out and out.index("preparing") < out.index(
        "profile tiny: training"
    )
    folder = folder_of(checkout)
    lines = out.splitlines()
    block = lines[lines.index("---") :]
    fields = dict(line.split(":", 1) for line in block[1:])
    assert (
        2 < float(fields["val_bpb"]) < 6
        and int(fields["depth"]) == 2
        and float(fields["num_params_M"]) == 0.1
    )
    assert fields["log"].strip() == str(folder / "run" / "run.log")
    assert (folder / "run" / "run.log").read_text().endswith("\n".join(block[:-2]) + "\n")
    assert fields["weights"].strip() == str(folder / "run" / "weights.safetensors")
    assert os.path.getsize(fields["weights"].strip()) > 100_000
    assert (folder / "original.py").read_text() == TEMPLATE
    profile = PROFILES["tiny"].constants
    assert (folder / "train.py").read_text() == rewrite_constants(TEMPLATE, profile, clamp=False)


@pytest.mark.slow
def test_a_file_of_ones_own_is_trained_with_what_was_set_and_the_gates_policy_is_said(
    checkout, cache
):
    own = TEMPLATE.replace("import math\n", "import math\nimport time\n")
    (checkout / "idea.py").write_text(own)
    arguments = ("--profile", "tiny", "--set", "DEPTH=3", "--set", "budget_seconds=2")
    out = finish(checkout, cache, "-m", "harness", "train", "idea.py", *arguments)
    assert "note: in a run the gate would refuse this file: line 17 imports time" in out
    assert "training idea.py for 2 s" in out and "\ndepth:            3\n" in out
    values = constant_values((folder_of(checkout) / "train.py").read_text())
    assert values == constant_values(TEMPLATE) | PROFILES["tiny"].constants | {"DEPTH": 3}


@pytest.mark.slow
def test_ctrl_c_is_a_line_and_leaves_no_process(checkout, cache):
    arguments = (
        *("-m", "harness", "train", "train_template.py"),
        *("--profile", "tiny", "--set", "budget_seconds=60"),
    )
    process = begin(checkout, cache, *arguments)
    while "  step " not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "stopped"
    assert "val_bpb" not in out
    words = (" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    assert not [line for line in words if str(checkout) in line]
