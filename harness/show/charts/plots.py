"""The charts of the notebooks, the report and the README, in one place to import from."""

from harness.show.charts.process import plot_curves, plot_outcomes, plot_time_use
from harness.show.charts.scores import (
    plot_memory_against_score,
    plot_noise,
    plot_overlay,
    plot_progress,
)

__all__ = [
    "plot_curves",
    "plot_memory_against_score",
    "plot_noise",
    "plot_outcomes",
    "plot_overlay",
    "plot_progress",
    "plot_time_use",
]
