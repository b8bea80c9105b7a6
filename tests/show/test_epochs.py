"""What is said of a training that goes over its text more than once."""

from types import SimpleNamespace

import pytest

from harness.run.pace import say_usual
from harness.show import epochs


def state_of(*trained):
    runs = [SimpleNamespace(trained=entry) for entry in trained]
    return SimpleNamespace(experiments=[SimpleNamespace(attempt=SimpleNamespace(runs=runs))])


DATA = SimpleNamespace(manifest={"rows": {"train": 1000}}, max_seq_len=64)


def test_passes_are_tokens_trained_over_tokens_there_are():
    assert (
        epochs.of_baseline(state_of({"total_tokens": 32_000}, {"total_tokens": 96_000}, None), DATA)
        == 1.5
    )
    # A run that crashed at the start.
    assert epochs.of_baseline(state_of({"total_tokens": None}), DATA) is None
    assert epochs.of_baseline(state_of(), DATA) is None


@pytest.mark.parametrize(
    "passes, said, warned",
    [
        (0.42, "42%", ""),
        (2.5, "2.5 times", "More text"),
        (9.1, "9.1 times", "no longer ranks"),
        (None, "", ""),
    ],
)
def test_more_than_one_pass_is_a_warning_that_says_what_it_means(passes, said, warned):
    assert said in epochs.epochs_in_words(passes) and warned in epochs.warning(passes)
    assert bool(epochs.warning(passes)) == bool(warned)


@pytest.mark.parametrize(
    ("name", "steps", "budget", "said"),
    [
        ("large", 150, 300.0, True),
        ("medium", 150, 300.0, True),
        ("cpu", 150, 300.0, True),
        ("large", 300, 300.0, False),
        ("demo", 150, 20.0, False),
        ("large", None, 300.0, False),
    ],
)
def test_few_steps_in_a_real_budget_are_said(name, steps, budget, said):
    words = epochs.few_steps(
        state_of({"num_steps": steps}), {"name": name, "budget_seconds": budget}
    )
    assert ("TOTAL_BATCH_SIZE" in words) is said and ("--profile" in words) is (
        said and name != "cpu"
    )


@pytest.mark.parametrize(
    "shares, said", [([0.8, 0.7], "75%"), ([0.04], ""), ([None], ""), ([], "")]
)
def test_a_card_that_is_slowed_down_from_the_start_is_said(shares, said):
    runs = [SimpleNamespace(trained={"card": {"slowed_share": share}}) for share in shares]
    attempt = SimpleNamespace(scored=runs or [SimpleNamespace(trained={})])
    words = say_usual(SimpleNamespace(experiments=[SimpleNamespace(attempt=attempt)]))
    assert said in words and bool(words) is bool(said)
