"""What the loop notebook shows: plain HTML with inline styles, every foreign text escaped.

In: a Lab and its events. Out: IPython display objects, or lines of text where there is no notebook. Draws its own small curves, so a page needs
no plotting library and stays a few kilobytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from harness.lab.close_out import CloseOut, words_of_claim
from harness.lab.loop import Lab
from harness.run.git_history import experiment_ref
from harness.run.noise import KNOWN_DF
from harness.run.pace import cells_of_pace, pace_of, words_outside
from harness.run.records import noise_of_gain
from harness.run.settings import environment_words
from harness.run.state import Experiment
from harness.sandbox.wall import find_wall
from harness.show.costs import run_usage, usage_words
from harness.show.markup import BLUE, COLOURS, GREEN, GREY, as_text, box, curve, divs, escape, soft, table
from harness.show.sentences import plural

REFRESH_SECONDS = 0.5
PACE = ("steps", "tokens/s", "cores held by others")


class LiveTraining:
    """Listener for `Lab.train`: one output, updated in place; lines of text when there is no notebook."""

    def __init__(self, stream=sys.stdout) -> None:
        self.stream = stream
        self.handle = None
        self.done: list[str] = []  # finished runs, as text
        self.points: list[tuple[float, float]] = []
        self._shown = 0.0
        self._stage = ""

    def __call__(self, event: dict) -> None:
        if event.get("stage") == "training" and "event" not in event:
            self.points = []
        if event.get("event") == "step" and isinstance(event.get("train_loss"), int | float):
            self.points.append((float(event.get("progress", 0.0)), float(event["train_loss"])))
        closing = self._note_end(event)
        if closing or time.monotonic() - self._shown >= REFRESH_SECONDS or self._stage != event.get("stage"):
            self._shown, self._stage = time.monotonic(), event.get("stage", "")
            self._show(event)

    def _note_end(self, event: dict) -> bool:
        if event.get("event") == "over" and event["status"] != "ok":
            self.done.append(f"run {event['run']}: {event['status']}: {event['cause']}")
        elif event.get("event") == "audited":
            found = "nothing found" if event["status"] == "ok" else f"{event['status']}: {event['cause']}"
            self.done.append(f"run {event['run']}: close audit: {found}")
        elif event.get("event") == "scored":
            self.done.append(f"run {event['run']}: {scored_words(event)}")
        else:
            return False
        return True

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
        if self.done and event.get("event") in ("scored", "audited", "over"):
            return self.done[-1]
        if event.get("stage") == "scoring":
            return f"run {event['run']}: scoring on validation text {100 * event.get('share', 0.0):.0f}%"
        if event.get("stage") == "auditing":
            return f"run {event['run']}: close audit, then private text {100 * event.get('share', 0.0):.0f}%"
        share = self.points[-1][0] if self.points else 0.0
        what = f"run {event.get('run', 0)} ({event.get('run_kind', 'score')}, seed {event.get('seed')})"
        if not self.points:
            return f"{what}: starting"
        rate = event.get("tok_per_sec")
        left = max(0.0, (1 - share) * event.get("budget_seconds", 0.0))
        speed = f", {rate:,.0f} tokens/s" if isinstance(rate, int | float) else ""
        return f"{what}: training {100 * share:.0f}%, loss {self.points[-1][1]:.3f}{speed}, {left:.0f} s of its budget left"

    def page(self, event: dict) -> str:
        """The output: runs that are over, the one in work with its bar, the curve."""
        over = event.get("event") in ("scored", "audited", "over")
        share = event["share"] if "share" in event else self.points[-1][0] if self.points else 0.0
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.done)
        now = "" if over else f'<div style="margin-top:4px">{escape(self.words(event))}</div>'
        bar = "" if over else f'<progress value="{share:.3f}" max="1" style="width:460px"></progress>'
        return box(lines + now + bar + curve(self.points), BLUE)


def scored_words(event: dict) -> str:
    """How a scoring ended; a smoke run's gives no score."""
    if event["val_bpb"] is not None:
        return f"val_bpb {event['val_bpb']:.6f}"
    if event["status"] == "ok":
        return "the first steps and one scored batch went well"
    return f"{event['status']}: {event['cause']}"


def in_notebook() -> bool:
    """True inside an IPython kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def show(page: str) -> None:
    """Display HTML in a notebook."""
    from IPython.display import HTML, display

    display(HTML(as_text(page)))


# --- The parts of a lab-book page -----------------------------------------------------------------------------------


def state_page(lab: Lab, last: int = 6) -> str:
    """Where the run stands: settings, incumbent, noise, the last experiments."""
    state = lab.state
    incumbent = state.incumbent
    decided = [e for e in state.experiments if e.decided]
    wall = find_wall()
    lines = [f"<div><b>run {escape(lab.settings.tag)}</b>: {escape(environment_words(lab.settings))}</div>"]
    lines.append(f"<div>wall: {escape(wall.words)}{escape(f' ({wall.why})') if wall.why else ''}</div>")
    if incumbent:
        title = incumbent.decided["title"]
        lines.append(
            f"<div>incumbent: experiment {incumbent.number}, {escape(title)}, <b>val_bpb {incumbent.mean:.6f}</b> ({len(incumbent.attempt.scores)} runs)</div>"
        )
        lines.append(f"<div>noise: {escape(state.noise.words)}</div>")
    if cost := usage_words(run_usage(lab.folder)):
        lines.append(f"<div>language model so far: {escape(cost)}</div>")
    rows = [(e.number, e.decided["decision"], score_text(e), e.decided["title"]) for e in decided[-last:]]
    return box("".join(lines)) + (table(("experiment", "decision", "val_bpb", "idea"), rows) if rows else "")


def score_page(lab: Lab, experiment: Experiment) -> str:
    """Every run of an experiment and of the incumbent beside it, its pace beside the baseline's, and the gain as the keep rule sees it."""
    named = [(f"attempt {number}", run) for number, attempt in enumerate(experiment.attempts) for run in attempt.own]
    named += [
        (f"experiment {each.number}", run)
        for each in lab.state.experiments
        for attempt in each.attempts
        for run in attempt.runs
        if run.started.get("beside") == experiment.number
    ]
    rows = [
        (
            name,
            run.number,
            run.started["kind"],
            run.started["seed"],
            run_text(run),
            *charge_cells(run),
            audit_text(run),
        )
        for name, run in named
    ]
    page = table(("of", "run", "kind", "seed", "val_bpb", "charged", "wall time", "audit"), rows)
    page += pace_table(lab, experiment)
    page += outside_lines([(f"{name}, run {run.number}", run.trained) for name, run in named])
    if experiment.mean is not None and experiment.number:
        page += box(escape(gain_words(lab, experiment)))
    return page


def pace_table(lab: Lab, experiment: Experiment) -> str:
    """Steps, tokens/s and the machine's share of an experiment, beside the baseline's; "" before it has a scored run."""
    shown = [("this experiment", experiment)] if experiment.number else []
    found = [
        (name, *cells_of_pace(pace_of(run.trained for run in each.attempt.scored)))
        for name, each in [*shown, ("baseline", lab.state.experiments[0])]
    ]
    known = any(found[0][1:])
    return f'<div style="margin-top:6px">{table(("one training", *PACE), found)}</div>' if known else ""


def outside_lines(named: Sequence[tuple[str, dict | None]]) -> str:
    """A line for each training: what it took that the budget does not cover."""
    lines = [f"{name}: {words}" for name, trained in named if trained and (words := words_outside(trained))]
    return box(soft("outside the clock") + divs(lines)) if lines else ""


def gain_words(lab: Lab, experiment: Experiment) -> str:
    """The gain over the incumbent's runs that count. Sigmas are counted only where sigma is known."""
    decided, state = experiment.decided or {}, lab.state
    number, runs = decided.get("incumbent", state.incumbent.number), decided.get("incumbent_runs")
    if decided.get("gain") is not None:
        before, sigma, df = experiment.mean + decided["gain"], decided["sigma"], decided["df"]
    else:
        counted = [run.val_bpb for run in state.rivals]
        before, runs = sum(counted) / len(counted), len(counted)
        sigma, df = state.noise.sigma, state.noise.df
    gain, of = before - experiment.mean, f" in {plural(runs, 'run')} that count" if runs else ""
    words = f"mean {experiment.mean:.6f} against {before:.6f} of experiment {number}{of}: gain {gain:+.6f} bpb"
    noise = noise_of_gain(sigma, len(experiment.attempt.scores), runs or 0)
    if noise and df >= KNOWN_DF:
        return f"{words}, {gain / noise:+.1f} sigma of that difference"
    return f"{words}; too few trainings for saying how many sigma that is" if noise else words


def decision_page(experiment: Experiment) -> str:
    """The decision with its reason."""
    decided = experiment.decided
    colour = COLOURS["crash"] if decided["status"] != "ok" else COLOURS.get(decided["decision"], GREY)
    return box(f'<div><b>{escape(decided["decision"])}</b></div><div>{escape(decided["verdict"])}</div>', colour)


def commit_page(lab: Lab) -> str:
    """Where the experiment can be found from now on."""
    experiment = lab.experiment
    commit = experiment.committed["commit"]
    if not commit:
        return box("no git repository: the experiment's files are in its folder only")
    ref = experiment_ref(lab.settings.tag, experiment.number)
    line = f"commit {commit[:10]} at {ref}"
    moved = f"; branch autoresearch/{lab.settings.tag} moved to it" if experiment.decided["decision"] == "keep" else ""
    return box(f"<div>{escape(line + moved)}</div><div><code>git show {escape(ref)}</code></div>")


def learnt_page(lab: Lab, experiment: Experiment) -> str:
    """What this experiment adds to what is known, in one or two sentences, from the figures alone."""
    decided, proposed = experiment.decided, experiment.attempt.proposed
    tried = f"“{proposed['title']}”"
    if decided["status"] != "ok":
        words = f"{tried} does not run here ({decided['status']}). The proposer is told, and will keep away from it."
    elif decided["decision"] == "keep":
        words = f"{tried} is on the branch now, at {experiment.mean:.6f}. The next ideas start from its train.py."
    else:
        size = f"{decided['gain']:+.4f} bpb" if decided["gain"] is not None else "no measurable difference"
        words = f"{tried} changed val_bpb by a gain of {size}, which is {decided['kind']}. It stays in the history, reachable by its ref."
    rows = [e for e in lab.state.experiments[1:] if e.decided]
    kept = sum(e.decided["decision"] == "keep" for e in rows)
    branch, baseline = lab.state.incumbent.mean, lab.state.experiments[0].mean
    words += f" So far: {plural(len(rows), 'experiment')}, {kept} kept; branch at {branch:.4f}, baseline {baseline:.4f}, as judged, flattered by luck."
    return box(escape(words))


def claim_page(lab: Lab, found: CloseOut) -> str:
    """The runs of the claim, and what they allow to say."""
    if found.begun is None:
        return box("nothing was kept, so there is nothing to claim: the baseline stands")
    if not found.claimed:
        return box("stopped before the claim was complete: run this notebook again, and it goes on")
    rows = [
        (
            run.started["role"],
            run.started["seed"],
            *(f"{run.scored[name]:.6f}" if run.scored.get(name) else run.status for name in ("val_bpb", "holdout_bpb")),
            *cells_of_pace(pace_of([run.trained])),
            f"{run.trained['wall_seconds']:.0f} s",
        )
        for run in found.runs
        if run.scored
    ]
    page = table(("file", "seed", "val_bpb", "holdout_bpb", *PACE, "wall time"), rows)
    page += outside_lines([(f"{run.started['role']}, seed {run.started['seed']}", run.trained) for run in found.runs])
    if template := found.claimed.get("template_bpb"):
        page += box(f"the template that real nights begin with scored {template:.6f} beside them, in one run")
    return page + box(f"<b>{escape(words_of_claim(found.claimed))}</b>", GREEN)


def score_text(experiment: Experiment) -> str:
    """val_bpb, or the status of what has none."""
    return f"{experiment.mean:.6f}" if experiment.mean is not None else experiment.decided["status"]


def run_text(run) -> str:
    return f"{run.val_bpb:.6f}" if run.val_bpb is not None else str(run.status or "in work")


def charge_cells(run) -> tuple[str, str]:
    """What was charged to the budget, and the wall time that took."""
    trained = run.trained or {}
    found = (trained.get("training_seconds"), trained.get("wall_seconds"))
    return tuple(f"{seconds:.1f} s" if seconds else "" for seconds in found)


def audit_text(run) -> str:
    """What the audits found, over how many probes, and behind which wall."""
    looks = [entry for entry in (run.scored, run.audited) if entry and entry.get("audit")]
    if not looks:
        return ""
    probes = sum(entry["audit"]["probes"] for entry in looks)
    private = f"; private holdout {looks[-1]['holdout']}" if looks[-1].get("holdout") else ""
    if looks[-1].get("unseen"):
        private += f"; unseen text {looks[-1]['unseen']} (shows {looks[-1]['unseen_floor_bpb']:.2g} bpb and more)"
    return f"{looks[-1]['audit']['verdict']}, {probes} probes, wall: {looks[-1]['wall']}{private}"
