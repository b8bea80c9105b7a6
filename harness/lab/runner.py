"""Runs one train.py in a process of its own and believes nothing it says about itself.

In: a TrainingRequest. Out: a result dict, always, with a status (ok, crash, oom, nan, timeout, infrastructure, interrupted); and in the run's
folder run.log (capped, forged summary lines marked), events.jsonl (stamped on arrival here) and, for ok, weights.safetensors. The
child works in a fresh folder `work/` and gets an allow-listed environment. Its whole process group is dead when this returns.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from harness.data.files import write_json_atomic
from harness.data.text import without_escapes

REPOSITORY = Path(__file__).resolve().parents[2]
LOG_CAP_BYTES = 4_000_000
EVENTS_CAP = 20_000
EVENT_CAP_BYTES = 4_096
SPIN_COUNT = "1000"  # OpenMP threads that spin for long fight any other process for the core: 3,300 against 11,400 tokens/s beside one
WEIGHTS_SECONDS = 20  # from the end of training to weights on disk
# PYTHONPATH is set, never passed on; no variable that could hold a key is here.
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "CC", "CXX", "CUDA_HOME", "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
    "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "SYSTEMROOT", "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip
EVENTS = ("open", "batch", "ready", "step", "stop", "finish", "failed")
STEP_NUMBERS = ("step", "progress", "train_loss", "tok_per_sec")
SUMMARY_KEYS = (
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps", "num_params_M", "depth",
)  # fmt: skip
FORGED = re.compile(rf"^\s*(---|({'|'.join(SUMMARY_KEYS)})\s*:)")


@dataclass(frozen=True)
class TrainingRequest:
    """One training. folder: the run's, made here. train_dir: all of the data it may see. Times in seconds.

    device_batch_limit: rows that it may hold at once, None for as many as it likes.
    """

    folder: str
    train_py: str
    train_dir: str
    n_vocab: int
    max_seq_len: int
    seed: int
    budget_seconds: float
    startup_limit_seconds: float
    device: str
    dtype: str
    compile: bool
    threads: int | None
    compile_cache: str | None = None
    device_batch_limit: int | None = None

    @property
    def allowance_seconds(self) -> float:
        """How long after the budget the end of training may arrive: one slow step, not more training."""
        return max(3.0, 0.05 * self.budget_seconds)


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of every child that runs, or might run, edited code: allow-listed, without keys."""
    kept = {"GOMP_SPINCOUNT": SPIN_COUNT} | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"} | extra


class CappedLog:
    """run.log: text from the child, escapes removed, lines that look like our summary marked, at most LOG_CAP_BYTES."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._rest = b""
        self._written = self.dropped_bytes = 0

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._rest) > 65_536:  # a line without end
            self._write(self._rest)
            self._rest = b""

    def _write(self, line: bytes) -> None:
        if self._written > LOG_CAP_BYTES:
            self.dropped_bytes += len(line) + 1
            return
        text = without_escapes(line.decode("utf-8", errors="replace"))
        text = f"| {text}" if FORGED.match(text) else text
        self._written += self._file.write(text + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._rest:
            self._write(self._rest)
        if self.dropped_bytes:
            self._file.write(f"[{self.dropped_bytes} more bytes of output were not kept]\n")
        self._file.close()


class EventLog:
    """events.jsonl: the session's events, each stamped with seconds since launch by our own clock."""

    def __init__(self, path: Path, started: float, on_event: Callable[[dict], None]) -> None:
        self._file, self._started, self._on_event = path.open("w", encoding="utf-8"), started, on_event
        self._rest, self._count = b"", 0
        self.last: dict[str, dict] = {}  # by event name

    def feed(self, chunk: bytes) -> None:
        now = time.monotonic() - self._started
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = b"" if len(self._rest) > EVENT_CAP_BYTES else self._rest
        for line in lines:
            event = parse_event(line)
            if event is None or (event["event"] in self.last and event["event"] != "step"):
                continue  # a second `ready` or `stop` would be a way to move the clock
            self._count += 1
            if self._count > EVENTS_CAP:
                continue
            stamped = {"t": round(now, 4)} | event
            self.last[event["event"]] = stamped
            self._file.write(json.dumps(stamped, ensure_ascii=False) + "\n")
            self._file.flush()
            self._on_event(stamped)

    def at(self, name: str) -> float | None:
        """Seconds since launch at which the event arrived, None if it has not."""
        return self.last[name]["t"] if name in self.last else None

    def close(self) -> None:
        self._file.close()


def parse_event(line: bytes) -> dict | None:
    """Return the event in a line of the channel, or None for anything else: the other end may be writing nonsense.

    What comes back can be written as JSON in UTF-8, and the numbers that we show of a step are numbers.
    """
    try:
        event = json.loads(line) if len(line) <= EVENT_CAP_BYTES else None
        if not isinstance(event, dict) or event.get("event") not in EVENTS:
            return None
        clean = json.loads(json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if clean["event"] == "step" and any(number(clean.get(name)) is None for name in STEP_NUMBERS):
        return None
    return {key: value for key, value in clean.items() if key != "t"}


def kill_group(pid: int) -> None:
    """Kill a process group that we started; its leader is its id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left, or (macOS) only zombies are
        os.killpg(pid, signal.SIGKILL)


def kill_leftover(folder: Path) -> list[int]:
    """Kill what a dead runner left behind in `folder`: the training's process group, its leader dead or alive.

    Returns the processes ended. A group's number is not given out again while any of it lives, so a leader that is another
    process than the one noted, or a machine started since, means that nothing of ours is left.
    """
    try:
        noted = json.loads((folder / "process.json").read_text(encoding="utf-8"))
        group, since = int(noted["pid"]), float(noted["create_time"])
        leader = psutil.Process(group).create_time()
    except psutil.NoSuchProcess:
        leader = since
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return []
    if abs(leader - since) > 1.0 or psutil.boot_time() > since + 1.0:
        return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.pid != os.getpid():
                process.kill()
                members.append(process)
    psutil.wait_procs(members, timeout=5)
    return [process.pid for process in members]


def time_limit(request: TrainingRequest, events: EventLog) -> tuple[float, str]:
    """Return when (seconds since launch) the next event is overdue, and the sentence to say then."""
    ready, stop = events.at("ready"), events.at("stop")
    if ready is None:
        return request.startup_limit_seconds, f"start-up took longer than {request.startup_limit_seconds:.0f} s"
    if stop is None:
        limit = request.budget_seconds + request.allowance_seconds
        return (
            ready + limit,
            f"training went on for more than {limit:.1f} s after its clock started (budget {request.budget_seconds:.0f} s)",
        )
    return stop + WEIGHTS_SECONDS, f"weights were not there {WEIGHTS_SECONDS} s after the end of training"


def watch(
    process: subprocess.Popen, channel: int, log: CappedLog, events: EventLog, request: TrainingRequest, started: float
) -> str:
    """Pass output on until the child ends or is overdue; return "" or why it was stopped. Never blocks past a limit."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, log)
        selector.register(channel, selectors.EVENT_READ, events)
        while selector.get_map() and process.poll() is None:
            limit, overdue = time_limit(request, events)
            left = limit - (time.monotonic() - started)
            if left <= 0:
                return overdue
            for key, _ in selector.select(min(left, 0.5)):
                chunk = os.read(key.fd, 65_536)
                if chunk:
                    key.data.feed(chunk)
                else:
                    selector.unregister(key.fileobj)
        while not selector.get_map() and process.poll() is None:  # it closed its pipes and lives on
            limit, overdue = time_limit(request, events)
            if time.monotonic() - started > limit:
                return overdue
            time.sleep(0.05)
    return ""


def drain(descriptor: int, sink: CappedLog | EventLog) -> None:
    """Read what is left in a pipe whose writers are dead, without waiting for one that is not."""
    os.set_blocking(descriptor, False)
    try:
        while chunk := os.read(descriptor, 65_536):
            sink.feed(chunk)
    except BlockingIOError:
        pass  # somebody escaped the process group and holds the pipe; we have all there was


def outcome(returncode: int, overdue: str, events: EventLog, folder: Path) -> tuple[str, str]:
    """Return (status, cause) of a run that has ended."""
    if overdue:
        return "timeout", overdue
    if "failed" in events.last:
        failed = events.last["failed"]
        status = failed.get("status")
        return (status if status in ("oom", "nan", "infrastructure") else "crash"), str(failed.get("cause", ""))[:500]
    if returncode == -signal.SIGKILL:
        return "oom", "killed by the system, most likely because memory ran out"
    if returncode != 0:
        word = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit status {returncode}"
        return "crash", f"train.py ended with {word}; see run.log"
    if "finish" not in events.last or "stop" not in events.last or "ready" not in events.last:
        return "crash", "train.py ended without calling session.start() and session.finish(model)"
    if not (folder / "work" / "weights.safetensors").is_file():
        return "crash", "train.py reported its end but wrote no weights"
    return "ok", ""


def number(value: object) -> float | None:
    """A finite number from an untrusted event, else None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return value if good else None


def make_result(status: str, cause: str, events: EventLog, total_seconds: float) -> dict:
    """The run's result: status and times by our clock, the rest as the session reported it."""
    finish = events.last.get("finish", {})
    ready, stop = events.at("ready"), events.at("stop")
    rows = number(events.last.get("batch", {}).get("device_batch_size"))
    reported = ("num_steps", "total_tokens", "epochs", "memory_mb", "num_params", "depth", "mfu_percent")
    training_seconds = round(stop - ready, 3) if ready is not None and stop is not None else None
    tokens = number(finish.get("total_tokens"))
    return {
        "status": status,
        "cause": cause,
        "startup_seconds": ready,
        "training_seconds": training_seconds,
        "total_seconds": round(total_seconds, 3),
        "tok_per_sec": round(tokens / training_seconds, 1) if tokens and training_seconds else None,
        "memory_kind": "vram" if finish.get("memory_kind") == "vram" else "rss",
        "attention": events.last.get("open", {}).get("attention"),
        "device_batch_size": int(rows) if rows and rows >= 1 else None,
        **{key: number(finish.get(key)) for key in reported},
    }


def run_training(request: TrainingRequest, on_event: Callable[[dict], None] = lambda event: None) -> dict:
    """Train once and return the result; never raises for anything that train.py does.

    on_event gets each stamped event as it arrives. A KeyboardInterrupt kills the child and goes on up.
    """
    folder = Path(request.folder)
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "run.json", asdict(request))
    started = time.monotonic()
    with (
        contextlib.closing(CappedLog(folder / "run.log")) as log,
        contextlib.closing(EventLog(folder / "events.jsonl", started, on_event)) as events,
    ):
        try:
            status, cause = train_and_watch(request, log, events, started)
            result = make_result(status, cause, events, time.monotonic() - started)
            if status == "ok":
                os.replace(work / "weights.safetensors", folder / "weights.safetensors")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return result


def train_and_watch(request: TrainingRequest, log: CappedLog, events: EventLog, started: float) -> tuple[str, str]:
    """Start the child, pass its output on, and leave its process group dead; return (status, cause)."""
    folder = Path(request.folder)
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "harness.training.launch", request.train_py, str(os.getpid())]
    try:
        process = subprocess.Popen(
            command, cwd=folder / "work", env=run_environment(request, write_end), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, pass_fds=(write_end,),
        )  # fmt: skip
    except OSError as error:  # no memory for a process, no file descriptor left
        os.close(read_end)
        os.close(write_end)
        return "infrastructure", f"the training could not be started: {error}"
    try:
        os.close(write_end)
        note_process(folder, process.pid)
        overdue = watch(process, read_end, log, events, request, started)
    finally:
        kill_group(process.pid)
        process.wait()
        drain(process.stdout.fileno(), log)
        drain(read_end, events)
        process.stdout.close()
        os.close(read_end)
    return outcome(process.returncode, overdue, events, folder)


def run_environment(request: TrainingRequest, events_fd: int) -> dict[str, str]:
    """The child's environment: where its request is, its pipe, and a private copy of the promoted compile cache."""
    folder = Path(request.folder)
    temporary = folder / "work" / "tmp"
    temporary.mkdir(exist_ok=True)
    extra = {
        "AUTORESEARCH_RUN": str(folder / "run.json"),
        "AUTORESEARCH_EVENTS_FD": str(events_fd),
        "TMPDIR": str(temporary),
    }
    cache = folder / "compile_cache"
    if request.compile_cache and Path(request.compile_cache).is_dir():
        shutil.copytree(request.compile_cache, cache, dirs_exist_ok=True)
    return child_environment(TORCHINDUCTOR_CACHE_DIR=str(cache), TRITON_CACHE_DIR=str(cache / "triton"), **extra)


def note_process(folder: Path, pid: int) -> None:
    """Write down which process trains here, so that a later start can end it if we die."""
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    write_json_atomic(folder / "process.json", {"pid": pid, "create_time": created})


def summary_block(result: dict) -> str:
    """The original's summary, so that `grep "^val_bpb:" run.log` works; nan for what is not known."""
    nan = float("nan")
    value = lambda key, scale=1.0: nan if result.get(key) is None else result[key] / scale  # noqa: E731
    lines = [
        "---",
        f"val_bpb:          {value('val_bpb'):.6f}",
        f"training_seconds: {value('training_seconds'):.1f}",
        f"total_seconds:    {value('total_seconds') + (result.get('score_seconds') or 0.0):.1f}",
        f"peak_vram_mb:     {value('memory_mb') if result.get('memory_kind') == 'vram' else 0.0:.1f}",
        f"mfu_percent:      {value('mfu_percent'):.2f}",
        f"total_tokens_M:   {value('total_tokens', 1e6):.1f}",
        f"num_steps:        {value('num_steps'):.0f}",
        f"num_params_M:     {value('num_params', 1e6):.1f}",
        f"depth:            {value('depth'):.0f}",
    ]
    return "\n".join(lines) + "\n"
