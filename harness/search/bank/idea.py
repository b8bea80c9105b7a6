"""An idea of the bank: a change of a train.py that is kept as text, not as somebody's memory of it.

In: the source of a train.py. Out: the same with the idea in it, or a PatchError, which means "not applicable to this one". An idea
is a patch of code, new values of constants worked out from the present ones, or both; it may also take constants away with the code
that read them. Ideas name single lines of the template that the others leave in place, so that most of them apply one after the
other, until a change of other hands removes such a line.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import constant_values, parse_constants, rewrite_constants
from harness.search.patch import PatchError, apply_edits, parse_edits

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Idea:
    """One idea. evidence: why it is in the bank, with what was measured against it.

    patch: SEARCH/REPLACE blocks, or "". values: from the constants, those that the patch brought among them, to the new values of
    some; raises PatchError where the idea makes no sense. without: names of constants that nothing reads after the patch.
    known_gain: bpb that it gained here on a CPU, far beyond the noise; 0 where nothing of the kind was measured.
    """

    id: str
    title: str
    hypothesis: str
    category: str
    evidence: str
    patch: str = ""
    values: Callable[[Values], Values] | None = None
    without: tuple[str, ...] = ()
    known_gain: float = 0.0

    def apply(self, source: str) -> str:
        """Return the source with the idea in it. Raises PatchError where it does not apply."""
        edits = parse_edits(self.patch) if self.patch else []
        if edits and all(edit.replace in source for edit in edits):
            raise PatchError(f"{self.id}: it is in there already")
        changed = apply_edits(source, edits) if edits else source
        try:
            changed = _without(changed, self.without)
            if self.values:
                changed = rewrite_constants(changed, self.values(constant_values(changed)))
        except ConstantsError as error:  # out of range, fixed, or of another type than where the idea was written
            raise PatchError(f"{self.id}: {error}") from None
        except KeyError as error:
            raise PatchError(f"{self.id}: there is no constant {error.args[0]}") from None
        if changed == source:
            raise PatchError(f"{self.id}: it changes nothing here")
        if unknown := _unknown_constants(changed) - _unknown_constants(source):
            raise PatchError(f"{self.id}: it reads {', '.join(sorted(unknown))}, which is set nowhere")
        return changed

    def new_constants(self) -> set[str]:
        """Return the names of the constants that the patch brings."""
        edits = parse_edits(self.patch) if self.patch else []
        lines = [line for edit in edits for line in edit.replace.splitlines() if "  # " in line]
        return {line.partition(" =")[0] for line in lines if line.partition(" =")[0].isupper()}


def _without(source: str, names: tuple[str, ...]) -> str:
    """Return the source without the lines of these constants, whatever their values. Raises ConstantsError, KeyError."""
    constants = parse_constants(source)
    gone = {constants[name].line for name in names}
    return "".join(line for n, line in enumerate(source.splitlines(keepends=True), 1) if n not in gone)


def _unknown_constants(source: str) -> set[str]:
    """Return the names in capitals that a source reads and never sets. Raises PatchError when it is not Python."""
    try:
        names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id.isupper()]
    except (SyntaxError, ValueError) as error:
        raise PatchError(f"the source is not valid Python: {error}") from None
    return {n.id for n in names if isinstance(n.ctx, ast.Load)} - {n.id for n in names if isinstance(n.ctx, ast.Store)}
