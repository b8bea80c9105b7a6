"""What a night says while it runs: entries as lines, and where it stands as one line.

In: the plan, the journal, the running training's last event. Out: sentences, and how long the journal may stand still before something hangs.
"""

from __future__ import annotations

from pathlib import Path

from harness.lab.close_out import (
    claim_of,
    is_wanted,
    read_close_out,
    trainings_left,
    words_of_claim,
    words_of_close_out,
)
from harness.night.wishes import Wishes, claim_seconds, experiments_done, is_enough, seconds_per_experiment
from harness.rules.keep import CLAIM_SEEDS
from harness.rules.next_step import baseline_runs, step_after
from harness.run.settings import command_on
from harness.run.state import NOT_HELD_AGAINST
from harness.show.stage import stage_of


def line_of_entry(entry: dict) -> str:
    """A journal entry as a line for the terminal; "" for what needs no line."""
    number = entry.get("experiment")
    if entry["event"] == "note":
        return entry["text"]
    if entry["event"] == "proposed":
        return proposed_words(entry) if number else ""
    if entry["event"] == "unrepaired":
        return f"experiment {number}: not repaired: {entry['why']}"
    if entry["event"] == "checked" and not entry["ok"]:
        return f"experiment {number}: refused: {'; '.join(entry['reasons'])}"
    if entry["event"] == "run_started" and entry["kind"] == "confirm":
        return f"experiment {number}: promising, so once more on seed {entry['seed']}"
    if entry["event"] == "run_started" and entry["kind"] == "refresh":
        return f"experiment {entry['beside']}: the best so far (experiment {number}) is trained once more beside it"
    if entry["event"] == "run_started" and entry.get("fewer_rows"):
        return f"experiment {number}: once more, with at most {entry['device_batch_limit']} rows at a time"
    if entry["event"] == "trained" and entry["status"] != "ok":
        return f"experiment {number}: {entry['status']}: {entry['cause']}"
    if entry["event"] == "trained" and entry.get("shared_with"):
        others = ", ".join(Path(run).name for run in entry["shared_with"])
        effect = "do worse" if entry.get("core_seconds") is None else "take longer"
        return f"experiment {number}: run {others} trains on this device too: both {effect} than alone"
    if entry["event"] == "scored" and entry["val_bpb"] is None and entry["status"] == "ok":
        return ""  # of a smoke run
    if entry["event"] == "scored":
        return f"experiment {number}, run {entry['run']}: " + (
            f"val_bpb {entry['val_bpb']:.6f}" if entry["val_bpb"] else f"{entry['status']}: {entry['cause']}"
        )
    if entry["event"] == "audited" and entry["status"] != "ok":
        return f"experiment {number}, run {entry['run']}: {entry['status']}: {entry['cause']}"
    if entry["event"] == "controlled":
        numbers = ", ".join(map(str, entry["suspects"]))
        alike = f"experiments {numbers} all ended with {entry['suspected']!r}: ours?"
        return f"{alike} The best file so far, tried again, {'trains and is scored: it is theirs' if entry['status'] == 'ok' else 'fails too'}"
    if entry["event"] == "ruled":
        return f"experiment {number}: {'accepted' if entry['accept'] else 'refused'} by a person"
    if entry["event"] == "decided" and number:
        return f"experiment {number}: {entry['decision']}: {entry['verdict']}"
    return ""


def proposed_words(entry: dict) -> str:
    """A proposal: its idea and who had it; that the language model could not be asked, where that is so."""
    repair = f", repair {entry['attempt']}" if entry.get("attempt") else ""
    by = f", {entry['model']}" if entry.get("model") else ""
    words = f"experiment {entry['experiment']}{repair}: {entry['title']} ({entry['category']}{by})"
    failed, note = entry.get("llm_failed"), entry.get("note") or ""
    if not failed and note.startswith("the model failed"):
        return f"{words}; {note.partition(';')[0]}{note.partition(';')[1]}{note.partition(';')[2].partition(';')[0]}"
    return f"{words}; it is {entry['proposer']}'s, since the language model could not: {failed}" if failed else words


def standing_words(wishes: Wishes) -> str:
    """Where a night stands, as one line: stage, experiment, best so far, time left."""
    state = wishes.run.state
    if state.opened is None:
        return "preparing"
    stage = stage_of(wishes.run)
    if stage.experiment == 0:
        runs = len(state.experiments[0].attempt.runs) if state.experiments else 0
        return f"baseline, run {max(1, runs)} of {baseline_runs(state)} · {stage.words}"
    if (wishes.close_out or is_enough(wishes)) and (claim := words_of_close_out(read_close_out(wishes.folder))):
        return claim
    most = wishes.experiments
    if stage.name == "proposing" and most is not None and stage.experiment > most:
        return "analysis"
    of = f"/{most}" if most is not None else ""
    best = f"best {state.incumbent.mean:.4f} (experiment {state.incumbent.number})"
    return f"experiment {stage.experiment}{of} · {stage.words} · {best} · {time_left(wishes)} left"


def time_left(wishes: Wishes) -> str:
    """Time left of the night, as far as it can be known."""
    most = wishes.experiments
    counted = float("inf") if most is None else most - experiments_done(wishes)
    claim = claim_seconds(wishes, 2 * CLAIM_SEEDS)
    seconds = max(0.0, min(counted * seconds_per_experiment(wishes) + claim, wishes.seconds_left()))
    return f"about {seconds / 3600:.1f} h" if seconds > 5400 else f"about {max(1, round(seconds / 60))} min"


def finishing_words(wishes: Wishes) -> str:
    """The work in flight, in words."""
    step = step_after(wishes.run.state)
    if words_of_close_out(read_close_out(wishes.folder)) and (wishes.close_out or is_enough(wishes)):
        return "a training of the claim"
    if step.kind == "open" or step.experiment == 0:
        return "the baseline"
    return f"experiment {step.experiment}"


def claim_words(wishes: Wishes) -> str:
    """What may be said of the night: its claim, or how to have it measured."""
    state = wishes.run.state
    if best := claim_of(wishes.folder, state.incumbent.number):
        return f"the claim: {words_of_claim(best)}"
    if not is_wanted(state, read_close_out(wishes.folder)):
        return "nothing was kept, so nothing is claimed"
    command = command_on(wishes.folder, "--close-out")
    return f"whether the best is an improvement is not measured yet ({claim_plan_words(wishes)}): {command}"


def claim_plan_words(wishes: Wishes) -> str:
    """How many trainings the claim still takes, and how long that is."""
    settings = wishes.run.settings
    left = trainings_left(wishes.run.state, read_close_out(wishes.folder), settings.profile["name"] == "demo")
    return f"best and baseline in turn on fresh seeds, {left} trainings, about {claim_seconds(wishes, left) / 60:.0f} min"


def progress_made(entries: list[dict]) -> int:
    """How many entries stand for finished work: a run that was cut off, or failed through no fault of its own, is none, however often that happens,
    nor is one of the incumbent beside an idea."""
    idle = ("run_started", "controlled")
    place = lambda entry: tuple(entry.get(name) for name in ("experiment", "attempt", "run"))  # noqa: E731
    beside = {place(entry) for entry in entries if entry["event"] == "run_started" and entry.get("kind") == "refresh"}
    done = [entry for entry in entries if entry["event"] not in idle and entry.get("status") not in NOT_HELD_AGAINST]
    return sum(entry["event"] not in ("trained", "scored") or place(entry) not in beside for entry in done)
