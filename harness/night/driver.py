"""The night's driver: prepare, baseline, experiment after experiment, claim, analysis, each a notebook that papermill executes.

In: what the user asked for, and the journal. Out: executed notebooks, progress on the terminal, an exit status, and in the
heartbeat how it ended. What comes next is the journal's `next_step`, so a killed night goes on with the same command. A dead
or hung notebook costs one run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import harness
from harness.data.manifest import PreparedData, open_prepared
from harness.ground.clock import wall_seconds
from harness.ground.errors import (
    BusyError,
    DataError,
    GaveUp,
    LabError,
    LoopError,
    Paused,
    ProfileError,
    SettingsError,
    kinds_of,
)
from harness.lab import close_out, ruling, start
from harness.lab.close_out import STOP_FILE, is_wanted, read_close_out
from harness.lab.loop import Lab
from harness.lab.proposing import SINCE_VARIABLE, check_program
from harness.night.endpoint_check import Proposers, choose_proposers, deadline_seconds
from harness.night.notebook_process import NotebookProcess, make_context
from harness.night.progress import (
    claim_plan_words,
    claim_words,
    finishing_words,
    line_of_entry,
    progress_made,
    standing_words,
)
from harness.night.terminal import Terminal
from harness.night.wishes import Wishes, command_line, duration_words, is_all_done, is_enough, plan_words
from harness.rules.next_step import step_after
from harness.run import disk_space, git_history, heartbeat
from harness.run.journal import read_journal
from harness.run.locks import hold, is_held
from harness.run.profiles import PROFILES
from harness.run.settings import (
    check_same_harness,
    check_same_text,
    check_tag,
    command_on,
    device_to_ask_for,
    score_limit_seconds,
)
from harness.sandbox.device import detect_device
from harness.sandbox.wall import find_wall
from harness.search.program import has_settings
from harness.show import epochs, index, report
from harness.show.sentences import duration
from harness.show.stage import PREPARE_SECONDS, stage_limit, training_limit

LOOK_SECONDS = 0.5
# Executions of a notebook that end without the journal getting anywhere.
TRIES = 3
# Seconds before a paused night looks again: the first time, the second, ...
PAUSES = (60.0, 120.0, 300.0, 900.0)
# Paused in a row.
GIVE_UP_SECONDS = 6 * 3600.0
# Ends of a notebook that a machine short of memory brings about.
DIED = ("DeadProcess", "DeadKernelError", "Hung", "ProposerGone")
# Notebooks that do not move the run's journal on.
NO_JOURNAL = ("01_prepare", "05_close_out", "04_analysis")


class StopNow(KeyboardInterrupt):
    """Stop at once: Ctrl-C for the second time, or SIGTERM."""


class Stopper:
    """Ctrl-C once: after this experiment. Twice, or SIGTERM: now. A STOP file: after this experiment, from anywhere."""

    def __init__(self, wishes: Wishes, terminal: Terminal) -> None:
        self.wishes, self.terminal = wishes, terminal
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        if hasattr(signal, "SIGHUP"):  # a closed SSH window does not end the night
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is StopNow:
            return  # this process ends now, in good order, however often it is told to
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        if self.asked:
            self._terminate(number, frame)
        self.asked = True
        # The claim looks for it between two trainings.
        (self.wishes.folder / STOP_FILE).write_text("stop\n", encoding="utf-8")
        being_finished = finishing_words(self.wishes)
        self.terminal.say(f"stopping: {being_finished} is being finished first; Ctrl-C again stops at once")

    def _terminate(self, number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise StopNow

    def is_wanted(self) -> bool:
        """True when no further experiment should begin."""
        return self.asked or (self.wishes.folder / STOP_FILE).exists()


def run_night(wishes: Wishes) -> int:
    """Run or continue a night; return the exit status. How it ended stands in its heartbeat: else it died.

    0 done or stopped as asked, 1 it cannot go on, 3 it paused for too long, 130 stopped at once.
    """
    try:
        code, words = hold_and_drive(wishes)
    except Exception as error:
        heartbeat.end(wishes.folder, 1, f"cannot go on: {error}")
        raise
    done = code == 0 and wishes.run.is_there and is_all_done(wishes)
    if code == 0:
        words = "done" if done else "stopped as asked"
    heartbeat.end(wishes.folder, code, words, done)
    return code


def hold_and_drive(wishes: Wishes) -> tuple[int, str]:
    """Hold the night's lock and run it; return the exit status, and how it ended in words."""
    check_tag(wishes.tag)
    make_folder(wishes.folder)
    advice = f"See it with: {command_on(wishes.folder, '--status')}; or choose another tag"
    with hold(wishes.folder, "night", "a night", advice):
        (wishes.folder / STOP_FILE).unlink(missing_ok=True)
        os.environ[SINCE_VARIABLE] = str(step_after(wishes.run.state).experiment)
        terminal = Terminal(wishes.folder / "night.log")
        try:
            with Stopper(wishes, terminal) as stopper:
                Driver(wishes, terminal, stopper).drive()
            return 0, ""
        except StopNow:
            again = command_line(wishes)
            terminal.say(f"stopped at once; what was in flight will be repeated. Continue with: {again}")
            return 130, "stopped at once"
        except LabError as error:
            terminal.say(f"cannot go on: {error}")
            return error.exit_status, f"cannot go on: {error}"
        finally:
            terminal.close()


def make_folder(folder: Path) -> None:
    """Make the run's folder; an unwritable place is a clear error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise SettingsError(
            f"cannot write in {folder}: {error.strerror}. Choose another place with --results FOLDER, or make room"
        ) from error


class Driver:
    """Executes the notebooks of one night, one after the other."""

    def __init__(self, wishes: Wishes, terminal: Terminal, stopper: Stopper) -> None:
        self.wishes, self.terminal, self.stopper = wishes, terminal, stopper
        self.run, self.context = wishes.run, make_context()
        self.said: set[str] = set()
        self.common = {"tag": wishes.tag, "results_dir": wishes.results}

    def drive(self) -> None:
        """Prepare, baseline, experiments, claim, analysis."""
        self.check()
        proposers = choose_proposers(self.wishes)
        self.terminal.say(proposers.words)
        self.say_what_is_there()
        self.prepare()
        if not self.make_baseline():
            self.terminal.say(f"stopped as asked; continue with: {command_line(self.wishes)}")
            return
        self.run_experiments(proposers)
        if not self.stopper.is_wanted() and is_wanted(self.run.state, read_close_out(self.wishes.folder)):
            self.terminal.say(f"4 of 5, the claim: {claim_plan_words(self.wishes)}")
            self.execute("05_close_out", "05_close_out", self.common)
        self.terminal.say("5 of 5, analysis")
        self.execute("04_analysis", "04_analysis", self.common)
        self.say_where()

    def check(self) -> None:
        """Whether this run can be begun or gone on with as asked: what can be known in the first second. Raises LabError."""
        wishes = self.wishes
        find_wall()
        if self.run.is_there:
            start.check_same_wishes(self.run.settings, wishes.profile, wishes.source, wishes.overrides)
            check_same_harness(self.run.settings)
            check_same_text(self.run.settings)
        elif wishes.close_out:
            raise SettingsError(f"there is no run {wishes.tag}, so there is nothing to claim")
        else:
            start.check_tag_unused(wishes.tag, wishes.folder)
        state, program = self.run.state, (harness.REPOSITORY / "program.md").read_text(encoding="utf-8-sig")
        best = self.run.train_py(state.incumbent) if state.incumbent else harness.REPOSITORY / "train_template.py"
        check_program(program, best.read_text(encoding="utf-8"), state.experiments)
        if not has_settings(program):
            self.terminal.say("program.md has no block of settings: every kind of idea is allowed (see the one in git)")
        if not self.run.is_there and wishes.experiments and wishes.profile in PROFILES:
            self.terminal.say(duration_words(PROFILES[wishes.profile], wishes.experiments))

    def say_what_is_there(self) -> None:
        """Room on the disk, and the git history."""
        if full := disk_space.lacking(self.wishes.folder):
            self.terminal.say(f"as it stands no training can begin: {full}")
        ask_once_for_the_device(self.wishes)
        if why := git_history.why_no_history(harness.REPOSITORY):
            self.terminal.say(f"no git history: {why}")
        elif where := git_history.checked_out(harness.REPOSITORY, self.wishes.tag):
            branch = f"autoresearch/{self.wishes.tag}"
            self.terminal.say(
                f"{where} has the branch {branch} checked out: each keep moves it on; "
                "`git reset --hard` there shows the newest"
            )

    def prepare(self) -> None:
        """The text, unless the run has it."""
        parameters = what_to_prepare(self.wishes)
        if data := data_of_run(self.wishes):
            self.terminal.say(f"1 of 5, data {data.data_id} is as the run began with it")
            return
        self.terminal.say(f"1 of 5, prepare data (profile {parameters['profile']})")
        self.execute("01_prepare", "01_prepare", parameters)

    def make_baseline(self) -> bool:
        """The baseline, unless the run has it; False where the night was asked to stop before it was done."""
        if step_after(self.run.state).experiment == 0:
            self.terminal.say("2 of 5, baseline")
            names = ("profile", "device", "cache", "source", "overrides")
            asked = {name: getattr(self.wishes, name) for name in names}
            self.execute("02_baseline", "02_baseline", self.common | asked)
            if step_after(self.run.state).experiment == 0:
                return False
        state = self.run.state
        self.terminal.say(f"baseline val_bpb {state.experiments[0].mean:.6f}; {state.noise.words}")
        passes = epochs.of_baseline(state, open_prepared(self.run.settings.data_folder))
        for warning in (epochs.warning(passes), epochs.few_steps(state, self.run.settings.profile)):
            if warning:
                self.terminal.say(warning)
        self.terminal.say(f"disk: {disk_space.disk_use_in_words(self.wishes.folder)}")
        return True

    def run_experiments(self, proposers: Proposers) -> None:
        """One after the other, as many as were asked for."""
        wishes = self.wishes
        self.terminal.say(f"3 of 5, experiments: {plan_words(wishes)}")
        ideas_of = {"proposer": proposers.proposer, "model": proposers.model, "llm": wishes.llm}
        while not self.stopper.is_wanted() and not wishes.close_out and not is_enough(wishes):
            number = step_after(self.run.state).experiment
            self.execute("03_agent_loop", f"{number:04d}", self.common | ideas_of)

    # --- one notebook ------------------------------------------------------------------------------------------------

    def execute(self, name: str, page: str, parameters: dict) -> None:
        """Execute a notebook until the journal has what it is there for, waiting where it cannot be had now.

        Returns early when asked to stop.
        """
        paused, reached, pauses = 0.0, -1, 0
        while True:
            try:
                self.try_notebook(name, page, parameters)
                if self.run.entries:
                    self.derive("the index of pages", index.write_index)
                return
            except Paused as error:
                why = str(error)
            except OSError as error:
                if not disk_space.is_full(error):
                    raise
                why = disk_space.full_words(self.wishes.folder, error)
            if (made := self.all_progress()) > reached:
                paused, reached, pauses = 0.0, made, 0
            if paused >= GIVE_UP_SECONDS:
                raise GaveUp(f"paused for {paused / 3600:.0f} hours, and still: {why}")
            paused += self.pause(PAUSES[min(pauses, len(PAUSES) - 1)], why)
            pauses += 1
            if self.stopper.is_wanted() or self.wishes.seconds_left() <= 0:
                return

    def derive(self, what: str, write: Callable[[Path], object]) -> None:
        """Write what is made of the journal and can be made again: where that fails it is said, once a cause, and the night goes on."""
        try:
            write(self.wishes.folder)
        except Exception as error:
            if disk_space.is_full(error):
                raise
            words = f"{what} cannot be written ({type(error).__name__}: {first_line(str(error))}); nothing else is lost"
            if words not in self.said:
                self.terminal.say(words)
            self.said.add(words)

    def pause(self, seconds: float, why: str) -> float:
        """Wait until it is time to look again, or to stop; return how long that was."""
        wishes = self.wishes
        self.terminal.say(f"paused: {why}. It looks again in {duration(seconds)}; Ctrl-C ends the night")
        began = wall_seconds()
        while (waited := wall_seconds() - began) < seconds and not self.stopper.is_wanted() and wishes.seconds_left() > 0:
            heartbeat.beat(wishes.folder, f"paused: {why}", state="paused", command=command_line(wishes))
            self.terminal.status(f"paused for {duration(waited)}")
            time.sleep(LOOK_SECONDS)
        return max(waited, LOOK_SECONDS)

    def try_notebook(self, name: str, page: str, parameters: dict) -> None:
        """Execute a notebook until the journal has what it is there for.

        A dead or hung one is started again, TRIES times in vain at most. Raises Paused where it may go on later, LoopError
        where it cannot.
        """
        output, folder = self.wishes.folder / "notebooks" / f"{page}.ipynb", self.wishes.folder
        failures, reached, errors = 0, self.all_progress(), kinds_of()
        while True:
            target = step_after(self.run.state).experiment
            process = NotebookProcess(self.context, harness.REPOSITORY / "notebooks" / f"{name}.ipynb", output, parameters)
            hung = self.watch(process, self.limit_of(name))
            failure = ("Hung", hung) if hung else process.failure()
            reached_target = step_after(self.run.state).experiment > target
            if failure is None if name in NO_JOURNAL else reached_target:
                if failure:
                    what = f"{failure[0]} after the work was done: {first_line(failure[1])}"
                    self.terminal.say(f"the page {page} ended with {what}")
                return
            kind, message = failure or ("Unfinished", "the notebook ended before its work was done")
            if kind in ("Paused", "BusyError"):  # the second: a notebook by hand came between two experiments
                raise Paused(message)
            if kind in errors and errors[kind].final:
                raise LoopError(message)
            if full := disk_space.lacking(folder):
                raise Paused(f"{full} (the notebook of {page} ended with {kind}: {first_line(message)})")
            made = self.all_progress()
            failures, reached = (failures + 1 if made <= reached else 1), made
            if failures >= TRIES:
                words = f"notebook {name} failed {TRIES} times in a row with {kind}: {first_line(message)}"
                raise (Paused if kind in DIED else LoopError)(f"{words}. See {output}")
            self.terminal.say(f"the notebook of {page} ended with {kind} ({first_line(message)}): starting it again")
            if self.stopper.is_wanted():
                raise StopNow

    def watch(self, process: NotebookProcess, limit: float | None = None) -> str:
        """Report progress until the notebook's process ends; kill it when the journal stands still for too long.

        limit: seconds for a notebook that writes no journal. Returns "" or what it hung in. On StopNow process and children
        are killed.
        """
        wishes, run = self.wishes, self.run
        told, changed = len(run.entries), time.monotonic()
        claimed = self.all_progress()
        model_seconds = deadline_seconds(wishes)
        try:
            while process.running(LOOK_SECONDS):
                if len(run.entries) > told:
                    told, changed = self.tell(told), time.monotonic()
                if (made := self.all_progress()) > claimed:
                    claimed, changed = made, time.monotonic()
                most, stage = (limit, "this notebook") if limit else stage_limit(run, model_seconds)
                if time.monotonic() - changed > most:
                    process.kill(wishes.folder)
                    return f"nothing happened in {stage} for {most:.0f} s"
                facts = {"still_seconds": round(time.monotonic() - changed, 1), "limit_seconds": most}
                words = standing_words(wishes)
                heartbeat.beat(wishes.folder, words, command=command_line(wishes), **facts)
                self.terminal.status(words)
        except BaseException:  # whatever ends this watch ends the child too, or it would train on unwatched
            process.kill(wishes.folder)
            raise
        self.tell(told)
        return ""

    def tell(self, told: int) -> int:
        """Say what has happened since so many entries; return how many there are."""
        entries = self.run.entries
        for entry in entries[told:]:
            if words := line_of_entry(entry):
                self.terminal.say(words)
        return len(entries)

    def all_progress(self) -> int:
        """How much finished work there is, that of the claim included."""
        return progress_made(self.run.entries) + progress_made(read_journal(self.wishes.folder / close_out.NAME))

    def limit_of(self, notebook: str) -> float | None:
        """Seconds for which nothing may happen in a notebook that does not move the journal on; None where the journal tells."""
        if notebook == "05_close_out":
            settings = self.run.settings
            return training_limit(settings) + 2 * score_limit_seconds(settings)
        return PREPARE_SECONDS if notebook in NO_JOURNAL else None

    def say_where(self) -> None:
        """The end: the figures, and where to look."""
        folder, state = self.wishes.folder, self.run.state
        rows = [e for e in state.experiments[1:] if e.committed]
        kept = sum(e.decided["decision"] == "keep" for e in rows)
        best, baseline = state.incumbent, state.experiments[0]
        self.derive("the report", report.write_report)
        branch = f"branch at {best.mean:.6f} (experiment {best.number}: {best.decided['title']})"
        self.terminal.say(f"{len(rows)} experiments, {kept} kept. Baseline {baseline.mean:.6f}, {branch}")
        self.terminal.say(claim_words(self.wishes))
        at = folder.relative_to(harness.REPOSITORY) if folder.is_relative_to(harness.REPOSITORY) else folder
        files = f"{at}/notebooks/index.html, {at}/report/report.md, {at}/results.tsv"
        self.terminal.say(f"look at {files}; best model in {at}/best/")
        if self.stopper.is_wanted():
            self.terminal.say(f"stopped as asked; continue with: {command_line(self.wishes)}")


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:300]


def ask_once_for_the_device(wishes: Wishes) -> None:
    """Each notebook needs to know the device; asked here, it is asked once. Where it cannot be used, the first notebook says why."""
    kind = device_to_ask_for(wishes.run.settings) if wishes.run.is_there else wishes.device
    with contextlib.suppress(ProfileError):
        detect_device(kind)


def data_of_run(wishes: Wishes) -> PreparedData | None:
    """The data of a night that continues, where nothing of it is missing or changed; None where it is to be prepared."""
    if not wishes.run.is_there:
        return None
    try:
        return open_prepared(wishes.run.settings.data_folder)
    except DataError:
        return None


def what_to_prepare(wishes: Wishes) -> dict:
    """Parameters of the prepare notebook: the run's own when there is one, else what was asked for."""
    names = ("profile", "source", "overrides", "device", "cache")
    asked = {name: getattr(wishes, name) for name in names}
    if not wishes.run.is_there:
        return asked
    settings = wishes.run.settings
    began = settings.profile
    sizes = " ".join(f"{name}={began[name]}" for name in ("vocab_size", "max_seq_len", "eval_tokens"))
    cache = str(Path(settings.data_folder).parent)
    return asked | {"profile": began["name"], "source": began["source"], "overrides": sizes, "cache": cache}


# --- From other terminals ----------------------------------------------------------------------------------------------


def ask_to_stop(folder: Path) -> str:
    """Ask a running night to stop after its experiment; return what was done, in words."""
    if not is_held(folder, "night"):
        return f"no night runs on {folder.name}; nothing to stop"
    (folder / STOP_FILE).write_text("stop after this experiment\n", encoding="utf-8")
    return f"{folder.name} stops after the experiment in flight"


def rule(folder: Path, experiment: int, accept: bool) -> str:
    """Accept or refuse an experiment in quarantine, now if nobody works on the run; return what was done, in words.

    Raises RulingError.
    """
    ruling.request_ruling(folder, experiment, accept)
    lab = Lab(folder)
    try:
        with lab:  # what was asked takes effect as the run is taken up
            found = lab.state.experiments[experiment]
    except BusyError:
        word = "accepted" if accept else "refused"
        return f"noted: experiment {experiment} is {word} as soon as the experiment in flight is over"
    if found.ruled:
        return ruling.ruling_in_words(found)
    return f"noted: it takes effect once experiment {lab.step.experiment} is finished"
