"""Which training is hopeless, and how one that is gets ended."""

from types import SimpleNamespace

import pytest

from harness.ground.errors import EndedEarly
from harness.lab.trainings import EarlyEnd
from harness.rules.hopeless import hopeless_losses


def state_of(category: str = "tune", changed: tuple[str, ...] = ("MATRIX_LR",)) -> SimpleNamespace:
    """A state whose newest experiment is so made, and whose best file has two trainings."""
    proposed = {"category": category, "constants_changed": dict.fromkeys(changed, [1, 2])}
    curves = [{"10": 6.0, "25": 5.0, "50": 4.0, "75": None}, {"25": 5.2, "50": None, "75": None}]
    rivals = [SimpleNamespace(trained={"losses": curve}) for curve in curves]
    newest = SimpleNamespace(attempt=SimpleNamespace(proposed=proposed))
    return SimpleNamespace(experiments=[newest], rivals=rivals)


def test_what_is_hopeless_lies_above_the_best_files_mean_by_what_was_asked_for():
    found = hopeless_losses(state_of(), 0.2)
    assert found == {25: pytest.approx(5.3), 50: pytest.approx(4.2)}
    assert hopeless_losses(state_of(), 0.0) == {}


@pytest.mark.parametrize(
    "idea",
    [
        *(("schedule",), ("tune", ("TOTAL_BATCH_SIZE",)), ("tune", ("DEPTH", "WARMDOWN_RATIO"))),
        ("tune", ("FINAL_MOMENTUM",)),  # a constant that one of the bank's schedules brings
    ],
)
def test_where_schedule_or_batch_differ_nothing_is(idea):
    assert hopeless_losses(state_of(*idea), 0.2) == {}


def hear(losses: list[float]) -> list[dict]:
    """What a listener was told of a training of so many steps, until it ended."""
    told: list[dict] = []
    listen = EarlyEnd(told.append, {25: 5.3, 50: 4.2})
    for step, loss in enumerate(losses, start=1):
        listen({"event": "step", "progress": step / len(losses), "train_loss": loss})
    return told


def test_it_is_ended_after_the_first_place_where_its_mean_is_above():
    assert len(hear([5.3] * 30 + [4.0] * 70)) == 100
    with pytest.raises(EndedEarly, match="at 25% .* loss was 5.400, above 5.300"):
        hear([5.4] * 100)
    with pytest.raises(EndedEarly, match="at 50%"):
        hear([5.0] * 46 + [4.3] * 54)
    assert len(hear([9.0] * 20 + [5.0] * 5 + [9.0] * 20 + [4.0] * 55)) == 100
