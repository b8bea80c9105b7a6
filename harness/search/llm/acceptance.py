"""What else can be wrong with a model's candidate that applies: program.md, the machine, the past,
or not what was asked for.

In: the request, the turn, the settings, the reply and the train.py it makes. Out: a sentence that
goes back to the model, "" when all is well; and what kind of change it is, by what it does rather
than by what it is called. What the gate refuses is not looked for here.
"""

from collections.abc import Mapping
from typing import Any

from harness.search.constants import constant_values
from harness.search.duplicates import structure_hash
from harness.search.gate import source_hash
from harness.search.keyless import limits_of, obey_program, tried_hashes
from harness.search.limits import reasons_against
from harness.search.llm.reply import Reply
from harness.search.program import ProgramSettings
from harness.search.turns import Turn


def against_program(
    request: Mapping[str, Any], settings: ProgramSettings, reply: Reply, candidate: str
) -> str:
    """Return what program.md, the machine or the past has against a candidate, "" for nothing.

    Raises PatchError, ConstantsError.
    """
    parent = request["parent_train_py"]
    if entry := settings.forbids(None, reply.title):
        return f"program.md forbids {entry!r}: propose another idea"
    obey_program(settings, parent, candidate, request["history"])
    proven = constant_values(parent)
    if reasons := reasons_against(constant_values(candidate), limits_of(request), proven=proven):
        return "it cannot run here: " + "; ".join(reasons)
    if source_hash(candidate) in tried_hashes(request):
        return (
            "this very train.py was tried before, see the table of attempts: propose something else"
        )
    return ""


def against_turn(
    turn: Turn, settings: ProgramSettings, source: str, reply: Reply, candidate: str
) -> str:
    """Return how a candidate is not what was asked for, "" if it is."""
    allowed = settings.allowed_categories
    if _changes_numbers_only(candidate, source):
        if turn.forced or "tune" not in allowed:
            return "it changes nothing but numbers: change the code"
    elif turn.operator == "tune":
        return "only values of constants were asked for this time: leave the code as it is"
    elif reply.category and reply.category not in allowed:
        said = f"program.md does not allow the category {reply.category}"
        return f"{said}: it allows {', '.join(allowed)}"
    return ""


def category_of(
    turn: Turn, settings: ProgramSettings, source: str, reply: Reply, candidate: str
) -> str:
    """Return what a change is: `tune` where only numbers differ, else what the model calls it."""
    if _changes_numbers_only(candidate, source):
        return "tune"
    structural = [name for name in settings.allowed_categories if name != "tune"]
    named = [name for name in (reply.category, turn.operator) if name in structural]
    return [*named, *structural, "architecture"][0]


def _changes_numbers_only(candidate: str, source: str) -> bool:
    return structure_hash(candidate) == structure_hash(source)
