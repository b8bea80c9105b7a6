"""Which comparisons a close-out makes after its claim: which changes matter, what can be left out,
and whether the gain lasts.

In: a run and its close-out. Out: the next comparison, as far as it fits into the time that is left.
Writes nothing.

    ablation     the best with itself without one change, for each change: cheapest first
    simplified   the best with itself without all changes without which it was no worse
    longer       best and baseline with twice the budget, then with four times
    elsewhere    best and baseline on another text or vocabulary, where one was asked for
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from harness.lab.changes import NotAlone, best_without
from harness.lab.close_out import BASELINE, CloseOut, Comparison
from harness.lab.close_out_findings import changes_of, removable
from harness.lab.other_text import text_words
from harness.rules.keep import CLAIM_SEEDS
from harness.run.pace import seconds_of_trainings
from harness.run.run import Run
from harness.run.state import Experiment

ASKED = {
    "claim": "whether the best is an improvement",
    "ablation": "what the best loses without each change",
    "simplified": "whether it is as good without what costs nothing",
    "longer": "whether the gain lasts at {budgets:g}x the budget",
    "elsewhere": "whether the gain holds on {text}",
}
BUDGETS = (2, 4)  # of the night's budget, that best and baseline are trained with at last


def plan(
    run: Run, kind: str, against: dict[str, dict], budgets: float = 1, template: bool = False
) -> Comparison:
    """A comparison to be begun. against, budgets: as in Comparison; template: that too, once."""
    facts = {"kind": kind, "against": against, "budgets": budgets, "template": template}
    best = run.state.incumbent.number
    return Comparison({"best": best, "seeds": CLAIM_SEEDS, "first_seed": 0} | facts)


def plan_claim(run: Run) -> Comparison:
    """The comparison that gives the claim; a demo's trains the template of real nights, too."""
    is_demo = run.settings.profile["name"] == "demo"
    return plan(run, "claim", {BASELINE: {}}, template=is_demo)


def seconds_of(run: Run, planned: Comparison) -> float:
    """How long it takes here."""
    trainings, budget = len(planned.trials), run.settings.budget_seconds
    return seconds_of_trainings(run.entries, trainings, budget, planned.budgets)


def within(run: Run, planned: Comparison, seconds: float) -> Comparison | None:
    """As much of it as so many seconds allow; None where that is nothing."""
    while seconds_of(run, planned) > seconds:
        if len(planned.made) < 2:
            return None
        fewer = dict(list(planned.others.items())[:-1])
        planned = Comparison(planned.begun | {"against": fewer})
    return planned


def next_question(run: Run, found: CloseOut, text: dict | None = None) -> Comparison | None:
    """What has not been asked yet of a best that has its claim; None when all has.

    text: facts of another text that was asked for: that comes first.
    """
    state, found = run.state, found.about(run.state.incumbent.number)
    if not found.claimed or found.claimed["status"] != "ok":
        return None
    asked_of = [each.text["data_id"] for each in found.of_kind("elsewhere")]
    if text and text["data_id"] not in asked_of:
        planned = plan(run, "elsewhere", {BASELINE: {}})
        return Comparison(planned.begun | {"text": text})
    changes = changes_of(state)
    asked = [facts["lacks"] for c in found.of_kind("ablation") for facts in c.others.values()]
    left = [change for change in changes if [change.number] not in asked]
    if left and len(changes) > 1:  # of a single change the claim itself is the ablation
        ordered = sorted(left, key=seconds_of_one)
        return without(run, "ablation", [[change.number] for change in ordered])
    drop = removable(state, found)
    if drop and not found.of_kind("simplified"):
        return without(run, "simplified", [drop])
    done = [each.budgets for each in found.of_kind("longer")]
    longer = [budgets for budgets in BUDGETS if budgets not in done]
    return plan(run, "longer", {BASELINE: {}}, longer[0]) if longer else None


def words_left(run: Run, found: CloseOut, text: dict | None = None) -> str:
    """What has not been asked yet, and how long that takes; "" when all has been. text: as in
    next_question."""
    question = next_question(run, found, text)
    if question is None:
        return ""
    minutes, what = seconds_of(run, question) / 60, asked_words(question)
    return f"not asked yet: {what} ({len(question.trials)} trainings, about {minutes:.0f} min)"


def asked_words(comparison: Comparison) -> str:
    text = text_words(comparison.text) if comparison.text else ""
    return ASKED[comparison.kind].format(budgets=comparison.budgets, text=text)


def without(run: Run, kind: str, groups: Sequence[list[int]]) -> Comparison:
    """The best beside itself without each group of changes; those that do not come off first."""
    against = {}
    for numbers in groups:
        why = ""
        try:
            best_without(run, numbers)
        except NotAlone as error:
            why = str(error)
        role = f"file without {' and '.join(map(str, numbers))}"
        against[role] = {"lacks": numbers, "not_alone": why}
    ordered = sorted(against.items(), key=lambda item: not item[1]["not_alone"])
    return plan(run, kind, dict(ordered))


def seconds_of_one(experiment: Experiment) -> float:
    """What a training of a kept file took: its start and its end differ, its budget does not."""
    took = [run.trained.get("total_seconds") or 0.0 for run in experiment.attempt.scored]
    return statistics.mean(took) if took else 0.0
