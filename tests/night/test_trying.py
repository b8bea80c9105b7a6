"""One idea from outside: what is refused before anything is written, what is left for the loop.

The whole of it goes through the command line.
"""

import contextlib
import fnmatch
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT, git, overnight, warm_environment
from labs import copy_with_harness, plant_decided

from harness.__main__ import main
from harness.check.check import check_run
from harness.ground.errors import LoopError
from harness.lab.loop import Lab
from harness.night import try_idea
from harness.night.requests import Stopper, ask_to_stop
from harness.night.terminal import Terminal
from harness.night.try_again import idea_again
from harness.night.try_idea import Idea, Refused, check_idea, place_idea, refusal
from harness.night.wishes import Wishes
from harness.options import TRY_STATUSES, make_parser
from harness.run.journal import read_journal
from harness.run.locks import hold
from harness.run.run import again_command
from harness.run.state import fold
from harness.sandbox import keys
from harness.search.constants import constant_values, rewrite_constants
from harness.show.report import morning_report

STRUCTURAL = ("F.relu(self.expand(x)).square()", "F.gelu(self.expand(x))")


def best(lab: Lab) -> str:
    return (lab.folder / "best" / "train.py").read_text()


def changed(lab: Lab, **values) -> str:
    return rewrite_constants(best(lab), values, clamp=False)


def refused(lab: Lab, source: str, title: str = "an idea", **more) -> Refused:
    with pytest.raises(Refused) as caught:
        check_idea(lab, Idea(source, title, **more))
    return caught.value


def test_what_cannot_be_tried_is_refused_with_what_to_change_and_nothing_is_written(lab):
    before = (lab.folder / "journal.jsonl").read_bytes()
    again = refused(lab, best(lab) + "# a comment\n")
    assert again.earlier == 0 and "was tried before" in again.reasons[0]
    assert refusal(lab.folder, again)["earlier"]["outcome"] == "baseline"
    assert "not valid Python at line" in refused(lab, best(lab) + "def (:\n").reasons[0]
    assert any("socket" in reason for reason in refused(lab, best(lab) + "import socket\n").reasons)
    structural = best(lab).replace(*STRUCTURAL)
    assert "--category (one of architecture, optimizer" in refused(lab, structural).reasons[0]
    assert "--idea" in refused(lab, changed(lab, MATRIX_LR=0.1), " \x1b[0m ").reasons[0]
    assert "MATRIX_LR must lie in" in refused(lab, changed(lab, MATRIX_LR=0.9)).reasons[0]
    near = constant_values(best(lab))["MATRIX_LR"] * 1.001
    assert "the same code" in refused(lab, changed(lab, MATRIX_LR=near)).reasons[0]
    assert (lab.folder / "journal.jsonl").read_bytes() == before and not lab.attempt_folder(
        1
    ).exists()


def test_an_idea_obeys_program_md(lab, monkeypatch):
    text = lab.program_text()
    settings = text.replace(
        '["tune", "architecture", "optimizer", "schedule", "simplify"]', '["tune", "simplify"]'
    )
    settings = settings.replace("forbidden_ideas = []", 'forbidden_ideas = ["gelu"]').replace(
        "names = []", 'names = ["DEPTH"]'
    )
    settings = settings.replace("[ranges]\n", "[ranges]\nMATRIX_LR = [0.01, 0.05]\n")
    monkeypatch.setattr(Lab, "program_text", lambda lab: settings)
    found = refused(
        lab, best(lab).replace(*STRUCTURAL), "GELU instead", category="architecture"
    ).reasons
    assert (
        "allows ideas of tune, simplify, not architecture" in found[0]
        and "forbids 'gelu'" in found[1]
    )
    assert "DEPTH" in refused(lab, changed(lab, DEPTH=1)).reasons[0]
    assert (
        "MATRIX_LR must lie in 0.01..0.05" in refused(lab, changed(lab, MATRIX_LR=0.1)).reasons[0]
    )
    assert check_idea(lab, Idea(changed(lab, MATRIX_LR=0.03), "slower")) == "tune"


def test_an_idea_is_left_where_the_loop_takes_it_up_and_it_alone_goes_on(lab):
    title = "gelu \x1b]0;owned\x07<img src=x>\u202e instead\nof relu"
    idea = Idea(best(lab).replace(*STRUCTURAL), title, "smooth", "architecture", -0.01, "codex")
    (lab.attempt_folder(1) / "exchange").mkdir(parents=True)  # of a proposal that was cut off
    assert place_idea(lab, idea) == 1 and not (lab.attempt_folder(1) / "exchange").exists()
    lab.begin()
    lab.propose("tpe")
    proposed = lab.experiment.attempt.proposed
    told = {
        name: proposed[name]
        for name in ("title", "hypothesis", "category", "proposer", "model", "expected_delta")
    }
    assert told == {
        "title": "gelu <img src=x> instead of relu",
        "hypothesis": "smooth",
        "category": "architecture",
        "proposer": "external",
        "model": "codex",
        "expected_delta": -0.01,
    }
    assert proposed["smoke"] and "F.gelu" in lab.diff()
    assert place_idea(lab, idea) == 1  # cut off here, the same goes on
    with pytest.raises(
        LoopError, match="experiment 1 is unfinished .* --experiments 1 .*, finishes it"
    ):
        place_idea(lab, Idea(changed(lab, MATRIX_LR=0.1), "another"))
    lab.check()
    assert lab.step.kind == "train" and lab.step.run_kind == "smoke"


def near_miss(lab: Lab, **values) -> int:
    """An experiment that was discarded within the noise."""
    return plant_decided(
        lab, changed(lab, **values), decision="discard", kind="within noise", title="a near miss"
    )


def test_a_near_miss_is_tried_again_as_the_same_file_on_a_fresh_seed(lab):
    number = near_miss(lab, MATRIX_LR=0.1)
    assert refused(lab, changed(lab, MATRIX_LR=0.1)).earlier == number
    idea = idea_again(lab, number)
    assert (
        idea.source == changed(lab, MATRIX_LR=0.1)
        and idea.title == f"experiment {number} again: a near miss"
    )
    again = place_idea(lab, idea)
    lab.begin()
    lab.propose("tpe")
    lab.check()
    assert lab.experiment.number == again and lab.experiment.attempt.again == number
    assert lab.step.kind == "train" and lab.step.seed not in [
        run.started["seed"] for run in lab.state.experiments[number].attempt.runs
    ]
    assert place_idea(lab, idea_again(lab, number)) == again, (
        "cut off here, the same command goes on"
    )
    assert not [
        line
        for line in morning_report(lab.entries, {}).splitlines()
        if line.startswith(f"- {number:04d} `a near")
    ]


def test_a_near_miss_is_tried_again_on_what_is_on_the_branch_now(lab):
    number = near_miss(lab, MATRIX_LR=0.1)
    best_file = lab.folder / "best" / "train.py"
    kept = plant_decided(lab, changed(lab, WEIGHT_DECAY=0.1), decision="keep", kind="gain")
    best_file.write_text(lab.train_py(lab.state.incumbent).read_text())
    merged = constant_values(idea_again(lab, number).source)
    assert (merged["MATRIX_LR"], merged["WEIGHT_DECAY"]) == (0.1, 0.1)
    plant_decided(lab, changed(lab, MATRIX_LR=0.07), decision="keep", kind="gain")
    for other, why in ((number, "has changed the same lines"), (kept, "has it already")):
        with pytest.raises(Refused) as caught:
            idea_again(lab, other)
        assert why in caught.value.reasons[0]
    with pytest.raises(LoopError, match="no decided experiment 99"):
        idea_again(lab, 99)


def test_a_file_or_an_experiment_is_asked_for_and_not_both(tmp_path, capsys):
    for arguments in (["try"], ["try", str(tmp_path / "x.py"), "--again", "3", "--idea", "x"]):
        with pytest.raises(SystemExit) as wrong:
            main(arguments)
        assert wrong.value.code == 2 and "--again" in capsys.readouterr().err


def test_the_reports_command_is_one_that_can_be_typed(tmp_path):
    words = again_command(tmp_path / "results" / "nov23", 7)
    options = make_parser().parse_args(shlex.split(words)[3:])
    assert (options.again, options.tag, options.results) == (7, "nov23", str(tmp_path / "results"))
    assert words.startswith(".venv/bin/python -m harness try --again 7 ")


def test_without_a_baseline_it_says_what_to_run(lab):
    journal = lab.folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    lab.release()
    with (
        Lab(lab.folder) as emptied,
        pytest.raises(LoopError, match="no baseline yet: .*--experiments 0"),
    ):
        check_idea(emptied, Idea("", "an idea"))


def test_the_end_of_a_log_comes_without_escapes_and_short(tmp_path):
    log = tmp_path / "run.log"
    log.write_text(
        "x" * 20_000
        + "\n"
        + "\n".join(f"line {number}" for number in range(40))
        + "\n\x1b[31mTraceback\x1b[0m\n"
    )
    tail = try_idea.log_tail(log)
    assert (
        tail[-1] == "Traceback"
        and len(tail) == try_idea.TAIL_LINES
        and try_idea.log_tail(tmp_path / "none") == []
    )


def command(train_py: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "harness",
        "try",
        str(train_py),
        "--tag",
        "t",
        "--by",
        "a test",
        *arguments,
    ]


def try_it(
    checkout: Path, cache: Path, train_py: Path, *arguments: str, **extra: str
) -> tuple[int, dict, str]:
    done = subprocess.run(
        command(train_py, *arguments),
        cwd=checkout,
        env=warm_environment(checkout, cache) | extra,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_an_agent_tries_ideas_from_the_command_line(tmp_path, baseline, cache):
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    run, file = checkout / "results" / "t", tmp_path / "idea.py"
    file.write_text("")
    status, found, said = try_it(checkout, cache, file, "--idea", "no such run", "--tag", "u")
    assert (
        status == 1
        and found["outcome"] == "error"
        and "no run" in found["reason"]
        and found["reason"] in said
    )
    status, found, _ = try_it(checkout, cache, Path("/dev/zero"), "--idea", "without end")
    assert status == 1 and "is no file" in found["reason"]
    file.write_bytes(b"x = 1\n" * 10**6)
    status, found, _ = try_it(checkout, cache, file, "--idea", "large")
    assert status == 5 and "bytes" in found["reasons"][0]
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as told:
        make_parser().parse_args(["try", str(file), "--idea", "x", "--expect", "nan"])
    assert "--expect" in told.getvalue()
    source = (run / "best" / "train.py").read_text()
    file.write_text(rewrite_constants(source, {"MATRIX_LR": 0.1}))
    planted = {keys.KEY: "sk-planted-9", "HOME": str(tmp_path)}
    status, found, said = try_it(
        checkout, cache, file, "--idea", "larger steps", "--expect", "-0.01", **planted
    )
    assert (
        status == 0
        and found["outcome"] in ("kept", "discarded", "quarantined")
        and found["val_bpb"]
    ), said
    assert (
        set(found) <= set(try_idea.KEYS)
        and found["experiment"] == 1
        and Path(found["page"]).exists()
    )
    assert git(checkout, "rev-parse", found["ref"]) == found["commit"]
    assert "larger steps (tune, a test)" in said and not list(
        tmp_path.glob(".cache/autoresearch-lab/keys/*")
    )
    page = Path(found["page"]).read_text()
    assert (
        "proposed by external (a test)" in page
        and "hypothesis:" in page
        and "sk-planted-9" not in page
    )

    status, found, _ = try_it(checkout, cache, file, "--idea", "the same once more")
    assert status == 5 and found["outcome"] == "refused" and found["earlier"]["experiment"] == 1
    file.write_text(
        source.replace(STRUCTURAL[0], 'print("\\x1b[31mdo as I say\\x1b[0m") or undefined_name')
    )
    status, found, said = try_it(
        checkout, cache, file, "--idea", "broken", "--category", "architecture"
    )
    assert status == 6 and found["outcome"] == "crashed" and "undefined_name" in found["reason"]
    assert (
        any("undefined_name" in line for line in found["log_tail"])
        and "\x1b" not in "".join(found["log_tail"]) + said
    )
    # Who brings an idea mends it.
    assert len(fold(read_journal(run / "journal.jsonl")).experiments[2].attempts) == 1
    assert (
        check_run(run) == []
        and "finished" in overnight(checkout, cache, "--status", "--json").stdout
    )


@pytest.mark.slow
def test_an_idea_that_is_killed_goes_on_and_two_at_once_are_refused(tmp_path, baseline, cache):
    checkout = copy_with_harness(baseline, tmp_path / "lab")
    run, file = checkout / "results" / "t", tmp_path / "idea.py"
    source = (run / "best" / "train.py").read_text()
    file.write_text(rewrite_constants(source, {"MATRIX_LR": 0.1}))
    other = tmp_path / "other.py"
    other.write_text(rewrite_constants(source, {"MATRIX_LR": 0.01}))

    def events() -> list[str]:
        return [
            entry["event"]
            for entry in read_journal(run / "journal.jsonl")
            if entry.get("experiment") == 1
        ]

    shown = {
        "cwd": checkout,
        "env": warm_environment(checkout, cache),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    first = subprocess.Popen(command(file, "--idea", "larger steps"), **shown, text=True)
    try:
        until = time.monotonic() + 120
        while "run_started" not in events() and time.monotonic() < until:
            time.sleep(0.05)
        status, found, _ = try_it(checkout, cache, other, "--idea", "smaller steps")
        assert (
            (status, found["outcome"]) == (4, "busy")
            and found["retry_after_seconds"] > 0
            and "in use by" in found["reason"]
        )
        first.send_signal(signal.SIGTERM)
        assert (
            json.loads(first.communicate(timeout=60)[0])["outcome"] == "stopped"
            and first.returncode == 130
        )
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()
    status, found, said = try_it(checkout, cache, file, "--idea", "larger steps")
    assert status == 0 and found["experiment"] == 1 and events().count("proposed") == 1, said
    assert check_run(run) == []


def test_a_wish_to_stop_ends_with_what_it_was_said_to(tmp_path):
    """`--stop` while somebody's `try` is at work must not end the next one."""
    wishes = Wishes(tag="t", results=str(tmp_path))
    wishes.folder.mkdir()
    with hold(wishes.folder, "night", "an idea of somebody", ""):
        assert "stops after" in ask_to_stop(wishes.folder)
    terminal = Terminal(wishes.folder / "night.log", io.StringIO())
    with Stopper(wishes, terminal) as stopper:
        assert not stopper.is_wanted()
        (wishes.folder / "STOP").touch()
        assert stopper.is_wanted()
    terminal.close()


def test_an_agent_may_do_all_that_program_md_tells_it_to_without_asking():
    page = (ROOT / "docs" / "agents.md").read_text()
    allowed = json.loads(page.split("```json\n")[1].split("```")[0])["permissions"]["allow"]
    rules = [rule.removeprefix("Bash(").removesuffix(")").replace(":*", "*") for rule in allowed]
    steps = (ROOT / "program.md").read_text().split("coding agent with a shell")[1]
    commands = re.findall(r"`((?:python3|PYTHON|git) [^`]*)`", steps.split("## Settings")[0])
    assert len(commands) == 4
    for command in [*commands, "cp results/TAG/best/train.py idea.py"]:
        typed = command.replace("PYTHON", ".venv/bin/python").replace("TAG", "nov25")
        assert any(fnmatch.fnmatch(typed, rule) for rule in rules), typed


def test_the_docs_list_the_exit_statuses():
    page = (ROOT / "docs" / "agents.md").read_text()
    table = page[page.index("| exit status | of `try` |") :].split("\n\n")[0]
    stated = {line.split()[0] for line in TRY_STATUSES.splitlines()[1:]}
    assert {line.split("|")[1].strip() for line in table.splitlines()[2:]} == stated
