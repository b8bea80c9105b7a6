"""Whose turn it is and what is asked for, on histories played row by row."""

from collections import Counter

import pytest

from harness.search.program import ProgramSettings
from harness.search.turns import (
    FLAT,
    LEAST_SHARE,
    RESTART_AFTER,
    SHARE_AFTER,
    Turn,
    choose_turn,
    is_structural,
    near_misses,
)

ALL = ProgramSettings()
BASELINE = {"experiment": 0, "category": "baseline", "decision": "baseline"}
BASELINE |= {"val_bpb": 1.6, "parent": None}
KEPT = {"decision": "keep", "gain": 0.01}


def failing(why):
    """The fate of a night in which the model fails whenever it is asked."""
    return lambda turn, number: {"llm_failed": why} if turn.who == "llm" else {}


def row(experiment, turn=None, decision="discard", gain=-0.05, **more):
    """An experiment as decided: of a turn (or tpe's tune), a clear loss unless told otherwise."""
    turn = turn or Turn("tpe", "tune", "")
    mixed = turn.operator in ("structural", "combine", "restart")
    return {
        "experiment": experiment,
        "title": f"idea {experiment}",
        "category": "architecture" if mixed else turn.operator,
        "operator": turn.operator,
        "proposer": turn.who,
        "decision": decision,
        "status": "ok",
        "gain": gain,
        "sigma": 0.002,
        "val_bpb": None if gain is None else 1.6 - gain,
        "parent": turn.parent or 0,
        "sources": list(turn.sources),
        "folder": f"attempts/{experiment}",
        "llm_failed": "",
    } | more


def request(history, proposer="hybrid", **more):
    kept = [row["experiment"] for row in history if row["decision"] == "keep"]
    return {
        "experiment": history[-1]["experiment"] + 1,
        "attempt": 0,
        "proposer": proposer,
        "history": history,
        "incumbent_val_bpb": 1.6,
        "sigma": 0.002,
        "parent_experiment": max(kept, default=0),
    } | more


def play(count, proposer="hybrid", settings=ALL, fate=lambda turn, number: {}):
    """Return (turns, history) of a night; fate(turn, number): what differs in an experiment."""
    history, turns = [BASELINE], []
    for number in range(1, count + 1):
        turn = choose_turn(request(history, proposer), settings)
        turns.append(turn)
        changes = fate(turn, number)
        instead = Turn("tpe", "structural" if turn.forced else "tune", "")
        made_by = instead if changes.get("llm_failed") else turn
        history.append(row(number, made_by, **changes))
    return turns, history


def asked(turns):
    return [number for number, turn in enumerate(turns, 1) if turn.who == "llm"]


def test_a_keyless_night_never_asks_the_model_and_keeps_its_schedule():
    turns, _ = play(9, "tpe")
    assert asked(turns) == []
    assert [turn.operator for turn in turns] == ["structural", "tune", "tune"] * 3


def test_llm_alone_has_every_turn():
    assert asked(play(30, "llm")[0]) == list(range(1, 31))


def test_the_models_share_falls_with_its_misses_and_comes_back_with_a_keep():
    turns, _ = play(60)
    first = asked(turns)[:SHARE_AFTER]
    assert first == [1, 3, 5, 7, 9, 11]
    gaps = [b - a for a, b in zip(asked(turns), asked(turns)[1:], strict=False)]
    assert gaps[: 2 * SHARE_AFTER - 1] == [2] * (SHARE_AFTER - 1) + [4] * SHARE_AFTER
    turns, _ = play(60, fate=lambda turn, number: KEPT if number == 15 else {})
    after = [number for number in asked(turns) if number >= 15]
    assert after[:4] == [15, 17, 19, 21]


def test_in_a_long_night_without_a_keep_the_model_still_has_its_least_share():
    turns, _ = play(200)
    late = [number for number in asked(turns) if number > 100]
    assert 100 // LEAST_SHARE - 1 <= len(late) <= 100 // LEAST_SHARE + 1


def test_the_bank_keeps_its_turns_in_a_hybrid():
    turns, _ = play(36)
    keyless = [turn.operator for turn in turns if turn.who == "tpe"]
    assert keyless.count("structural") * 3 in range(len(keyless) - 3, len(keyless) + 4)


def test_failures_wait_longer_and_longer_and_an_answer_ends_the_wait():
    down = failing("server: it answers 524")
    assert asked(play(40, "llm", fate=down)[0]) == [1, 3, 6, 11, 20, 29, 38]
    back = lambda turn, number: down(turn, number) if number < 7 else {}  # noqa: E731
    assert asked(play(20, "llm", fate=back)[0]) == [1, 3, 6, *range(11, 21)]


@pytest.mark.parametrize(
    "why",
    [
        "budget: all requests are made",
        "unreachable: nobody answers",
        "unauthorised: the key is refused",
        "unknown_model: there is no m",
        "context_too_long: 9000 tokens",
        "setup: no key",
    ],
)
def test_what_a_person_may_mend_at_any_time_is_looked_at_on_every_turn(why):
    spent = failing(why)
    assert asked(play(12, "llm", fate=spent)[0]) == list(range(1, 13))
    assert {1, 3, 5, 7, 9} <= set(asked(play(12, "hybrid", fate=spent)[0]))


@pytest.mark.parametrize("proposer", ["hybrid", "llm"])
@pytest.mark.parametrize("experiments", range(1, 14))
def test_a_night_that_is_started_again_asks_at_once(proposer, experiments):
    _, history = play(experiments, proposer, fate=failing("server: it answers 524"))
    again = request(history, proposer, asked_since=experiments + 1)
    assert choose_turn(again, ALL).who == "llm"


def test_another_model_begins_with_its_whole_share():
    _, history = play(50, fate=lambda turn, number: {"model": "poor" * (turn.who == "llm")})
    history = history[:49]
    assert choose_turn(request(history, llm={"model": "poor"}), ALL).who == "tpe"
    assert choose_turn(request(history, llm={"model": "other"}), ALL).who == "llm"


def test_a_reply_that_could_not_be_used_counts_as_a_failure():
    useless = failing("not_applicable: 3 answers")
    assert asked(play(12, "llm", fate=useless)[0]) == [1, 3, 6, 11]


def test_numbers_are_tpes_in_a_hybrid_and_the_models_too_when_it_is_alone():
    assert "tune" not in {turn.operator for turn in play(60)[0] if turn.who == "llm"}
    assert "tune" in {turn.operator for turn in play(20, "llm")[0]}
    only = ProgramSettings(allowed_categories=("tune",))
    turns, _ = play(10, settings=only)
    assert asked(turns) == [] and "TPE" in turns[0].why
    assert {turn.operator for turn in play(10, "llm", only)[0]} == {"tune"}


def test_every_operator_that_is_allowed_is_asked_for_and_no_other():
    settings = ProgramSettings(allowed_categories=("schedule", "simplify"))
    operators = {turn.operator for turn in play(9, "llm", settings)[0]}
    assert operators == {"schedule", "simplify"}


def test_an_operator_that_brought_keeps_is_asked_for_more():
    lucky = lambda turn, number: KEPT if turn.operator == "optimizer" else {}  # noqa: E731
    counts = Counter(turn.operator for turn in play(40, "llm", fate=lucky)[0])
    assert counts["optimizer"] >= 2 * max(counts["schedule"], counts["simplify"])


def test_flat_numbers_force_structure():
    history = [BASELINE, *(row(n) for n in range(1, FLAT + 1))]
    # The model's turn was just now: only force explains another.
    history[-1] |= {"llm_failed": "budget: spent"}
    turn = choose_turn(request(history), ALL)
    assert (turn.who, turn.forced) == ("llm", True) and turn.operator != "tune"
    turn = choose_turn(request(history, "llm"), ALL)
    assert turn.forced and turn.operator != "tune"
    history[-2] |= {"category": "schedule"}
    assert not choose_turn(request(history), ALL).forced
    history[-2] |= {"category": "tune", "decision": "keep"}
    assert not choose_turn(request(history), ALL).forced


def test_two_near_misses_are_combined_once():
    def combined(count, near):
        gains = {number: {"gain": 0.001 + number / 1e5} for number in near}
        turns, _ = play(count, "llm", fate=lambda turn, number: gains.get(number, {}))
        return sorted(turn.sources for turn in turns if turn.operator == "combine")

    assert combined(30, (2, 4)) == [(2, 4)]
    assert combined(60, (2, 4, 6)) == [(2, 4), (2, 6), (4, 6)]


def test_near_misses_are_within_the_noise_and_best_first():
    rows = [
        row(1, gain=-0.0019),
        row(2, gain=-0.0021),
        row(3, gain=0.001),
        row(4, gain=0.01, decision="keep"),
        row(5, gain=None),
    ]
    assert [r["experiment"] for r in near_misses(rows)] == [3, 1]


def test_a_restart_takes_the_best_candidate_off_the_incumbents_line_once():
    history = [
        BASELINE,
        row(1, decision="keep", gain=0.02),
        row(2, gain=-0.001),
        row(3, gain=-0.005),
        row(4, gain=-0.01),
    ]
    history.append(row(5, decision="keep", gain=0.03, parent=1))
    turn = Turn("llm", "architecture", "")
    history += [row(n, turn, parent=5) for n in range(6, 6 + RESTART_AFTER)]
    turns = []
    for _ in range(20):
        turn = choose_turn(request(history, "llm"), ALL)
        turns.append(turn)
        history.append(row(history[-1]["experiment"] + 1, turn))
    restarts = [turn.parent for turn in turns if turn.operator == "restart"]
    assert restarts == [2, 3]  # 4 is too far behind, 1 and 5 are the incumbent's line


def test_no_operator_comes_twice_in_a_row_where_there_is_another():
    turns, _ = play(60, "llm", fate=lambda turn, number: {"gain": -0.001})
    operators = [turn.operator for turn in turns]
    assert all(a != b for a, b in zip(operators, operators[1:], strict=False))
    assert {"restart", "combine"} <= set(operators)


def test_structural_is_all_but_numbers():
    kinds = [is_structural({"category": name}) for name in ("tune", "baseline", "simplify")]
    assert kinds == [False, False, True]
