"""Who proposes is settled before a night works: real processes, a real server, a planted key."""

import re

import pytest
from checkout import TEMPLATE, git, make_repository
from fake_openai import FakeOpenAI, QuickServer, refusal
from labs import without_keys

import harness
from harness.ground.errors import LoopError
from harness.night.driver import run_night
from harness.night.endpoint_check import choose_proposers, deadline_seconds
from harness.night.wishes import Wishes
from harness.sandbox import keys
from harness.sandbox.wall import try_bubblewrap

PLANTED = "sk-planted-3b7e"


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    without_keys(monkeypatch, tmp_path)


def night(tmp_path, **wishes) -> Wishes:
    return Wishes(tag="t", profile="tiny", results=str(tmp_path / "results"), **wishes)


def test_without_key_and_base_url_it_is_tpe_and_a_wish_for_a_model_says_what_to_set(
    tmp_path, capfd
):
    found = choose_proposers(night(tmp_path))
    assert found.proposer == "tpe" and "need no key" in found.words
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
        assert found.proposer == "hybrid" and "ideas by scripted at" in found.words
        assert (
            server.url in found.words
            and "budget_tokens=5000" in found.words
            and PLANTED not in found.words
        )
        assert server.headers[0]["authorization"] == f"Bearer {PLANTED}"
        assert deadline_seconds(night(tmp_path, llm="deadline_seconds=60")) == 60
    with FakeOpenAI(lambda body, number: "hello", models=("one", "two")) as server:
        with pytest.raises(
            LoopError, match="--model NAME, with AUTORESEARCH_MODEL.*Served: one, two"
        ):
            choose_proposers(night(tmp_path, llm=f"base_url={server.url}"))
        assert (
            "no budget is set"
            in choose_proposers(night(tmp_path, llm=f"base_url={server.url}", model="two")).words
        )


def test_what_a_person_must_change_ends_the_night_at_its_start_and_what_may_pass_does_not(
    tmp_path, monkeypatch, capfd
):
    with FakeOpenAI(
        lambda body, number: refusal(401, f"Incorrect API key provided: {PLANTED}")
    ) as server:
        monkeypatch.setenv(keys.KEY, PLANTED)
        assert run_night(night(tmp_path, model="another", llm=f"base_url={server.url}")) == 1
        said = capfd.readouterr().out
        assert "cannot go on: " in said and PLANTED not in said
    # The server is gone.
    found = choose_proposers(night(tmp_path, model="scripted", llm=f"base_url={server.url}"))
    assert found.proposer == "hybrid" and "Until it answers, ideas are by tpe" in found.words
    with pytest.raises(LoopError, match="no option budget_dollars: there is .*budget"):
        choose_proposers(night(tmp_path, llm="budget_dollars=5"))


def test_a_context_that_no_prompt_fits_into_is_refused_at_the_start(tmp_path):
    with FakeOpenAI(lambda body, number: "hello") as server:
        url = f"base_url={server.url}"
        with pytest.raises(
            LoopError, match=r"context_tokens=8000 is too small.*Set --llm context_tokens=(\d+)"
        ) as error:
            choose_proposers(night(tmp_path, llm=f"{url} context_tokens=8000"))
        least = re.search(r"Set --llm context_tokens=(\d+)", str(error.value))[1]
        found = choose_proposers(night(tmp_path, llm=f"{url} context_tokens={least}"))
        assert "ideas by scripted" in found.words
    with QuickServer() as server:
        listed = {"data": [{"id": "small", "max_model_len": 8192}]}
        server.expect_request("/v1/models").respond_with_json(listed)
        with pytest.raises(LoopError, match="gives the model a context of 8,192 tokens.*start it"):
            choose_proposers(night(tmp_path, llm=f"base_url={server.url_for('/v1')}"))


@pytest.mark.parametrize(
    "wishes, option", [({"model": "big"}, "--model"), ({"llm": "budget_tokens=5"}, "--llm")]
)
def test_an_option_of_a_model_without_a_model_is_refused(tmp_path, wishes, option, capfd):
    with pytest.raises(LoopError, match=f"{option} needs a language model"):
        choose_proposers(night(tmp_path, **wishes))
    with pytest.raises(LoopError, match=f"{option} cannot be obeyed: --proposer tpe"):
        choose_proposers(night(tmp_path, proposer="tpe", **wishes))


def in_a_checkout(tmp_path, monkeypatch, program: str):
    """A repository whose program.md is this one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "program.md").write_text(program)
    (folder / "train_template.py").write_text(TEMPLATE)
    monkeypatch.setattr(harness, "REPOSITORY", folder)
    return make_repository(folder)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"program": "```settings\nx = 1\n```\n"}, "unknown setting 'x'"),
        ({"wall": "bubblewrap", "path": ""}, "bubblewrap"),
        ({"branch": "autoresearch/t"}, "from an earlier run"),
    ],
)
def test_what_is_known_in_the_first_second_is_said_before_anything_is_prepared(
    tmp_path, monkeypatch, capfd, change, said
):
    checkout = in_a_checkout(tmp_path, monkeypatch, change.get("program", "no block\n"))
    if "branch" in change:
        git(checkout, "branch", change["branch"])
    if "wall" in change:
        monkeypatch.setenv("AUTORESEARCH_WALL", change["wall"])
        monkeypatch.setenv("PATH", change["path"])
        try_bubblewrap.cache_clear()
    assert run_night(night(tmp_path)) == 1
    try_bubblewrap.cache_clear()
    told = capfd.readouterr().out
    assert "cannot go on: " in told and said in told
    assert not (tmp_path / "results" / "t" / "notebooks").exists()
