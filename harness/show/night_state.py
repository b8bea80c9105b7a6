"""Whether a run's night is running, paused, slow, dead or over.

In: a run's folder; the processes of this machine. Out: a NightState. Reads only.

Dead is told from slow by the night's lock, which the system takes from a dead process at once,
whatever the files say. Of a driver that lives, its heartbeat says whether it still looks after
things, and how long the journal has stood still against what its stage may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.ground.files import read_json
from harness.rules.next_step import step_after
from harness.run.heartbeat import age_seconds, read_heartbeat, writer
from harness.run.locks import is_held
from harness.run.records import parse_time
from harness.run.run import Run
from harness.run.settings import command_on
from harness.show.sentences import duration

# A heartbeat older than this is slow: the driver writes one every five seconds.
SLOW_SECONDS = 30.0
# Who took a run up so long after the last heartbeat was not started by that night.
OTHERS_SECONDS = 15.0
CONTINUES = "the same command continues"


@dataclass(frozen=True)
class NightState:
    """What became of a night's driver. state and why as in `status.KEYS`."""

    state: str
    why: str
    pid: int | None = None
    exit_code: int | None = None
    heartbeat: dict | None = None


def night_state_of(run: Run) -> NightState:
    """Whether the night's driver lives, and how it does or ended."""
    folder, heartbeat = run.folder, read_heartbeat(run.folder)
    if is_held(folder, "night"):
        pid = note_of(folder, "night").get("pid")
        if heartbeat and heartbeat["pid"] != pid:
            heartbeat = None  # another night's: this one has not come to its first
        return NightState(*night_state_of_driver(pid, heartbeat), pid, heartbeat=heartbeat)
    state, why = life_without_driver(run, heartbeat)
    code = heartbeat.get("exit_code") if state in ("finished", "stopped") else None
    return NightState(state, why, exit_code=code, heartbeat=heartbeat)


def night_state_of_driver(pid: int, heartbeat: dict | None) -> tuple[str, str]:
    """State and why of a driver that holds the lock: it may not look after things any more."""
    if heartbeat is None:
        return "running", "a night is running: it has just started"
    process, age = writer(heartbeat), age_seconds(heartbeat)
    if process and is_stopped(process):
        ways = f"`kill -CONT {pid}` or `fg` lets it go on"
        return "slow", f"a night is running, but process {pid} is stopped (SIGSTOP, Ctrl-Z): {ways}"
    if age is None or age > SLOW_SECONDS:
        seen = f"for {duration(age)}" if age else "since another machine wrote its heartbeat"
        said = f"a night is running, but process {pid} has given no sign of life {seen}"
        return "slow", f"{said}: the machine is overloaded, asleep, or its disk hangs"
    if heartbeat["state"] == "paused":
        return "paused", f"a night is running, {heartbeat['stage']}"
    still, limit = heartbeat.get("still_seconds"), heartbeat.get("limit_seconds")
    if still is not None and limit is not None and still > limit:
        said = f"nothing has happened for {duration(still)}, more than {duration(limit)}"
        return "slow", f"a night is running, but {said}: it starts the notebook again"
    return "running", "a night is running"


def life_without_driver(run: Run, heartbeat: dict | None) -> tuple[str, str]:
    """State and why of a run whose night has ended, died, or never was."""
    folder, step = run.folder, step_after(run.state)
    ended = heartbeat is not None and heartbeat["state"] == "ended"
    is_others = heartbeat is None or ended or taken_up_since(folder, heartbeat)
    if is_others and is_held(folder, "experiment"):
        pid = note_of(folder, "experiment").get("pid")
        return "by hand", f"no night is running; a notebook works on it, process {pid}"
    if heartbeat is None:
        at_rest = step.kind in ("open", "propose", "control")
        unfinished = "" if at_rest else f", and experiment {step.experiment} is unfinished"
        return "idle", f"no night is running{unfinished}"
    last = note_of(folder, "night").get("pid", heartbeat["pid"])
    died = f"no night is running: its driver, process {last}, died"
    if last != heartbeat["pid"]:
        return "died", f"{died} as it started; {CONTINUES}"
    if not ended:
        return "died", f"{died} (last seen at: {heartbeat['stage']}); {CONTINUES}"
    state = "finished" if heartbeat["done"] else "stopped"
    return state, f"no night is running: {heartbeat['stage']}"


def is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def note_of(folder: Path, lock: str) -> dict:
    """Who holds, or last held, a lock."""
    try:
        return read_json(folder / f".{lock}.holder.json")
    except (OSError, ValueError):
        return {}


def taken_up_since(folder: Path, heartbeat: dict) -> bool:
    """Whether somebody took the run up since: not the kernel that dies with its night."""
    since = parse_time(note_of(folder, "experiment").get("since"))
    last = parse_time(heartbeat["time"])
    return bool(since and last and (since - last).total_seconds() > OTHERS_SECONDS)


def next_command(folder: Path, night: NightState) -> str:
    """What to type next."""
    if night.state in ("running", "paused", "slow"):
        return command_on(folder, "--stop")
    if night.state == "finished":
        return command_on(folder, "--report")
    return (night.heartbeat or {}).get("command") or command_on(folder)
