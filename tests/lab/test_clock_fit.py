"""What a CPU second beside others is worth: from made-up spans, and from a real training here."""

import dataclasses
import json

import pytest
from living import alive_with

import harness
from harness.ground.errors import EndedEarly
from harness.lab import clock_fit, executor
from harness.lab.clock_fit import MEASURED, Span, find_worth, worth_of
from harness.lab.machine_facts import PROBE
from harness.night.progress import standing_words
from harness.night.wishes import Wishes
from harness.run import profiles
from harness.run.settings import make_settings, why_wall_time
from harness.training.devices import cpu_name

EAGER = (harness.REPOSITORY / "train_template.py").read_text(encoding="utf-8")


def spans_of(worth, cycles=9, noise=0.0, drift=0.0):
    """Alone, beside others, and so on; 20,000 steps a CPU second, alone. noise and drift: of the
    machine's pace."""
    spans = []
    for number in range(cycles):
        pace = 20_000 * (1 + drift * number)
        noisy = pace * (1 + noise * (-1) ** number)
        spans += [Span(0, round(1.9 * noisy), 1.9), Span(2, round(pace * worth), 1.0)]
    return spans


@pytest.mark.parametrize("worth", [0.93, 1.0, 1.08])
def test_it_is_steps_per_cpu_second_beside_others_over_alone_whatever_the_drift(worth):
    found, words = worth_of(spans_of(worth, drift=0.05))
    assert found == pytest.approx(worth, abs=0.002) and f"{worth - 1:+.1%}" in words


@pytest.mark.parametrize(
    ("spans", "ended", "words"),
    [
        (spans_of(0.93, cycles=2), MEASURED, "too few steps"),
        ([Span(0, 0, 0.0)] * 18, MEASURED, "too few steps"),
        (spans_of(0.93, noise=0.2), MEASURED, "too uncertain"),
        (spans_of(0.5), MEASURED, "too far off"),
        (spans_of(0.93), "train.py ended with exit status 1", "otherwise: train.py ended with"),
    ],
)
def test_what_cannot_be_measured_is_not_known_and_said(spans, ended, words):
    found, said = worth_of(spans, ended)
    assert found is None and words in said


def test_what_is_heard_once_it_is_measured_changes_nothing(monkeypatch):
    """The runner reads what was left in the training's channel when it has ended it."""
    for name in ("ALONE_SECONDS", "BESIDE_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(clock_fit, name, -1.0)
    with clock_fit.ComeAndGo(cores=1, charged_seconds=10.0) as listen:
        listen({"event": "ready"})
        with pytest.raises(EndedEarly, match="measured"):
            for step in range(99):
                listen({"event": "step", "step": step, "progress": step / 100})
        listen({"event": "step", "step": 99, "progress": 0.99})
    assert len(listen.spans) == 2 * clock_fit.CYCLES


@pytest.fixture
def trainer(tiny_data, tmp_path, monkeypatch):
    """An executor of a CPU's clock, with a short measurement that believes whatever it finds."""
    short = {"ALONE_SECONDS": 0.7, "BESIDE_SECONDS": 1.3, "SETTLE_SECONDS": 0.05, "CYCLES": 5}
    trusting = {"MOST_ERROR": 9.0, "LEAST": 0.01, "MOST": 99.0, "BUSY": 9.0}
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
    assert "for about a minute" in said[0] and "steps per CPU second here" in said[1], said
    [kept] = (tmp_path / "cache" / "machine").iterdir()
    entry = json.loads(kept.read_text())
    assert entry["worth"] == found and entry["device"] == cpu_name()
    assert [bool(span["burners"]) for span in entry["spans"]] == 5 * [False, True]
    assert not alive_with("os.getppid() ==", mine=True) and not (tmp_path / "run" / PROBE).exists()

    def trained(*arguments):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(executor, "run_training", trained)
    assert find_worth(trainer(), EAGER, said.append) == found and len(said) == 2
    with pytest.raises(AssertionError, match="measured again"):
        find_worth(trainer(threads=1), EAGER, said.append)
    for text in ('{"worth": 0.9', '{"worth": null}', '{"worth": 1e-9}', '{"worth": NaN}'):
        kept.write_text(text)
        with pytest.raises(AssertionError, match="measured again"):  # none, or not to be believed
            find_worth(trainer(), EAGER, said.append)
    assert not alive_with("os.getppid() ==", mine=True)


def test_on_a_busy_machine_nothing_is_measured_and_that_is_said(trainer, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(clock_fit, "busy_share", lambda: 9.5)
    monkeypatch.setattr(executor, "run_training", None)
    assert find_worth(trainer(), EAGER, said.append) == 1.0 and "next run measures" in said[0]
    assert not (tmp_path / "cache").exists()


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
