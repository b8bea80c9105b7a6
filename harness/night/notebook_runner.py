"""Executes a notebook until the journal shows that its work is done: again if it died or hung, and
after a pause if the work cannot be done now.

In: a notebook and its parameters, the journal, whether to stop. Out: the executed notebook,
progress on the terminal, the heartbeat. Whether the work is done is read from the journal alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import harness
from harness.ground.cgroup import memory_limit_words
from harness.ground.clock import wall_seconds
from harness.ground.errors import GaveUp, LabError, LoopError, Paused, kinds_of
from harness.lab import close_out
from harness.lab.close_out_questions import BUDGETS
from harness.night.endpoint_check import deadline_seconds
from harness.night.notebook_process import NotebookProcess, make_context
from harness.night.notify import notify
from harness.night.progress import line_of_entry, progress_made, standing_words
from harness.night.requests import StopNow, Stopper
from harness.night.terminal import Terminal
from harness.night.wishes import Wishes
from harness.rules.next_step import step_after
from harness.run import disk_space, heartbeat
from harness.run.journal import read_journal
from harness.run.settings import score_limit_seconds
from harness.show import index, report
from harness.show.sentences import duration
from harness.show.stage import PREPARE_SECONDS, stage_limit, training_limit

LOOK_SECONDS = 0.5
# Executions of a notebook in a row that add nothing to the journal, before the night gives up or
# pauses.
TRIES = 3
# Seconds before a paused night looks again: the first time, the second, ...
PAUSES = (60.0, 120.0, 300.0, 900.0)
# Paused in a row.
GIVE_UP_SECONDS = 6 * 3600.0
# Ends of a notebook that a machine short of memory brings about.
DIED = ("DeadProcess", "DeadKernelError", "Hung", "ProposerGone")
# Notebooks that do not move the run's journal on.
NO_JOURNAL = ("01_prepare", "05_close_out", "04_analysis")


class NotebookRunner:
    """Executes the notebooks of one night, each for as long as it takes."""

    def __init__(self, wishes: Wishes, terminal: Terminal, stopper: Stopper) -> None:
        self.wishes, self.terminal, self.stopper = wishes, terminal, stopper
        self.run, self.folder, self.context = wishes.run, wishes.folder, make_context()
        self.said: set[str] = set()
        self.paused = False  # and a person was told, once until it goes on

    def execute(self, name: str, page: str, parameters: dict) -> None:
        """Execute a notebook until its work is done, waiting where that cannot be had now.

        Returns early when asked to stop. Raises GaveUp, and LoopError where it cannot go on.
        """
        self.wait_for(lambda: self.execute_now(name, page, parameters))

    def wait_for(self, work: Callable[[], object]) -> None:
        """Do a piece of work that may be Paused or find the disk full, again and again, longer and
        longer apart, until it is done or the night is to stop. Raises GaveUp."""
        paused, reached, pauses = 0.0, -1, 0
        while True:
            try:
                work()
                self.paused = False
                return
            except Paused as error:
                why = str(error)
            except OSError as error:
                if not disk_space.is_full(error):
                    raise
                why = disk_space.full_words(self.folder, error)
            if (made := self.progress()) > reached:
                paused, reached, pauses = 0.0, made, 0
            if paused >= GIVE_UP_SECONDS:
                raise GaveUp(f"paused for {paused / 3600:.0f} hours, and still: {why}")
            paused += self.pause(PAUSES[min(pauses, len(PAUSES) - 1)], why)
            pauses += 1
            if self.stopper.is_wanted() or self.wishes.seconds_left <= 0:
                return

    def pause(self, seconds: float, why: str) -> float:
        """Wait until it is time to look again, or to stop; return how long that was."""
        wishes, began, waited = self.wishes, wall_seconds(), 0.0
        again = f"It looks again in {duration(seconds)}; Ctrl-C ends the night"
        self.terminal.say(f"paused: {why}. {again}")
        if not self.paused:
            notify(wishes.notify, self.run, "paused", why, self.terminal.say)
        self.paused = True
        while waited < seconds and not self.stopper.is_wanted() and wishes.seconds_left > 0:
            command = wishes.command_line
            heartbeat.beat(self.folder, f"paused: {why}", state="paused", command=command)
            self.terminal.status(f"paused for {duration(waited)}")
            time.sleep(LOOK_SECONDS)
            waited = wall_seconds() - began
        return max(waited, LOOK_SECONDS)

    def execute_now(self, name: str, page: str, parameters: dict) -> None:
        """Execute a notebook until its work is done.

        A dead or hung one is started again, TRIES times in vain at most. Raises Paused where it may
        go on later, LoopError where it cannot, StopNow where it was asked to stop between two
        tries.
        """
        notebook = harness.REPOSITORY / "notebooks" / f"{name}.ipynb"
        output = self.folder / "notebooks" / f"{page}.ipynb"
        failures, reached = 0, self.progress()
        while True:
            target = step_after(self.run.state).experiment
            process = NotebookProcess(self.context, notebook, output, parameters)
            hung = self.watch(process, self.limit_of(name))
            failure = ("Hung", hung) if hung else process.failure()
            reached_target = step_after(self.run.state).experiment > target
            if failure is None if name in NO_JOURNAL else reached_target:
                if failure:
                    what = f"{failure[0]} after the work was done: {first_line(failure[1])}"
                    self.terminal.say(f"the page {page} ended with {what}")
                return
            kind, message = failure or ("Unfinished", "the notebook ended before its work was done")
            self.stop_for(kind, message, page)
            made = self.progress()
            failures, reached = (failures + 1 if made <= reached else 1), made
            said = first_line(message)
            if failures >= TRIES:
                said += memory_limit_words() * kind.startswith("Dead")
                words = f"notebook {name} failed {TRIES} times in a row with {kind}: {said}"
                raise (Paused if kind in DIED else LoopError)(f"{words}. See {output}")
            ended = f"the notebook of {page} ended with {kind} ({said})"
            self.terminal.say(f"{ended}: starting it again")
            if self.stopper.is_wanted():
                raise StopNow

    def stop_for(self, kind: str, message: str, page: str) -> None:
        """Raise Paused or LoopError where another try at once is of no use. kind: an exception's
        name, as the notebook ended."""
        if kind in ("Paused", "BusyError"):  # the second: a notebook by hand came between
            raise Paused(message)
        errors = kinds_of()
        if kind in errors and errors[kind].final:
            raise LoopError(message)
        if full := disk_space.lacking(self.folder):
            ended = f"the notebook of {page} ended with {kind}: {first_line(message)}"
            raise Paused(f"{full} ({ended})")

    def watch(self, process: NotebookProcess, limit: float | None = None) -> str:
        """Report progress until the notebook's process ends; kill it when the journal stands still
        for too long.

        limit: seconds for a notebook that writes no journal. Returns "" or what it hung in. On
        StopNow process and children are killed.
        """
        told, made, changed = len(self.run.entries), self.progress(), time.monotonic()
        model_seconds, command = deadline_seconds(self.wishes), self.wishes.command_line
        try:
            while process.running(LOOK_SECONDS):
                before = (told, made)
                told, made = self.tell(told), max(made, self.progress())
                if (told, made) != before:
                    changed = time.monotonic()
                still = time.monotonic() - changed
                most, stage = limit, "this notebook"
                if limit is None:
                    most, stage = stage_limit(self.run, model_seconds)
                if still > most:
                    process.kill(self.folder)
                    return f"nothing happened in {stage} for {most:.0f} s"
                facts = {"still_seconds": round(still, 1), "limit_seconds": most}
                words = standing_words(self.wishes)
                heartbeat.beat(self.folder, words, command=command, **facts)
                self.terminal.status(words)
        except BaseException:  # whatever ends this watch ends the child, or it would train on
            process.kill(self.folder)
            raise
        self.tell(told)
        return ""

    def tell(self, told: int) -> int:
        """Say what has happened since so many entries; return how many there are."""
        entries = self.run.entries
        for number, entry in enumerate(entries[told:], told):
            words = line_of_entry(entry, entries[:number])
            if words:
                self.terminal.say(words)
            if self.wishes.notify_keeps and entry.get("decision") == "keep":
                notify(self.wishes.notify, self.run, "kept", words, self.terminal.say)
        return len(entries)

    def progress(self) -> int:
        """How much finished work there is, that of the claim included."""
        claim = read_journal(self.folder / close_out.NAME)
        return progress_made(self.run.entries) + progress_made(claim)

    def limit_of(self, notebook: str) -> float | None:
        """Seconds for which nothing may happen in a notebook that does not move the journal on;
        None where the journal tells."""
        if notebook == "05_close_out":
            settings, budgets = self.run.settings, max(BUDGETS) if self.wishes.close_out else 1
            return training_limit(settings, budgets) + 2 * score_limit_seconds(settings)
        return PREPARE_SECONDS if notebook in NO_JOURNAL else None

    def derive_pages(self, live: bool) -> None:
        """Write the pages, their index and the report, as `derive` does."""
        self.derive("the pages", index.write_index)
        self.derive("the report", partial(report.write_page, live=live))

    def derive(self, what: str, write: Callable[[Path], object]) -> None:
        """Write what is made of the journal and can be made again: where that fails it is said,
        once a cause, and the night goes on."""
        try:
            write(self.folder)
        except Exception as error:
            if disk_space.is_full(error):
                raise
            kind = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
            why = kind + first_line(str(error))
            words = f"{what} cannot be written ({why}); nothing else is lost"
            if words not in self.said:
                self.terminal.say(words)
            self.said.add(words)


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:300]
