"""What kill_matrix.py kills: a night, its processes by role, the moments at which one dies.

In: a folder of our own. Out: a night that runs, dies and goes on, and sentences on what was wrong
afterwards. Linux only: it reads /proc. A moment is a state of the journal, never a time: the
kernel, which alone writes the journal, is stopped as soon as the state is seen, so that it still
holds when the victim dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from checkout import copy_checkout, environment, git
from proposals import leave_proposal

from harness.check.check import check_run
from harness.lab import close_out
from harness.lab.close_out_questions import next_question, plan_claim, seconds_of
from harness.run.journal import JournalReader, read_journal
from harness.run.results import read_results
from harness.run.run import Run
from harness.run.state import NOT_HELD_AGAINST, State, fold
from killing.processes import alive, find_roles, processes_in, stopped, words_of

LOOK_SECONDS = 0.001
FIND_SECONDS = 0.03  # between two looks for who is there: a kernel takes seconds to start
DEAD_SECONDS = 60.0  # for all processes of a night whose driver died to be gone
NIGHT_SECONDS = 420.0  # for one experiment and what surrounds it, on a busy machine
# 40 steps a training, however long they take.
STEP_CLOCK = "clock_step_seconds=0.5 budget_seconds=20"

VICTIMS = (
    *("driver", "papermill", "forkserver", "kernel"),
    *("proposer", "trainer", "server A", "server B"),
)
RUNS_THROUGHOUT = ("driver", "papermill", "forkserver", "kernel")
# The folder in which the best file is trained again, after ideas that failed alike.
CONTROL = "control"
REACH = re.compile(r"return [\d.]+ \* torch\.tanh\(logits / [\d.]+\)")
TEMPLATE_END = (
    "return LOGIT_SOFTCAP * torch.tanh(logits / LOGIT_SOFTCAP) if LOGIT_SOFTCAP else logits"
)


@dataclass(frozen=True)
class Moment:
    """A state of the journal in which a night can be killed.

    event: of its last line. ready: whether the training's clock runs, None where that is no matter.

    victims: who can be there then; run: the kind of run that goes on, "" where that is no matter.
    CONTROL is no run of an experiment, and no line tells that it has begun. rare: it does not come
    in every night, and is not met by chance.
    """

    name: str
    event: str
    victims: tuple[str, ...] = RUNS_THROUGHOUT
    ready: bool | None = None
    run: str = ""
    rare: bool = False

    def holds(self, entries: Sequence[dict], experiment: int | None, folder: Path) -> bool:
        """Whether the journal is in this state, in the given experiment (None: in any).

        folder: the run's.
        """
        if not entries or entries[-1]["event"] != self.event:
            return False
        last = entries[-1]
        if experiment is not None and experiment_of(entries) != experiment:
            return False
        if self.run not in ("", CONTROL, last.get("kind")):
            return False
        if self.ready is None:
            return self.event == "decided" or last.get("status", "ok") == "ok"
        return (
            is_ready(folder / CONTROL if self.run == CONTROL else folder / run_place(last))
            is self.ready
        )


MOMENTS = (
    Moment("opened", "opened"),
    Moment("proposed", "proposed"),
    Moment("checked", "checked"),
    Moment(
        "run started, starting up",
        "run_started",
        (*RUNS_THROUGHOUT, "trainer", "server A"),
        ready=False,
    ),
    Moment(
        "run started, training",
        "run_started",
        (*RUNS_THROUGHOUT, "trainer", "server A"),
        ready=True,
    ),
    Moment(
        "run started, confirming",
        "run_started",
        (*RUNS_THROUGHOUT, "trainer", "server A"),
        ready=True,
        run="confirm",
        rare=True,
    ),
    Moment(
        "run started, refreshing",
        "run_started",
        (*RUNS_THROUGHOUT, "trainer", "server A"),
        ready=True,
        run="refresh",
        rare=True,
    ),
    Moment("trained, being scored", "trained", (*RUNS_THROUGHOUT, "server A", "server B")),
    # A close audit goes on, before a keep.
    Moment("scored", "scored", (*RUNS_THROUGHOUT, "server A", "server B")),
    Moment("audited", "audited", rare=True),
    Moment("decided", "decided"),
    Moment("committed", "committed", (*RUNS_THROUGHOUT, "proposer")),  # of the next idea
    Moment(
        "committed, control training",
        "committed",
        (*RUNS_THROUGHOUT, "trainer"),
        ready=True,
        run=CONTROL,
        rare=True,
    ),
    Moment("controlled", "controlled", (*RUNS_THROUGHOUT, "proposer"), rare=True),
)
BY_NAME = {moment.name: moment for moment in MOMENTS}
KEEPS_ONLY = {("scored", "server A"), ("scored", "server B")} | {
    ("audited", victim) for victim in VICTIMS
}


def experiment_of(entries: Sequence[dict]) -> int:
    """The experiment that the journal was last about."""
    return next((entry["experiment"] for entry in reversed(entries) if "experiment" in entry), 0)


def run_place(entry: dict) -> str:
    """Where a training's folder is in its run's, by an entry of it, of the claim too."""
    if "role" in entry:
        return f"close_out/{entry['run']:02d}"
    experiment, attempt, run = (entry[name] for name in ("experiment", "attempt", "run"))
    return f"experiments/{experiment:04d}/attempts/{attempt:02d}/runs/{run:02d}"


def is_ready(run: Path) -> bool:
    """Whether the run's training has started its clock."""
    try:
        return b'"event": "ready"' in (run / "events.jsonl").read_bytes()
    except OSError:
        return False


# --- A night --------------------------------------------------------------------------------------


@dataclass
class SmallNight:
    """One run in a checkout of its own: started, killed, started again."""

    checkout: Path
    cache: Path
    tag: str = "t"
    wishes: str = STEP_CLOCK
    options: tuple[str, ...] = ("--profile", "tiny")
    process: subprocess.Popen | None = None
    starts: int = 0
    _reader: JournalReader | None = None
    _roles: dict[str, int] = field(default_factory=dict)
    _looked: float = 0.0

    @property
    def folder(self) -> Path:
        return self.checkout / "results" / self.tag

    def entries(self) -> list[dict]:
        self._reader = self._reader or JournalReader(self.folder / "journal.jsonl")
        return self._reader.entries()

    def state(self) -> State:
        return fold(read_journal(self.folder / "journal.jsonl"))

    @property
    def log(self) -> Path:
        return self.checkout.parent / f"{self.tag}.{self.starts}.log"

    def start(self, experiments: int, **options: object) -> subprocess.Popen:
        """The command of a night; the same one continues it."""
        self.starts += 1
        wishes = [word for wish in self.wishes.split() for word in ("--set", wish)]
        command = [sys.executable, "-m", "harness", "overnight", *self.options, "--tag", self.tag]
        command += ["--experiments", str(experiments), *wishes]
        with self.log.open("w") as log:
            given = {
                "stdout": log,
                "stderr": log,
                "stdin": subprocess.DEVNULL,
                "start_new_session": True,
            } | options
            self.process = subprocess.Popen(
                command, cwd=self.checkout, env=environment(self.checkout, self.cache), **given
            )
        self._roles = {}
        return self.process

    def roles(self, fresh: bool = False) -> dict[str, int]:
        """Who is there; looked up anew now and then, or when asked for."""
        if fresh or time.monotonic() - self._looked > FIND_SECONDS:
            page = self._roles.get("papermill")
            self._roles, self._looked = find_roles(self.process.pid, page), time.monotonic()
        return self._roles

    def last_words(self) -> str:
        """The last line that the driver wrote."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "nothing"

    def wait(self, seconds: float = NIGHT_SECONDS) -> int | None:
        """The driver's exit status, None when it did not end in time; then it is ended here."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return None

    def wait_until_gone(self) -> list[int]:
        """Processes of this checkout that are still there after a while."""
        until = time.monotonic() + DEAD_SECONDS
        while (left := processes_in(self.checkout)) and time.monotonic() < until:
            time.sleep(0.05)
        return left

    def end(self) -> None:
        """Kill what is left."""
        for pid in [self.process.pid] * (
            self.process is not None and self.process.poll() is None
        ) + processes_in(self.checkout):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()

    def is_at(self, moment: Moment, experiment: int | None) -> bool:
        return moment.holds(self.entries(), experiment, self.folder)

    def strike(
        self, moment: Moment, victim: str, experiment: int | None, send: int = signal.SIGKILL
    ) -> int | None:
        """Wait for the moment and send the victim a signal; return who got it.

        None when the night ended or the moment passed without the victim.

        experiment None: in whatever experiment the moment comes first.
        """
        while self.process.poll() is None:
            kernel = self.roles().get("kernel")
            if not self.is_at(moment, experiment):
                if experiment is not None and self.is_past(moment, experiment):
                    return None
                time.sleep(LOOK_SECONDS)
                continue
            with stopped(kernel):
                if not self.is_at(moment, experiment):
                    continue
                pid = self.roles(fresh=True).get(victim)
                if pid is not None:
                    os.kill(pid, send)
                    return pid
            time.sleep(5 * LOOK_SECONDS)
        return None

    def is_past(self, moment: Moment, experiment: int) -> bool:
        """Whether the moment does not come again in this experiment.

        It ends in `decided` and `committed`; what was before can be repeated.
        """
        entries = self.entries()
        if moment.event in ("committed", "controlled"):
            return experiment_of(entries) > experiment
        ends = "committed" if moment.event == "decided" else "decided"
        return any(
            entry["event"] == ends and entry["experiment"] == experiment for entry in entries
        )

    def plant_better(self, experiment: int, reach: float) -> None:
        """Leave a finished proposal that is better than what reaches less far.

        It is the baseline's file with logits that reach further.
        """
        self._plant(experiment, f"reach {reach}", f"return {reach} * torch.tanh(logits / {reach})")

    def plant_failure(self, experiment: int) -> None:
        """Leave a finished proposal that fails as all of these do, whichever it is."""
        self._plant(
            experiment,
            f"failure {experiment}",
            f"raise ValueError('idea {experiment} does not fit')",
        )

    def _plant(self, experiment: int, title: str, end: str) -> None:
        baseline = (self.folder / "experiments/0000/attempts/00/train.py").read_text()
        source = REACH.sub(end, baseline)
        folder = self.folder / f"experiments/{experiment:04d}/attempts/00"
        leave_proposal(folder, source, title, proposer="kill_matrix")


@dataclass
class ClaimNight(SmallNight):
    """One comparison of the close-out of a night that is over, as a run of its own.

    Its entries are those of close_out.jsonl. kind: which comparison; what is before it is there.
    """

    kind: str = "claim"

    def entries(self) -> list[dict]:
        return read_journal(self.folder / close_out.NAME)

    def start(self, experiments: int, **options: object) -> subprocess.Popen:
        """The command that measures what the best is worth; the same one continues it."""
        run = Run(self.folder)
        if not self.is_begun():
            question = plan_claim(run) if self.kind == "claim" else next_question(run, self.found())
            hours = round(1.05 * seconds_of(run, question) / 3600, 4)  # for this and no other
            self.options = ("--close-out", "--hours", str(hours))
        return super().start(experiments, **options)

    def found(self) -> close_out.CloseOut:
        return close_out.read_close_out(self.folder)

    def is_at(self, moment: Moment, experiment: int | None) -> bool:
        return self.is_begun() and super().is_at(moment, experiment)

    def is_begun(self) -> bool:
        return any(each.kind == self.kind for each in self.found().comparisons)

    def forget(self) -> None:
        """As if the comparison had never been begun."""
        path, left = self.folder / close_out.NAME, []
        for entry in self.entries():
            if entry.get("kind") == self.kind:
                break
            left.append(entry)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in left))
        trained = [f"{run.number:02d}" for run in close_out.fold_close_out(left).runs]
        for other in (self.folder / "close_out").glob("*"):
            if other.is_dir() and other.name not in trained:
                shutil.rmtree(other)
            elif other.is_file():
                other.unlink()


CLAIM_MOMENTS = (
    Moment("claim begun", "claim_begun", rare=True),
    Moment("claim, training", "run_started", (*RUNS_THROUGHOUT, "trainer"), ready=True, rare=True),
    Moment("claim, being scored", "trained", (*RUNS_THROUGHOUT, "server A"), rare=True),
    Moment("claim, scored", "scored", rare=True),
)


def kill_claim(night: ClaimNight, moment: Moment, victim: str, experiments: int) -> Cell:
    """Begin the claim, kill the victim at the moment, let the same command go on, and look."""
    night.forget()
    cell = kill_once(night, moment, victim, None, experiments)
    found, wrong = night.found(), list(cell.wrong)
    asked = [each for each in found.comparisons if each.kind == night.kind]
    statuses = [claimed["status"] for each in asked for claimed in each.claims.values()]
    if "ok" not in statuses or set(statuses) - {"ok", "not alone"}:
        wrong.append(f"what came of the {night.kind} is {statuses}")
    for each in found.comparisons:
        seeds = [run.started["seed"] for run in each.runs if run.status == "ok"]
        if sorted(seeds) != sorted(trial.seed for trial in each.trials):
            wrong.append(f"{each.kind}: seeds {seeds} were trained to their end")
    lost = [run.status for each in asked for run in each.runs if run.status not in (None, "ok")]
    return replace(cell, cost=", ".join(lost), wrong=tuple(wrong))


def make_checkout(folder: Path, short_reach: bool = False) -> Path:
    """A copy of this checkout to kill nights in.

    short_reach: its template starts with logits that cannot reach far, so that better files are
    known.
    """
    checkout = copy_checkout(folder)
    if short_reach:
        template = checkout / "train_template.py"
        source = template.read_text()
        assert source.count(TEMPLATE_END) == 1, "the template's last line of forward has changed"
        template.write_text(source.replace(TEMPLATE_END, "return 1.0 * torch.tanh(logits / 1.0)"))
        git(checkout, "commit", "-qam", "logits that cannot reach far")
    return checkout


# --- Judging --------------------------------------------------------------------------------------


def findings(night: SmallNight, experiments: int) -> list[str]:
    """What does not agree in a run at rest that should have so many experiments: [] is all well."""
    found = [
        f"process {pid} is left: {' '.join(words_of(pid))[:120]}" for pid in night.wait_until_gone()
    ]
    left = [
        path
        for name in ("work", "server_*", "*.tmp")
        for path in (night.folder / "experiments").rglob(name)
    ]
    found += [f"{path.relative_to(night.folder)} is left" for path in left]
    return found + disagreements(night, experiments)


def disagreements(night: SmallNight, experiments: int) -> list[str]:
    """What does not agree in a run in which so many experiments are finished.

    The run is at rest, or in the middle of its next experiment.
    """
    found = []
    entries = [
        entry
        for entry in read_journal(night.folder / "journal.jsonl")
        if entry.get("experiment", 0) <= experiments
    ]
    for event in ("proposed", "decided", "committed"):
        repeats = event == "proposed"  # by repairs, which are looked at below
        numbers = [
            entry["experiment"]
            for entry in entries
            if entry["event"] == event and not (repeats and entry["attempt"])
        ]
        if numbers != list(range(experiments + 1)):
            found.append(f"{event}: experiments {numbers}, expected 0 to {experiments}, each once")
    rows = len(read_results(night.folder / "results.tsv"))
    if rows != experiments + 1:
        found.append(f"results.tsv has {rows} rows, expected {experiments + 1}")
    attempts = [
        (entry["experiment"], entry["attempt"]) for entry in entries if entry["event"] == "proposed"
    ]
    if len(attempts) != len(set(attempts)):
        found.append(f"an attempt was proposed twice: {attempts}")
    refs = git(
        night.checkout,
        "for-each-ref",
        "--format=%(refname:lstrip=3)",
        f"refs/experiments/{night.tag}",
    ).split()
    if refs != [f"{number:04d}" for number in range(experiments + 1)]:
        found.append(f"git has refs of experiments {' '.join(refs)}")
    return found + check_run(night.folder)


def cost(night: SmallNight, experiment: int) -> str:
    """What the experiment lost.

    The statuses of its runs, and of trials of the best file after it, that were cut off.
    """
    experiments = night.state().experiments
    if experiment >= len(experiments):
        return "not there"
    lost = [
        run.status or "unfinished"
        for run in experiments[experiment].attempt.runs
        if run.status in (None, *NOT_HELD_AGAINST)
    ]
    controls = [
        entry
        for entry in night.entries()
        if entry["event"] == "controlled" and entry["suspects"][-1] == experiment
    ]
    return ", ".join(
        lost + [f"control: {entry['status']}" for entry in controls if entry["status"] != "ok"]
    )


@dataclass(frozen=True)
class Cell:
    """What came of one kill. killed: whether the moment came with its victim."""

    moment: str
    victim: str
    killed: bool
    cost: str = ""
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0


def kill_once(
    night: SmallNight, moment: Moment, victim: str, experiment: int | None, experiments: int
) -> Cell:
    """Kill the victim at the moment in the given experiment, let the night go on, and look.

    The night runs up to so many experiments.
    """
    began, wrong = time.monotonic(), []
    night.start(experiments)
    killed = night.strike(moment, victim, experiment) is not None
    status = night.wait()
    if victim == "driver" and killed:
        wrong += [f"process {pid} outlived the driver" for pid in night.wait_until_gone()]
        night.start(experiments)
        status = night.wait()
    elif status != 0:
        wrong.append(f"the night ended with {status}: {night.last_words()}")
        night.wait_until_gone()
        night.start(experiments)
        status = night.wait()
    if status != 0:
        wrong.append(f"started again, the night ended with {status}: {night.last_words()}")
    wrong += findings(night, experiments)
    lost = "" if experiment is None else cost(night, experiment)
    return Cell(moment.name, victim, killed, lost, tuple(wrong), round(time.monotonic() - began, 1))


def kill_in_passing(
    night: SmallNight,
    moment: Moment,
    victim: str,
    experiment: int,
    experiments: int,
    then: Callable[[], None],
) -> Cell:
    """Kill the victim at the moment in an experiment of a long night, and look at the run.

    The look comes once the next experiment has begun.

    then: what is done before the night, which stands still for the look, goes on.
    """
    began, wrong = time.monotonic(), []
    killed = night.strike(moment, victim, experiment) is not None
    if victim == "driver" and killed:
        night.process.wait()
        wrong += [f"process {pid} outlived the driver" for pid in night.wait_until_gone()]
        night.start(experiments)
    until = time.monotonic() + NIGHT_SECONDS
    while not any(
        entry["event"] == "proposed" and entry["experiment"] > experiment
        for entry in night.entries()
    ):
        if (status := night.process.poll()) is not None or time.monotonic() > until:
            wrong.append(
                f"the night {'stood still' if status is None else f'ended with {status}'}:"
                f" {night.last_words()}"
            )
            night.end()
            if len(wrong) > 2:
                break
            night.start(experiments)
            until = time.monotonic() + NIGHT_SECONDS
        time.sleep(10 * LOOK_SECONDS)
    with contextlib.ExitStack() as still:
        for role in RUNS_THROUGHOUT:
            still.enter_context(stopped(night.roles(fresh=True).get(role)))
        wrong += disagreements(night, experiment)
        then()
    return Cell(
        moment.name,
        victim,
        killed,
        cost(night, experiment),
        tuple(wrong),
        round(time.monotonic() - began, 1),
    )


# --- Many kills in one night ----------------------------------------------------------------------

TOLD = ("title", "sha256", "parent")


def told(night: SmallNight) -> list[dict]:
    """What a night says of each experiment, times and run numbers left out."""
    rows = []
    for experiment in night.state().experiments:
        attempt, decided = experiment.attempt, experiment.decided or {}
        row = {name: attempt.proposed.get(name) for name in TOLD}
        row |= {
            name: decided.get(name)
            for name in ("val_bpb", "decision", "status", "n_runs", "gain", "incumbent")
        }
        rows.append(row | {"scores": attempt.scores})
    return rows


@dataclass
class Blow:
    """A kill that is planned: which moment of which experiment, whom."""

    moment: Moment
    victim: str
    experiment: int
    fell: bool = False


def in_order(blow: Blow) -> tuple[int, int]:
    """Where a blow stands among others: its moments come in this order."""
    return blow.experiment, MOMENTS.index(blow.moment)


def run_through(
    night: SmallNight,
    experiments: int,
    blows: Sequence[Blow],
    say: Callable[[str], None],
    insist: bool = False,
) -> list[str]:
    """Run a night to its end while the blows fall, in their order; return what was wrong.

    insist: a blow whose victim was not there, or whose moment had passed, is meant for the next
    experiment then.
    """
    wrong: list[str] = []
    night.start(experiments)
    waiting = list(blows)
    while waiting:
        blow = waiting.pop(0)
        if (status := night.process.poll()) is not None:
            wrong.append(
                f"the night ended with {status},"
                f" though nobody killed its driver: {night.last_words()}"
            )
            start_again(night, experiments, wrong, say)
        pid = night.strike(blow.moment, blow.victim, blow.experiment)
        blow.fell = pid is not None
        say(
            f"experiment {blow.experiment}, {blow.moment.name}: {blow.victim}"
            f" {'killed' if blow.fell else 'was not there'}"
        )
        if insist and not blow.fell and blow.experiment < experiments:
            blow.experiment += 1
            waiting = sorted([*waiting, blow], key=in_order)
        elif blow.fell and blow.victim == "driver":
            night.process.wait()
            start_again(night, experiments, wrong, say)
        elif blow.fell:
            wait_until_dead(pid)
    for _ in range(len(blows) + 1):
        if (status := night.wait()) == 0:
            return wrong + findings(night, experiments)
        wrong.append(
            f"the night ended with {status}, though nobody killed its driver: {night.last_words()}"
        )
        start_again(night, experiments, wrong, say)
    return [*wrong, "the night does not come to its end"]


def start_again(
    night: SmallNight, experiments: int, wrong: list[str], say: Callable[[str], None]
) -> None:
    """The same command once more, after all of the last is gone."""
    wrong += [
        f"process {pid} outlived the driver: {' '.join(words_of(pid))[:120]}"
        for pid in night.wait_until_gone()
    ]
    night.end()
    say("started again")
    night.start(experiments)


def wait_until_dead(pid: int) -> None:
    until = time.monotonic() + DEAD_SECONDS
    while alive(pid) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)


def forget(night: SmallNight) -> None:
    """Remove the checkout."""
    night.end()
    shutil.rmtree(night.checkout, ignore_errors=True)
