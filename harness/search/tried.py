"""A night's past as the search for numbers sees it: what was tried, what failed.

In: the searched constants, the incumbent's values, the run's history as plain rows, the limits.
Out: whether a set of values is new and may run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.search.constants import Constant, distance
from harness.search.limits import (
    MEMORY_CONSTANTS,
    Limits,
    Values,
    effective_values,
    reasons_against,
)

FAILURES = ("crash", "oom", "nan", "timeout", "hopeless", "invalid_patch", "cheating")
LEAST_STEP = 0.02  # of a constant's range: a smaller change is none
NEAR_FAILURE = 0.05  # of a range, in every constant that the failure had changed


@dataclass(frozen=True)
class Failure:
    """A tune that did not train. changed: the constants that it had changed from its parent."""

    constants: Values
    changed: list[str]
    status: str


class Past:
    """What was tried, what failed, and therefore what is worth proposing."""

    def __init__(
        self,
        space: Mapping[str, Constant],
        values: Values,
        history: Sequence[Mapping[str, Any]],
        limits: Limits,
    ) -> None:
        self.space, self.values, self.history, self.limits = space, values, history, limits
        rows = [row for row in history if row.get("constants")]
        self.tried = [row["constants"] for row in rows]
        self.tried_effects = [effective_values(constants) for constants in (values, *self.tried)]
        scored = [row for row in rows if row["val_bpb"] is not None and row["status"] == "ok"]
        self.runs = [(row["constants"], row["val_bpb"]) for row in scored]
        # What the incumbent itself repeats was no fault of those values alone; held against them,
        # it would rule out almost every step.
        self.failures = [each for each in self._failures(rows) if not self._repeats(values, each)]

    def _failures(self, rows: Sequence[Mapping[str, Any]]) -> list[Failure]:
        """A structural idea that failed says nothing of the numbers."""
        by_number = {row["experiment"]: row["constants"] for row in rows}
        found = []
        for row in rows:
            parent, constants = by_number.get(row["parent"], {}), row["constants"]
            both = [name for name in self.space if name in parent]
            changed = [name for name in both if constants.get(name) != parent[name]]
            if row["status"] in FAILURES and row["category"] == "tune" and changed:
                found.append(Failure(constants, changed, row["status"]))
        return found

    def accepts(self, candidate: Values) -> bool:
        """Whether a full set of values is new, able to run, and no known failure."""
        effect = effective_values(candidate)
        if any(self._same(effect, tried) for tried in self.tried_effects):
            return False
        if reasons_against(candidate, self.limits, proven=self.values):
            return False
        return not any(self._repeats(candidate, failure) for failure in self.failures)

    def with_steps(self, candidate: Values) -> Values:
        """Return the candidate without changes that are no step, or that have no effect in it."""
        for name in self.space:
            without = {**candidate, name: self.values[name]}
            if self._same(effective_values(candidate), effective_values(without)):
                candidate = without
        return candidate

    def _same(self, candidate: Values, tried: Values) -> bool:
        if candidate.keys() != tried.keys():
            return False
        return all(self._distance(name, candidate, tried) < LEAST_STEP for name in candidate)

    def _repeats(self, candidate: Values, failed: Failure) -> bool:
        distances = (self._distance(name, candidate, failed.constants) for name in failed.changed)
        if all(apart < NEAR_FAILURE for apart in distances):
            return True
        if failed.status != "oom" or not set(MEMORY_CONSTANTS) & set(failed.changed):
            return False
        shared = set(MEMORY_CONSTANTS) & candidate.keys() & failed.constants.keys()
        return all(candidate[name] >= failed.constants[name] for name in shared)

    def _distance(self, name: str, a: Values, b: Values) -> float:
        """As in constants, but unequal whole numbers are never near one another."""
        constant, x, y = self.space.get(name), a.get(name), b.get(name)
        if constant is None or constant.is_int:
            return float(x != y)
        return distance(constant, x, y)
