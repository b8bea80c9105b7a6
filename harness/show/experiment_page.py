"""What the notebooks show of experiments, every foreign text as text.

In: a Lab and its events. Out: HTML, or lines of text where there is no notebook. Draws its own
small curves, so a page needs no plotting library and stays a few kilobytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from harness.lab.loop import Lab
from harness.run.git_history import experiment_ref
from harness.run.noise import KNOWN_DF
from harness.run.pace import cells_of_pace, pace_of, words_of_card, words_outside
from harness.run.records import noise_of_gain, records_from_journal
from harness.run.settings import environment_words, wall_of
from harness.run.state import Experiment, Training
from harness.show.costs import run_usage, usage_words
from harness.show.markup import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    RED,
    Html,
    as_text,
    bold,
    box,
    curve,
    divs,
    folded,
    soft,
    table,
)
from harness.show.sentences import plural, say_counts, say_standing

REFRESH_SECONDS = 0.5
LATEST = 6  # experiments that the state lists
PACE = ("steps", "tokens/s", "cores held by others")
COLOURS = {"baseline": BLUE, "keep": GREEN, "discard": GREY, "quarantine": AMBER}  # of decisions
OVER = ("scored", "audited", "over")  # events that end a training or a look at it


class LiveTraining:
    """Listener for `Lab.train`: one output, updated in place; lines of text without a notebook."""

    def __init__(self, stream=sys.stdout) -> None:
        self.stream = stream
        self.handle = None
        self.done: list[str] = []  # finished runs, as text
        self.points: list[tuple[float, float]] = []
        self._shown = 0.0
        self._stage = ""

    def __call__(self, event: dict) -> None:
        kind = event.get("event")
        if event.get("stage") == "training" and kind is None:
            self.points = []
        if kind == "step":
            self.points.append((event["progress"], event["train_loss"]))
        end = end_words(event)
        self.done += [f"run {event['run']}: {end}"] if end else []
        is_due = time.monotonic() - self._shown >= REFRESH_SECONDS
        if end or is_due or self._stage != event.get("stage"):
            self._shown, self._stage = time.monotonic(), event.get("stage", "")
            self._show(event)

    def _show(self, event: dict) -> None:
        if not in_notebook():
            print(self.words(event), file=self.stream, flush=True)
            return
        from IPython.display import HTML, display

        page = HTML(as_text(self.page(event)))
        if self.handle is None:
            self.handle = display(page, display_id=True)
        else:
            self.handle.update(page)

    def words(self, event: dict) -> str:
        """One line on where the run stands."""
        if self.done and event.get("event") in OVER:
            return self.done[-1]
        share = f"{100 * event.get('share', 0.0):.0f}%"
        if event.get("stage") == "scoring":
            return f"run {event['run']}: scoring on validation text {share}"
        if event.get("stage") == "auditing":
            return f"run {event['run']}: close audit, then private text {share}"
        kind = event.get("run_kind", "score")
        what = f"run {event.get('run', 0)} ({kind}, seed {event.get('seed')})"
        if not self.points:
            return f"{what}: starting"
        progress, loss = self.points[-1]
        rate = event.get("tok_per_sec")
        speed = f", {rate:,.0f} tokens/s" if isinstance(rate, int | float) else ""
        left = max(0.0, (1 - progress) * event.get("budget_seconds", 0.0))
        done = f"training {100 * progress:.0f}%, loss {loss:.3f}"
        return f"{what}: {done}{speed}, {left:.0f} s of its budget left"

    def page(self, event: dict) -> Html:
        """The output: runs that are over, the one in work with its bar, the curve."""
        now = Html()
        if event.get("event") not in OVER:
            share = event.get("share", self.points[-1][0] if self.points else 0.0)
            bar = Html('<progress value="{:.3f}" max="1" style="width:460px"></progress>')
            now = divs([self.words(event)]) + bar.format(share)
        return box(divs(self.done) + now + curve(self.points), BLUE)


def end_words(event: dict) -> str:
    """How a training or a look at it ended; "" for any other event. A smoke run gives no score."""
    kind, failed = event.get("event"), f"{event.get('status')}: {event.get('cause')}"
    is_well = event.get("status") == "ok"
    if kind == "audited":
        return f"close audit: {'nothing found' if is_well else failed}"
    if kind == "scored" and event["val_bpb"] is not None:
        return f"val_bpb {event['val_bpb']:.6f}"
    if kind == "scored" and is_well:
        return "the first steps and one scored batch went well"
    return failed if kind in ("scored", "over") and not is_well else ""


def in_notebook() -> bool:
    """True inside an IPython kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def show(page: Html) -> None:
    """Display HTML in a notebook."""
    from IPython.display import HTML, display

    display(HTML(as_text(page)))


# --- The parts of a lab-book page ----------------------------------------------------------------


def state_page(lab: Lab) -> Html:
    """Where the run stands: incumbent, noise, the last experiments; folded, what it runs on."""
    state, wall = lab.state, wall_of(lab.settings)
    incumbent = state.incumbent
    lines = [bold(f"run {lab.settings.tag}")]
    if incumbent:
        name = f"incumbent: experiment {incumbent.number}, {incumbent.decided['title']}, "
        runs = f" ({len(incumbent.attempt.scores)} runs)"
        lines.append(Html("{}{}{}").format(name, bold(f"val_bpb {incumbent.mean:.6f}"), runs))
        lines.append(f"noise: {state.noise.words}")
    if cost := usage_words(run_usage(lab.folder)):
        lines.append(f"language model so far: {cost}")
    because = f" ({wall.why})" if wall.why else ""
    same = [environment_words(lab.settings), f"wall: {wall.words}{because}"]
    lines.append(folded("settings and wall", divs(same)))
    rows = []
    for each in [each for each in state.experiments if each.decided][-LATEST:]:
        score = each.decided["status"] if each.mean is None else f"{each.mean:.6f}"
        rows.append((each.number, each.decided["decision"], score, each.decided["title"]))
    head = ("experiment", "decision", "val_bpb", "idea")
    return box(divs(lines)) + (table(head, rows) if rows else "")


def score_page(lab: Lab, experiment: Experiment) -> Html:
    """Every run of an experiment and of the incumbent beside it, its pace, and its gain."""
    named = [
        (f"attempt {number}", run)
        for number, attempt in enumerate(experiment.attempts)
        for run in attempt.own
    ]
    named += [
        (f"experiment {each.number}", run)
        for each in lab.state.experiments
        for attempt in each.attempts
        for run in attempt.runs
        if run.started.get("beside") == experiment.number
    ]
    head = ("of", "run", "kind", "seed", "val_bpb", "charged", "wall time", "audit")
    page = table(head, [run_cells(name, run) for name, run in named])
    page += pace_table(lab, experiment)
    page += training_lines([(f"{name}, run {run.number}", run.trained) for name, run in named])
    if experiment.mean is not None and experiment.number:
        page += box(gain_words(lab, experiment))
    return page


def run_cells(name: str, run: Training) -> tuple:
    """A run's row: its score, what was charged to the budget and the time that took, its audits."""
    score = f"{run.val_bpb:.6f}" if run.val_bpb is not None else run.status or "in work"
    trained = run.trained or {}
    times = [trained.get("training_seconds"), trained.get("wall_seconds")]
    cells = [f"{seconds:.1f} s" if seconds else "" for seconds in times]
    started = run.started
    return name, run.number, started["kind"], started["seed"], score, *cells, audit_text(run)


def pace_table(lab: Lab, experiment: Experiment) -> Html:
    """An experiment's pace beside the baseline's; empty before it has a scored run."""
    shown = {"baseline": lab.state.experiments[0]}
    if experiment.number:
        shown = {"this experiment": experiment} | shown
    rows = [
        (name, *cells_of_pace(pace_of(run.trained for run in each.attempt.scored)))
        for name, each in shown.items()
    ]
    return table(("one training", *PACE), rows) if any(rows[0][1:]) else Html()


def training_lines(named: Sequence[tuple[str, dict | None]]) -> Html:
    """A line for each training: what it took that the budget does not cover; and its card's."""
    trainings, page = [(name, trained) for name, trained in named if trained], Html()
    outside = [(name, words_outside(trained)) for name, trained in trainings]
    cards = [(name, words_of_card([trained])) for name, trained in trainings]
    for title, told in (("outside the clock", outside), ("the card", cards)):
        if lines := [f"{name}: {words}" for name, words in told if words]:
            page += box(soft(title) + divs(lines))
    return page


def gain_words(lab: Lab, experiment: Experiment) -> str:
    """The gain over the incumbent's runs that count; in sigmas only where sigma is known."""
    decided, state = experiment.decided or {}, lab.state
    number = decided.get("incumbent", state.incumbent.number)
    if decided.get("gain") is not None:
        runs, gain = decided.get("incumbent_runs"), decided["gain"]
        sigma, df = decided["sigma"], decided["df"]
    else:
        rivals = [run.val_bpb for run in state.rivals]
        runs, gain = len(rivals), sum(rivals) / len(rivals) - experiment.mean
        sigma, df = state.noise.sigma, state.noise.df
    of = f" in {plural(runs, 'run')} that count" if runs else ""
    against = f"{experiment.mean + gain:.6f} of experiment {number}{of}"
    words = f"mean {experiment.mean:.6f} against {against}: gain {gain:+z.6f} bpb"
    noise = noise_of_gain(sigma, len(experiment.attempt.scores), runs or 0)
    if not noise:
        return words
    if df >= KNOWN_DF:
        return f"{words}, {gain / noise:+z.1f} sigma of that difference"
    return f"{words}; too few trainings for saying how many sigma that is"


def decision_page(experiment: Experiment) -> Html:
    """The decision with its reason."""
    decided = experiment.decided
    colour = COLOURS[decided["decision"]] if decided["status"] == "ok" else RED
    return box(divs([bold(decided["decision"]), decided["verdict"]]), colour)


def commit_page(lab: Lab) -> Html:
    """Where the experiment can be found from now on."""
    experiment, tag = lab.experiment, lab.settings.tag
    commit = experiment.committed["commit"]
    if not commit:
        return box("no git repository: the experiment's files are in its folder only")
    ref = experiment_ref(tag, experiment.number)
    is_kept = experiment.decided["decision"] == "keep"
    moved = f"; branch autoresearch/{tag} moved to it" if is_kept else ""
    command = Html("<code>git show {}</code>").format(ref)
    return box(divs([f"commit {commit[:10]} at {ref}{moved}", command]))


def learnt_page(lab: Lab, experiment: Experiment) -> Html:
    """What this experiment adds to what is known, from the figures alone."""
    decided, title = experiment.decided, f"“{experiment.attempt.proposed['title']}”"
    if decided["status"] != "ok":
        words = (
            f"{title} does not run here ({decided['status']}). The proposer is told, and will keep "
            "away from it."
        )
    elif decided["decision"] == "keep":
        words = (
            f"{title} is on the branch now, at {experiment.mean:.4f}. The next ideas start from "
            "its train.py."
        )
    else:
        gain = decided["gain"]
        size = f"{gain:+z.4f} bpb" if gain is not None else "no measurable difference"
        words = (
            f"{title} changed val_bpb by a gain of {size}, which is {decided['kind']}. It stays in "
            "the history, reachable by its ref."
        )
    records = records_from_journal(lab.entries)
    return box(
        f"{words} So far {say_counts(records)}. {say_standing(records)}, as judged, flattered by "
        "luck."
    )


def audit_text(run: Training) -> str:
    """What the audits found, over how many probes, and behind which wall."""
    looks = [entry for entry in (run.scored, run.audited) if entry and entry.get("audit")]
    if not looks:
        return ""
    last, probes = looks[-1], sum(entry["audit"]["probes"] for entry in looks)
    words = f"{last['audit']['verdict']}, {probes} probes, wall: {last['wall']}"
    if last.get("holdout"):
        words += f"; private holdout {last['holdout']}"
    if last.get("unseen"):
        floor = f"shows {last['unseen_floor_bpb']:.2g} bpb and more"
        words += f"; unseen text {last['unseen']} ({floor})"
    return words
