"""A run's charts and tables as files: PNG and SVG of each chart, CSV of each table.

In: runs as read. Out: files in exports/<tag>/ of the results folder, which git ignores; written
again each time. Nothing else is touched.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.run.results import as_cell, clean_description
from harness.show import analysis
from harness.show.addresses import markdown_links
from harness.show.charts import plots
from harness.show.charts.figure import LabFigure
from harness.show.frame import RunData
from harness.show.importances import constant_importances, tuned_experiments
from harness.show.sentences import plural

FOLDER = "exports"


def export(
    runs: Sequence[RunData], results: Path, more: Mapping[str, LabFigure] | None = None
) -> list[Path]:
    """Write all charts and tables of the first run, and its overlay with the others; the files.

    results: the results folder. more: further charts by name. Raises OSError where that fails.
    """
    folder = (results if results.is_dir() else results.parent) / FOLDER / runs[0].tag
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in (charts_of(runs) | dict(more or {})).items():
        for kind in ("png", "svg"):
            written.append(folder / f"{name}.{kind}")
            figure.savefig(written[-1], dpi=144)
    for name, table in tables_of(runs[0]).items():
        if len(table):
            written.append(folder / f"{name}.csv")
            harmless(table).to_csv(written[-1], index=False)
    return written


def harmless(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its index, whose words are lines that no spreadsheet takes for formulas."""
    return table.reset_index().map(word_cell)


def word_cell(value: object) -> object:
    return as_cell(clean_description(value)) if value and isinstance(value, str) else value


def charts_of(runs: Sequence[RunData]) -> dict[str, LabFigure]:
    run = runs[0]
    constants = plots.plot_constants(run)
    return {
        "progress": plots.plot_progress(run),
        "outcomes": plots.plot_outcomes(run),
        "curves": plots.plot_curves(run),
        "memory": plots.plot_memory_against_score(run),
        "time": plots.plot_time_use(run),
        **{f"constants_{number}": figure for number, figure in enumerate(constants, 1)},
        "overlay": plots.plot_overlay(runs),
    }


def tables_of(run: RunData) -> dict[str, pd.DataFrame]:
    """The tables behind the charts."""
    compared = [record.experiment for record in (run.baseline, run.best) if record]
    steps = {number: analysis.curves(run, number) for number in compared}
    shares = constant_importances(tuned_experiments(run.entries))
    return {
        "experiments": run.experiments.set_index("experiment"),
        "outcomes": analysis.outcome_counts(run),
        "curves": pd.concat(steps, names=["experiment", "step"]) if steps else pd.DataFrame(),
        "time": analysis.time_use(run).to_frame(),
        "importances": pd.DataFrame(shares, columns=["constant", "share"]).set_index("constant"),
    }


def links_to(files: Sequence[Path]) -> str:
    """Where they are, as Markdown whose links JupyterLab opens as tabs."""
    links = markdown_links((path.name, path) for path in files)
    return f"{plural(len(files), 'file')} in `{files[0].parent}`: {links}"
