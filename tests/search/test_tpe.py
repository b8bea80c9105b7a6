"""Numbers: TPE within the limits."""

import math
import random
from dataclasses import replace

import pytest
from checkout import TEMPLATE

from harness.ground.errors import ProposalError
from harness.search.bank.directions import KNOWN
from harness.search.constants import parse_constants
from harness.search.limits import Limits, effective_values, estimate_memory_mb, reasons_against
from harness.search.tpe import propose_change
from harness.search.tried import Past

CONSTANTS = parse_constants(TEMPLATE)
VALUES = {name: constant.value for name, constant in CONSTANTS.items()}
SPACE = {name: constant for name, constant in CONSTANTS.items() if constant.searched}
LIMITS = Limits(max_seq_len=256, n_vocab=2049, memory_mb=64_000)


def row(experiment, constants, score, status="ok", parent=0, category="tune"):
    return {
        "experiment": experiment,
        "category": category,
        "status": status,
        "val_bpb": score,
        "constants": dict(constants),
        "parent": parent,
    }


BASELINE = row(0, VALUES, 1.5, parent=None, category="baseline")


def search(score, experiments, space=SPACE, values=VALUES, limits=LIMITS, seed=0):
    """Return the incumbent's values and the history of a noiseless night."""
    incumbent, best, parent = dict(values), score(values), 0
    history = [row(0, values, best, None, None, "baseline")]
    for experiment in range(1, experiments + 1):
        change = propose_change(space, incumbent, history, limits, seed * 1000 + experiment)
        candidate = {**incumbent, **change.values}
        result = score(candidate)
        status = "ok" if result is not None else "crash"
        history.append(row(experiment, candidate, result, status, parent))
        if result is not None and result < best:
            incumbent, best, parent = candidate, result, experiment
    return incumbent, history


def test_a_night_of_proposals_obeys_every_promise():
    rng = random.Random(1)
    incumbent, history = search(lambda values: 1.5 + rng.gauss(0, 0.01), 60)
    seen = []
    for entry in history:
        assert not any(entry["constants"] == other for other in seen)  # nothing twice
        seen.append(entry["constants"])
        assert entry["constants"].keys() == VALUES.keys()
        for name, value in entry["constants"].items():
            constant = CONSTANTS[name]
            if constant.scale == "choice":
                assert value in constant.choices
            elif constant.searched:
                assert constant.low <= value <= constant.high
                assert type(value) is type(constant.value)
            else:
                assert value == constant.value
        assert entry["constants"]["TOTAL_BATCH_SIZE"] % 256 == 0
        assert entry["constants"]["N_HEAD"] % entry["constants"]["KV_GROUP"] == 0
    for entry in history[1:]:
        parent = history[entry["parent"]]["constants"]
        assert 1 <= sum(entry["constants"][name] != parent[name] for name in parent) <= 3


def test_the_same_request_gives_the_same_answer_and_another_seed_another():
    history = [BASELINE, row(1, VALUES | {"SCALAR_LR": 0.3}, 1.6)]  # one tune before: TPE's turn
    answers = [propose_change(SPACE, VALUES, history, LIMITS, seed) for seed in (1, 1, 2, 3)]
    assert answers[0] == answers[1]
    assert len({str(answer.values) for answer in answers}) > 1


def test_it_climbs_a_smooth_landscape_further_than_chance():
    names = ("MATRIX_LR", "EMBEDDING_LR", "UNEMBEDDING_LR", "SCALAR_LR")
    space = {name: SPACE[name] for name in names}
    best = {"MATRIX_LR": 0.1, "EMBEDDING_LR": 0.3, "UNEMBEDDING_LR": 0.02, "SCALAR_LR": 0.1}

    def score(values):
        return sum(math.log(values[name] / best[name]) ** 2 for name in names)

    ends = [score(search(score, 40, space=space, seed=seed)[0]) for seed in range(3)]
    chance = []
    for seed in range(20):
        rng = random.Random(seed)
        logs = {name: (math.log(c.low), math.log(c.high)) for name, c in space.items()}
        draws = ({n: math.exp(rng.uniform(*log)) for n, log in logs.items()} for _ in range(40))
        chance.append(min(map(score, draws)))
    assert sum(ends) / len(ends) < 0.5 * sum(chance) / len(chance)
    assert max(ends) < 0.1 * score(VALUES)


def test_failures_teach_feasibility():
    """Half of the space crashes: proposals go there less, and never back to a failed point."""
    space = {"MATRIX_LR": SPACE["MATRIX_LR"]}
    _, history = search(lambda values: None if values["MATRIX_LR"] > 0.04 else 1.5, 12, space=space)
    failed = [entry["constants"]["MATRIX_LR"] for entry in history if entry["status"] == "crash"]
    reach = math.log(SPACE["MATRIX_LR"].high / SPACE["MATRIX_LR"].low)
    assert failed
    for i, a in enumerate(failed):
        for b in failed[:i]:
            assert abs(math.log(a / b)) >= 0.05 * reach


def test_a_failure_that_the_incumbent_outlived_rules_nothing_out():
    """It diverged at this MATRIX_LR once; the incumbent trains at it, and is searched on."""
    hot = row(1, VALUES | {"MATRIX_LR": 0.1}, None, "nan")
    kept = VALUES | {"MATRIX_LR": 0.1, "SCALAR_LR": 0.1}
    history = [BASELINE, hot, row(2, kept, 1.4)]
    past = Past(SPACE, kept, history, LIMITS)
    assert past.accepts(kept | {"UNEMBEDDING_LR": 0.01})
    past = Past(SPACE, VALUES, history[:2], LIMITS)
    # Not outlived: not again.
    assert not past.accepts(VALUES | {"MATRIX_LR": 0.101, "UNEMBEDDING_LR": 0.01})


@pytest.mark.parametrize("status", ["timeout", "oom", "nan", "crash"])
def test_no_failure_ends_a_night(status):
    """Copies of the incumbent that failed, and failures all over the rest of the range."""
    space = {name: SPACE[name] for name in ("MATRIX_LR", "DEPTH")}
    other = VALUES | {"MATRIX_LR": 0.02}
    copies = [row(number, VALUES, None, status, parent=1) for number in (2, 3)]
    history = [BASELINE, row(1, other, 1.6), *copies]
    for i in range(32):
        rate = VALUES | {"MATRIX_LR": 0.004 * 1.15**i}
        history.append(row(10 + 2 * i, rate | {"DEPTH": 2}, None, status))
        history.append(row(11 + 2 * i, rate, None, status))
    for seed in range(3):
        assert propose_change(space, VALUES, history, LIMITS, seed).values


def test_a_failed_structural_idea_says_nothing_of_the_numbers():
    history = [
        BASELINE,
        row(1, VALUES, None, "crash", category="architecture"),
        row(2, VALUES | {"SCALAR_LR": 0.3}, 1.6),
    ]
    propose_change({"SCALAR_LR": SPACE["SCALAR_LR"]}, VALUES, history, LIMITS, 1)


def test_what_ran_out_of_memory_is_not_made_larger():
    space = {name: SPACE[name] for name in ("DEPTH", "N_HEAD")}
    history = [BASELINE, row(1, VALUES | {"DEPTH": VALUES["DEPTH"] + 1}, None, "oom")]
    for seed in range(10):
        candidate = VALUES | propose_change(space, VALUES, history, LIMITS, seed).values
        assert candidate["DEPTH"] <= VALUES["DEPTH"] or candidate["N_HEAD"] < VALUES["N_HEAD"]


def test_known_directions_come_first_and_each_value_once():
    history, seen = [BASELINE], []
    for experiment in range(1, 40):
        change = propose_change(SPACE, VALUES, history, LIMITS, experiment)
        if change.why in {known.evidence for known in KNOWN}:
            seen.append(change.values)
        history.append(row(experiment, VALUES | change.values, 1.6))
        if experiment == 1:
            assert seen, "the first tune is a known direction"
    assert len(seen) >= 4 and all(len(values) == 1 for values in seen)
    assert len({str(values) for values in seen}) == len(seen)


def test_exhaustion_is_a_clear_error():
    space = {"KV_GROUP": SPACE["KV_GROUP"]}
    values = VALUES | {"N_HEAD": 2, "KV_GROUP": 1}
    baseline = row(0, values, 1.5, parent=None, category="baseline")
    history = [baseline, row(1, values | {"KV_GROUP": 2}, 1.6)]
    with pytest.raises(ProposalError, match=r"widen \[ranges\]"):  # 4 does not divide 2 heads
        propose_change(space, values, history, LIMITS, 1)
    with pytest.raises(ProposalError, match="fixes or forbids"):
        propose_change({}, values, history, LIMITS, 1)


def test_a_range_away_from_the_incumbent_moves_it_inside():
    space = {"MATRIX_LR": replace(SPACE["MATRIX_LR"], low=0.1, high=0.2)}
    value = propose_change(space, VALUES, [BASELINE], LIMITS, 1).values["MATRIX_LR"]
    assert 0.1 <= value <= 0.2


def test_settings_without_effect_are_no_experiment():
    plain = VALUES | {"DEPTH": 2, "WINDOW_PATTERN": "L"}
    assert effective_values(plain) == effective_values(plain | {"SHORT_WINDOW": 0.5})
    short = plain | {"WINDOW_PATTERN": "SL"}
    longer = plain | {"WINDOW_PATTERN": "SSSSL"}
    assert effective_values(short) == effective_values(longer)  # two layers: S, then L
    assert effective_values(short) != effective_values(short | {"SHORT_WINDOW": 0.5})
    second, third = (plain | {"VALUE_EMBED_EVERY": every} for every in (2, 3))
    assert effective_values(second) == effective_values(third)
    space = {"SHORT_WINDOW": SPACE["SHORT_WINDOW"]}
    with pytest.raises(ProposalError):
        propose_change(space, plain, [row(0, plain, 1.5, parent=None)], LIMITS, 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"TOTAL_BATCH_SIZE": 128}, "less than one row"),
        ({"TOTAL_BATCH_SIZE": 4096 + 128}, "whole number"),
        ({"N_HEAD": 3, "KV_GROUP": 2}, "KV_GROUP 2"),
        ({"WARMUP_RATIO": 0.2, "WARMDOWN_RATIO": 0.9}, "exceed"),
        ({"DEPTH": 24, "N_HEAD": 16, "HEAD_DIM": 128}, "MB"),
    ],
)
def test_rules(values, words):
    limits = replace(LIMITS, memory_mb=2000)
    assert reasons_against(VALUES, limits) == []
    reasons = reasons_against(VALUES | values, limits)
    assert len(reasons) == 1 and words in reasons[0]
    ran = VALUES | values  # so the rule was wrong
    assert reasons_against(ran, limits, proven=ran) == []
    assert reasons_against({"DEPTH": 3}, limits) == []  # a train.py without those constants


def test_only_what_does_not_fit_with_a_single_row_is_refused_for_memory():
    wide = VALUES | {"TOTAL_BATCH_SIZE": 2**18, "DEVICE_BATCH_SIZE": 1024, "NGRAM_TABLES": 0}
    all_rows, one_row = (estimate_memory_mb(wide, LIMITS, rows) for rows in (None, 1))
    assert all_rows > 100 * one_row
    assert reasons_against(wide, replace(LIMITS, memory_mb=(all_rows + one_row) / 2)) == []
    assert "one row" in reasons_against(wide, replace(LIMITS, memory_mb=0.9 * one_row))[0]
    nine_rows = VALUES | {"TOTAL_BATCH_SIZE": 2048 + 256}  # three times three, or as they fit
    assert reasons_against(nine_rows, LIMITS) == []


def test_the_memory_estimate_grows_with_every_size():
    estimate = estimate_memory_mb(VALUES, LIMITS)
    for name in ("DEPTH", "N_HEAD", "MLP_RATIO"):
        assert estimate_memory_mb(VALUES | {name: 2 * VALUES[name]}, LIMITS) > estimate
    assert estimate_memory_mb(VALUES, replace(LIMITS, n_vocab=65536)) > estimate
