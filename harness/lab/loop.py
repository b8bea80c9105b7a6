"""The experiment loop, one stage a call: propose, check, train (and score, and confirm), decide,
commit.

In: a run's folder. Out: its journal advanced by what `next_step` asks for, and the files the
journal speaks of. Every stage is skipped when it is done already and can be repeated after a kill
at any moment. Refuses to work on a run that another process holds.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path

import harness
from harness.ground.cgroup import memory_limit_mb
from harness.ground.errors import LoopError, Paused
from harness.ground.parent import die_with_parent
from harness.lab.executor import Listener, ignore
from harness.lab.kept_files import drop_unneeded, remove_leftovers, update_best
from harness.lab.open_run import OpenRun
from harness.lab.proposal_request import Asking
from harness.lab.propose_ahead import NIGHT_VARIABLE, Ahead
from harness.lab.proposing import make_asking, program_in_force, propose_attempt, source_of
from harness.lab.ruling import apply_ruling
from harness.lab.trainings import Runs
from harness.rules.decision import commit_facts, decision
from harness.rules.next_step import Step, step_after
from harness.run import disk_space, git_history
from harness.run.journal import Journal
from harness.run.locks import hold
from harness.run.run import JOURNAL, newest_run
from harness.run.settings import command_on, results_folder
from harness.run.state import NOT_HELD_AGAINST, Experiment
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_all_of, kill_leftover
from harness.search.gate import check_candidate


def stage(method: Callable) -> Callable:
    """Decorator for a stage of Lab: it runs under the run's lock.

    If an error or an interrupt ends it, the lock is released, since an idle notebook would keep a
    night from the run; the next stage takes it again. A full disk is raised as Paused, which says
    what to do.
    """

    @functools.wraps(method)
    def carried_out(lab: Lab, *arguments, **options):
        try:
            lab.hold()
            return method(lab, *arguments, **options)
        except BaseException as error:
            lab.release()
            said = isinstance(error, LoopError) or not isinstance(error, Exception)
            if said or not disk_space.is_full(error):
                raise
            raise Paused(disk_space.full_words(lab.folder, error)) from error

    return carried_out


# Which Lab of this process holds a run: a new one, made by a cell that is run again, takes it over.
_HOLDING: dict[Path, Lab] = {}


class Lab(OpenRun):
    """One run and its stages.

    Its lock must be held (`with lab:`, or hold and release) while they are carried out.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The experiment that `begin` chose; stages touch no other.
        self.number: int | None = None
        self._held = contextlib.ExitStack()
        self.runs = Runs(self)
        self.ahead = Ahead(self)
        self.asking = Asking()

    def hold(self) -> Lab:
        """Take the run's lock unless this Lab has it, and repair what the last holder left.

        Raises BusyError naming the holder.
        """
        if _HOLDING.get(self.folder) is self:
            return self
        if os.environ.get(NIGHT_VARIABLE):
            die_with_parent(os.getppid())  # its kernel must not go on alone when it is killed
        if self.folder in _HOLDING:
            _HOLDING[self.folder].release()
        stop = command_on(self.folder, "--stop")
        advice = f"Wait for it, stop it ({stop}), or shut down that notebook's kernel."
        self._held.enter_context(hold(self.folder, "experiment", "an experiment", advice))
        _HOLDING[self.folder] = self
        self.take_up()
        return self

    @stage
    def take_up(self) -> None:
        """Read the journal, and mend what the last holder left."""
        self.journal = Journal(self.folder / JOURNAL)
        if self.journal.mended and self.journal.entries:
            self.journal.append("note", text=self.journal.mended)
        self.recover()

    def release(self) -> None:
        """Let others work on the run."""
        self.executor.end_waiting()
        self.ahead.drop()
        if _HOLDING.get(self.folder) is self:
            del _HOLDING[self.folder]
        self._held.close()

    def __enter__(self) -> Lab:
        return self.hold()

    def __exit__(self, *exception: object) -> None:
        self.release()

    # --- what is known -----------------------------------------------------------------------

    @property
    def experiment(self) -> Experiment | None:
        """The experiment that `begin` chose, else the newest; None before its proposal."""
        experiments = self.state.experiments
        if self.number is not None:
            return experiments[self.number] if self.number < len(experiments) else None
        return experiments[-1] if experiments else None

    def diff(self) -> str:
        """The experiment's change of its parent's train.py, as a unified diff."""
        return (self.train_py(self.experiment).parent / "train.diff").read_text(encoding="utf-8")

    def tried(self, again: int | None = None) -> dict[str, int]:
        """Every file that the gate has looked at, by its hash, with the experiment that it was of;
        those of excused experiments may come again. again: one that is to be tried again."""
        state = self.state
        known = [e for e in state.experiments if e.number not in (again, *state.excused)]
        return {a.proposed["sha256"]: e.number for e in known for a in e.attempts if a.checked}

    # --- stages ------------------------------------------------------------------------------

    def recover(self) -> None:
        """Close a training whose harness died, end the processes and remove the files that it may
        have left, and derive results.tsv again."""
        self.executor.end_waiting()
        step = self.step
        if step.kind == "in_flight":
            kill_leftover(self.folder_of(step))
        kill_all_of(self.folder)  # whatever the last holder died in: a server of it may live on
        if step.kind == "in_flight":
            facts = {"status": "interrupted", "cause": "the harness ended in mid-run"}
            self.note_run("trained", step, **facts, cut_off=True, log_bytes=0)
        remove_tree(self.folder / "control")
        state = self.state
        touched = (*state.experiments[:1], *state.kept[-1:], *state.experiments[-1:])
        numbers = sorted({experiment.number for experiment in touched})
        folders = [self.folder / "experiments" / f"{number:04d}" for number in numbers]
        remove_leftovers(self.folder, *folders)
        self.write_table()

    @stage
    def rule(self) -> None:
        """Carry out what a person ruled on experiments in quarantine, if one is due now."""
        if step_after(self.state, rulings_wait=bool(self.rulings)).kind == "rule":
            for path in self.rulings:
                apply_ruling(self, path)

    @stage
    def begin(self) -> int:
        """Choose the experiment to work on: the unfinished one, else the next; return its number.

        Before a new one, a person's rulings are carried out, and after ideas that failed alike the
        best file is tried. The stages called after this work on the chosen experiment only. Raises
        LoopError when the baseline is not done.
        """
        if self.step.experiment == 0:
            raise LoopError(
                f"run {self.settings.tag} has no finished baseline: run "
                f"notebooks/02_baseline.ipynb with tag = {self.settings.tag!r} first"
            )
        self.rule()
        if self.step.kind == "control":
            self.runs.control()
        self.number = self.step.experiment
        return self.number

    @stage
    def propose(self, proposer: str = "", model: str = "", llm: str = "") -> None:
        """Write the next experiment's train.py, by the propose process.

        proposer: tpe, llm, hybrid, or "" for hybrid where a language model is known and tpe
        elsewhere. model, llm: which model, and its options as NAME=VALUE. They hold for repairs of
        the experiment too. Raises LoopError where nothing can be proposed.
        """
        self.asking = make_asking(proposer, model, llm)
        self._carry_out("propose")

    @stage
    def check(self) -> None:
        """Check the candidate with the gate before it is trained. If it is refused and its proposer
        can repair it, it is proposed and checked again."""
        self._carry_out("check", "repair")

    @stage
    def train(self, listen: Listener = ignore) -> None:
        """Train and score until the keep rule can decide: once, or again on fresh seeds when the
        result is promising; then audit closely what is about to be kept.

        A training that ran out of memory is repeated with half the rows at a time, and fails only
        when a single row is too much. If one fails early and its proposer can repair it, it is
        proposed again. listen gets {"stage": "training" | "scoring" | "auditing", "run", ...} as
        things happen.
        """
        if kind_of(self.next_stage()) == "train":
            source = source_of(self, self.state.incumbent)
            program, _ = program_in_force(self, source)
            self.ahead.begin(self.asking, source, program)
        kinds = ("train", "in_flight", "score", "audit", "repair", "check")
        self._carry_out(*kinds, listen=listen)

    @stage
    def decide(self) -> None:
        """Write the decision, with everything that its commit will be made of."""
        self._carry_out("decide")
        if self.experiment.decided and self.experiment.decided["decision"] == "keep":
            self.ahead.drop()

    @stage
    def commit(self) -> None:
        """Make the experiment's commit and refs, update best/ and results.tsv, and drop weights
        that are not needed any more; then wait for the next proposal, if one was asked for."""
        self._carry_out("commit")
        self.ahead.finish()

    @stage
    def run_baseline(self, listen: Listener = ignore) -> None:
        """Bring experiment 0, the baseline, to its commit, from wherever it is.

        Raises LoopError when the template itself fails.
        """
        while (step := self.step).experiment == 0:
            if self.experiment:
                self._stop_if_template_refused()
            self._carry_out_step(step, listen)
            self._stop_if_baseline_failed()

    # --- steps -------------------------------------------------------------------------------

    def next_stage(self) -> Step:
        """What the journal asks for, as far as it concerns the chosen experiment."""
        step = self.step
        return step if self.number in (None, step.experiment) else Step("nothing", self.number)

    def _carry_out(self, *kinds: str, listen: Listener = ignore) -> None:
        """Carry out the chosen experiment's steps while they are of these kinds (see `kind_of`)."""
        while kind_of(step := self.next_stage()) in kinds:
            self._carry_out_step(step, listen)

    def _carry_out_step(self, step: Step, listen: Listener) -> None:
        match step.kind:
            case "propose":
                self.ahead.drop()  # one that asks at a time: they share the run's budgets
                propose_attempt(self, step, self.asking)
            case "check":
                self._check(step)
            case "in_flight":
                self.recover()
            case "decide":
                self._decide(step)
            case "commit":
                self._commit(step)
            case _:
                self.runs.carry_out(step, listen)

    def _check(self, step: Step) -> None:
        path = self.attempt_folder(step.experiment, step.attempt) / "train.py"
        again = self.state.experiments[step.experiment].attempt.again
        reasons = check_candidate(path.read_text(encoding="utf-8"), self.tried(again))
        place = {"experiment": step.experiment, "attempt": step.attempt}
        self.journal.append("checked", **place, ok=not reasons, reasons=reasons)

    def _decide(self, step: Step) -> None:
        entry = decision(self.state, self.settings.budget_seconds)
        git = self.plan_commit(step.experiment, entry["title"], commit_facts(entry))
        self.journal.append("decided", **entry, git=git)

    def _commit(self, step: Step) -> None:
        experiment = self.state.experiments[step.experiment]
        train_py = self.train_py(experiment)
        kept = experiment.decided["decision"] in ("baseline", "keep")
        commit = None
        if experiment.decided["git"]:
            commit = git_history.record_experiment(
                harness.REPOSITORY,
                self.settings.tag,
                experiment.number,
                git_history.CommitPlan(**experiment.decided["git"]),
                train_py,
                advance=kept,
            )
        if kept:
            update_best(self.folder, experiment, train_py.parent, self.settings, commit)
        drop_unneeded(self, experiment, kept)
        self.journal.append("committed", experiment=experiment.number, commit=commit)
        self.write_table()

    # --- what a step needs -------------------------------------------------------------------

    def _stop_if_template_refused(self) -> None:
        checked = self.experiment.attempt.checked
        if checked and not checked["ok"]:
            raise LoopError(
                f"the template does not pass the gate: {'; '.join(checked['reasons'])}. "
                "Mend train_template.py and start a new tag"
            )

    def _stop_if_baseline_failed(self) -> None:
        attempt = self.experiment.attempt
        last = attempt.runs[-1] if attempt.runs else None
        if not last or last.status in (None, "ok", *NOT_HELD_AGAINST) or last.fewer_rows:
            return
        cause = last.cause
        on_card = self.settings.device["kind"] != "cpu"
        if last.status == "oom" and (on_card or not memory_limit_mb()):
            cause += (
                "; this device needs a smaller model: lower DEPTH, vocab_size or max_seq_len "
                "(--set) in a new tag"
            )
        log = self.train_py(self.experiment).parent / "runs" / f"{last.number:02d}" / "run.log"
        raise LoopError(
            f"the baseline ended with {last.status}: {cause}. See {log}. If the machine was to "
            "blame, run the same command again; if train_template.py was, mend it and start a new "
            "tag"
        )


def kind_of(step: Step) -> str:
    """A step's kind; "repair" where it is a further attempt of its experiment."""
    return "repair" if step.kind == "propose" and step.attempt else step.kind


def open_lab(tag: str, results: str = "") -> Lab:
    """Open a run; tag "" is the run that was worked on last.

    Raises SettingsError or LoopError saying what to run first.
    """
    return Lab(results_folder(results) / tag if tag else newest_run(results))
