"""What goes wrong with the files of the best is not held against the candidate beside it."""

import os

import numpy as np

from harness.scoring.measure import load_losses


def test_a_candidate_is_not_blamed_for_the_emptied_weights_of_its_rival(lab):
    train_py = lab.train_py(lab.state.incumbent)
    rival = lab.executor.measurement(train_py, lab.training_folder(0, 0, 1))
    candidate = lab.executor.measurement(train_py, lab.training_folder(0, 0, 0), [rival])
    os.truncate(rival.weights, 0)
    found = candidate.audit(lambda share: None)
    assert (found["status"], found["cause"], found["holdout"], found["doubts"]) == (
        "ok",
        "",
        None,
        [],
    )
    assert (
        "own; not compared on private text with the best (experiment 0000, run 01)"
        in found["audit"]["words"]
    )
    assert (candidate.folder / "holdout_losses.npy").exists()


def test_losses_that_were_emptied_or_cut_are_none(tmp_path):
    path, losses = tmp_path / "losses.npy", np.ones((3, 2), dtype=np.float32)
    assert load_losses(path, (3, 2)) is None
    np.save(path, losses)
    assert (load_losses(path, (3, 2)) == losses).all() and load_losses(path, (2, 3)) is None
    for size in (path.stat().st_size - 1, 20, 3, 0):
        os.truncate(path, size)
        assert load_losses(path, (3, 2)) is None, size
