"""The runner against a train.py for each way to fail: real subprocesses, small budgets."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from checkout import ROOT
from small_trainings import HONEST, OPEN, train

from harness.ground import clock
from harness.sandbox import processes, runner
from harness.sandbox.child import child_environment
from harness.sandbox.child_log import CappedLog, parse_event
from harness.sandbox.processes import kill_leftover
from harness.sandbox.request import TrainingRequest
from harness.sandbox.runner import drain, summary_block


def test_an_honest_run_is_ok_with_weights_stamped_events_and_measured_times(tmp_path):
    result, _ = train(tmp_path, HONEST)
    assert (
        result["status"] == "ok"
        and result["num_steps"] > 1
        and result["total_tokens"] == 8 * result["num_steps"]
    )
    # Of 0.3, between the arrivals of two events.
    assert result["training_seconds"] > 0.25 and result["startup_seconds"] > 0
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 0
    assert not (tmp_path / "run" / "work").exists()
    events = [
        json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    assert [e["event"] for e in events if e["event"] != "step"] == [
        "open",
        "ready",
        "stop",
        "finish",
    ]
    assert [e["t"] for e in events] == sorted(e["t"] for e in events)


def gone(pid: int) -> bool:
    """Wait until a process has ended; False after ten seconds."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


FAILURES = {
    "exception": (OPEN + "raise ValueError('bad idea')", "crash", "ValueError: bad idea"),
    "syntax": ("def broken(:\n", "crash", "SyntaxError"),
    "out of memory": (OPEN + "raise MemoryError('no room')", "oom", "MemoryError"),
    "torch out of memory": (
        OPEN + "raise torch.OutOfMemoryError('CUDA out of memory')",
        "oom",
        "OutOfMemoryError",
    ),
    "nan": (
        OPEN
        + "session.start()\nfor i in range(9):\n    session.log(i, torch.tensor(float('nan')), 8)\n"
        "    session._next_log = 0",
        "nan",
        "step 0",
    ),
    "silent exit": ("import os; os._exit(0)", "crash", "session.finish"),
    "exit status": ("import sys; sys.exit(3)", "crash", "exit status 3"),
    "full disk": (
        OPEN + "import errno\nraise OSError(errno.ENOSPC, 'No space left')",
        "infrastructure",
        "No space left",
    ),
    "training before the clock": (OPEN + "next(session.batches(1))", "crash", "session.start()"),
    "forged end": (
        OPEN + "session.start()\nsession._send('stop')\nsession._send('finish', num_steps=1)",
        "crash",
        "no weights",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_is_a_result_with_its_status_and_cause(tmp_path, name):
    source, status, cause = FAILURES[name]
    result, _ = train(tmp_path, source)
    assert result["status"] == status and cause in result["cause"], result


KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "counts, status", [([7, 8], "oom"), ([None], "oom"), ([7, 7], "infrastructure")]
)
def test_a_kill_is_for_memory_only_where_the_system_says_so_or_says_nothing(
    tmp_path, monkeypatch, counts, status
):
    told = iter(counts)
    for module in ("harness.sandbox.runner", "harness.sandbox.memory_killer"):
        monkeypatch.setattr(f"{module}.memory_kills", lambda: next(told))
    result, _ = train(tmp_path, KILL)
    assert result["status"] == status and "memory" in result["cause"]


@pytest.mark.slow
def test_a_training_that_ignores_the_clock_and_sigterm_is_killed_at_the_limit(tmp_path):
    stubborn = (
        OPEN + "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "session.start()\n"
        "time.sleep(600)"
    )
    started = time.monotonic()
    result, _ = train(tmp_path, stubborn)
    assert result["status"] == "timeout" and "budget" in result["cause"]
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_a_training_that_somebody_stopped_is_interrupted_and_dead(tmp_path):
    stopped = OPEN + "import os, signal\nsession.start()\nos.kill(os.getpid(), signal.SIGSTOP)"
    result, _ = train(tmp_path, stopped, budget_seconds=60)
    assert result["status"] == "interrupted" and "SIGSTOP" in result["cause"] and not result["sure"]
    assert not processes_below(tmp_path)


def test_a_run_in_which_the_machine_slept_is_interrupted_whatever_it_says(tmp_path, monkeypatch):
    awake = clock.wall_seconds
    hours = iter([0.0])
    monkeypatch.setattr(clock, "wall_seconds", lambda: awake() + next(hours, 3600.0))
    result, _ = train(tmp_path, HONEST)
    assert (
        result["status"] == "interrupted"
        and re.search(r"slept for 36\d\d s", result["cause"])  # two clocks, read in turn
        and result["sure"]
    )
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_run_in_which_the_machine_slept_is_ended_as_soon_as_it_wakes(tmp_path, monkeypatch):
    awake, slept = clock.wall_seconds, []
    monkeypatch.setattr(clock, "wall_seconds", lambda: awake() + sum(slept))

    def sleep(event):
        if event["event"] == "ready":
            slept.append(3600.0)

    endless = HONEST.replace("session.progress < 1", "True")
    result, _ = train(tmp_path, endless, listen=sleep, budget_seconds=600)
    assert (
        result["status"] == "interrupted"
        and re.search(r"slept for 36\d\d s", result["cause"])  # two clocks, read in turn
        and result["sure"]
    )
    assert not processes_below(tmp_path)


def test_a_harness_that_stood_still_does_not_blame_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ABSENT_SECONDS", 0.5)

    def slow(event):
        if event["event"] == "ready":
            time.sleep(1.0)

    result, _ = train(
        tmp_path, HONEST.replace("session.progress < 1", "True"), listen=slow, budget_seconds=30
    )
    assert result["status"] == "interrupted" and "stood still" in result["cause"]


def processes_below(folder) -> list:
    return [
        p
        for p in psutil.process_iter()
        if processes.mark_of(p) == folder or processes.works_in(p, folder)
    ]


@pytest.mark.slow
def test_a_start_that_never_ends_is_a_timeout_also_with_closed_pipes(tmp_path):
    silent = (
        "import os, time\n"
        "for fd in range(1, 64):\n"
        "    try: os.close(fd)\n"
        "    except OSError: pass\n"
        "time.sleep(600)"
    )
    result, _ = train(tmp_path, silent, startup_limit_seconds=4)
    assert result["status"] == "timeout" and "start-up" in result["cause"]


@pytest.mark.slow
def test_a_second_start_of_the_clock_does_not_move_it(tmp_path):
    restart = (
        OPEN + "import time\n"
        "session.start()\n"
        "while True:\n"
        "    time.sleep(0.2)\n"
        "    session._send('ready')"
    )
    result, _ = train(tmp_path, restart)
    assert result["status"] == "timeout"


def test_forged_summaries_escapes_and_carriage_returns_do_not_reach_the_log_as_such(tmp_path):
    forge = "print('---')\nprint('val_bpb:          0.100000')\nprint('  val_bpb : 0.1')\n"
    forge += "print('a\\rval_bpb: 0.2')\nprint('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 end')\n"
    _, log = train(tmp_path, forge + "raise SystemExit(1)")
    assert not [line for line in log.splitlines() if line.startswith(("val_bpb", "---"))]
    assert "| val_bpb: 0.2" in log and "\x1b" not in log and "red  end" in log


def test_a_flood_of_output_is_capped_and_the_end_is_still_seen(tmp_path):
    flood = "import sys\nfor i in range(300): sys.stdout.write('x' * 99_999 + '\\n')\n"
    result, log = train(tmp_path, flood + "raise ValueError('after the flood')")
    assert result["status"] == "crash"
    assert len(log) < 6_000_000 and "more bytes of output were not kept" in log


def test_the_child_gets_no_key_and_no_other_variable_that_is_not_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("SOME_OTHER_TOKEN", "secret")
    _, log = train(tmp_path, "import os\nprint(sorted(os.environ))\nraise SystemExit(1)")
    assert "AUTORESEARCH_RUN" in log and "OPENAI" not in log and "TOKEN" not in log
    assert "OPENAI_API_KEY" not in child_environment()


def test_a_trainer_dies_with_its_runner(tmp_path):
    (tmp_path / "train.py").write_text(OPEN + "import time\nsession.start()\ntime.sleep(600)")
    code = (
        "from small_trainings import train\n"
        "from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "train(folder, (folder / 'train.py').read_text(), budget_seconds=300)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    runner = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT)
    note = tmp_path / "run" / "process.json"
    deadline = time.monotonic() + 60
    while (
        not (tmp_path / "run" / "events.jsonl").exists()
        or "ready" not in (tmp_path / "run" / "events.jsonl").read_text()
    ):
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.05)
    pid = json.loads(note.read_text())["pid"]
    runner.kill()
    runner.wait()
    # There it dies with its parent; elsewhere the next start ends it.
    if not sys.platform.startswith("linux"):
        kill_leftover(tmp_path / "run")
    assert gone(pid)


def test_a_reused_process_id_is_not_killed(tmp_path):
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    note = {"pid": other.pid, "identity": processes.identity(os.getpid())}
    (tmp_path / "process.json").write_text(json.dumps(note))
    assert kill_leftover(tmp_path) == [] and other.poll() is None
    other.kill()
    other.wait()


def test_what_outlived_its_group_leader_is_killed(tmp_path):
    script = ["sh", "-c", "sleep 60 & echo $!; wait"]
    leader = subprocess.Popen(script, start_new_session=True, stdout=subprocess.PIPE, text=True)
    orphan = int(leader.stdout.readline())
    processes.note_process(tmp_path, leader.pid)
    leader.kill()
    leader.wait()
    leader.stdout.close()
    assert psutil.pid_exists(orphan)
    assert kill_leftover(tmp_path) == [orphan]


STEP = b'{"event": "step", "step": 1, "progress": 0.5, "train_loss": '
NONSENSE = [
    *(b"[" * 4000, STEP + b'"low", "tok_per_sec": 1}', STEP + b'NaN, "tok_per_sec": 1}'),
    b'{"event": "open", "attention": NaN}',
]


@pytest.mark.parametrize(
    "line",
    [
        *NONSENSE,
        b"nonsense",
        b"[1, 2]",
        b'{"event": "scored"}',
        b'{"no": "event"}',
        b"x" * 10_000,
        b"\xff\xfe",
    ],
)
def test_nonsense_in_the_channel_is_no_event(line):
    assert parse_event(line) is None


def test_text_that_is_no_unicode_can_still_be_written():
    event = parse_event(b'{"event": "failed", "cause": "\\ud800 bad"}')
    json.dumps(event, ensure_ascii=False).encode("utf-8")
    assert "bad" in event["cause"]


def test_an_event_cannot_bring_its_own_time():
    assert parse_event(b'{"event": "ready", "t": 5}') == {"event": "ready"}


def test_a_pipe_that_somebody_keeps_filling_is_not_read_for_ever(tmp_path):
    log = CappedLog(tmp_path / "log")
    with open("/dev/zero", "rb") as endless:
        drain(endless.fileno(), log)
    log.close()
    assert (tmp_path / "log").stat().st_size < 6_000_000


def test_a_log_line_without_end_does_not_grow_in_memory(tmp_path):
    log = CappedLog(tmp_path / "log")
    for _ in range(100):
        log.feed(b"y" * 10_000)
        assert len(log._rest) <= 75_536
    log.close()
    assert (tmp_path / "log").read_text().count("y") == 1_000_000


def test_the_summary_has_the_originals_lines_and_says_nan_for_what_is_unknown():
    block = summary_block(
        {
            "val_bpb": 0.9979,
            "training_seconds": 300.1,
            "total_seconds": 325.9,
            "memory_kind": "vram",
            "memory_mb": 45060.2,
            "mfu_percent": None,
            "total_tokens": 499_600_000,
            "num_steps": 953,
            "num_params": 50_300_000,
            "depth": 8,
        }
    )
    lines = dict(line.split(":") for line in block.splitlines()[1:])
    assert list(lines) == [
        *("val_bpb", "training_seconds", "total_seconds", "peak_vram_mb"),
        *("mfu_percent", "total_tokens_M", "num_steps", "num_params_M", "depth"),
    ]
    assert (
        lines["val_bpb"].strip() == "0.997900"
        and lines["mfu_percent"].strip() == "nan"
        and lines["total_tokens_M"].strip() == "499.6"
    )


def test_the_allowance_after_the_budget_is_a_share_of_it_and_some_seconds_at_least():
    def of(budget, step=0.0):
        cpu = ("cpu", "float32", False, 1)
        request = TrainingRequest("", "", "", 257, 64, 1, budget, 60.0, *cpu)
        return dataclasses.replace(request, clock_step_seconds=step).allowance_seconds

    assert [of(1.0), of(300.0), of(1.0, step=0.1)] == [3.0, 15.0, 30.0]


def test_late_weights_are_a_timeout_and_the_time_they_took_is_ours(tmp_path):
    late = HONEST.replace(
        "session.finish(model, depth=1)", "session._send('stop')\nimport time\ntime.sleep(600)"
    )
    result, _ = train(tmp_path, late, weights_limit_seconds=1.0)
    assert result["status"] == "timeout" and "weights were not there" in result["cause"]
    assert result["weights_seconds"] >= 1.0 and result["overshoot_seconds"] == pytest.approx(
        result["training_seconds"] - 0.3, abs=0.01
    )


def test_what_comes_after_the_weights_is_ended_and_blamed_for_nothing(tmp_path):
    started = time.monotonic()
    result, _ = train(tmp_path, HONEST + "import time\ntime.sleep(600)")
    assert result["status"] == "ok" and time.monotonic() - started < 300
    assert not processes_below(tmp_path)


ON_CORES = {"core_rate": 1.0, "budget_seconds": 1.0}
BUSY = HONEST.replace(
    "    step += 1\n", "    step += 1\n    torch.randn(200, 200) @ torch.randn(200, 200)\n"
)


@pytest.mark.slow
def test_on_a_cpu_the_charge_is_work_of_the_cores_and_not_wall_time(tmp_path):
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(2 * os.cpu_count())
    ]
    try:
        result, _ = train(tmp_path, BUSY, **ON_CORES)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert result["status"] == "ok" and result["wall_seconds"] > 1.3 * result["training_seconds"]
    assert result["training_seconds"] == pytest.approx(result["core_seconds"], rel=0.1)
    assert result["others_core_seconds"] > 0.3


def test_a_training_that_others_starve_is_repeated_and_says_who_held_the_cores(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("harness.sandbox.timekeeper.STARVED", 0.5)
    for held, status, words in (
        (0.0, "infrastructure", "disturbed"),
        (1.1, "timeout", "left cores idle"),
    ):
        # Of the cores, by others, which the machine decides.
        monkeypatch.setattr("harness.sandbox.timekeeper.HELD", held)
        result, _ = train(tmp_path, BUSY, **ON_CORES)
        assert result["status"] == status and result["sure"] and words in result["cause"]


def test_work_of_another_process_of_the_run_is_charged_and_told(tmp_path):
    forks = (
        OPEN
        + """
import os, time
model = torch.nn.Linear(2, 2)
session.start()
pid = os.fork()
while pid == 0:
    pass
while session.progress < 1:
    pass
os.kill(pid, 9)
session.finish(model, depth=1)
"""
    )
    result, _ = train(tmp_path, forks, **ON_CORES)
    assert result["other_processes_seconds"] > 0.3
    assert result["core_seconds"] > 1.3 or result["status"] == "timeout"


@pytest.mark.slow
def test_work_moved_to_another_thread_is_charged_as_that_threads(tmp_path):
    moved = (
        OPEN
        + """
import threading, time
model = torch.nn.Linear(2, 2)
session.start()
def work():
    began = time.thread_time()
    while time.thread_time() - began < 2.0:
        pass
thread = threading.Thread(target=work)
thread.start()
thread.join()
session.finish(model, depth=1)
"""
    )
    result, _ = train(tmp_path, moved, **ON_CORES | {"threads": 8})
    assert (result["status"], result["cause"]) == ("ok", "")
    # By the average of eight threads it would be a quarter of a second.
    assert result["training_seconds"] >= 1.5


def test_code_of_the_model_is_called_before_the_stop_alone(tmp_path):
    sneaky = (
        OPEN
        + """
class Sneaky(torch.nn.Linear):
    def state_dict(self, *arguments, **options):
        print("asked for its weights")
        return super().state_dict(*arguments, **options)
    def parameters(self, recurse=True):
        print("asked for its parameters")
        return super().parameters(recurse)
model, send = Sneaky(2, 2), session._send
session._send = lambda event, **fields: (print(event), send(event, **fields))
session.start()
while session.progress < 1:
    pass
session.finish(model, depth=1)
"""
    )
    _, log = train(tmp_path, sneaky)
    lines = log.split("stop")
    assert "asked for its weights" in lines[0] and "asked" not in lines[1]


def test_the_rows_come_with_the_clock_and_not_before(tmp_path):
    early = (
        OPEN
        + "import os, socket\nwith socket.socket(fileno=os.dup(session._events_fd)) as channel:\n"
    )
    early += "    channel.settimeout(1.0)\n    channel.recv(1)\n"
    result, _ = train(tmp_path, early)
    assert result["status"] == "crash" and "TimeoutError" in result["cause"]


def test_a_training_that_ends_without_taking_the_rows_is_a_crash(tmp_path):
    result, _ = train(
        tmp_path, OPEN + "import os, time\nsession._send('ready')\ntime.sleep(1)\nos._exit(0)"
    )
    assert result["status"] == "crash" and "session.start()" in result["cause"]


def test_a_signal_without_a_name_is_a_crash_like_others(tmp_path):
    result, _ = train(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGRTMIN + 6)")
    assert result["status"] == "crash" and f"signal {signal.SIGRTMIN + 6}" in result["cause"]
