"""When the incumbent is trained again beside an idea, and what comes of that.

Whole nights are played on `next_step`; nothing is trained.
"""

import pytest

from harness.rules.decision import decision
from harness.rules.next_step import REFRESH_TRAININGS, next_step
from harness.rules.replay import replay
from harness.run.results import results_from_journal
from harness.run.state import fold
from harness.show.stage import in_flight, stage_after

BUDGET = 300.0
PRIOR = {"sigma": 0.001, "df": 4, "note": "made up"}
CPU, CARD = 0.0, 7200.0
LINES = 100  # statements of the baseline


class Played:
    """A night whose journal is what `next_step` asks for.

    A run's score is its val_bpb, or a dict that has it beside fields of its `trained` entry.
    """

    def __init__(
        self, refresh_seconds: float | None = CPU, baseline=(1.5, 1.502), seeds: int = 2, **opened
    ):
        self.entries: list[dict] = []
        self.add(
            "opened", tag="t", seeds=list(range(1, seeds + 1)), prior=PRIOR, max_looks=3, **opened
        )
        if refresh_seconds is not None:
            self.entries[0]["refresh_seconds"] = refresh_seconds
        self.lines: dict[int, int] = {}
        self.idea(0, baseline)

    def add(self, event: str, **fields) -> None:
        self.entries.append({"seq": len(self.entries), "event": event} | fields)

    @property
    def state(self):
        return fold(self.entries)

    @property
    def step(self):
        return next_step(self.entries)

    @property
    def decided(self) -> dict:
        return self.state.experiments[-1].decided

    def idea(
        self, number: int, scores=(), again=(), lines: int = LINES, until: str = "", **trained
    ) -> list[str]:
        """Play an experiment to its commit; return its trainings, audits and decision in words.

        scores: of its runs; again: of the incumbent's. trained: fields of its own trainings.
        until: what is not done.
        """
        self.own, self.again, self.lines[number] = iter(scores), iter(again), lines
        done = []
        while (step := self.step).experiment == number:
            words = f"{step.run_kind} of {step.file[0]}" if step.kind == "train" else step.kind
            if words == until:
                break
            getattr(self, step.kind)(step, trained)
            done.append(words)
        return [
            words
            for words in done
            if words not in ("propose", "check", "in_flight", "score", "commit")
        ]

    def propose(self, step, trained) -> None:
        facts = {
            "title": "an idea",
            "category": "tune",
            "proposer": "test",
            "sha256": "x",
            "parent": 0,
        }
        lines = self.lines[step.experiment]
        self.add("proposed", experiment=step.experiment, attempt=0, code_lines=lines, **facts)

    def check(self, step, trained) -> None:
        self.add("checked", experiment=step.experiment, attempt=0, ok=True, reasons=[])

    def train(self, step, trained) -> None:
        facts = {
            "kind": step.run_kind,
            "seed": step.seed,
            "device_batch_limit": step.device_batch_limit,
        }
        facts |= {"beside": step.experiment} if step.of else {}
        self.add("run_started", **self.place(step), **facts)

    def in_flight(self, step, trained) -> None:
        score = next(self.again if step.of else self.own)
        given = dict(score) if isinstance(score, dict) else {"val_bpb": score}
        facts = {"status": "ok", "cause": "", "memory_mb": 1.0, "total_seconds": BUDGET} | (
            {} if step.of else trained
        )
        self.score_of = given.pop("val_bpb", None)
        self.add("trained", **self.place(step), **facts | given)

    def score(self, step, trained) -> None:
        self.add("scored", **self.place(step), status="ok", cause="", val_bpb=self.score_of)

    def audit(self, step, trained) -> None:
        self.add("audited", **self.place(step), status="ok", cause="", doubts=[], holdout="agrees")

    def decide(self, step, trained) -> None:
        self.add("decided", **decision(self.state, BUDGET), git=None)

    def commit(self, step, trained) -> None:
        self.add("committed", experiment=step.experiment, commit=None)

    def place(self, step) -> dict:
        experiment, attempt = step.file
        return {"experiment": experiment, "attempt": attempt, "run": step.run}


def at_speed(steps_per_second: float, val_bpb: float) -> dict:
    return {"val_bpb": val_bpb, "steps_per_second": steps_per_second}


# --- On a CPU: always beside a run of its own time ------------------------------------------------


def test_what_would_be_kept_is_judged_beside_a_fresh_run_of_the_incumbent():
    night = Played()
    assert night.idea(1, [1.49], again=[1.501]) == ["score of 1", "refresh of 0", "audit", "decide"]
    decided = night.decided
    assert (decided["decision"], decided["incumbent_runs"]) == ("keep", 3)
    assert decided["gain"] == pytest.approx((1.5 + 1.502 + 1.501) / 3 - 1.49, abs=1e-6)


def test_what_is_worse_or_within_the_noise_costs_no_refresh():
    night = Played()
    assert night.idea(1, [1.6]) == ["score of 1", "decide"]
    assert night.idea(2, [1.5011]) == ["score of 2", "decide"]


def test_a_refresh_takes_a_seed_of_its_own_and_the_incumbents_rows_and_every_one_another():
    night = Played(device_batch_limit=32)
    night.idea(1, [1.49], until="refresh of 0")
    first = night.step
    night.train(first, {})
    night.add("trained", **night.place(first), status="interrupted", cause="")
    second = night.step
    assert (first.run, second.run) == (
        2,
        3,
    ) and first.device_batch_limit == second.device_batch_limit == 32
    seeds = [entry["seed"] for entry in night.entries if entry["event"] == "run_started"]
    assert len({*seeds, second.seed}) == len(seeds) + 1


def test_a_machine_that_became_faster_does_not_make_an_idea_look_better():
    """All runs are better than before, the incumbent's too: the older ones count no longer."""
    night = Played()
    assert night.idea(1, [1.45], again=[1.4501]) == ["score of 1", "refresh of 0", "decide"]
    decided = night.decided
    assert (decided["decision"], decided["incumbent_runs"]) == ("discard", 1)
    assert decided["gain"] == pytest.approx(0.0001, abs=1e-6)
    assert [run.val_bpb for run in night.state.rivals] == [1.4501]
    # and the next idea is compared with the machine as it is now
    assert night.idea(2, [1.46]) == ["score of 2", "decide"] and night.decided["kind"] == "worse"


def test_a_gain_that_needs_more_runs_after_the_refresh_gets_them():
    night = Played()
    done = night.idea(1, [1.498, 1.4979], again=[1.498])
    assert done == ["score of 1", "refresh of 0", "confirm of 1", "audit", "audit", "decide"]
    assert night.decided["decision"] == "keep" and night.decided["n_runs"] == 2


def test_one_disturbed_run_does_not_count_and_two_that_agree_say_that_the_machine_has_changed():
    steady = [at_speed(10.0, value) for value in (1.5, 1.502)]
    night = Played(baseline=steady)
    done = night.idea(1, [at_speed(10.0, 1.49)], again=[at_speed(7.0, 1.53), at_speed(10.0, 1.501)])
    assert done == ["score of 1", "refresh of 0", "refresh of 0", "audit", "decide"]
    assert [run.val_bpb for run in night.state.experiments[0].attempt.runs] == [
        1.5,
        1.502,
        1.53,
        1.501,
    ]
    assert night.decided["incumbent_runs"] == 3 and night.decided["gain"] == pytest.approx(
        0.011, abs=1e-6
    )

    night = Played(baseline=steady)
    done = night.idea(
        1, [at_speed(14.0, 1.4802)], again=[at_speed(14.0, 1.48), at_speed(14.0, 1.4801)]
    )
    assert done == ["score of 1", "refresh of 0", "refresh of 0", "decide"]
    assert (night.decided["decision"], night.decided["incumbent_runs"]) == ("discard", 2)


def test_a_disturbed_run_of_the_baseline_is_made_up_for_and_tells_nothing_of_the_noise():
    first, last = at_speed(10.0, 1.5), at_speed(10.0, 1.502)
    steady = Played(baseline=[first, last])
    disturbed = Played(baseline=[first, at_speed(5.0, 1.6), last])
    assert len(disturbed.state.experiments[0].attempt.scores) == 3
    assert disturbed.state.noise == steady.state.noise
    assert [run.val_bpb for run in disturbed.state.rivals] == [1.5, 1.502]


def test_after_twenty_trainings_the_incumbent_is_trained_again_unasked():
    """Else a load that came, and hides good ideas, would never be seen."""
    night = Played()
    for number in range(1, REFRESH_TRAININGS + 1):
        assert night.idea(number, [1.6]) == [f"score of {number}", "decide"]
    number = REFRESH_TRAININGS + 1
    assert night.idea(number, [1.6], again=[1.55]) == [
        "refresh of 0",
        f"score of {number}",
        "decide",
    ]
    assert [run.val_bpb for run in night.state.rivals] == [1.55]  # the older ones are contradicted
    assert night.idea(number + 1, [1.56]) == [f"score of {number + 1}", "decide"]


def test_a_refresh_that_came_before_the_idea_is_not_fresh_enough_for_it():
    night = Played()
    for number in range(1, REFRESH_TRAININGS + 1):
        night.idea(number, [1.6])
    number = REFRESH_TRAININGS + 1
    done = night.idea(number, [1.45], again=[1.501, 1.502])
    assert done == ["refresh of 0", f"score of {number}", "refresh of 0", "audit", "decide"]


def test_journals_from_before_there_was_such_a_rule_ask_for_none():
    night = Played(refresh_seconds=None)
    assert night.idea(1, [1.49]) == ["score of 1", "audit", "decide"]
    for number in range(2, REFRESH_TRAININGS + 5):
        assert night.idea(number, [1.6])[0] == f"score of {number}"


# --- On a card: a recent run will do --------------------------------------------------------------


def test_on_a_card_the_first_keep_needs_a_refresh_and_the_next_a_recent_run():
    night = Played(CARD)
    # The baseline's own runs are never enough.
    assert "refresh of 0" in night.idea(1, [1.49], again=[1.501])
    assert night.idea(2, [1.48]) == ["score of 2", "audit", "decide"]
    assert (night.decided["decision"], night.decided["incumbent"]) == ("keep", 1)


def test_on_a_card_a_refreshed_baseline_serves_until_it_is_old():
    night = Played(CARD)
    night.idea(1, [1.49], again=[1.489])  # discarded, but the baseline has a run from today
    assert night.decided["decision"] == "discard"
    assert night.idea(2, [1.47]) == ["score of 2", "audit", "decide"]


@pytest.mark.parametrize("seconds, refreshed", [(3400.0, False), (3500.0, True)])
def test_on_a_card_the_incumbents_run_may_be_two_hours_of_training_old(seconds, refreshed):
    night = Played(CARD)
    night.idea(1, [1.49], again=[1.501], total_seconds=0.0)  # its refresh takes 300 s
    night.idea(2, [1.6], total_seconds=seconds)
    done = night.idea(3, [1.48], again=[1.49], total_seconds=seconds)
    assert ("refresh of 1" in done) is refreshed and night.decided["decision"] == "keep"


def test_on_a_card_nothing_from_before_another_run_shared_it_is_fresh():
    night = Played(CARD)
    night.idea(1, [1.49], again=[1.501])
    night.idea(2, [1.6], shared_with=["/results/other"])
    assert "refresh of 1" in night.idea(3, [1.48], again=[1.49])
    assert night.idea(4, [1.47]) == ["score of 4", "audit", "decide"]


# --- Simplifications ------------------------------------------------------------------------------


def test_a_simplification_is_kept_after_three_runs_beside_a_fresh_incumbent_and_a_kept_gain():
    night = Played()
    assert night.idea(1, [1.5011], lines=LINES - 5) == ["score of 1", "decide"]
    assert (night.decided["decision"], "once a gain was kept" in night.decided["verdict"]) == (
        "discard",
        True,
    )
    night.idea(2, [1.48], again=[1.501])
    scores = [1.4797, 1.4798, 1.4796]
    done = night.idea(3, scores, again=[1.4801], lines=LINES - 5)
    runs = ["score of 3", "confirm of 3", "confirm of 3", "refresh of 2"]
    assert done == [*runs, "audit", "audit", "audit", "decide"]
    decided = night.decided
    assert (decided["decision"], decided["kind"], decided["n_runs"]) == (
        "keep",
        "simplification",
        3,
    )
    assert 0 < decided["loss_bound"] == night.state.simplified
    assert night.state.smallest_gain == night.state.experiments[2].decided["gain"]  # of gains alone


def test_simplifications_share_one_margin_for_the_whole_night():
    night = Played()
    night.idea(1, [1.48], again=[1.501])
    kinds = []
    for number in range(2, 6):
        night.idea(number, [1.4797] * 3, again=[1.48], lines=LINES - 5 * number)
        kinds.append(night.decided["kind"])
    assert kinds[0] == "simplification" and kinds[-1] == "within noise"
    assert night.state.simplified <= night.state.noise.sigma


# --- A journal with refreshes, read by others -----------------------------------------------------


@pytest.fixture
def night():
    made = Played()
    made.idea(1, [1.49], again=[1.501])
    made.idea(2, [1.6])
    made.idea(3, [1.47], again=[1.4899])
    return made


def test_a_journal_with_refreshes_is_one_that_the_rules_lead_to(night):
    for length in range(len(night.entries) + 1):
        assert replay(night.entries[:length], BUDGET)[1] == ""
    assert replay(night.entries, None)[1] == ""


def at_refresh(night, beside: int) -> int:
    return next(n for n, entry in enumerate(night.entries) if entry.get("beside") == beside)


def test_a_refresh_that_stands_elsewhere_is_refused(night):
    place = at_refresh(night, 3)
    other = [dict(entry) for entry in night.entries]
    other[place]["beside"] = 2
    assert "has beside 2, the rules ask for 3" in replay(other, BUDGET)[1]
    other[place] |= {"beside": 3, "seed": 1}
    assert "has seed 1" in replay(other, BUDGET)[1]
    missing = renumbered(night.entries[:place] + night.entries[place + 3 :])
    assert (
        "stands where `run_started` of experiment 1, attempt 0, run 1" in replay(missing, BUDGET)[1]
    )
    entries = night.entries
    early = renumbered(
        entries[: place - 3]
        + entries[place : place + 3]
        + entries[place - 3 : place]
        + entries[place + 3 :]
    )
    assert (
        "stands where `run_started` of experiment 3, attempt 0, run 0" in replay(early, BUDGET)[1]
    )


def test_under_another_harness_a_refresh_may_come_where_this_one_asks_for_none(night):
    entries = renumbered(
        [
            entry | {"refresh_seconds": None} if entry["event"] == "opened" else entry
            for entry in night.entries
        ]
    )
    assert "stands where `audited`" in replay(entries, BUDGET)[1]
    assert replay(entries, None)[1] == ""
    place = at_refresh(night, 3)
    entries[place] = entries[place] | {"experiment": 2}  # but only of the incumbent
    assert "stands where" in replay(entries, None)[1]


def renumbered(entries: list[dict]) -> list[dict]:
    return [entry | {"seq": seq} for seq, entry in enumerate(entries)]


def test_the_table_has_one_row_an_experiment_and_none_for_a_refresh(night):
    rows = results_from_journal(night.entries)
    assert [row.status for row in rows] == ["keep", "keep", "discard", "keep"]
    assert [row.val_bpb for row in rows] == [
        pytest.approx(score) for score in (1.501, 1.49, 1.6, 1.47)
    ]


# --- Where the load is not what it was ------------------------------------------------------------


def beside(share: float, val_bpb: float) -> dict:
    """A run beside others that used this share of the CPU time."""
    return {"val_bpb": val_bpb, "core_seconds": 40 * (1 - share), "others_core_seconds": 40 * share}


def test_an_idea_that_met_a_new_load_is_judged_beside_the_incumbent_under_that_load():
    night = Played(baseline=[beside(0.0, 1.5), beside(0.05, 1.502)])
    done = night.idea(1, [beside(0.5, 1.52)], again=[beside(0.5, 1.54)])
    assert done == ["score of 1", "refresh of 0", "audit", "decide"]
    assert night.decided["decision"] == "keep" and night.decided["incumbent_runs"] == 1


def test_a_load_that_stays_costs_one_refresh_and_a_like_one_none():
    night = Played(baseline=[beside(0.0, 1.5), beside(0.05, 1.502)])
    assert night.idea(1, [beside(0.15, 1.52)]) == ["score of 1", "decide"]
    done = night.idea(2, [beside(0.6, 1.6)], again=[beside(0.6, 1.5)])
    assert done == ["score of 2", "refresh of 0", "decide"]
    assert night.decided["decision"] == "discard"
    assert night.idea(3, [beside(0.5, 1.6)]) == ["score of 3", "decide"]
    done = night.idea(4, [beside(0.0, 1.6)], again=[beside(0.0, 1.5)])
    assert done == ["score of 4", "refresh of 0", "decide"]


def test_a_clock_of_wall_time_and_an_old_journal_know_of_no_load():
    assert Played(baseline=[1.5, 1.502]).idea(1, [1.6]) == ["score of 1", "decide"]
    old = Played(refresh_seconds=None, baseline=[beside(0.0, 1.5), beside(0.0, 1.502)])
    assert old.idea(1, [beside(0.9, 1.6)]) == ["score of 1", "decide"]


# --- What it says of itself meanwhile -------------------------------------------------------------


def test_the_stage_is_the_ideas_while_the_best_file_is_trained_again():
    night = Played()
    night.idea(1, [1.49], again=[1.501], until="refresh of 0")
    night.train(night.step, {})
    told = in_flight(night.entries)
    assert (told.experiment, told.title, told.words) == (1, "an idea", "training the best again")
    night.in_flight(night.step, {})
    assert in_flight(night.entries).words == "scoring"
    night.score(night.step, {})
    assert in_flight(night.entries).words == "auditing"
    night.audit(night.step, {})
    assert in_flight(night.entries).words == "deciding"
    night.decide(night.step, {})
    assert in_flight(night.entries) is None


def test_a_training_tells_how_far_it_is():
    night = Played()
    night.idea(1, [1.49], until="score of 1")
    night.train(night.step, {})
    told = stage_after(night.state, event={"event": "step", "progress": 0.25, "train_loss": 3.5})
    assert (told.name, told.share, told.words) == ("training", 0.25, "training 25%, loss 3.500")
    assert stage_after(night.state, event={}).name == "starting"
    assert stage_after(night.state, event={"event": "finish"}).name == "writing weights"


def test_a_persons_word_takes_effect_between_two_experiments_and_never_within_one():
    night = Played()
    assert next_step(night.entries, rulings_wait=True).kind == "rule"
    assert night.step.kind == "propose"
    night.idea(1, until="check")
    assert next_step(night.entries, rulings_wait=True) == night.step
