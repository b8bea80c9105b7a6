"""What the baseline notebook shows: the summary block, and the noise of the score.

In: a Lab whose baseline is done. Out: text, and a figure.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.ground.files import read_json
from harness.ground.text import plain_words
from harness.lab.loop import Lab
from harness.rules.keep import judge
from harness.run.pace import say_usual
from harness.sandbox.runner import summary_block
from harness.show import epochs
from harness.show.charts.plots import plot_noise


def baseline_summary(lab: Lab) -> str:
    """The summary of the baseline's last run, the mean over its seeds, and passes over its text;
    on a card, too, why it trains in another way than it was meant to."""
    baseline, state = lab.state.experiments[0], lab.state
    last = baseline.attempt.scored[-1]
    result = read_json(lab.training_folder(0, 0, last.number) / "result.json")
    scores = ", ".join(f"{score:.6f}" for score in baseline.attempt.scores)
    unigram, mean = lab.data.manifest["unigram_bpb"], baseline.mean
    worse = f"a unigram model scores {unigram:.4f}, {unigram - mean:.2f} bpb worse"
    lines = [
        summary_block(result),
        f"val_bpb by seed: {scores}",
        f"mean: {mean:.6f}; {worse}",
        epochs.epochs_in_words(epochs.of_baseline(state, lab.data)),
        epochs.few_steps(state, lab.settings.profile),
        say_usual(state),
        stepped_down(lab.settings.device),
    ]
    return "\n".join(filter(None, lines)).rstrip()


def stepped_down(device: dict) -> str:
    """Which ways of training failed on a card before one worked; "" where the first one did."""
    fell = plain_words(device.get("fell", ""))
    return f"On this card {fell}. All trainings of this run do so." if fell else ""


def noise_words(lab: Lab) -> str:
    """What the seeds say of the noise, and what it means for an idea."""
    noise, scores = lab.state.noise, lab.state.experiments[0].attempt.scores
    if not noise.df:
        unknown = "One seed and no prior: nothing is known of the noise"
        return f"{unknown}, so the first ideas will be trained several times."
    threshold = judge([sum(scores) / len(scores)], scores, noise).threshold
    return (
        f"{noise.words.capitalize()}. A first run has to score {threshold:.4f} bpb below the "
        "baseline to be kept at once: chance alone gives less."
    )


def noise_figure(lab: Lab) -> Figure:
    """The baseline's runs with the estimated noise around their mean."""
    return plot_noise(lab.state.experiments[0].attempt.scores, lab.state.noise)
