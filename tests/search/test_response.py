"""What a night's runs say of the constants, together."""

import math
import random
from dataclasses import replace

import pytest
from checkout import TEMPLATE

from harness.search.constants import checked_value, parse_constants
from harness.search.response_model import draw_steps, place, value_at

CONSTANTS = parse_constants(TEMPLATE)
SPACE = {name: constant for name, constant in CONSTANTS.items() if constant.searched}
VALUES = {name: constant.value for name, constant in CONSTANTS.items()}
SIGMA = 0.001


def row(constants, score, structure="a"):
    return {
        "constants": constants,
        "val_bpb": score,
        "status": "ok",
        "sigma": SIGMA,
        "n_runs": 1,
        "structure": structure,
    }


def night(score, runs, seed=0, structure=lambda number: "a"):
    """Runs that each move two constants at random, up to a fifth of their ranges, with noise."""
    rng = random.Random(seed)
    rows = [row(VALUES, score(VALUES), structure(0))]
    for number in range(1, runs + 1):
        values = dict(VALUES)
        for name in rng.sample(sorted(SPACE), 2):
            there = min(max(place(SPACE[name], VALUES[name]) + rng.uniform(-0.2, 0.2), 0), 1)
            values[name] = checked_value(SPACE[name], value_at(SPACE[name], there))
        rows.append(row(values, score(values) + rng.gauss(0, SIGMA), structure(number)))
    return rows


def firsts(rows, failures=(), seeds=10, space=SPACE):
    """The constant that is expected to gain most, and its new value, of a draw under each seed."""
    return [next(draw_steps(space, VALUES, rows, failures, seed))[0] for seed in range(seeds)]


@pytest.mark.parametrize("name", SPACE)
def test_a_place_is_a_value_and_back(name):
    constant = SPACE[name]
    assert value_at(constant, place(constant, constant.value)) == pytest.approx(constant.value)
    low, *_, high = constant.choices or (constant.low, constant.high)
    assert [place(constant, end) for end in (low, high)] == [0.0, 1.0]
    found = [value_at(constant, there) for there in (0.0, 1.0)]
    assert constant.choices or found == pytest.approx([low, high])


def test_the_constant_that_matters_is_found_with_its_direction():
    best = 2 * VALUES["EMBEDDING_LR"]
    rows = night(lambda values: 1.5 + 0.1 * math.log(values["EMBEDDING_LR"] / best) ** 2, 60)
    found = firsts(rows)
    assert {name for name, _ in found} == {"EMBEDDING_LR"}
    assert all(1.5 < value / VALUES["EMBEDDING_LR"] < 3 for _, value in found)


def test_what_a_structure_gained_is_not_a_constants_merit():
    """Every other run has better code, and a higher WEIGHT_DECAY by chance."""
    score = lambda values: 1.5  # noqa: E731
    rows = night(score, 60, structure=lambda number: "ab"[number % 2])
    for number, entry in enumerate(rows):
        if number % 2:
            entry["val_bpb"] -= 0.02
            entry["constants"] = entry["constants"] | {"WEIGHT_DECAY": 0.2}
    confused = firsts([entry | {"structure": "a"} for entry in rows])
    times = [[name for name, _ in each].count("WEIGHT_DECAY") for each in (firsts(rows), confused)]
    assert times[0] < times[1]


def test_failures_are_avoided():
    rows = night(lambda values: 1.5, 40)
    higher = VALUES["MATRIX_LR"] * 2
    failures = [VALUES | {"MATRIX_LR": higher * (1 + 0.1 * i)} for i in range(4)]
    steps = [dict(next(draw_steps(SPACE, VALUES, rows, failures, seed))) for seed in range(10)]
    assert not any(step.get("MATRIX_LR", 0) > 1.7 * VALUES["MATRIX_LR"] for step in steps)


def test_the_same_arguments_give_the_same_steps_within_the_ranges():
    # The incumbent lies outside of one range.
    narrow = SPACE | {"MATRIX_LR": replace(SPACE["MATRIX_LR"], low=0.1, high=0.2)}
    rows = night(lambda values: 1.5, 20)
    steps = [list(draw_steps(narrow, VALUES, rows, [], seed)) for seed in (1, 1, 2)]
    assert steps[0] == steps[1] != steps[2]
    for step in steps[0]:
        for name, value in step:
            constant = narrow[name]
            if not constant.choices:
                is_low = value == pytest.approx(constant.low)
                assert is_low or constant.low <= value <= constant.high
    assert list(draw_steps(SPACE, VALUES, [], [], 0))  # and with nothing known at all
