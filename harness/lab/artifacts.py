"""The files a run leaves: the summary in its log, losses, the best model, and which weights may go.

In: results and folders. Out: files, each whole or absent; every function can be repeated after a kill.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from harness.data.files import open_atomic, write_json_atomic
from harness.lab.journal import Experiment
from harness.lab.runner import summary_block
from harness.lab.settings import Settings
from harness.lab.untrusted_files import remove_tree


def append_summary(log: Path, log_bytes: int, result: dict) -> None:
    """End run.log with the true summary; a second time replaces the first."""
    with log.open("r+b") as file:
        file.truncate(log_bytes)
        file.seek(log_bytes)
        file.write(summary_block(result).encode())
        file.flush()
        os.fsync(file.fileno())


def save_losses(path: Path, losses: np.ndarray) -> None:
    """Write losses (rows, T) float32, nats, atomically."""
    with open_atomic(path) as file:
        np.save(file, losses, allow_pickle=False)


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file so that the target is the old one or the new one, never half of it."""
    with source.open("rb") as reading, open_atomic(target) as writing:
        shutil.copyfileobj(reading, writing)


def update_best(
    folder: Path, experiment: Experiment, attempt_folder: Path, settings: Settings, commit: str | None
) -> None:
    """Copy the incumbent's train.py and first weights to best/, where the morning looks for them."""
    best = folder / "best"
    best.mkdir(exist_ok=True)
    first = next(run for run in experiment.attempt.runs if run.val_bpb is not None)
    weights = attempt_folder / "runs" / f"{first.number:02d}" / "weights.safetensors"
    copy_atomic(attempt_folder / "train.py", best / "train.py")
    if weights.exists():
        copy_atomic(weights, best / "weights.safetensors")
    provenance = {
        "experiment": experiment.number, "title": experiment.decided["title"], "val_bpb": experiment.mean, "n_runs": len(experiment.attempt.scores),
        "weights_of_run": first.number, "weights_val_bpb": first.val_bpb, "commit": commit, "tag": settings.tag, "data_id": settings.data_id,
    }  # fmt: skip
    write_json_atomic(best / "provenance.json", provenance)
    cache = weights.parent / "compile_cache"
    if cache.is_dir() and settings.compile:
        remove_tree(folder / "compile_cache")
        shutil.copytree(cache, folder / "compile_cache")


def drop_weights(attempt_folder: Path) -> None:
    """Remove the weights and losses of all runs of an attempt."""
    for run in attempt_folder.glob("runs/*"):
        for name in ("weights.safetensors", "losses.npy", "holdout_losses.npy"):
            (run / name).unlink(missing_ok=True)


def drop_compile_caches(attempt_folder: Path) -> None:
    """Remove the private compile caches of all runs of an attempt."""
    for run in attempt_folder.glob("runs/*"):
        remove_tree(run / "compile_cache")
