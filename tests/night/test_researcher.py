"""The language model as a researcher: scripted replies over HTTP, and nights that they drive."""

import pytest
from checkout import overnight
from fake_openai import FakeOpenAI
from labs import copy_with_harness
from scripted_outcomes import give_each, recovered
from scripted_replies import REPLIES
from scripted_researcher import Scripted

from harness.check.check import check_run
from harness.run.journal import read_journal
from harness.run.results import read_results
from harness.run.state import fold
from harness.search.duplicates import structure_hash
from harness.search.gate import check_candidate

CODE_ONLY = (
    '```settings\nallowed_categories = ["architecture", "optimizer", "schedule", "simplify"]\n```\n'
)
MALFORMED = [
    reply for reply in REPLIES.values() if not reply.well_formed and reply.edits is not None
]
# Seen by a careful person and refused by the applier, which asks again: an indentation that is not
# uniform is not guessed.
NOT_RECOVERED = {"first line"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple]:
    return give_each(tmp_path_factory.mktemp("replies"))


def test_the_share_of_the_replies_that_is_recovered(outcomes):
    """All replies as asked are recovered, and this share of the malformed ones.

    The share is of those in which a careful person sees what is meant.
    """
    missed = {
        reply.name
        for reply in REPLIES.values()
        if reply.edits is not None and not recovered(reply, outcomes)
    }
    assert missed == NOT_RECOVERED, (
        f"{len(MALFORMED) - len(missed)} of {len(MALFORMED)} malformed replies recovered"
    )


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_comes_to_what_was_meant_or_to_nothing(name, outcomes):
    reply, (proposal, why, bodies) = REPLIES[name], outcomes[name]
    if proposal is None:
        assert reply.edits is None or name in NOT_RECOVERED
        assert why.startswith("not_applicable") and len(bodies) == 3
        for body in bodies[1:]:
            assert "cannot be used" in body["messages"][-1]["content"]
        return
    assert proposal.source == reply.intended()
    numbers_only = structure_hash(proposal.source) == structure_hash(reply.source())
    assert proposal.category == ("tune" if numbers_only else reply.category)
    assert proposal.title == reply.title and len(bodies) == 1
    assert proposal.hypothesis and proposal.expected_delta is not None
    assert bool(check_candidate(proposal.source, set())) == (name == "diary")


def play_night(
    checkout, cache, researcher: Scripted, experiments: int, profile: str = "tiny"
) -> tuple:
    """Run a night of `llm` with a scripted researcher; return (what it printed, the server)."""
    with FakeOpenAI(researcher) as server:
        llm = ("--proposer", "llm", "--llm", f"base_url={server.url}")
        done = overnight(
            checkout,
            cache,
            "--profile",
            profile,
            "--tag",
            "t",
            "--experiments",
            str(experiments),
            *llm,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, server


@pytest.mark.slow
def test_a_scripted_researcher_drives_a_whole_night(tmp_path, baseline, cache):
    """Every kind of reply is met in one night.

    Malformed and recovered; crashed, repaired and trained; refused by the gate and repaired; never
    usable, so that tpe proposes.
    """
    names = ("nested fences", "gated linear unit, half done", "diary", "ambiguous")
    researcher, checkout = Scripted(*names), copy_with_harness(baseline, tmp_path / "lab")
    (checkout / "program.md").write_text(CODE_ONLY)
    _, server = play_night(checkout, cache, researcher, len(names))
    run = checkout / "results" / "t"
    nested, gated, diary, ambiguous = fold(read_journal(run / "journal.jsonl")).experiments[1:]
    says = {"first": [], "again": [], "repair": []}
    for name, how in researcher.said:
        says[how].append(name)
    assert says["first"] == list(names)
    assert (
        says["repair"] == ["gated linear unit, half done", "diary"]
        and says["again"] == ["ambiguous"] * 2
    )
    assert [
        [a.proposed["proposer"] for a in e.attempts] for e in (nested, gated, diary, ambiguous)
    ] == [["llm"], ["llm", "llm"], ["llm", "llm"], ["tpe"]]
    assert gated.attempts[0].failure.status == "crash" and diary.attempts[0].checked["ok"] is False
    assert "not_applicable" in ambiguous.attempt.proposed["llm_failed"]
    for experiment in (nested, gated, diary, ambiguous):
        assert experiment.decided["status"] == "ok" and experiment.decided["val_bpb"] > 0
    assert "F.silu(gate) * value" in (run / "experiments/0002/attempts/01/train.py").read_text()
    usage = [
        e.proposed["usage"] for found in (nested, gated, diary, ambiguous) for e in found.attempts
    ]
    assert (
        sum(used["requests"] for used in usage) == len(researcher.said) == server.usage["requests"]
    )
    for kind in ("prompt_tokens", "completion_tokens"):
        # To the token, by the server's own count.
        assert sum(used[kind] for used in usage) == server.usage[kind]
    assert len(read_results(run / "results.tsv")) == 5
    assert check_run(run) == []
