"""What a close-out found, in words: which changes are confirmed, what may go, whether it lasts.

In: a run's state and its close-out. Out: a Finding for each change, and sentences. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.lab.close_out import CloseOut, is_improvement, words_of_interval
from harness.run.state import Experiment, State

CONFIRMED, PART, HURTS, UNKNOWN = "confirmed", "part of the best", "takes away", "not measured"


@dataclass(frozen=True)
class Finding:
    """What is known of one change. verdict: confirmed, part of the best, takes away (the best is
    better without it) or not measured. claimed: the entry that says so, None where there is
    none."""

    experiment: int
    title: str
    verdict: str
    claimed: dict | None
    words: str


def changes_of(state: State) -> list[Experiment]:
    """What was kept on top of the baseline."""
    return state.kept[1:]


def findings_of(state: State, found: CloseOut) -> list[Finding]:
    """One of each change of the best that has its claim, in the order of the night."""
    return [finding_of(change, state, found) for change in changes_of(state)]


def finding_of(change: Experiment, state: State, found: CloseOut) -> Finding:
    claimed = claimed_without(change.number, found)
    if len(changes_of(state)) == 1:  # the baseline is the best without it
        claimed = found.claimed
    title = change.decided["title"]
    name, best = f"experiment {change.number} ({title})", "a confirmed best"
    improved = found.claimed and found.claimed["status"] == "ok" and is_improvement(found.claimed)
    if not improved:  # what is no improvement has no part that is one
        best = "a best that is not confirmed"
    if claimed is None:
        return Finding(change.number, title, UNKNOWN, None, f"{name} is not measured alone yet")
    if claimed["status"] != "ok":
        words = f"{name} is part of {best}, and not measured alone: {claimed['cause']}"
        return Finding(change.number, title, UNKNOWN, claimed, words)
    size = f"{words_of_loss(claimed)} ({words_of_interval(claimed)})"
    if improved and is_improvement(claimed):
        verdict, words = CONFIRMED, f"{name} is confirmed: without it the best is {size}"
    elif claimed["val"]["high"] < 0:
        verdict, beside = HURTS, "takes away beside the others, an interaction"
        words = f"{name} {beside}: without it the best is {size}"
    else:
        verdict = PART
        words = f"{name} is part of {best}: without it the best is {size}"
    return Finding(change.number, title, verdict, claimed, words)


def words_of_loss(claimed: dict) -> str:
    """What a file loses against the best."""
    loss = claimed["val"]["difference"]
    return f"{abs(loss):.4f} bpb {'worse' if loss >= 0 else 'better'}"


def claimed_without(number: int, found: CloseOut) -> dict | None:
    """What was claimed of the best beside itself without one change."""
    for each in found.of_claim("ablation"):
        for role, removed in each.removed.items():
            if removed == [number]:
                return each.claims.get(role)
    return None


def removable(state: State, found: CloseOut) -> list[Experiment]:
    """Changes without which the best scored no worse on fresh seeds. Not those that made the file
    shorter: without them it is longer."""
    costs_nothing = {
        each.experiment
        for each in findings_of(state, found)
        if each.verdict in (PART, HURTS) and each.claimed["val"]["difference"] <= 0
    }
    changes = [change for change in changes_of(state) if change.number in costs_nothing]
    return [change for change in changes if change.decided["kind"] != "simplification"]


def sentences(state: State, found: CloseOut) -> Iterator[str]:
    """All that the comparisons after the claim allow to say."""
    if not any(found.of_claim(kind) for kind in ("ablation", "simplified", "longer")):
        return
    for finding in findings_of(state, found):
        yield finding.words
    for each in found.of_claim("simplified"):
        for role, claimed in each.claims.items():
            yield words_of_simplified(role, claimed)
    for each in found.of_claim("longer"):
        for claimed in each.claims.values():
            yield words_of_longer(each.budgets, claimed, found.claimed)


def words_of_simplified(role: str, claimed: dict) -> str:
    """Whether the file without what costs nothing can take the best's place."""
    if claimed["status"] != "ok":
        return f"the {role} was to be simpler: {claimed['cause']}"
    size = f"{words_of_loss(claimed)} than the best ({words_of_interval(claimed)})"
    measured = f"the simplified {role} is {size}"
    if claimed["val"]["low"] > 0:
        return f"{measured}: it loses, so the best stays as it is"
    return f"{measured}: it may take the best's place"


def words_of_longer(budgets: float, claimed: dict, at_first: dict) -> str:
    """Whether the gain lasts, on the holdout."""
    if claimed["status"] != "ok":
        return f"at {budgets:g}x the budget {claimed['cause']}"
    gain, first = claimed["holdout"], at_first["holdout"]["difference"]
    interval = f"95% interval {gain['low']:+.4f} to {gain['high']:+.4f}"
    size = f"a gain of {gain['difference']:+.4f} bpb on the holdout ({interval})"
    if gain["low"] > 0:
        share = f", {gain['difference'] / first:.0%} of that at 1x" if first > 0 else ""
        return f"the gain lasts at {budgets:g}x the budget: {size}{share}"
    if gain["high"] < 0:
        return f"the gain does not last: at {budgets:g}x the budget the baseline is ahead, {size}"
    return f"whether the gain lasts at {budgets:g}x the budget is not clear: {size}"
