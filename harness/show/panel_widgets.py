"""The panel's widgets and where they stand on the page. None of them does anything here."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets

from harness.ground.text import NO_MATHS
from harness.run.records import Record
from harness.show.markup import Html, bold
from harness.show.panel_words import ORDERS, SHOWN, line_of

WIDE = {"width": "100%"}
# Lines closer than a widget's. What is too wide, such as a diff, scrolls and widens nothing else.
# Where a picture of it is shown, no dollar signs of others begin mathematics.
FITTED = Html(
    f'<div class="{NO_MATHS}" style="line-height:1.5;display:grid;'
    'grid-template-columns:minmax(0,1fr);overflow-x:auto">{}</div>'
)
BESIDE = {"width": "auto", "min_width": "0"}


class PanelWidgets:
    """All that can be seen or pressed, by name; view has them all."""

    def __init__(self) -> None:
        self._make_night()
        self._make_experiments()
        self._make_own_idea()
        self.places, self.log = widgets.Output(), widgets.HTML()
        self.of_a_run = widgets.VBox(
            [
                *(self.now, self.chart),
                _row(self.shown, self.order, self.find),
                _row(self.list, self.experiment),
                *(_heading("your idea now"), self.idea, self.why, _row(self.copy, self.try_it)),
                *(_heading("files to open"), self.places, _heading("the night's log"), self.log),
            ]
        )
        self.view = widgets.VBox(
            [
                _row(self.tag, self.new_tag),
                *(self.state, self.figures, self.machine),
                _row(self.begin, self.hours, self.proposer, self.model, self.budget),
                _row(self.one, self.demo, self.stop, self.stop_now, self.sure, self.said),
                self.of_a_run,
            ]
        )

    def _make_night(self) -> None:
        """Which run, how it stands, and what starts and stops its night."""
        self.tag = _dropdown([], "run", "260px")
        self.new_tag = _text("new run's name", width="150px")
        self.machine, self.state, self.figures = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.begin = _button("Start night", "play", "primary")
        self.hours = widgets.BoundedFloatText(
            8.0, min=0.1, max=1000.0, description="hours", layout={"width": "150px"}
        )
        names = [("default", ""), *((name, name) for name in ("tpe", "llm", "hybrid"))]
        self.proposer = _dropdown(names, "ideas by", "230px")
        self.model = _text("the only one served", "model")
        self.budget = _text("budget_tokens=2000000 ...", "model limits")
        self.one = _button("One experiment", "step-forward")
        self.demo = _button("Demo (12 minutes)", "flask")
        self.stop = _button("Stop after this one", "stop")
        self.stop_now = _button("Stop now", "times", "warning")
        self.sure = widgets.Checkbox(description="sure", indent=False, layout={"width": "70px"})
        self.said = widgets.HTML()
        self.now = widgets.HTML(layout=WIDE)
        self.chart = widgets.HTML(layout=WIDE | {"max_width": "960px"})

    def _make_experiments(self) -> None:
        """The list of experiments, and the one that is chosen."""
        self.shown = _dropdown(list(SHOWN), "show", "200px")
        self.order = _dropdown(list(ORDERS), "sort", "240px")
        self.find = _text("find in titles", width="200px")
        # Side by side where there is room, else one below the other, as on a phone.
        self.list = widgets.Select(rows=14, layout=BESIDE | {"flex": "1 1 320px"})
        self.accept, self.refuse = _button("Accept", "check"), _button("Refuse", "ban")
        self.quarantine = _row(self.accept, self.refuse)
        self.page = widgets.Output()
        self.detail = widgets.HTML(layout=WIDE)
        parts = (self.quarantine, self.page, self.detail)
        self.experiment = widgets.VBox(parts, layout=BESIDE | {"flex": "2 1 320px"})

    def _make_own_idea(self) -> None:
        self.idea = _text("what it changes, in a few words", "idea", "auto")
        self.why = _text("why that should help", "why", "auto")
        self.copy, self.try_it = _button("Make a copy", "edit"), _button("Run it", "play")

    def allow(self, alive: bool) -> None:
        """Leave what can be pressed while a night is alive, or while none is."""
        for button in (self.begin, self.one, self.demo, self.try_it):
            button.disabled = alive
        for button in (self.stop, self.stop_now):
            button.disabled = not alive

    def list_records(self, records: Sequence[Record]) -> None:
        """Fill the list; what was chosen stays so where it is still listed."""
        options = tuple((line_of(record), record.experiment) for record in records)
        if options != self.list.options:
            chosen = self.list.value
            self.list.options = options
            if chosen in [record.experiment for record in records]:
                self.list.value = chosen


def put(part: widgets.HTML, body: Html) -> None:
    part.value = FITTED.format(body) if body else ""


def show_markdown(output: widgets.Output, text: str) -> None:
    """Show Markdown in an output, where JupyterLab follows links; "" for nothing."""
    shown = {"output_type": "display_data", "data": {"text/markdown": text}, "metadata": {}}
    output.outputs = (shown,) if text else ()


def _row(*children: widgets.Widget) -> widgets.Box:
    return widgets.Box(children, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def _heading(words: str) -> widgets.HTML:
    return widgets.HTML(bold(words))


def _button(words: str, icon: str, style: str = "") -> widgets.Button:
    layout = {"width": "auto"}
    return widgets.Button(description=words, icon=icon, button_style=style, layout=layout)


def _text(hint: str, name: str = "", width: str = "300px") -> widgets.Text:
    layout = {"width": width, "max_width": "100%"}
    return widgets.Text(placeholder=hint, description=name, layout=layout)


def _dropdown(options: list, name: str, width: str) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, description=name, layout={"width": width})
