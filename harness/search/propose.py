"""One proposal, in a process of its own: `python -m harness.search.propose REQUEST.json`.

In: the request, plain data (program.md, the incumbent's train.py, the history, the limits, a seed). Out, in its
`out_dir`: train.py, then proposal.json, each written atomically; exit 0. Or one line on standard error and exit 1, and
no proposal.json. The same request gives the same answer. The journal is not read, nothing is trained, no key is
needed.

Schedule: experiments 1, 4, 7, ... try the next structural idea of the bank that is allowed, applies and was not tried
in this run, in the order for the device; the others, and these when no idea is left, tune constants. Ideas obey the
program's ranges and fixed constants too. An idea that was tried comes again only when no other applies, once for each
new incumbent, and only if it was a near miss. A repair (attempt > 0) is a tune.
`force_category` asks for another kind; when it has nothing to offer, the proposal says so in its note and is of the
usual kind.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.files import read_json, write_json_atomic, write_text_atomic
from harness.search.bank import ideas_for, new_constants
from harness.search.constants import ConstantsError, checked_value, constant_values, parse_constants, rewrite_constants
from harness.search.gate import check_candidate, source_hash
from harness.search.idea import Idea
from harness.search.limits import Limits, reasons_against
from harness.search.patch import PatchError
from harness.search.program import CATEGORIES, ProgramError, ProgramSettings, narrow_constants, parse_program
from harness.search.tpe import ProposalError, propose_change

FORMAT_VERSION = 1
STRUCTURAL_EVERY = 3  # experiments
NEAR_MISS = 0.003  # of the parent's val_bpb: a loss up to this may turn into a gain on another incumbent


@dataclass
class Proposal:
    """A candidate train.py and what it is about."""

    source: str
    title: str
    hypothesis: str
    category: str
    bank_id: str | None = None
    not_applicable: list[str] = field(default_factory=list)
    note: str = ""


def propose(request: Mapping[str, Any]) -> Proposal:
    """Return the proposal for a request. Raises ProgramError, ConstantsError or ProposalError."""
    settings = parse_program(request["program_md"])
    category = request.get("force_category")
    if category is not None and category not in CATEGORIES:
        raise ProposalError(f"force_category is {category!r}: it must be one of {', '.join(CATEGORIES)}")
    not_applicable: list[str] = []
    proposal = None
    if _structural_turn(request, settings):
        proposal = _structural(request, settings, not_applicable)
    if proposal is None and "tune" in settings.allowed_categories:
        proposal = _tune(request, settings)
    if proposal is None:  # tuning is not allowed: a structural idea out of turn
        proposal = _structural(request, settings, not_applicable)
    if proposal is None:
        allowed = ", ".join(settings.allowed_categories)
        raise ProposalError(
            f"nothing is left to propose: program.md allows {allowed}, and no untried idea of the bank is of that kind and "
            'applies; add "tune" to allowed_categories'
        )
    proposal.not_applicable = sorted(set(not_applicable))
    if category is not None and proposal.category != category:
        proposal.note = f"asked for {category}, which has nothing to offer now"
    return proposal


def _structural_turn(request: Mapping[str, Any], settings: ProgramSettings) -> bool:
    if not request.get("allow_structural", True):
        return False
    forced = request.get("force_category")
    if forced is not None:
        return forced != "tune"
    return request["attempt"] == 0 and request["experiment"] % STRUCTURAL_EVERY == 1


def _structural(request: Mapping[str, Any], settings: ProgramSettings, not_applicable: list[str]) -> Proposal | None:
    """Return the next idea of the bank, None when there is none; adds those that do not apply to not_applicable."""
    if not request.get("allow_structural", True):
        return None
    source, history, limits = request["parent_train_py"], request["history"], _limits(request)
    allowed = [
        idea
        for idea in ideas_for(limits.device_kind)
        if idea.category in settings.allowed_categories and not settings.forbids(idea.id, idea.title)
    ]
    forced = request.get("force_category")
    untried = [idea for idea in allowed if not any(row.get("bank_id") == idea.id for row in history)]
    again = [idea for idea in allowed if _near_miss(idea, history, request["parent_experiment"])]
    first = lambda idea: forced is not None and idea.category != forced  # noqa: E731
    for idea in [*sorted(untried, key=first), *sorted(again, key=first)]:
        try:
            candidate = idea.apply(source)
            _obey(settings, source, candidate, history)
            reasons = check_candidate(candidate, _tried(request))
            reasons += reasons_against(constant_values(candidate), limits, proven=constant_values(source))
        except (PatchError, ConstantsError):
            not_applicable.append(idea.id)
            continue
        if not reasons:
            hypothesis = f"{idea.hypothesis} Evidence: {idea.evidence}."
            return Proposal(candidate, idea.title, hypothesis, idea.category, idea.id)
        not_applicable.append(idea.id)
    return None


def _obey(settings: ProgramSettings, source: str, candidate: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Raise PatchError or ConstantsError when an idea changes a constant that the program fixes, or leaves its range."""
    before, after = parse_constants(source), parse_constants(candidate)
    space = narrow_constants(settings, {**before, **after}, _known_names(history))
    for name in {*before, *after}:
        if name in before and name in after and before[name].value == after[name].value:
            continue
        if name in before and name not in space:
            raise PatchError(f"{name} is fixed or forbidden")
        if name in after and name in space:
            checked_value(space[name], after[name].value)


def _known_names(history: Sequence[Mapping[str, Any]]) -> set[str]:
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
    space = narrow_constants(settings, constants, _known_names(history))
    values = {name: constant.value for name, constant in constants.items()}
    for again in range(20):
        change = propose_change(space, values, history, _limits(request), _seed(request, again))
        candidate = rewrite_constants(source, change.values)
        if source_hash(candidate) not in _tried(request):
            break
    else:
        raise ProposalError("every value drawn was tried before: widen [ranges] in program.md")
    steps = [f"{name} {_text(values[name])} -> {_text(value)}" for name, value in change.values.items()]
    meanings = "; ".join(f"{name}: {constants[name].meaning}" for name in change.values)
    return Proposal(candidate, ", ".join(steps), f"{_capital(change.why)}. {meanings}.", "tune")


def _tried(request: Mapping[str, Any]) -> set[str]:
    """Hashes of everything trained in this run, and of the incumbent itself."""
    return {row["sha256"] for row in request["history"] if row.get("sha256")} | {
        source_hash(request["parent_train_py"])
    }


def _limits(request: Mapping[str, Any]) -> Limits:
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


def write_proposal(request: Mapping[str, Any], proposal: Proposal) -> None:
    """Write train.py and then proposal.json into the request's out_dir."""
    folder = Path(request["out_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    before, after = constant_values(request["parent_train_py"]), constant_values(proposal.source)
    changed = {
        name: [before.get(name), after.get(name)]
        for name in {**before, **after}
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }
    write_text_atomic(folder / "train.py", proposal.source)
    write_json_atomic(
        folder / "proposal.json",
        {
            "format_version": FORMAT_VERSION,
            "title": proposal.title,
            "hypothesis": proposal.hypothesis,
            "category": proposal.category,
            "proposer": request["proposer"],
            "constants_changed": changed,
            "bank_id": proposal.bank_id,
            "sha256": source_hash(proposal.source),
            "parent": request["parent_experiment"],
            "not_applicable": proposal.not_applicable,
            "note": proposal.note,
        },
    )


def _read_request(path: str) -> Mapping[str, Any]:
    try:
        request = read_json(path)
    except ValueError as error:
        raise ProposalError(str(error)) from None
    if not isinstance(request, dict) or request.get("format_version") != FORMAT_VERSION:
        raise ProposalError(f"{path} is not a request of format {FORMAT_VERSION}")
    return request


def main(arguments: Sequence[str]) -> int:
    """Carry out one request; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m harness.search.propose REQUEST.json", file=sys.stderr)
        return 1
    try:
        request = _read_request(arguments[0])
        if request["proposer"] != "tpe":
            raise ProposalError(f"there is no proposer {request['proposer']!r}: tpe is the one that needs no key")
        write_proposal(request, propose(request))
    except (ProgramError, ConstantsError, ProposalError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"the request lacks {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
