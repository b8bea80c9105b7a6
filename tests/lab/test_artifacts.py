"""The files a run leaves: on the disk before the journal speaks of them."""

import dataclasses
import os

from simulated_runs import Simulated

from harness.lab.kept_files import update_best


def test_the_best_weights_are_synced_with_their_folder_before_the_commit_is_noted(
    tmp_path, monkeypatch
):
    run = Simulated(tmp_path / "t").until("commit", 0)
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle))
    )
    update_best(run.folder, run.state.experiments[0], run.attempt(0), run.settings, None)
    best = run.folder / "best"
    weights = synced.index((best / "weights.safetensors").stat().st_ino)
    assert (
        weights < synced.index(best.stat().st_ino, weights)
        and run.folder.stat().st_ino == synced[-1]
    )


def test_what_a_keep_compiled_is_run_by_no_other_training(tmp_path):
    """It is code, and perhaps the weights to go on from: of the close-out's trainings, too."""
    run = Simulated(tmp_path / "t").until("commit", 0)
    promoted, own = run.folder / "compile_cache", run.attempt(0) / "runs/00/compile_cache"
    for folder, text in ((promoted, "the baseline's"), (own, "edited code's")):
        folder.mkdir()
        (folder / "kernel").write_text(text)
    settings = dataclasses.replace(run.settings, compile=True)
    update_best(run.folder, run.state.experiments[0], run.attempt(0), settings, None)
    assert (promoted / "kernel").read_text() == "the baseline's"
