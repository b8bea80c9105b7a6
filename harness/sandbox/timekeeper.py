"""A training's clock as the runner reads it, from outside: this reading decides, not the session's.

In: the training's request, its process, and the events it sends. Out: readings at its stop and when
its weights are there, and what is overdue. It starts the clock at `ready`, and only then hands over
the training rows, as an open file: behind a wall they cannot be reached before. All processes of
the run are charged; the gate allows only one.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil

from harness.ground.clock import Sleep
from harness.sandbox.request import TrainingRequest
from harness.training.clock import CoreClock, Reading, WallClock, make_clock

FAMILY_SECONDS = 2.0  # between two looks for processes that the training has started
# Times its budget of wall time in which a training that got so little is ended, and repeated later.
STARVED = 10
# Of its budget, that it must have got in the last tenth of that time: else it hangs.
STILL_WORKS = 0.005
# Share of the cores that others must have held for that: else the training left them idle.
HELD = 0.7
NAMED = 3  # processes that are named to somebody whose machine is busy


class FamilyCpu:
    """CPU seconds of a process and all that it has started, ended or not, as far as seen."""

    def __init__(self, pid: int) -> None:
        self._root, self._looked = pid, -FAMILY_SECONDS
        self._members: dict[int, psutil.Process] = {}
        self._used: dict[int, float] = {}  # by process
        self._waited = 0.0  # by children of the trainer that have ended and were waited for
        # The process that trains: it has loaded torch, so it has used most by far.
        self._trainer: int | None = None
        self._threads: dict[int, float] = {}  # of the trainer, when that was first known
        self._busiest = 0.0  # what one of its threads has used since

    def look(self) -> None:
        """See who is there."""
        self._looked = time.monotonic()
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._root)
            for member in (root, *root.children(recursive=True)):
                self._members.setdefault(member.pid, member)

    def seconds(self) -> tuple[float, float]:
        """Of the trainer's busiest thread since the first call, and of all threads together.

        The session counts its main thread; work that is moved to another one is found here.
        """
        if time.monotonic() - self._looked >= FAMILY_SECONDS:
            self.look()
        for pid, member in list(self._members.items()):
            try:
                times = member.cpu_times()
            except psutil.Error:  # it has ended; if its parent waited, it is in the parent's times
                del self._members[pid]
                if pid != self._trainer:
                    self._used.pop(pid, None)
                continue
            self._used[pid] = times.user + times.system
            if pid == self._trainer:
                self._waited = times.children_user + times.children_system
                self._read_threads(member)
        if self._trainer is None and self._used:
            self._trainer = max(self._used, key=self._used.get)
            return self.seconds()
        return self._busiest, sum(self._used.values()) + self._waited

    def _read_threads(self, trainer: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):  # it ends just now
            now = {each.id: each.user_time + each.system_time for each in trainer.threads()}
            self._threads = self._threads or now
            since = (used - self._threads.get(thread, 0.0) for thread, used in now.items())
            self._busiest = max([self._busiest, *since])

    def of_others(self) -> float:
        """Of all processes but the one that trains."""
        others = (used for pid, used in self._used.items() if pid != self._trainer)
        return sum(others) + self._waited

    def __contains__(self, pid: int) -> bool:
        return pid in self._used


class Neighbours:
    """Who else used the cores since this was made."""

    def __init__(self) -> None:
        self._before = self._used()
        self._began = time.monotonic()

    @staticmethod
    def _used() -> dict[tuple[int, str], float]:
        used = {}
        for process in psutil.process_iter(["pid", "name", "cpu_times"]):
            if times := process.info["cpu_times"]:
                used[process.info["pid"], process.info["name"] or "?"] = times.user + times.system
        return used

    def words(self, family: FamilyCpu) -> str:
        """The busiest processes outside of the training, by name, in cores; "" where none was."""
        seconds, by_name = max(1e-3, time.monotonic() - self._began), Counter()
        for (pid, name), used in self._used().items():
            if pid not in family:
                by_name[name] += (used - self._before.get((pid, name), 0.0)) / seconds
        busiest = [(name, cores) for name, cores in by_name.most_common(NAMED) if cores >= 0.05]
        return ", ".join(f"{name} {cores:.1f}" for name, cores in busiest)


class Timekeeper:
    """The clock of one training: `hear` each of its events, and ask how much time is `left`."""

    def __init__(self, request: TrainingRequest, listen: Callable[[dict], None]) -> None:
        self.request, self._listen = request, listen
        self._launched, self.sleep = time.monotonic(), Sleep()
        self._channel: socket.socket | None = None
        self._clock: WallClock | CoreClock | None = None
        self.stopped: Reading | None = None  # when the training stopped
        self.finished: Reading | None = None  # when its weights were there
        self._late: float | None = None  # the charge when the last tenth of STARVED budgets began
        self.starved = False  # whether it was ended because others left it too little of the cores
        # CPU time on the clock of processes of the run besides the one that trains.
        self.other_processes_seconds = 0.0

    def attend(self, pid: int, channel: socket.socket) -> None:
        """The training has been started: its first process, and our end of its channel."""
        self._channel, self._family = channel, FamilyCpu(pid)

    def hear(self, event: dict) -> None:
        """Start or read the clock, where that is what an event is for; then pass the event on."""
        if event["event"] == "ready":
            self._start()
        elif event["event"] == "stop" and self._clock:
            self._family.look()
            self.stopped = self.reading
        elif event["event"] == "finish" and self.stopped:
            self.finished = self.reading
        self._listen(event)

    def _start(self) -> None:
        rate = self.request.core_rate
        self._neighbours = Neighbours() if rate else None
        with open(Path(self.request.train_dir) / "rows.bin", "rb") as rows:
            cpu = self._family.seconds
            cpu()
            self._others_before = self._family.of_others()
            self._clock = make_clock(asdict(self.request), cpu)
            with contextlib.suppress(OSError):  # it has ended meanwhile
                socket.send_fds(self._channel, [b"r"], [rows.fileno()])

    @property
    def reading(self) -> Reading | None:
        """Where the clock stands; None before it runs."""
        if self._clock is None:
            return None
        reading = self._clock.read()
        if isinstance(self._clock, WallClock):  # the other one asks the family itself
            self._family.seconds()
        self.other_processes_seconds = self._family.of_others() - self._others_before
        return reading

    def left(self) -> tuple[float, str, str]:
        """Return (seconds that it may go on, and the status and words of its end after them)."""
        request, now, budget = self.request, self.reading, self.request.budget_seconds
        if now is None:
            limit = request.startup_limit_seconds
            left = limit - (time.monotonic() - self._launched)
            return left, "timeout", f"start-up took longer than {limit:.0f} s"
        if request.core_rate and self._late is None and now.wall > (STARVED - 1) * budget:
            self._late = now.charged
        if request.core_rate and now.wall > STARVED * budget:
            return 0.0, *self._end_late(now)
        if self.stopped is None:
            limit = budget + request.allowance_seconds
            words = (
                f"training went on for more than {limit:.1f} s after its clock started "
                f"(budget {budget:.0f} s)"
            )
            return limit - now.charged, "timeout", words
        limit = request.weights_limit_seconds
        words = f"weights were not there {limit:.1f} s after the end of training"
        return self.stopped.charged + limit - now.charged, "timeout", words

    def _end_late(self, now: Reading) -> tuple[str, str]:
        """Status and words of a training that took so much wall time."""
        budget = self.request.budget_seconds
        worked = now.charged - self._late >= STILL_WORKS * budget
        self.starved = worked and now.others >= HELD * len(self._clock.cpus) * now.wall
        got = (
            f"in {now.wall:.0f} s this training used {now.charged:.0f} of the {budget:.0f} s "
            "that are its budget"
        )
        if not self.starved:
            return "timeout", f"{got}, and left cores idle, or hung"
        who = self._neighbours.words(self._family)
        who = who or "nobody who can be seen here: perhaps another machine on this host"
        held = f"{now.others / now.wall:.1f} cores (in cores: {who})"
        advice = "End them, move them, or wait until they are done"
        return "infrastructure", f"disturbed: {got}, since others held {held}. {advice}"
