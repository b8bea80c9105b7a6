"""An idea of the bank: a change of a train.py that is kept as text, not as somebody's memory of it.

In: the source of a train.py. Out: the same with the idea in it, or a PatchError, which means "not
applicable to this one". An idea is a patch of code, new constants, new values of constants worked
out from the present ones, or all of these. Ideas name single lines of the template that the others
leave in place, so that most of them apply one after the other, until a change of other hands
removes such a line.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import END, constant_values, rewrite_constants
from harness.search.patch import Edit, PatchError, apply_edits

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Idea:
    """One idea. evidence: why it is in the bank, with what was measured against it.

    constants: lines that the patch needs in the constants block. patch: hunks of a diff, each below
    a line @@. least: {constant: what it must be at least for the idea to make sense}. values: from
    the constants, those new ones among them, to the new values of some; may raise PatchError.
    """

    id: str
    title: str
    hypothesis: str
    category: str
    evidence: str
    constants: str = ""
    patch: str = ""
    least: Mapping[str, int] = field(default_factory=dict, hash=False)
    values: Callable[[Values], Values] | None = None

    @property
    def edits(self) -> list[Edit]:
        new = [Edit(f"{END}\n", f"{self.constants}{END}\n")] if self.constants else []
        for hunk in re.split("^@@\n", self.patch, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            before, after = ([line[1:] for line in lines if line[0] != sign] for sign in "+-")
            new.append(Edit("".join(before), "".join(after)))
        return new

    def apply(self, source: str) -> str:
        """Return the source with the idea in it. Raises PatchError where it does not apply."""
        edits = self.edits
        if edits and all(edit.replace in source for edit in edits):
            raise PatchError(f"{self.id}: it is in there already")
        changed = apply_edits(source, edits) if edits else source
        try:
            present = constant_values(changed)
            for name, least in self.least.items():
                if present[name] < least:
                    raise PatchError(f"{self.id}: {name} {present[name]} is less than {least}")
            if self.values:
                changed = rewrite_constants(changed, self.values(present))
        except ConstantsError as error:  # out of range, fixed, or of another type than in ours
            raise PatchError(f"{self.id}: {error}") from None
        except KeyError as error:
            raise PatchError(f"{self.id}: there is no constant {error.args[0]}") from None
        if changed == source:
            raise PatchError(f"{self.id}: it changes nothing here")
        if unknown := _unknown_constants(changed) - _unknown_constants(source):
            names = ", ".join(sorted(unknown))
            raise PatchError(f"{self.id}: it reads {names}, which is set nowhere")
        return changed

    def new_constants(self) -> set[str]:
        """Return the names of the constants that the idea brings."""
        return {line.partition(" =")[0] for line in self.constants.splitlines()}


def _unknown_constants(source: str) -> set[str]:
    """Return the names in capitals that a source reads and never sets.

    Raises PatchError when it is not Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError) as error:
        raise PatchError(f"the source is not valid Python: {error}") from None
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id.isupper()]
    stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names if isinstance(name.ctx, ast.Load)} - stored
