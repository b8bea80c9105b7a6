"""Runs of older harnesses, whose journals have only what the first ones wrote."""

import json
import shutil

import pytest
from checkout import ROOT

from harness.lab.close_out import words_of_claim
from harness.run.run import Run
from harness.show.export import export
from harness.show.frame import choose_run
from harness.show.nights import compare_nights, trainings_of
from harness.show.report import write_report

ALWAYS = {"event", "seq", "time", "experiment", "attempt", "run", "status", "val_bpb"}
WRITTEN = {
    "run_started": {"kind", "role", "seed"},
    "scored": {"holdout_bpb"},
    "decided": {"decision", "kind", "title"},
    "committed": {"commit"},
    "claim_begun": {"best", "seeds", "first_seed"},
    "claimed": {"best", "cause", "val", "holdout"},
}


@pytest.fixture
def old(tmp_path):
    """The sample, as far as the first harness would have written it; its claim alone."""
    folder = shutil.copytree(ROOT / "results/sample", tmp_path / "old")
    for name in ("journal.jsonl", "close_out.jsonl"):
        entries = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        later = [n for n, e in enumerate(entries) if e.get("kind") in ("ablation", "longer")]
        lines = [
            json.dumps({k: v for k, v in e.items() if k in ALWAYS | WRITTEN.get(e["event"], set())})
            for e in entries[: later[0] if later else None]
        ]
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_they_are_compared_reported_and_exported(old, tmp_path):
    run, sample = choose_run("old", tmp_path), choose_run("sample", ROOT / "results")
    assert trainings_of(run) == trainings_of(sample) and run.claimed["val"] == sample.claimed["val"]
    page = compare_nights([run, sample])
    assert "\n| old | " in page and "\n| all | tpe | " in page
    assert "an improvement" in write_report(old).read_text()
    said = export(Run(old), tmp_path / "out")
    assert "train.py: the best file, with its numbers" in said
    words = words_of_claim(sample.claimed)
    assert f"On fresh seeds {words}" in (tmp_path / "out/README.md").read_text()
