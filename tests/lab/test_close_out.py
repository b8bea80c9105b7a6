"""The claim: its plan on entries of our own, and all of it on a tiny run that is killed."""

import dataclasses
import json
from pathlib import Path

import pytest
from labs import (
    forget_all_but_the_opening,
    incumbent_source,
    put_candidate,
    run_experiment,
    with_prior,
)

import harness
from harness.check.check import check_run
from harness.ground.errors import LoopError, Paused
from harness.lab import close_out, close_out_questions, executor, start
from harness.lab.claimant import Claimant
from harness.lab.close_out import fold_close_out, words_of_claim
from harness.lab.close_out_findings import sentences
from harness.lab.other_text import find_text
from harness.lab.propose_ahead import NIGHT_VARIABLE
from harness.rules import decision
from harness.rules.keep import claim
from harness.run.profiles import PROFILES
from harness.scoring import measure
from harness.show.close_out_page import close_out_page

BEGUN = {"event": "claim_begun", "best": 3, "seeds": 3, "first_seed": 100, "template": False}


def entries_of(runs, begun=BEGUN):
    """A journal: for each (role, val_bpb, holdout_bpb) the next training of the plan."""
    entries = [begun]
    for number, (role, val, holdout) in enumerate(runs):
        trial = fold_close_out(entries).current.next_trial
        assert trial.role == role
        entries.append(
            {
                "event": "run_started",
                "run": number,
                "role": role,
                "experiment": trial.experiment,
                "seed": trial.seed,
            }
        )
        entries.append({"event": "trained", "status": "ok", "cause": ""})
        entries.append(
            {"event": "scored", "status": "ok", "cause": "", "val_bpb": val, "holdout_bpb": holdout}
        )
    return entries


RUNS = [
    *(("baseline", 1.50, 1.60), ("best", 1.40, 1.51), ("best", 1.42, 1.50)),
    *(("baseline", 1.51, 1.61), ("baseline", 1.49, 1.62), ("best", 1.41, 1.52)),
]


def test_best_and_baseline_are_trained_in_turn_as_often_each_on_seeds_of_their_own():
    trials = fold_close_out([BEGUN]).current.trials
    assert [trial.role for trial in trials] == [role for role, _, _ in RUNS]
    assert len({trial.seed for trial in trials}) == 6 and min(trial.seed for trial in trials) == 100
    with_template = fold_close_out([BEGUN | {"template": True}]).current.trials
    assert [trial.role for trial in with_template[6:]] == ["template"]


def test_every_prefix_has_one_next_step():
    steps = [fold_close_out(entries_of(RUNS)[:length]).current.step for length in range(20)]
    assert steps == ["begin", *["train", "close", "score"] * 6, "claim"]


def test_a_training_that_was_cut_off_is_repeated_on_its_seed():
    entries = [
        BEGUN,
        {"event": "run_started", "run": 0, "role": "baseline", "experiment": 0, "seed": 100},
    ]
    entries += [{"event": "trained", "status": "interrupted", "cause": "killed"}]
    found = fold_close_out(entries)
    current = found.current
    assert current.step == "train" and current.next_trial.seed == 100 and found.numbers == 1
    assert current.failed("baseline") is None


def test_two_failures_of_one_file_end_it_without_a_claim():
    run = {"event": "run_started", "run": 0, "role": "baseline", "experiment": 0, "seed": 100}
    crash = {"event": "trained", "status": "crash", "cause": "a bug"}
    assert fold_close_out([BEGUN, run, crash]).current.step == "train"
    found = fold_close_out([BEGUN, run, crash, run | {"run": 1}, crash]).current
    assert found.step == "claim" and found.failed("baseline") and not found.failed("best")


@pytest.mark.parametrize("sure, held", [(True, False), (False, True)])
def test_an_excuse_that_only_the_training_itself_gives_is_held_against_its_file(sure, held):
    """Else one that goes on where it likes its losses would be measured by its best runs."""
    run = {"event": "run_started", "run": 0, "role": "best", "experiment": 3, "seed": 101}
    ended = {"event": "trained", "status": "infrastructure", "cause": "no room", "sure": sure}
    found = fold_close_out([BEGUN, run, ended, run | {"run": 1}, ended]).current
    assert bool(found.failed("best")) is held


def test_the_claim_is_the_difference_of_its_runs_alone():
    claims = fold_close_out(entries_of(RUNS)).current.claims_on("baseline")
    assert claims["val"] == claim([1.40, 1.42, 1.41], [1.50, 1.51, 1.49])
    assert claims["holdout"].difference == pytest.approx(
        (1.60 + 1.61 + 1.62 - 1.51 - 1.50 - 1.52) / 3
    )


@pytest.mark.parametrize(
    "val, holdout, verdict",
    [
        ((0.05, 0.15), (0.02, 0.1), "an improvement"),
        ((0.05, 0.15), (-0.02, 0.1), "which the holdout does not confirm"),
        ((-0.05, 0.15), (0.02, 0.1), "no improvement is claimed"),
        ((-0.15, -0.05), (-0.2, -0.1), "no improvement"),
    ],
)
def test_only_an_interval_above_zero_on_both_texts_is_an_improvement(val, holdout, verdict):
    def interval(low, high):
        return {
            "low": low,
            "high": high,
            "difference": (low + high) / 2,
            "n_best": 3,
            "n_baseline": 3,
        }

    words = words_of_claim(
        {"status": "ok", "best": 3, "val": interval(*val), "holdout": interval(*holdout)}
    )
    assert words.endswith(verdict)


def test_a_run_that_kept_nothing_has_nothing_to_claim(lab):
    found = Claimant(lab).run()
    assert not found.comparisons and "nothing to claim" in close_out_page(lab, found)
    assert not (lab.folder / close_out.NAME).exists()


def changes_in(train_py: Path) -> int:
    """How many of the two changes that these tests keep are in a file."""
    source = train_py.read_text()
    return source.endswith("\nx = 1\n") + ("\nimport itertools\n" in source)


@pytest.fixture
def kept(lab, monkeypatch):
    """A run that kept experiment 1; scores are flattered by 3 bpb for each change, everywhere."""
    score_model = measure.score_model
    monkeypatch.setattr(decision, "quarantine_reasons", lambda *facts: [])

    def flattered(data, job, *arguments):
        score = score_model(data, job, *arguments)
        return dataclasses.replace(score, val_bpb=score.val_bpb - 3.0 * changes_in(job.train_py))

    monkeypatch.setattr(measure, "score_model", flattered)
    with_prior(lab)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    decided = run_experiment(lab)
    assert decided["decision"] == "keep", decided["verdict"]
    lab.number = None
    return lab


def note_trainings(monkeypatch, field: str, cut_off: int = 0) -> list:
    """What each training's request has in that field, as they come; the given one is cut off."""
    train, noted = executor.run_training, []

    def run_training(request, listen):
        noted.append(getattr(request, field))
        if len(noted) == cut_off:
            raise KeyboardInterrupt
        return train(request, listen)

    monkeypatch.setattr(executor, "run_training", run_training)
    return noted


@pytest.mark.slow
def test_a_claim_is_measured_goes_on_after_a_kill_and_is_made_once(kept, monkeypatch):
    calls = note_trainings(monkeypatch, "seed", cut_off=2)
    with pytest.raises(KeyboardInterrupt):
        Claimant(kept, seeds=2).run()
    assert len(close_out.read_close_out(kept.folder).current.trials_left) == 3
    assert check_run(kept.folder, harness.REPOSITORY) == []
    found = Claimant(kept, seeds=2).run()
    assert calls[1] == calls[2] and len(calls) == 5 and len(set(calls)) == 4
    assert not set(calls) & {
        run.started["seed"] for e in kept.state.experiments for run in e.attempt.runs
    }
    claimed = found.claimed
    assert claimed["val"]["difference"] == pytest.approx(3.0, abs=0.5) and claimed["val"]["low"] > 0
    assert words_of_claim(claimed).endswith("an improvement")
    assert words_of_claim(claimed) in close_out_page(kept, found).replace("&#x27;", "'")
    assert not list((kept.folder / "close_out").glob("*/weights.safetensors"))
    assert Claimant(kept, seeds=2).run().claimed == claimed and len(calls) == 5
    assert check_run(kept.folder, harness.REPOSITORY) == []
    path = kept.folder / close_out.NAME
    text = path.read_text()
    path.write_text(text.replace(f'"low": {claimed["val"]["low"]}', '"low": 2.99'))
    assert any(
        "not what its runs give" in finding
        for finding in check_run(kept.folder, harness.REPOSITORY)
    )
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:-1]).replace('"role": "best"', '"role": "baseline"', 1))
    assert any("its plan says" in finding for finding in check_run(kept.folder, harness.REPOSITORY))


def test_the_wish_to_stop_of_a_night_that_is_over_stops_no_close_out_by_hand(kept, monkeypatch):
    (kept.folder / close_out.STOP_FILE).write_text("stop\n")
    monkeypatch.setenv(NIGHT_VARIABLE, "1")
    assert Claimant(kept).run().current.step == "train"
    monkeypatch.delenv(NIGHT_VARIABLE)

    def train(*arguments):
        raise LoopError("it trains")

    monkeypatch.setattr(Claimant, "_train", train)
    with pytest.raises(LoopError, match="it trains"):
        Claimant(kept).run()


def test_hours_too_few_for_the_claim_are_refused_before_anything_is_trained(kept):
    with pytest.raises(LoopError, match="too few for the claim: its 6 trainings take"):
        Claimant(kept, hours=1e-4).run()
    assert not (kept.folder / close_out.NAME).exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)  # twenty trainings
def test_with_hours_it_goes_on_to_what_each_change_is_worth_and_whether_it_lasts(kept, monkeypatch):
    source = incumbent_source(kept)
    put_candidate(kept, source.replace("import math\n", "import math\nimport itertools\n", 1))
    assert run_experiment(kept)["decision"] == "keep"
    kept.number = None
    budgets = note_trainings(monkeypatch, "budget_seconds")
    found = Claimant(kept, seeds=2, hours=9.0).run()
    assert [(each.kind, each.budgets) for each in found.comparisons] == [
        ("claim", 1),
        ("ablation", 1),
        ("longer", 2),
        ("longer", 4),
    ]
    budget = kept.settings.budget_seconds
    assert budgets == [budget] * 10 + [2 * budget] * 4 + [4 * budget] * 4
    said = "\n".join(sentences(kept.state, found))
    assert "experiment 1 (an idea) is confirmed: without it the best is" in said
    assert "experiment 2 (an idea) is confirmed" in said
    assert "the gain lasts at 4x the budget" in said and " at 2x, " in said
    page = close_out_page(kept, found)
    files, intervals = 2 + 3 + 2 + 2, 1 + 2 + 1 + 1
    assert (
        page.count("<img") == files + intervals
        and "whether the gain lasts at 4x the budget" in page
    )
    assert check_run(kept.folder, harness.REPOSITORY) == []


@pytest.mark.slow
def test_best_and_baseline_are_compared_on_another_vocabulary_too(kept, monkeypatch):
    monkeypatch.setattr(close_out_questions, "BUDGETS", ())
    profile = start.with_wishes(PROFILES["tiny"], "", "vocab_size=300")
    data = start.prepare_profile(profile, str(kept.data.folder.parent), lambda line: None)
    text = find_text(kept.settings, "", "vocab_size=300 DEPTH=1")
    assert text["data_id"] == data.data_id and find_text(kept.settings, "", "DEPTH=1") == {}
    vocabularies = note_trainings(monkeypatch, "n_vocab", cut_off=6)
    with pytest.raises(KeyboardInterrupt):
        Claimant(kept, seeds=2, hours=9.0, text=text).run()
    found = Claimant(kept, seeds=2, hours=9.0).run()  # what has begun knows its text
    assert vocabularies == [kept.data.n_vocab] * 4 + [data.n_vocab] * 5
    assert [each.kind for each in found.comparisons] == ["claim", "elsewhere"]
    said = "\n".join(sentences(kept.state, found))
    assert "the gain holds on python-stdlib with a vocabulary of 300; on its holdout" in said
    assert "with a vocabulary of 300" in close_out_page(kept, found)
    assert check_run(kept.folder, harness.REPOSITORY) == []


@pytest.mark.slow
def test_a_machine_that_fails_pauses_the_claim(kept, monkeypatch):
    fault = {"status": "infrastructure", "cause": "disturbed: others held the cores"}
    monkeypatch.setattr(
        executor, "run_training", lambda request, listen: (request_folder(request), fault)[1]
    )
    with pytest.raises(Paused, match="others held the cores"):
        Claimant(kept, seeds=2).run()
    assert (
        fold_close_out(
            [json.loads(line) for line in (kept.folder / close_out.NAME).read_text().splitlines()]
        ).current.step
        == "train"
    )


def request_folder(request):
    folder = Path(request.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.log").write_text("")


def test_without_a_baseline_there_is_nothing_to_claim(lab):
    forget_all_but_the_opening(lab)
    with pytest.raises(LoopError, match="no baseline"):
        Claimant(lab).run()
