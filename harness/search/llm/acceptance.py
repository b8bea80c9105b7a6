"""What else can be wrong with a model's candidate that applies: program.md, the machine, the past, or not what was asked for.

In: the request, the turn, the settings, the reply and the train.py it makes. Out: a sentence that goes back to the model, "" when all is
well; and what kind of change it is, by what it does rather than by what it is called. What the gate refuses is not looked for here.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from harness.search.constants import constant_values
from harness.search.duplicates import structure_hash
from harness.search.gate import source_hash
from harness.search.keyless import limits_of, obey_program, tried_hashes
from harness.search.limits import reasons_against
from harness.search.llm.reply import Reply
from harness.search.program import CATEGORIES, ProgramSettings
from harness.search.turns import Turn


def against_program(request: Mapping[str, Any], settings: ProgramSettings, reply: Reply, candidate: str) -> str:
    """Return what program.md, the machine or the past has against a candidate, "" for nothing. Raises PatchError, ConstantsError."""
    if entry := settings.forbids(None, reply.title):
        return f"program.md forbids {entry!r}: propose another idea"
    obey_program(settings, request["parent_train_py"], candidate, request["history"])
    values = constant_values(candidate)
    if reasons := reasons_against(values, limits_of(request), proven=constant_values(request["parent_train_py"])):
        return "it cannot run here: " + "; ".join(reasons)
    if source_hash(candidate) in tried_hashes(request):
        return "this very train.py was tried before, see the table of attempts: propose something else"
    return ""


def against_turn(turn: Turn, settings: ProgramSettings, source: str, reply: Reply, candidate: str) -> str:
    """Return how a candidate is not what was asked for, "" if it is."""
    numbers_only = _same_structure(candidate, source)
    if turn.operator == "tune" and not numbers_only:
        return "only values of constants were asked for this time: leave the code as it is"
    if numbers_only and (turn.forced or "tune" not in settings.allowed_categories):
        return "it changes nothing but numbers: change the code"
    if not numbers_only and reply.category and reply.category not in settings.allowed_categories:
        return f"program.md does not allow the category {reply.category}: it allows {', '.join(settings.allowed_categories)}"
    return ""


def category_of(turn: Turn, settings: ProgramSettings, source: str, reply: Reply, candidate: str) -> str:
    """Return what a change is: numbers are `tune` whatever they are called; code is what the model says, or what was asked for."""
    if _same_structure(candidate, source):
        return "tune"
    structural = [name for name in settings.allowed_categories if name != "tune"]
    for name in (reply.category, turn.operator, *structural):
        if name in CATEGORIES and name in structural:
            return name
    return "architecture"


@lru_cache(maxsize=4)
def _same_structure(candidate: str, source: str) -> bool:
    """Say whether two files differ in nothing but numbers."""
    return structure_hash(candidate) == structure_hash(source)
