"""The control panel of notebook 00: watch, start and stop nights from JupyterLab, and read what
they found.

In: a results folder. Out: ipywidgets that follow the files of a run. Nothing runs in the kernel: a
night is a process of its own, started by the same commands as in a terminal, and a thread reads its
files. So the panel survives a reload of the browser, shows a night begun elsewhere, and can be
closed at any time. What a proposer wrote is escaped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import ipywidgets as widgets
import psutil
from IPython.display import Markdown, display

from harness import REPOSITORY
from harness.ground.errors import LabError
from harness.run import disk_space
from harness.run.records import KEPT, OUTCOME_WORDS, Record, records_from_journal
from harness.run.run import SAMPLE_TAG, Run, list_runs
from harness.run.settings import environment_words, results_folder
from harness.sandbox.keys import has_endpoint
from harness.show.charts.svg import Points, curves_svg, progress_svg
from harness.show.commands import Commands, copy_of_best, end_night, own_file, read_tail
from harness.show.markup import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    RED,
    Html,
    bold,
    box,
    divs,
    preformatted,
    soft,
)
from harness.show.report_page import curve_of, idea_html, is_near_miss
from harness.show.stage import stage_of
from harness.show.status import look_at, state_words

REFRESH_SECONDS, SIZES_SECONDS = 2.0, 60.0
ALIVE = ("running", "paused", "slow")
LIGHT = Html(
    '<div><span style="display:inline-block;width:.8em;height:.8em;border-radius:50%;'
    'background:{}"></span> <b>{}</b>: {}</div>'
)
LOG = Html('<div style="max-height:260px;overflow:auto">{}</div>')
BAR = Html('<progress value="{:.3f}" max="1" style="width:420px"></progress>')
LIGHTS = {"running": GREEN, "finished": BLUE, "paused": AMBER, "slow": AMBER, "died": RED}
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


OPEN: list[Panel] = []  # the one of this kernel


def show(tag: str = "", results: str = "") -> None:
    """Display the panel; where nothing draws widgets (a saved copy, papermill, nbconvert), its
    picture of now.
    """
    for earlier in OPEN:
        earlier.is_open = False  # this cell ran before: its panel is seen no more
    panel = Panel(tag, results)
    OPEN[:] = [panel]
    panel.start_following()
    shown = panel.view._repr_mimebundle_()
    display(shown | {"text/html": panel.picture()}, raw=True)


class Panel:
    """The widgets, and what was last drawn in them."""

    def __init__(self, tag: str = "", results: str = "") -> None:
        self.results = results_folder(results)
        self.commands = Commands(self.results)
        self.is_open = True
        self.run: Run | None = None
        self._drawn: dict[str, object] = {}
        self._facts: dict = {}
        self._bytes = 0
        self._lock = threading.RLock()  # the thread and a click may both draw
        self.wanted = tag  # the run to show as soon as it is there
        self._make_widgets()
        self._list_tags()
        self.refresh()

    # --- widgets ----------------------------------------------------------------------------------

    def _make_widgets(self) -> None:
        narrow, wide = {"width": "150px"}, {"width": "100%"}
        self.tag = widgets.Dropdown(description="run", layout={"width": "260px"})
        self.new_tag = widgets.Text(placeholder="new run's name", layout=narrow)
        self.state, self.figures, self.machine = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.hours = widgets.BoundedFloatText(
            8.0, min=0.1, max=1000.0, description="hours", layout=narrow
        )
        self.proposer = widgets.Dropdown(
            options=[("as the key says", ""), *((name, name) for name in ("tpe", "llm", "hybrid"))],
            description="ideas by",
            layout={"width": "230px"},
        )
        self.model = widgets.Text(description="model", placeholder="the only one served")
        self.budget = widgets.Text(
            description="its limits", placeholder="budget_tokens=2000000 ..."
        )
        self.begin = widgets.Button(description="Start night", icon="play", button_style="primary")
        self.one = widgets.Button(description="One experiment", icon="step-forward")
        self.demo = widgets.Button(description="Demo (12 minutes)", icon="flask")
        self.stop = widgets.Button(description="Stop after this one", icon="stop")
        self.stop_now = widgets.Button(description="Stop now", icon="times", button_style="warning")
        self.sure = widgets.Checkbox(description="yes", indent=False, layout=narrow)
        self.said = widgets.HTML()
        self.now, self.chart = widgets.HTML(layout=wide), widgets.HTML(layout=wide)
        self.shown = widgets.Dropdown(
            options=list(SHOWN), description="show", layout={"width": "200px"}
        )
        self.order = widgets.Dropdown(
            options=list(ORDERS), description="sort", layout={"width": "240px"}
        )
        self.find = widgets.Text(placeholder="find in titles", layout={"width": "200px"})
        self.list = widgets.Select(rows=14, layout={"width": "460px"})
        self.detail = widgets.HTML(layout={"width": "100%", "min_width": "300px"})
        self.pages = widgets.Output()
        self.accept = widgets.Button(description="Accept", icon="check", layout={"width": "110px"})
        self.refuse = widgets.Button(description="Refuse", icon="ban", layout={"width": "110px"})
        self.quarantine = widgets.HBox([self.accept, self.refuse])
        self.idea = widgets.Text(
            description="idea", placeholder="what it changes, in a few words", layout=wide
        )
        self.why = widgets.Text(description="why", placeholder="why that should help", layout=wide)
        self.copy = widgets.Button(description="Make a copy", icon="edit")
        self.try_it = widgets.Button(description="Run it", icon="play")
        self.places, self.log = widgets.Output(), widgets.HTML()
        own = widgets.VBox([self.idea, self.why, widgets.HBox([self.copy, self.try_it])])
        more = widgets.VBox(
            [
                *(widgets.HTML(bold("your idea now")), own),
                *(widgets.HTML(bold("files to open")), self.places),
                *(widgets.HTML(bold("the night's log")), self.log),
            ]
        )
        self.view = widgets.VBox(
            [
                widgets.HBox([self.tag, self.new_tag, self.machine]),
                self.state,
                self.figures,
                _row(self.begin, self.hours, self.proposer, self.model, self.budget),
                _row(self.one, self.demo, self.stop, self.stop_now, self.sure, self.said),
                self.now,
                self.chart,
                _row(self.shown, self.order, self.find),
                _row(self.list, widgets.VBox([self.quarantine, self.pages, self.detail])),
                more,
            ]
        )
        for button in (self.begin, self.one, self.demo, self.stop, self.stop_now):
            button.layout.width = "auto"
        for button, action in (
            (self.begin, lambda: self._start_night("--hours", str(self.hours.value))),
            (self.one, self._start_one),
            (self.demo, self._start_demo),
            (
                self.stop,
                lambda: self.commands.answer("overnight", "--stop", "--tag", self.tag.value),
            ),
            (self.stop_now, self._stop_now),
            (self.accept, lambda: self._rule("--accept")),
            (self.refuse, lambda: self._rule("--refuse")),
            (self.copy, self._copy_best),
            (self.try_it, self._try),
        ):
            button.on_click(lambda _, action=action: self._clicked(action))
        self.tag.observe(lambda _: self._change_run(), names="value")
        for filtering in (self.shown, self.order, self.find):
            filtering.observe(lambda _: self._draw_list(), names="value")
        self.list.observe(lambda _: self._draw_detail(), names="value")

    def _list_tags(self) -> None:
        tags = list(reversed(list_runs(self.results)))
        tags += [SAMPLE_TAG] * (self.results / SAMPLE_TAG).is_dir()
        if tags != list(self.tag.options):
            before = self.tag.value
            self.tag.options = tags
            chosen = [tag for tag in (self.wanted, before, *tags) if tag in tags]
            self.tag.value = chosen[0] if chosen else None
            if self.wanted in tags:
                self.wanted = ""
        self._change_run()

    def _change_run(self) -> None:
        folder = self.results / self.tag.value if self.tag.value else None
        if folder and (self.run is None or self.run.folder != folder):
            self.run, self._drawn = Run(folder), {}
            self.refresh()

    # --- following --------------------------------------------------------------------------------

    def start_following(self) -> None:
        """Draw again every two seconds, in a thread that no error ends, while it is open."""

        def follow() -> None:
            while self.is_open:
                time.sleep(REFRESH_SECONDS)
                self.refresh()

        threading.Thread(target=follow, daemon=True, name="panel").start()

    def refresh(self) -> None:
        """Draw what has changed. Whatever goes wrong is shown: a dead panel would look like a dead
        night.
        """
        with self._lock:
            try:
                if words := self.commands.ended():
                    self.said.value = soft(words)
                self._list_new_tags()
                self._draw()
            except LabError as error:
                self.state.value = box(error, AMBER)
            except Exception as error:
                self.state.value = box(f"{type(error).__name__}: {error}", RED)

    def _list_new_tags(self) -> None:
        tags = {path.name for path in self.results.glob("*") if path.is_dir()}
        if self._changed("tags", tags):
            self._list_tags()

    def _changed(self, name: str, value: object) -> bool:
        changed = self._drawn.get(name) != value
        self._drawn[name] = value
        return changed

    def _draw(self) -> None:
        self.machine.value = soft(self._machine_words())
        if self.run is None:
            self.state.value = box("no run yet: start the demo, or a night", GREY)
            return
        self._facts = facts = look_at(self.run, self._run_bytes())
        light = LIGHTS.get(facts["state"], GREY)
        self.state.value = LIGHT.format(light, facts["tag"], state_words(facts))
        self.figures.value = divs([_figures(facts)])
        alive = facts["state"] in ALIVE
        for button in (self.begin, self.one, self.demo, self.try_it):
            button.disabled = alive
        for button in (self.stop, self.stop_now):
            button.disabled = not alive
        self.now.value = self._now(facts) if alive or facts["state"] == "by hand" else ""
        if self._changed("entries", len(self.run.entries)):
            records = records_from_journal(self.run.entries)
            self.chart.value = progress_svg(records)
            self._draw_list()
            self._draw_places()
        self.log.value = LOG.format(preformatted(read_tail(self.run.folder / "night.log")))

    def _run_bytes(self) -> int:
        """What the run takes on disk, counted once a minute: a walk over all its files."""
        if self._changed("sizes", int(time.monotonic() / SIZES_SECONDS)):
            self._bytes = sum(disk_space.stored(self.run.folder).values())
        return self._bytes

    def _machine_words(self) -> str:
        cores = psutil.cpu_count() or 1
        used = psutil.cpu_percent() / 100 * cores
        about = "quiet" if used < 0.3 else f"{used:.1f} of {cores} cores in use"
        key = "a language model is named" if has_endpoint() else "no key here: ideas by tpe"
        return f"machine: {about}; {key}{self._settings_words()}"

    def _settings_words(self) -> str:
        if self.run is None or not self.run.is_there:
            return ""
        try:
            return f"; {environment_words(self.run.settings)}"
        except (LabError, KeyError, TypeError):
            return "; its settings are of another version"

    def _now(self, facts: dict) -> Html:
        """The experiment in flight: idea, stage, share, curve over the one of the branch."""
        stage = stage_of(self.run)
        number, share = facts["experiment"], facts["training_share"]
        head = f"experiment {number}: {facts['title'] or 'no idea yet'}"
        bar = BAR.format(share) if share is not None else ""
        lines = [bold(head), stage.words, bar, curves_svg(self._curves(number))]
        return box(divs(lines), BLUE)

    def _curves(self, number: int) -> list[tuple[str, Points]]:
        """The training in flight, and that of the branch behind it."""
        experiments, tip = self.run.state.experiments, self.run.state.incumbent
        if number >= len(experiments):
            return []
        found = [(f"experiment {number}", curve_of(self.run, experiments[number], -1))]
        if tip is not None and tip.number != number:
            name = f"experiment {tip.number}, on the branch"
            found.append((name, curve_of(self.run, tip)))
        return found

    def _draw_list(self) -> None:
        if self.run is None:
            return
        words = self.find.value.casefold()
        records = [
            record
            for record in records_from_journal(self.run.entries)
            if SHOWN[self.shown.value](record) and words in record.title.casefold()
        ]
        records.sort(key=ORDERS[self.order.value])
        options = [(_line(record), record.experiment) for record in records]
        if self._changed("list", options):
            chosen = self.list.value
            self.list.options = options
            if chosen in [record.experiment for record in records]:
                self.list.value = chosen
        self._draw_detail()

    def _draw_detail(self) -> None:
        number = self.list.value
        records = records_from_journal(self.run.entries) if self.run else []
        record = next((each for each in records if each.experiment == number), None)
        waits = record is not None and record.outcome == "quarantined"
        self.quarantine.layout.display = "" if waits else "none"
        if not self._changed("detail", (number, record and (record.outcome, record.verdict))):
            return
        self.pages.clear_output()
        if record is None:
            self.detail.value = ""
            return
        head = bold(f"{number:04d} {OUTCOME_WORDS[record.outcome]}: {record.title}")
        self.detail.value = box(head + idea_html(self.run, record))
        page = self.run.folder / "notebooks" / f"{number:04d}.ipynb"
        self.pages.append_display_data(Markdown(_links([("its page", page)])))

    def _draw_places(self) -> None:
        folder = self.run.folder
        files = [
            ("the report", folder / "report" / "report.html"),
            ("the report as text", folder / "report" / "report.md"),
            ("the list of pages", folder / "notebooks" / "index.md"),
            ("results.tsv", folder / "results.tsv"),
            ("program.md", REPOSITORY / "program.md"),
            ("the best train.py", folder / "best" / "train.py"),
            ("your copy of it", own_file(folder)),
        ]
        self.places.clear_output()
        self.places.append_display_data(Markdown(_links(files)))

    # --- acting -----------------------------------------------------------------------------------

    def _clicked(self, action: Callable[[], str | None]) -> None:
        try:
            said = action()
        except (LabError, OSError) as error:
            said = str(error)
        self.said.value = soft(said) if said else ""
        self.refresh()

    def _start_night(self, *words: str) -> str:
        tag = self.new_tag.value.strip() or self.tag.value or f"{datetime.now():%b%d}".lower()
        if tag == SAMPLE_TAG:
            return "the sample is a finished run to look at: give a new name"
        options = [("--proposer", self.proposer.value), ("--model", self.model.value.strip())]
        options += [("--llm", limit) for limit in self.budget.value.split()]
        given = [word for option, value in options if value for word in (option, value)]
        self.new_tag.value, self.wanted = "", tag
        return self.commands.launch("overnight", "--tag", tag, *words, *given)

    def _start_one(self) -> str:
        """The next experiment: of a run that is new, the first."""
        goes_on = self.run is not None and not self.new_tag.value.strip()
        done = sum(bool(e.decided) for e in self.run.state.experiments[1:]) if goes_on else 0
        return self._start_night("--experiments", str(done + 1))

    def _start_demo(self) -> str:
        self.wanted = "demo"
        return self.commands.launch("overnight", "--demo")

    def _stop_now(self) -> str:
        if not self.sure.value:
            return "the experiment in flight will be repeated later: tick the box, then press again"
        self.sure.value = False
        return end_night(self._facts.get("pid"))

    def _rule(self, word: str) -> str:
        number = str(self.list.value)
        return self.commands.answer("overnight", word, number, "--tag", self.tag.value)

    def _copy_best(self) -> str:
        target = copy_of_best(self.run.folder)
        self._draw_places()
        return f"a copy of the best is {target.name}: open it below, change it, press Run it"

    def _try(self) -> str:
        target = own_file(self.run.folder)
        if not target.exists():
            return "press Make a copy first, and change it"
        if not self.idea.value.strip():
            return "say in a few words what it changes"
        words = ["--tag", self.run.folder.name, "--idea", self.idea.value]
        words += ["--hypothesis", self.why.value] if self.why.value.strip() else []
        return self.commands.launch("try", str(target), *words)

    # --- without widgets --------------------------------------------------------------------------

    def picture(self) -> Html:
        """What the panel shows now, as HTML without anything to press."""
        if self.run is None:
            return Html(self.state.value)
        parts = (self.machine, self.state, self.figures, self.now, self.chart)
        return divs(Html(part.value) for part in parts)


def _row(*children: widgets.Widget) -> widgets.Box:
    return widgets.Box(children, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def _figures(facts: dict) -> str:
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


def _line(record: Record) -> str:
    score = f"{record.val_bpb:.4f}" if record.val_bpb is not None else "      "
    gain = f"{record.gain:+.4f}" if record.gain is not None else "       "
    return f"{record.experiment:04d}  {OUTCOME_WORDS[record.outcome]:<15} {score} {gain}  {record.title[:60]}"


def _links(files: Sequence[tuple[str, Path]]) -> str:
    """Those that exist as Markdown links from where the kernel works, which JupyterLab opens as
    tabs.
    """
    here = Path.cwd()
    shown = [
        f"[{name}](<{Path(os.path.relpath(path, here)).as_posix()}>)"
        for name, path in files
        if path.exists()
    ]
    return " · ".join(shown)
