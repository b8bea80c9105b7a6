"""Which runs teach a run something: earlier ones on the same machine, text, budget and clock, and
of these only what is believed.
"""

import json

import pytest
from simulated_runs import Simulated

from harness.lab.earlier_runs import earlier_rows
from harness.run.run import Run

EARLIER, NOW = "2026-11-20T22:00:00.000Z", "2026-11-23T22:00:00.000Z"


def settle(folder, created, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": created} | changes))


@pytest.fixture
def runs(tmp_path):
    """An earlier run of 14 experiments, number 13 of them in quarantine, and one that begins."""
    Simulated(tmp_path / "nov20").until("propose", 15)
    Simulated(tmp_path / "nov23").until("propose", 1)
    settle(tmp_path / "nov20", EARLIER)
    settle(tmp_path / "nov23", NOW)
    return tmp_path


def test_what_was_believed_is_told(runs):
    rows = earlier_rows(Run(runs / "nov23"))
    assert [row["experiment"] for row in rows] == [n for n in range(15) if n != 13]
    assert {row["tag"] for row in rows} == {"nov20"}
    assert all(row["structure"].startswith("nov20 ") for row in rows)
    scored = [row for row in rows if row["gain"] is not None]
    assert scored and all(row["error"] > 0 for row in scored)
    assert not earlier_rows(Run(runs / "nov20"))  # what came later is not earlier


@pytest.mark.parametrize(
    "changes",
    [
        {"device": {"kind": "cpu", "name": "another CPU"}},
        {"data_hash": "e" * 64},
        {"core_rate": 0.9},
        {"threads": 1},
        {"dtype": "bfloat16"},
        {"profile": {"name": "tiny", "budget_seconds": 9.0}},
    ],
)
def test_unlike_runs_are_never_looked_at(runs, changes):
    settle(runs / "nov20", EARLIER, **changes)
    (runs / "nov20/journal.jsonl").write_text("no journal")
    assert earlier_rows(Run(runs / "nov23")) == []


def test_a_run_that_cannot_be_read_teaches_nothing(runs):
    (runs / "nov20/run.json").write_text("{")
    assert earlier_rows(Run(runs / "nov23")) == []
    (runs / "nov20/run.json").unlink()
    (runs / "nov20/run.json").mkdir()  # as good as one that may not be read, also to root
    assert earlier_rows(Run(runs / "nov23")) == []
