"""How long trainings take, by those that a journal tells of."""

import pytest

from harness.run.pace import seconds_of_trainings


def entries_of(experiment: int, run: int, took: float, val_bpb: float | None) -> list[dict]:
    place = {"experiment": experiment, "attempt": 0, "run": run}
    return [
        {"event": "run_started", **place},
        {"event": "trained", **place, "status": "ok", "total_seconds": took, "num_steps": 3},
        {"event": "scored", **place, "status": "ok", "val_bpb": val_bpb, "score_seconds": 10.0},
    ]


def test_runs_that_only_try_a_file_out_do_not_shorten_what_is_planned():
    whole = entries_of(0, 0, 330.0, 1.2)
    tried = [
        entry
        for number in range(1, 9)
        for entry in (*entries_of(number, 0, 25.0, None), *entries_of(number, 1, 330.0, 1.2))
    ]
    assert seconds_of_trainings([*whole, *tried], 6, 300.0) == pytest.approx(6 * 350)
    assert seconds_of_trainings([*whole, *tried], 6, 300.0, 2) == pytest.approx(6 * 680)
    nothing_scored = entries_of(0, 0, 25.0, None)
    assert seconds_of_trainings(nothing_scored, 1, 300.0) == pytest.approx(350)
