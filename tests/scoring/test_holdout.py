"""The holdout's word on a gain: whether it is on private text, too.

It agrees where that is so, and disagrees where the gain is only on the text that was selected on.
"""

import numpy as np
import pytest

from harness.scoring.holdout import Losses, agrees, gain_and_error, row_nats


def text(rng, gain_nats: float, rows: int = 256, tokens: int = 64, runs: int = 2) -> Losses:
    """Rows of `tokens` three-byte tokens; the candidate is better by gain_nats a token.

    Every row has its own difficulty.
    """
    difficulty = rng.normal(2.5, 0.3, rows)
    make = lambda shift: (difficulty - shift + rng.normal(0, 0.02, rows)) * tokens  # noqa: E731
    return Losses(
        np.full(rows, 3 * tokens),
        [make(gain_nats)],
        [make(0.0) for _ in range(runs)],
        documents=rows,
    )


def test_a_gain_is_in_nats_per_byte_and_its_error_is_that_of_the_documents():
    gain, error = gain_and_error(text(np.random.default_rng(0), 0.03, rows=4096))
    assert gain == pytest.approx(0.03 / 3, rel=0.05)
    assert error == pytest.approx(0.02 * np.sqrt(1.5) / 3 / np.sqrt(4096), rel=0.1)


def test_rows_of_one_document_are_not_counted_as_so_many_documents():
    """The error of a gain covers the truth as often as it says.

    There are 256 rows of 32 documents, of which each has its own gain.
    """
    true, covered = 0.05, []
    for rng in map(np.random.default_rng, range(300)):
        gains = np.repeat(rng.normal(true, 0.05, 32), 8)
        difficulty = rng.normal(2.5, 0.3, 256)
        gain, error = gain_and_error(
            Losses(np.full(256, 1), [difficulty - gains], [difficulty], documents=32)
        )
        covered.append(abs(gain - true) <= 2 * error)
    assert np.mean(covered) > 0.9  # by rows it would be half


@pytest.mark.parametrize("gain", [0.05, 0.0, -0.05])
def test_the_same_gain_on_both_texts_agrees(gain):
    found = [
        agrees(text(rng, gain), *gain_and_error(text(rng, gain)))
        for rng in map(np.random.default_rng, range(200))
    ]
    assert np.mean(found) >= 0.98


def test_a_gain_on_validation_text_alone_disagrees():
    rng = np.random.default_rng(1)
    assert not agrees(text(rng, 0.05), *gain_and_error(text(rng, 0.0)))
    assert not agrees(text(rng, 0.05), *gain_and_error(text(rng, 0.02)))


def test_a_gain_that_is_larger_on_private_text_agrees():
    rng = np.random.default_rng(2)
    assert agrees(text(rng, 0.02), *gain_and_error(text(rng, 0.08)))


def test_unscored_targets_count_in_no_row():
    losses = np.ones((2, 3), dtype=np.float32)
    targets, token_bytes = np.array([[0, 1, 2], [2, 2, 0]]), np.array([1, 4, 0])
    assert row_nats(losses, targets, token_bytes).tolist() == [2.0, 1.0]
