"""What was tried, what failed, and therefore what is worth proposing: a night's past as the search for numbers sees it.

In: the searched constants, the incumbent's values, the run's history as plain rows, the limits. Out: whether a set of values is new and may run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.search.constants import Constant
from harness.search.limits import MEMORY_CONSTANTS, Limits, effective_values, reasons_against

FAILURES = ("crash", "oom", "nan", "timeout", "invalid_patch", "cheating")
LEAST_STEP = 0.02  # of a constant's range: a smaller change is none
NEAR_FAILURE = 0.05  # of a range, in every constant that the failure had changed


class Past:
    """What was tried, what failed, and therefore what is worth proposing."""

    def __init__(
        self,
        space: Mapping[str, Constant],
        values: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        limits: Limits,
    ) -> None:
        self.space, self.values, self.limits = space, values, limits
        rows = [row for row in history if row.get("constants")]
        by_number = {row["experiment"]: row for row in rows}
        self.tried = [row["constants"] for row in rows]
        self.tried_effects = [effective_values(constants) for constants in (values, *self.tried)]
        self.runs = [
            (row["constants"], row["val_bpb"])
            for row in rows
            if row.get("val_bpb") is not None and row["status"] == "ok"
        ]
        self.scored = len(self.runs)
        self.failures = []  # (constants, those changed from the parent, status): a failed patch says nothing of numbers
        for row in rows:
            parent = by_number.get(row.get("parent"), {}).get("constants", {})
            changed = [name for name in space if name in parent and row["constants"].get(name) != parent[name]]
            if row["status"] in FAILURES and row.get("category") == "tune" and changed:
                self.failures.append((row["constants"], changed, row["status"]))
        # What the incumbent itself repeats was no fault of those values alone; held against them, it would rule out almost every step.
        self.failures = [failure for failure in self.failures if not self._repeats(values, *failure)]

    def accepts(self, candidate: Mapping[str, Any]) -> bool:
        """Say whether a full set of values is new, far enough from those tried, able to run, and no known failure."""
        effect = effective_values(candidate)
        if any(self._same(effect, tried) for tried in self.tried_effects):
            return False
        if reasons_against(candidate, self.limits, proven=self.values):
            return False
        return not any(self._repeats(candidate, *failure) for failure in self.failures)

    def with_steps(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Return the candidate without changes that are no step, or that have no effect in it."""
        found = dict(candidate)
        for name in self.space:
            without = {**found, name: self.values[name]}
            if self._same(effective_values(found), effective_values(without)):
                found = without
        return found

    def _same(self, candidate: Mapping[str, Any], tried: Mapping[str, Any]) -> bool:
        if candidate.keys() != tried.keys():
            return False
        return all(self._distance(name, candidate, tried) < LEAST_STEP for name in candidate)

    def _repeats(
        self, candidate: Mapping[str, Any], failed: Mapping[str, Any], changed: list[str], status: str
    ) -> bool:
        if all(self._distance(name, candidate, failed) < NEAR_FAILURE for name in changed):
            return True
        grown = [name for name in MEMORY_CONSTANTS if name in changed]
        shared = [name for name in MEMORY_CONSTANTS if name in candidate and name in failed]
        return status == "oom" and bool(grown) and all(candidate[name] >= failed[name] for name in shared)

    def _distance(self, name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
        """How far apart two values are, as a share of the range; 1 for unequal choices, ints and unknown names."""
        constant = self.space.get(name)
        x, y = a.get(name), b.get(name)
        if x == y:
            return 0.0
        numeric = constant is not None and constant.scale in ("linear", "log") and not constant.is_int
        if not numeric or x is None or y is None or constant.high == constant.low:
            return 1.0
        if constant.scale == "log":
            return abs(math.log(x / y)) / math.log(constant.high / constant.low) if min(x, y) > 0 else 1.0
        return abs(x - y) / (constant.high - constant.low)
