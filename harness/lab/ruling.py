"""A person's ruling on an experiment in quarantine: accepted or refused.

In: a run's folder, an experiment's number, the ruling. Out: a file in rulings/, written at once.
The process that holds the run carries it out between two experiments: it writes the journal's
`ruled` entry and, for an accepted experiment that beats the incumbent, moves the branch and best/.
This can be repeated after a kill at any moment. Refuses an experiment that is not in quarantine.
"""

from __future__ import annotations

from pathlib import Path

import harness
from harness.ground.clock import utc_now
from harness.ground.errors import RulingError
from harness.ground.files import read_json, write_json_atomic
from harness.lab.kept_files import drop_weights, update_best
from harness.lab.open_run import OpenRun
from harness.run import git_history
from harness.run.journal import read_journal
from harness.run.state import Experiment, fold


def request_ruling(folder: Path, experiment: int, accept: bool) -> None:
    """Write the ruling into its file; until it is carried out a second one replaces the first.

    Raises RulingError, also where carrying it out has begun and a kill cut it short: then it can
    only be finished.
    """
    state = fold(read_journal(folder / "journal.jsonl"))
    waiting = [e.number for e in state.experiments if e.in_quarantine and e.committed]
    if experiment not in waiting:
        known = ", ".join(map(str, waiting)) or "none"
        raise RulingError(
            f"experiment {experiment} is not in quarantine (there: {known}); only what is there "
            "can be accepted or refused"
        )
    path = folder / "rulings" / f"{experiment:04d}.json"
    if has_begun(path) and not accept:
        raise RulingError(
            f"experiment {experiment} is being accepted already: --accept {experiment} finishes "
            "that; to go back, take an earlier train.py from git"
        )
    if not has_begun(path):
        path.parent.mkdir(exist_ok=True)
        word = {"experiment": experiment, "accept": accept, "asked": utc_now()}
        write_json_atomic(path, word)


def has_begun(path: Path) -> bool:
    """Whether branch or best/ may have been moved for this ruling."""
    try:
        return bool(read_json(path).get("begun"))
    except (FileNotFoundError, ValueError):
        return False


def apply_ruling(run: OpenRun, path: Path) -> None:
    """Carry one word out: git, then best/, then the journal; the file goes last."""
    word = read_json(path)
    experiment = run.state.experiments[word["experiment"]]
    if experiment.in_quarantine:  # else a kill came between the journal's entry and the file's end
        becomes = word["accept"] and experiment.mean < run.state.incumbent.mean
        commit = None
        if becomes:
            if not word.get("begun"):
                word["begun"] = True
                write_json_atomic(path, word)
            commit = move_branch(run, experiment, path, word)
            train_py = run.train_py(experiment)
            update_best(run.folder, experiment, train_py.parent, run.settings, commit)
        facts = {"accept": word["accept"], "becomes_incumbent": becomes, "commit": commit}
        run.journal.append("ruled", experiment=experiment.number, **facts, asked=word["asked"])
    ruled, kept = run.state.experiments[experiment.number], run.state.kept
    loser = kept[-2] if ruled.ruled["becomes_incumbent"] else ruled
    if loser.number:
        drop_weights(run.train_py(loser).parent)
    run.write_table()
    path.unlink()


def move_branch(run: OpenRun, experiment: Experiment, path: Path, word: dict) -> str | None:
    """Put the experiment's train.py on top of the branch; return the commit, None without history.

    What it is made of is written down first.
    """
    if "git" not in word:
        decided = experiment.decided
        facts = ["decision: accepted by a person", decided["verdict"]]
        git = run.plan_commit(experiment.number, decided["title"], facts)
        if git is None:
            return None
        word["git"] = git
        write_json_atomic(path, word)
    plan = git_history.CommitPlan(**word["git"])
    commit = git_history.make_commit(harness.REPOSITORY, plan, run.train_py(experiment))
    branch = git_history.branch_name(run.settings.tag)
    git_history.set_ref(harness.REPOSITORY, branch, commit, plan.parent)
    return commit


def ruling_in_words(experiment: Experiment) -> str:
    """What came of a word, as a sentence."""
    number = experiment.number
    if not experiment.ruled["accept"]:
        return f"experiment {number} is refused: it stays in the history as a discard"
    if experiment.ruled["becomes_incumbent"]:
        best = f"the best so far ({experiment.mean:.6f})"
        return f"experiment {number} is accepted and {best}: the next ideas start from it"
    return (
        f"experiment {number} is accepted, but what was kept since is better: it stays in the "
        "history as a discard"
    )
