"""What a close-out asks after its claim, and what it says of the answers."""

import pytest
from kept_runs import COMMENTED, MORE_DEPTH, MORE_HEADS, Kept

from harness.check.close_out import check_close_out
from harness.check.files import Look
from harness.lab.close_out_findings import (
    CONFIRMED,
    HURTS,
    PART,
    UNKNOWN,
    findings_of,
    sentences,
    words_of_simplified,
)
from harness.lab.close_out_questions import (
    asked_words,
    next_question,
    seconds_of,
    within,
    words_left,
)
from harness.night import progress
from harness.night.wishes import Wishes

WORSE, SAME, BETTER = [1.20, 1.21, 1.22], [1.00, 1.01, 1.02], [0.90, 0.91, 0.92]
A_LITTLE = [1.001, 1.016, 1.016]


@pytest.fixture
def kept(tmp_path):
    """Three changes on a baseline that is much worse."""
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (COMMENTED,), (MORE_HEADS,))
    night.claim(baseline=WORSE)
    return night


def ask(night, **scores):
    question = next_question(night.run, night.found)
    night.compare(question, **scores)
    return question


def verdicts(night) -> dict[int, str]:
    return {each.experiment: each.verdict for each in findings_of(night.run.state, night.found)}


def words_of(night) -> list[str]:
    return [each.words for each in findings_of(night.run.state, night.found)]


def test_each_change_is_left_out_once_cheapest_first_then_the_simplified_file_then_longer(kept):
    assert verdicts(kept) == {1: UNKNOWN, 2: UNKNOWN, 3: UNKNOWN}
    asked = ask(kept, file_without_1=WORSE, file_without_2=SAME, file_without_3=A_LITTLE)
    assert list(asked.others) == ["file without 1", "file without 2", "file without 3"]
    assert len(asked.trials) == 12, "the best is trained beside all of them"
    assert verdicts(kept) == {1: CONFIRMED, 2: PART, 3: PART}
    simplified = ask(kept)
    assert (simplified.kind, simplified.made) == ("simplified", ["file without 2"])
    longer = [ask(kept, baseline=WORSE), ask(kept, baseline=A_LITTLE)]
    assert [each.budgets for each in longer] == [2, 4] and not words_left(kept.run, kept.found)
    assert next_question(kept.run, kept.found) is None
    said = list(sentences(kept.run.state, kept.found))
    assert "experiment 1 (idea 1) is confirmed: without it the best is 0.2000 bpb worse" in said[0]
    assert "is part of a confirmed best" in said[1] and "is part of a confirmed" in said[2]
    assert said[3].endswith(
        "it may take the best's place where a loss of up to 0.0227 does not matter "
        "(close_out/best_0003_file_without_2.py)"
    )
    assert said[4:] == [
        "whether the gain lasts at 4x the budget is not clear; on the holdout it is "
        "+0.2000 (95% interval +0.1773 to +0.2227) at 1x, "
        "+0.2000 (95% interval +0.1773 to +0.2227) at 2x, 100% of it, "
        "+0.0010 (95% interval -0.0202 to +0.0222) at 4x"
    ]


@pytest.mark.parametrize(
    ("at_4x", "verdict"),
    [
        (WORSE, "the gain lasts at 4x the budget; on"),
        ([1.10, 1.11, 1.12], "the gain lasts at 4x the budget, though it shrinks; on"),
        (SAME, "whether the gain lasts at 4x the budget is not clear; on"),
        (BETTER, "the gain does not last: at 4x the budget the baseline is ahead; on"),
        ("crash", "the gain lasts at 2x the budget; on"),
    ],
)
def test_one_sentence_says_what_larger_budgets_leave_of_the_gain(tmp_path, at_4x, verdict):
    night = Kept(tmp_path / "t", (MORE_DEPTH,))
    night.claim(baseline=WORSE)
    for scores in (WORSE, at_4x):
        ask(night, baseline=scores)
    *_, said = sentences(night.run.state, night.found)
    assert said.startswith(verdict)
    assert ("at 4x ended with KeyError" in said) == (at_4x == "crash")


def test_a_simplified_file_that_loses_on_one_text_stays_out(kept):
    ask(kept, file_without_1=WORSE, file_without_2=SAME, file_without_3=WORSE)
    ask(kept)
    claimed = kept.found.current.claims["file without 2"]
    loss = {"difference": 0.01, "low": 0.001, "high": 0.02}
    words = words_of_simplified("file without 2", claimed | {"holdout": claimed["holdout"] | loss})
    assert words.endswith("it loses, so the best stays as it is")


def test_another_text_comes_first_and_is_asked_about_once(kept):
    text = {"data_id": "notes-v512", "source": "folder:/notes", "vocab_size": 512}
    question = next_question(kept.run, kept.found, text)
    assert (question.kind, question.text) == ("elsewhere", text)
    assert asked_words(question) == (
        "whether the gain holds on folder:/notes with a vocabulary of 512"
    )
    kept.compare(question, baseline=WORSE)
    assert next_question(kept.run, kept.found, text).kind == "ablation"
    other = text | {"data_id": "notes-v1024"}
    assert next_question(kept.run, kept.found, other).text == other
    assert list(sentences(kept.run.state, kept.found))[-1].startswith(
        "the gain holds on folder:/notes with a vocabulary of 512; on its holdout it is +0.2000"
    )
    assert check(kept) == []
    kept.compare(next_question(kept.run, kept.found, other), baseline=BETTER)
    assert "does not hold: on folder:/notes" in list(sentences(kept.run.state, kept.found))[-1]


def test_a_night_says_that_it_asks_about_another_text_and_when_it_did_not(kept, monkeypatch):
    text = {"data_id": "v512", "source": "python-stdlib", "vocab_size": 512}
    monkeypatch.setattr(progress, "find_text", lambda settings, *asked: text if any(asked) else {})
    kept.write_close_out()
    folder = kept.run.folder
    asked = {"tag": folder.name, "results": str(folder.parent), "close_out": True}
    wishes = Wishes(**asked, overrides="vocab_size=512")
    other = "whether the gain holds on the other text"
    assert other in progress.close_out_plan_words(wishes)
    assert other not in progress.close_out_plan_words(Wishes(**asked))
    last = list(progress.close_out_words(wishes))[-1]
    assert last.startswith("not asked yet: whether the gain holds on python-stdlib with a vocab")
    assert last.endswith("the same command with more --hours")
    last = list(progress.close_out_words(Wishes(**asked)))[-1]
    assert "what the best loses without each change" in last and "--close-out" in last


def test_the_best_and_all_others_take_turns_on_seeds_of_their_own(kept):
    ask(kept)
    trials = kept.found.current.trials
    files = [trial.role for trial in trials[:4]]
    assert files[-1] == "best" and [t.role for t in trials[4:8]] == files[::-1]
    assert len({trial.seed for trial in trials}) == 12


def test_a_removal_that_gains_is_said_and_goes_into_the_simplified_file(kept):
    ask(kept, file_without_1=WORSE, file_without_2=WORSE, file_without_3=BETTER)
    assert verdicts(kept)[3] == HURTS
    assert "an interaction: without it the best is 0.1000 bpb better" in "\n".join(
        sentences(kept.run.state, kept.found)
    )
    assert ask(kept, file_without_3=WORSE).made == ["file without 3"]
    assert any("it loses, so the best" in words for words in sentences(kept.run.state, kept.found))


def test_a_crashed_ablation_is_said_and_the_others_are_measured(kept):
    ask(kept, file_without_1="crash", file_without_2=WORSE, file_without_3=WORSE)
    assert verdicts(kept) == {1: UNKNOWN, 2: CONFIRMED, 3: CONFIRMED}
    assert (
        "not measured alone: ended with KeyError"
        in findings_of(kept.run.state, kept.found)[0].words
    )
    assert ask(kept).kind == "longer", "a crash is an answer, and not asked for again"


def test_patches_that_overlap_are_said_and_cost_no_training(tmp_path):
    other = ("import itertools\n", "import itertools as its\n")
    night = Kept(tmp_path / "t", (COMMENTED,), (other,))
    night.claim(baseline=WORSE)
    asked = ask(night, file_without_2=WORSE)
    assert len(asked.trials) == 6 and asked.made == ["file without 2"]
    assert "on the same lines" in words_of(night)[0]


def test_of_a_single_change_the_claim_is_the_ablation(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,))
    night.claim(baseline=WORSE)
    assert (
        verdicts(night) == {1: CONFIRMED} and next_question(night.run, night.found).kind == "longer"
    )


def test_changes_that_all_cost_nothing_alone_are_left_out_together(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (MORE_HEADS,))
    night.claim(baseline=WORSE)
    ask(night)
    assert verdicts(night) == {1: PART, 2: PART}
    assert next_question(night.run, night.found).made == ["file without 1 and 2"]


def test_what_made_the_file_shorter_is_not_put_back_by_the_simplified_one(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (COMMENTED,), kind="simplification")
    night.claim(baseline=WORSE)
    ask(night, file_without_1=WORSE)
    assert verdicts(night)[2] == PART and next_question(night.run, night.found).kind == "longer"


def test_a_best_that_is_no_improvement_confirms_nothing_by_that(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (MORE_HEADS,))
    night.claim(baseline=A_LITTLE)
    ask(night, file_without_1=A_LITTLE)
    assert (
        "part of a best that is not confirmed" in findings_of(night.run.state, night.found)[0].words
    )


def test_a_question_shrinks_to_the_hours_that_are_left(kept):
    question = next_question(kept.run, kept.found)
    each = seconds_of(kept.run, question) / len(question.trials)
    assert within(kept.run, question, 100 * each) == question
    assert within(kept.run, question, 9 * each).made == ["file without 1", "file without 2"]
    assert within(kept.run, question, 6 * each).made == ["file without 1"]
    assert within(kept.run, question, 5 * each) is None
    kept.compare(within(kept.run, question, 6 * each))
    assert next_question(kept.run, kept.found).made == ["file without 2", "file without 3"]
    assert words_left(kept.run, kept.found).startswith("not asked yet: what the best loses")


def test_files_that_cannot_be_made_are_told_in_the_first_hours(tmp_path):
    """They cost nothing, so they are not what is cut."""
    other = ("import itertools\n", "import itertools as its\n")
    night = Kept(tmp_path / "t", (COMMENTED,), (other,), (MORE_DEPTH,))
    night.claim(baseline=WORSE)
    question = next_question(night.run, night.found)
    assert question.made == ["file without 2", "file without 3"]
    each = seconds_of(night.run, question) / len(question.trials)
    first = within(night.run, question, 6 * each)
    assert list(first.others) == ["file without 1", "file without 2"]


def check(night) -> list[str]:
    night.write_close_out()
    look = Look(night.run.folder, None, None, list(night.run.entries), busy=False)
    return [finding for finding in check_close_out(look) if "has no result.json" not in finding]


def test_check_looks_at_the_trainings_of_every_comparison(kept):
    ask(kept, file_without_2=WORSE)
    kept.write_close_out()
    look = Look(kept.run.folder, None, None, list(kept.run.entries), busy=False)
    missing = [finding for finding in check_close_out(look) if "has no result.json" in finding]
    trained = sum(run.status == "ok" for each in kept.found.comparisons for run in each.runs)
    assert len(missing) == trained > len(kept.found.current.runs)


def test_check_knows_every_comparison(kept):
    ask(kept, file_without_1=WORSE, file_without_2="crash")
    ask(kept)
    assert check(kept) == []
    folder = kept.run.folder / "close_out"
    folder.mkdir()
    for name in ("best_0003_file_without_1.py", "best_0003_file_without_9.py"):
        (folder / name).write_text("x = 1\n")
    assert [finding.split(":")[0] for finding in check(kept)] == [
        "close_out/best_0003_file_without_9.py is no training of close_out.jsonl"
    ]
    (folder / "best_0003_file_without_9.py").unlink()
    claims = [n for n, entry in enumerate(kept.close_out) if entry["event"] == "claimed"]
    del kept.close_out[claims[1]]
    assert "not finished" in check(kept)[0] or "stands where" in check(kept)[0]


def test_what_older_harnesses_wrote_is_read_and_checked(kept):
    begun, *rest = kept.close_out
    old = {name: begun[name] for name in ("event", "best", "seeds", "first_seed", "template")}
    del rest[-1]["against"]
    kept.close_out = [old, *rest]
    assert kept.found.claimed["val"]["difference"] == pytest.approx(0.2) and check(kept) == []
