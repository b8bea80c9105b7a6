"""The proposals that need no key: the bank's next structural idea, or a change of numbers by TPE.

In: the request, the settings of program.md, and whether it is the bank's turn. Out: a Proposal; the same request gives
the same one. Raises ProgramError, ConstantsError, ProposalError.

Ideas come in the order for the device and obey the program's ranges and fixed constants too. Those with a gain that was
measured on this kind of device wait for no turn: they come first of all. One that was tried comes again only when no
other applies, once for each new incumbent, and only if it was a near miss. When the bank has nothing to offer, numbers
are tuned; when tuning is not allowed, an idea comes out of turn. `force_category` asks for another kind; when it has
nothing to offer, the proposal says so in its note and is of the usual kind.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.ground.errors import ConstantsError, ProposalError
from harness.search.bank.idea import Idea
from harness.search.bank.order import ideas_for, known_ideas, new_constants
from harness.search.constants import Constant, checked_value, constant_values, parse_constants, rewrite_constants
from harness.search.gate import check_candidate, source_hash
from harness.search.limits import Limits, reasons_against
from harness.search.patch import PatchError
from harness.search.program import ProgramSettings, narrow_constants
from harness.search.proposal import Proposal
from harness.search.tpe import propose_change

NEAR_MISS = 0.003  # of the parent's val_bpb: a loss up to this may turn into a gain on another incumbent


def propose_keyless(request: Mapping[str, Any], settings: ProgramSettings, structural: bool) -> Proposal:
    """Return the proposal. structural: it is the bank's turn."""
    not_applicable: list[str] = []
    proposal = None
    ideas = ideas_for(limits_of(request).device_kind)
    if structural:
        proposal = _structural(request, settings, ideas, not_applicable)
    elif request["attempt"] == 0 and request.get("force_category") is None:
        proposal = _structural(request, settings, _untried_known(request), [])
    if proposal is None and "tune" in settings.allowed_categories:
        proposal = _tune(request, settings)
    if proposal is None:  # tuning is not allowed: a structural idea out of turn
        proposal = _structural(request, settings, ideas, not_applicable)
    if proposal is None:
        allowed = ", ".join(settings.allowed_categories)
        raise ProposalError(
            f"nothing is left to propose: program.md allows {allowed}, and no untried idea of the bank is of that kind and "
            'applies; add "tune" to allowed_categories'
        )
    proposal.not_applicable = sorted(set(not_applicable))
    category = request.get("force_category")
    if category is not None and proposal.category != category:
        proposal.note = f"asked for {category}, which has nothing to offer now"
    return proposal


def _untried_known(request: Mapping[str, Any]) -> list[Idea]:
    """Return the ideas that were measured to gain on this kind of device, and not tried in this run."""
    tried = {row.get("bank_id") for row in request["history"]}
    return [idea for idea in known_ideas(limits_of(request).device_kind) if idea.id not in tried]


def _structural(
    request: Mapping[str, Any], settings: ProgramSettings, ideas: Sequence[Idea], not_applicable: list[str]
) -> Proposal | None:
    """Return the next of the ideas, None when there is none; adds those that do not apply to not_applicable."""
    if not request.get("allow_structural", True):
        return None
    source, history, limits = request["parent_train_py"], request["history"], limits_of(request)
    allowed = [
        idea
        for idea in ideas
        if idea.category in settings.allowed_categories and not settings.forbids(idea.id, idea.title)
    ]
    forced = request.get("force_category")
    untried = [idea for idea in allowed if not any(row.get("bank_id") == idea.id for row in history)]
    again = [idea for idea in allowed if _near_miss(idea, history, request["parent_experiment"])]
    first = lambda idea: forced is not None and idea.category != forced  # noqa: E731
    for idea in [*sorted(untried, key=first), *sorted(again, key=first)]:
        try:
            candidate = idea.apply(source)
            obey_program(settings, source, candidate, history)
            reasons = check_candidate(candidate, tried_hashes(request))
            reasons += reasons_against(constant_values(candidate), limits, proven=constant_values(source))
        except (PatchError, ConstantsError):
            not_applicable.append(idea.id)
            continue
        if not reasons:
            hypothesis = f"{idea.hypothesis} Evidence: {idea.evidence}."
            return Proposal(candidate, idea.title, hypothesis, idea.category, idea.id)
        not_applicable.append(idea.id)
    return None


def obey_program(settings: ProgramSettings, source: str, candidate: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Raise PatchError or ConstantsError when an idea changes a constant that the program fixes, leaves its range, or moves the range."""
    before, after = parse_constants(source), parse_constants(candidate)
    space = narrow_constants(settings, {**after, **before}, known_names(history))
    for name in {*before, *after}:
        if name in before and name in after and _range_of(before[name]) != _range_of(after[name]):
            raise PatchError(f"the range of {name} is not yours to change: leave its annotation as it is")
        if name in before and name in after and before[name].value == after[name].value:
            continue
        if name in before and name not in space:
            raise PatchError(f"{name} is fixed or forbidden")
        if name in after and name in space:
            checked_value(space[name], after[name].value)


def _range_of(constant: Constant) -> tuple[Any, ...]:
    return constant.scale, constant.low, constant.high, constant.choices


def known_names(history: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of constants that a program may mention besides the incumbent's own: the bank's, and those of the run so far."""
    return new_constants().union(*(row.get("constants") or {} for row in history))


def _near_miss(idea: Idea, history: Sequence[Mapping[str, Any]], parent: int) -> bool:
    """Say whether an idea lost narrowly, to another incumbent than the present one, each time it was tried."""
    scores = {row["experiment"]: row.get("val_bpb") for row in history}
    rows = [row for row in history if row.get("bank_id") == idea.id]
    for row in rows:
        score, before = row.get("val_bpb"), scores.get(row.get("parent"))
        narrow = score is not None and before is not None and score <= before * (1 + NEAR_MISS)
        if row.get("decision") != "discard" or row.get("parent") == parent or not narrow:
            return False
    return bool(rows)


def _tune(request: Mapping[str, Any], settings: ProgramSettings) -> Proposal:
    source, history = request["parent_train_py"], request["history"]
    constants = parse_constants(source)
    space = narrow_constants(settings, constants, known_names(history))
    values = {name: constant.value for name, constant in constants.items()}
    for again in range(20):
        change = propose_change(space, values, history, limits_of(request), _seed(request, again))
        candidate = rewrite_constants(source, change.values)
        if source_hash(candidate) not in tried_hashes(request):
            break
    else:
        raise ProposalError("every value drawn was tried before: widen [ranges] in program.md")
    steps = [f"{name} {_text(values[name])} -> {_text(value)}" for name, value in change.values.items()]
    meanings = "; ".join(f"{name}: {constants[name].meaning}" for name in change.values)
    return Proposal(candidate, ", ".join(steps), f"{_capital(change.why)}. {meanings}.", "tune")


def tried_hashes(request: Mapping[str, Any]) -> set[str]:
    """Hashes of everything tried in this run, earlier attempts of an experiment too, and of the incumbent itself."""
    tried = {sha for row in request["history"] for sha in (row.get("tried") or [row.get("sha256")]) if sha}
    return tried | {source_hash(request["parent_train_py"])}


def limits_of(request: Mapping[str, Any]) -> Limits:
    limits = request["limits"]
    return Limits(limits["max_seq_len"], limits["n_vocab"], limits.get("memory_mb"), limits.get("device_kind") or "cpu")


def _seed(request: Mapping[str, Any], again: int) -> int:
    """A seed of its own for every experiment, attempt and draw: one fixed seed would propose one point for ever."""
    text = f"{request['run_seed']} {request['experiment']} {request['attempt']} {again}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
