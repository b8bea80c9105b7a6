"""The simulation of close-outs whose truth is known: it holds what it promises, on other nights."""

import math

import numpy as np
import pytest
from synthetic import close_outs


@pytest.fixture(scope="module")
def total():
    found = close_outs.Count()
    for machine in ("steady", "load changes"):
        for landscape in close_outs.LANDSCAPES:
            found.add(close_outs.close_outs(landscape, machine, 25))
    return found


def test_95_percent_of_intervals_hold_the_truth(total):
    error = math.sqrt(0.95 * 0.05 / total.intervals)
    # those of one night share the best's runs, so they err together
    assert total.intervals > 1000 and total.held / total.intervals > 0.95 - 4 * error


def test_at_most_5_percent_of_confirmed_changes_are_null_though_many_kept_ones_are(total):
    assert total.null / total.kept > 0.2
    assert total.confirmed > 200 and total.confirmed_null / total.confirmed <= 0.05


def test_a_night_without_keeps_is_closed_out_with_nothing():
    found = close_outs.close_out([], "steady", np.random.default_rng(1))
    assert (found.nights, found.kept, found.claims, found.intervals) == (1, 0, 0, 0)


def test_a_large_change_is_confirmed_and_a_null_one_goes_into_the_simplified_file():
    found = [
        close_outs.close_out([30.0, 0.0], "steady", np.random.default_rng(seed))
        for seed in range(20)
    ]
    assert sum(each.confirmed for each in found) >= 20
    assert sum(each.confirmed_null for each in found) <= 2
    assert {each.simplified_loss for each in found} == {0.0}
    assert sum(each.simplified for each in found) >= 5


def test_the_page_says_what_was_found():
    page = close_outs.report(1)
    assert "intervals hold the truth" in page and page.count("\n| ") == 2 + 16
