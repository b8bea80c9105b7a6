"""What a night's --notify command is given, and that nothing of it can harm the night."""

import json
import os
import re
import shlex
import shutil

import pytest
from checkout import ROOT

from harness.__main__ import main
from harness.night import notify as notify_module
from harness.night.notify import notify
from harness.run.run import Run

BEST = Run(ROOT / "results" / "sample").state.incumbent.number


@pytest.fixture
def run(tmp_path):
    return Run(shutil.copytree(ROOT / "results" / "sample", tmp_path / "results" / "sample"))


def test_the_command_gets_the_status_on_its_standard_input(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-in-the-environment")
    monkeypatch.setenv("AUTORESEARCH_KEY_FILE", "/planted/key/file")
    said = []
    notify(f"cat > '{tmp_path}/told'; env > '{tmp_path}/env'", run, "ended", "done", said.append)
    told = json.loads((tmp_path / "told").read_text())
    assert told["event"] == "ended" and told["words"] == "sample ended: done"
    assert told["tag"] == "sample" and told["best_experiment"] == BEST and not said
    assert "planted" not in (tmp_path / "env").read_text()


def test_no_command_is_none(run):
    notify("", run, "ended", "done", pytest.fail)


def test_a_run_without_settings_is_told_of_as_well(tmp_path):
    notify(f"cat > '{tmp_path}/told'", Run(tmp_path / "t"), "ended", "cannot go on", pytest.fail)
    assert json.loads((tmp_path / "told").read_text())["words"] == "t ended: cannot go on"


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


def documented_lines() -> dict[str, str]:
    """What docs/survival.md says to type behind --notify, by what it is for."""
    page = (ROOT / "docs" / "survival.md").read_text()
    table = page[page.index("| to | `--notify` |") :].split("\n\n")[0].splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:3] for line in table]
    return {to.strip(): line.strip().strip("`").replace("\\|", "|") for to, line in cells}


def test_the_documented_line_for_ntfy_posts_the_sentence(run, httpserver):
    line = documented_lines()["a phone, by ntfy.sh"]
    assert "https://ntfy.sh/YOUR-TOPIC" in line
    httpserver.expect_oneshot_request("/my-topic", method="POST").respond_with_data("")
    [command] = shlex.split(
        line.replace("https://ntfy.sh/YOUR-TOPIC", httpserver.url_for("/my-topic"))
    )
    notify(command, run, "ended", "done. 6 experiments: it's “better” & more", pytest.fail)
    httpserver.check()
    [(request, _)] = httpserver.log
    assert (
        request.get_data(as_text=True).strip()
        == "sample ended: done. 6 experiments: it's “better” & more"
    )


def test_the_documented_line_for_slack_posts_json(run, httpserver):
    line = documented_lines()["Slack"]
    httpserver.expect_oneshot_request(
        "/hook", method="POST", headers={"Content-Type": "application/json"}
    ).respond_with_data("ok")
    [command] = shlex.split(line.replace("YOUR-WEBHOOK", httpserver.url_for("/hook")))
    notify(command, run, "kept", 'experiment 4: keep: "quoted"', pytest.fail)
    httpserver.check()
    [(request, _)] = httpserver.log
    assert request.get_json() == {"text": 'sample kept: experiment 4: keep: "quoted"'}


def test_the_documented_line_for_a_mailbox_mails_the_status(run, tmp_path, monkeypatch):
    mail = tmp_path / "bin" / "mail"
    mail.parent.mkdir()
    mail.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/arguments"\ncat > "{tmp_path}/body"\n'
    )
    mail.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mail.parent}:{os.environ['PATH']}")
    [command] = shlex.split(documented_lines()["a mailbox"])
    notify(command, run, "paused", "no room", pytest.fail)
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "-s",
        "the night",
        "you@example.org",
    ]
    told = json.loads((tmp_path / "body").read_text())
    assert told["words"] == "sample paused: no room" and told["best_experiment"] == BEST


def test_a_night_that_cannot_begin_tells_of_its_end(tmp_path):
    told = tmp_path / "told"
    arguments = [
        "overnight",
        "--tag",
        "t",
        "--profile",
        "nosuch",
        "--results",
        str(tmp_path / "results"),
    ]
    assert main([*arguments, "--notify", f"cat > '{told}'"]) == 1
    found = json.loads(told.read_text())
    assert (
        found["event"] == "ended"
        and found["words"].startswith("t ended: cannot go on: ")
        and "nosuch" in found["words"]
    )


def test_a_night_whose_journal_is_damaged_tells_of_its_end(run, tmp_path, capsys):
    folder, told = run.folder.rename(tmp_path / "results" / "t"), tmp_path / "told"
    (folder / "journal.jsonl").write_text("cut\nmore\n")
    arguments = ["overnight", "--tag", "t", "--results", str(folder.parent)]
    assert main([*arguments, "--notify", f"cat > '{told}'"]) == 1
    assert "is damaged" in capsys.readouterr().err
    words = json.loads(told.read_text())["words"]
    assert words.startswith("t ended: cannot go on: ") and "is damaged" in words
