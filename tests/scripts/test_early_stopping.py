"""What ending hopeless trainings early would save and cost, on made-up curves."""

import pytest
from early_stopping import loss_at, page, replay


def row(experiment: int, parent: int | None, loss: float, val_bpb: float, **facts) -> dict:
    """A training whose loss is the same all the way."""
    place = {"proposer": "tpe", "night": 1, "experiment": experiment, "parent": parent, "run": 0}
    known = {"category": "tune", "constants_changed": ["MATRIX_LR"], "val_bpb": val_bpb}
    return place | known | {"curve": [None, *[loss] * 19]} | facts


ROWS = [
    row(0, None, 4.0, 2.0),
    row(1, 0, 4.3, 2.2),  # hopeless
    row(2, 0, 4.3, 1.9),  # looks so, and is not; it is kept
    row(3, 2, 4.3, 1.9),
    row(4, 2, 4.9, 2.5, constants_changed=["TOTAL_BATCH_SIZE"]),
    row(5, 2, 4.9, 2.5, category="schedule"),
]


def test_the_loss_at_a_place_is_that_of_the_share_of_the_budget_before_it():
    curve = [float(point) for point in range(20)]
    assert loss_at(curve, 0.5) == 9.0 and loss_at(curve, 0.25) == 4.0
    assert loss_at([None] * 20, 0.5) is None


def test_what_is_saved_and_what_is_lost():
    assert replay(ROWS, (0.5, 0.75), 0.2) == {
        "ended": 2,
        "saved": pytest.approx(2 * 0.5 / 6),
        "better": 1,
        "kept": 1,
    }
    assert replay(ROWS, (0.5,), 0.4)["ended"] == 0
    assert "6 trainings of 5 ideas in 1 nights" in page(ROWS)
