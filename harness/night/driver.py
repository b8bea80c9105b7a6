"""The night's driver: prepare, baseline, experiment after experiment, claim, analysis, each a
notebook that papermill executes.

In: what the user asked for, and the journal. Out: executed notebooks, progress on the terminal, an
exit status, and in the heartbeat how it ended. What comes next is the journal's `next_step`, so a
killed night goes on with the same command. A dead or hung notebook costs one run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import harness
from harness.data.manifest import PreparedData, open_prepared
from harness.ground.errors import BusyError, DataError, DeviceRefused, LabError, SettingsError
from harness.lab import model_text, other_text, start
from harness.lab.close_out import is_wanted, read_close_out
from harness.lab.proposal_request import SINCE_VARIABLE
from harness.lab.proposing import check_program, kept_program
from harness.night.endpoint_check import Proposers, choose_proposers
from harness.night.notebook_runner import NotebookRunner
from harness.night.notify import notify
from harness.night.progress import (
    close_out_plan_words,
    close_out_words,
    result_words,
    text_asked_for,
)
from harness.night.requests import StopNow, Stopper
from harness.night.terminal import Terminal
from harness.night.wishes import Wishes, duration_words, plan_words
from harness.rules.next_step import step_after
from harness.run import disk_space, git_history, heartbeat
from harness.run.locks import hold
from harness.run.machine import machine_words
from harness.run.pace import say_heat
from harness.run.profiles import PROFILES
from harness.run.records import records_from_journal
from harness.run.run import page_name
from harness.run.settings import (
    check_same_harness,
    check_same_text,
    check_tag,
    command_on,
    device_to_ask_for,
)
from harness.sandbox.device import detect_device
from harness.sandbox.wall import find_wall
from harness.search.program import has_settings, read_program
from harness.show import epochs, report
from harness.show.sentences import claim_on_branch, headline


def run_night(wishes: Wishes) -> int:
    """Run or continue a night; return the exit status, and say in its heartbeat how it ended.

    0 done or stopped as asked, 1 it cannot go on, 3 it paused for too long, 130 stopped at once.
    """
    try:
        code, words = hold_and_drive(wishes)
    except BusyError:  # how another's night goes is for that one to say
        raise
    except Exception as error:
        words = f"cannot go on: {error}"
        heartbeat.end(wishes.folder, 1, words)
        close_night(wishes, words)
        raise
    done = code == 0 and wishes.run.is_there and wishes.is_all_done()
    if code == 0:
        words = "done" if done else "stopped as asked"
    heartbeat.end(wishes.folder, code, words, done)
    close_night(wishes, words)
    return code


def close_night(wishes: Wishes, words: str) -> None:
    """Write the report for the last time, and run the `--notify` command; a failure of either is
    said."""
    say = partial(print, file=sys.stderr)
    try:
        if wishes.run.entries:
            report.write_page(wishes.folder, live=False)
    except (OSError, LabError) as error:
        say(f"the report cannot be written ({error}); nothing else is lost")
    if records := records_from_journal(wishes.run.entries):
        words = f"{words}. {headline(records, claim_on_branch(wishes.folder, records))}"
    notify(wishes.notify, wishes.run, "ended", words, say)


def hold_and_drive(wishes: Wishes) -> tuple[int, str]:
    """Hold the night's lock and run it; return the exit status, and how it ended in words."""
    check_tag(wishes.tag)
    if not wishes.run.is_there:
        start.check_wishes(wishes.profile, wishes.source, wishes.overrides)
    make_folder(wishes.folder)
    advice = f"See it with: {command_on(wishes.folder, '--status')}; or choose another tag"
    with hold(wishes.folder, "night", "a night", advice):
        step = step_after(wishes.run.state)
        begun = (step.kind, step.attempt) != ("propose", 0)  # before this start
        os.environ[SINCE_VARIABLE] = str(step.experiment + begun)
        terminal = Terminal(wishes.folder / "night.log")
        try:
            with Stopper(wishes, terminal) as stopper:
                Driver(wishes, terminal, stopper).drive()
            return 0, ""
        except StopNow:
            terminal.say(
                "stopped at once; what was in flight will be repeated. "
                f"Continue with: {wishes.command_line}"
            )
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
            f"cannot write in {folder}: {error.strerror}. Choose another place with "
            "--results FOLDER, or make room"
        ) from error


class Driver:
    """Executes the notebooks of one night, one after the other."""

    def __init__(self, wishes: Wishes, terminal: Terminal, stopper: Stopper) -> None:
        self.wishes, self.stopper, self.say = wishes, stopper, terminal.say
        self.run, self.folder = wishes.run, wishes.folder
        self.runner = NotebookRunner(wishes, terminal, stopper)
        self.common = {"tag": wishes.tag, "results_dir": wishes.results}

    def drive(self) -> None:
        """Prepare, baseline, experiments, claim, analysis."""
        self.check()
        proposers = choose_proposers(self.wishes)
        self.say(proposers.words)
        self.say_what_is_there()
        self.prepare()
        if not self.make_baseline():
            self.say(f"stopped as asked; continue with: {self.wishes.command_line}")
            return
        self.run_experiments(proposers)
        self.close_out()
        self.say("5 of 5, analysis")
        self.execute("04_analysis", self.common)
        self.say_where()

    def check(self) -> None:
        """Whether this run can be begun or gone on with as asked: what can be known in the first
        second. Raises LabError."""
        wishes, run = self.wishes, self.run
        find_wall()
        if run.is_there:
            asked = (wishes.profile, wishes.source, wishes.overrides)
            free = other_text.FIELDS if wishes.close_out else ()
            start.check_same_wishes(run.settings, *asked, free)
            check_same_harness(run.settings)
            check_same_text(run.settings)
        elif wishes.close_out:
            raise SettingsError(f"there is no run {wishes.tag}, so there is nothing to close")
        else:
            start.check_tag_unused(wishes.tag, self.folder)
        program = read_program(harness.REPOSITORY / "program.md")
        check_program(
            program, wishes.best_source(), run.state.experiments, kept_program(run.folder)
        )
        if not has_settings(program):
            self.say(
                "program.md has no block of settings: every kind of idea is allowed "
                "(see the one in git)"
            )
        if not run.is_there and wishes.experiments and wishes.profile in PROFILES:
            self.say(duration_words(PROFILES[wishes.profile], wishes.experiments))

    def say_what_is_there(self) -> None:
        """Room on the disk, and the git history."""
        if full := disk_space.lacking(self.folder):
            self.say(f"as it stands no training can begin: {full}")
        self.find_device()
        if why := git_history.why_no_history(harness.REPOSITORY):
            self.say(f"no git history: {why}")
        elif where := git_history.checked_out(harness.REPOSITORY, self.wishes.tag):
            branch = f"autoresearch/{self.wishes.tag}"
            self.say(
                f"{where} has the branch {branch} checked out: each keep moves it on; "
                "`git reset --hard` there shows the newest"
            )

    def find_device(self) -> None:
        """Find the device once, here, for all notebooks, and say what it is.

        A real night does not begin where there is a card that cannot be used; a demo takes the CPU.
        """
        run, wishes = self.run, self.wishes
        if run.is_there:
            device = detect_device(device_to_ask_for(run.settings))
            self.say_all(machine_words(run.settings.device | device))
            return
        asked = (wishes.source, wishes.overrides)
        try:
            _, device = start.find_profile(wishes.profile, wishes.device, *asked)
        except DeviceRefused as error:
            if (wishes.profile, wishes.device) != ("demo", "auto"):
                raise
            wishes.device = "cpu"
            self.say(f"the demo goes on with the CPU, as a real night would not: {error}")
            return
        self.say_all(machine_words(device))

    def say_all(self, sentences: Iterable[str]) -> None:
        """Say each that is not empty."""
        for words in filter(None, sentences):
            self.say(words)

    def prepare(self) -> None:
        """The text, unless the run has it, and another one that its close-out is asked for."""
        if data := data_of_run(self.wishes):
            self.say(f"1 of 5, data {data.data_id} is as the run began with it")
        else:
            parameters = what_to_prepare(self.wishes)
            self.say(f"1 of 5, prepare data (profile {parameters['profile']})")
            self.execute("01_prepare", parameters)
        if text := text_asked_for(self.wishes):
            self.say("1 of 5, prepare the other text that was asked for")
            self.execute("01_prepare", what_to_prepare(self.wishes, text))

    def make_baseline(self) -> bool:
        """The baseline, unless the run has it; False where the night was asked to stop before."""
        if step_after(self.run.state).experiment == 0:
            self.say("2 of 5, baseline")
            self.execute("02_baseline", self.common | what_was_asked(self.wishes))
            if step_after(self.run.state).experiment == 0:
                return False
        state, settings = self.run.state, self.run.settings
        self.say(f"baseline val_bpb {state.experiments[0].mean:.6f}; {state.noise.words}")
        passes = epochs.of_baseline(state, open_prepared(settings.data_folder))
        few = epochs.few_steps(state, settings.profile)
        self.say_all(
            (epochs.warning(passes), few, say_heat(state), settings.device.get("fell", ""))
        )
        self.say(f"disk: {disk_space.disk_use_in_words(self.folder)}")
        return True

    def run_experiments(self, proposers: Proposers) -> None:
        """One after the other, as many as were asked for."""
        wishes = self.wishes
        self.say(f"3 of 5, experiments: {plan_words(wishes)}")
        # A model that nobody named is looked for each time: another may be served meanwhile.
        who = {"proposer": proposers.proposer, "model": wishes.model, "llm": wishes.llm}
        while not (self.stopper.is_wanted() or wishes.close_out or wishes.is_enough()):
            number = step_after(self.run.state).experiment
            self.execute("03_agent_loop", self.common | who, page=page_name(number))

    def close_out(self) -> None:
        """The claim, where it was asked for what comes after it, and what the models write, unless
        the run has all of that or is to stop."""
        claims = is_wanted(self.run.state, read_close_out(self.folder))
        after = bool(self.wishes.close_out and self.run.state.incumbent.number)
        texts = model_text.is_wanted(self.run)
        if self.stopper.is_wanted() or not (claims or after or texts):
            return
        plan = "the claim: measured; its models write a few lines"
        if claims or after:
            plan = close_out_plan_words(self.wishes)
        self.say(f"4 of 5, {plan}")
        hours = self.wishes.seconds_left / 3600 if after else 0.0
        asked = {"hours": round(hours, 4)}
        if text_asked_for(self.wishes):
            asked |= {"source": self.wishes.source, "overrides": self.wishes.overrides}
        self.execute("05_close_out", self.common | asked)

    def execute(self, name: str, parameters: dict, page: str = "") -> None:
        """Execute a notebook until its work is done or the night is to stop. page: as it is called
        in the run's notebooks/, where that is another name."""
        self.runner.execute(name, page or name, parameters)
        if self.run.entries:
            self.runner.wait_for(partial(self.runner.derive_pages, live=True))

    def say_where(self) -> None:
        """The end: the figures, and where to look."""
        folder = self.folder
        self.runner.derive("the report", report.write_report)
        self.say(result_words(self.run))
        for words in close_out_words(self.wishes):
            self.say(words)
        inside = folder.is_relative_to(harness.REPOSITORY)
        at = folder.relative_to(harness.REPOSITORY) if inside else folder
        files = f"{at}/report/report.html, {at}/notebooks/index.md, {at}/results.tsv"
        self.say(f"look at {files}; best model in {at}/best/")
        if self.stopper.is_wanted():
            self.say(f"stopped as asked; continue with: {self.wishes.command_line}")


def data_of_run(wishes: Wishes) -> PreparedData | None:
    """The data of a night that continues, where nothing of it is missing or changed; None where it
    is to be prepared."""
    if not wishes.run.is_there:
        return None
    try:
        return open_prepared(wishes.run.settings.data_folder)
    except DataError:
        return None


def what_was_asked(wishes: Wishes) -> dict:
    """Parameters of the notebooks that begin a run."""
    names = ("profile", "device", "cache", "source", "overrides")
    return {name: getattr(wishes, name) for name in names}


def what_to_prepare(wishes: Wishes, other: dict[str, object] | None = None) -> dict:
    """Parameters of the prepare notebook: the run's own when there is one, else what was asked
    for. other: fields of its profile that are to be otherwise."""
    asked = what_was_asked(wishes)
    if not wishes.run.is_there:
        return asked
    settings = wishes.run.settings
    began = settings.profile | (other or {})
    sizes = [f"{name}={began[name]}" for name in other_text.SIZES]
    return asked | {
        "profile": began["name"],
        "source": began["source"],
        "overrides": " ".join(sizes),
        "cache": str(Path(settings.data_folder).parent),
    }
