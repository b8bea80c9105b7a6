"""Who proposes is settled before a night works: real processes, a real server, a planted key."""

import pytest
from fake_openai import FakeOpenAI, refusal
from labs import without_keys

from harness.ground.errors import LoopError
from harness.night.driver import run_night
from harness.night.endpoint_check import choose_proposers, deadline_seconds
from harness.night.wishes import Wishes
from harness.sandbox import keys

PLANTED = "sk-planted-3b7e"


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    without_keys(monkeypatch, tmp_path)


def night(tmp_path, **wishes) -> Wishes:
    return Wishes(tag="t", profile="tiny", results=str(tmp_path / "results"), **wishes)


def test_without_key_and_base_url_it_is_tpe_and_a_wish_for_a_model_says_what_to_set(tmp_path, capfd):
    found = choose_proposers(night(tmp_path))
    assert (found.proposer, found.model) == ("tpe", "") and "need no key" in found.words
    assert deadline_seconds(night(tmp_path)) == 0
    assert run_night(night(tmp_path, proposer="hybrid")) == 1
    said = capfd.readouterr().out
    assert "--proposer hybrid needs a language model" in said and "OPENAI_BASE_URL=http" in said
    assert not (tmp_path / "results" / "t" / "notebooks").exists()  # no work was done


def test_the_only_model_is_taken_and_of_several_none(tmp_path, monkeypatch):
    with FakeOpenAI(lambda body, number: "hello") as server:
        monkeypatch.setenv(keys.BASE_URL, server.url)
        monkeypatch.setenv(keys.KEY_FILE, str(keys.write_key(PLANTED)))
        found = choose_proposers(night(tmp_path, llm="budget_tokens=5000 deadline_seconds=60"))
        assert (found.proposer, found.model) == ("hybrid", "scripted")
        assert server.url in found.words and "budget_tokens=5000" in found.words and PLANTED not in found.words
        assert server.headers[0]["authorization"] == f"Bearer {PLANTED}"
        assert deadline_seconds(night(tmp_path, llm="deadline_seconds=60")) == 60
    with FakeOpenAI(lambda body, number: "hello", models=("one", "two")) as server:
        with pytest.raises(LoopError, match="--model NAME, with AUTORESEARCH_MODEL.*Served: one, two"):
            choose_proposers(night(tmp_path, llm=f"base_url={server.url}"))
        assert "no budget is set" in choose_proposers(night(tmp_path, llm=f"base_url={server.url}", model="two")).words


def test_what_a_person_must_change_ends_the_night_at_its_start_and_what_may_pass_does_not(tmp_path, monkeypatch, capfd):
    with FakeOpenAI(lambda body, number: refusal(401, f"Incorrect API key provided: {PLANTED}")) as server:
        monkeypatch.setenv(keys.KEY, PLANTED)
        assert run_night(night(tmp_path, model="another", llm=f"base_url={server.url}")) == 1
        said = capfd.readouterr().out
        assert "cannot go on: " in said and PLANTED not in said
    found = choose_proposers(night(tmp_path, model="scripted", llm=f"base_url={server.url}"))  # the server is gone
    assert (found.proposer, found.model) == (
        "hybrid",
        "scripted",
    ) and "Until it answers, ideas are by tpe" in found.words
    with pytest.raises(LoopError, match="no option budget_dollars: there is .*budget"):
        choose_proposers(night(tmp_path, llm="budget_dollars=5"))
