"""Measures the claim: best and baseline trained in turn on fresh seeds, scored on both texts.

In: a Lab whose night is over. Out: entries of close_out.jsonl, which say what comes next
(`close_out`), and a folder for each training below close_out/.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from harness.ground.errors import LoopError
from harness.lab.close_out import (
    MOST_FAILURES,
    NAME,
    STOP_FILE,
    CloseOut,
    Trial,
    fold_close_out,
    is_wanted,
    trial_of,
)
from harness.lab.executor import Listener, ignore
from harness.lab.kept_files import drop_weights_of_run
from harness.lab.loop import Lab
from harness.lab.trainings import Job
from harness.rules.keep import CLAIM_SEEDS
from harness.run.journal import Journal
from harness.run.state import NOT_HELD_AGAINST, State
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover

# Above the seeds of the night's own runs; each close-out takes the next thousand.
FIRST_SEED = 1_000_000_000


class Claimant:
    """Carries a close-out out, step by step, while the run's lock is held."""

    def __init__(self, lab: Lab, listen: Listener = ignore, seeds: int = CLAIM_SEEDS) -> None:
        self.lab, self.runs, self.listen, self.seeds = lab, lab.runs, listen, seeds
        self.folder, self.journal = lab.folder / "close_out", Journal(lab.folder / NAME)

    @property
    def found(self) -> CloseOut:
        return fold_close_out(self.journal.entries)

    def run(self) -> CloseOut:
        """Everything that is left to do, or what is in flight where the night was asked to stop.

        Raises Paused where the machine fails, or is busy, again and again.
        """
        self.lab.rule()
        state = self.lab.state
        if state.incumbent is None:
            raise LoopError("there is no baseline yet, so there is nothing to claim")
        found, best = self.found, state.incumbent.number
        if is_wanted(state, found) and not found.goes_on_with(best):
            self._begin(state)
        self._tidy()
        steps = {
            "close": self._close,
            "train": self._train,
            "score": self._score,
            "claim": self._claim,
        }
        while (found := self.found).step in steps and not (self.lab.folder / STOP_FILE).exists():
            steps[found.step](found)
        return found

    def _begin(self, state: State) -> None:
        before = sum(entry["event"] == "claim_begun" for entry in self.journal.entries)
        self.journal.append(
            "claim_begun",
            best=state.incumbent.number,
            seeds=self.seeds,
            first_seed=max(state.opened["seeds"]) + FIRST_SEED + 1000 * before,
            template=self.lab.settings.profile["name"] == "demo",
        )

    def folder_of(self, number: int) -> Path:
        return self.folder / f"{number:02d}"

    def train_py(self, trial: Trial) -> Path:
        """The file of a trial; the template's as real nights begin with it."""
        if trial.experiment is not None:
            return self.lab.train_py(self.lab.state.experiments[trial.experiment])
        path = self.folder / "train_template.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.lab.template(), encoding="utf-8")
        return path

    def _close(self, found: CloseOut) -> None:
        """A training whose harness died."""
        kill_leftover(self.folder_of(found.in_flight.number))
        self.journal.append("trained", status="interrupted", cause="the harness ended in mid-run")

    def _train(self, found: CloseOut) -> None:
        trial, state = found.next_trial, self.lab.state
        started = state.opened
        if trial.experiment is not None:
            started = state.experiments[trial.experiment].attempt.own[-1].started
        # as many rows as the file ran with in the night
        limits = {"device_batch_limit": started.get("device_batch_limit")}
        facts = {"run": found.numbers, **asdict(trial)}
        result = self.runs.train(self._job(trial, found.numbers), facts, limits)
        if result["status"] != "ok":  # else the scoring says how it ended
            self._over(result)

    def _score(self, found: CloseOut) -> None:
        job = self._job(trial_of(found.in_flight), found.in_flight.number)
        measurement = self.lab.executor.measurement(job.train_py, job.folder)
        fields = self.runs.score(job, measurement)
        if fields["status"] == "ok":
            fields |= measurement.score_holdout(ignore)
        job.note("scored", **fields)
        job.tell_score(fields)
        self._over(fields)

    def _job(self, trial: Trial, number: int) -> Job:
        train_py, folder = self.train_py(trial), self.folder_of(number)
        context = {"experiment": trial.experiment, "run": number, "run_kind": trial.role}
        return Job(train_py, folder, trial.seed, context, self.listen, self.journal.append)

    def _over(self, result: dict) -> None:
        """A training is over."""
        self._tidy()
        fault = result["cause"] if result["status"] in NOT_HELD_AGAINST else ""
        self.runs.pause_after_faults(fault)

    def _tidy(self) -> None:
        """Remove what trainings that are over leave, those that a kill cut off too; weights stay
        while they wait to be scored."""
        found = self.found
        waiting = self.folder_of(found.in_flight.number) if found.step == "score" else None
        for folder in self.folder.glob("[0-9]*"):
            if folder != waiting:
                drop_weights_of_run(folder)
            for left in (folder / "work", folder / "compile_cache", *folder.glob("server_*")):
                remove_tree(left)

    def _claim(self, found: CloseOut) -> None:
        """Write what the runs allow to say."""
        facts = {"best": found.begun["best"], "status": "ok", "cause": ""}
        if failed := found.failed:
            words = (
                f"nothing can be claimed: the {failed.started['role']}, trained again, ended "
                f"{MOST_FAILURES} times with {failed.status}: {failed.cause}"
            )
            self.journal.append("claimed", **facts | {"status": failed.status, "cause": words})
            return
        claims = {text: asdict(given) for text, given in found.claims().items()}
        template = found.scores("template")
        self.journal.append(
            "claimed", **facts, **claims, template_bpb=template[0] if template else None
        )
