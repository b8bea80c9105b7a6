"""What a night's --notify command is given, and that nothing of it can harm the night."""

import json
import shutil

import pytest
from checkout import ROOT

from harness.night import notify as notify_module
from harness.night.notify import notify
from harness.run.run import Run


@pytest.fixture
def run(tmp_path):
    return Run(shutil.copytree(ROOT / "results" / "sample", tmp_path / "results" / "sample"))


def test_the_command_gets_the_status_on_its_standard_input(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-the-environment")
    monkeypatch.setenv("AUTORESEARCH_KEY_FILE", "/planted/key/file")
    said = []
    notify(f"cat > '{tmp_path}/told'; env > '{tmp_path}/env'", run, "ended", "done", said.append)
    told = json.loads((tmp_path / "told").read_text())
    assert told["event"] == "ended" and told["words"] == "done"
    assert told["tag"] == "sample" and told["best_experiment"] == 4 and not said
    assert "planted" not in (tmp_path / "env").read_text()


def test_no_command_is_none(run):
    notify("", run, "ended", "done", pytest.fail)


def test_a_run_without_settings_is_told_of_as_well(tmp_path):
    notify(f"cat > '{tmp_path}/told'", Run(tmp_path / "t"), "ended", "cannot go on", pytest.fail)
    assert json.loads((tmp_path / "told").read_text())["words"] == "cannot go on"


@pytest.mark.parametrize(
    "command, words",
    [
        ("echo first >&2; echo no such host >&2; exit 7", "status 7: no such host"),
        ("no_such_command_of_ours", "status 127"),
        ("exec sleep 60", "could not tell"),
    ],
)
def test_a_command_that_fails_is_said(run, command, words, monkeypatch):
    monkeypatch.setattr(notify_module, "SECONDS", 1.0)
    said = []
    notify(command, run, "paused", "no room", said.append)
    assert len(said) == 1 and words in said[0]


def test_a_command_that_reads_nothing_is_no_trouble(run):
    notify("true", run, "ended", "x" * 1_000_000, pytest.fail)
