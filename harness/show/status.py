"""A run seen from outside: is its night running, paused, slow, dead or over, and where is it?

In: a run's folder; the processes of this machine. Out: one flat object for scripts (`--status
--json`), one screen for people (`--status`). Reads only, from any process, whenever asked.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.ground.text import one_line
from harness.lab.close_out import CloseOut, read_close_out, words_of_claim, words_of_close_out
from harness.lab.proposing import program_words
from harness.run import disk_space
from harness.run.heartbeat import age_seconds
from harness.run.pace import words_of_card
from harness.run.records import (
    OUTCOME_WORDS,
    OUTCOMES,
    Record,
    baseline_of,
    best_of,
    incumbent_of,
    parse_time,
    records_from_journal,
    time_use,
)
from harness.run.results import clean_description
from harness.run.run import Run
from harness.run.state import State
from harness.show.costs import failure_words, run_usage, usage_words
from harness.show.night_state import NightState, next_command, night_state_of
from harness.show.sentences import (
    candidates_of,
    counts_in_words,
    duration,
    facts_in_words,
    latest_sigma,
    name_of,
    plural,
    signed,
)
from harness.show.stage import stage_limit, stage_of

RECENT = 5  # experiments, for the drift and the list
WIDTH = 110  # characters of a line of a long row

# Of `--status --json`: name and meaning. Numbers are null where there are none.
KEYS = {
    "tag": "the run",
    "folder": "where it is",
    "state": "running, paused, slow, died, stopped, finished, by hand (a notebook works on it) "
    "or idle (no night, nothing to say)",
    "why": "the state in one sentence",
    "exit_code": "exit status of the last night, when it has ended by itself",
    "pid": "process id of the night's driver, when it lives",
    "heartbeat_age_seconds": "time since the driver's last sign of life",
    "experiment": "number of the experiment in flight; between two, of the next one",
    "title": 'its idea, "" before there is one',
    "stage": "preparing, proposing, checking, starting, training, writing weights, scoring, "
    "auditing, repairing, deciding, committing, trying the best again or claiming",
    "training_share": "share of its budget that the training in flight has used, 0 to 1",
    "stage_seconds": "time since the journal's newest entry",
    "stage_limit_seconds": "the same at which the driver takes the notebook for hung",
    "experiments": "how many are decided, the baseline not counted",
    "kept": "how many of these were kept as better",
    "simplified": "how many were kept as simpler",
    "discarded": "how many were not kept",
    "crashed": "how many failed",
    "quarantined": "how many wait for a person",
    "in_quarantine": "numbers of those in quarantine",
    "baseline_val_bpb": "score of the baseline, bits per byte",
    "best_val_bpb": "the lowest that was on the branch, bits per byte, as judged during the "
    "night: flattered by luck",
    "best_experiment": "number of the experiment with that score",
    "branch_val_bpb": "of what is on the branch: more than the best where simpler code was kept",
    "branch_experiment": "number of the experiment on the branch",
    "branch_title": "its idea",
    "gain": "baseline_val_bpb less branch_val_bpb",
    "claim": "by how much that is better than the baseline on fresh seeds, in words; null until "
    "it is measured",
    "sigma": "noise of one training, bits per byte",
    "last_five": "the last five that were decided: experiment, outcome, val_bpb, gain, title",
    "tokens_per_second": "of training, median of the last five scored experiments",
    "drift": "tokens_per_second over the baseline's, less 1",
    "card": "name of the card that trains, null where there is none",
    "card_use": "what it did in the last five trainings that were watched, by the median, in "
    "words: clock, temperature, memory in use, slowdown, others, energy; null where none was",
    "llm_requests": "requests to a language model so far, 0 where none was asked",
    "llm_prompt_tokens": "tokens of these requests",
    "llm_completion_tokens": "tokens of the replies",
    "llm_cost_usd": "what they cost, by the prices that were given",
    "llm_estimated": "whether part of these tokens is our own estimate",
    "llm_failed": "how often the model could not be asked, and why; null for never",
    "program": "what is wrong with program.md as it stands; null for nothing",
    "run_bytes": "size of this run on disk",
    "free_bytes": "free on that disk",
    "needed_bytes": "that must be free for the next training",
    "next_command": "the command that continues the night, or stops it when it runs",
}


def look_at(run: Run, run_bytes: int | None = None) -> dict:
    """Everything there is to know of a run, by KEYS. Raises SettingsError where there is no run.

    run_bytes: as counted before; None counts them, which walks over all files.
    """
    if run_bytes is None:
        run_bytes = sum(disk_space.stored(run.folder).values())
    is_preparing = not run.is_there and (run.folder / "night.log").exists()
    if not is_preparing:
        _ = run.settings
    night, folder, measured = night_state_of(run), run.folder, read_close_out(run.folder)
    records = records_from_journal(run.entries)
    return {
        "tag": folder.name,
        "folder": str(folder),
        "state": night.state,
        "why": night.why,
        "exit_code": night.exit_code,
        "pid": night.pid,
        "heartbeat_age_seconds": rounded(night.heartbeat and age_seconds(night.heartbeat)),
        **work_of(run, night, measured),
        **scores(records, measured),
        **speed(records),
        **card_facts(run),
        **{f"llm_{name}": figure for name, figure in vars(run_usage(folder)).items()},
        "llm_failed": failure_words(run.entries) or None,
        "program": program_words(run.entries) or None,
        "run_bytes": run_bytes,
        "free_bytes": disk_space.free_bytes(folder),
        "needed_bytes": disk_space.needed_bytes(folder),
        "next_command": next_command(folder, night),
    }


# --- the run -------------------------------------------------------------------------------------


def work_of(run: Run, night: NightState, measured: CloseOut) -> dict:
    """The experiment in work: which, what of it, how far, for how long."""
    stage, state, heartbeat = stage_of(run), run.state, night.heartbeat or {}
    if stage.name == "proposing" and night.state == "running" and is_claiming(measured, state):
        stage = replace(stage, name="claiming")
    last, still = parse_time(state.newest), None
    if night.state == "running" and heartbeat.get("still_seconds") is not None:
        # By a clock that nobody sets.
        still = heartbeat["still_seconds"] + (age_seconds(heartbeat) or 0.0)
    elif last:
        still = max(0.0, (datetime.now(UTC) - last).total_seconds())
    return {
        "experiment": stage.experiment,
        "title": stage.title,
        "stage": stage.name,
        "training_share": stage.share,
        "stage_seconds": rounded(still),
        "stage_limit_seconds": rounded(heartbeat.get("limit_seconds") or stage_limit(run)[0]),
    }


def is_claiming(measured: CloseOut, state: State) -> bool:
    """Whether a close-out of what is on the branch has begun, and has not come to its end."""
    best = state.incumbent
    return bool(best and measured.goes_on_with(best.number) and measured.newest >= state.newest)


def scores(records: Sequence[Record], measured: CloseOut) -> dict:
    """What is on the branch, its gain and claim, counts and the last five."""
    base, best, tip = baseline_of(records), best_of(records), incumbent_of(records)
    tried, claimed = candidates_of(records), measured.claimed
    if claimed and (tip is None or claimed["best"] != tip.experiment):
        claimed = None
    outcomes = [record.outcome for record in tried]
    waiting = [record.experiment for record in tried if record.outcome == "quarantined"]
    shown = ("experiment", "outcome", "val_bpb", "gain", "title")
    return {
        "experiments": len(tried),
        **{name: outcomes.count(name) for name in KEYS if name in OUTCOMES},
        "in_quarantine": waiting,
        "baseline_val_bpb": base and base.val_bpb,
        "best_val_bpb": best and best.val_bpb,
        "best_experiment": best and best.experiment,
        "branch_val_bpb": tip and tip.val_bpb,
        "branch_experiment": tip and tip.experiment,
        "branch_title": tip and tip.title,
        "gain": round(base.val_bpb - tip.val_bpb, 6) if base and tip else None,
        "claim": words_of_claim(claimed) if claimed else None,
        "sigma": latest_sigma(records),
        "last_five": [{name: getattr(r, name) for name in shown} for r in records[-RECENT:]],
    }


def speed(records: Sequence[Record]) -> dict:
    """Tokens per second of late, and how far from the baseline's: a drop may be the machine's."""
    base = baseline_of(records)
    usual = base and base.pace.tokens_per_second
    rates = [r.pace.tokens_per_second for r in candidates_of(records) if r.pace.tokens_per_second]
    if not (usual and rates):
        return {"tokens_per_second": None, "drift": None}
    median = statistics.median(rates[-RECENT:])
    return {"tokens_per_second": rounded(median), "drift": round(median / usual - 1, 4)}


def card_facts(run: Run) -> dict:
    """The card, and what it did of late; null where trainings run on something else."""
    device = run.settings.device if run.is_there else {}
    if device.get("kind") != "cuda":
        return {"card": None, "card_use": None}
    watched = [each for each in run.entries if each["event"] == "trained" and each.get("card")]
    return {"card": device["name"], "card_use": words_of_card(watched[-RECENT:]) or None}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# --- for people ----------------------------------------------------------------------------------


def status_screen(run: Run) -> str:
    """One screen on a run."""
    found = look_at(run)
    rows, recent = [("run", run.folder.name), ("state", state_words(found))], []
    if run.is_there:
        facts = facts_in_words(run.settings, "profile", "budget_seconds", "device")
        rows[0] = ("run", ", ".join([run.folder.name, *facts]))
        records = records_from_journal(run.entries)
        rows += branch_rows(run.folder, found, records) + night_rows(run, found, records)
        recent = [recent_line(record) for record in records[-RECENT:]]
    lines = [f"{name:10} {one_line(words)}" for name, words in rows]
    lines += ["last five", *recent] if recent else []
    return "\n".join([*lines, f"next       {one_line(found['next_command'])}"])


def state_words(found: dict) -> str:
    """The state, and what is in flight."""
    words = found["why"]
    if found["state"] in ("died", "stopped", "finished", "idle", "paused"):
        return words
    if found["stage"] == "claiming":
        return f"{words}; the claim is measured"
    share = f" {100 * found['training_share']:.0f}%" if found["stage"] == "training" else ""
    what = "the baseline" if found["experiment"] == 0 else f"experiment {found['experiment']}"
    still, limit = found["stage_seconds"], found["stage_limit_seconds"]
    since = f" for {duration(still)} of at most {duration(limit)}" if still is not None else ""
    title = f": {one_line(found['title'])[:50]}" if found["title"] else ""
    return f"{words}; {what}, {found['stage']}{share}{since}{title}"


def branch_rows(folder: Path, found: dict, records: Sequence[Record]) -> list[tuple[str, str]]:
    """The baseline, what is on the branch, and what may be claimed of it."""
    base = baseline_of(records)
    if base is None:
        return []
    sigma = f", sigma {found['sigma']:.4f}" if found["sigma"] else ""
    rows = [("baseline", f"{base.val_bpb:.4f} from {plural(base.n_runs, 'run')}{sigma}")]
    number, title = found["branch_experiment"], clean_description(found["branch_title"])[:60]
    if number == base.experiment:
        return [*rows, ("branch", "stands at the baseline so far")]
    rows.append(("best score", f"{found['best_val_bpb']:.4f}, {name_of(best_of(records))}"))
    stands = f"stands at {found['branch_val_bpb']:.4f}, experiment {number}: {title}"
    rows += [("branch", stands), ("", "as judged during the night, flattered by luck")]
    measuring = words_of_close_out(read_close_out(folder)).removeprefix("claim: ")
    claim = textwrap.wrap(found["claim"] or measuring or "not measured yet", WIDTH)
    return rows + [("" if number else "claim", line) for number, line in enumerate(claim)]


def night_rows(run: Run, found: dict, records: Sequence[Record]) -> list[tuple[str, str]]:
    """What was tried, what waits for a person, and what the night took."""
    tried, drift = candidates_of(records), found["drift"]
    waiting = ", ".join(f"{number:04d}" for number in found["in_quarantine"])
    rows = [
        ("quarantine", f"{waiting}: look, then --accept N or --refuse N" if waiting else ""),
        ("tried", f"{len(tried)}: {counts_in_words(tried)}" if tried else "0"),
        ("time", time_words(run.entries, records)),
        ("disk", disk_space.disk_use_in_words(run.folder)),
        ("model", usage_words(run_usage(run.folder))),
        ("", found["llm_failed"]),
        ("program", found["program"]),
    ]
    if drift is not None:
        rate = found["tokens_per_second"]
        rows.append(("drift", f"{rate:,.0f} tokens/s of late, {drift_words(drift)}"))
    rows += card_rows(found)
    return [(name, words) for name, words in rows if words]


def card_rows(found: dict) -> list[tuple[str, str]]:
    """The card's name, and what it did of late; none without a card."""
    if not found["card"]:
        return []
    first, *rest = textwrap.wrap(found["card_use"] or "no training was watched", WIDTH)
    return [("card", f"{found['card']}: {first}"), *(("", line) for line in rest)]


def time_words(entries: Sequence[dict], records: Sequence[Record]) -> str:
    """How long the night has taken, in training, and for an experiment."""
    seconds = time_use(entries)
    total = sum(seconds.values())
    busy = [sum(r.seconds.values()) - r.seconds["waiting"] for r in records[-20:] if r.experiment]
    in_training = f", {seconds['training'] / total:.0%} in training" if total else ""
    each = f"; about {duration(statistics.median(busy))} an experiment" if busy else ""
    return f"{duration(total)} so far{in_training}{each}"


def recent_line(record: Record) -> str:
    score = "-" if record.val_bpb is None else f"{record.val_bpb:.4f}"
    words = f"{OUTCOME_WORDS[record.outcome]:15} {score:>8}  {signed(record.gain):>8}"
    return f"  {record.experiment:04d}  {words}  {clean_description(record.title)[:60]}"


def drift_words(drift: float) -> str:
    """Ideas change the speed, too; only a large drop is likely to be the machine's."""
    if drift <= -0.1:
        doubt = "slower ideas, or a slower machine, on which scores do worse"
        return f"{-drift:.0%} slower than the baseline: {doubt}"
    return f"{abs(drift):.0%} {'slower' if drift < 0 else 'faster'} than the baseline"
