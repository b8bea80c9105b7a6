"""Gains that were looked up are missing on text that no scoring process was shown.

Honest ones are there.
"""

import math

import numpy as np
import pytest

from harness.scoring.holdout import Losses, agrees
from harness.scoring.unseen import (
    Text,
    count_places,
    gain_of_places,
    measure_places,
    smallest_missed,
)

ROWS, LENGTH, VOCAB, DOCUMENTS = 128, 32, 50, 64


def make_text(seed=0) -> Text:
    rng = np.random.default_rng(seed)
    rows, others = (rng.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.uint16) for _ in range(2))
    token_bytes = np.ones(VOCAB, dtype=np.int32)
    token_bytes[7] = 0
    return Text(rows, others, token_bytes)


class Server:
    """Notes what it is asked, and gives each token the chance that is its number's."""

    header = {"batch_rows": 16}

    def __init__(self):
        self.asked = []

    def logits(self, inputs, positions):
        self.asked.append((inputs.copy(), positions.copy()))
        return np.tile(np.log(np.arange(1, VOCAB + 1) / 1275), (len(inputs), 1)).astype(np.float32)


def test_a_server_is_shown_what_comes_before_a_place_and_nothing_of_what_follows():
    text, server = make_text(), Server()
    rows, positions, nats = measure_places(server, text, 256)
    rows, positions = rows.astype(int), positions.astype(int)
    targets = text.rows[rows, positions + 1]
    assert len(rows) == 256 == len(set(zip(rows, positions, strict=True))) and (targets != 7).all()
    assert nats == pytest.approx(-np.log((targets + 1) / 1275), abs=1e-5)
    for inputs, places in server.asked:
        assert inputs.shape == (16, LENGTH)
        for shown, place in zip(inputs, places, strict=True):
            same = [row for row in text.rows if (shown[: place + 1] == row[: place + 1]).all()]
            if place < 4 or not same:  # a filler, or so short a beginning that several rows have it
                continue
            tail = shown[place + 1 :]
            assert any((tail == other[place + 1 : LENGTH]).all() for other in text.others)
    again = measure_places(Server(), text, 256)
    assert (again[:2] == [rows, positions]).all()
    assert measure_places(Server(), text, 10**6).shape[1] <= ROWS * LENGTH


def validation(gain: float, rng) -> Losses:
    base = rng.normal(3.0, 0.3, 256) * LENGTH
    return Losses(
        np.full(256, LENGTH), [base - (gain + rng.normal(0, 0.05, 256)) * LENGTH], [base], 128
    )


def places(gain: float, rng, count=512):
    """Losses of candidate and incumbent at the same places.

    They are far apart at each, by `gain` on average.
    """
    where = np.stack(
        [np.sort(rng.integers(0, ROWS, count)), rng.integers(0, LENGTH, count)]
    ).astype(float)
    base = rng.gamma(2.0, 1.5, count)
    own = np.vstack([where, base - gain + rng.normal(0, 1.0, count)])
    return own, np.vstack([where, base + rng.normal(0, 0.2, count)])


def test_an_honest_gain_is_there_in_300_of_300():
    for rng in map(np.random.default_rng, range(300)):
        assert agrees(validation(0.1, rng), *gain_of_places(*places(0.1, rng), DOCUMENTS))


def test_a_gain_that_was_looked_up_is_missed_at_most_once_in_ten_at_the_stated_size():
    floors = [
        smallest_missed(validation(0.0, rng), gain_of_places(*places(0.0, rng), DOCUMENTS)[1])
        for rng in map(np.random.default_rng, range(20))
    ]
    floor = float(np.mean(floors))
    assert 0.1 < floor < 0.5
    missed = [
        agrees(validation(1.05 * floor, rng), *gain_of_places(*places(0.0, rng), DOCUMENTS))
        for rng in map(np.random.default_rng, range(400))
    ]
    assert np.mean(missed) <= 0.1


def test_how_many_places_are_asked_for():
    assert (
        count_places(256, 64) == 512
        and count_places(10_000, 32) == 4096
        and count_places(10, 64) == 64
    )
    assert math.gcd(count_places(1000, 48), 48) == 48
