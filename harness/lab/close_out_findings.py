"""What a close-out found, in words: which changes are confirmed, which can be left out, and whether
the gain lasts.

In: a run's state and its close-out, as far as that is about the best. Out: a Finding for each
change, and sentences. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.ground.text import one_line
from harness.lab.close_out import (
    BASELINE,
    CloseOut,
    Comparison,
    built_name,
    is_improvement,
    words_of_interval,
)
from harness.lab.other_text import text_words
from harness.run.state import Experiment, State

CONFIRMED, PART, HURTS, UNKNOWN = "confirmed", "part of the best", "takes away", "not measured"


@dataclass(frozen=True)
class Finding:
    """What is known of one change. verdict: confirmed, part of the best, takes away (the best is
    better without it) or not measured; words: to follow its name; loss: bpb, of the best without
    it."""

    experiment: int
    title: str
    verdict: str
    words: str
    loss: float | None = None


def changes_of(state: State) -> list[Experiment]:
    """What was kept on top of the baseline."""
    return state.kept[1:]


def findings_of(state: State, found: CloseOut) -> list[Finding]:
    """One of each change of the best that has its claim, in the order of the night."""
    return [finding_of(change, state, found) for change in changes_of(state)]


def finding_of(change: Experiment, state: State, found: CloseOut) -> Finding:
    """What the comparison without it says; of a single change that is the claim itself."""
    is_single = len(changes_of(state)) == 1
    claimed = found.claimed if is_single else claimed_without(change.number, found)
    improved = found.claimed and found.claimed["status"] == "ok" and is_improvement(found.claimed)
    # what is no improvement has no part that is one
    part = "part of a confirmed best" if improved else "part of a best that is not confirmed"
    verdict, words, loss = UNKNOWN, f"is {part}, and not measured alone", None
    if claimed and claimed["status"] != "ok":
        words += f": {claimed['cause']}"
    elif claimed:
        loss, verdict, words = claimed["val"]["difference"], PART, f"is {part}"
        if improved and is_improvement(claimed):
            verdict, words = CONFIRMED, "is confirmed"
        elif claimed["val"]["high"] < 0:
            verdict, words = HURTS, "takes away beside the others, an interaction"
        words += f": without it the best is {words_of_loss(claimed)}"
    return Finding(change.number, change.decided["title"], verdict, words, loss)


def words_of_loss(claimed: dict) -> str:
    """What a file loses against the best, and how sure that is."""
    loss = claimed["val"]["difference"]
    side = "worse" if loss >= 0 else "better"
    return f"{abs(loss):.4f} bpb {side} ({words_of_interval(claimed)})"


def claimed_without(number: int, found: CloseOut) -> dict | None:
    """What was claimed of the best beside itself without one change."""
    for each in found.of_kind("ablation"):
        for role, facts in each.others.items():
            if facts["lacks"] == [number]:
                return each.claims.get(role)
    return None


def removable(state: State, found: CloseOut) -> list[int]:
    """Changes without which the best scored no worse on fresh seeds. Not those that made the file
    shorter: without them it is longer."""
    shorter = [e.number for e in changes_of(state) if e.decided["kind"] == "simplification"]
    findings = [each for each in findings_of(state, found) if each.experiment not in shorter]
    return [each.experiment for each in findings if each.loss is not None and each.loss <= 0]


def sentences(
    state: State, found: CloseOut, quote: Callable[[str], str] = one_line
) -> Iterator[str]:
    """All that the comparisons after the claim allow to say. quote: makes titles, which are
    others' words, fit for the page."""
    after_claim = [each for each in found.comparisons if each.kind != "claim"]
    for each in findings_of(state, found) if after_claim else ():
        yield f"experiment {each.experiment} ({quote(each.title)}) {each.words}"
    for each in found.of_kind("simplified"):
        for role, claimed in each.claims.items():
            yield words_of_simplified(role, claimed)
    for each in found.of_kind("elsewhere"):
        for claimed in each.claims.values():
            yield words_of_gain(quote(text_words(each.text)), claimed, found.claimed)
    if longer := [each for each in found.of_kind("longer") if each.claims]:
        yield words_of_longer(longer, found.claimed)


def words_of_simplified(role: str, claimed: dict) -> str:
    """Whether the file without what costs nothing can take the best's place."""
    if claimed["status"] != "ok":
        return f"the {role} was to be simpler: {claimed['cause']}"
    texts = claimed["val"], claimed["holdout"]
    end = "it loses, so the best stays as it is"
    if all(text["low"] <= 0 for text in texts):
        most = max(0.0, *(text["high"] for text in texts))
        where = f"close_out/{built_name(role, claimed['best'])}"
        end = f"it may take the best's place where a loss of up to {most:.4f} does not matter "
        end += f"({where})"
    return f"beside the best the simplified {role} is {words_of_loss(claimed)}: {end}"


def words_of_longer(longer: Sequence[Comparison], at_first: dict) -> str:
    """What larger budgets leave of the gain, on the holdout. longer: at least one, each with its
    claim."""
    first = last = at_first["holdout"]
    where, parts = "", [f"{words_of_figures(first)} at 1x"]
    for each in longer:
        claimed, budgets = each.claims[BASELINE], f"{each.budgets:g}x"
        if claimed["status"] != "ok":
            parts.append(f"at {budgets} {claimed['cause']}")
            continue
        last, where = claimed["holdout"], f" at {budgets} the budget"
        parts.append(f"{words_of_figures(last)} at {budgets}{words_of_share(last, first, 'it')}")
    verdict = f"whether the gain lasts{where} is not clear"
    if where and last["low"] > 0:
        verdict = f"the gain lasts{where}"
        verdict += ", though it shrinks" if last["high"] < first["low"] else ""
    elif where and last["high"] < 0:
        verdict = f"the gain does not last:{where} the baseline is ahead"
    return f"{verdict}; on the holdout it is {', '.join(parts)}"


def words_of_gain(where: str, claimed: dict, at_first: dict) -> str:
    """Whether the gain is there on another text too."""
    if claimed["status"] != "ok":
        return f"on {where} {claimed['cause']}"
    gain, first = claimed["holdout"], at_first["holdout"]
    size = f"on its holdout it is {words_of_figures(gain)}"
    if gain["low"] > 0:
        share = words_of_share(gain, first, "that on the run's text")
        return f"the gain holds on {where}; {size}{share}"
    if gain["high"] < 0:
        return f"the gain does not hold: on {where} the baseline is ahead; {size}"
    return f"whether the gain holds on {where} is not clear; {size}"


def words_of_figures(gain: dict) -> str:
    """A gain in bpb, and how sure it is."""
    return f"{gain['difference']:+z.4f} (95% interval {gain['low']:+z.4f} to {gain['high']:+z.4f})"


def words_of_share(gain: dict, first: dict, what: str) -> str:
    """How much of the claim's gain that is; "" where there is none. what: names that gain."""
    if gain["low"] <= 0 or first["difference"] <= 0:
        return ""
    return f", {gain['difference'] / first['difference']:.0%} of {what}"
