"""The night's driver: prepare, baseline, experiment after experiment, analysis, each a notebook that papermill executes.

In: what the user asked for, and the journal. Out: executed notebooks, progress on the terminal, an exit status. Holds no state of its own: what
comes next is the journal's `next_step`, so a killed night goes on with the same command. A dead or hung notebook costs one run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.lab import history, pages, report
from harness.lab.execute import NotebookProcess, make_context
from harness.lab.journal import fold, next_step, now, read_journal
from harness.lab.locks import hold, is_held
from harness.lab.loop import LoopError, score_limit_seconds
from harness.lab.parameters import check_tag
from harness.lab.profiles import PROFILES
from harness.lab.runner import REPOSITORY, WEIGHTS_SECONDS
from harness.lab.settings import Settings, SettingsError, read_settings, results_folder

STOP_FILE = "STOP"
TRIES = 3  # executions of a notebook that end without the journal getting anywhere
START_SECONDS = 120  # a kernel that has done nothing for so long is dead
FINAL_ERRORS = ("LoopError", "SettingsError", "DataError", "ProgramError", "ParameterError", "BusyError", "ProfileError", "JournalError", "HistoryError")


@dataclass
class Night:
    """What was asked for. experiments and hours: 0 is no limit; both 0 is eight hours."""

    tag: str
    profile: str = "auto"
    hours: float = 0.0
    experiments: int = 0
    budget_seconds: float = 0.0
    seeds: int = 0
    device: str = "auto"
    results: str = ""
    cache: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        return results_folder(self.results) / self.tag

    def entries(self) -> list[dict]:
        return read_journal(self.folder / "journal.jsonl")


class StopNow(KeyboardInterrupt):
    """The second Ctrl-C, or a SIGTERM."""


class Terminal:
    """Progress for a person: lines for what happened, and one line, rewritten in place, for what is happening."""

    def __init__(self, log: Path, stream=None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self._log = log.open("a", encoding="utf-8")
        self._last = 0.0
        self._width = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        stamp = clock(time.monotonic() - self.started)
        self._write("\r" + " " * self._width + "\r" if self._width else "", f"[{stamp}] {text}\n")
        self._width = 0
        self._log.write(f"{now()} {text}\n")
        self._log.flush()

    def status(self, text: str) -> None:
        """Where things stand: rewritten in place on a terminal, a line every ten seconds elsewhere."""
        if not self.live:
            if time.monotonic() - self._last >= 10:
                self._last = time.monotonic()
                self._write("", f"[{clock(time.monotonic() - self.started)}]   {text}\n")
            return
        columns = shutil.get_terminal_size().columns
        line = f"[{clock(time.monotonic() - self.started)}] {text}"[: columns - 1]
        self._write("\r", line + " " * max(0, self._width - len(line)))
        self._width = len(line)

    def _write(self, before: str, text: str) -> None:
        try:
            self.stream.write(before + text)
            self.stream.flush()
        except OSError:  # the terminal hung up; the night goes on and night.log has it all
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            self.live = False

    def close(self) -> None:
        self._log.close()


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:2d}:{rest:02d}"


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
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed SSH window does not end the night
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        if self.asked:
            raise StopNow
        self.asked = True
        self.terminal.say(f"stopping: {what_is_being_finished(self.night)} is being finished first; Ctrl-C again stops at once")

    def _terminate(self, number: int, frame: object) -> None:
        raise StopNow

    def wanted(self) -> bool:
        """True when no further experiment should begin."""
        return self.asked or (self.night.folder / STOP_FILE).exists()


def what_is_being_finished(night: Night) -> str:
    """The work in flight, in words."""
    step = next_step(night.entries())
    if step.kind == "open" or step.experiment == 0:
        return "the baseline"
    return f"experiment {step.experiment}"


def run_night(night: Night) -> int:
    """Run or continue a night; return the exit status: 0 done or stopped as asked, 1 it cannot go on, 130 stopped at once."""
    check_tag(night.tag)
    make_folder(night.folder)
    advice = f"See it with: python3 scripts/overnight.py --status --tag {night.tag}; or choose another tag"
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
            return 1
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
        raise SettingsError(f"cannot write in {folder}: {error.strerror}. Choose another place with --results FOLDER, or make room") from error


def run_steps(night: Night, terminal: Terminal, stopper: Stopper) -> int:
    """Prepare, baseline, experiments, analysis."""
    context = make_context()
    common = {"tag": night.tag, "results_dir": night.results}
    entries = night.entries()
    profile = (read_settings(night.folder).profile["name"] if entries else night.profile) or "auto"
    if why := history.why_no_history(REPOSITORY):
        terminal.say(f"no git history: {why}")
    terminal.say(f"1 of 4, prepare data (profile {profile})")
    run_notebook(night, terminal, stopper, context, "01_prepare", "01_prepare", {"profile": profile, "device": night.device, "cache": night.cache})
    if next_step(night.entries()).experiment == 0:
        terminal.say("2 of 4, baseline")
        extra = {"profile": night.profile, "device": night.device, "cache": night.cache, "budget_seconds": night.budget_seconds, "seeds": night.seeds}
        run_notebook(night, terminal, stopper, context, "02_baseline", "02_baseline", common | extra)
    state = fold(night.entries())
    terminal.say(f"baseline val_bpb {state.experiments[0].mean:.6f}; {state.noise.words}")
    terminal.say(f"3 of 4, experiments: {plan_words(night)}")
    while not stopper.wanted() and not enough(night):
        number = next_step(night.entries()).experiment
        run_notebook(night, terminal, stopper, context, "03_agent_loop", f"{number:04d}", common)
        pages.write_index(night.folder)
    terminal.say("4 of 4, analysis")
    run_notebook(night, terminal, stopper, context, "04_analysis", "04_analysis", common)
    pages.write_index(night.folder)
    say_where(night, terminal, stopper.wanted())
    return 0


def experiments_done(night: Night) -> int:
    """Experiments with a decision, the baseline not counted."""
    return sum(bool(e.committed) for e in fold(night.entries()).experiments[1:])


def enough(night: Night) -> bool:
    """True when the night's limits leave no room for another experiment."""
    done = experiments_done(night)
    if night.experiments and done >= night.experiments:
        return True
    if night.experiments and not night.hours:
        return False
    left = 3600 * (night.hours or 8.0) - (time.monotonic() - night.started)
    return left < seconds_per_experiment(night)


def seconds_per_experiment(night: Night) -> float:
    """Wall-clock of an experiment: the mean of the last ten, before the first the budget and what surrounds it."""
    ends = [parse_time(e.committed["time"]) for e in fold(night.entries()).experiments if e.committed]
    gaps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    budget = read_settings(night.folder).budget_seconds
    gaps = [gap for gap in gaps[-10:] if gap < 20 * budget + 300]  # a pause between two evenings is no experiment
    return sum(gaps) / len(gaps) if gaps else 1.1 * budget + 15


def parse_time(text: str) -> float:
    """Unix time of a journal's time stamp."""
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def plan_words(night: Night) -> str:
    """What will be done, as said at the start."""
    done = experiments_done(night)
    goal = f"{night.experiments} in all" if night.experiments else f"for {night.hours or 8:g} hours"
    begun = f", {done} already done" if done else ""
    return f"{goal}{begun}, about {seconds_per_experiment(night):.0f} s each"


def run_notebook(night: Night, terminal: Terminal, stopper: Stopper, context, name: str, page: str, parameters: dict) -> None:
    """Execute a notebook until the journal has what it is there for; a dead or hung one is started again, TRIES times in vain at most."""
    output = night.folder / "notebooks" / f"{page}.ipynb"
    in_vain = 0
    while True:
        before = len(night.entries())
        target = next_step(night.entries()).experiment
        process = NotebookProcess(context, REPOSITORY / "notebooks" / f"{name}.ipynb", output, parameters)
        hung = watch(night, terminal, process)
        failure = ("Hung", hung) if hung else process.failure()
        finished = failure is None if name in ("01_prepare", "04_analysis") else next_step(night.entries()).experiment > target
        if finished:
            if failure:
                terminal.say(f"the page {page} ended with {failure[0]} after the work was done: {first_line(failure[1])}")
            return
        kind, message = failure or ("Unfinished", "the notebook ended before its work was done")
        if kind in FINAL_ERRORS:
            raise LoopError(message)
        in_vain = in_vain + 1 if len(night.entries()) <= before else 0
        if in_vain >= TRIES:
            raise LoopError(f"notebook {name} failed {TRIES} times in a row with {kind}: {first_line(message)}. See {output}")
        terminal.say(f"the notebook of {page} ended with {kind} ({first_line(message)}): starting it again")
        if stopper.asked:
            raise StopNow


def first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0][:300]


def watch(night: Night, terminal: Terminal, process: NotebookProcess) -> str:
    """Report progress until the notebook's process ends; kill it when nothing has happened for longer than its stage may take.

    Returns "" or what it hung in. On StopNow the process and all its children are killed.
    """
    told, changed, size = len(night.entries()), time.monotonic(), -1
    try:
        while process.running(0.25):
            entries = night.entries()
            for entry in entries[told:]:
                terminal.say(words_of(entry)) if words_of(entry) else None
            told = len(entries)
            if len(entries) != size:
                changed, size = time.monotonic(), len(entries)
            limit, stage = stage_limit(night, entries)
            if time.monotonic() - changed > limit:
                process.kill()
                return f"nothing happened in {stage} for {limit:.0f} s"
            terminal.status(status_words(night, entries))
    except StopNow:
        process.kill()
        raise
    for entry in night.entries()[told:]:
        terminal.say(words_of(entry)) if words_of(entry) else None
    return ""


def stage_limit(night: Night, entries: list[dict]) -> tuple[float, str]:
    """Return (seconds the journal may stand still, what is being done)."""
    if not entries:
        return 6 * 3600.0, "preparing data"  # a large corpus on a slow disk
    settings = read_settings(night.folder)
    step = next_step(entries)
    if entries[-1]["event"] == "run_started":
        budget = settings.budget_seconds
        return settings.profile["startup_limit_seconds"] + 1.05 * budget + 3 + WEIGHTS_SECONDS + 60, "training"
    if step.kind == "score":
        return score_limit_seconds(settings) + 60, "scoring"
    return START_SECONDS + 180.0, step.kind


def words_of(entry: dict) -> str:
    """A journal entry as a line for the terminal; "" for what needs no line."""
    number = entry.get("experiment")
    if entry["event"] == "proposed":
        return f"experiment {number}: {entry['title']} ({entry['category']})" if number else ""
    if entry["event"] == "checked" and not entry["ok"]:
        return f"experiment {number}: refused: {'; '.join(entry['reasons'])}"
    if entry["event"] == "run_started" and entry["kind"] == "confirm":
        return f"experiment {number}: promising, so once more on seed {entry['seed']}"
    if entry["event"] == "trained" and entry["status"] != "ok":
        return f"experiment {number}: {entry['status']}: {entry['cause']}"
    if entry["event"] == "scored":
        return f"experiment {number}, run {entry['run']}: " + (f"val_bpb {entry['val_bpb']:.6f}" if entry["val_bpb"] else f"{entry['status']}: {entry['cause']}")
    if entry["event"] == "decided" and number:
        return f"experiment {number}: {entry['decision']}: {entry['verdict']}"
    return ""


def status_words(night: Night, entries: list[dict]) -> str:
    """Step, experiment, best so far, time left: one line."""
    if not entries:
        return "preparing"
    state, step = fold(entries), next_step(entries)
    if step.experiment == 0:
        runs = len(state.experiments[0].attempt.runs) if state.experiments and state.experiments[0].attempts else 0
        where = f"baseline, run {runs} of {len(state.opened['seeds'])}"
        return f"{where} · {stage_words(night, state, step)}"
    of = f"/{night.experiments}" if night.experiments else ""
    best = state.incumbent
    return (
        f"experiment {step.experiment}{of} · {stage_words(night, state, step)} · best {best.mean:.4f} (experiment {best.number}) · "
        f"{left_words(night)} left"
    )


def left_words(night: Night) -> str:
    """Time left of the night, as far as it can be known."""
    by_count = max(0, night.experiments - experiments_done(night)) * seconds_per_experiment(night) if night.experiments else None
    by_clock = 3600 * (night.hours or 8.0) - (time.monotonic() - night.started) if night.hours or not night.experiments else None
    seconds = min(x for x in (by_count, by_clock) if x is not None)
    return f"about {max(0, seconds) / 3600:.1f} h" if seconds > 5400 else f"about {max(1, round(seconds / 60))} min"


def stage_words(night: Night, state, step) -> str:
    """What is going on inside the experiment, with the training's last event."""
    if step.kind != "close":  # an unfinished run looks like one to be closed; anything else is a short stage
        return {"score": "scoring", "train": "starting a run"}.get(step.kind, step.kind)
    event = last_event(night.folder / "experiments" / f"{step.experiment:04d}" / "attempts" / f"{step.attempt:02d}" / "runs" / f"{step.run:02d}")
    if event.get("event") != "step":
        return "starting up"
    return f"training {100 * event['progress']:.0f}%, loss {event['train_loss']:.3f}"


def last_event(folder: Path) -> dict:
    """The newest event of a run, {} when there is none yet."""
    try:
        with (folder / "events.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def say_where(night: Night, terminal: Terminal, stopped: bool) -> None:
    """The end: the figures, and where to look."""
    state = fold(night.entries())
    rows = [e for e in state.experiments[1:] if e.committed]
    kept = sum(e.decided["decision"] == "keep" for e in rows)
    best, baseline = state.incumbent, state.experiments[0]
    report.write_report(night.folder)
    terminal.say(f"{len(rows)} experiments, {kept} kept. Baseline {baseline.mean:.6f}, best {best.mean:.6f} (experiment {best.number}: {best.decided['title']})")
    shown = night.folder.relative_to(REPOSITORY) if night.folder.is_relative_to(REPOSITORY) else night.folder
    terminal.say(f"look at {shown}/notebooks/index.html, {shown}/report/report.md, {shown}/results.tsv; best model in {shown}/best/")
    if stopped:
        terminal.say(f"stopped as asked; continue with: {command_line(night)}")


def command_line(night: Night) -> str:
    """The command that goes on with this night."""
    parts = ["python3 scripts/overnight.py", f"--tag {night.tag}"]
    if night.profile == "demo":
        parts = ["python3 scripts/overnight.py --demo"] + ([f"--tag {night.tag}"] if night.tag != "demo" else [])
    parts += [f"--experiments {night.experiments}"] * bool(night.experiments and night.profile != "demo") + [f"--hours {night.hours:g}"] * bool(night.hours)
    return " ".join(parts)


def ask_to_stop(folder: Path) -> str:
    """Ask a running night to stop after its experiment; return what was done, in words."""
    if not is_held(folder, "night"):
        return f"no night runs on {folder.name}; nothing to stop"
    (folder / STOP_FILE).write_text("stop after this experiment\n", encoding="utf-8")
    return f"{folder.name} stops after the experiment in flight"


def status_of(folder: Path) -> str:
    """One screen on a run."""
    entries = read_journal(folder / "journal.jsonl")
    settings: Settings = read_settings(folder)
    running = "a night is running" if is_held(folder, "night") else "no night is running"
    return f"{running}\n" + report.status_text(entries, settings.__dict__, now())


def profile_names() -> str:
    return ", ".join(["auto", *PROFILES])
