"""The night's driver: prepare, baseline, experiment after experiment, analysis, each a notebook that papermill executes.

In: what the user asked for, and the journal. Out: executed notebooks, progress on the terminal, an exit status. Holds no state of its own: what
comes next is the journal's `next_step`, so a killed night goes on with the same command. A dead or hung notebook costs one run.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

from harness.data.manifest import PreparedData, open_prepared
from harness.ground.clock import wall_seconds
from harness.ground.errors import BusyError, DataError, GaveUp, LoopError, Paused, ProfileError, SettingsError, kinds_of
from harness.lab import close_out, ruling, start
from harness.lab.close_out import STOP_FILE, claim_of, is_wanted, read_close_out, words_of_claim
from harness.lab.loop import Lab
from harness.night.endpoint_check import deadline_seconds, settle
from harness.night.notebook_process import NotebookProcess, make_context
from harness.night.progress import standing_words, what_is_being_finished, words_of
from harness.night.terminal import Terminal
from harness.night.wishes import Night, claim_seconds, command_line, duration_words, enough, plan_words
from harness.rules.next_step import step_after
from harness.run import disk_space, git_history, heartbeat
from harness.run.journal import read_journal
from harness.run.locks import hold, is_held
from harness.run.profiles import PROFILES, detect_device
from harness.run.settings import (
    check_same_text,
    check_tag,
    command_on,
    device_to_ask_for,
    score_limit_seconds,
)
from harness.run.state import NOT_HELD_AGAINST, State
from harness.sandbox.runner import REPOSITORY
from harness.show import epochs, index, report
from harness.show.sentences import duration
from harness.show.stage import PREPARE_SECONDS, stage_limit, training_limit

LOOK_SECONDS = 0.5
TRIES = 3  # executions of a notebook that end without the journal getting anywhere
PAUSES = (60.0, 120.0, 300.0, 900.0)  # seconds before a paused night looks again: the first time, the second, ...
GIVE_UP_SECONDS = 6 * 3600.0  # paused in a row
DIED = (
    "DeadProcess",
    "DeadKernelError",
    "Hung",
    "ProposerGone",
)  # ends of a notebook that a machine short of memory brings about
NO_JOURNAL = ("01_prepare", "05_close_out", "04_analysis")  # notebooks that do not move the run's journal on


class StopNow(KeyboardInterrupt):
    """The second Ctrl-C, or a SIGTERM."""


class Stopper:
    """Ctrl-C once: after this experiment. Twice, or SIGTERM: now. A STOP file: after this experiment, from anywhere."""

    def __init__(self, night: Night, terminal: Terminal) -> None:
        self.night, self.terminal = night, terminal
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        if hasattr(signal, "SIGHUP"):
            self._before[signal.SIGHUP] = signal.signal(
                signal.SIGHUP, signal.SIG_IGN
            )  # a closed SSH window does not end the night
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
        (self.night.folder / STOP_FILE).write_text("stop\n", encoding="utf-8")  # the claim looks for it between two trainings
        self.terminal.say(
            f"stopping: {what_is_being_finished(self.night)} is being finished first; Ctrl-C again stops at once"
        )

    def _terminate(self, number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise StopNow

    def wanted(self) -> bool:
        """True when no further experiment should begin."""
        return self.asked or (self.night.folder / STOP_FILE).exists()


def run_night(night: Night) -> int:
    """Run or continue a night; return the exit status.

    0 done or stopped as asked, 1 it cannot go on, 3 it paused for too long, 130 stopped at once.
    """
    check_tag(night.tag)
    make_folder(night.folder)
    advice = f"See it with: {command_on(night.folder, '--status')}; or choose another tag"
    with hold(night.folder, "night", "a night", advice):
        (night.folder / STOP_FILE).unlink(missing_ok=True)
        terminal = Terminal(night.folder / "night.log")
        try:
            with Stopper(night, terminal) as stopper:
                return run_steps(night, terminal, stopper)
        except StopNow:
            terminal.say(f"stopped at once; what was in flight will be repeated. Continue with: {command_line(night)}")
            return 130
        except (LoopError, SettingsError) as error:
            terminal.say(f"cannot go on: {error}")
            return error.exit_status
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


def run_steps(night: Night, terminal: Terminal, stopper: Stopper) -> int:
    """Prepare, baseline, experiments, analysis."""
    if night.run.is_there:
        settings = night.run.settings
        start.check_same_wishes(settings, night.profile, night.source, night.overrides)
        check_same_text(settings)
    elif night.close_out:
        raise SettingsError(f"there is no run {night.tag}, so there is nothing to claim")
    elif night.experiments and night.profile in PROFILES:
        terminal.say(duration_words(PROFILES[night.profile], night.experiments))
    ideas = settle(night)
    terminal.say(ideas.words)
    if full := disk_space.lacking(night.folder):
        terminal.say(f"as it stands no training can begin: {full}")
    ask_once_for_the_device(night)
    context = make_context()
    common = {"tag": night.tag, "results_dir": night.results}
    if why := git_history.why_no_history(REPOSITORY):
        terminal.say(f"no git history: {why}")
    elif where := git_history.checked_out(REPOSITORY, night.tag):
        branch = f"autoresearch/{night.tag}"
        terminal.say(
            f"{where} has the branch {branch} checked out: each keep moves it on; `git reset --hard` there shows the newest"
        )
    wishes = what_to_prepare(night)
    if data := data_of_run(night):
        terminal.say(f"1 of 5, data {data.data_id} is as the run began with it")
    else:
        terminal.say(f"1 of 5, prepare data (profile {wishes['profile']})")
        run_notebook(night, terminal, stopper, context, "01_prepare", "01_prepare", wishes)
    if step_after(night.run.state).experiment == 0:
        terminal.say("2 of 5, baseline")
        asked = {
            "profile": night.profile,
            "device": night.device,
            "cache": night.cache,
            "source": night.source,
            "overrides": night.overrides,
        }
        run_notebook(night, terminal, stopper, context, "02_baseline", "02_baseline", common | asked)
        if step_after(night.run.state).experiment == 0:
            terminal.say(f"stopped as asked; continue with: {command_line(night)}")
            return 0
    state = night.run.state
    terminal.say(f"baseline val_bpb {state.experiments[0].mean:.6f}; {state.noise.words}")
    if warning := epochs.warning(epochs.of_baseline(state, open_prepared(night.run.settings.data_folder))):
        terminal.say(warning)
    terminal.say(f"disk: {disk_space.words(night.folder)}")
    terminal.say(f"3 of 5, experiments: {plan_words(night)}")
    ideas_of = {"proposer": ideas.proposer, "model": ideas.model, "llm": night.llm}
    while not stopper.wanted() and not night.close_out and not enough(night):
        number = step_after(night.run.state).experiment
        run_notebook(night, terminal, stopper, context, "03_agent_loop", f"{number:04d}", common | ideas_of)
    if not stopper.wanted() and is_wanted(night.run.state, read_close_out(night.folder)):
        terminal.say(f"4 of 5, the claim: {claim_plan_words(night)}")
        run_notebook(night, terminal, stopper, context, "05_close_out", "05_close_out", common)
    terminal.say("5 of 5, analysis")
    run_notebook(night, terminal, stopper, context, "04_analysis", "04_analysis", common)
    say_where(night, terminal, stopper.wanted())
    return 0


def ask_once_for_the_device(night: Night) -> None:
    """Each notebook needs to know the device; asked here, it is asked once. Where it cannot be used, the first notebook says why."""
    kind = night.device
    if night.run.is_there:
        kind = device_to_ask_for(night.run.settings)
    with contextlib.suppress(ProfileError):
        detect_device(kind)


def data_of_run(night: Night) -> PreparedData | None:
    """The data of a night that continues, where nothing of it is missing or changed; None where it is to be prepared."""
    if not night.run.is_there:
        return None
    try:
        return open_prepared(night.run.settings.data_folder)
    except DataError:
        return None


def what_to_prepare(night: Night) -> dict:
    """Parameters of the prepare notebook: the run's own when there is one, else what was asked for."""
    if not night.run.is_there:
        return {
            "profile": night.profile,
            "source": night.source,
            "overrides": night.overrides,
            "device": night.device,
            "cache": night.cache,
        }
    settings = night.run.settings
    began = settings.profile
    overrides = " ".join(f"{name}={began[name]}" for name in ("vocab_size", "max_seq_len", "eval_tokens"))
    cache = str(Path(settings.data_folder).parent)
    return {
        "profile": began["name"],
        "source": began["source"],
        "overrides": overrides,
        "device": night.device,
        "cache": cache,
    }


def run_notebook(
    night: Night, terminal: Terminal, stopper: Stopper, context, name: str, page: str, parameters: dict
) -> None:
    """Execute a notebook until the journal has what it is there for, waiting where it cannot be had now; return early when asked to stop."""
    paused, reached, pauses = 0.0, -1, 0
    while True:
        try:
            try_notebook(night, terminal, stopper, context, name, page, parameters)
            if night.run.entries:
                index.write_index(night.folder)
            return
        except Paused as error:
            why = str(error)
        except OSError as error:
            if not disk_space.is_full(error):
                raise
            why = disk_space.full_words(night.folder, error)
        if (made := all_progress(night)) > reached:
            paused, reached, pauses = 0.0, made, 0
        if paused >= GIVE_UP_SECONDS:
            raise GaveUp(f"paused for {paused / 3600:.0f} hours, and still: {why}")
        paused += pause(night, terminal, stopper, PAUSES[min(pauses, len(PAUSES) - 1)], why)
        pauses += 1
        if stopper.wanted() or night.seconds_left() <= 0:
            return


def pause(night: Night, terminal: Terminal, stopper: Stopper, seconds: float, why: str) -> float:
    """Wait until it is time to look again, or to stop; return how long that was."""
    terminal.say(f"paused: {why}. It looks again in {duration(seconds)}; Ctrl-C ends the night")
    began = wall_seconds()
    while (waited := wall_seconds() - began) < seconds and not stopper.wanted() and night.seconds_left() > 0:
        heartbeat.beat(night.folder, f"paused: {why}", command=command_line(night))
        terminal.status(f"paused for {duration(waited)}")
        time.sleep(LOOK_SECONDS)
    return max(waited, LOOK_SECONDS)


def try_notebook(
    night: Night, terminal: Terminal, stopper: Stopper, context, name: str, page: str, parameters: dict
) -> None:
    """Execute a notebook until the journal has what it is there for; a dead or hung one is started again, TRIES times in vain at most.

    Raises Paused where it may go on later, LoopError where it cannot.
    """
    output = night.folder / "notebooks" / f"{page}.ipynb"
    failures, reached = 0, all_progress(night)
    while True:
        target = step_after(night.run.state).experiment
        process = NotebookProcess(context, REPOSITORY / "notebooks" / f"{name}.ipynb", output, parameters)
        hung = watch(night, terminal, process, limit_of(night, name))
        failure = ("Hung", hung) if hung else process.failure()
        finished = failure is None if name in NO_JOURNAL else step_after(night.run.state).experiment > target
        if finished:
            if failure:
                terminal.say(
                    f"the page {page} ended with {failure[0]} after the work was done: {first_line(failure[1])}"
                )
            return
        errors = kinds_of()
        kind, message = failure or ("Unfinished", "the notebook ended before its work was done")
        if kind in ("Paused", "BusyError"):  # the second: a notebook by hand came between two experiments
            raise Paused(message)
        if kind in errors and errors[kind].final:
            raise LoopError(message)
        if full := disk_space.lacking(night.folder):
            raise Paused(f"{full} (the notebook of {page} ended with {kind}: {first_line(message)})")
        made = all_progress(night)
        failures, reached = (failures + 1 if made <= reached else 1), made
        if failures >= TRIES:
            raise (Paused if kind in DIED else LoopError)(
                f"notebook {name} failed {TRIES} times in a row with {kind}: {first_line(message)}. See {output}"
            )
        terminal.say(f"the notebook of {page} ended with {kind} ({first_line(message)}): starting it again")
        if stopper.wanted():
            raise StopNow


def all_progress(night: Night) -> int:
    """How much finished work there is, that of the claim included."""
    return progress_made(night.run.entries) + progress_made(read_journal(night.folder / close_out.NAME))


def claim_plan_words(night: Night) -> str:
    """How many trainings the claim still takes, and how long that is."""
    settings = night.run.settings
    left = close_out.trainings_left(night.run.state, read_close_out(night.folder), settings.profile["name"] == "demo")
    return f"best and baseline in turn on fresh seeds, {left} trainings, about {claim_seconds(night, left) / 60:.0f} min"


def limit_of(night: Night, notebook: str) -> float | None:
    """Seconds for which nothing may happen in a notebook that does not move the journal on; None where the journal tells."""
    if notebook == "05_close_out":
        settings = night.run.settings
        return training_limit(settings) + 2 * score_limit_seconds(settings)
    return PREPARE_SECONDS if notebook in NO_JOURNAL else None


def progress_made(entries: list[dict]) -> int:
    """How many entries stand for finished work: a run that was cut off, or failed through no fault of its own, is none, however often that happens,
    nor is one of the incumbent beside an idea."""
    idle = ("run_started", "controlled")
    place = lambda entry: tuple(entry.get(name) for name in ("experiment", "attempt", "run"))  # noqa: E731
    beside = {place(entry) for entry in entries if entry["event"] == "run_started" and entry.get("kind") == "refresh"}
    done = [entry for entry in entries if entry["event"] not in idle and entry.get("status") not in NOT_HELD_AGAINST]
    return sum(entry["event"] not in ("trained", "scored") or place(entry) not in beside for entry in done)


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:300]


def watch(night: Night, terminal: Terminal, process: NotebookProcess, limit: float | None = None) -> str:
    """Report progress until the notebook's process ends; kill it when the journal stands still for longer than its stage may take.

    limit: seconds for a notebook that writes no journal. Returns "" or what it hung in. On StopNow process and children are killed.
    """
    told, changed = len(night.run.entries), time.monotonic()
    claimed = all_progress(night)
    model_seconds = deadline_seconds(night)
    try:
        while process.running(LOOK_SECONDS):
            entries = night.run.entries
            if len(entries) > told:
                tell(terminal, entries[told:])
                told, changed = len(entries), time.monotonic()
            if (made := all_progress(night)) > claimed:
                claimed, changed = made, time.monotonic()
            most, stage = (limit, "this notebook") if limit else stage_limit(night.run, model_seconds)
            if time.monotonic() - changed > most:
                process.kill(night.folder)
                return f"nothing happened in {stage} for {most:.0f} s"
            facts = {"still_seconds": round(time.monotonic() - changed, 1), "limit_seconds": most}
            words = standing_words(night)
            heartbeat.beat(night.folder, words, command=command_line(night), **facts)
            terminal.status(words)
    except BaseException:  # whatever ends this watch ends the child too, or it would train on unwatched
        process.kill(night.folder)
        raise
    tell(terminal, night.run.entries[told:])
    return ""


def tell(terminal: Terminal, entries: list[dict]) -> None:
    """Say what has happened."""
    for entry in entries:
        if words := words_of(entry):
            terminal.say(words)


def say_where(night: Night, terminal: Terminal, stopped: bool) -> None:
    """The end: the figures, and where to look."""
    state = night.run.state
    rows = [e for e in state.experiments[1:] if e.committed]
    kept = sum(e.decided["decision"] == "keep" for e in rows)
    best, baseline = state.incumbent, state.experiments[0]
    report.write_report(night.folder)
    terminal.say(
        f"{len(rows)} experiments, {kept} kept. Baseline {baseline.mean:.6f}, branch at {best.mean:.6f} (experiment {best.number}: {best.decided['title']})"
    )
    terminal.say(claim_words(night, state))
    shown = night.folder.relative_to(REPOSITORY) if night.folder.is_relative_to(REPOSITORY) else night.folder
    terminal.say(
        f"look at {shown}/notebooks/index.html, {shown}/report/report.md, {shown}/results.tsv; best model in {shown}/best/"
    )
    if stopped:
        terminal.say(f"stopped as asked; continue with: {command_line(night)}")


def is_all_done(night: Night) -> bool:
    """Whether nothing is left of what was asked for, the claim included."""
    measured = not is_wanted(night.run.state, read_close_out(night.folder))
    return measured and (night.close_out or enough(night))


def claim_words(night: Night, state: State) -> str:
    """What may be said of the night: its claim, or how to have it measured."""
    if best := claim_of(night.folder, state.incumbent.number):
        return f"the claim: {words_of_claim(best)}"
    if not is_wanted(state, read_close_out(night.folder)):
        return "nothing was kept, so nothing is claimed"
    command = command_on(night.folder, "--close-out")
    return f"whether the best is an improvement is not measured yet ({claim_plan_words(night)}): {command}"


def ask_to_stop(folder: Path) -> str:
    """Ask a running night to stop after its experiment; return what was done, in words."""
    if not is_held(folder, "night"):
        return f"no night runs on {folder.name}; nothing to stop"
    (folder / STOP_FILE).write_text("stop after this experiment\n", encoding="utf-8")
    return f"{folder.name} stops after the experiment in flight"


def rule(folder: Path, experiment: int, accept: bool) -> str:
    """Accept or refuse an experiment in quarantine, now if nobody works on the run; return what was done, in words. Raises RulingError."""
    ruling.ask(folder, experiment, accept)
    lab = Lab(folder)
    try:
        with lab:  # what was asked takes effect as the run is taken up
            state = lab.state
    except BusyError:
        return f"noted: experiment {experiment} is {'accepted' if accept else 'refused'} as soon as the experiment in flight is over"
    found = state.experiments[experiment]
    return (
        ruling.words(found)
        if found.ruled
        else f"noted: it takes effect once experiment {lab.step.experiment} is finished"
    )
