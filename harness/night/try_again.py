"""An experiment's change, tried again on what is on the branch now: `python -m harness try --again
N`, for near misses.

In: a run and the experiment's number. Out: an Idea for `try_idea`. On the file that it was made
from it is the same file on a fresh seed; on another it is put on as `lab.changes` does. Refuses a
change that no longer fits.
"""

from __future__ import annotations

from harness.ground.errors import LoopError
from harness.lab.changes import NotAlone, read_source, with_change
from harness.night.try_idea import Idea, Refused
from harness.run.run import Run


def idea_again(run: Run, number: int) -> Idea:
    """The idea of a decided experiment. Raises LoopError where there is none, Refused where what is
    on the branch now has changed the same lines, or has the change already."""
    experiments, best = run.state.experiments, run.state.incumbent
    tried = [each for each in experiments[1:] if each.decided and each.attempts]
    experiment = next((each for each in tried if each.number == number), None)
    if experiment is None or best is None:
        raise LoopError(f"run {run.folder.name} has no decided experiment {number} to try again")
    proposed, now = experiment.attempt.proposed, read_source(run, best)
    before = read_source(run, experiments[proposed.get("parent") or 0])
    try:
        source = with_change(now, before, read_source(run, experiment))
        why = "has it already" if source == now else ""
    except NotAlone as error:
        why = f"has changed the same lines ({error})"
    if why:
        raise Refused(
            [
                f"experiment {best.number}, which is on the branch, {why}: experiment {number} is "
                "not to be tried again; to try something like it, change a copy of best/train.py"
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
