"""The script that measures under load: its loads come and go, its page says what its rows say."""

import json
import subprocess
import sys

import psutil
import pytest
import under_load
from checkout import ROOT

from harness.training.devices import cpu_name


def running(load: under_load.Load) -> list[int]:
    return [burner.pid for burner in load._burners if burner.poll() is None]


@pytest.mark.parametrize("name, count, left", [("nobody", 0, 0), ("two", 2, 2), ("leaves", 2, 0)])
def test_a_load_is_there_while_it_is_wanted_and_gone_afterwards(name, count, left):
    with under_load.Load(name) as load:
        begun = running(load)
        assert len(begun) == count
        load.leave()
        assert len(running(load)) == left
    assert not any(map(psutil.pid_exists, begun))


def test_bursts_come_and_go(monkeypatch):
    monkeypatch.setattr(under_load, "BURST_SECONDS", 0.05)
    seen = set()
    with under_load.Load("bursts") as load:
        for _ in range(200):
            seen.add(len(load._burners))
            load._ended.wait(0.01)
    assert {0, 2} <= seen and not running(load)


def test_the_page_gives_the_shift_from_idle_in_standard_deviations_of_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(under_load, "ROWS", tmp_path / "rows.jsonl")
    facts = {"part": "seeds", "num_steps": 100, "training_seconds": 20.0, "wall_seconds": 20.0}
    scores = {"nobody": (1.9, 2.0, 2.1), "two": (2.0, 2.1, 2.2)}
    for load, group in scores.items():
        for seed, score in enumerate(group, start=1):
            under_load.append_row(
                under_load.ROWS, facts | {"load": load, "seed": seed, "val_bpb": score}
            )
    claim = {"val": [0.3, 0.2, 0.4], "holdout": [0.2, -0.1, 0.5]}
    demo = {"part": "demos", "load": "two", "number": 1, "without_first": True, "minutes": 20.0}
    under_load.append_row(
        under_load.ROWS,
        demo
        | {"baseline": 1.9, "kept": ["a | b"], "true_gains": [0.31], "template_bpb": None}
        | claim,
    )
    page = "\n".join([*under_load.seeds_table(), *under_load.demos_table()])
    assert "| two | 3 | 2.1000 | 0.1000 | +1.00 ± 0.82 |" in page
    assert "1 of 1 end with a claim whose interval lies above zero" in page
    assert "+0.3000 (+0.2000 to +0.4000)" in page and "two, without the first idea" in page
    assert {json.loads(line)["part"] for line in under_load.ROWS.read_text().splitlines()} == {
        "seeds",
        "demos",
    }


def test_the_pace_is_taken_from_whole_intervals_alone_and_beside_others(tmp_path, monkeypatch):
    spent = [0.05 * n if n < 100 else 5 + 0.04 * (n - 100) for n in range(300)]
    budget = under_load.PACE_SECONDS
    steps = [(n, 0.1 * n, seconds / budget, 2 * seconds) for n, seconds in enumerate(spent)]
    changes = [(0.0, False), (10.0, True), (20.0, False), (20.5, True)]
    found = under_load.paces(steps, changes)
    expected = {"alone": [20.0], "beside": [25.0], "alone_cpu": [10.0], "beside_cpu": [12.5]}
    assert found == {name: pytest.approx(values) for name, values in expected.items()}
    monkeypatch.setattr(under_load, "ROWS", tmp_path / "rows.jsonl")
    for seed, beside in ((1, [18.0, 18.2]), (2, [19.0, 19.2])):
        row = {"load": "one", "seed": seed, "alone": [20.0, 20.2], "beside": beside}
        row |= {f"{name}_cpu": row[name] for name in ("alone", "beside")}
        under_load.append_row(under_load.ROWS, {"part": "pace"} | row)
    page = "\n".join(under_load.pace_table())
    assert f"| {cpu_name()} | one | 2 | 20.10 | 18.60 | -7.8% ± 2.7% | -7.8% ± 2.7% |  |" in page
    for seed, steps in ((1, 100), (2, 110)):  # 0.1 bpb and one idle sigma are ln(1.1) of steps
        row = {"load": "nobody", "seed": seed, "num_steps": steps, "val_bpb": 2.1 - seed / 10}
        under_load.append_row(under_load.ROWS, {"part": "seeds"} | row)
    assert "| -7.8% ± 2.7% | +1.16 ± 0.40 |" in "\n".join(under_load.pace_table())


def test_a_toggled_load_comes_and_goes_and_says_when(monkeypatch):
    monkeypatch.setattr(under_load, "TOGGLE_SECONDS", 0.05)
    with under_load.Toggled("one") as load:
        while len(load.changes) < 5:
            load._ended.wait(0.01)
    assert [on for _, on in load.changes[:4]] == [False, True, False, True] and not running(load)


def test_the_table_is_made_by_the_command():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/under_load.py", "table"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith("# A CPU's budget beside others"), (
        done.stderr
    )
