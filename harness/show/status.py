"""A run seen from outside: is its night running, paused, slow, dead or over, and where does it stand? `--status` and `--status --json`.

In: a run's folder; the processes of this machine. Out: one flat object for scripts, one screen for people. Reads only, from any process, whenever asked.

Dead is told from slow by the night's lock, which the system takes from a dead process at once, whatever the files say. Of a driver that lives, its
heartbeat says whether it still looks after things, and how long the journal has stood still against what its stage may take.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from harness.ground.files import read_json
from harness.ground.text import one_line
from harness.lab.close_out import CloseOut, claim_of, read_close_out, words_of_claim, words_of_close_out
from harness.rules.next_step import step_after
from harness.run import disk_space
from harness.run.heartbeat import age_seconds, read_heartbeat, writer
from harness.run.locks import is_held
from harness.run.records import baseline_of, incumbent_of, parse_time, records_from_journal
from harness.run.run import Run
from harness.run.settings import command_on
from harness.run.state import State
from harness.show.costs import run_usage, usage_words
from harness.show.sentences import candidates_of, duration, latest_sigma
from harness.show.stage import stage_limit, stage_of
from harness.show.status_text import status_text

SLOW_SECONDS = 30.0  # a heartbeat older than this: the driver writes one every five seconds
OTHERS_SECONDS = 15.0  # who took a run up so long after the last heartbeat was not started by that night
CONTINUES = "the same command continues"
RECENT = 5  # experiments, for the drift and the list

KEYS = {  # of `--status --json`: name and meaning. Numbers are null where there are none
    "tag": "the run",
    "folder": "where it is",
    "state": "running, paused, slow, died, stopped, finished, by hand (a notebook works on it) or idle (no night, nothing to say)",
    "why": "the state in one sentence",
    "exit_code": "of the last night, when it has ended by itself",
    "pid": "process of the night's driver, when it lives",
    "heartbeat_age_seconds": "since the driver's last sign of life",
    "experiment": "number of the experiment in flight; the next one's between two",
    "title": "its idea, \"\" before there is one",
    "stage": "preparing, proposing, checking, starting, training, writing weights, scoring, auditing, repairing, "
    "deciding, committing, trying the best again or claiming",
    "training_share": "of the training in flight, 0 to 1",
    "stage_seconds": "how long the journal has stood still",
    "stage_limit_seconds": "how long it may before the driver takes the notebook for hung",
    "experiments": "decided, the baseline not counted",
    "kept": "of these", "discarded": "of these", "crashed": "of these", "quarantined": "of these, waiting for a person",
    "in_quarantine": "their numbers",
    "baseline_val_bpb": "bits per byte", "best_val_bpb": "of what is on the branch, bits per byte, as judged during the night: flattered by luck",
    "best_experiment": "its number", "best_title": "its idea", "gain": "that below the baseline's, bits per byte",
    "claim": "what may be said of it, measured on fresh seeds; null until then", "sigma": "noise of one run, bits per byte",
    "last_five": "decided experiments: experiment, outcome, val_bpb, gain, title",
    "tokens_per_second": "of training, median of the last five scored experiments",
    "drift": "that over the baseline's, less 1",
    "llm_requests": "to a language model so far, 0 where none was asked", "llm_prompt_tokens": "of these", "llm_completion_tokens": "of these",
    "llm_cost_usd": "of these, by the prices that were given", "llm_estimated": "whether part of that is our own count",
    "run_bytes": "on disk, of this run", "free_bytes": "on its disk", "needed_bytes": "that a next training needs",
    "next_command": "what goes on with it, or stops it when it runs",
}  # fmt: skip


@dataclass(frozen=True)
class Life:
    """What became of a night's driver. state and why as in KEYS."""

    state: str
    why: str
    pid: int | None = None
    exit_code: int | None = None
    heartbeat: dict | None = None

    @property
    def age(self) -> float | None:
        return age_seconds(self.heartbeat) if self.heartbeat else None


def look_at(run: Run) -> dict:
    """Everything there is to know of a run, by KEYS. Raises SettingsError where there is no run."""
    if not is_preparing(run):
        _ = run.settings
    life, folder = life_of(run), run.folder
    return {
        "tag": folder.name, "folder": str(folder), "state": life.state, "why": life.why, "exit_code": life.exit_code, "pid": life.pid,
        "heartbeat_age_seconds": rounded(life.age),
        **work_of(run, life),
        **scores(run),
        **speed(run.state),
        **model_use(folder),
        "run_bytes": sum(disk_space.stored(folder).values()), "free_bytes": disk_space.free_bytes(folder), "needed_bytes": disk_space.needed_bytes(folder),
        "next_command": next_command(folder, life),
    }  # fmt: skip


def is_preparing(run: Run) -> bool:
    """Whether a night prepares its data: its settings are written afterwards."""
    return not run.is_there and (run.folder / "night.log").exists()


# --- the driver ----------------------------------------------------------------------------------------------------------


def life_of(run: Run) -> Life:
    """Whether the night's driver lives, and how it does or ended."""
    folder, step = run.folder, step_after(run.state)
    heartbeat = read_heartbeat(folder)
    if is_held(folder, "night"):
        return life_of_driver(folder, heartbeat)
    ended = heartbeat is not None and heartbeat["state"] == "ended"
    if is_held(folder, "experiment") and (heartbeat is None or ended or taken_up_since(folder, heartbeat)):
        pid = note_of(folder, "experiment").get("pid")
        return Life("by hand", f"no night is running; a notebook works on it, process {pid}", heartbeat=heartbeat)
    if heartbeat is None:
        why = "" if step.kind in ("open", "propose", "control") else f", and experiment {step.experiment} is unfinished"
        return Life("idle", f"no night is running{why}")
    last = note_of(folder, "night").get("pid", heartbeat["pid"])
    if last != heartbeat["pid"]:
        return Life(
            "died",
            f"no night is running: its driver, process {last}, died as it started; {CONTINUES}",
            heartbeat=heartbeat,
        )
    if not ended:
        words = (
            f"no night is running: its driver, process {last}, died (last seen at: {heartbeat['stage']}); {CONTINUES}"
        )
        return Life("died", words, heartbeat=heartbeat)
    state = "finished" if heartbeat["done"] else "stopped"
    return Life(state, f"no night is running: {heartbeat['stage']}", exit_code=heartbeat.get("exit_code"), heartbeat=heartbeat)


def life_of_driver(folder: Path, heartbeat: dict | None) -> Life:
    """A driver that holds the lock: running, paused, or not looking after things any more."""
    note = note_of(folder, "night")
    pid = note.get("pid")
    if heartbeat is None or heartbeat["pid"] != pid:  # another night's: this one has not come to its first
        return Life("running", "a night is running: it has just started", pid)
    process, age = writer(heartbeat), age_seconds(heartbeat)
    if process and stopped(process):
        words = f"a night is running, but process {pid} is stopped (SIGSTOP, or Ctrl-Z): `kill -CONT {pid}` or `fg` lets it go on"
        return Life("slow", words, pid, heartbeat=heartbeat)
    if age is None or age > SLOW_SECONDS:
        seen = f"for {duration(age)}" if age is not None else "since another machine wrote its heartbeat"
        words = f"a night is running, but process {pid} has given no sign of life {seen}: the machine is overloaded, asleep, or its disk hangs"
        return Life("slow", words, pid, heartbeat=heartbeat)
    still, limit = heartbeat.get("still_seconds"), heartbeat.get("limit_seconds")
    if heartbeat["state"] == "paused":
        return Life("paused", f"a night is running, {heartbeat['stage']}", pid, heartbeat=heartbeat)
    if still is not None and limit is not None and still > limit:
        words = f"a night is running, but nothing has happened for {duration(still)}, more than {duration(limit)}: it starts the notebook again"
        return Life("slow", words, pid, heartbeat=heartbeat)
    return Life("running", "a night is running", pid, heartbeat=heartbeat)


def stopped(process: psutil.Process) -> bool:
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
    """Whether somebody took the run up after the night's last sign of life: not the kernel that dies with it."""
    since, last = parse_time(note_of(folder, "experiment").get("since")), parse_time(heartbeat["time"])
    return bool(since and last and (since - last).total_seconds() > OTHERS_SECONDS)


def next_command(folder: Path, life: Life) -> str:
    """What to type next."""
    if life.state in ("running", "paused", "slow"):
        return command_on(folder, "--stop")
    if life.state == "finished":
        return command_on(folder, "--report")
    return (life.heartbeat or {}).get("command") or command_on(folder)


# --- the run -------------------------------------------------------------------------------------------------------------


def work_of(run: Run, life: Life) -> dict:
    """The experiment in work: which, what of it, how far, for how long."""
    stage, state = stage_of(run), run.state
    if stage.name == "proposing" and life.state == "running" and is_claiming(read_close_out(run.folder), state):
        stage = replace(stage, name="claiming")
    last, heartbeat = parse_time(state.newest), life.heartbeat or {}
    still = (datetime.now(UTC) - last).total_seconds() if last else None
    if life.state == "running" and heartbeat.get("still_seconds") is not None:  # by a clock that nobody sets
        still = heartbeat["still_seconds"] + (life.age or 0.0)
    return {
        "experiment": stage.experiment,
        "title": stage.title,
        "stage": stage.name,
        "training_share": stage.share,
        "stage_seconds": rounded(max(0.0, still) if still is not None else None),
        "stage_limit_seconds": rounded(heartbeat.get("limit_seconds") or stage_limit(run)[0]),
    }


def is_claiming(found: CloseOut, state: State) -> bool:
    """Whether a close-out of what is on the branch has begun, and has not come to its end."""
    of_the_branch = found.begun and not found.claimed and state.incumbent and found.begun["best"] == state.incumbent.number
    return bool(of_the_branch and found.newest >= state.newest)


def scores(run: Run) -> dict:
    """What is on the branch, its gain and claim, counts and the last five, from the decided experiments."""
    records = records_from_journal(run.entries)
    base, best, tried = baseline_of(records), incumbent_of(records), candidates_of(records)
    claimed = claim_of(run.folder, best.experiment) if best else None
    outcomes = [record.outcome for record in tried]
    waiting = [record.experiment for record in records if record.outcome == "quarantined"]
    last = [
        {"experiment": r.experiment, "outcome": r.outcome, "val_bpb": r.val_bpb, "gain": r.gain, "title": r.title}
        for r in records[-RECENT:]
    ]
    return {
        "experiments": len(tried), "kept": sum(word in ("kept", "simplified") for word in outcomes), "discarded": outcomes.count("discarded"),
        "crashed": outcomes.count("crashed"), "quarantined": len(waiting), "in_quarantine": waiting,
        "baseline_val_bpb": base and base.val_bpb, "best_val_bpb": best and best.val_bpb, "best_experiment": best and best.experiment,
        "best_title": best and best.title, "gain": round(base.val_bpb - best.val_bpb, 6) if base and best else None,
        "claim": words_of_claim(claimed) if claimed else None, "sigma": latest_sigma(records),
        "last_five": last,
    }  # fmt: skip


def speed(state: State) -> dict:
    """Tokens per second of late, and how far that is from the baseline's: what is far below may be the machine."""
    rates = [rate for e in state.experiments if (rate := tokens_per_second(e)) is not None]
    base = tokens_per_second(state.experiments[0]) if state.experiments else None
    recent = rates[1:][-RECENT:] if base else []
    median = statistics.median(recent) if recent else None
    return {"tokens_per_second": rounded(median), "drift": round(median / base - 1, 4) if median and base else None}


def model_use(folder: Path) -> dict:
    """What the language model took."""
    usage = run_usage(folder)
    return {
        "llm_requests": usage.requests, "llm_prompt_tokens": usage.prompt_tokens, "llm_completion_tokens": usage.completion_tokens,
        "llm_cost_usd": usage.cost_usd, "llm_estimated": usage.estimated,
    }  # fmt: skip


def tokens_per_second(experiment: object) -> float | None:
    """The median over the scored runs of an experiment's last attempt; None without any."""
    runs = experiment.attempt.runs if experiment.attempts else []
    rates = [run.trained["tok_per_sec"] for run in runs if run.val_bpb is not None and run.trained.get("tok_per_sec")]
    return statistics.median(rates) if rates else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# --- for people ------------------------------------------------------------------------------------------------------------


def status_screen(run: Run) -> str:
    """One screen on a run."""
    found, folder = look_at(run), run.folder
    if run.is_there:
        claim = found["claim"] or words_of_close_out(read_close_out(folder)).removeprefix("claim: ")
        rows = status_text(run.entries, run.settings, state=state_words(found), claim=claim, more=more_rows(folder, found))
    else:
        rows = f"run        {folder.name}\nstate      {state_words(found)}"
    return f"{rows}\nnext       {found['next_command']}"


def state_words(found: dict) -> str:
    """The state, and what is in flight."""
    words = found["why"]
    if found["state"] in ("died", "stopped", "finished", "idle", "paused"):
        return words
    share = f" {100 * found['training_share']:.0f}%" if found["stage"] == "training" else ""
    if found["stage"] == "claiming":
        return f"{words}; the claim is measured"
    what = "the baseline" if found["experiment"] == 0 else f"experiment {found['experiment']}"
    still, limit = found["stage_seconds"], found["stage_limit_seconds"]
    since = f" for {duration(still)} of at most {duration(limit)}" if still is not None else ""
    return f"{words}; {what}, {found['stage']}{share}{since}" + (
        f": {one_line(found['title'])[:50]}" if found["title"] else ""
    )


def more_rows(folder: Path, found: dict) -> list[tuple[str, str]]:
    """Disk; what the language model took and the drift, where there is any to tell."""
    rows = [("disk", disk_space.disk_use_in_words(folder))]
    if used := usage_words(run_usage(folder)):
        rows.append(("model", used))
    if found["drift"] is not None:
        rows.append(("drift", f"{found['tokens_per_second']:,.0f} tokens/s of late, {drift_words(found['drift'])}"))
    return rows


def drift_words(drift: float) -> str:
    """Ideas change the speed, too; only a large drop is likely to be the machine's."""
    if drift <= -0.1:
        return f"{-drift:.0%} slower than the baseline: slower ideas, or a slower machine, on which scores do worse"
    return f"{abs(drift):.0%} {'slower' if drift < 0 else 'faster'} than the baseline"
