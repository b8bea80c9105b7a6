"""The loop's stages, with real trainings of one second.

Candidates are put where a proposer would have left them.
"""

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, git
from labs import (
    Kill,
    forget_all_but_the_opening,
    incumbent_source,
    point_at,
    put_candidate,
    row,
    run_experiment,
    short_of_memory,
    with_prior,
)
from living import alive_with

import harness
from harness.check.check import check_run
from harness.ground.errors import LoopError, Paused
from harness.lab import executor, loop, trainings
from harness.lab.loop import Lab
from harness.lab.proposal_request import Asking, proposal_request
from harness.lab.proposing import OBEYED, program_in_force
from harness.night import progress
from harness.rules import decision, fault
from harness.run import disk_space, git_history, locks
from harness.run.journal import Journal
from harness.run.records import records_from_journal
from harness.run.results import read_results
from harness.run.state import MOST_CUT_OFF
from harness.scoring import measure
from harness.search.program import read_program
from harness.show import status
from harness.show.experiment_page import LiveTraining
from harness.show.idea_page import idea_page

LIES = (
    '    lies = {"share": "x", "stage": ["training"], "run": {}, "seed": "</div>", "status": 1}\n'
    '    lies |= {"budget_seconds": "x", "run_kind": None, "experiment": -1, "cause": []}\n'
    "    session._send('batch', device_batch_size='x', progress='x', train_loss=[], **lies)\n"
    "    session._send('step', step=0, progress=0.0, train_loss=1.0, tok_per_sec=1.0, **lies)\n"
)


def test_names_that_a_training_gives_its_events_are_none_of_ours(lab, monkeypatch):
    monkeypatch.setattr(loop, "check_candidate", lambda source, tried: [])
    source = incumbent_source(lab).replace("    session.start()\n", f"{LIES}    session.start()\n")
    put_candidate(lab, source)
    live, told = LiveTraining(), []

    def listen(event: dict) -> None:
        live(event)
        told.append(event | {"page": live.page(event)})

    for stage in (lab.begin, lab.propose, lab.check):
        stage()
    lab.train(listen)
    assert lab.experiment.attempt.runs[0].status == "ok", lab.experiment.attempt.failure
    assert {event["experiment"] for event in told} == {1}
    assert {event["stage"] for event in told} == {"training", "scoring"}


def test_the_baseline_is_one_row_one_commit_and_the_first_incumbent(lab):
    state = lab.state
    assert len(state.experiments[0].attempt.scores) == 2 and state.noise.df == 1
    assert row(lab, 0) == (
        pytest.approx(state.experiments[0].mean, abs=1e-6),
        pytest.approx(1.0, abs=0.9),
        "keep",
    )
    assert (
        git(harness.REPOSITORY, "log", "--format=%s", "autoresearch/t") == "0000: baseline\nstart"
    )
    summary = (lab.training_folder(0, 0, 1) / "run.log").read_text().splitlines()
    assert (
        summary[-10] == "---"
        and summary[-9].startswith("val_bpb:")
        and summary[-1].startswith("depth:")
    )
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == 0


def test_a_better_file_is_kept_and_everything_agrees(lab):
    source = incumbent_source(lab).replace("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.02 ")
    put_candidate(lab, source)
    sure = {
        "sigma": 1e-4,
        "df": 4,
        "note": "a noise so small that the result must be a keep or a discard",
    }
    lab.journal.entries[0]["prior"] = sure
    decided = run_experiment(lab)
    kept = decided["decision"] == "keep"
    # A refresh may have put the older ones aside.
    before = [run.val_bpb for run in lab.state.experiments[0].attempt.runs]
    rivals = before[-decided["incumbent_runs"] :]
    gain = sum(rivals) / len(rivals) - lab.state.experiments[1].mean
    assert decided["status"] == "ok" and decided["gain"] == pytest.approx(gain, abs=2e-6)
    assert row(lab, 1)[2] == ("keep" if kept else "discard")
    commit = lab.experiment.committed["commit"]
    assert git(
        harness.REPOSITORY, "show", f"{git_history.experiment_ref('t', 1)}:train.py"
    ) == source.rstrip("\n")
    assert (git(harness.REPOSITORY, "rev-parse", "autoresearch/t") == commit) is kept
    assert (lab.training_folder(1, 0, 0) / "weights.safetensors").exists() is kept
    assert (lab.training_folder(0, 0, 0) / "weights.safetensors").exists()  # the baseline's stay
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == int(
        kept
    )


@pytest.mark.slow
def test_a_lower_score_is_kept_branch_best_and_weights_with_it(lab, monkeypatch):
    old = git(harness.REPOSITORY, "rev-parse", "autoresearch/t")
    score_model = measure.score_model
    # A start-up of a loaded machine is not the point here.
    monkeypatch.setattr(decision, "quarantine_reasons", lambda *facts: [])
    with_prior(lab)
    monkeypatch.setattr(measure, "score_model", flattering(score_model))
    for number in (1, 2):
        put_candidate(lab, incumbent_source(lab) + f"x = {number}\n")
        decided = run_experiment(lab)
        lab.number = None
        assert (decided["decision"], decided["kind"]) == ("keep", "gain")
    commits = [e.committed["commit"] for e in lab.state.experiments]
    assert (
        git(harness.REPOSITORY, "rev-list", "autoresearch/t").split()[:3] == commits[::-1]
        and commits[0] == old
    )
    assert json.loads((lab.folder / "best" / "provenance.json").read_text())["experiment"] == 2
    assert (lab.folder / "best" / "train.py").read_text() == incumbent_source(lab)
    kept = [
        (lab.training_folder(number, 0, 0) / "weights.safetensors").exists() for number in range(3)
    ]
    assert kept == [True, False, True]
    refreshes = [
        run
        for e in lab.state.experiments
        for run in e.attempt.runs
        if run.started["kind"] == "refresh"
    ]
    assert [run.started["beside"] for run in refreshes][:1] == [1] and len(
        read_results(lab.folder / "results.tsv")
    ) == 3


def flattering(score_model):
    """Scores that are 1 bit per byte lower for each line `x = ...` of a file."""

    def flattered(data, job, *arguments):
        score = score_model(data, job, *arguments)
        return dataclasses.replace(
            score, val_bpb=score.val_bpb - 1.0 * job.train_py.read_text().count("\nx = ")
        )

    return flattered


def heavy(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & {
        "weights.safetensors",
        "losses.npy",
        "holdout_losses.npy",
    }


@pytest.mark.slow
@pytest.mark.parametrize("before", ["trained", "scored", "the weights are dropped"])
def test_a_kill_in_a_refresh_is_made_up_for(lab, monkeypatch, before):
    monkeypatch.setattr(decision, "quarantine_reasons", lambda *facts: [])
    monkeypatch.setattr(measure, "score_model", flattering(measure.score_model))
    with_prior(lab)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    append = Journal.append

    def killed(self, event, **fields):
        if (event, fields.get("experiment")) == (before, 0):
            raise Kill
        return append(self, event, **fields)

    def not_dropped(folder):
        raise Kill

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(Journal, "append", killed)
        if before == "the weights are dropped":
            patch.setattr(trainings, "drop_weights_of_run", not_dropped)
        run_experiment(lab)
    place, step = lab.training_folder(0, 0, 2), lab.step
    expected = {"trained": "in_flight", "scored": "score"}.get(before, "audit")
    assert (step.kind, step.experiment, step.file) == (
        expected,
        1,
        (0, 0) if expected != "audit" else (1, 0),
    )
    assert ("weights.safetensors" in heavy(place)) is True
    lab.release()
    with Lab(lab.folder) as again:
        run_experiment(again)
        baseline = again.state.experiments[0].attempt
        assert [run.status for run in baseline.runs[2:]] == (
            ["interrupted", "ok"] if before == "trained" else ["ok"]
        )
        assert again.experiment.decided["decision"] == "keep"
        ended = [run.number for run in baseline.runs[2:] if run.status == "ok"]
        assert [heavy(again.training_folder(0, 0, number)) for number in ended] == [set()]
        assert not list(again.attempt_folder(0).glob("runs/*/compile_cache"))
        # The baseline's own stay.
        assert "weights.safetensors" in heavy(again.training_folder(0, 0, 0))
    assert check_run(lab.folder, harness.REPOSITORY) == []


def test_an_incumbent_that_no_longer_trains_pauses_the_loop_and_is_not_the_ideas_failure(
    lab, monkeypatch
):
    monkeypatch.setattr(measure, "score_model", flattering(measure.score_model))
    with_prior(lab)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    real = executor.run_training

    def train(request, listen):
        of_idea = "\nx = 1" in Path(request.train_py).read_text()
        return real(request, listen) if of_idea else failing("crash", "no kernel")(request)

    monkeypatch.setattr(executor, "run_training", train)
    with pytest.raises(
        Paused,
        match=(
            r"3 runs in a row .* the best file so far \(experiment 0\), trained again, .* no kernel"
        ),
    ):
        run_experiment(lab)
    assert (lab.step.kind, lab.step.run_kind, lab.step.experiment) == ("train", "refresh", 1)
    assert (
        lab.state.experiments[1].attempt.failure is None
        and lab.state.experiments[0].attempt.failure is None
    )
    assert len(read_results(lab.folder / "results.tsv")) == 1


class Disturbed:
    """A watch whose card others use in the first few trainings."""

    left = 0

    def __init__(self, uuid: str, folder: Path) -> None:
        Disturbed.left -= 1
        others = 0.4 if Disturbed.left >= 0 else 0.0
        self.facts = {"seconds": 300.0, "others_share": others}
        self.facts |= {"slowed_share": 0.0, "waited_share": 0.0}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def hear(self, event):
        pass


@pytest.mark.parametrize("times", [1, 3])
def test_a_training_on_a_disturbed_card_is_repeated_twice_and_then_says_nothing_of_the_idea(
    lab, monkeypatch, times
):
    monkeypatch.setattr(executor, "CardWatch", Disturbed)
    monkeypatch.setattr(Disturbed, "left", times)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    decided = run_experiment(lab)
    runs = lab.state.experiments[1].attempt.runs
    assert [run.status for run in runs[:times]] == ["infrastructure"] * times
    assert all(run.excused and run.val_bpb is None for run in runs[:times])
    if times == 1:
        assert runs[1].status == "ok" and runs[1].trained["card"]["others_share"] == 0.0
    else:
        assert (decided["decision"], decided["status"]) == ("discard", "infrastructure")
        assert "inconclusive: 3 of its trainings were disturbed" in decided["verdict"]
        assert "others had 40% of the card" in decided["verdict"]
        assert records_from_journal(lab.journal.entries)[-1].outcome == "no result"


@pytest.mark.parametrize(
    "change, status",
    [
        (
            ("model = build_model", "raise ValueError('a bad idea')\n    model = build_model"),
            "crash",
        ),
        (("session.log(step, total,", "session.log(step, total * float('nan'),"), "nan"),
        (("model = build_model", "raise MemoryError('too large')\n    model = build_model"), "oom"),
    ],
)
def test_a_failure_is_a_row_a_commit_and_a_reason(lab, change, status):
    assert change[0] in incumbent_source(lab)
    put_candidate(lab, incumbent_source(lab).replace(*change))
    decided = run_experiment(lab)
    assert (decided["decision"], decided["status"], decided["val_bpb"]) == ("discard", status, None)
    assert row(lab, 1) == (0.0, 0.0, "crash")
    assert (
        git(harness.REPOSITORY, "rev-parse", git_history.experiment_ref("t", 1))
        == lab.experiment.committed["commit"]
    )
    assert json.loads((lab.training_folder(1, 0, 0) / "result.json").read_text())["val_bpb"] is None


@pytest.mark.slow
def test_out_of_memory_becomes_a_smaller_device_batch_and_no_lost_idea(lab):
    put_candidate(lab, short_of_memory(lab))
    said = []
    lab.begin()
    lab.propose()
    lab.check()
    lab.train(said.append)
    lab.decide()
    lab.commit()
    runs = lab.experiment.attempt.runs
    assert [(run.trained["device_batch_size"], run.status) for run in runs[:2]] == [
        (8, "oom"),
        (4, "ok"),
    ]
    assert [run.started["device_batch_limit"] for run in runs[:2]] == [None, 4]
    # Confirmations, if there were any.
    assert all(run.trained["device_batch_size"] == 4 for run in runs[1:])
    decided = lab.experiment.decided
    assert decided["status"] == "ok" and decided["n_runs"] == len(runs) - 1 and row(lab, 1)[0] > 0
    assert len(read_results(lab.folder / "results.tsv")) == 2
    record = records_from_journal(lab.journal.entries)[1]
    assert (
        record.outcome in ("discarded", "kept")
        and record.cause == ""
        and record.n_runs == len(runs) - 1
    )
    words = [
        progress.line_of_entry(entry)
        for entry in lab.journal.entries
        if entry["event"] == "run_started"
    ]
    assert "experiment 1: once more, with at most 4 rows at a time" in words
    assert [event["status"] for event in said if event.get("event") == "over"][:2] == ["oom", "ok"]


def test_a_baseline_out_of_memory_shrinks_too_and_says_what_to_do_when_one_row_is_too_much(
    lab, monkeypatch
):
    limits = []

    def train(request, listen):
        limits.append(request.device_batch_limit)
        Path(request.folder).mkdir(parents=True, exist_ok=True)
        (Path(request.folder) / "run.log").write_text("")
        rows = request.device_batch_limit or 8
        return {
            "status": "oom",
            "cause": "CUDA out of memory",
            "device_batch_size": rows,
            "memory_mb": None,
        }

    monkeypatch.setattr(executor, "run_training", train)
    shutil.rmtree(lab.attempt_folder(0))
    forget_all_but_the_opening(lab)
    with pytest.raises(LoopError, match=r"CUDA out of memory; .* smaller model: .*\(--set\)"):
        lab.run_baseline()
    assert limits == [None, 4, 2, 1]


def test_a_model_server_waits_while_a_run_trains_and_ends_with_one_that_fails(
    lab, monkeypatch, bubblewrap
):
    waiting = []

    def train(request, listen):
        waiting.extend(alive_with("harness.scoring.server", mine=True))
        (Path(request.folder) / "run.log").write_text("")
        return {"status": "crash", "cause": "a bad idea", "device_batch_size": 8, "memory_mb": None}

    monkeypatch.setattr(executor, "run_training", train)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    assert run_experiment(lab)["status"] == "crash"
    assert waiting and not alive_with("harness.scoring.server", mine=True)
    assert sorted(path.name for path in lab.training_folder(1, 0, 0).iterdir()) == [
        "result.json",
        "run.log",
    ]


@pytest.mark.parametrize(
    "source, reason", [("def f(:\n", "not valid Python"), (None, "tried before")]
)
def test_a_refused_file_is_never_trained(lab, source, reason):
    put_candidate(lab, source or incumbent_source(lab) + "# nothing but a comment\n")
    decided = run_experiment(lab)
    assert decided["status"] == "invalid_patch" and reason in decided["verdict"]
    assert row(lab, 1) == (0.0, 0.0, "crash") and not (lab.attempt_folder(1) / "runs").exists()


def test_stages_are_skipped_when_done_and_do_not_begin_the_next_experiment(lab):
    put_candidate(lab, "def f(:\n")
    run_experiment(lab)
    length = len(lab.journal.entries)
    for stage in (lab.propose, lab.check, lab.train, lab.decide, lab.commit):
        stage()
    assert len(lab.journal.entries) == length and lab.experiment.number == 1


def test_a_run_whose_harness_died_is_closed_and_repeated(lab):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()
    # And then the kill.
    lab.journal.append("run_started", experiment=1, attempt=0, run=0, kind="score", seed=1)
    lab.training_folder(1, 0, 0).mkdir(parents=True)
    lab.release()
    with Lab(lab.folder) as again:
        assert [
            e["status"]
            for e in again.journal.entries
            if e["event"] == "trained" and e["experiment"] == 1
        ] == ["interrupted"]
        assert run_experiment(again)["status"] == "ok"
        assert [run.status for run in again.experiment.attempt.runs][:2] == ["interrupted", "ok"]
        assert len(read_results(again.folder / "results.tsv")) == 2


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("checked", marks=pytest.mark.slow),
        "scored",
        pytest.param("decided", marks=pytest.mark.slow),
        "committed",
    ],
)
def test_a_kill_just_before_an_entry_is_written_loses_nothing(lab, monkeypatch, before):
    """The worst moment of each stage: its work is done, and the journal does not know it yet."""
    quick = incumbent_source(lab).replace(
        "session.start()", "session.start()\n    raise ValueError('quick')"
    )
    put_candidate(lab, incumbent_source(lab) + "x = 1\n" if before == "scored" else quick)
    append = Journal.append

    def killed(self, event, **fields):
        if event == before:
            raise Kill
        return append(self, event, **fields)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(Journal, "append", killed)
        run_experiment(lab)
    lab.release()
    with Lab(lab.folder) as again:
        run_experiment(again)
        events = [entry["event"] for entry in again.journal.entries]
    assert events.count("decided") == events.count("committed") == events.count("proposed") == 2
    # Two of the baseline and one: nothing was trained twice.
    assert events.count("run_started") == 3
    assert len(read_results(lab.folder / "results.tsv")) == 2
    log = (lab.training_folder(1, 0, 0) / "run.log").read_text()
    assert log.count("val_bpb:") == (before == "scored")  # scored twice, summed up once


def test_two_holders_of_one_run_are_refused_with_the_holders_name(lab, tmp_path):
    code = (
        "from harness.run.locks import hold\n"
        "from pathlib import Path\n"
        f"with hold(Path({str(lab.folder)!r}), 'experiment', 'x', 'Wait.'): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (
        "BusyError" in done.stderr
        and f"process {os.getpid()}" in done.stderr
        and "Wait." in done.stderr
    )


def test_a_cell_run_again_keeps_the_lock_and_a_release_frees_it(lab):
    name = f"Path({str(lab.folder)!r}), 'experiment'"
    code = (
        f"from harness.run.locks import is_held\nfrom pathlib import Path\nprint(is_held({name}))"
    )

    def held_elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()

    again = Lab(lab.folder).hold()
    gc.collect()
    assert held_elsewhere() == "True"
    again.release()
    assert held_elsewhere() == "False"


def test_a_results_table_edited_by_hand_is_saved_before_it_is_derived_again(lab):
    table = lab.folder / "results.tsv"
    edited = table.read_text().replace("baseline", "my baseline")
    table.write_text(edited)
    lab.write_table()
    assert (
        lab.folder / "results.tsv.edited"
    ).read_text() == edited and "my baseline" not in table.read_text()


def test_an_experiment_before_the_baseline_is_refused(tmp_path, baseline, monkeypatch):
    shutil.copytree(baseline, tmp_path, dirs_exist_ok=True)
    point_at(monkeypatch, tmp_path / "checkout")
    folder = tmp_path / "results" / "t"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    with Lab(folder) as lab, pytest.raises(LoopError, match="02_baseline"):
        lab.begin()


def test_a_full_disk_is_said_before_a_run_is_begun(lab, monkeypatch):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()
    monkeypatch.setattr(
        disk_space.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1})()
    )
    with pytest.raises(LoopError, match="make room"):
        lab.train()
    assert lab.journal.entries[-1]["event"] == "checked"


def failing(status: str, cause: str, **facts):
    """A stand-in for a training that ends so."""

    def train(request, listen=None):
        Path(request.folder).mkdir(parents=True, exist_ok=True)
        (Path(request.folder) / "run.log").write_text("")
        return {"status": status, "cause": cause, "device_batch_size": 8, "memory_mb": None} | facts

    return train


def ready_to_train(lab):
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    lab.begin()
    lab.propose()
    lab.check()


@pytest.mark.slow
def test_faults_of_the_machine_pause_the_loop_and_whoever_comes_back_tries_again(lab, monkeypatch):
    ready_to_train(lab)
    real = executor.run_training
    monkeypatch.setattr(
        executor, "run_training", failing("infrastructure", "the disk is on fire", sure=True)
    )
    for pause in (1, 2):
        with pytest.raises(Paused, match="3 runs in a row .* the disk is on fire"):
            lab.train()
        assert len(lab.experiment.attempt.runs) == 3 * pause and lab.step.kind == "train"
    monkeypatch.setattr(executor, "run_training", real)
    lab.train()
    lab.decide()
    assert lab.experiment.decided["status"] == "ok" and lab.experiment.decided["verdict"]


def test_a_file_that_blames_the_machine_each_time_is_a_crash_and_costs_the_night_nothing_else(
    lab, monkeypatch
):
    ready_to_train(lab)
    monkeypatch.setattr(
        executor, "run_training", failing("infrastructure", "OSError: No space left", sure=False)
    )
    lab.train()
    lab.decide()
    decided = lab.experiment.decided
    assert (decided["decision"], decided["status"], len(lab.experiment.attempt.runs)) == (
        "discard",
        "crash",
        3,
    )
    assert "3 times" in decided["verdict"] and "No space left" in decided["verdict"]
    lab.commit()
    assert row(lab, 1) == (0.0, 0.0, "crash")


@pytest.mark.parametrize("nats", [0.0, 0.5])
def test_a_hopeless_training_is_ended_early_where_that_was_asked_for(lab, nats):
    lab.settings.profile["hopeless_nats"] = nats
    behind = incumbent_source(lab).replace(
        "session.log(step, total,", "session.log(step, total + 1,"
    )
    put_candidate(lab, behind)
    decided = run_experiment(lab)
    run = lab.state.experiments[1].attempt.runs[0]
    if not nats:
        assert decided["status"] == "ok"
        return
    assert (decided["decision"], decided["status"]) == ("discard", "hopeless")
    assert "too far behind the best file's" in decided["verdict"]
    assert len(lab.state.experiments[1].attempt.runs) == 1 and not run.scored
    assert run.trained["losses"]["25"] and run.trained["losses"]["50"] is None
    assert row(lab, 1) == (0.0, 0.0, "crash")
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []


def test_three_ideas_in_a_row_that_were_disturbed_pause_the_night_where_the_best_file_is_too(
    lab, monkeypatch
):
    heat = "disturbed: the card was slowed down by heat"
    failed = failing("infrastructure", heat, sure=True, disturbed=True)
    monkeypatch.setattr(executor, "run_training", failed)
    for number in range(1, 4):
        put_candidate(lab, incumbent_source(lab) + f"x = {number}\n")
        run_experiment(lab)
        lab.number = None
    with pytest.raises(Paused, match=r"experiments 1 to 3 .* and so does the best file so far"):
        lab.begin()
    assert lab.state.excused == {1, 2, 3}


def test_an_idea_that_takes_the_harness_down_each_time_is_a_crash(lab):
    ready_to_train(lab)
    for _ in range(MOST_CUT_OFF):
        step = lab.step
        assert step.kind == "train"
        facts = {
            "kind": step.run_kind,
            "seed": step.seed,
            "device_batch_limit": step.device_batch_limit,
        }
        lab.note_run("run_started", step, **facts, fewer_rows=False)
        lab.recover()  # as the next start does
    lab.decide()
    lab.commit()
    assert (
        row(lab, 1) == (0.0, 0.0, "crash")
        and f"died {MOST_CUT_OFF} times" in lab.experiment.decided["verdict"]
    )
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []


@pytest.fixture
def alike(lab, monkeypatch):
    """A run whose last three ideas ended with the same words, but for numbers.

    The next one has not begun.
    """
    real = executor.run_training
    for number in range(1, 4):
        monkeypatch.setattr(
            executor,
            "run_training",
            failing("crash", f"RuntimeError: no kernel for {number}x8 at /x/{number}"),
        )
        put_candidate(lab, incumbent_source(lab) + f"x = {number}\n")
        run_experiment(lab)
        lab.number = None
    monkeypatch.setattr(executor, "run_training", real)
    return lab


@pytest.mark.slow
def test_ideas_that_fail_alike_are_believed_to_be_bad_where_the_best_file_still_works(alike):
    alike.begin()
    controlled = alike.journal.entries[-1]
    assert (controlled["event"], controlled["status"], controlled["suspects"]) == (
        "controlled",
        "ok",
        [1, 2, 3],
    )
    assert (
        "it is theirs" in progress.line_of_entry(controlled)
        and not (alike.folder / "control").exists()
    )
    assert alike.state.excused == set() and not fault.failed_alike(alike.state)
    length = len(alike.journal.entries)
    alike.begin()
    assert len(alike.journal.entries) == length  # not looked at twice


@pytest.mark.slow
def test_ideas_that_fail_alike_are_excused_where_the_best_file_fails_too(alike, monkeypatch):
    ideas = [alike.train_py(e).read_text() for e in alike.state.experiments[1:]]
    monkeypatch.setattr(executor, "run_training", failing("crash", "RuntimeError: no kernel"))
    with pytest.raises(Paused, match=r"experiments 1 to 3 all ended with .* not the ideas"):
        alike.begin()
    assert alike.state.excused == {1, 2, 3}
    # Nothing else is tried while it does not train.
    with pytest.raises(Paused, match="experiments 1 to 3"):
        alike.begin()
    assert (alike.step.kind, alike.step.experiment) == ("control", 4)
    monkeypatch.undo()
    with alike:
        request = proposal_request(alike, alike.step, "", "", Asking())
        assert [row["experiment"] for row in request["history"]] == [0]
        put_candidate(alike, ideas[0])
        alike.number = None
        alike.begin()
        assert alike.journal.entries[-1]["event"] == "controlled" and alike.state.unwell is None
        alike.propose()
        alike.check()
        assert alike.experiment.attempt.checked["ok"]  # and may be tried again


def test_two_runs_on_one_device_know_of_each_other(lab, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    device = f"{lab.settings.device['kind']} {lab.settings.device['name']}"
    lines = (
        "import sys",
        "from pathlib import Path",
        "from harness.run.locks import OnTheClock",
        "with OnTheClock(sys.argv[1], Path('/runs/other')):",
        "    print('on', flush=True)",
        "    input()",
    )
    other = "\n".join(lines)
    with subprocess.Popen(
        [sys.executable, "-c", other, device],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        ready_to_train(lab)
        monkeypatch.setattr(executor, "run_training", failing("crash", "a bad idea"))
        lab.train()
        process.kill()
    trained = lab.experiment.attempt.runs[0].trained
    assert trained["shared_with"] == ["/runs/other"]
    # The other was killed, and its note is gone.
    with locks.OnTheClock(device, lab.folder) as clock:
        assert clock.others == [] and len(list(clock.folder.glob("*.json"))) == 1


def test_a_program_that_breaks_in_mid_night_holds_as_it_was_and_that_is_said_once(
    lab, monkeypatch, tmp_path
):
    good = lab.program_text()
    broken = "```settings\nallowed_categories = [\n```\n"
    program, source = tmp_path / "program.md", incumbent_source(lab)
    monkeypatch.setattr(lab, "program_text", lambda: read_program(program))

    def in_force(raw: bytes | None) -> tuple[str, str]:
        program.unlink(missing_ok=True)
        if raw is not None:
            program.write_bytes(raw)
        return program_in_force(lab, source)

    (lab.folder / "program.md").unlink()
    with pytest.raises(LoopError, match="not valid TOML"):
        in_force(broken.encode())  # it never could be obeyed
    assert in_force(good.encode()) == (good, "")
    unknown = good.replace("[ranges]\n", "[ranges]\nNO_SUCH = [1, 2]\n", 1)
    for raw, said in (
        (unknown.encode(), "no constant is called NO_SUCH"),
        (None, "cannot be read: No such file"),
        ("Größer".encode("latin-1"), "is not UTF-8"),
        (b"# another's\nNever stop.\n", "has lost its block of settings"),
        (broken.encode(), "not valid TOML"),
    ):
        text, why = in_force(raw)
        assert text == good and said in why
    for number, text in enumerate((broken, broken, good, good, broken), 1):
        put_candidate(lab, incumbent_source(lab) + f"x = {number}\n")
        program.write_text(text)
        lab.number = None
        lab.begin()
        lab.propose()
        assert (
            lab.experiment.attempt.proposed["program_sha256"]
            == hashlib.sha256(good.encode()).hexdigest()
        )
        is_broken = text == broken
        assert ("program.md holds as it was before" in status.status_screen(lab)) is is_broken
        assert ("program.md holds as it was" in idea_page(lab, lab.experiment)) is is_broken
        assert bool(status.look_at(lab)["program"]) is is_broken
        lab.journal.append("checked", experiment=number, attempt=0, ok=False, reasons=["no"])
        lab.decide()
        lab.commit()
    notes = [entry["text"] for entry in lab.journal.entries if entry["event"] == "note"]
    assert [note == OBEYED for note in notes] == [False, True, False]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stage_that_is_left_by_an_error_gives_the_run_back_and_the_next_takes_it_up(
    lab, monkeypatch, error
):
    put_candidate(lab, incumbent_source(lab).replace("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.03 "))

    lab.begin()
    lab.propose()

    def interrupted(*arguments, **options):
        raise error("by hand")

    with monkeypatch.context() as patch:
        patch.setattr(lab.runs, "carry_out", interrupted)
        with pytest.raises(error):
            lab.train()
    assert not locks.is_held(lab.folder, "experiment")  # a night may begin
    monkeypatch.setattr(lab.runs, "carry_out", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.train()  # taken up again, where it was
    assert lab.experiment.number == 1 and lab.experiment.attempt.checked["ok"]


def test_an_error_of_ours_is_one_sentence_in_a_notebook():
    shown = LoopError("the text is gone: put it back")._render_traceback_()
    assert shown == ["LoopError: the text is gone: put it back"]
