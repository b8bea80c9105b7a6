"""The files a run leaves: the summary in its log, losses, the best model, and which weights may go.

In: results and folders. Out: files, each whole or absent; every function can be repeated after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.ground.files import copy_atomic, link_or_copy, remove_temporaries, sync_folder, write_json_atomic
from harness.run.disk_space import PAGES_BYTES, on_disk
from harness.run.settings import Settings
from harness.run.state import Experiment, State
from harness.sandbox.left_files import remove_tree, sync_file
from harness.sandbox.runner import summary_block

MOST_IN_QUARANTINE = 5  # experiments that wait for a person with their weights; of older ones the train.py stays
MOST_CACHE_BYTES = 4 * 10**9  # of the promoted compile cache, to which each keep adds its own


def append_summary(log: Path, log_bytes: int, result: dict) -> None:
    """End run.log with the true summary; a second time replaces the first."""
    with log.open("r+b") as file:
        file.truncate(log_bytes)
        file.seek(log_bytes)
        file.write(summary_block(result).encode())
        file.flush()
        os.fsync(file.fileno())


def update_best(
    folder: Path, experiment: Experiment, attempt_folder: Path, settings: Settings, commit: str | None
) -> None:
    """Put the incumbent's train.py and first weights in best/, where the morning looks for them: the old three files or the new three.

    The weights are a second name of the run's own where the disk knows such, so that they take no room. An experiment whose weights are gone (see
    `weights_wanted`) leaves none there.
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
        "experiment": experiment.number, "title": experiment.decided["title"], "val_bpb": experiment.mean, "n_runs": len(experiment.attempt.scores),
        "weights_of_run": first.number, "weights_val_bpb": first.val_bpb, "commit": commit, "tag": settings.tag, "data_id": settings.data_id,
    }  # fmt: skip
    write_json_atomic(made / "provenance.json", provenance)
    remove_tree(old)
    if best.exists():
        os.rename(best, old)
    os.rename(made, best)
    remove_tree(old)
    sync_folder(folder)
    promote_compile_cache(folder, weights.parent / "compile_cache", settings.compile)


def promote_compile_cache(folder: Path, cache: Path, wanted: bool) -> None:
    """Make a run's private compile cache the one that others begin with; one that has grown too large is begun anew."""
    if not (cache.is_dir() and wanted):
        return
    remove_tree(folder / "compile_cache")
    if sum(on_disk(cache).values()) <= MOST_CACHE_BYTES:
        shutil.copytree(cache, folder / "compile_cache")


# --- What may go --------------------------------------------------------------------------------------------------


def weights_wanted(state: State) -> set[int]:
    """The experiments whose weights and losses stay: baseline, incumbent, and the newest in quarantine that a person may want to look at."""
    waiting = [e.number for e in state.experiments if e.in_quarantine]
    return {0, state.incumbent.number, *waiting[-MOST_IN_QUARANTINE:]}


def drop_unwanted_weights(
    experiments: Iterable[Experiment], state: State, attempts: Callable[[Experiment], Path]
) -> None:
    """Remove the weights and losses of those experiments that are not wanted any more. attempts: an experiment's last attempt's folder."""
    wanted = weights_wanted(state)
    for experiment in experiments:
        if experiment.number not in wanted:
            drop_weights(attempts(experiment))


def drop_weights(attempt_folder: Path) -> None:
    """Remove the weights and losses of all runs of an attempt."""
    for run in attempt_folder.glob("runs/*"):
        drop_weights_of_run(run)


def drop_weights_of_run(training_folder: Path) -> None:
    """Remove the weights and losses of one run."""
    for name in ("weights.safetensors", "losses.npy", "holdout_losses.npy", "unseen_losses.npy"):
        (training_folder / name).unlink(missing_ok=True)


def drop_compile_caches(attempt_folder: Path) -> None:
    """Remove the private compile caches of all runs of an attempt."""
    for run in attempt_folder.glob("runs/*"):
        remove_tree(run / "compile_cache")


def drop_old_pages(folder: Path, most_bytes: int = PAGES_BYTES) -> list[str]:
    """Keep notebooks/ within its share of the disk: pages of executions that were cut off go first, then the oldest experiments'. Return the names.

    What preparation, baseline and analysis wrote stays. The index shows an experiment without its page; the journal has all that it said.
    """
    sizes = {Path(name): size for name, size in on_disk(folder / "notebooks").items()}
    too_much = sum(sizes.values()) - most_bytes
    removed = []
    for page in sorted(filter(is_old_page, sizes), key=lambda page: (".cut" not in page.name, page.name)):
        if too_much <= 0 and page.stem != Path(removed[-1] if removed else "").stem:
            break  # a notebook goes with its page
        page.unlink(missing_ok=True)
        too_much -= sizes[page]
        removed.append(page.name)
    return removed


def is_old_page(page: Path) -> bool:
    """Whether a file of notebooks/ is an experiment's page, or one that was cut off."""
    return page.name[:4].isdigit() and page.suffix in (".ipynb", ".html")


def remove_leftovers(folder: Path, *experiment_folders: Path | None) -> None:
    """Remove what a kill can leave for ever: temporary files of the dead in the run's folders, and folders of model servers and trainings.

    experiment_folders: those whose runs somebody may have been at work on, and nobody is: the newest experiment's, and for its audit the incumbent's
    and the baseline's. Others were left tidy.
    """
    places = [folder, *(folder / name for name in ("best", "notebooks", "report", "rulings"))]
    for experiment_folder in dict.fromkeys(filter(None, experiment_folders)):
        runs = list(experiment_folder.glob("attempts/*/runs/*"))
        for left in [path for run in runs for path in (run / "work", *run.glob("server_*")) if path.is_dir()]:
            remove_tree(left)
        places += [*experiment_folder.glob("attempts/*"), *runs]
    for place in places:
        remove_temporaries(place)
    remove_tree(folder / "best.tmp")
    if (folder / "best").is_dir():
        remove_tree(folder / "best.old")
    elif (folder / "best.old").is_dir():  # killed between two names: the old one serves until the commit is repeated
        os.rename(folder / "best.old", folder / "best")
