"""Experiments chosen in a notebook, of one run or several, shown side by side: scores, curves,
diffs, logs.

The view is plain HTML, so it stays in the saved notebook as its output; the menus above it work
while a kernel runs and change that same view in place. What proposers and trainings wrote is text.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.ground.files import read_tail
from harness.ground.text import one_line
from harness.run.records import OUTCOME_WORDS, Record
from harness.run.settings import results_folder
from harness.show.chart_files import export, links_to
from harness.show.charts.process import MOST_COMPARED, Choice, compare_curves
from harness.show.frame import RunData, attempt_folder, run_folders
from harness.show.markup import Html, as_text, diff, folded, preformatted, soft, table
from harness.show.sentences import plural, signed

LOG_LINES = 25
LOG_BYTES = 16_384
DIFF_LINES = 120
# JupyterLab takes the keys that are pressed in a list for its own, but not those of a text field.
HELP = f"""By keyboard: words of a line, commas between several experiments, then Enter.
By mouse: a line; with Ctrl or Shift up to {MOST_COMPARED}."""
NOTHING = Html("<p>nothing on disk</p>")
WITHOUT_KERNEL = "Other experiments can be chosen here while a kernel runs."


def show_picker(runs: Sequence[RunData], results_dir: str | Path = "") -> None:
    """Display a list of the runs' experiments, and a view: at first of the first run's branch."""
    from IPython.display import HTML, display

    picker = Picker(runs, results_folder(str(results_dir)))
    # With words of its own, or a saved copy would show VBox(children=...).
    display(picker.menus._repr_mimebundle_() | {"text/plain": WITHOUT_KERNEL}, raw=True)
    view = display(HTML(picker.html()), display_id=True)
    picker.follow(lambda page: view.update(HTML(page)))


class Picker:
    """A list of the experiments of some runs, and what is chosen in it as HTML."""

    def __init__(self, runs: Sequence[RunData], folder: Path) -> None:
        import ipywidgets

        self.runs, self.folder = runs, folder
        several = len(runs) > 1
        self.lines = {
            (f"{run.tag}  " if several else "") + line_of(record): (run, record)
            for run in runs
            for record in run.records
        }
        look = {"width": "auto"}
        self.find = ipywidgets.Text(
            placeholder="kept, 0012, words of a title", continuous_update=False, layout=look
        )
        self.list = ipywidgets.SelectMultiple(options=list(self.lines), rows=10, layout=look)
        self.button = ipywidgets.Button(description="Export", icon="download")
        self.said = ipywidgets.Output()
        below = ipywidgets.HBox([self.button, ipywidgets.HTML(HELP)])
        self.menus = ipywidgets.VBox([self.find, self.list, below, self.said])
        tip = runs[0].best or next(iter(runs[0].records), None)
        self.list.value = [line for line, (_, record) in self.lines.items() if record is tip]
        self.find.observe(lambda _: self._look_for(self.find.value), names="value")
        self.button.on_click(lambda _: self._export())

    def follow(self, show: Callable[[Html], None]) -> None:
        """Call show with the page of what is chosen, whenever that changes."""
        self.list.observe(lambda change: change["new"] and show(self.html()), names="value")

    def html(self) -> Html:
        chosen = self.chosen()
        if not chosen:
            return Html("<p>Run {} has no decided experiment to show.</p>").format(self.runs[0].tag)
        return chosen_html(chosen)

    def chosen(self) -> list[Choice]:
        """What is chosen in the list."""
        return [self.lines[line] for line in self.list.value]

    def _look_for(self, text: str) -> None:
        """List the experiments that have all words of a part of the text, and choose the first."""
        parts = [part.split() for part in text.casefold().split(",") if part.strip()] or [[]]
        found = []
        for line, (run, record) in self.lines.items():
            about = f"{run.tag} {record.experiment:04d} {record.outcome} {record.title}".casefold()
            if any(all(word in about for word in part) for part in parts):
                found.append(line)
        self.list.value = ()  # the browser would mark lines that are no longer there
        self.list.options = found
        if text.strip():
            self.list.value = found[:MOST_COMPARED]

    def _export(self) -> None:
        """Write all charts and tables, and the chosen curves, and say where they are."""
        from IPython.display import Markdown

        try:
            curves = compare_curves(with_baseline(self.chosen()))
            said = links_to(export(self.runs, self.folder, {"chosen": curves}))
        except OSError as error:
            said = f"Nothing could be written: {error}"
        self.said.outputs = ()
        self.said.append_display_data(Markdown(said))


def line_of(record: Record) -> str:
    """An experiment on one line of the list."""
    score = "no score" if record.val_bpb is None else f"{record.val_bpb:.4f}"
    facts = [f"{record.experiment:04d}", OUTCOME_WORDS[record.outcome], score, signed(record.gain)]
    return "  ".join([*filter(None, facts), one_line(record.title)[:70]])


def with_baseline(chosen: Sequence[Choice]) -> Sequence[Choice]:
    """What is drawn: of several just these, of one the baseline of its run, too."""
    if len(chosen) != 1:
        return chosen
    [(run, record)] = chosen
    return chosen if run.baseline in (None, record) else [(run, run.baseline), (run, record)]


def chosen_html(chosen: Sequence[Choice]) -> Html:
    """Experiments, as a notebook that nobody trusts may show them: no scripts, no styles."""
    shown = chosen[:MOST_COMPARED]
    more = len(chosen) - len(shown)
    left_out = soft(f"{more} more chosen, and not shown.") if more else ""
    compared = Html()
    if len(shown) > 1:
        head = ("run", "experiment", "outcome", "val_bpb", "gain", "steps", "GB", "idea")
        compared = table(head, [_row(run, record) for run, record in shown])
    pages = (experiment_html(run, record, is_open=len(shown) == 1) for run, record in shown)
    return as_text(compared + left_out + _curves(shown) + Html().join(pages))


def _row(run: RunData, record: Record) -> list[object]:
    return [
        *(run.tag, f"{record.experiment:04d}", OUTCOME_WORDS[record.outcome]),
        "" if record.val_bpb is None else f"{record.val_bpb:.4f}",
        signed(record.gain),
        "" if record.pace.steps is None else f"{record.pace.steps:,.0f}",
        "" if record.memory_gb is None else f"{record.memory_gb:.1f}",
        Html("<code>{}</code>").format(one_line(record.title)),
    ]


def experiment_html(run: RunData, record: Record, is_open: bool) -> Html:
    """What one experiment was, its diff and its log; folded unless is_open."""
    facts = [
        OUTCOME_WORDS[record.outcome],
        "no score" if record.val_bpb is None else f"{record.val_bpb:.6f} bits per byte",
        plural(record.n_runs, "run") if record.n_runs else "",
        f"gain {record.gain:+z.6f}" if record.gain is not None else "",
        f"{record.memory_gb:.1f} GB" if record.memory_gb is not None else "",
    ]
    words = [", ".join(filter(None, facts)), one_line(record.cause or record.verdict)]
    attempt = attempt_folder(run, record.experiment)
    patch = read_text(attempt / "train.diff") if attempt else ""
    log = log_tail(run, record.experiment)
    name = f"{run.tag} {record.experiment:04d}"
    shown_patch = diff(patch, DIFF_LINES) if patch.strip() else NOTHING
    shown_log = preformatted(log) if log.strip() else NOTHING
    return (
        Html("<h4>{}: <code>{}</code></h4>").format(name, one_line(record.title))
        + Html("<p>{}</p>").format(run.in_its_unit(". ".join(filter(None, words))))
        + folded("diff against its parent", shown_patch, is_open)
        + folded("end of the last training's log", shown_log, is_open)
    )


def log_tail(run: RunData, experiment: int) -> str:
    """The last lines of run.log of the experiment's last training; empty when there is none."""
    for folder in reversed(run_folders(run, experiment)):
        path = folder / "run.log"
        if path.exists():
            return "\n".join(read_tail(path, LOG_BYTES).splitlines()[-LOG_LINES:])
    return ""


def read_text(path: Path) -> str:
    """A file's text, "" where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _curves(chosen: Sequence[Choice]) -> Html:
    if not any(run_folders(run, record.experiment) for run, record in chosen):
        return Html()
    return compare_curves(with_baseline(chosen)).html()
