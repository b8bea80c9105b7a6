"""What the yardstick keeps of a night."""

import yardstick
from checkout import ROOT

from harness.run.run import Run


def test_a_row_for_each_training_with_its_curve():
    rows = list(yardstick.curves_of(Run(ROOT / "results/sample")))
    run = Run(ROOT / "results/sample")
    assert [row["experiment"] for row in rows if row["run"] == 0] == list(range(7))
    for row in rows:
        assert row["val_bpb"] in run.state.experiments[row["experiment"]].attempt.scores
        assert len(row["curve"]) == yardstick.POINTS and row["curve"][0] > row["curve"][-1] > 0
    assert all((row["parent"] is None) is (row["experiment"] == 0) for row in rows)
    assert yardstick.facts_of(ROOT / "results/sample")["gain"] > 0
