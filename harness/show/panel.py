"""The control panel of notebook 00: watch, start and stop nights from JupyterLab, and read what
they found.

In: a results folder. Out: ipywidgets that follow the files of a run. Nothing runs in the kernel: a
night is a process of its own, started by the same commands as in a terminal, and a thread reads its
files. So the panel survives a reload of the browser, shows a night begun elsewhere, and can be
closed at any time. What a proposer wrote is escaped.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime

from IPython.display import display

from harness import REPOSITORY
from harness.ground.errors import LabError
from harness.ground.files import read_tail
from harness.run import disk_space
from harness.run.records import OUTCOME_WORDS, Record, records_from_journal
from harness.run.run import SAMPLE_TAG, Run, list_runs, page_name
from harness.run.settings import results_folder
from harness.show import panel_words
from harness.show.addresses import files_of_run, markdown_links
from harness.show.charts.svg import as_pictures, legend_of, progress_svg
from harness.show.commands import Commands, copy_of_best, end_night, own_file
from harness.show.markup import AMBER, GREY, RED, Html, bold, box, divs, preformatted, soft
from harness.show.night_state import night_state_of
from harness.show.panel_widgets import PanelWidgets, put, show_markdown
from harness.show.report_page import idea_html
from harness.show.status import look_at

REFRESH_SECONDS, CARD_SECONDS, SIZES_SECONDS = 2.0, 10.0, 60.0
LOG_BYTES = 4000
ALIVE = ("running", "paused", "slow")
CHART = Html('<div style="min-width:560px">{}</div>')
LOG = Html('<div style="max-height:260px;overflow:auto">{}</div>')
CHOOSE = soft("choose one in the list: what it changed, and what came of it")
OPEN: list[Panel] = []  # the one of this kernel


def show(tag: str = "", results: str = "") -> None:
    """Display the panel; where nothing draws widgets, as in a saved copy, its picture of now."""
    for earlier in OPEN:
        earlier.is_open = False  # this cell ran before: its panel is seen no more
    panel = Panel(tag, results)
    OPEN[:] = [panel]
    panel.start_following()
    shown = panel.view._repr_mimebundle_()
    display(shown | {"text/html": panel.picture()}, raw=True)


class Panel(PanelWidgets):
    """The widgets at work: what they show, and what a click does."""

    def __init__(self, tag: str = "", results: str = "") -> None:
        super().__init__()
        self.results = results_folder(results)
        self.commands = Commands(self.results)
        self.is_open = True
        self.wanted = tag  # the run to show as soon as it is there
        self.run: Run | None = None
        self.records: list[Record] = []
        self._drawn: dict[str, object] = {}  # what each part was drawn from
        self._bytes, self._card = 0, ""
        self._lock = threading.RLock()  # the thread and a click may both draw
        self._connect()
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
        self._draw_safely(self._tell_end)
        self._draw_safely(self._draw)

    def _tell_end(self) -> None:
        if words := self.commands.ended():
            put(self.said, soft(words))

    def _draw_safely(self, draw: Callable[[], None]) -> None:
        with self._lock:
            try:
                draw()
            except LabError as error:
                self._show_only(box(error, AMBER))
            except OSError as error:
                words = f"{error.filename or self.results} cannot be read: {error.strerror}"
                self._show_only(box(words, AMBER))
            except Exception as error:
                self._show_only(box(f"{type(error).__name__}: {error}", RED))

    def _list_tags(self) -> None:
        tags = list(reversed(list_runs(self.results)))
        tags += [SAMPLE_TAG] * (self.results / SAMPLE_TAG).is_dir()
        if tags != list(self.tag.options):
            before = self.tag.value
            self.tag.options = tags
            there = [tag for tag in (self.wanted, before, *tags) if tag in tags]
            self.tag.value = there[0] if there else None
            self.wanted = "" if self.wanted in tags else self.wanted
        folder = self.results / self.tag.value if self.tag.value else None
        if folder != (self.run and self.run.folder):
            self.run, self._drawn = Run(folder) if folder else None, {}

    def _changed(self, name: str, value: object) -> bool:
        changed = self._drawn.get(name) != value
        self._drawn[name] = value
        return changed

    # --- drawing ----------------------------------------------------------------------------------

    def _show_only(self, words: Html) -> None:
        """A sentence in place of all that is known of a run, which is then read anew."""
        put(self.state, words)
        self.of_a_run.layout.display = "none"
        self.run, self.records, self._drawn = None, [], {}
        for part in (self.figures, self.now, self.chart, self.log):
            put(part, Html())
        show_markdown(self.places, "")
        self.allow(alive=False)
        self._draw_list()

    def _draw(self) -> None:
        self._list_tags()
        put(self.machine, soft(panel_words.machine_words(self.run, self._card_words())))
        if self.run is None:
            self._show_only(box("no run yet: start the demo, or a night", GREY))
            return
        facts = look_at(self.run, self._run_bytes())
        self.of_a_run.layout.display = ""
        put(self.state, panel_words.state_line(facts))
        put(self.figures, divs([panel_words.figures(facts)]))
        alive = facts["state"] in ALIVE
        self.allow(alive)
        works = alive or facts["state"] == "by hand"
        put(self.now, panel_words.work_box(self.run, facts) if works else Html())
        if self._changed("entries", len(self.run.entries)):
            self.records = records_from_journal(self.run.entries)
            chart = progress_svg(self.records)
            legend = legend_of(self.records)
            put(self.chart, CHART.format(chart) + legend if chart else chart)
            self._draw_list()
        log = read_tail(self.run.folder / "night.log", LOG_BYTES) or "no night has run here"
        put(self.log, LOG.format(preformatted(log)))
        self._draw_links()

    def _card_words(self) -> str:
        if self._changed("card", int(time.monotonic() / CARD_SECONDS)):
            self._card = panel_words.card_words()
        return self._card

    def _run_bytes(self) -> int:
        """What the run takes on disk, counted once a minute: a walk over all its files."""
        if self._changed("sizes", int(time.monotonic() / SIZES_SECONDS)):
            self._bytes = sum(disk_space.stored(self.run.folder).values())
        return self._bytes

    def _draw_list(self) -> None:
        wanted = self.shown.value, self.order.value, self.find.value
        self.list_records(panel_words.chosen(self.records, *wanted))
        self._draw_experiment()

    def _draw_experiment(self) -> None:
        """The one that is chosen in the list."""
        number = self.list.value
        record = next((each for each in self.records if each.experiment == number), None)
        waits = record is not None and record.outcome == "quarantined"
        self.quarantine.layout.display = "" if waits else "none"
        shown = number, record and (record.outcome, record.verdict), bool(self.list.options)
        if self._changed("experiment", shown):
            nothing = CHOOSE if self.list.options else Html()
            put(self.detail, self._experiment_html(record) if record else nothing)
            self._draw_links()

    def _experiment_html(self, record: Record) -> Html:
        head = bold(f"{record.experiment:04d} {OUTCOME_WORDS[record.outcome]}: {record.title}")
        return box(head + idea_html(self.run, record))

    def _draw_links(self) -> None:
        """To the chosen experiment's page and to the files of the run, as far as they are there."""
        if self.run is None:
            return
        folder, number = self.run.folder, self.list.value
        page = folder / "notebooks" / f"{page_name(number or 0)}.ipynb"
        files = [
            *files_of_run(folder),
            ("program.md", REPOSITORY / "program.md"),
            ("your copy of it", own_file(folder)),
        ]
        show_markdown(self.page, markdown_links([("its page", page)]))
        show_markdown(self.places, markdown_links(files))

    def picture(self) -> Html:
        """What the panel shows now, as HTML without anything to press."""
        parts = (self.machine, self.state, self.figures, self.now, self.chart)
        return as_pictures(divs(Html(part.value) for part in parts if part.value))

    # --- acting -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        actions = {
            self.begin: lambda: self._start_night("--hours", str(self.hours.value)),
            self.one: self._start_one,
            self.demo: self._start_demo,
            self.stop: self._stop,
            self.stop_now: self._stop_now,
            self.accept: lambda: self._rule("--accept"),
            self.refuse: lambda: self._rule("--refuse"),
            self.copy: self._copy_best,
            self.try_it: self._try,
        }
        for button, action in actions.items():
            button.on_click(lambda _, action=action: self._clicked(action))
        self.tag.observe(lambda _: self.refresh(), names="value")
        for filtering in (self.shown, self.order, self.find):
            filtering.observe(lambda _: self._draw_safely(self._draw_list), names="value")
        self.list.observe(lambda _: self._draw_safely(self._draw_experiment), names="value")

    def _clicked(self, action: Callable[[], str]) -> None:
        try:
            said = action()
        except (LabError, OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        put(self.said, soft(said))
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

    def _stop(self) -> str:
        return self.commands.answer("overnight", "--stop", "--tag", self.tag.value)

    def _stop_now(self) -> str:
        if not self.sure.value:
            return "the experiment in flight will be repeated later: tick the box, then press again"
        self.sure.value = False
        return end_night(night_state_of(self.run).pid if self.run else None)

    def _rule(self, word: str) -> str:
        number = str(self.list.value)
        return self.commands.answer("overnight", word, number, "--tag", self.tag.value)

    def _copy_best(self) -> str:
        target = copy_of_best(self.run.folder)
        return f"a copy of the best is {target.name}: open it below, change it, press Run it"

    def _try(self) -> str:
        target = own_file(self.run.folder)
        if not target.exists():
            return "press Make a copy first, and change it"
        if not self.idea.value.strip():
            return "say in a few words what it changes"
        words = ["--tag", self.run.folder.name, f"--idea={self.idea.value}"]
        words += [f"--hypothesis={self.why.value}"] if self.why.value.strip() else []
        return self.commands.launch("try", str(target), *words)
