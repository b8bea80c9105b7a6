"""What makes a would-be keep wait for a person, and what does not."""

import pytest

from harness.rules.decision import decision
from harness.rules.next_step import next_step
from harness.rules.quarantine import quarantine_reasons, startup_limit
from harness.run.state import fold

BUDGET = 300.0


def trained(
    budget: float,
    startup: float = 20.0,
    over: float = 0.3,
    steps: int = 1000,
    weights: float = 0.5,
    more: dict | None = None,
) -> dict:
    """The fields of a training that went on `over` seconds beyond its budget.

    It wrote its weights in `weights`.
    """
    times = {
        "startup_seconds": startup,
        "training_seconds": budget + over,
        "weights_seconds": weights,
    }
    times |= {"overshoot_seconds": over, "spent_seconds": budget + over + weights}
    return (
        {"status": "ok", "cause": "", "num_steps": steps, "memory_mb": 1000.0}
        | times
        | (more or {})
    )


class Night:
    """A journal in the making: a baseline of three seeds, then ideas.

    lost: trainings of an idea that had to be repeated.
    """

    def __init__(self, scores=(1.0, 1.001, 0.999), budget=BUDGET, source="python-stdlib", **facts):
        self.budget = budget
        self.entries = [
            {"event": "opened", "seeds": [1, 2, 3], "prior": None, "max_looks": 3, "source": source}
        ]
        self.idea(0, scores, **facts)

    def add(self, event: str, **fields):
        self.entries.append({"event": event} | fields)

    def idea(
        self,
        number: int,
        scores,
        doubts=(),
        closely=(),
        audited=True,
        decide=True,
        lost=(),
        **facts,
    ):
        self.add(
            "proposed",
            experiment=number,
            title="an idea",
            category="tune",
            proposer="test",
            code_lines=100,
        )
        self.add("checked", experiment=number, ok=True, reasons=[])

        def train(run: int, ending: dict) -> None:
            seed = {"kind": "score", "seed": run, "device_batch_limit": None}
            self.add("run_started", experiment=number, run=run, **seed)
            self.add("trained", experiment=number, run=run, **facts_of_training | ending)

        facts_of_training = trained(self.budget, **facts)
        for run, ending in enumerate(lost):
            train(run, ending)
        for run, score in enumerate(scores, start=len(lost)):
            train(run, {})
            self.add(
                "scored",
                experiment=number,
                run=run,
                status="ok",
                cause="",
                val_bpb=score,
                doubts=list(doubts),
            )
        for run in range(len(lost), len(lost) + len(scores) if audited and number else 0):
            self.add(
                "audited",
                experiment=number,
                run=run,
                status="ok",
                cause="",
                doubts=list(closely),
                holdout="agrees" if number else None,
            )
        if decide:
            self.add("decided", **decision(self.state, self.budget), git=None)
            self.add("committed", experiment=number, commit=None)
        return self

    @property
    def state(self):
        return fold(self.entries)

    @property
    def decided(self):
        return self.state.experiments[-1].decided


def test_an_honest_gain_is_kept_and_says_that_the_holdout_agrees():
    decided = Night().idea(1, [0.99]).decided
    assert decided["decision"] == "keep" and "holdout agrees" in decided["verdict"]


def test_what_is_about_to_be_kept_is_audited_closely_first_and_each_of_its_runs():
    night = Night().idea(1, [0.995, 0.994], audited=False, decide=False)
    assert (next_step(night.entries).kind, next_step(night.entries).run) == ("audit", 0)
    night.add("audited", experiment=1, run=0, status="ok", cause="", doubts=[], holdout="agrees")
    assert (next_step(night.entries).kind, next_step(night.entries).run) == ("audit", 1)
    night.add("audited", experiment=1, run=1, status="cheating", cause="it looks ahead")
    assert next_step(night.entries).kind == "decide"
    found = decision(night.state, BUDGET)
    assert (found["decision"], found["status"], found["val_bpb"]) == ("discard", "cheating", None)
    assert found["verdict"] == "cheating: it looks ahead"


def test_what_is_discarded_anyway_is_not_audited_closely():
    assert next_step(Night().idea(1, [1.05], audited=False, decide=False).entries).kind == "decide"


@pytest.mark.parametrize("where", ["doubts", "closely"])
def test_a_score_that_cannot_be_reproduced_is_quarantined_only_when_it_would_be_kept(where):
    doubt = ["not reproducible: rms 0.2 nats"]
    decided = Night().idea(1, [0.99], **{where: doubt}).decided
    assert (decided["decision"], decided["doubts"], decided["status"]) == (
        "quarantine",
        doubt,
        "ok",
    )
    assert Night().idea(1, [1.05], **{where: doubt}).decided["decision"] == "discard"


def test_a_start_up_much_longer_than_the_baseline_s_is_quarantined():
    baseline = Night().state.experiments[0].attempt
    limit = startup_limit(Night().state, baseline, baseline.runs[0], BUDGET)
    assert limit == 1.5 * 20 + 15
    assert Night().idea(1, [0.99], startup=limit).decided["decision"] == "keep"
    decided = Night().idea(1, [0.99], startup=limit + 0.1).decided
    assert decided["decision"] == "quarantine" and "before its clock started" in decided["verdict"]


@pytest.mark.parametrize(
    "startup, compiled, depth, decided",
    [
        (75.0, True, 4, "keep"),  # 1.5 x 40 s cold, and 15
        (75.5, True, 4, "quarantine"),
        (75.5, True, 8, "keep"),  # 9 + 1.85 x 8 against 9 + 1.85 x 4: 1.45 times as long
        (102.0, True, 8, "keep"),
        (103.0, True, 8, "quarantine"),
        (75.0, True, 2, "keep"),  # and no less for a shallow one
        (30.0, False, 4, "keep"),  # 1.5 x 10 s warm, and 15: no minute of training before the clock
        (30.5, False, 4, "quarantine"),
        (30.5, False, 8, "quarantine"),
    ],
)
def test_cold_and_warm_start_ups_are_told_apart_and_a_deep_model_may_compile_longer(
    startup, compiled, depth, decided
):
    night = Night()
    for entry, seconds in zip(
        [each for each in night.entries if each["event"] == "trained"],
        (40.0, 10.0, 9.0),
        strict=True,
    ):
        entry |= {"startup_seconds": seconds, "compiled": seconds == 40.0}
    night.entries[1]["constants"] = {"DEPTH": 4}
    night.idea(1, [0.99], decide=False, startup=startup, more={"compiled": compiled})
    next(each for each in night.entries if each["event"] == "proposed" and each["experiment"] == 1)[
        "constants"
    ] = {"DEPTH": depth}
    assert decision(night.state, BUDGET)["decision"] == decided


@pytest.mark.parametrize(
    "startup, compiled, decided",
    [(15.0, True, "keep"), (100.0, True, "quarantine"), (100.0, False, "keep")],
)
def test_the_smoke_runs_start_up_is_judged_where_it_left_compiled_code(startup, compiled, decided):
    """What it leaves in the compile cache, the scored run begins with."""
    night = Night()
    night.idea(1, [0.99], decide=False)
    smoke = {"kind": "smoke", "seed": 0, "device_batch_limit": None}
    scored = next(
        place
        for place, entry in enumerate(night.entries)
        if entry["event"] == "run_started" and entry["experiment"] == 1
    )
    for entry in night.entries[scored:]:
        if "run" in entry:
            entry["run"] += 1
    told = trained(BUDGET) | {"startup_seconds": startup, "compiled": compiled}
    ended = {"status": "ok", "cause": "", "val_bpb": None, "doubts": []}
    night.entries[scored:scored] = [
        {"event": "run_started", "experiment": 1, "run": 0} | smoke,
        {"event": "trained", "experiment": 1, "run": 0} | told,
        {"event": "scored", "experiment": 1, "run": 0} | ended,
    ]
    assert decision(night.state, BUDGET)["decision"] == decided


@pytest.mark.parametrize(
    "budget, over, weights, decided",
    [
        (300.0, 5.4, 0.5, "keep"),  # 2% of the budget, both together
        (300.0, 5.4, 0.7, "quarantine"),
        (300.0, 0.3, 5.6, "keep"),
        (300.0, 0.3, 5.8, "quarantine"),
        (300.0, -1.0, 5.9, "keep"),  # who stops early gains no time after the stop
        (300.0, -1.0, 6.1, "quarantine"),
        (20.0, 0.5, 0.5, "keep"),  # a second, where the budget is small
        (20.0, 0.5, 0.6, "quarantine"),
    ],
)
def test_time_beyond_the_budget_and_after_the_stop_is_one_sum(budget, over, weights, decided):
    night = Night(budget=budget).idea(1, [0.99], over=over, weights=weights)
    assert night.decided["decision"] == decided
    assert ("did it train on" in night.decided["verdict"]) is (decided == "quarantine")


def test_a_last_step_may_be_as_long_as_two_of_the_baseline_s_whatever_the_idea_says_of_its_own():
    slow = Night(steps=50)  # the baseline: 6 s a step
    assert slow.idea(1, [0.99], over=11.0, weights=0.9, steps=50).decided["decision"] == "keep"
    assert (
        slow.idea(2, [0.98], over=11.0, weights=1.2, steps=50).decided["decision"] == "quarantine"
    )
    few = Night().idea(1, [0.99], over=11.0, steps=5)  # it says: 60 s a step
    assert few.decided["decision"] == "quarantine"


@pytest.mark.parametrize("status", ["interrupted", "infrastructure"])
def test_an_end_that_only_the_training_tells_of_is_a_doubt_and_one_that_was_seen_is_none(status):
    for sure, decided in ((False, "quarantine"), (True, "keep")):
        night = Night().idea(
            1, [0.99], lost=[{"status": status, "sure": sure, "cause": "disk full"}]
        )
        assert (
            night.decided["decision"],
            "may have brought about" in night.decided["verdict"],
        ) == (decided, decided == "quarantine")
        assert ("disk full" in night.decided["verdict"]) is (decided == "quarantine")


def test_memory_that_runs_out_late_is_a_doubt_and_at_the_first_step_none():
    for spent, decided in ((14.0, "keep"), (16.0, "quarantine"), (None, "keep")):
        lost = {"status": "oom", "device_batch_size": 8, "spent_seconds": spent}
        assert Night().idea(1, [0.99], lost=[lost]).decided["decision"] == decided
    for spent, decided in ((1.9, "keep"), (2.1, "quarantine")):  # where the budget is small
        lost = {"status": "oom", "device_batch_size": 8, "spent_seconds": spent}
        assert Night(budget=20.0).idea(1, [0.99], lost=[lost]).decided["decision"] == decided


def test_work_of_other_processes_is_a_doubt_beyond_a_hundredth_or_half_a_second():
    for others, wall_seconds, decided in (
        (0.5, 10.0, "keep"),
        (0.6, 10.0, "quarantine"),
        (5.9, 600.0, "keep"),
        (6.1, 600.0, "quarantine"),
    ):
        facts = {"other_processes_seconds": others, "wall_seconds": wall_seconds}
        assert Night().idea(1, [0.99], more=facts).decided["decision"] == decided


def test_a_long_start_up_is_no_doubt_where_no_text_is_within_reach_before_the_clock():
    for source, wall, decided in (
        ("climbmix", "bubblewrap", "keep"),
        ("climbmix", "limits", "quarantine"),
        ("python-stdlib", "bubblewrap", "quarantine"),
    ):
        night = Night(source=source).idea(1, [0.99], startup=100.0, more={"wall": wall})
        assert night.decided["decision"] == decided


def test_an_implausible_gain_is_quarantined_and_plausible_becomes_what_was_seen_before():
    state = Night().idea(1, [0.99]).idea(2, [0.9], audited=False, decide=False).state
    assert state.best_gain == pytest.approx(0.01)
    sigma = state.noise.sigma
    limit = max(30 * sigma, 3 * 0.01)
    assert quarantine_reasons(state, state.experiments[2], limit - 1e-6, BUDGET) == []
    [reason] = quarantine_reasons(state, state.experiments[2], limit + 1e-6, BUDGET)
    assert "30 sigma" in reason and "3 times the best gain" in reason


def test_what_is_in_quarantine_is_not_the_incumbent_until_a_person_accepts_it():
    night = Night().idea(1, [0.5])
    assert night.decided["decision"] == "quarantine" and night.state.incumbent.number == 0
    assert night.state.experiments[1].in_quarantine and night.state.incumbent.mean == pytest.approx(
        1.0
    )
    night.add("ruled", experiment=1, accept=True, becomes_incumbent=True, commit="c" * 40)
    assert night.state.incumbent.number == 1 and night.state.incumbent.commit == "c" * 40
    assert not night.state.experiments[1].in_quarantine and night.state.best_gain == pytest.approx(
        0.5
    )


def test_a_gain_that_an_unsteady_audit_could_have_missed_is_quarantined():
    for error, floor, decision_ in (
        (1e-6, 0.02, "keep"),
        (0.01, 0.02, "quarantine"),
        (0.01, 0.005, "keep"),
    ):
        night = Night().idea(1, [0.99], audited=False, decide=False)
        audit = {"standard_error": error, "floor_bpb": floor}
        night.add(
            "audited",
            experiment=1,
            run=0,
            status="ok",
            cause="",
            doubts=[],
            holdout="agrees",
            audit=audit,
        )
        assert decision(night.state, BUDGET)["decision"] == decision_


def test_where_the_baselines_own_weights_are_slow_an_ideas_may_be_twice_as_slow():
    fast, slow = Night(budget=20.0), Night(budget=20.0, weights=3.0)
    assert fast.idea(1, [0.99], weights=4.0).decided["decision"] == "quarantine"
    assert slow.idea(1, [0.99], weights=4.0).decided["decision"] == "keep"
    assert slow.idea(2, [0.98], weights=7.0).decided["decision"] == "quarantine"
