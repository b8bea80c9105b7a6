"""A person's word on an experiment in quarantine: accepted or refused.

In: a run's folder, an experiment's number, the word. Out: a file in rulings/ at once, and between two experiments, by whoever holds the run, its effect: the
journal's `ruled` entry, for an accepted one that beats the incumbent the branch and best/ too. Repeatable after a kill at any moment. Refuses an experiment
that is not in quarantine.
"""

from __future__ import annotations

import time
from pathlib import Path

import harness
from harness.ground.clock import utc_now
from harness.ground.errors import RulingError
from harness.ground.files import read_json, write_json_atomic
from harness.lab.kept_files import drop_weights, update_best
from harness.lab.open_run import OpenRun
from harness.run import git_history
from harness.run.journal import read_journal
from harness.run.state import Experiment, State, fold


def request_ruling(folder: Path, experiment: int, accept: bool) -> None:
    """Write the word down; a second word before it took effect replaces the first. Raises RulingError.

    One whose effect has begun, which a kill cut short, can only be finished.
    """
    find_quarantined(fold(read_journal(folder / "journal.jsonl")), experiment)
    if has_begun(ruling_path(folder, experiment)):
        if accept:
            return
        raise RulingError(
            f"experiment {experiment} is being accepted already: --accept {experiment} finishes that; to go back, take an earlier train.py from git"
        )
    (folder / "rulings").mkdir(exist_ok=True)
    write_json_atomic(ruling_path(folder, experiment), {"experiment": experiment, "accept": accept, "asked": utc_now()})


def ruling_path(folder: Path, experiment: int) -> Path:
    return folder / "rulings" / f"{experiment:04d}.json"


def has_begun(path: Path) -> bool:
    """Whether branch or best/ may have been moved for this word."""
    try:
        return bool(read_json(path).get("begun"))
    except (FileNotFoundError, ValueError):
        return False


def find_quarantined(state: State, number: int) -> Experiment:
    """The experiment, which must be in quarantine."""
    waiting = [e for e in state.experiments if e.in_quarantine and e.committed]
    for experiment in waiting:
        if experiment.number == number:
            return experiment
    known = ", ".join(f"{e.number}" for e in waiting) or "none"
    raise RulingError(
        f"experiment {number} is not in quarantine (there: {known}); only what is there can be accepted or refused"
    )


def apply_all(lab: OpenRun) -> list[str]:
    """Let every written word take effect, where the run is between two experiments; return what was done, in sentences."""
    if not lab.step.is_between:
        return []
    return [apply(lab, path) for path in sorted((lab.folder / "rulings").glob("[0-9]*.json"))]


def apply(lab: OpenRun, path: Path) -> str:
    """Carry one word out: git, then best/, then the journal; the file goes last."""
    word = read_json(path)
    experiment = lab.state.experiments[word["experiment"]]
    if experiment.in_quarantine:  # else a kill came between the journal's entry and the file's end
        becomes = word["accept"] and experiment.mean < lab.state.incumbent.mean
        if becomes and not word.get("begun"):
            word["begun"] = True
            write_json_atomic(path, word)
        commit = move_branch(lab, experiment, path, word) if becomes else None
        if becomes:
            update_best(lab.folder, experiment, lab.train_py(experiment).parent, lab.settings, commit)
        told = {"accept": word["accept"], "becomes_incumbent": becomes, "commit": commit, "asked": word["asked"]}
        lab.journal.append("ruled", experiment=experiment.number, **told)
    ruled, kept = lab.state.experiments[experiment.number], lab.state.kept
    loser = kept[-2] if ruled.ruled["becomes_incumbent"] else ruled
    if loser.number:
        drop_weights(lab.train_py(loser).parent)
    lab.write_table()
    path.unlink()
    return ruling_in_words(ruled)


def move_branch(lab: OpenRun, experiment: Experiment, path: Path, word: dict) -> str | None:
    """Put the experiment's train.py on top of the branch; return the commit, None without history. What it is made of is written down first."""
    parent, base = lab.state.incumbent.commit, lab.settings.base_commit
    if not (parent and base):
        return None
    if "git" not in word:
        message = git_history.commit_message(
            experiment.number,
            experiment.decided["title"],
            ["decision: accepted by a person", experiment.decided["verdict"]],
        )
        word["git"] = {"parent": parent, "tree_of": base, "date": f"{int(time.time())} +0000", "message": message}
        write_json_atomic(path, word)
    plan = git_history.CommitPlan(**word["git"])
    commit = git_history.make_commit(harness.REPOSITORY, plan, lab.train_py(experiment))
    git_history.set_ref(harness.REPOSITORY, git_history.branch_name(lab.settings.tag), commit, plan.parent)
    return commit


def ruling_in_words(experiment: Experiment) -> str:
    """What came of a word, as a sentence."""
    if not experiment.ruled["accept"]:
        return f"experiment {experiment.number} is refused: it stays in the history as a discard"
    if experiment.ruled["becomes_incumbent"]:
        return f"experiment {experiment.number} is accepted and the best so far ({experiment.mean:.6f}): the next ideas start from it"
    return f"experiment {experiment.number} is accepted, but what was kept since is better: it stays in the history as a discard"
