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


def test_the_page_says_how_large_the_noise_is_beside_what_ideas_are_worth():
    def row(experiment, parent, category, val_bpb):
        names = ("proposer", "night", "experiment", "parent", "category", "val_bpb")
        values = ("random", 1, experiment, parent, category, val_bpb)
        return dict(zip(names, values, strict=True))

    rows = [row(0, None, "baseline", 1.0), row(0, None, "baseline", 1.02)]
    assert yardstick.noise_words(rows) == ""
    rows += [row(1, 0, "schedule", 0.95), row(2, 0, "tune", 0.5), row(3, 0, "optimizer", 1.03)]
    words = yardstick.noise_words(rows)
    assert "differ by 0.0141 bpb (standard deviation, 1 degrees" in words
    assert "35% of the 0.0400 bpb" in words and "(median of 2)" in words
