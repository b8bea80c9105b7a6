"""An experiment's change, tried again on what is on the branch now: `python -m harness try --again
N`, for near misses.

In: a run and the experiment's number. Out: an Idea for `try_idea`. On the file that it was made
from it is the same file on a fresh seed; on another, git merges the two. Refuses a change that no
longer fits.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.ground.errors import LoopError
from harness.night.try_idea import Idea, Refused
from harness.run.run import Run
from harness.run.state import Experiment

GIT_SECONDS = 60


def idea_again(run: Run, number: int) -> Idea:
    """The idea of a decided experiment. Raises LoopError where there is none, Refused where what is
    on the branch now has changed the same lines, or has the change already."""
    experiments, best = run.state.experiments, run.state.incumbent
    tried = [each for each in experiments[1:] if each.decided and each.attempts]
    experiment = next((each for each in tried if each.number == number), None)
    if experiment is None or best is None:
        raise LoopError(f"run {run.folder.name} has no decided experiment {number} to try again")
    proposed = experiment.attempt.proposed
    source = merge(run.train_py(best), parent_of(run, experiment), run.train_py(experiment))
    if source is None or source == run.train_py(best).read_text(encoding="utf-8"):
        why = "has it already" if source else "has changed the same lines"
        raise Refused(
            [
                f"experiment {best.number}, which is on the branch, {why}: experiment {number} is "
                "not to be tried again; to try something like it, change a copy of best.train_py"
            ]
        )
    return Idea(
        source,
        f"experiment {number} again: {proposed['title']}",
        proposed.get("hypothesis") or "",
        proposed["category"],
        proposed.get("expected_delta"),
        again=number,
    )


def parent_of(run: Run, experiment: Experiment) -> Path:
    parent = experiment.attempt.proposed.get("parent") or 0
    return run.train_py(run.state.experiments[parent])


def merge(now: Path, before: Path, after: Path) -> str | None:
    """`now` with what `after` changes of `before`; None where both changed the same lines."""
    command = ["git", "merge-file", "--stdout", "--quiet", *map(str, (now, before, after))]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=GIT_SECONDS)
    except FileNotFoundError as error:
        raise LoopError("trying a change again takes git, which is not here") from error
    if done.returncode < 0 or done.returncode >= 128:
        raise LoopError(f"git could not merge: {done.stderr.decode(errors='replace').strip()}")
    return None if done.returncode else done.stdout.decode("utf-8")
