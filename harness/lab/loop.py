"""The experiment loop, one stage a call: propose, check, train (and score, and confirm), decide, commit.

In: a run's folder. Out: its journal advanced by what `next_step` asks for, and the files the journal speaks of. Every stage is skipped
when it is done already and can be repeated after a kill at any moment. Refuses to work on a run that another process holds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import harness
from harness.ground.cgroup import memory_limit_mb
from harness.ground.errors import KeyFileError, LabError, LoopError, Paused, ProposalError
from harness.ground.files import write_text_atomic
from harness.ground.parent import die_with_parent
from harness.lab import ruling
from harness.lab.kept_files import (
    drop_compile_caches,
    drop_old_pages,
    drop_unwanted_weights,
    drop_weights_of_run,
    remove_leftovers,
    update_best,
)
from harness.lab.open_run import OpenRun
from harness.lab.proposing import (
    Asking,
    make_asking,
    measures,
    needs_smoke_run,
    program_in_force,
    proposal_request,
    propose_baseline,
    read_proposal,
    run_proposer,
)
from harness.lab.trainings import Listener, Runs
from harness.rules.decision import commit_facts, decision
from harness.rules.next_step import Step, last_attempt
from harness.run import disk_space, git_history
from harness.run.journal import Journal
from harness.run.locks import hold
from harness.run.run import JOURNAL, newest_run
from harness.run.settings import command_on, results_folder
from harness.run.state import NOT_HELD_AGAINST, Experiment, State
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_all_of, kill_leftover
from harness.search.gate import check_candidate
from harness.search.llm.endpoint import EndpointError
from harness.search.patch import make_diff
from harness.search.proposal import JOURNALED

NIGHT_VARIABLE = "AUTORESEARCH_NIGHT"  # set for kernels that a night starts


def says_when_full(stage: Callable) -> Callable:
    """A stage of Lab that says what to do when the disk is full, whatever it was writing. It can be repeated once there is room."""

    @functools.wraps(stage)
    def carried_out(lab: Lab, *arguments, **options):
        try:
            return stage(lab, *arguments, **options)
        except LoopError:
            raise
        except (OSError, RuntimeError, LabError) as error:
            if not disk_space.is_full(error):
                raise
            raise Paused(disk_space.full_words(lab.folder, error)) from error

    return carried_out


_HOLDING: dict[Path, Lab] = {}  # in this process: a cell that is run again takes over from itself


class Lab(OpenRun):
    """One run and its stages. Its lock must be held (`with lab:`, or hold and release) while they are carried out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.number: int | None = None  # the experiment that `begin` chose; stages touch no other
        self._held = contextlib.ExitStack()
        self.runs = Runs(self)
        self.asking = Asking()

    @says_when_full
    def hold(self) -> Lab:
        """Take the run's lock, see what the last holder left, and mend it. Raises BusyError naming the holder."""
        if os.environ.get(NIGHT_VARIABLE):
            die_with_parent(os.getppid())  # a kernel of a night must not go on alone when the night is killed
        if self.folder in _HOLDING:
            _HOLDING[self.folder].release()
        advice = f"Wait for it, stop it ({command_on(self.folder, '--stop')}), or shut down that notebook's kernel."
        self._held.enter_context(hold(self.folder, "experiment", "an experiment", advice))
        _HOLDING[self.folder] = self
        self.journal = Journal(self.folder / JOURNAL)
        if self.journal.mended and self.journal.entries:
            self.journal.append("note", text=self.journal.mended)
        self.recover()
        return self

    def release(self) -> None:
        """Let others work on the run."""
        self.runs.end_waiting()
        _HOLDING.pop(self.folder, None)
        self._held.close()

    def __enter__(self) -> Lab:
        return self.hold()

    def __exit__(self, *exception: object) -> None:
        self.release()

    # --- what is known -------------------------------------------------------------------------------------------

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

    def tried(self) -> dict[str, int]:
        """Every file that the gate has looked at, by its hash, with the experiment that it was of; those of excused experiments may come again."""
        state = self.state
        known = [e for e in state.experiments if e.number not in state.excused]
        return {a.proposed["sha256"]: e.number for e in known for a in e.attempts if a.checked is not None}

    def program_text(self) -> str:
        """program.md as it stands now: editing it steers the night."""
        return (harness.REPOSITORY / "program.md").read_text(encoding="utf-8-sig")

    # --- stages --------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Close a run whose harness died, end the process and remove the files it may have left, and derive results.tsv again."""
        self.runs.end_waiting()
        step = self.step
        if step.kind == "in_flight":
            kill_leftover(self.folder_of(step))
        kill_all_of(self.folder)  # whatever step the last holder died in: a server of it may live on
        if step.kind == "in_flight":
            facts = {"status": "interrupted", "cause": "the harness ended in mid-run", "cut_off": True}
            self.note_run("trained", step, **facts, log_bytes=0)
        remove_tree(self.folder / "control")
        state = self.state
        numbers = sorted({e.number for e in (*state.experiments[:1], *state.kept[-1:], *state.experiments[-1:])})
        remove_leftovers(self.folder, *(self.folder / "experiments" / f"{number:04d}" for number in numbers))
        self.write_table()
        ruling.apply_all(self)

    def begin(self) -> int:
        """Choose the experiment to work on: the unfinished one, else the next; return its number.

        The stages after it touch no other, however often they are called. Raises LoopError when the baseline is not done.
        """
        step = self.step
        if step.experiment == 0:
            self.release()
            raise LoopError(
                f"run {self.settings.tag} has no finished baseline: run notebooks/02_baseline.ipynb with tag = {self.settings.tag!r} first"
            )
        if step.kind == "control":
            try:
                self.runs.control()
            except Paused:
                self.release()
                raise
        self.number = step.experiment
        return self.number

    def next_stage(self) -> Step:
        """What the journal asks for, as far as it concerns the chosen experiment."""
        step = self.step
        return step if self.number in (None, step.experiment) else Step("nothing", self.number)

    @says_when_full
    def propose(self, proposer: str = "", model: str = "", llm: str = "") -> None:
        """Write the next experiment's train.py, by the propose process; for experiment 0 the template under the profile's constants.

        proposer: tpe, llm, hybrid, or "" for hybrid where a language model is known and tpe elsewhere. model, llm: which model, and its options
        as NAME=VALUE. They hold for repairs of the experiment too. Raises LoopError where nothing can be proposed.
        """
        try:
            self.asking = make_asking(proposer, model, llm)
        except (ProposalError, EndpointError, KeyFileError) as error:
            raise LoopError(str(error)) from error
        step = self.next_stage()
        if step.kind == "propose" and not step.attempt:
            self._propose(step)

    def _propose(self, step: Step) -> None:
        """One attempt of an experiment: its first, or a repair of the last."""
        folder = self.attempt_folder(step.experiment, step.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        state, program = self.state, self.program_text()
        before = self._source_of(state.incumbent)
        program, why = program_in_force(self, program, before)
        notes = [entry["text"] for entry in self.journal.entries if entry["event"] == "note"]
        if why and notes[-1:] != [why]:
            self.journal.append("note", text=why)
        proposal = read_proposal(folder)
        if proposal is None and state.incumbent:
            try:
                request = proposal_request(self, step, before, program, self.asking)
                proposal = run_proposer(folder, request, self.asking)
            except ProposalError as error:
                raise LoopError(str(error)) from error
        elif proposal is None:
            proposal = propose_baseline(folder, before, self.settings)
        if proposal.get("gave_up"):
            facts = {key: proposal.get(key) for key in ("usage", "exchange")}
            self.journal.append(
                "unrepaired", experiment=step.experiment, attempt=step.attempt, why=proposal["gave_up"], **facts
            )
            return
        parent = self._parent(state, proposal)
        before = self._source_of(parent)
        after = (folder / "train.py").read_text(encoding="utf-8")
        write_text_atomic(folder / "train.diff", make_diff(before, after))
        self.journal.append(
            "proposed",
            experiment=step.experiment,
            attempt=step.attempt,
            **{name: proposal.get(name) for name in JOURNALED},
            parent=parent.number if parent else None,
            smoke=parent is not None and needs_smoke_run(proposal["proposer"], after, before),
            **measures(after),
            program_sha256=hashlib.sha256(program.encode()).hexdigest(),
        )

    def _parent(self, state: State, proposal: dict) -> Experiment | None:
        """What a proposal is a change of: the incumbent, or another experiment that it names and that has a score."""
        named = proposal.get("parent")
        scored = [e for e in state.experiments if e.number == named and e.decided and e.mean is not None]
        return scored[0] if scored else state.incumbent

    def _source_of(self, experiment: Experiment | None) -> str:
        return self.train_py(experiment).read_text(encoding="utf-8") if experiment else self.template()

    @says_when_full
    def check(self) -> None:
        """Let the gate look at the candidate before any time is spent on it; one that its proposer can mend is proposed again."""
        while (step := self.next_stage()).kind == "check" or is_repair(step):
            self._check(step) if step.kind == "check" else self._propose(step)

    def _check(self, step: Step) -> None:
        source = (self.attempt_folder(step.experiment, step.attempt) / "train.py").read_text(encoding="utf-8")
        reasons = check_candidate(source, self.tried())
        self.journal.append(
            "checked", experiment=step.experiment, attempt=step.attempt, ok=not reasons, reasons=reasons
        )

    @says_when_full
    def train(self, listen: Listener = lambda event: None) -> None:
        """Train and score until the keep rule has seen enough: once, or again on fresh seeds when the result is promising, and look closely at
        what is about to be kept. A training that ran out of memory is repeated with half the rows at a time, and is no failure until a single
        row is too much. One that fails early is proposed again by who can mend it.

        listen gets {"stage": "training" | "scoring" | "auditing", "run", "run_kind", ...} as things happen.
        """
        while (step := self.next_stage()).kind in ("train", "score", "audit", "in_flight") or is_repair(step):
            self.check() if is_repair(step) else self._run_stage(step, listen)

    def _run_stage(self, step: Step, listen: Listener) -> None:
        """One of train, score, audit, close; nothing for other steps."""
        if step.kind == "in_flight":
            self.recover()
        else:
            self.runs.carry_out(step, listen)

    @says_when_full
    def decide(self) -> None:
        """Write the decision, with everything that its commit will be made of."""
        step = self.next_stage()
        if step.kind != "decide":
            return
        entry = decision(self.state, self.settings.budget_seconds)
        incumbent = self.state.incumbent
        parent = incumbent.commit if incumbent else self.settings.base_commit
        git = None
        if parent and self.settings.base_commit:
            message = git_history.commit_message(step.experiment, entry["title"], commit_facts(entry))
            git = {
                "parent": parent,
                "tree_of": self.settings.base_commit,
                "date": f"{int(time.time())} +0000",
                "message": message,
            }
        self.journal.append("decided", **entry, git=git)

    @says_when_full
    def commit(self) -> None:
        """Make the experiment's commit and refs, update best/ and results.tsv, and drop weights that nobody needs any more."""
        step = self.next_stage()
        if step.kind != "commit":
            return
        experiment = self.experiment
        kept = experiment.decided["decision"] in ("baseline", "keep")
        commit = None
        if experiment.decided["git"]:
            plan = git_history.CommitPlan(**experiment.decided["git"])
            commit = git_history.record_experiment(
                harness.REPOSITORY, self.settings.tag, experiment.number, plan, self.train_py(experiment), advance=kept
            )
        if kept:
            update_best(self.folder, experiment, self.train_py(experiment).parent, self.settings, commit)
        self._tidy(experiment, kept)
        self.journal.append("committed", experiment=experiment.number, commit=commit)
        self.write_table()

    @says_when_full
    def run_baseline(self, listen: Listener = lambda event: None) -> None:
        """Carry experiment 0 from wherever it is to its commit. Raises LoopError when the template itself fails."""
        stages = {
            "propose": lambda: self._propose(self.step),
            "check": self.check,
            "decide": self.decide,
            "commit": self.commit,
        }
        while (step := self.step).experiment == 0:
            self._stop_if_template_refused()
            if step.kind in stages:
                stages[step.kind]()
            else:
                self._run_stage(step, listen)
                self._stop_if_baseline_failed()

    # --- how ---------------------------------------------------------------------------------------------------------

    def _stop_if_template_refused(self) -> None:
        checked = self.experiment.attempt.checked if self.experiment else None
        if checked and not checked["ok"]:
            reasons = "; ".join(checked["reasons"])
            raise LoopError(
                f"the template does not pass the gate: {reasons}. Mend train_template.py and start a new tag"
            )

    def _stop_if_baseline_failed(self) -> None:
        runs = self.experiment.attempt.runs
        if not runs or runs[-1].status in (None, "ok", *NOT_HELD_AGAINST) or runs[-1].fewer_rows:
            return
        last = runs[-1]
        cause = last.cause
        on_card = self.settings.device["kind"] != "cpu"
        if last.status == "oom" and (on_card or not memory_limit_mb()):
            cause += "; this device needs a smaller model: lower DEPTH, vocab_size or max_seq_len (--set) in a new tag"
        log = self.training_folder(0, len(self.experiment.attempts) - 1, last.number) / "run.log"
        raise LoopError(
            f"the baseline ended with {last.status}: {cause}. See {log}. If the machine was to blame, run the same command again; "
            "if train_template.py was, mend it and start a new tag"
        )

    def _tidy(self, experiment: Experiment, kept: bool) -> None:
        """Weights and losses stay for the baseline, the incumbent and the newest in quarantine, compile caches for nobody, pages within their share."""
        state = self.state
        for attempt in range(len(experiment.attempts)):
            drop_compile_caches(self.attempt_folder(experiment.number, attempt))
        self._tidy_refreshes(state.experiments[experiment.decided["incumbent"] or 0])
        replaced = state.kept[1:-1][-1:] if kept else []
        waiting = [e for e in state.experiments if e.in_quarantine]
        drop_unwanted_weights([experiment, *replaced, *waiting], state, lambda each: self.train_py(each).parent)
        drop_old_pages(self.folder)

    def _tidy_refreshes(self, incumbent: Experiment) -> None:
        """Of the incumbent's runs beside an experiment no compile cache stays, and no weights that a kill saved."""
        place = last_attempt(incumbent)
        drop_compile_caches(self.attempt_folder(*place))
        for run in incumbent.attempt.runs:
            if run.started["kind"] == "refresh":
                drop_weights_of_run(self.training_folder(*place, run.number))


def is_repair(step: Step) -> bool:
    """Whether what comes next is another attempt of an experiment."""
    return step.kind == "propose" and step.attempt > 0


def open_lab(tag: str, results: str = "") -> Lab:
    """Open a run; tag "" is the run that was worked on last. Raises SettingsError or LoopError saying what to run first."""
    return Lab(results_folder(results) / tag if tag else newest_run(results))
