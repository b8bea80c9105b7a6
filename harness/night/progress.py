"""What a night says while it runs: entries as lines, and where it stands as one line.

In: the plan, the journal, the running training's last event. Out: sentences, and how much finished
work the journal tells of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.lab.close_out import (
    is_wanted,
    read_close_out,
    words_of_claim,
    words_of_close_out,
)
from harness.lab.close_out_findings import sentences
from harness.lab.close_out_questions import plan_claim, words_left
from harness.lab.machine_facts import PROBE
from harness.lab.other_text import changes_of_text, find_text
from harness.night.wishes import Wishes
from harness.rules.keep import CLAIM_SEEDS
from harness.rules.next_step import baseline_runs, step_after
from harness.run.pace import place_of
from harness.run.records import records_from_journal
from harness.run.run import Run
from harness.run.settings import command_on
from harness.run.state import NOT_HELD_AGAINST
from harness.show.costs import asked_of
from harness.show.sentences import model_words, say_counts, say_standing
from harness.show.stage import stage_of


def line_of_entry(entry: dict, before: Sequence[dict] = ()) -> str:
    """A journal entry as a line for the terminal; "" for what needs no line. before: the entries
    before it, of which none is told twice."""
    number = entry.get("experiment")
    idea, run = f"experiment {number}", f"experiment {number}, run {entry.get('run')}"
    match entry:
        case {"event": "note", "text": text}:
            return text
        case {"event": "proposed"} if number:
            return proposed_words(entry, before)
        case {"event": "unrepaired", "why": why}:
            return f"{idea}: not repaired: {why}"
        case {"event": "checked", "ok": False, "reasons": reasons}:
            return f"{idea}: refused: {'; '.join(reasons)}"
        case {"event": "run_started", "kind": "confirm", "seed": seed}:
            return f"{idea}: promising, so once more on seed {seed}"
        case {"event": "run_started", "kind": "refresh", "beside": beside}:
            best = f"the best so far ({idea})"
            return f"experiment {beside}: {best} is trained once more beside it"
        case {"event": "run_started", "fewer_rows": True, "device_batch_limit": limit}:
            return f"{idea}: once more, with at most {limit} rows at a time"
        case {"event": "trained", "status": "ok", "shared_with": [*_, _] as runs}:
            others = ", ".join(Path(folder).name for folder in runs)
            effect = "do worse" if entry.get("core_seconds") is None else "take longer"
            return f"{idea}: run {others} trains on this device too: both {effect} than alone"
        case {"event": "trained", "status": status, "cause": cause} if status != "ok":
            return f"{idea}: {status}: {cause}"
        case {"event": "scored", "status": "ok", "val_bpb": float(score)}:
            return f"{run}: val_bpb {score:.6f}"
        case {"event": "scored" | "audited", "status": status, "cause": cause} if status != "ok":
            return f"{run}: {status}: {cause}"
        case {"event": "controlled", "suspects": suspects, "suspected": cause, "status": status}:
            numbers = ", ".join(map(str, suspects))
            alike = f"experiments {numbers} all ended with {cause!r}: ours?"
            found = "trains and is scored: it is theirs" if status == "ok" else "fails too"
            return f"{alike} The best file so far, tried again, {found}"
        case {"event": "ruled", "accept": accept}:
            return f"{idea}: {'accepted' if accept else 'refused'} by a person"
        case {"event": "decided", "decision": decision, "verdict": verdict} if number:
            return f"{idea}: {decision}: {verdict}"
    return ""


def proposed_words(entry: dict, before: Sequence[dict] = ()) -> str:
    """A proposal: its idea and who had it; that the language model could not be asked, where that
    is so, and why, unless that was the reason the last time as well."""
    repair = f", repair {entry['attempt']}" if entry.get("attempt") else ""
    by = f", {model_words(entry)}" if entry.get("model") else ""
    idea = f"{entry['title']} ({entry['category']}{by})"
    words = f"experiment {entry['experiment']}{repair}: {idea}"
    if failed := entry.get("llm_failed"):
        who = f"it is {entry['proposer']}'s, since the language model could not"
        last = next((each.get("llm_failed") for each in reversed(asked_of(before))), "")
        return f"{words}; {who}{', as before' if failed == last else f': {failed}'}"
    note = entry.get("note") or ""
    if note.startswith("the model failed"):
        return f"{words}; {';'.join(note.split(';')[:2])}"
    return words


def standing_words(wishes: Wishes) -> str:
    """Where a night stands, as one line: stage, experiment, best so far, time left."""
    state = wishes.run.state
    if state.opened is None:
        is_measuring = (wishes.folder / PROBE).exists()
        return "measuring this machine, once" if is_measuring else "preparing"
    stage = stage_of(wishes.run)
    if stage.experiment == 0:
        most = baseline_runs(state)
        # Of those that count: a training that is repeated is the same one again.
        done = state.experiments[0].attempt.times_scored if state.experiments else 0
        return f"baseline, run {min(done + 1, most)} of {most} · {stage.words}"
    if claim := claim_in_flight(wishes):
        return claim
    most = wishes.experiments
    if stage.name == "proposing" and most is not None and stage.experiment > most:
        return "analysis"
    number = f"{stage.experiment}/{most}" if most is not None else f"{stage.experiment}"
    tip = state.incumbent
    stands = f"the branch stands at {tip.mean:.4f} (experiment {tip.number})"
    return f"experiment {number} · {stage.words} · {stands} · {time_left(wishes)} left"


def claim_in_flight(wishes: Wishes) -> str:
    """Where the claim stands, in words; "" while there are other things to do."""
    claim = words_of_close_out(read_close_out(wishes.folder))
    if wishes.close_out:
        return claim or "close-out"
    return claim if wishes.is_enough() else ""


def time_left(wishes: Wishes) -> str:
    """Time left of the night, as far as it can be known."""
    seconds = wishes.seconds_left
    if wishes.experiments is not None:
        left = wishes.experiments - wishes.experiments_done
        all_of_it = left * wishes.seconds_per_experiment + wishes.claim_seconds(2 * CLAIM_SEEDS)
        seconds = min(seconds, all_of_it)
    if seconds > 5400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {max(1, round(seconds / 60))} min"


def finishing_words(wishes: Wishes) -> str:
    """The work in flight, in words."""
    step = step_after(wishes.run.state)
    if claim_in_flight(wishes):
        return "a training of the close-out"
    if step.kind == "open" or step.experiment == 0:
        return "the baseline"
    return f"experiment {step.experiment}"


def result_words(run: Run) -> str:
    """What the experiments came to: the end of a night."""
    records = records_from_journal(run.entries)
    return f"{say_counts(records)}. {say_standing(records)}"


def close_out_words(wishes: Wishes) -> Iterator[str]:
    """What may be said of the night: its claim and what was found after it, and how to have the
    rest measured."""
    state, command = wishes.run.state, command_on(wishes.folder, "--close-out")
    found = read_close_out(wishes.folder).about(state.incumbent.number)
    if found.claimed:
        yield f"the claim: {words_of_claim(found.claimed)}"
        yield from sentences(state, found)
        asked = (wishes.source, wishes.overrides) if text_asked_for(wishes) else ("", "")
        text = find_text(wishes.run.settings, *asked)
        if wishes.close_out and (left := words_left(wishes.run, found, text)):
            again = f"{command} --hours HOURS"
            yield f"{left}: {'the same command with more --hours' if text else again}"
    elif is_wanted(state, found):
        plan = claim_plan_words(wishes)
        yield f"whether the best is an improvement is not measured yet ({plan}): {command}"
    else:
        yield "nothing was kept, so nothing is claimed"


def close_out_plan_words(wishes: Wishes) -> str:
    """What the close-out will do, as said at its start."""
    claim = ""
    if is_wanted(wishes.run.state, read_close_out(wishes.folder)):
        claim = f"the claim: {claim_plan_words(wishes)}"
        if not wishes.close_out:
            return claim
    hours = f"within {wishes.most_hours:g} hours (--hours)"
    other = "whether the gain holds on the other text, " * bool(text_asked_for(wishes))
    after = f"{other}which changes matter and whether the gain lasts, {hours}"
    return f"{claim}; then {after}" if claim else f"after the claim: {after}"


def text_asked_for(wishes: Wishes) -> dict[str, object]:
    """What a close-out is asked to compare on besides the run's own text, by a profile's fields."""
    if not (wishes.close_out and wishes.run.is_there):
        return {}
    return changes_of_text(wishes.run.settings, wishes.source, wishes.overrides)


def claim_plan_words(wishes: Wishes) -> str:
    """How many trainings the claim still takes, and how long that is."""
    run, found = wishes.run, read_close_out(wishes.folder)
    begun = found.goes_on_with(run.state.incumbent.number)
    left = len((found.current if begun else plan_claim(run)).trials_left)
    minutes = wishes.claim_seconds(left) / 60
    trainings = f"{left} trainings, about {minutes:.0f} min"
    return f"best and baseline in turn on fresh seeds, {trainings}"


def progress_made(entries: list[dict]) -> int:
    """How many entries stand for finished work.

    A run that was cut off, or failed through no fault of its own, is none, however often that
    happens; nor is one of the incumbent beside an idea.
    """
    started = [entry for entry in entries if entry["event"] == "run_started"]
    beside = {place_of(entry) for entry in started if entry.get("kind") == "refresh"}
    made = 0
    for entry in entries:
        if entry["event"] in ("trained", "scored") and place_of(entry) in beside:
            continue
        idle = entry["event"] in ("run_started", "controlled")
        made += not idle and entry.get("status") not in NOT_HELD_AGAINST
    return made
