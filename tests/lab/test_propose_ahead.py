"""The next proposal is asked for while a training runs, and taken only where it still holds."""

import dataclasses
import json
import time
from types import SimpleNamespace

import psutil
import pytest
from fake_openai import FakeOpenAI
from labs import incumbent_source, run_experiment, without_keys

import harness
from harness.check.check import check_run
from harness.lab import propose_ahead
from harness.lab.close_out import STOP_FILE
from harness.lab.proposal_request import Asking
from harness.lab.propose_ahead import may_ask_ahead, take_ahead
from harness.rules.next_step import Step
from harness.sandbox import wall

FAR = "base_url=https://models.example.org/v1"


def answer_with(source: str):
    """Answers that lower a rate, the line of it in a source, more with each request.

    The output matrix hardly learns then: no luck of a seed makes the ideas look good.
    """
    line = next(line for line in source.splitlines() if line.startswith("UNEMBEDDING_LR = "))
    rate = float(line.split()[2])

    def answer(body: dict, number: int) -> str:
        new = line.replace(f"= {rate}", f"= {rate * 0.3**number:.5f}", 1)
        head = f"Title: idea {number}\nHypothesis: slower\nCategory: tune\nExpected delta: -0.01"
        blocks = f"<<<<<<< SEARCH\n{line}\n=======\n{new}\n>>>>>>> REPLACE\n"
        return f"{head}\n\n{blocks}"

    return answer


@pytest.fixture
def asked(lab, monkeypatch, tmp_path):
    """A run whose model answers at once, on this machine, and may be asked ahead all the same."""
    without_keys(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(
        propose_ahead, "may_ask_ahead", lambda asking, walled: asking.proposer != "tpe"
    )
    text = "```settings\nallowed_categories = ['tune']\n```\n"
    monkeypatch.setattr(lab, "program_text", lambda: text)
    with FakeOpenAI(answer_with(incumbent_source(lab))) as server:
        options = {"model": "scripted", "llm": f"base_url={server.url}"}
        propose = lab.propose
        monkeypatch.setattr(lab, "propose", lambda: propose("llm", **options))
        yield SimpleNamespace(lab=lab, server=server)


def test_the_next_idea_is_asked_for_in_the_training_and_taken_after_it(asked):
    lab, server = asked.lab, asked.server
    assert run_experiment(lab)["title"] == "idea 1"
    assert len(server.bodies) == 2  # the second while the first was trained
    told = server.bodies[1]["messages"][-1]["content"]
    assert "undecided | idea 1" in told
    assert check_run(lab.folder, harness.REPOSITORY) == []
    lab.number = None
    lab.begin()
    lab.propose()
    assert len(server.bodies) == 2
    proposed = lab.experiment.attempt.proposed
    assert proposed["title"] == "idea 2" and proposed["usage"]["requests"] == 1
    assert proposed["note"] == "proposed while experiment 1 was in training"
    assert (lab.attempt_folder(2) / proposed["exchange"]).is_dir()
    assert check_run(lab.folder, harness.REPOSITORY) == []


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": 9},
        {"parent_experiment": 1},
        {"program_md": "another"},
    ],
)
def test_what_was_made_for_another_state_is_not_taken(asked, change, tmp_path):
    lab = asked.lab
    run_experiment(lab)
    path = lab.folder / "ahead/request.json"
    request = json.loads(path.read_text())
    step, program = Step("propose", 2), request["program_md"]
    path.write_text(json.dumps(request | change))
    assert take_ahead(lab, step, program, tmp_path / "attempt") is None
    path.write_text(json.dumps(request))
    assert take_ahead(lab, step, program, tmp_path / "attempt")["title"] == "idea 2"


def test_a_night_that_is_to_stop_waits_for_no_answer(asked):
    lab = asked.lab
    asked.server.answer = lambda body, number: time.sleep(60)
    lab.begin()
    asking = Asking("llm", "scripted", f"base_url={asked.server.url}")
    lab.ahead.begin(asking, incumbent_source(lab), lab.program_text())
    process = psutil.Process(lab.ahead._process.pid)
    (lab.folder / STOP_FILE).write_text("")
    lab.ahead.finish()
    assert not process.is_running() and lab.ahead._process is None


def test_a_run_that_is_given_back_leaves_no_process(asked):
    lab = asked.lab
    asked.server.answer = lambda body, number: time.sleep(60)
    lab.begin()
    lab.asking = Asking("llm", "scripted", f"base_url={asked.server.url}")
    lab.ahead.begin(lab.asking, incumbent_source(lab), lab.program_text())
    process = psutil.Process(lab.ahead._process.pid)
    lab.release()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "proposer, options, night, walled, may",
    [
        ("hybrid", FAR, "1", True, True),
        ("tpe", FAR, "1", True, False),
        ("llm", "base_url=http://127.0.0.1:8000/v1", "1", True, False),
        ("llm", "base_url=http://localhost:8000/v1", "1", True, False),
        ("llm", FAR, "", True, False),
        ("llm", FAR, "1", False, False),
    ],
)
def test_where_a_model_may_be_asked_ahead(
    proposer, options, night, walled, may, monkeypatch, tmp_path
):
    without_keys(monkeypatch, tmp_path)
    monkeypatch.setenv(propose_ahead.NIGHT_VARIABLE, night)
    assert may_ask_ahead(Asking(proposer, "m", options), walled) == may


@pytest.mark.parametrize("why", ["", "this card does not work behind bubblewrap"])
def test_nobody_holds_a_key_beside_code_that_no_wall_holds(lab, why, monkeypatch, tmp_path):
    without_keys(monkeypatch, tmp_path)
    monkeypatch.setenv(propose_ahead.NIGHT_VARIABLE, "1")
    monkeypatch.delenv(wall.VARIABLE, raising=False)
    monkeypatch.setattr(
        wall, "try_bubblewrap", lambda: wall.Wall("bubblewrap", "", program="bwrap")
    )
    lab.settings = dataclasses.replace(
        lab.settings, device=lab.settings.device | {"wall_error": why}
    )
    lab.begin()
    lab.ahead.begin(Asking("llm", "m", FAR), incumbent_source(lab), lab.program_text())
    assert (lab.ahead._process is None) is bool(why)
    lab.ahead.drop()
