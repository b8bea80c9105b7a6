"""The charts of the notebooks, the report and the README, in one place to import from."""

from harness.show.charts.constants import plot_constants
from harness.show.charts.process import compare_curves, plot_curves, plot_outcomes, plot_time_use
from harness.show.charts.scores import (
    plot_memory_against_score,
    plot_noise,
    plot_overlay,
    plot_progress,
)

__all__ = [
    "compare_curves",
    "plot_constants",
    "plot_curves",
    "plot_memory_against_score",
    "plot_noise",
    "plot_outcomes",
    "plot_overlay",
    "plot_progress",
    "plot_time_use",
]
