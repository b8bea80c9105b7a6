"""The files a run leaves: the summary in its log, losses, the best model, and which weights may go.

In: results and folders. Out: files, each whole or absent; every function can be repeated after a
kill.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.ground.files import (
    copy_atomic,
    link_or_copy,
    read_json,
    remove_temporaries,
    sync_folder,
    write_json_atomic,
)
from harness.lab.open_run import OpenRun
from harness.run.disk_space import PAGES_BYTES, on_disk
from harness.run.run import experiment_of_page
from harness.run.settings import Settings, clock_words
from harness.run.state import Experiment, State
from harness.sandbox.left_files import remove_tree, sync_file
from harness.sandbox.runner import summary_block

# Experiments that wait for a person with their weights; of older ones the train.py stays.
MOST_IN_QUARANTINE = 5


def append_summary(log: Path, log_bytes: int, result: dict) -> None:
    """End run.log with the true summary; a second time replaces the first."""
    with log.open("r+b") as file:
        file.truncate(log_bytes)
        file.seek(log_bytes)
        file.write(summary_block(result).encode())
        file.flush()
        os.fsync(file.fileno())


def update_best(
    folder: Path,
    experiment: Experiment,
    attempt_folder: Path,
    settings: Settings,
    commit: str | None,
) -> None:
    """Put the incumbent's train.py, first weights and provenance in best/, all three or none.

    The weights are a hard link where the disk allows it, so that they take no room. An experiment
    whose weights are gone (see `weights_wanted`) leaves none there.
    """
    best, made, old = folder / "best", folder / "best.tmp", folder / "best.old"
    remove_tree(made)
    made.mkdir()
    first = next(run for run in experiment.attempt.runs if run.val_bpb is not None)
    weights = attempt_folder / "runs" / f"{first.number:02d}" / "weights.safetensors"
    copy_atomic(attempt_folder / "train.py", made / "train.py")
    if weights.exists():
        sync_file(weights)  # written by the training; the journal speaks of them next
        link_or_copy(weights, made / "weights.safetensors")
    provenance = {
        "experiment": experiment.number,
        "title": experiment.decided["title"],
        "val_bpb": experiment.mean,
        "n_runs": len(experiment.attempt.scores),
        "weights_of_run": first.number,
        "weights_val_bpb": first.val_bpb,
        "commit": commit,
        "tag": settings.tag,
        "data_id": settings.data_id,
        "base_commit": settings.base_commit,
        "harness_hash": settings.harness_hash,
        "machine": f"{settings.device['kind']} ({settings.device['name']})",
        "budget_seconds": settings.budget_seconds,
        "clock": clock_words(settings),
        "claim": None,  # until it is made
    }
    write_json_atomic(made / "provenance.json", provenance)
    remove_tree(old)
    if best.exists():
        os.rename(best, old)
    os.rename(made, best)
    remove_tree(old)
    sync_folder(folder)


def note_claim(folder: Path, claimed: dict) -> None:
    """Write the claim into best/'s provenance, if it is of what lies there."""
    path = folder / "best" / "provenance.json"
    provenance = read_json(path) if path.exists() else {}
    if provenance.get("experiment") == claimed["best"]:
        write_json_atomic(path, provenance | {"claim": claimed})


# --- what may go -----------------------------------------------------------------------------


def weights_wanted(state: State) -> set[int]:
    """The experiments whose weights and losses stay: baseline, incumbent, and the newest in
    quarantine, which a person may want to look at."""
    waiting = [e.number for e in state.experiments if e.in_quarantine]
    return {0, state.incumbent.number, *waiting[-MOST_IN_QUARANTINE:]}


def drop_unneeded(run: OpenRun, experiment: Experiment, kept: bool) -> None:
    """Remove what nobody needs once an experiment is decided. kept: whether it was.

    Weights and losses that are not wanted, and pages beyond their share; of the incumbent's runs
    beside the experiment also the weights that a kill saved.
    """
    state, wanted = run.state, weights_wanted(run.state)
    incumbent = state.experiments[experiment.decided["incumbent"] or 0]
    its_last = run.train_py(incumbent).parent
    for training in incumbent.attempt.runs:
        if training.started["kind"] == "refresh":
            drop_weights_of_run(its_last / "runs" / f"{training.number:02d}")
    replaced = state.kept[1:-1][-1:] if kept else []
    waiting = [e for e in state.experiments if e.in_quarantine]
    for other in (experiment, *replaced, *waiting):
        if other.number not in wanted:
            drop_weights(run.train_py(other).parent)
    drop_old_pages(run.folder)


def drop_weights(attempt_folder: Path) -> None:
    """Remove the weights and losses of all runs of an attempt."""
    for run in attempt_folder.glob("runs/*"):
        drop_weights_of_run(run)


def drop_weights_of_run(training_folder: Path) -> None:
    """Remove the weights and losses of one run."""
    for name in ("weights.safetensors", "losses.npy", "holdout_losses.npy", "unseen_losses.npy"):
        (training_folder / name).unlink(missing_ok=True)


def drop_old_pages(folder: Path, most_bytes: int = PAGES_BYTES) -> list[str]:
    """Keep notebooks/ within its share of the disk; return the names of what was removed.

    Pages of executions that were cut off go first, then the oldest experiments'; what preparation,
    baseline and analysis wrote stays. The index shows an experiment without its page; the journal
    has all that it said.
    """
    sizes = {Path(name): size for name, size in on_disk(folder / "notebooks").items()}
    too_much = sum(sizes.values()) - most_bytes
    pages = [page for page in sizes if experiment_of_page(page) is not None]
    removed: list[str] = []
    for page in sorted(pages, key=lambda page: (".cut" not in page.name, page.name)):
        if too_much <= 0 and page.stem != Path(removed[-1] if removed else "").stem:
            break  # a notebook goes with its page
        page.unlink(missing_ok=True)
        too_much -= sizes[page]
        removed.append(page.name)
    return removed


def remove_leftovers(folder: Path, *experiment_folders: Path) -> None:
    """Remove what a kill can leave for ever: temporary files of the dead in the run's folders, and
    folders of model servers and trainings.

    experiment_folders: those whose runs somebody may have been at work on, and nobody is: the
    newest experiment's, and for its audit the incumbent's and the baseline's. Others were left
    tidy.
    """
    places = [folder, *(folder / name for name in ("best", "notebooks", "report", "rulings"))]
    for experiment_folder in experiment_folders:
        runs = list(experiment_folder.glob("attempts/*/runs/*"))
        for run in runs:
            for left in (run / "work", *run.glob("server_*")):
                remove_tree(left)
        places += [*experiment_folder.glob("attempts/*"), *runs]
    for place in places:
        remove_temporaries(place)
    remove_tree(folder / "best.tmp")
    if (folder / "best").is_dir():
        remove_tree(folder / "best.old")
    elif (folder / "best.old").is_dir():
        # killed between two names: the old one serves until the commit is repeated
        os.rename(folder / "best.old", folder / "best")
