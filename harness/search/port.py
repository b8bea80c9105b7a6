"""A train.py of karpathy/autoresearch or its kin, carried over: our template with its numbers.

In: the text of such a file, and our template (`python -m harness port FILE`). Out: the template
with the values of all constants that both have, wherever and in whatever case the file sets them,
and what could not be carried: constants under other names, values outside of ours or not written
out, and the file's code, which is for a person or a coding agent to bring over by hand, one idea at
a time. Nothing of the file is run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import UNREADABLE, checked_value, parse_constants, rewrite_constants

# Its name for what ours calls otherwise; a pair of values is two constants of ours.
RENAMED = {"ADAM_BETAS": ("ADAM_BETA1", "ADAM_BETA2"), "BATCH_SIZE": ("DEVICE_BATCH_SIZE",)}
UPSTREAM = "prepare"  # the module that only such a file imports
THEIR_NAMES = {
    *("ASPECT_RATIO", "TOTAL_BATCH_SIZE", "EMBEDDING_LR", "UNEMBEDDING_LR", "MATRIX_LR"),
    *("SCALAR_LR", "ADAM_BETAS", "WARMDOWN_RATIO", "FINAL_LR_FRAC", "DEVICE_BATCH_SIZE"),
}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
MOST_CHARACTERS = 60  # of a value, in a message


@dataclass(frozen=True)
class Ported:
    """source: the new train.py. carried: {name: value}. left: what was not, a sentence each."""

    source: str
    carried: dict[str, Any]
    left: list[str]

    @property
    def words(self) -> list[str]:
        """What came with it and what did not, a line each."""
        carried = [f"carried over: {name} = {value!r}" for name, value in self.carried.items()]
        return [*carried, *(f"not carried over: {words}" for words in self.left)]


def is_upstream(tree: ast.Module) -> bool:
    """Whether a file is written for karpathy/autoresearch: by what it imports or sets."""
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    names = {name for name, _ in _settings(tree.body)}
    return (
        UPSTREAM in (name.rpartition(".")[2] for name in imported) or len(names & THEIR_NAMES) > 4
    )


def upstream_constants(tree: ast.Module) -> dict[str, Any]:
    """{name: value} of what a file sets outside of functions; where the value is not written out,
    its expression.
    """
    found: dict[str, Any] = {}
    for name, expression in _settings(tree.body):
        try:
            found[name] = value_of(expression, found)
        except (*UNREADABLE, TypeError, ArithmeticError):
            found[name] = expression
    return found


def _settings(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that are set outside of functions, each with its expression."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
            yield from _settings([*node.body, *getattr(node, "orelse", [])])
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets if isinstance(node, ast.Assign | ast.AnnAssign) and value else []:
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=False))
            yield from ((name.id, each) for name, each in pairs if isinstance(name, ast.Name))


def value_of(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """A literal, a name that is known, or what arithmetic makes of such numbers.

    Raises ValueError, and what ast and arithmetic raise, on anything else.
    """
    if isinstance(node, ast.Name) and not isinstance(known.get(node.id, node), ast.expr):
        return known[node.id]
    if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATORS:
        return ast.literal_eval(node)
    left, right = value_of(node.left, known), value_of(node.right, known)
    if not all(isinstance(each, int | float) and abs(each) <= 2**20 for each in (left, right)):
        raise ValueError
    if isinstance(node.op, ast.Pow | ast.LShift) and not 0 <= right <= 40:
        raise ValueError
    return OPERATORS[type(node.op)](left, right)


def port(source: str, template: str) -> Ported:
    """Carry a file's numbers over into our template. Raises SyntaxError where it is no Python."""
    ours, carried, left = parse_constants(template), {}, []
    for name, value in upstream_constants(ast.parse(source)).items():
        names = RENAMED.get(name.upper(), (name.upper(),))
        if not name.isupper() and not ours.keys() & set(names):
            continue  # any variable
        if isinstance(value, ast.expr):
            left.append(f"{name} = {_shown(ast.unparse(value))}: its value is not written out")
            continue
        values = value if isinstance(value, tuple) and len(value) == len(names) > 1 else (value,)
        for new, each in zip(names, values, strict=False):
            try:
                if new not in ours:
                    raise ConstantsError("the template has no such constant")
                carried[new] = checked_value(ours[new], each)
            except ConstantsError as why:
                left.append(f"{name} = {_shown(repr(value))}: {why}")
    left.append("its code: bring over one idea at a time, each as an experiment of its own")
    return Ported(rewrite_constants(template, carried), carried, left)


def _shown(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
