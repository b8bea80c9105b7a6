"""What the baseline's notebook says after the trainings."""

from harness.lab.card_fit import PLAIN, Fit
from harness.lab.start import freeze
from harness.run.settings import read_settings
from harness.show.baseline_page import baseline_summary


def test_a_baseline_that_stepped_down_on_a_card_says_what_failed_and_what_it_does_now(lab):
    before = baseline_summary(lab)
    assert "mean: " in before and "On this card" not in before
    fell = (
        "the baseline trains eager with plain attention, since it failed compiled with the fastest "
        "attention (crash: InductorError: no valid triton configs), eager with the fastest "
        "attention (crash: `cuDNN` says no)"
    )
    freeze(lab, Fit(compile=False, attention=PLAIN, fell=fell), 1.0)
    assert read_settings(lab.folder).device["fell"] == fell
    said = baseline_summary(lab).splitlines()
    assert said[:-1] == before.splitlines()
    words = fell.replace("`", "'")
    assert said[-1] == f"On this card {words}. All trainings of this run do so."
