"""What a close-out asks after its claim, one comparison after the other: which changes matter, what
can be left out, and whether the gain lasts.

In: a run and its close-out. Out: the next Question, as far as it fits into the time that is left.
Writes nothing.

    ablation     the best beside itself without one change, for each change: cheapest first
    simplified   the best beside itself without all changes that it was no worse without
    longer       best and baseline with twice the budget, then with four times
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from harness.lab.changes import NotAlone, best_without, read_source
from harness.lab.close_out import BASELINE, CloseOut
from harness.lab.findings import changes_of, removable
from harness.rules.keep import CLAIM_SEEDS
from harness.run.pace import seconds_of_trainings
from harness.run.run import Run
from harness.run.state import Experiment
from harness.search.gate import source_hash

ASKED = {
    "ablation": "what the best loses without each change",
    "simplified": "whether a simpler file is as good",
    "longer": "whether the gain lasts at {budgets:g}x the budget",
}
BUDGETS = (2, 4)  # of the night's budget, that best and baseline are trained with at last


@dataclass(frozen=True)
class Question:
    """One comparison of the best with other files.

    against: their roles. removed: the experiments that each lacks, sha256: its text's. not_alone:
    why one cannot be made. budgets: of the night, that each training gets.
    """

    kind: str
    against: list[str] = field(default_factory=lambda: [BASELINE])
    removed: dict[str, list[int]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    not_alone: dict[str, str] = field(default_factory=dict)
    budgets: float = 1
    template: bool = False

    @property
    def trainings(self) -> int:
        others = len(self.against) - len(self.not_alone)
        return (CLAIM_SEEDS * (others + 1) if others else 0) + self.template

    def seconds(self, run: Run) -> float:
        """How long it takes here."""
        budget = run.settings.budget_seconds
        return seconds_of_trainings(run.entries, self.trainings, budget, self.budgets)

    def within(self, run: Run, seconds: float) -> Question | None:
        """As much of it as so many seconds allow; None where that is nothing."""
        asked = self
        while asked.seconds(run) > seconds:
            if len(asked.against) - len(asked.not_alone) < 2:
                return None
            asked = replace(asked, against=asked.against[:-1])
        return asked

    def facts(self) -> dict:
        """As the journal keeps it."""
        about = {"removed": self.removed, "sha256": self.sha256}
        kept = {
            name: {role: value for role, value in values.items() if role in self.against}
            for name, values in about.items()
        }
        return asdict(self) | kept


def next_question(run: Run, found: CloseOut) -> Question | None:
    """What has not been asked yet of a best that has its claim; None when all has."""
    state, claimed = run.state, found.claimed
    if not claimed or claimed["status"] != "ok" or claimed["best"] != state.incumbent.number:
        return None
    changes = changes_of(state)
    asked = {n for each in found.of_claim("ablation") for (n,) in each.removed.values()}
    left = [change for change in changes if change.number not in asked]
    if left and len(changes) > 1:  # of a single change the claim itself is the ablation
        ordered = sorted(left, key=seconds_of_one)
        return without(run, "ablation", [[change.number] for change in ordered])
    drop = [change.number for change in removable(state, found)]
    if drop and not found.of_claim("simplified"):
        question = without(run, "simplified", [drop])
        if source_hash(read_source(run, state.kept[0])) not in question.sha256.values():
            return question  # else it is the baseline, and the claim has measured that
    done = [each.budgets for each in found.of_claim("longer")]
    longer = [budgets for budgets in BUDGETS if budgets not in done]
    return Question("longer", budgets=longer[0]) if longer else None


def words_left(run: Run, found: CloseOut) -> str:
    """What has not been asked yet, and how long that takes; "" when all has been."""
    question = next_question(run, found)
    if question is None:
        return ""
    minutes = question.seconds(run) / 60
    what = ASKED[question.kind].format(budgets=question.budgets)
    return f"not asked yet: {what} ({question.trainings} trainings, about {minutes:.0f} min)"


def without(run: Run, kind: str, groups: Sequence[Sequence[int]]) -> Question:
    """The best beside itself without each group of changes; those that do not come off first."""
    removed, sums, not_alone = {}, {}, {}
    for numbers in groups:
        role = role_without(numbers)
        removed[role] = list(numbers)
        try:
            sums[role] = source_hash(best_without(run, numbers))
        except NotAlone as error:
            not_alone[role] = str(error)
    return Question(kind, [*not_alone, *sums], removed, sums, not_alone)


def role_without(numbers: Sequence[int]) -> str:
    return f"file without {' and '.join(map(str, sorted(numbers)))}"


def seconds_of_one(experiment: Experiment) -> float:
    """What a training of a kept file took: its start and its end differ, its budget does not."""
    took = [run.trained.get("total_seconds") or 0.0 for run in experiment.attempt.scored]
    return statistics.mean(took) if took else 0.0
