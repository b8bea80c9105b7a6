"""What a CPU second beside others is worth: from made-up spans, and from a real training here."""

import dataclasses
import json

import pytest
from living import alive_with

import harness
from harness.lab import clock_fit, executor
from harness.lab.clock_fit import Span, find_worth, worth_of
from harness.lab.machine_facts import PROBE
from harness.night.progress import standing_words
from harness.night.wishes import Wishes
from harness.run import profiles
from harness.run.settings import make_settings, why_wall_time
from harness.training.devices import cpu_name

EAGER = (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")


def spans_of(worth, cycles=9, others=0.0, noise=0.0, drift=0.0):
    """On two cores: 2 s alone, 4 s beside others, and so on; 20,000 steps a CPU second, alone.

    others: cores that somebody else uses all the time; noise and drift: of the machine's pace.
    """
    spans = []
    for number in range(cycles):
        pace, work = 20_000 * (1 + drift * number), 1.9 - others
        noisy = pace * (1 + noise * (-1) ** number)
        spans.append(Span(0, round(work * noisy), work, 2.0, 4.0 - 2 * work - 2 * others))
        spans.append(Span(2, round(pace * worth), 1.0, 4.0, 0.0))
    return spans


@pytest.mark.parametrize("worth", [0.93, 1.0, 1.08])
def test_it_is_steps_per_cpu_second_beside_others_over_alone_whatever_the_drift(worth):
    found, words = worth_of(spans_of(worth, drift=0.05), cores=2, threads=2)
    assert found == pytest.approx(worth, abs=0.002) and f"{worth - 1:+.1%}" in words


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        (spans_of(0.93, others=0.5), "others use 0.5 cores now"),
        (spans_of(0.93, cycles=2), "too few steps"),
        ([], "too few steps"),
        (spans_of(0.93, noise=0.2), "says nothing"),
        (spans_of(0.5), "says nothing"),
    ],
)
def test_what_cannot_be_measured_is_not_known_and_said(spans, words):
    found, said = worth_of(spans, cores=2, threads=2)
    assert found is None and words in said and "may differ by 10%" in said


@pytest.fixture
def trainer(tiny_data, tmp_path, monkeypatch):
    """An executor of a CPU's clock, with a short measurement that believes whatever it finds."""
    short = {"ALONE_SECONDS": 0.5, "BESIDE_SECONDS": 0.5, "SETTLE_SECONDS": 0.05, "CYCLES": 3}
    trusting = {"MOST_ERROR": 9.0, "LEAST": 0.01, "MOST": 99.0, "BUSY_CORES": 99.0}
    for name, value in (short | trusting | {"LEAST_STEPS": 1}).items():
        monkeypatch.setattr(clock_fit, name, value)
    profile = dataclasses.replace(
        profiles.PROFILES["tiny"], clock_step_seconds=0.0, budget_seconds=20.0
    )
    device = {"kind": "cpu", "name": cpu_name(), "memory_mb": 8_000, "dtype": "float32"}
    made = make_settings("t", profile, tiny_data, device)
    made = dataclasses.replace(made, data_folder=str(tmp_path / "cache" / made.data_id))
    return lambda **changes: executor.Executor(
        dataclasses.replace(made, **changes), tiny_data, tmp_path / "run", tmp_path
    )


@pytest.mark.skipif(bool(why_wall_time()), reason="the budget is wall time here")
def test_it_is_measured_by_training_and_kept_for_the_machine(trainer, tmp_path, monkeypatch):
    said: list[str] = []
    found = find_worth(trainer(), EAGER, said.append)
    assert "once, for about a minute" in said[0] and "steps per CPU second here" in said[1], said
    [kept] = (tmp_path / "cache" / "machine").iterdir()
    entry = json.loads(kept.read_text())
    assert entry["worth"] == found and entry["device"] == cpu_name()
    assert [bool(span["burners"]) for span in entry["spans"]] == 3 * [False, True]
    assert not alive_with("os.getppid() == parent", mine=True) and not list(
        tmp_path.rglob("weights.safetensors")
    )

    def trained(*arguments):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(executor, "run_training", trained)
    assert find_worth(trainer(), EAGER, said.append) == found and len(said) == 2
    with pytest.raises(AssertionError, match="measured again"):
        find_worth(trainer(threads=1), EAGER, said.append)
    kept.write_text('{"worth": 0.9')
    with pytest.raises(AssertionError, match="measured again"):  # half a file is none
        find_worth(trainer(), EAGER, said.append)
    assert not alive_with("os.getppid() == parent", mine=True)


def test_where_it_does_not_matter_nothing_is_measured(trainer, monkeypatch):
    monkeypatch.setattr(executor, "run_training", None)
    short = trainer().settings.profile | {"budget_seconds": 5.0}
    for changes in ({"core_rate": 0.0}, {"profile": short}):
        assert find_worth(trainer(**changes), EAGER, None) == 1.0


def test_meanwhile_the_night_says_what_it_does(tmp_path):
    night = Wishes("t", results=str(tmp_path))
    assert standing_words(night) == "preparing"
    (tmp_path / "t" / PROBE).mkdir(parents=True)
    assert standing_words(night) == "measuring this machine, once"
