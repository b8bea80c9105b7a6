"""What the panel says of a run, of an experiment and of this machine, as text and HTML.

In: a run, the facts of `status.look_at`, records. Out: words. What others wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil

from harness.ground.cards import lines_of
from harness.ground.errors import LabError
from harness.ground.text import one_line
from harness.rules.next_step import step_after
from harness.run.heartbeat import read_heartbeat
from harness.run.records import KEPT, OUTCOME_WORDS, Record
from harness.run.run import Run
from harness.run.settings import environment_words
from harness.sandbox.keys import has_endpoint
from harness.show.charts.svg import Points, curves_svg
from harness.show.markup import AMBER, BLUE, DOT, GREEN, GREY, RED, Html, bold, box, divs
from harness.show.report_page import curve_of, is_near_miss
from harness.show.sentences import duration, signed
from harness.show.stage import last_event, stage_of

LIGHT = Html("<div>{} <b>{}</b>: {}</div>")
BAR = Html('<progress value="{:.3f}" max="1" style="width:420px;max-width:100%"></progress>')
LIGHTS = {"running": GREEN, "finished": BLUE, "paused": AMBER, "slow": AMBER, "died": RED}
# Spaces as wide as a digit and as a point, so that figures stand below one another in any font.
NO_SCORE = "\u2007\u2008\u2007\u2007\u2007\u2007"
SHOWN: dict[str, Callable[[Record], bool]] = {
    "all": lambda record: True,
    "kept": lambda record: record.outcome in KEPT,
    "near misses": is_near_miss,
    "failures": lambda record: record.outcome in ("crashed", "no result"),
    "quarantine": lambda record: record.outcome == "quarantined",
}
ORDERS: dict[str, Callable[[Record], float]] = {
    "newest first": lambda record: -record.experiment,
    "best score first": lambda record: (
        record.val_bpb if record.val_bpb is not None else float("inf")
    ),
    "largest gain first": lambda record: -(record.gain if record.gain is not None else -9e9),
}


def chosen(records: Sequence[Record], shown: str, order: str, words: str) -> list[Record]:
    """The records to list. shown: of SHOWN; order: of ORDERS; words: to be found in a title."""
    found = [
        record
        for record in records
        if SHOWN[shown](record) and words.casefold() in record.title.casefold()
    ]
    return sorted(found, key=ORDERS[order])


def line_of(record: Record) -> str:
    """An experiment in the list, its figures first since only they have a known width."""
    score = NO_SCORE if record.val_bpb is None else f"{record.val_bpb:.4f}"
    gain = "\u2007" + NO_SCORE
    if record.gain is not None:
        gain = signed(record.gain).replace("-", "\u2212")
    title = f"{OUTCOME_WORDS[record.outcome]}: {one_line(record.title)[:80]}"
    return "\u2003".join([f"{record.experiment:04d}", score, gain, title])


def state_line(facts: dict) -> Html:
    """A light, the run's name, and whether a night is at work on it."""
    return LIGHT.format(DOT.format(LIGHTS.get(facts["state"], GREY)), facts["tag"], facts["why"])


def figures(facts: dict) -> str:
    """Scores, gain and counts on one line."""
    if facts["baseline_val_bpb"] is None:
        return "no baseline yet"
    sigma = facts["sigma"]
    words = [
        f"baseline {facts['baseline_val_bpb']:.4f}",
        f"best score {facts['best_val_bpb']:.4f} (experiment {facts['best_experiment']})",
        f"the branch stands at {facts['branch_val_bpb']:.4f} "
        f"(experiment {facts['branch_experiment']})",
        f"noise of one run {sigma:.4f}" if sigma else "noise unknown",
        f"{facts['experiments']} tried: {facts['kept']} kept as better, "
        f"{facts['simplified']} kept as simpler, {facts['crashed']} crashed",
        f"in quarantine {facts['quarantined']}" if facts["quarantined"] else "",
        facts["claim"] or "not claimed yet",
        f"{facts['free_bytes'] / 1e9:.0f} GB free",
    ]
    return " · ".join(word for word in words if word)


def card_words() -> str:
    """Clock, power and memory in use of each NVIDIA card, as its driver tells; "" without one."""
    fields = "clocks.sm,power.draw,memory.used"
    lines = lines_of(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 5.0)
    return "".join(f"; card at {line.strip()}" for line in lines)


def machine_words(run: Run | None, card: str) -> str:
    """How busy this machine is, whether a key is here, and what the run is trained on."""
    cores = psutil.cpu_count() or 1
    used = psutil.cpu_percent() / 100 * cores
    about = "quiet" if used < 0.3 else f"{used:.1f} of {cores} cores in use"
    key = "a language model is named" if has_endpoint() else "no key here: ideas by tpe"
    return f"machine: {about}{card}; {key}{settings_words(run)}"


def settings_words(run: Run | None) -> str:
    """What a run is trained on and with; "" where it has no settings that can be read."""
    if run is None or not run.is_there:
        return ""
    try:
        return f"; {environment_words(run.settings)}"
    except (LabError, OSError, KeyError, TypeError):
        return "; its settings cannot be read"


def work_box(run: Run, facts: dict) -> Html:
    """What is in flight: idea, stage, time left, share, speed, curve over the one of the branch."""
    number, share = facts["experiment"], facts["training_share"]
    told = facts["state"] == "running" and facts["heartbeat_age_seconds"] is not None
    heartbeat = read_heartbeat(run.folder) if told else None
    idea = bold(f"experiment {number}: {facts['title']}") if facts["title"] else ""
    stage = heartbeat["stage"] if heartbeat else stage_of(run).words
    bar = BAR.format(share) if share is not None else ""
    lines = [idea, stage, bar, speed_words(run), curves_svg(curves_of(run, number))]
    return box(divs(line for line in lines if line), BLUE)


def speed_words(run: Run) -> str:
    """Speed and time left of the training in flight; "" before its first step."""
    step = step_after(run.state)
    if step.kind != "in_flight":
        return ""
    event = last_event(run.training_folder(*step.file, step.run))
    if event.get("event") != "step":
        return ""
    left = (1 - event["progress"]) * run.settings.budget_seconds
    return f"{event['tok_per_sec']:,.0f} tokens/s, {duration(left)} of its budget left"


def curves_of(run: Run, number: int) -> list[tuple[str, Points]]:
    """The training in flight, and that of the branch behind it."""
    experiments, tip = run.state.experiments, run.state.incumbent
    if number >= len(experiments):
        return []
    found = [(f"experiment {number}", curve_of(run, experiments[number], -1))]
    if tip is not None and tip.number != number:
        name = f"experiment {tip.number}, on the branch"
        found.append((name, curve_of(run, tip)))
    return found
