"""Runs a close-out: trains best and other files in turn on fresh seeds, and scores both texts.

In: a Lab whose night is over, and hours for the comparisons after the claim. Out: entries of
close_out.jsonl, from which `close_out` derives what comes next; below close_out/ a folder for each
training, and files that no experiment tried, such as the best without one change.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict
from pathlib import Path

from harness.ground.errors import LoopError
from harness.ground.files import remove_temporaries, write_text_atomic
from harness.lab.changes import best_without
from harness.lab.close_out import (
    BASELINE,
    BEST,
    MOST_FAILURES,
    NAME,
    STOP_FILE,
    TEMPLATE,
    CloseOut,
    Comparison,
    Trial,
    built_name,
    fold_close_out,
    is_wanted,
    trial_of,
)
from harness.lab.close_out_questions import next_question, plan_claim, seconds_of, within
from harness.lab.executor import Executor, Listener, ignore
from harness.lab.kept_files import drop_weights_of_run, note_claim
from harness.lab.loop import Lab
from harness.lab.other_text import on_text
from harness.lab.propose_ahead import NIGHT_VARIABLE
from harness.lab.trainings import Job
from harness.rules.keep import CLAIM_SEEDS
from harness.rules.quarantine import private_text_reason, time_reasons
from harness.run.journal import Journal
from harness.run.state import NOT_HELD_AGAINST, Training
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover

# Above the seeds of the night's own runs; each comparison takes the next thousand.
FIRST_SEED = 1_000_000_000


class Claimant:
    """Runs a close-out step by step, while the run's lock is held.

    hours: for the comparisons after the claim; 0: the claim alone. A comparison that has begun is
    finished. text: facts of another text (`other_text`) on which best and baseline are compared.
    """

    def __init__(
        self,
        lab: Lab,
        listen: Listener = ignore,
        seeds: int = CLAIM_SEEDS,
        hours: float = 0.0,
        text: dict | None = None,
    ) -> None:
        self.lab, self.runs, self.listen, self.seeds = lab, lab.runs, listen, seeds
        self.folder, self.journal = lab.folder / "close_out", Journal(lab.folder / NAME)
        self.hours, self.until, self.text = hours, time.monotonic() + 3600 * hours, text
        self.executors = {lab.data.data_id: lab.executor}

    @property
    def found(self) -> CloseOut:
        return fold_close_out(self.journal.entries)

    def run(self) -> CloseOut:
        """Everything that is left to do, or what is in flight where the night was asked to stop.

        Raises Paused where the machine fails, or is busy, again and again; LoopError where the
        hours are too few for the claim.
        """
        self.lab.rule()
        state = self.lab.state
        if state.incumbent is None:
            raise LoopError("there is no baseline yet, so there is nothing to claim")
        found, best = self.found, state.incumbent.number
        if is_wanted(state, found) and not found.goes_on_with(best):
            self._begin_claim()
        self._tidy()
        steps = {
            "close": self._close,
            "train": self._train,
            "score": self._score,
            "claim": self._claim,
        }
        try:
            while not self._is_to_stop():
                found = self.found
                if carry_out := steps.get(found.current.step):
                    carry_out(found)
                elif question := self._next_question(found):
                    self._begin(question)
                else:
                    break
        finally:
            for executor in self.executors.values():
                executor.end_waiting()
        return self.found

    def _is_to_stop(self) -> bool:
        """Whether its night was asked to stop. The wish stays when that night is over."""
        in_a_night = bool(os.environ.get(NIGHT_VARIABLE))
        return in_a_night and (self.lab.folder / STOP_FILE).exists()

    def _begin_claim(self) -> None:
        claim = plan_claim(self.lab)
        needed = seconds_of(self.lab, claim) / 3600
        if 0 < self.hours < needed:
            raise LoopError(
                f"{self.hours:g} hours are too few for the claim: its {len(claim.trials)} "
                f"trainings take about {60 * needed:.0f} min. Give it --hours "
                f"{math.ceil(10 * needed) / 10:g} or more"
            )
        self._begin(claim)

    def _next_question(self, found: CloseOut) -> Comparison | None:
        """What can still be asked in the time that is left."""
        question = next_question(self.lab, found, self.text) if self.hours else None
        return within(self.lab, question, self.until - time.monotonic()) if question else None

    def _begin(self, planned: Comparison) -> None:
        first = max(self.lab.state.opened["seeds"]) + FIRST_SEED
        seeds = {"first_seed": first + 1000 * len(self.found.comparisons), "seeds": self.seeds}
        self.journal.append("claim_begun", **planned.begun | seeds)

    def folder_of(self, number: int) -> Path:
        return self.folder / f"{number:02d}"

    def train_py(self, trial: Trial, found: CloseOut) -> Path:
        """The file of a trial; one that no experiment tried is made anew."""
        if trial.experiment is not None:
            return self.lab.train_py(self.lab.state.experiments[trial.experiment])
        if trial.role == TEMPLATE:  # as real nights begin with it
            source = self.lab.template()
        else:
            source = best_without(self.lab, found.current.others[trial.role]["lacks"])
        path = self.folder / built_name(trial.role, found.current.begun["best"])
        path.parent.mkdir(exist_ok=True)
        write_text_atomic(path, source)
        return path

    def _close(self, found: CloseOut) -> None:
        """A training whose harness died."""
        kill_leftover(self.folder_of(found.current.in_flight.number))
        self.journal.append("trained", status="interrupted", cause="the harness ended in mid-run")

    def _train(self, found: CloseOut) -> None:
        trial, current, state = found.current.next_trial, found.current, self.lab.state
        started = state.opened
        if trial.role != TEMPLATE:
            number = current.begun["best"] if trial.experiment is None else trial.experiment
            started = state.experiments[number].attempt.own[-1].started
        # as many rows as the file, or the best that it is made of, ran with in the night
        limits = {"device_batch_limit": started.get("device_batch_limit")}
        limits |= {"budget_seconds": current.budgets * self.lab.settings.budget_seconds}
        facts = {"run": found.numbers, **asdict(trial)}
        result = self.runs.train(self._job(trial, found.numbers, found), facts, limits)
        if result["status"] != "ok":  # else the scoring says how it ended
            self._over(result)

    def _score(self, found: CloseOut) -> None:
        run = found.current.in_flight
        job = self._job(trial_of(run), run.number, found)
        state = self.lab.state
        # the night's trainings of the baseline saw its own text alone
        rival = None if found.current.text else state.experiments[0]
        measurement = self.runs.measurement_beside(job, rival)
        fields = self.runs.score(job, measurement)
        if fields["status"] == "ok":
            fields |= job.executor.judged(measurement.score_holdout(ignore))
        is_edited = run.started["role"] not in (BASELINE, TEMPLATE)
        accepted = any(kept.ruled for kept in state.kept)  # a person has looked at its doubts
        if fields["status"] == "ok" and is_edited and not accepted:
            looked = job.executor.judged(measurement.audit(ignore))
            fields |= self._look_closely(run, found.current, fields, looked)
        job.note("scored", **fields)
        job.tell_score(fields)
        self._over(fields)

    def _look_closely(self, run: Training, current: Comparison, scored: dict, looked: dict) -> dict:
        """What the close audit of a training of edited code found, which can tell by its seed or
        folder that it is one of the close-out. Returns the fields of `scored` that change where its
        night would have rejected it or put it into quarantine; {} where nothing is wrong."""
        state, budget = self.lab.state, current.budgets * self.lab.settings.budget_seconds
        attempt = state.experiments[current.begun["best"]].attempt
        if looked["status"] != "ok":
            return {"status": looked["status"], "cause": looked["cause"], "val_bpb": None}
        seen = Training(run.started, trained=run.trained, scored=scored, audited=looked)
        why = [*seen.doubts, *private_text_reason(seen)]
        beside = [run for run in current.runs if run.started["role"] == BASELINE and run.scored]
        why += time_reasons(state, attempt, seen, budget, beside)
        return {"status": "doubt", "cause": "; ".join(why), "val_bpb": None} if why else {}

    def _job(self, trial: Trial, number: int, found: CloseOut) -> Job:
        train_py, folder = self.train_py(trial, found), self.folder_of(number)
        context = {"experiment": trial.experiment, "run": number, "run_kind": trial.role}
        executor = self._executor_on(found.current.text)
        told = (context, self.listen, self.journal.append)
        return Job(train_py, folder, trial.seed, *told, executor)

    def _executor_on(self, text: dict) -> Executor:
        """The executor for the text of these facts, or for the run's own text where there are
        none."""
        lab = self.lab
        data_id = text.get("data_id", lab.data.data_id)
        if data_id not in self.executors:
            on = on_text(lab.settings, text)
            self.executors[data_id] = Executor(*on, lab.folder, lab.folder.parent)
        return self.executors[data_id]

    def _over(self, result: dict) -> None:
        """After a training: tidy up, and raise Paused after several faults of the machine."""
        self._tidy()
        fault = result["cause"] if result["status"] in NOT_HELD_AGAINST else ""
        self.runs.pause_after_faults(fault)

    def _tidy(self) -> None:
        """Remove what trainings that are over leave, those that a kill cut off too; weights stay
        while they wait to be scored."""
        current = self.found.current
        if self.folder.exists():
            remove_temporaries(self.folder)
        waiting = self.folder_of(current.in_flight.number) if current.step == "score" else None
        for folder in self.folder.glob("[0-9]*"):
            if folder != waiting:
                drop_weights_of_run(folder)
            for left in (folder / "work", *folder.glob("server_*")):
                remove_tree(left)

    def _claim(self, found: CloseOut) -> None:
        """Write the claim on one of the other files, or why there can be none."""
        current = found.current
        role = current.next_claim
        facts = {"best": current.begun["best"], "against": role, "status": "ok", "cause": ""}
        if why := current.others[role].get("not_alone"):
            facts |= {"status": "not alone", "cause": why}
        elif failed := current.failed(role) or current.failed(BEST):
            words = (
                f"nothing can be claimed: the {failed.started['role']}, trained again, ended "
                f"{MOST_FAILURES} times with {failed.status}: {failed.cause}"
            )
            facts |= {"status": failed.status, "cause": words}
        else:
            facts |= {text: asdict(given) for text, given in current.claims_on(role).items()}
            template = current.scores(TEMPLATE)
            facts |= {"template_bpb": template[0] if template else None}
        if current.kind == "claim":
            note_claim(self.lab.folder, facts)
        self.journal.append("claimed", **facts)
