"""Ideas of a proposer that can mend them: a smoke run, and a further attempt after a failure.

Real trainings of one second.

Attempts are put where the propose process would have left them; what it is asked is looked at in
its request.
"""

import pytest
from labs import incumbent_source, row, short_of_memory
from proposals import leave_proposal

import harness
from harness.check.check import check_run
from harness.ground.files import write_json_atomic
from harness.lab import proposing
from harness.run.results import read_results
from harness.run.state import MOST_REPAIRS

FIRST_LINE = "model = build_model"
HARMLESS = (FIRST_LINE, "harmless = 1\n    model = build_model")


def put_attempt(lab, attempt: int, source: str | None, proposer: str = "llm", **more) -> None:
    """Put an attempt of the current or next experiment where its propose process would leave it.

    None: a repair that could not be made.
    """
    folder = lab.attempt_folder(lab.step.experiment, attempt)
    if source is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(folder / "proposal.json", {"gave_up": "nothing to say"} | more)
        return
    facts = {"category": "architecture", "proposer": proposer, "parent": 0}
    leave_proposal(folder, source, f"attempt {attempt}", **facts | more)


def changed(lab, *changes: tuple[str, str]) -> str:
    source = incumbent_source(lab)
    for old, new in changes:
        assert old in source
        source = source.replace(old, new)
    return source


def carry_out(lab, listen=lambda event: None):
    """The notebook's cells."""
    lab.begin()
    lab.propose("tpe")
    lab.check()
    lab.train(listen)
    lab.decide()
    lab.commit()
    lab.number = None
    return lab.state.experiments[-1]


def kinds(attempt) -> list[tuple[str, str]]:
    return [(run.started["kind"], run.status) for run in attempt.runs]


@pytest.mark.slow
def test_new_code_is_tried_for_a_few_steps_before_its_training(lab):
    put_attempt(lab, 0, changed(lab, HARMLESS))
    heard = []
    experiment = carry_out(lab, heard.append)
    smoke, score = experiment.attempt.runs[:2]
    assert kinds(experiment.attempt)[:2] == [("smoke", "ok"), ("score", "ok")]
    assert (
        smoke.trained["num_steps"] == 3 and smoke.val_bpb is None and score.trained["num_steps"] > 3
    )
    assert experiment.decided["n_runs"] == len(experiment.attempt.runs) - 1 and row(lab, 1)[2] in (
        "keep",
        "discard",
    )
    assert not (lab.training_folder(1, 0, 0) / "weights.safetensors").exists()
    assert {event["run_kind"] for event in heard if event["run"] == 0} == {"smoke"}
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []


@pytest.mark.slow
@pytest.mark.parametrize("proposer", ["llm", "tpe"])
def test_other_numbers_and_ideas_of_the_bank_need_no_smoke_run(lab, proposer):
    change = ("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.05 ") if proposer == "llm" else HARMLESS
    put_attempt(lab, 0, changed(lab, change), proposer)
    assert kinds(carry_out(lab).attempt)[0][0] == "score"


def test_what_the_gate_refuses_is_mended_before_anything_is_trained(lab):
    put_attempt(lab, 0, changed(lab, (FIRST_LINE, "import socket\n    model = build_model")))
    put_attempt(lab, 1, changed(lab, HARMLESS))
    experiment = carry_out(lab)
    assert [attempt.checked["ok"] for attempt in experiment.attempts] == [False, True]
    assert (
        experiment.decided["title"] == "attempt 1"
        and experiment.decided["attempt"] == 1
        and experiment.mean
    )
    assert len(read_results(lab.folder / "results.tsv")) == 2
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []


@pytest.mark.slow
def test_a_crash_of_the_smoke_run_is_mended_and_its_end_told(lab, monkeypatch):
    crash = (
        FIRST_LINE,
        (
            "print('a word before')\n"
            "    raise ValueError('shapes 3 and 4 do not fit')\n"
            "    model = build_model"
        ),
    )
    put_attempt(lab, 0, changed(lab, crash))
    asked = []

    def answer(folder, request, asking):
        asked.append(request)
        put_attempt(lab, 1, changed(lab, HARMLESS))
        return proposing.read_proposal(folder)

    monkeypatch.setattr(proposing, "run_proposer", answer)
    folder = lab.attempt_folder(1, 1)
    experiment = carry_out(lab)
    assert kinds(experiment.attempts[0]) == [("smoke", "crash")]
    assert kinds(experiment.attempt)[:2] == [("smoke", "ok"), ("score", "ok")]
    [request] = asked
    repair = request["repair"]
    assert (request["attempt"], request["out_dir"]) == (1, str(folder)) and repair[
        "status"
    ] == "crash"
    assert (
        "shapes 3 and 4" in repair["cause"]
        and "a word before" in repair["log"]
        and "raise ValueError" in repair["train_py"]
    )
    assert [history["experiment"] for history in request["history"]] == [0]


@pytest.mark.slow
def test_what_only_scoring_shows_is_seen_before_the_budget_is_spent(lab):
    blind = (
        "        return self.padded_logits(idx)[..., : self.vocab_size]",
        "        return (self.padded_logits(idx) * float('nan'))[..., : self.vocab_size]",
    )
    put_attempt(lab, 0, changed(lab, blind))
    put_attempt(lab, 1, None)
    experiment = carry_out(lab)
    assert kinds(experiment.attempt) == [("smoke", "nan")]
    assert (experiment.decided["status"], experiment.decided["decision"]) == ("nan", "discard")


@pytest.mark.slow
def test_a_repair_that_cannot_be_made_leaves_the_failure_as_it_was(lab):
    put_attempt(
        lab, 0, changed(lab, (FIRST_LINE, "raise ValueError('no')\n    model = build_model"))
    )
    put_attempt(lab, 1, None, usage={"requests": 1})
    experiment = carry_out(lab)
    assert experiment.unrepaired["why"] == "nothing to say" and experiment.unrepaired["usage"] == {
        "requests": 1
    }
    assert (
        len(experiment.attempts) == 1
        and experiment.decided["status"] == "crash"
        and row(lab, 1) == (0.0, 0.0, "crash")
    )
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []


@pytest.mark.slow
def test_after_two_repairs_it_is_a_failure(lab):
    for number in range(MOST_REPAIRS + 1):
        bad = changed(
            lab, (FIRST_LINE, f"raise ValueError('no {number}')\n    model = build_model")
        )
        put_attempt(lab, number, bad)
    experiment = carry_out(lab)
    assert [kinds(attempt) for attempt in experiment.attempts] == [[("smoke", "crash")]] * (
        MOST_REPAIRS + 1
    )
    assert (
        "no 2" in experiment.decided["verdict"]
        and len(read_results(lab.folder / "results.tsv")) == 2
    )


@pytest.mark.slow
def test_others_mistakes_are_not_mended(lab):
    put_attempt(
        lab, 0, changed(lab, (FIRST_LINE, "raise ValueError('no')\n    model = build_model")), "tpe"
    )
    experiment = carry_out(lab)
    assert len(experiment.attempts) == 1 and kinds(experiment.attempt) == [("score", "crash")]


@pytest.mark.slow
def test_a_smoke_run_short_of_memory_is_tried_with_fewer_rows(lab):
    put_attempt(lab, 0, short_of_memory(lab))
    experiment = carry_out(lab)
    assert kinds(experiment.attempt)[:3] == [("smoke", "oom"), ("smoke", "ok"), ("score", "ok")]
    assert (
        experiment.attempt.runs[2].started["device_batch_limit"] == 4
        and len(experiment.attempts) == 1
    )


@pytest.mark.slow
def test_another_experiment_may_be_what_an_idea_starts_from(lab):
    put_attempt(lab, 0, changed(lab, ("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.004 ")), "tpe")
    first = carry_out(lab)
    source = (lab.attempt_folder(1) / "train.py").read_text()
    put_attempt(lab, 0, source.replace("MUON_STEPS = 5 ", "MUON_STEPS = 4 "), "llm", parent=1)
    second = carry_out(lab)
    assert second.attempt.proposed["parent"] == first.number == 1
    diff = (lab.attempt_folder(2) / "train.diff").read_text()
    assert "+MUON_STEPS = 4" in diff and "MATRIX_LR" not in [
        line[1:10] for line in diff.splitlines() if line[:1] in "+-"
    ]
    assert second.decided["incumbent"] == lab.state.kept[-1].number or lab.state.incumbent is second
