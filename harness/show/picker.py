"""A run and an experiment chosen in a notebook, shown: what it was, its diff, curve and log.

The view is plain HTML, so it stays in the saved notebook as its output; the menus above it work
while a kernel runs and change that same view in place. What proposers and trainings wrote is text.
"""

from pathlib import Path

from harness.ground.text import one_line
from harness.run.run import list_runs
from harness.run.settings import results_folder
from harness.show.charts.process import plot_curves
from harness.show.frame import RunData, attempt_folder, load_run, run_folders
from harness.show.markup import Html, as_text, diff, picture, preformatted
from harness.show.sentences import plural

LOG_LINES = 25
LOG_BYTES = 16_384
DIFF_LINES = 120


def show_picker(run: RunData, results_dir: str | Path = "") -> None:
    """Display menus for run and experiment, and a view: of run's best until another is chosen."""
    import ipywidgets
    from IPython.display import HTML, display

    folder = results_folder(str(results_dir))
    tags = [tag for tag in list_runs(folder) if tag != run.tag]
    runs = ipywidgets.Dropdown(options=[run.tag, *reversed(tags)], description="run")
    experiments = ipywidgets.Dropdown(
        options=menu(run),
        value=default_experiment(run),
        description="experiment",
        layout={"width": "30rem"},
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
    menus = ipywidgets.HBox([runs, experiments])._repr_mimebundle_()
    words = "Other runs and experiments can be chosen here while a kernel runs."
    display(menus | {"text/plain": words}, raw=True)  # else a saved copy shows HBox(children=...)
    view = display(HTML(experiment_html(run, default_experiment(run))), display_id=True)


def default_experiment(run: RunData) -> int | None:
    """The best experiment, else the first; None for an empty run."""
    record = run.best or next(iter(run.records), None)
    return record.experiment if record else None


def menu(run: RunData) -> list[tuple[str, int | None]]:
    """(label, experiment) for each decided experiment."""
    labels = {f"{r.experiment:04d} {r.outcome}: {r.title[:50]}": r.experiment for r in run.records}
    return list(labels.items()) or [("nothing decided yet", None)]


def experiment_html(run: RunData, experiment: int | None) -> Html:
    """One experiment, as a notebook that nobody trusts may show it: no scripts, no styles."""
    record = next((r for r in run.records if r.experiment == experiment), None)
    if record is None:
        return Html("<p>Run {} has no decided experiment to show.</p>").format(run.tag)
    facts = [
        record.outcome,
        "no score" if record.val_bpb is None else f"{record.val_bpb:.6f} bits per byte",
        plural(record.n_runs, "run") if record.n_runs else "",
        f"gain {record.gain:+.6f}" if record.gain is not None else "",
        f"{record.memory_gb:.1f} GB" if record.memory_gb is not None else "",
    ]
    words = [", ".join(filter(None, facts)), one_line(record.cause or record.verdict)]
    attempt = attempt_folder(run, record.experiment)
    patch = read_text(attempt / "train.diff") if attempt else ""
    log = log_tail(run, record.experiment)
    name = f"{run.tag} {record.experiment:04d}"
    return as_text(
        Html("<h4>{}: <code>{}</code></h4>").format(name, one_line(record.title))
        + Html("<p>{}</p>").format(". ".join(filter(None, words)))
        + _curve(run, record.experiment)
        + _details("diff against its parent", diff(patch, DIFF_LINES) if patch.strip() else "")
        + _details("end of the last training's log", preformatted(log) if log.strip() else "")
    )


def log_tail(run: RunData, experiment: int) -> str:
    """The last lines of run.log of the experiment's last training; empty when there is none."""
    for folder in reversed(run_folders(run, experiment)):
        path = folder / "run.log"
        if path.exists():
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                lines = file.read().decode("utf-8", errors="replace").splitlines()
            return "\n".join(lines[-LOG_LINES:])
    return ""


def read_text(path: Path) -> str:
    """A file's text, "" where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _details(title: str, body: Html | str) -> Html:
    whole = Html("<details open><summary>{}</summary>{}</details>")
    return whole.format(title, body or Html("<p>nothing on disk</p>"))


def _curve(run: RunData, experiment: int) -> Html:
    if not run_folders(run, experiment):
        return Html()
    figure = plot_curves(run, experiment)
    return picture(figure.png(dpi=96), "png", figure.title_text, 720)
