"""The proposals that need no key: the bank's next structural idea, or a change of numbers by TPE.

In: the request, the settings of program.md, and whether it is the bank's turn. Out: a Proposal; the
same request gives the same one. Raises ProgramError, ConstantsError, ProposalError.

Ideas come in the order for the device, but for what earlier runs on a like machine found, and obey
the program's ranges and fixed constants too. Those with a gain that was measured there, or on this
kind of device, wait for no turn: they come first of all. One that was tried comes again only when
no other applies, once for each new incumbent, and only if it was a near miss. When the bank has
nothing to offer, numbers are tuned; when tuning is not allowed, an idea comes out of turn.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.ground.errors import ConstantsError, ProposalError
from harness.search.bank.idea import Idea
from harness.search.bank.order import ideas_for, known_ideas, new_constants
from harness.search.constants import (
    Constant,
    checked_value,
    constant_values,
    parse_constants,
    rewrite_constants,
)
from harness.search.earlier import gain_of_idea, order_ideas
from harness.search.gate import check_candidate, source_hash
from harness.search.limits import Limits, reasons_against
from harness.search.patch import PatchError
from harness.search.program import ProgramSettings, narrow_constants
from harness.search.proposal import Proposal
from harness.search.tpe import propose_change

NEAR_MISS = 0.003  # of the parent's val_bpb: a loss up to this may gain on another incumbent
REDRAWS = 20  # of numbers that make a train.py which was tried before

Request = Mapping[str, Any]
Row = Mapping[str, Any]


def propose_keyless(request: Request, settings: ProgramSettings, structural: bool) -> Proposal:
    """Return the proposal. structural: it is the bank's turn."""
    kind, not_applicable, earlier = limits_of(request).device_kind, [], request.get("earlier", ())
    ideas = order_ideas(ideas_for(kind), earlier)
    if structural:
        proposal = _structural(request, settings, ideas, not_applicable)
    else:
        tried = {row["bank_id"] for row in request["history"]}
        found = [idea for idea in ideas if gain_of_idea(earlier, idea.id).clear > 0]
        known = [idea for idea in [*found, *known_ideas(kind)] if idea.id not in tried]
        proposal = _structural(request, settings, known, [])
    if proposal is None and "tune" in settings.allowed_categories:
        proposal = _tune(request, settings)
    if proposal is None:  # tuning is not allowed: a structural idea out of turn
        proposal = _structural(request, settings, ideas, not_applicable)
    if proposal is None:
        allowed = ", ".join(settings.allowed_categories)
        raise ProposalError(
            f"nothing is left to propose: program.md allows {allowed}, and no untried idea of the "
            'bank is of that kind and applies; add "tune" to allowed_categories'
        )
    proposal.not_applicable = sorted(set(not_applicable))
    return proposal


def _structural(
    request: Request,
    settings: ProgramSettings,
    ideas: Sequence[Idea],
    not_applicable: list[str],
) -> Proposal | None:
    """Return the next of the ideas, None when there is none.

    Adds those that do not apply to not_applicable.
    """
    source, history = request["parent_train_py"], request["history"]
    proven = constant_values(source)
    allowed = [
        idea
        for idea in ideas
        if idea.category in settings.allowed_categories
        and not settings.forbids(idea.id, idea.title)
    ]
    untried = [idea for idea in allowed if all(row["bank_id"] != idea.id for row in history)]
    again = [idea for idea in allowed if _near_miss(idea, history, request["parent_experiment"])]
    for idea in untried + again:
        try:
            candidate = idea.apply(source)
            obey_program(settings, source, candidate, history)
        except (PatchError, ConstantsError):
            not_applicable.append(idea.id)
            continue
        reasons = check_candidate(candidate, tried_hashes(request))
        reasons += reasons_against(constant_values(candidate), limits_of(request), proven=proven)
        if not reasons:
            hypothesis = f"{idea.hypothesis} Evidence: {idea.evidence}."
            return Proposal(candidate, idea.title, hypothesis, idea.category, idea.id)
        not_applicable.append(idea.id)
    return None


def obey_program(
    settings: ProgramSettings, source: str, candidate: str, history: Sequence[Row]
) -> None:
    """Raise PatchError or ConstantsError when a candidate changes what program.md holds.

    That is a constant that it fixes, a range that it narrows, or a range's annotation.
    """
    before, after = parse_constants(source), parse_constants(candidate)
    space = narrow_constants(settings, {**after, **before}, known_names(history))
    for name in {*before, *after}:
        old, new = before.get(name), after.get(name)
        if old and new and _range_of(old) != _range_of(new):
            raise PatchError(
                f"the range of {name} is not yours to change: leave its annotation as it is"
            )
        if old and new and old.value == new.value:
            continue
        if old and name not in space:
            raise PatchError(f"{name} is fixed or forbidden")
        if new and name in space:
            checked_value(space[name], new.value)


def _range_of(constant: Constant) -> tuple[Any, ...]:
    return constant.scale, constant.low, constant.high, constant.choices


def known_names(history: Sequence[Row]) -> set[str]:
    """Names of constants that a program may mention besides the incumbent's own.

    They are the bank's, and those of the run so far.
    """
    return new_constants().union(*(row["constants"] or {} for row in history))


def _near_miss(idea: Idea, history: Sequence[Row], parent: int) -> bool:
    """Whether an idea lost narrowly, to another incumbent than this one, each time it was tried."""
    scores = {row["experiment"]: row["val_bpb"] for row in history}
    rows = [row for row in history if row["bank_id"] == idea.id]
    for row in rows:
        score, before = row["val_bpb"], scores.get(row["parent"])
        narrow = None not in (score, before) and score <= before * (1 + NEAR_MISS)
        if row["decision"] != "discard" or row["parent"] == parent or not narrow:
            return False
    return bool(rows)


def _tune(request: Request, settings: ProgramSettings) -> Proposal:
    source, history = request["parent_train_py"], request["history"]
    constants = parse_constants(source)
    space = narrow_constants(settings, constants, known_names(history))
    values = {name: constant.value for name, constant in constants.items()}
    tried = tried_hashes(request)
    for again in range(REDRAWS):
        seed = _seed(request, again)
        earlier = request.get("earlier", ())
        change = propose_change(space, values, history, limits_of(request), seed, earlier)
        candidate = rewrite_constants(source, change.values)
        if source_hash(candidate) not in tried:
            break
    else:
        raise ProposalError("every value drawn was tried before: widen [ranges] in program.md")
    new = change.values.items()
    title = ", ".join(f"{name} {_text(values[name])} -> {_text(value)}" for name, value in new)
    meanings = "; ".join(f"{name}: {constants[name].meaning}" for name in change.values)
    why = change.why[:1].upper() + change.why[1:]
    return Proposal(candidate, title, f"{why}. {meanings}.", "tune")


def tried_hashes(request: Request) -> set[str]:
    """Hashes of all that was tried in this run, earlier attempts too, and of the incumbent."""
    tried = {sha for row in request["history"] for sha in row.get("tried") or [row["sha256"]]}
    return tried | {source_hash(request["parent_train_py"])}


def limits_of(request: Request) -> Limits:
    return Limits(**request["limits"])


def _seed(request: Request, again: int) -> int:
    """A seed of its own for each experiment and draw: one for all would propose one point."""
    text = f"{request['run_seed']} {request['experiment']} {request['attempt']} {again}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
