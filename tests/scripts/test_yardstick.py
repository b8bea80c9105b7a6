"""What the yardstick keeps of a night."""

import json

import yardstick
from checkout import ROOT

from harness.run.run import Run
from harness.training.devices import cpu_name


def test_a_row_for_each_training_with_its_curve():
    rows = list(yardstick.curves_of(Run(ROOT / "results/sample")))
    run = Run(ROOT / "results/sample")
    assert [row["experiment"] for row in rows if row["run"] == 0] == list(range(7))
    for row in rows:
        assert row["val_bpb"] in run.state.experiments[row["experiment"]].attempt.scores
        assert len(row["curve"]) == yardstick.POINTS and row["curve"][0] > row["curve"][-1] > 0
    assert all((row["parent"] is None) is (row["experiment"] == 0) for row in rows)
    assert yardstick.facts_of(ROOT / "results/sample")["gain"] > 0


def test_nights_compare_with_random_on_their_own_machine_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(yardstick, "ROWS", tmp_path / "rows.jsonl")
    night = {"wanted": 30, "trainings": 50, "keeps": 3, "low": 0.1, "high": 0.5, "minutes": 9}
    for proposer, gain in (("tpe and bank", 0.40), ("random", 0.19), ("random", 0.21)):
        yardstick.append_row(yardstick.ROWS, night | {"proposer": proposer, "gain": gain})
    other = night | {"proposer": "random", "gain": 0.01, "machine": "another"}
    with yardstick.ROWS.open("a") as file:
        file.write(json.dumps(other) + "\n")
    assert f"| {cpu_name()} | tpe and bank | 1 | +0.400 | +8.000 | 2.00 |" in yardstick.page()


def test_a_ratio_has_an_interval_once_both_have_two_nights():
    assert yardstick.ratio_words([8.0], [4.0, 4.2]) == "1.95"
    assert yardstick.ratio_words([8.0, 8.2], [0.0, 0.0]) == yardstick.ratio_words([8.0], []) == ""
    low, high = yardstick.ratio_words([7.0, 9.0, 8.0], [3.0, 5.0, 4.0])[6:-1].split(" to ")
    assert 1.0 < float(low) < 2.0 < float(high) < 4.0
