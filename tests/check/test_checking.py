"""The checker: silent about a run in order, and right about each way to be out of order."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import git, make_repository
from labs import incumbent_source, put_candidate, run_experiment
from simulated_runs import Simulated

import harness
from harness.check import check
from harness.check.check import check_run
from harness.run.journal import Journal
from harness.sandbox.processes import MARK
from harness.show import index

LAST = 13  # baseline, keeps 1 and 9, crashes, one refused, and 13 in quarantine


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A simulated run between two experiments, and its repository.

    Made once, copied by each test.
    """
    folder = tmp_path_factory.mktemp("simulated")
    repository = folder / "checkout"
    repository.mkdir()
    (repository / "train_template.py").write_text("DEPTH = 1\n")
    run = Simulated(folder / "results" / "t", make_repository(repository))
    run.until("propose", LAST + 1)
    decisions = [e.decided["decision"] for e in run.state.experiments]
    assert (decisions.count("keep"), decisions[LAST]) == (2, "quarantine")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def findings(copy: Path) -> list[str]:
    return check_run(copy / "results" / "t", copy / "checkout")


def rewrite(copy: Path, change) -> None:
    """Change the journal's entries and number them anew."""
    path = copy / "results" / "t" / "journal.jsonl"
    entries = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text(
        "".join(json.dumps(entry | {"seq": seq}) + "\n" for seq, entry in enumerate(entries))
    )


def altered(event: str, experiment: int, **fields):
    """A change of every such entry."""
    hit = {"event": event, "experiment": experiment}
    return lambda entries: [
        entry | (fields if hit.items() <= entry.items() else {}) for entry in entries
    ]


def without(event: str, experiment: int):
    hit = {"event": event, "experiment": experiment}
    return lambda entries: [entry for entry in entries if not hit.items() <= entry.items()]


def twice(event: str, experiment: int):
    hit = {"event": event, "experiment": experiment}
    return lambda entries: [
        entry for each in entries for entry in [each] * (2 if hit.items() <= each.items() else 1)
    ]


def with_two_beside(entries: list[dict]) -> list[dict]:
    return [entry | {"beside": 2} if entry.get("beside") else entry for entry in entries]


def without_status(entries: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k != "status"} for entry in entries]


def test_a_run_in_order_has_no_findings_with_and_without_history(copy, tmp_path):
    assert findings(copy) == []
    bare = Simulated(tmp_path / "bare" / "results" / "b").until("propose", 6)
    assert check_run(bare.folder, copy / "checkout") == []
    assert check_run(tmp_path / "nowhere") == [f"there is no run in {tmp_path / 'nowhere'}"]


@pytest.mark.parametrize(
    "change, words",
    [
        (
            without("checked", 3),
            "`run_started` of experiment 3, attempt 0, run 0 stands where `checked`",
        ),
        (without("decided", 4), "`committed` of experiment 4 stands where `decided`"),
        (without("proposed", 6), "`checked` of experiment 6, attempt 0 stands where `proposed`"),
        (
            twice("committed", 4),
            "`committed` of experiment 4 stands where `proposed` of experiment 5",
        ),
        (
            twice("decided", 4),
            "`decided` of experiment 4, attempt 0 stands where `committed` of experiment 4",
        ),
        (altered("run_started", 3, seed=1), "has seed 1, the rules ask for 3008"),
        (with_two_beside, "has beside 2, the rules ask for 1"),
        (altered("decided", 3, decision="keep"), "has decision keep, its runs give discard"),
        (altered("scored", 9, val_bpb=1.5), "val_bpb 1.960874, its runs give 1.5"),
        (without_status, "has not the fields it needs"),
    ],
)
def test_entries_that_no_step_asked_for_are_found(copy, change, words):
    rewrite(copy, change)
    assert any(words in finding for finding in findings(copy)), findings(copy)


def test_what_rules_chose_is_not_judged_under_another_harness_but_the_order_is(copy):
    rewrite(copy, altered("run_started", 3, seed=1))
    path = copy / "results" / "t" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"harness_hash": "a" * 64}))
    assert findings(copy) == []
    rewrite(copy, without("checked", 3))
    assert len(findings(copy)) == 1


def damaged_line(run: Path) -> None:
    path = run / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"event": "checked"', b'"event": "chec', 1))


def write(name: str, text: str = "x", mode: str = "w"):
    def change(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        with (run / name).open(mode) as file:
            file.write(text)

    return change


def remove(name: str):
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def replace(name: str, old: str, new: str):
    def change(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new))

    return change


def in_git(*arguments: str):
    return lambda run: git(run.parents[1] / "checkout", *arguments)


def cut(name: str, size: int = 0):
    """As a power cut may leave a file that nobody synced, or that was just made."""

    def change(run: Path) -> None:
        (run / name).open("a").close()
        os.truncate(run / name, size)

    return change


def array(name: str, shape: tuple[int, ...]):
    return lambda run: np.save(run / name, np.ones(shape, np.float32))


def link_best_and_cut(run: Path) -> None:
    """Both names of one file, as a run has them (a copied one has not)."""
    (run / "best/weights.safetensors").unlink()
    os.link(run / BEST / WEIGHTS, run / "best/weights.safetensors")
    os.truncate(run / BEST / WEIGHTS, 0)


def without_git(run: Path) -> None:
    shutil.rmtree(run.parents[1] / "checkout" / ".git")


def spoil_all_weights_of_the_best(run: Path) -> None:
    cut(KEPT, 9)(run)
    remove(f"{BEST}/{WEIGHTS}")(run)


def take_another_page(run: Path) -> None:
    shutil.copy(run / "notebooks/03_0003.ipynb", run / "notebooks/03_0004.ipynb")


def lose_a_page_that_is_logged(run: Path) -> None:
    write("night.log", "… experiment 3: discard: worse\n", "a")(run)
    remove("notebooks/03_0003.ipynb")(run)


FIRST, BEST, LOST, WAITING = (f"experiments/{number:04d}/attempts/00" for number in (0, 9, 3, LAST))
WEIGHTS = "runs/00/weights.safetensors"
LOSSES = "runs/00/losses.npy"
KEPT = "best/weights.safetensors"
REF, BRANCH = "refs/experiments/t/0003", "refs/heads/autoresearch/t"
BAD_HEADER = "is damaged (Error while deserializing header"

# What is done to the run -> parts of the findings: each finding holds one, each is in one.
OUT_OF_ORDER = [
    (damaged_line, ["journal.jsonl, line 3 is damaged"]),
    (write("run.json", "{"), ["run.json is not valid JSON"]),
    (remove("run.json"), ["no run in"]),
    (
        replace("run.json", '"tag": "t"', '"tag": "u"'),
        ["run.json is of run u, the journal of run t"],
    ),
    # The table.
    (
        replace("results.tsv", "2.01", "1.01"),
        ["results.tsv, line 5, is not what the journal gives"],
    ),
    (write("results.tsv", "one more\n", "a"), ["results.tsv, line 16, is not"]),
    (remove("results.tsv"), ["results.tsv is missing"]),
    # Git.
    (in_git("update-ref", "-d", REF), [f"{REF} is at nowhere"]),
    (in_git("update-ref", REF, "main"), [f"{REF} is at"]),
    (in_git("update-ref", "refs/experiments/t/0099", "main"), ["refs/experiments/t/0099 is there"]),
    (in_git("update-ref", BRANCH, "main"), ["the branch autoresearch/t is at"]),
    (in_git("update-ref", "-d", BRANCH), ["the branch autoresearch/t is at nowhere"]),
    (without_git, ["the git history of run t cannot be read"]),
    # Files and the best of them.
    (write(f"{LOST}/train.py", "DEPTH = 8\n"), [f"{LOST}/train.py is not the train.py of commit"]),
    (
        write(f"{BEST}/train.py", "DEPTH = 8\n"),
        ["is not the file that was proposed", "best/train.py", "of commit"],
    ),
    (remove(f"{LOST}/train.py"), [f"{LOST}/train.py cannot be read"]),
    (write("best/train.py", "DEPTH = 8\n"), ["best/train.py is not that of experiment 9"]),
    (write(KEPT), [f"{KEPT} is not that of experiment 9"]),
    (remove(KEPT), [f"{KEPT} is not that of experiment 9"]),
    (
        replace("best/provenance.json", '"experiment": 9', '"experiment": 1'),
        ["names experiment 1, the journal's best is 9"],
    ),
    (
        remove("best/provenance.json"),
        ["best/provenance.json cannot be read: the best is experiment 9"],
    ),
    # Weights.
    (remove(f"{BEST}/{WEIGHTS}"), [f"the best has no {BEST}/{WEIGHTS}"]),
    (cut(f"{BEST}/{WEIGHTS}"), [f"{BEST}/{WEIGHTS} is empty: copy {KEPT} over it"]),
    (cut(f"{BEST}/{WEIGHTS}", 7), [f"{BEST}/{WEIGHTS} {BAD_HEADER}: header too small): copy best"]),
    (cut(f"{FIRST}/{WEIGHTS}", 100), [f"{FIRST}/{WEIGHTS} {BAD_HEADER}"]),
    (write(f"{WAITING}/{WEIGHTS}", "x", "a"), [f"{WAITING}/{WEIGHTS} {BAD_HEADER}"]),
    (write(f"{LOST}/{WEIGHTS}"), [f"{LOST}/{WEIGHTS} should be gone, experiment 3 is decided"]),
    (cut(KEPT), [f"{KEPT} is not that of experiment 9: copy it"]),
    (link_best_and_cut, [f"{BEST}/{WEIGHTS} is empty: restore it from a backup"]),
    (spoil_all_weights_of_the_best, ["the best has no", f"{KEPT} {BAD_HEADER}"]),
    # Losses and other files of a training.
    (remove(f"{FIRST}/runs/01/losses.npy"), [f"the baseline has no {FIRST}/runs/01/losses.npy"]),
    (write(f"{FIRST}/{LOSSES}", "junk" * 57), [f"{FIRST}/{LOSSES} is damaged ("]),
    (cut(f"{BEST}/{LOSSES}"), [f"{BEST}/{LOSSES} is empty: restore it from a backup"]),
    (
        cut(f"{BEST}/{LOSSES}", 227),
        [f"{BEST}/{LOSSES} is damaged (mmap length is greater than file size): restore"],
    ),
    (
        array(f"{BEST}/{LOSSES}", (1, 23)),
        [f"{BEST}/{LOSSES} is damaged (an array (1, 23) of float32"],
    ),
    (
        cut(f"{BEST}/runs/00/holdout_losses.npy"),
        [f"{BEST}/runs/00/holdout_losses.npy is empty: delete it"],
    ),
    (
        cut(f"{LOST}/runs/00/run.log"),
        [f"{LOST}/runs/00/run.log is empty, though the run came to its end"],
    ),
    (
        remove(f"{LOST}/runs/00"),
        [f"{LOST}/runs/00 has no result.json, run.log, events.jsonl, run.json"],
    ),
    (
        replace(f"{LOST}/runs/00/result.json", '"val_bpb": 2.01', '"val_bpb": 1.01'),
        ["result.json has val_bpb 1.01"],
    ),
    (write(f"{LOST}/runs/00/result.json", "{"), ["result.json cannot be read"]),
    # Pages and what lists them.
    (
        take_another_page,
        ["notebooks/03_0004.ipynb is the page of experiment 3: restore it from a backup, or"],
    ),
    (remove("notebooks/03_0003.html"), ["notebooks/03_0003.html is missing"]),
    (write("notebooks/03_0003.ipynb", '{"cells": ['), ["notebooks/03_0003.ipynb is cut short"]),
    # Experiment 14 is not done yet.
    (write("night.log", "2026-11-23T22:00:00Z experiment 14: keep: better\n", "a"), []),
    (lose_a_page_that_is_logged, ["notebooks/03_0003.ipynb is missing"]),
    (remove("notebooks/index.md"), ["notebooks/index.md does not list experiment"]),
    (
        replace("notebooks/index.md", "| 0003 |", "| 0099 |"),
        ["list experiment 3", "lists experiment 99"],
    ),
    (
        replace("notebooks/index.md", "| kept as better |", "| discarded |"),
        ["index.md has", "where the journal has"],
    ),
    # What nothing of the journal needs.
    (write("experiments/0099/x"), ["experiments/0099 is no experiment of the journal"]),
    (write("experiments/0003/attempts/01/x"), ["experiments/0003/attempts/01 is no attempt"]),
    (write(f"{LOST}/runs/01/x"), [f"{LOST}/runs/01 is no run"]),
    (write(f"{LOST}/runs/00/work/x"), [f"{LOST}/runs/00/work was left behind"]),
    (
        write(f"{LOST}/runs/00/server_val_weights/x"),
        [f"{LOST}/runs/00/server_val_weights was left behind"],
    ),
    (
        write("best/.weights.safetensors.123-x.tmp"),
        ["best/.weights.safetensors.123-x.tmp was left behind"],
    ),
    (write("close_out/.best_0009_x.py.123-x.tmp"), ["123-x.tmp was left behind"]),
    (write("control/run.log"), ["control was left behind"]),
]


@pytest.mark.parametrize("change, words", OUT_OF_ORDER)
def test_each_thing_out_of_order_is_said_once_and_nothing_else(copy, change, words):
    change(copy / "results" / "t")
    found = findings(copy)
    assert all(any(word in finding for finding in found) for word in words), found
    assert all(any(word in finding for word in words) for finding in found), found


def test_a_cut_last_line_and_a_proposal_that_nobody_noted_are_no_findings(copy):
    write("journal.jsonl", '{"seq": 99, "event": "prop', "a")(copy / "results" / "t")
    write(f"experiments/{LAST + 1:04d}/attempts/00/train.py")(copy / "results" / "t")
    assert findings(copy) == []


class FailsAlike(Simulated):
    """Every idea ends with the same words, as on a machine that is broken."""

    def in_flight(self, step) -> None:
        super().in_flight(step)
        last = self.journal.entries[-1]
        if step.experiment:
            last |= {"status": "crash", "cause": "the disk is gone"}
            self.journal.path.write_text(
                "".join(json.dumps(e) + "\n" for e in self.journal.entries)
            )


def test_a_trial_of_the_best_file_that_a_kill_cut_off_is_no_finding(tmp_path):
    run = FailsAlike(tmp_path / "results" / "b").until("control", 4)
    write("control/run.log")(run.folder)
    write("control/.result.json.123-x.tmp")(run.folder)
    write("control/work/weights.tmp")(run.folder)
    assert check_run(run.folder, tmp_path) == []


def test_a_page_whose_making_was_cut_off_is_made_up_for(copy):
    run = copy / "results" / "t"
    remove("notebooks/03_0013.html")(run)
    assert "notebooks/03_0013.html is missing: the same command writes it again" in findings(copy)
    index.write_index(run)
    page = (run / "notebooks" / "03_0013.html").read_text()
    assert findings(copy) == [] and "experiment 13" in page


def test_an_experiment_by_hand_after_a_night_needs_no_page(copy):
    for name in ("03_0013.ipynb", "03_0013.html"):
        remove(f"notebooks/{name}")(copy / "results" / "t")
    assert findings(copy) == []


def test_a_process_that_is_left_is_found_by_its_mark_and_by_where_it_works(copy, monkeypatch):
    monkeypatch.setattr(check, "WAIT_SECONDS", 0.01)
    work = copy / "results" / "t" / LOST / "runs" / "00" / "work"
    for environment, folder in ((os.environ | {MARK: str(work)}, copy), (os.environ, work)):
        work.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"], env=environment, cwd=folder, stdin=subprocess.PIPE
        )
        try:
            shutil.rmtree(work) if folder != work else None
            assert any(
                f"process {process.pid} still works in t" in finding for finding in findings(copy)
            )
        finally:
            process.kill()
            process.communicate()
    shutil.rmtree(work)
    assert findings(copy) == []


@pytest.mark.slow
def test_nothing_is_found_before_and_after_any_entry_of_a_run(tmp_path, monkeypatch):
    """A kill can come at any of these moments."""
    repository = tmp_path / "checkout"
    repository.mkdir()
    (repository / "train_template.py").write_text("DEPTH = 1\n")
    run = Simulated(tmp_path / "results" / "t", make_repository(repository))
    monkeypatch.setattr(check, "harness_hash", lambda: run.settings.harness_hash)
    append, looked = Journal.append, []

    def look(moment: str) -> None:
        looked.append(moment)
        assert check_run(run.folder, repository) == [], moment

    def watched(self, event, **fields):
        look(f"before {event} of {fields.get('experiment')}")
        entry = append(self, event, **fields)
        look(f"after {event} of {fields.get('experiment')}")
        return entry

    monkeypatch.setattr(Journal, "append", watched)
    run.until("propose", 2)
    run.until("commit", 9)
    run.make_commit()
    look("the refs are there, best/ is not")
    run.until("propose", 10)
    assert len(looked) > 100


@pytest.mark.slow
def test_a_real_run_has_no_findings_at_any_entry(lab, monkeypatch):
    append = Journal.append

    def watched(self, event, **fields):
        entry = append(self, event, **fields)
        assert check_run(lab.folder, harness.REPOSITORY) == [], event
        return entry

    monkeypatch.setattr(Journal, "append", watched)
    monkeypatch.setattr(check, "harness_hash", lambda: lab.settings.harness_hash)
    put_candidate(lab, incumbent_source(lab) + "x = 1\n")
    run_experiment(lab)
    lab.number = None
    put_candidate(
        lab,
        incumbent_source(lab).replace(
            "model = build_model", "raise ValueError\n    model = build_model"
        ),
    )
    assert run_experiment(lab)["status"] == "crash"
    lab.release()
    assert check_run(lab.folder, harness.REPOSITORY) == []
