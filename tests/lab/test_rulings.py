"""A person's word on an experiment in quarantine: what it changes, and what a kill does not."""

import dataclasses
import json

import pytest
from checkout import git
from labs import Kill, copy_of, incumbent_source, put_candidate, row, run_experiment

import harness
from harness.check.check import check_run
from harness.ground.errors import RulingError
from harness.lab import ruling
from harness.lab.loop import Lab
from harness.night import requests
from harness.rules import quarantine
from harness.run import git_history
from harness.run.journal import Journal
from harness.run.records import records_from_journal
from harness.run.results import read_results
from harness.run.run import Run
from harness.scoring import measure
from harness.show import status


@pytest.fixture(scope="module")
def made(baseline, tmp_path_factory):
    """The run with one more experiment, whose 0.01 bits per byte nobody believes.

    Made once, copied by each test.
    """
    folder = tmp_path_factory.mktemp("quarantined")
    score_model = measure.score_model

    def flattered(data, job, *arguments):
        score = score_model(data, job, *arguments)
        # And not of the incumbent, trained again beside it.
        of_idea = "x = 1" in job.train_py.read_text()
        return dataclasses.replace(score, val_bpb=0.01) if of_idea else score

    with copy_of(baseline, folder) as lab, pytest.MonkeyPatch.context() as patch:
        put_candidate(lab, incumbent_source(lab) + "x = 1\n", "too good")
        patch.setattr(measure, "score_model", flattered)
        # Two seeds of a training of one second are a poor measure of the noise.
        patch.setattr(quarantine, "SIGMAS", 3)
        decided = run_experiment(lab)
    assert decided["decision"] == "quarantine", decided["verdict"]
    return folder


@pytest.fixture
def quarantined(made, tmp_path, monkeypatch):
    # As it was decided: the checks ask the rules again.
    monkeypatch.setattr(quarantine, "SIGMAS", 3)
    with copy_of(made, tmp_path) as lab:
        yield lab
        lab.release()
        assert check_run(lab.folder, harness.REPOSITORY) == []


def test_what_is_in_quarantine_waits_and_changes_nothing(quarantined):
    lab = quarantined
    assert lab.state.incumbent.number == 0 and row(lab, 1)[2] == "discard"
    assert read_results(lab.folder / "results.tsv")[1].description == "quarantined: too good"
    assert git(harness.REPOSITORY, "rev-parse", "autoresearch/t") == lab.state.experiments[0].commit
    # A person may want to look.
    assert (lab.training_folder(1, 0, 0) / "weights.safetensors").exists()
    assert "--accept N" in status.status_screen(Run(lab.folder))


def test_an_accepted_one_becomes_the_incumbent_everywhere(quarantined):
    lab = quarantined
    lab.release()
    assert "is accepted and the best so far" in requests.rule(lab.folder, 1, accept=True)
    with Lab(lab.folder) as again:
        state, commit = again.state, again.state.experiments[1].commit
    assert state.incumbent.number == 1 and commit == state.experiments[1].ruled["commit"]
    assert git(harness.REPOSITORY, "rev-list", "autoresearch/t").split()[:2] == [
        commit,
        state.experiments[0].commit,
    ]
    assert git(harness.REPOSITORY, "show", "autoresearch/t:train.py") == lab.train_py(
        state.experiments[1]
    ).read_text().rstrip("\n")
    assert (
        git(harness.REPOSITORY, "rev-parse", git_history.experiment_ref("t", 1))
        == state.experiments[1].committed["commit"]
    )
    found = read_results(lab.folder / "results.tsv")[1]
    assert (found.status, found.description) == ("keep", "too good") and not (
        lab.folder / "results.tsv.edited"
    ).exists()
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == 1
    assert records_from_journal(again.journal.entries)[1].outcome == "kept"


def test_a_refused_one_stays_a_discard_and_its_weights_go(quarantined):
    lab = quarantined
    lab.release()
    assert "is refused" in requests.rule(lab.folder, 1, accept=False)
    with Lab(lab.folder) as again:
        assert again.state.incumbent.number == 0
        assert records_from_journal(again.journal.entries)[1].outcome == "discarded"
    assert read_results(lab.folder / "results.tsv")[1].description == "refused: too good"
    assert not (lab.training_folder(1, 0, 0) / "weights.safetensors").exists()


def test_one_word_is_enough_and_only_on_what_is_in_quarantine(quarantined):
    lab = quarantined
    lab.release()
    for number in (0, 2):
        with pytest.raises(RulingError, match="not in quarantine \\(there: 1\\)"):
            requests.rule(lab.folder, number, accept=True)
    requests.rule(lab.folder, 1, accept=False)
    with pytest.raises(RulingError, match="there: none"):
        requests.rule(lab.folder, 1, accept=True)


def test_a_word_during_an_experiment_takes_effect_when_it_is_over(quarantined):
    lab = quarantined
    put_candidate(lab, "def f(:\n")
    lab.begin()
    lab.propose()
    ruling.request_ruling(lab.folder, 1, accept=True)
    lab.release()
    with Lab(lab.folder) as again:
        assert again.state.incumbent.number == 0  # not in the middle of it
        assert run_experiment(again)["incumbent"] == 0
    with Lab(lab.folder) as later:
        later.rule()
        assert later.state.incumbent.number == 1 and not list((lab.folder / "rulings").iterdir())


@pytest.mark.parametrize("moment", ["before the entry", "after it"])
def test_a_kill_in_the_middle_is_made_up_for(quarantined, monkeypatch, moment):
    lab = quarantined
    lab.release()
    append = Journal.append

    def killed(self, event, **fields):
        if event == "ruled" and moment == "after it":
            append(self, event, **fields)
        if event == "ruled":
            raise Kill
        return append(self, event, **fields)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(Journal, "append", killed)
        requests.rule(lab.folder, 1, accept=True)
    assert check_run(lab.folder, harness.REPOSITORY) == []
    if moment == "before the entry":  # branch and best/ are moved already
        with pytest.raises(RulingError, match="--accept 1 finishes that"):
            requests.rule(lab.folder, 1, accept=False)
        ruling.request_ruling(lab.folder, 1, accept=True)
    with Lab(lab.folder) as again:
        again.rule()
        events = [entry["event"] for entry in again.journal.entries]
        commit = again.state.incumbent.commit
    assert events.count("ruled") == 1 and again.state.incumbent.number == 1
    assert git(harness.REPOSITORY, "rev-list", "autoresearch/t").split()[0] == commit
    # Start, baseline, this one.
    assert len(git(harness.REPOSITORY, "rev-list", "autoresearch/t").split()) == 3
    assert [found.status for found in read_results(lab.folder / "results.tsv")] == ["keep", "keep"]
