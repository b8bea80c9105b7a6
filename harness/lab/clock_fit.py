"""What a CPU second beside others is worth on this machine, for the clock of its trainings.
Measured once, and kept for the machine.

In: the run's executor, the baseline's source. Out: `worth_beside` of `harness.training.clock`. The
baseline trains for about a minute, while processes that compute for ever come and go in turn:
drift of the machine, which is as large as what is sought, meets both alike.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.data.manifest import PreparedData
from harness.ground.errors import EndedEarly
from harness.lab.executor import Executor
from harness.lab.machine_facts import PROBE, MachineFact
from harness.run.settings import Settings
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover
from harness.training.clock import busy_share, own_cpus

ALONE_SECONDS, BESIDE_SECONDS, SETTLE_SECONDS = 2.0, 4.0, 0.3
CYCLES = 9  # each alone, then beside
# Busy processes, in turn: half as many as there are cores, as many, half as many again.
HALVES = (1, 2, 3)
TRIAL_RATE = 0.5  # of the clock meanwhile: so low that it charges CPU time alone, never wall time
LEAST_STEPS = 3  # in a span that is to count
# Of trainings so short that a minute of measuring costs more than it brings.
LEAST_BUDGET_SECONDS = 10.0
BUSY = 0.1  # share of the cores that others use, from which on nothing can be measured
MOST_ERROR = 0.03  # standard error of what may be kept
# Where worth_beside may lie: beyond, something else was measured.
LEAST, MOST = 0.8, 1.25
MEASURED = "measured"
UNKNOWN = (
    "Trainings beside other programs may get up to 10% more or fewer steps than those alone; the "
    "next run measures again"
)
# Computes until the process ends that started it, and at most half a minute.
BURNER = """
import os, sys, time
end = time.monotonic() + 30
while os.getppid() == int(sys.argv[1]) and time.monotonic() < end:
    sum(range(100000))
"""


@dataclass(frozen=True)
class Span:
    """Seconds in which as many busy processes were there. work: CPU seconds of the training, by its
    clock."""

    burners: int
    steps: int
    work: float


class ComeAndGo:
    """A training's listener that lets busy processes come and go, and notes how it went on.

    A step is told one logged step late, so of each span the first that is heard does not count.
    """

    def __init__(self, cores: int, charged_seconds: float) -> None:
        self._cores, self._budget = cores, charged_seconds
        self._processes: list[subprocess.Popen] = []
        self._heard: list[tuple[int, float]] = []  # in this span: step, and CPU seconds so far
        self._began: float | None = None
        self._number = 0  # of the span
        self.spans: list[Span] = []

    def __call__(self, event: dict) -> None:
        now = time.monotonic()
        if event["event"] == "ready":
            self._began = now
        if event["event"] != "step" or self._began is None or self._number >= 2 * CYCLES:
            return
        if now - self._began > SETTLE_SECONDS:
            self._heard.append((event["step"], event["progress"] * self._budget * TRIAL_RATE))
        if now - self._began > (BESIDE_SECONDS if self._processes else ALONE_SECONDS):
            self._end_span()
            self._began = time.monotonic()

    def _end_span(self) -> None:
        if len(self._heard) > 2:
            (step, work), (last_step, last_work) = self._heard[1], self._heard[-1]
            self.spans.append(Span(len(self._processes), last_step - step, last_work - work))
        else:
            self.spans.append(Span(len(self._processes), 0, 0.0))
        self._heard.clear()
        self._number += 1
        if self._number >= 2 * CYCLES:
            raise EndedEarly(MEASURED)
        beside, halves = self._number % 2, HALVES[self._number // 2 % len(HALVES)]
        self._set(beside * max(1, halves * self._cores // 2))

    def _set(self, count: int) -> None:
        try:
            while len(self._processes) < count:
                command = [sys.executable, "-S", "-c", BURNER, str(os.getpid())]
                self._processes.append(subprocess.Popen(command, start_new_session=True))
        except OSError as error:  # a limit on processes
            raise EndedEarly(f"no busy process could be started: {error}") from error
        while len(self._processes) > count:
            process = self._processes.pop()
            process.kill()
            process.wait()

    def __enter__(self) -> ComeAndGo:
        return self

    def __exit__(self, *exception: object) -> None:
        self._set(0)


def find_worth(executor: Executor, source: str, say: Callable[[str], None] = print) -> float:
    """worth_beside of this machine; 1 where it is not known and cannot be measured now."""
    settings = executor.settings
    if not settings.core_rate or settings.budget_seconds < LEAST_BUDGET_SECONDS:
        return 1.0
    if known := known_worth(settings, executor.data):
        return known
    if (share := busy_share() or 0.0) > BUSY:
        say(
            f"other programs use {share:.0%} of the cores now, so it cannot be measured what a CPU "
            f"second beside others is worth here. {UNKNOWN}"
        )
        return 1.0
    say(
        "measuring, once for this machine and for about a minute, how many steps a CPU second is "
        "worth while other programs run: busy processes of ours come and go meanwhile"
    )
    spans, ended = train_beside_others(executor, source)
    worth, words = worth_of(spans, ended)
    say(words if worth else f"{words}. {UNKNOWN}")
    if worth is None:
        return 1.0
    fact_of(settings, executor.data).keep(worth, spans=[vars(span) for span in spans])
    return worth


def known_worth(settings: Settings, data: PreparedData) -> float | None:
    """What an earlier run has measured on this machine; None where none has."""
    known = fact_of(settings, data).read()
    return known if isinstance(known, float) and LEAST <= known <= MOST else None


def fact_of(settings: Settings, data: PreparedData) -> MachineFact:
    """Where it is kept, by all that it depends on; not the file, whose kernels are much alike."""
    facts = {
        "format_version": 1,
        "host": platform.node(),
        "device": settings.device["name"],
        "cores": len(own_cpus()),
        "threads": settings.threads,
        "torch": settings.versions["torch"],
        "n_vocab": data.n_vocab,
        "max_seq_len": data.max_seq_len,
        "constants": settings.profile["constants"],
        "compile": settings.compile,
    }
    return MachineFact(settings, "worth", facts)


def train_beside_others(executor: Executor, source: str) -> tuple[list[Span], str]:
    """The spans of one training of the file, and why it ended; nothing else of it is kept."""
    folder = executor.folder / PROBE
    kill_leftover(folder / "beside")
    remove_tree(folder)
    folder.mkdir(parents=True)
    train_py = folder / "train.py"
    train_py.write_text(source, encoding="utf-8")
    charged = CYCLES * (ALONE_SECONDS + BESIDE_SECONDS) / TRIAL_RATE
    limits = {"budget_seconds": charged, "core_rate": TRIAL_RATE, "worth_beside": 1.0}
    request = executor.request(
        train_py, folder / "beside", executor.settings.run_seed, compile_cache=None, **limits
    )
    try:
        with ComeAndGo(len(own_cpus()), charged) as listen:
            result = executor.train(request, listen, score_follows=False)
    finally:
        remove_tree(folder)
    return listen.spans, result["cause"] or result["status"]


def worth_of(spans: list[Span], ended: str = MEASURED) -> tuple[float | None, str]:
    """What a CPU second beside others is worth, None where the spans do not tell; and a sentence.

    Of each cycle the logarithm of steps per CPU second beside others over alone; their mean. ended:
    why the training did.
    """
    if ended != MEASURED:
        return None, f"the training with which to measure ended otherwise: {ended}"
    changes = [
        math.log(beside.steps / beside.work * before.work / before.steps)
        for before, beside in zip(spans[::2], spans[1::2], strict=False)
        if min(before.steps, beside.steps) >= LEAST_STEPS and before.work > 0 < beside.work
    ]
    if len(changes) < 3:
        return None, "it takes too few steps in a minute to be measured"
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    worth = round(math.exp(statistics.mean(changes)), 3)
    found = f"beside others it makes {worth - 1:+.1%} ± {error:.1%} steps per CPU second here"
    if error > MOST_ERROR:
        return None, f"{found}, which is too uncertain to use"
    if not LEAST <= worth <= MOST:
        return None, f"{found}, which is too far off to be believed"
    return worth, f"{found}, which the clock takes into account"
