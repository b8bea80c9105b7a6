"""Runs one train.py in a process of its own, and measures what it does from outside.

In: a TrainingRequest. Out: a result dict, always, with a status (ok, crash, oom, nan, timeout,
infrastructure, interrupted); and in the run's folder run.log and events.jsonl (see `child_log`)
and, for ok, weights.safetensors. The child works in a fresh folder `work/`, behind the wall that
works here (see `wall`), with an allow-listed environment and a bounded share of the disk. It and
what it started are dead when this returns.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from harness.ground.cgroup import memory_limit_words
from harness.ground.errors import EndedEarly
from harness.ground.files import write_json_atomic
from harness.ground.text import without_escapes
from harness.sandbox.child import child_command, child_environment, kill_child
from harness.sandbox.child_log import CappedLog, EventLog, number
from harness.sandbox.compile_cache import CompileCache
from harness.sandbox.disk_share import DiskShare
from harness.sandbox.left_files import remove_tree, take_file
from harness.sandbox.memory_killer import KILLED_FROM_OUTSIDE, memory_kills, memory_was_there
from harness.sandbox.processes import MARK, is_stopped, kill_escaped, note_process
from harness.sandbox.request import TrainingRequest
from harness.sandbox.timekeeper import Timekeeper
from harness.sandbox.wall import find_wall

# After so long without output from the child it is checked whether somebody has stopped it.
SILENT_SECONDS = 2.0
# If so much time passes between two checks of the child, the harness itself stood still.
ABSENT_SECONDS = 5.0
READ_BYTES = 65_536  # of a pipe at a time
MOST_READS = 1_024  # of what a child left in its pipe when it ended
MOST_WEIGHTS_BYTES = 20 * 10**9
# What the session says at its end and the result repeats.
# fmt: off
REPORTED = (
    "num_steps", "total_tokens", "epochs", "memory_mb", "num_params", "depth", "mfu_percent",
)
# fmt: on


class WatchedTraining:
    """One training, from its start to its result. own: the folders that it may write in."""

    def __init__(self, request: TrainingRequest, on_event: Callable[[dict], None]) -> None:
        self.request, self.folder = request, Path(request.folder)
        self.work = self.folder / "work"
        self.cache = CompileCache(request.compile_cache, Path(request.train_py), self.work)
        self.own = [self.work, *[self.cache.path] * bool(request.compile_cache)]
        remove_tree(self.work)
        self.work.mkdir(parents=True)
        write_json_atomic(self.folder / "run.json", asdict(request))
        self.wall = find_wall(unfit=request.wall_error)
        self.keeper = Timekeeper(request, on_event)
        self.started = time.monotonic()
        self.log = CappedLog(self.folder / "run.log")
        self.events = EventLog(self.folder / "events.jsonl", self.started, self._hear)

    def run(self) -> dict:
        """Train once and return the result."""
        weights = self.folder / "weights.safetensors"
        with contextlib.closing(self.log), contextlib.closing(self.events):
            try:
                status, cause = self._train()
                total_seconds = time.monotonic() - self.started
                if status == "ok":
                    cause = take_file(self.work, weights.name, weights, MOST_WEIGHTS_BYTES)
                    status = "crash" if cause else "ok"
            finally:
                self.cache.close()
                remove_tree(self.work)
        result = self._result(status, cause, total_seconds)
        if slept := self._slept():
            weights.unlink(missing_ok=True)
            result |= {"status": "interrupted", "cause": slept, "sure": True}
        return result

    def _train(self) -> tuple[str, str]:
        """Start the child, watch it, and leave nothing of it alive; return (status, cause)."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                environment, kills_before = self._environment(theirs.fileno()), memory_kills()
                share = DiskShare(self.own)
                process = subprocess.Popen(
                    self._command(),
                    cwd=self.work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:  # no room on a disk, no memory for a process, no descriptor
                return "infrastructure", f"the training could not be started: {error}"
            try:
                theirs.close()  # the child's alone now: when it ends, so does the channel
                note_process(self.folder, process.pid)
                self.keeper.attend(process.pid, ours)
                status, cause = self._watch(process, ours.fileno(), share)
            except EndedEarly as end:
                status, cause = "hopeless", str(end)
            finally:
                kill_child(process, self.wall.walled)
                kill_escaped(self.work)
                drain(process.stdout.fileno(), self.log)
                with contextlib.suppress(EndedEarly):  # it is ended already
                    drain(ours.fileno(), self.events)
                process.stdout.close()
        if status:
            return status, cause
        returncode = self.wall.returncode(process.returncode)
        return outcome(returncode, self.log, self.events, self.keeper, kills_before)

    def _environment(self, events_fd: int) -> dict[str, str]:
        """The child's environment, its folders made, with compiled code that it may find."""
        (self.work / "tmp").mkdir()
        self.cache.lend()
        return child_environment(
            AUTORESEARCH_RUN=str(self.folder / "run.json"),
            AUTORESEARCH_EVENTS_FD=str(events_fd),
            TMPDIR=str(self.work / "tmp"),
            TORCHINDUCTOR_CACHE_DIR=str(self.cache.path),
            TRITON_CACHE_DIR=str(self.cache.path / "triton"),
            **{MARK: str(self.work)},
        )

    def _hear(self, event: dict) -> None:
        if event["event"] == "ready":  # the only one; before the clock starts
            self.cache.keep_ready()
        self.keeper.hear(event)

    def _command(self) -> list[str]:
        """What starts train.py, behind the wall."""
        request, parent = self.request, 0 if self.wall.walled else os.getpid()
        others = [request.compile_cache] * bool(request.compile_cache)  # other files' compiled code
        return self.wall.enclose(
            child_command("harness.training.launch", request.train_py, str(parent)),
            own=self.own,
            readable=[Path(request.train_py), self.folder / "run.json"],
            hidden=[Path(path) for path in (*request.hidden, *others)],
            device=request.device,
        )

    def _watch(self, process: subprocess.Popen, channel: int, share: DiskShare) -> tuple[str, str]:
        """Pass output on until the weights are there, or the child ends or must be stopped.

        Return ("", "") or (status, why it was stopped). Never blocks past a limit. A training is
        ended once its weights are there. One that somebody stopped (SIGSTOP) is ended as
        interrupted. So is one that this process did not check for a while, since then its clock
        cannot be trusted.
        """
        heard = looked = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self.log)
            selector.register(channel, selectors.EVENT_READ, self.events)
            while process.poll() is None and self.keeper.finished is None:
                now = time.monotonic()
                if now - looked > ABSENT_SECONDS:
                    why = f"the harness stood still for {now - looked:.0f} s in mid-run"
                    return "interrupted", why
                looked = now
                if slept := self._slept():
                    return "interrupted", slept
                left, status, overdue = self.keeper.left()
                if now - heard > SILENT_SECONDS:
                    if is_stopped(process.pid):
                        why = (
                            "the training was stopped in mid-run (SIGSTOP), and not by the harness"
                        )
                        return "interrupted", why
                    heard = now
                if left <= 0:
                    return status, overdue
                if too_much := share.exceeded(process.pid):
                    return "crash", too_much
                if not selector.get_map():  # it closed its pipes and lives on
                    time.sleep(min(left, 0.05))
                    continue
                for key, _ in selector.select(min(left, 0.5)):
                    if chunk := read_some(key.fd):
                        heard = now
                        key.data.feed(chunk)
                    else:
                        selector.unregister(key.fileobj)
        return "", ""

    def _slept(self) -> str:
        """Why a training in which the machine slept is repeated, "" where it did not sleep."""
        slept = self.keeper.sleep.seconds
        return f"the machine slept for {slept:.0f} s in mid-run" if slept else ""

    def _is_sure(self, status: str) -> bool:
        """Whether train.py cannot itself have caused an end that does not count against it.

        So it is where train.py had not begun, or where others held the cores; processes that it
        started are not others.
        """
        if status == "infrastructure":
            return "launched" not in self.events.last or self.keeper.starved
        return status != "interrupted"

    def _result(self, status: str, cause: str, total_seconds: float) -> dict:
        """The run's result: status and times by our clock, the rest as the session reported it.

        training_seconds: charged, as is what came beyond the budget (overshoot_seconds) and between
        the stop and the weights (weights_seconds). wall_seconds: how long the training took;
        core_seconds: its CPU time, others_core_seconds: that of others on the same cores meanwhile,
        both null where the clock is wall time. spent_seconds: what was charged in all, also of a
        training that failed.
        """
        last, keeper, request = self.events.last, self.keeper, self.request
        finish, stopped, now = (
            last.get("finish", {}),
            keeper.stopped,
            keeper.finished or keeper.reading,
        )
        rows = number(last.get("batch", {}).get("device_batch_size"))
        training_seconds = stopped and round(stopped.charged, 3)
        tokens, steps = number(finish.get("total_tokens")), number(finish.get("num_steps"))
        of_cores, speed = stopped and request.core_rate, None
        if steps and training_seconds and not request.clock_step_seconds:
            speed = round(steps / training_seconds, 3)
        return {
            "status": status,
            "cause": cause,
            "sure": self._is_sure(status),
            "startup_seconds": self.events.at("ready"),
            "compiled": self.cache.compiled,
            "training_seconds": training_seconds,
            "overshoot_seconds": stopped and round(stopped.charged - request.budget_seconds, 3),
            "weights_seconds": stopped and round(now.charged - stopped.charged, 3),
            "spent_seconds": now and round(now.charged, 3),
            "wall_seconds": stopped and round(stopped.wall, 3),
            "core_seconds": round(stopped.total, 3) if of_cores else None,
            "others_core_seconds": round(stopped.others, 3) if of_cores else None,
            "other_processes_seconds": round(keeper.other_processes_seconds, 3),
            "total_seconds": round(total_seconds, 3),
            "steps_per_second": speed,
            "tok_per_sec": round(tokens / training_seconds, 1)
            if tokens and training_seconds
            else None,
            "memory_kind": "vram" if finish.get("memory_kind") == "vram" else "rss",
            "attention": last.get("open", {}).get("attention"),
            "device_batch_size": int(rows) if rows and rows >= 1 else None,
            "losses": self.events.losses,
            **{key: number(finish.get(key)) for key in REPORTED},
            "wall": self.wall.kind,
        }


def run_training(
    request: TrainingRequest, on_event: Callable[[dict], None] = lambda event: None
) -> dict:
    """Train once, behind the wall that works here; never raises for anything that train.py does.

    on_event gets each stamped event as it arrives; where it raises EndedEarly the training is ended
    as hopeless. A KeyboardInterrupt kills the child and is raised again.
    """
    return WatchedTraining(request, on_event).run()


def drain(descriptor: int, sink: CappedLog | EventLog) -> None:
    """Read what is left in a pipe, without waiting for a writer or reading one for ever."""
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):  # somebody got away and holds the pipe
        for _ in range(MOST_READS):
            if not (chunk := read_some(descriptor)):
                return
            sink.feed(chunk)


def read_some(descriptor: int) -> bytes:
    """What has come from the child; b"" at the end, also of one that left our rows unread."""
    try:
        return os.read(descriptor, READ_BYTES)
    except ConnectionResetError:
        return b""


def outcome(
    returncode: int,
    log: CappedLog,
    events: EventLog,
    keeper: Timekeeper,
    kills_before: int | None,
) -> tuple[str, str]:
    """Return (status, cause) of a run whose weights are there, or that ended by itself.

    returncode: negative for a signal. kills_before: of `memory_kills`, when it was started.
    """
    failed = events.last.get("failed")
    if keeper.finished and failed is None:
        return "ok", ""
    if "launched" not in events.last and returncode not in (0, -signal.SIGKILL):
        return "infrastructure", f"the training could not be started: {log.last_line[:300]}"
    if failed is not None:
        status = failed.get("status")
        status = status if status in ("oom", "nan", "infrastructure") else "crash"
        return status, without_escapes(str(failed.get("cause", "")))[:500]
    if returncode == -signal.SIGKILL:
        if memory_was_there(kills_before):
            return "infrastructure", f"the training was {KILLED_FROM_OUTSIDE}"
        why = "killed by the system, most likely because memory ran out"
        return "oom", why + memory_limit_words()
    if returncode != 0:
        signalled = f"signal {signal_name(-returncode)}"
        word = signalled if returncode < 0 else f"exit status {returncode}"
        return "crash", f"train.py ended with {word}; see run.log"
    return "crash", "train.py ended without calling session.start() and session.finish(model)"


def signal_name(number: int) -> str:
    """SIGSEGV, or the number of a signal without a name."""
    return next((known.name for known in signal.Signals if known == number), str(number))


def summary_block(result: dict) -> str:
    """The original's summary, so that `grep "^val_bpb:" run.log` works; nan for the unknown."""

    def value(key: str, scale: float = 1.0) -> float:
        return float("nan") if result.get(key) is None else result[key] / scale

    memory_mb = value("memory_mb") if result.get("memory_kind") == "vram" else 0.0
    lines = [
        "---",
        f"val_bpb:          {value('val_bpb'):.6f}",
        f"training_seconds: {value('training_seconds'):.1f}",
        f"total_seconds:    {value('total_seconds') + (result.get('score_seconds') or 0.0):.1f}",
        f"peak_vram_mb:     {memory_mb:.1f}",
        f"mfu_percent:      {value('mfu_percent'):.2f}",
        f"total_tokens_M:   {value('total_tokens', 1e6):.1f}",
        f"num_steps:        {value('num_steps'):.0f}",
        f"num_params_M:     {value('num_params', 1e6):.1f}",
        f"depth:            {value('depth'):.0f}",
    ]
    return "\n".join(lines) + "\n"
