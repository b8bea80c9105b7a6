"""What rows of trainings say of an idea, on a machine that gets slower meanwhile."""

import math

import bank_evidence
import pytest


def rows_of(*told, **more):
    """Rows of one session in order. told: (idea, val_bpb, steps)."""
    same = {"base": "plain", "of": "p", "session": "s", "seed": 1, "taken_out": False, "cores": 2}
    same |= {"wall_seconds": 50.0, "others_core_seconds": 1.0, "machine": "m"} | more
    return [
        {"idea": idea, "val_bpb": val_bpb, "num_steps": steps, "sha256": f"of {idea}"} | same
        for idea, val_bpb, steps in told
    ]


DRIFT = rows_of(
    *(("", 1.00, 100), ("gate", 0.91, 99), ("skips", 1.03, 50)),
    *(("", 1.02, 96), ("tables", 1.13, 97), ("", 1.04, 92)),
)


def test_an_idea_is_compared_with_its_base_just_before_and_after():
    rows = [*DRIFT[:4], DRIFT[4] | {"taken_out": True}, DRIFT[5]]
    found = {idea: facts for idea, *facts in bank_evidence.gains_of("plain", rows)}
    gains = {idea: facts[0] for idea, facts in found.items()}
    assert gains == pytest.approx({"gate": 0.10, "skips": -0.02, "tables": 0.10})
    # of one training, against the mean of two: their noise is that between two of the base
    error = math.sqrt(0.02**2 / 2) * math.sqrt(1.5)
    assert [facts[1] for facts in found.values()] == pytest.approx([error] * 3)
    assert found["skips"][3] == pytest.approx(50 / 98)


def test_other_versions_of_the_base_and_other_sessions_do_not_mix():
    older = rows_of(("", 2.0, 10), ("gate", 0.5, 10), ("", 2.0, 10), of="older")
    later = rows_of(("", 0.5, 200), ("gate", 0.44, 200), ("", 0.5, 200), session="later", seed=2)
    (gate, *_) = bank_evidence.gains_of("plain", [*older, *DRIFT, *later])
    assert gate[:2] == ("gate", pytest.approx((0.10 + 0.06) / 2)) and gate[3] == 2
    assert list(bank_evidence.gains_of("strong", DRIFT)) == []


def test_what_trained_beside_others_does_not_count_and_says_what_they_did():
    busy = rows_of(("gate", 0.99, 90), others_core_seconds=50.0)
    rows = [DRIFT[0], *busy, *DRIFT[1:]]
    assert bank_evidence.quiet(rows) == DRIFT
    assert bank_evidence.words_of_company(rows).endswith("the others held: 0.91 (50%)\n")
    assert bank_evidence.words_of_company(DRIFT) == ""


def test_machines_count_by_their_errors():
    other = [row | {"machine": "n"} for row in DRIFT]
    found = bank_evidence.gains_of_all([*DRIFT, *other])
    assert found["gate"]["plain"]["gain"] == 0.10
    alone = bank_evidence.gains_of_all(DRIFT)
    error = alone["gate"]["plain"]["error"] / math.sqrt(2)
    assert found["gate"]["plain"]["error"] == pytest.approx(error, abs=1e-4)
