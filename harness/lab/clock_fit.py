"""What a CPU second beside others is worth on this machine, for the clock of its trainings.
Measured once, and kept for the machine.

In: the run's executor, the baseline's source. Out: `worth_beside` of `harness.training.clock`. The
baseline trains for about a minute, while processes that compute for ever come and go in turn:
drift of the machine, which is as large as what is sought, meets both alike.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.ground.errors import EndedEarly
from harness.lab.executor import Executor
from harness.lab.machine_facts import PROBE, MachineFact
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover
from harness.training.clock import idle_seconds, own_cpus

ALONE_SECONDS, BESIDE_SECONDS, SETTLE_SECONDS = 2.0, 4.0, 0.3
CYCLES = 9  # each alone, then beside
HALVES = (1, 2, 3)  # of the cores that busy processes hold, in turn
TRIAL_RATE = 0.5  # of the clock meanwhile: so low that it charges CPU time alone, never wall time
LEAST_STEPS = 3  # in a span that is to count
# Shorter trainings than this are over before it matters: a minute of measuring does not pay.
LEAST_BUDGET_SECONDS = 10.0
# Cores in use by others while the training is to be alone, from which on nothing can be measured.
BUSY_CORES = 0.3
MOST_ERROR = 0.03  # standard error of what may be kept
# Where worth_beside may lie: beyond, something else was measured.
LEAST, MOST = 0.8, 1.25
# Computes for ever, and ends with the process that started it.
BURNER = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n  sum(range(100000))"


@dataclass(frozen=True)
class Span:
    """Seconds in which as many busy processes were there. work: CPU seconds of the training, by its
    clock; wall and idle: seconds, and core-seconds that nobody used."""

    burners: int
    steps: int
    work: float
    wall: float
    idle: float


class ComeAndGo:
    """A training's listener that lets busy processes come and go, and notes how it went on."""

    def __init__(self, cores: int, charged_seconds: float) -> None:
        self._cores, self._budget = cores, charged_seconds
        self._processes: list[subprocess.Popen] = []
        self._began = self._first = self._last = None
        self._number = 0  # of the span
        self.spans: list[Span] = []

    def __call__(self, event: dict) -> None:
        now = time.monotonic()
        if event["event"] == "ready":
            self._began = now
        if event["event"] != "step" or self._began is None:
            return
        if now - self._began > SETTLE_SECONDS:
            work = event["progress"] * self._budget * TRIAL_RATE
            self._last = (event["step"], work, now, idle_seconds(own_cpus()))
            self._first = self._first or self._last
        if now - self._began > (BESIDE_SECONDS if self._processes else ALONE_SECONDS):
            self._end_span()
            self._began = time.monotonic()

    def _end_span(self) -> None:
        if self._first:
            since = (last - first for first, last in zip(self._first, self._last, strict=True))
            self.spans.append(Span(len(self._processes), *since))
        self._first = self._last = None
        self._number += 1
        if self._number >= 2 * CYCLES:
            raise EndedEarly("measured")
        beside, halves = self._number % 2, HALVES[self._number // 2 % len(HALVES)]
        self._set(beside * max(1, halves * self._cores // 2))

    def _set(self, count: int) -> None:
        while len(self._processes) < count:
            command = [sys.executable, "-S", "-c", BURNER]
            self._processes.append(subprocess.Popen(command, start_new_session=True))
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
    fact = MachineFact(settings, "worth", facts_of(executor))
    if isinstance(known := fact.read(), float):
        return known
    say(
        "measuring how fast the baseline trains beside busy processes of ours, so that a budget "
        "means the same beside others: once, for about a minute, then it is known"
    )
    spans = train_beside_others(executor, source)
    worth, words = worth_of(spans, len(own_cpus()), settings.threads)
    say(words)
    if worth is None:
        return 1.0
    fact.keep(worth, spans=[vars(span) for span in spans])
    return worth


def facts_of(executor: Executor) -> dict:
    """All that the answer depends on; not the file, whose kernels are much alike."""
    settings, data = executor.settings, executor.data
    return {
        "format_version": 1,
        "device": settings.device["name"],
        "cores": len(own_cpus()),
        "threads": settings.threads,
        "torch": settings.versions["torch"],
        "n_vocab": data.n_vocab,
        "max_seq_len": data.max_seq_len,
        "constants": settings.profile["constants"],
        "compile": settings.compile,
    }


def train_beside_others(executor: Executor, source: str) -> list[Span]:
    """The spans of one training of the file, which is ended then; nothing of it is kept."""
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
    with ComeAndGo(len(own_cpus()), charged) as listen:
        executor.train(request, listen, score_follows=False)
    return listen.spans


def worth_of(spans: list[Span], cores: int, threads: int) -> tuple[float | None, str]:
    """What a CPU second beside others is worth, None where the spans do not tell; and a sentence.

    Of each cycle the logarithm of steps per CPU second beside others over alone; their mean.
    """
    alone = [span for span in spans if not span.burners]
    used = [cores - (span.idle + threads * span.work) / span.wall for span in alone if span.wall]
    unknown = (
        "how fast it trains beside others is not known: a budget beside them may differ by 10%"
    )
    if used and (others := statistics.median(used)) > BUSY_CORES:
        return None, (
            f"others use {others:.1f} cores now, so {unknown}. The next run measures again"
        )
    changes = [
        math.log(beside.steps / beside.work * before.work / before.steps)
        for before, beside in zip(spans[::2], spans[1::2], strict=False)
        if min(before.steps, beside.steps) >= LEAST_STEPS and before.work > 0 < beside.work
    ]
    if len(changes) < 3:
        return None, f"too few steps in a minute, so {unknown}"
    error = statistics.stdev(changes) / math.sqrt(len(changes))
    worth = round(math.exp(statistics.mean(changes)), 3)
    if error > MOST_ERROR or not LEAST <= worth <= MOST:
        return None, (
            f"measured {worth - 1:+.1%} ± {error:.1%}, which says nothing, so {unknown}. "
            "The next run measures again"
        )
    return worth, (
        f"beside others it makes {worth - 1:+.1%} ± {error:.1%} steps per CPU second here, which "
        "the clock takes into account"
    )
