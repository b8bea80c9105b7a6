"""A run's best taken elsewhere: its folder, its commits that merge, and what is said where
something is missing.
"""

import json
import shutil
from dataclasses import replace

import pytest
from checkout import ROOT, git, make_repository
from kept_runs import COMMENTED, MORE_DEPTH, MORE_HEADS, Kept

import harness
from harness.__main__ import main
from harness.ground.errors import LoopError, ParameterError
from harness.lab.close_out_questions import next_question
from harness.lab.kept_files import note_claim
from harness.run.run import Run
from harness.run.settings import write_settings
from harness.search.constants import constant_values
from harness.show.export import export, profile_options

WORSE = [1.20, 1.21, 1.22]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "train_template.py", folder)
    make_repository(folder)
    monkeypatch.setattr(harness, "REPOSITORY", folder)
    return folder


def closed_out(folder, *changes, repository=None, **scores) -> Kept:
    """A night whose claim is made, and each of its changes measured."""
    night = Kept(folder, *changes, repository=repository)
    night.claim(baseline=WORSE)
    night.compare(next_question(night.run, night.found), **scores)
    night.write_close_out()
    note_claim(folder, night.found.claimed)
    return night


CHANGES = (MORE_DEPTH,), (COMMENTED,), (MORE_HEADS,)
FIRST_AND_LAST = {"file_without_1": WORSE, "file_without_3": WORSE}


def test_a_stranger_finds_file_card_and_a_commit_for_each_confirmed_change(tmp_path, repository):
    results = tmp_path / "results"
    night = closed_out(results / "t", *CHANGES, repository=repository, **FIRST_AND_LAST)
    (night.run.folder / "best/weights.safetensors").write_bytes(b"weights")
    refs = git(repository, "for-each-ref")
    target = tmp_path / "out/best"
    assert main(["export", "t", str(target), "--results", str(results)]) == 0
    assert sorted(path.name for path in target.iterdir()) == [
        *("README.md", "changes", "changes.bundle", "close_out.jsonl", "provenance.json"),
        *("train.py", "weights.safetensors"),
    ]
    best = night.run.train_py(night.run.state.incumbent).read_text()
    assert (target / "train.py").read_text() == best
    provenance = json.loads((target / "provenance.json").read_text())
    assert provenance["claim"]["val"]["difference"] == pytest.approx(0.2)
    assert provenance["machine"] == "cpu (a CPU)" and provenance["tag"] == "t"
    card = (target / "README.md").read_text()
    assert "On fresh seeds experiment 3 is 0.2000 bpb better than the baseline" in card
    assert "- experiment 1 (`idea 1`) is confirmed" in card
    assert "- experiment 2 (`idea 2`) is part of a confirmed best" in card
    assert git(repository, "for-each-ref") == refs, "the repository stays as it is"

    other = tmp_path / "other"
    git(tmp_path, "clone", "-q", str(repository), str(other))
    git(
        other, "pull", "-q", "--ff-only", str(target / "changes.bundle"), "autoresearch/t-confirmed"
    )
    subjects = git(other, "log", "--format=%s", f"{night.settings.base_commit}..HEAD").splitlines()
    assert subjects == ["0003: idea 3", "0001: idea 1", "0000: idea 0"]
    merged = (other / "train.py").read_text()
    assert "itertools" not in merged
    assert {n: constant_values(merged)[n] for n in ("DEPTH", "N_HEAD")} == {"DEPTH": 3, "N_HEAD": 4}
    git(other, "reset", "-q", "--hard", night.settings.base_commit)
    git(other, "am", "-q", *map(str, sorted((target / "changes").iterdir())))
    assert (other / "train.py").read_text() == merged


def test_without_history_there_are_no_commits_and_weights_that_are_gone_are_said(tmp_path):
    night = closed_out(tmp_path / "t", *CHANGES, **FIRST_AND_LAST)
    said = export(night.run, tmp_path / "out")
    assert "no commits: no git history" in said
    assert "weights.safetensors: gone, or never made" in said


def test_from_a_clone_which_lacks_the_runs_commits_all_the_rest_is_exported(
    tmp_path, repository, monkeypatch
):
    night = closed_out(tmp_path / "t", *CHANGES, repository=repository, **FIRST_AND_LAST)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--single-branch", repository.as_uri(), str(clone))
    monkeypatch.setattr(harness, "REPOSITORY", clone)
    said = export(night.run, tmp_path / "out")
    assert "no commits: this checkout lacks those of the run" in "\n".join(said)
    assert (tmp_path / "out/train.py").exists() and (tmp_path / "out/README.md").exists()


def test_the_command_that_trains_it_again_has_what_the_run_set_otherwise(tmp_path):
    night = closed_out(tmp_path / "t", *CHANGES, **FIRST_AND_LAST)
    settings = night.run.settings
    assert profile_options(settings) == ["--profile tiny"]
    changed = settings.profile | {"budget_seconds": 7.0, "source": "folder:/notes"}
    assert profile_options(replace(settings, profile=changed)) == [
        "--profile tiny",
        "--set=source=folder:/notes",
        "--set=budget_seconds=7.0",
    ]


def test_the_tokenizer_is_that_of_the_runs_own_data(tmp_path, tiny_data):
    night = closed_out(tmp_path / "t", *CHANGES, **FIRST_AND_LAST)
    assert "tokenizer.json: gone, with the prepared data" in export(night.run, tmp_path / "out")
    for data_hash in (tiny_data.data_hash, "d" * 64):
        settings = replace(night.settings, data_folder=str(tiny_data.folder), data_hash=data_hash)
        write_settings(night.run.folder, settings)
        out = tmp_path / data_hash[:8]
        export(Run(night.run.folder), out)
        assert (out / "tokenizer.json").exists() == (data_hash != "d" * 64)


def test_a_confirmed_change_that_needs_another_is_said(tmp_path, repository):
    on_top = ("import itertools\n", "import itertools as its\n")
    changes = (COMMENTED,), (on_top,)
    night = closed_out(tmp_path / "t", *changes, repository=repository, file_without_2=WORSE)
    said = "\n".join(export(night.run, tmp_path / "out"))
    assert "no commit of experiment 2: it needs a change that is not confirmed" in said


def test_a_claim_that_is_not_made_is_not_made_up(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,))
    said = export(night.run, tmp_path / "out")
    assert "no commits: no change is confirmed alone" in said
    card = (tmp_path / "out/README.md").read_text()
    command = "python3 scripts/overnight.py --close-out"
    assert f"It is not measured on fresh seeds yet (`{command}" in card
    assert "- experiment 1: `idea 1`" in card


def test_a_link_in_a_folder_that_was_handed_over_takes_no_file_along(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,))
    (tmp_path / "secret").write_text("a key")
    (night.run.folder / "best/weights.safetensors").symlink_to(tmp_path / "secret")
    assert "weights.safetensors: gone, or never made" in export(night.run, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("README.md", "provenance.json", "train.py")
    ]


def test_what_cannot_be_exported_is_said_and_nothing_is_left(tmp_path, capsys):
    nothing = Kept(tmp_path / "t")
    with pytest.raises(LoopError, match="kept nothing"):
        export(nothing.run, tmp_path / "out")
    with pytest.raises(LoopError, match="no run with a baseline"):
        export(Run(tmp_path / "other"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ParameterError, match="there already"):
        export(nothing.run, tmp_path)
