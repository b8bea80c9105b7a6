"""A run and an experiment chosen in a notebook, shown: what it was, its diff, its training curve, the end of its log.

The view is plain HTML, so it stays in the saved notebook as its output; the menus above it work while a kernel runs and
change that same view in place. Everything shown was written by proposers and trainings and is escaped.
"""

import base64
import html
from pathlib import Path

from harness.ground.text import one_line
from harness.show.charts.process import plot_curves
from harness.show.frame import RunData, attempt_folder, default_results_dir, list_runs, load_run, run_folders
from harness.show.markup import as_text, details, diff, preformatted
from harness.show.sentences import plural

LOG_LINES = 25
DIFF_LINES = 120


def show_picker(run: RunData, results_dir: str | Path = "") -> None:
    """Display menus for run and experiment, and below them a view: of run's best until another is chosen."""
    import ipywidgets
    from IPython.display import HTML, display

    folder = Path(results_dir) if str(results_dir) else default_results_dir()
    tags = [tag for tag in list_runs(folder) if tag != run.tag] if folder.is_dir() else []
    runs = ipywidgets.Dropdown(options=[run.tag, *reversed(tags)], description="run")
    experiments = ipywidgets.Dropdown(
        options=menu(run), value=default_experiment(run), description="experiment", layout={"width": "30rem"}
    )
    shown = {"run": run}

    def change_run(change: dict) -> None:
        shown["run"] = run if change["new"] == run.tag else load_run(folder, change["new"])
        experiments.options = menu(shown["run"])
        experiments.value = default_experiment(shown["run"])

    def change_experiment(change: dict) -> None:
        view.update(HTML(experiment_html(shown["run"], change["new"])))

    runs.observe(change_run, names="value")
    experiments.observe(change_experiment, names="value")
    display(ipywidgets.HBox([runs, experiments]))
    view = display(HTML(experiment_html(run, default_experiment(run))), display_id=True)


def default_experiment(run: RunData) -> int | None:
    """The best experiment, else the first; None for an empty run."""
    if run.best is not None:
        return int(run.best["experiment"])
    return run.records[0].experiment if run.records else None


def menu(run: RunData) -> list[tuple[str, int | None]]:
    """(label, experiment) for each decided experiment."""
    labels = [(f"{r.experiment:04d} {r.outcome}: {r.title[:50]}", r.experiment) for r in run.records]
    return labels or [("nothing decided yet", None)]


def experiment_html(run: RunData, experiment: int | None) -> str:
    """One experiment as HTML without scripts and style sheets, as a notebook that nobody trusts may show it."""
    record = next((r for r in run.records if r.experiment == experiment), None)
    if record is None:
        return f"<p>Run {html.escape(run.tag)} has no decided experiment to show.</p>"
    score = "no score" if record.val_bpb is None else f"{record.val_bpb:.6f} bits per byte"
    facts = [record.outcome, score, *([plural(record.n_runs, "run")] if record.n_runs else [])]
    facts += [f"gain {record.gain:+.6f}"] if record.gain is not None else []
    facts += [f"{record.memory_gb:.1f} GB"] if record.memory_gb is not None else []
    said, attempt = record.cause or record.verdict, attempt_folder(run, record.experiment)
    patch, log = read_text(attempt / "train.diff") if attempt else "", log_tail(run, record.experiment)
    parts = [
        f"<h4>{html.escape(run.tag)} {record.experiment:04d}: <code>{html.escape(one_line(record.title))}</code></h4>",
        f"<p>{html.escape(', '.join(facts))}{html.escape('. ' + one_line(said) if said else '')}</p>",
        _curve(run, record.experiment),
        _details("diff against its parent", diff(patch, DIFF_LINES) if patch.strip() else ""),
        _details("end of the last training's log", preformatted(log) if log.strip() else ""),
    ]
    return as_text("".join(parts))


def log_tail(run: RunData, experiment: int, lines: int = LOG_LINES) -> str:
    """The last lines of run.log of the experiment's last training; empty when there is none."""
    for folder in reversed(run_folders(run, experiment)):
        path = folder / "run.log"
        if path.exists():
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 16_384))
                return "\n".join(file.read().decode("utf-8", errors="replace").splitlines()[-lines:])
    return ""


def read_text(path: Path) -> str:
    """A file's text, "" where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _details(title: str, body: str) -> str:
    return details(title, body or "<p>nothing on disk</p>", is_open=True)


def _curve(run: RunData, experiment: int) -> str:
    if not run_folders(run, experiment):
        return ""
    figure = plot_curves(run, experiment)
    data = base64.b64encode(figure.png(dpi=96)).decode("ascii")
    return f'<img alt="{html.escape(figure.title_text)}" width="720" src="data:image/png;base64,{data}">'
