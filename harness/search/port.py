"""A train.py of karpathy/autoresearch, carried over: our template with its numbers.

In: the text of such a file, and our template (`python -m harness port FILE`). Out: the template
with the values of all constants that both have, and what could not be carried: constants under
other names, values outside of ours, and the file's code, which is for a person or a coding agent to
bring over by hand, one idea at a time. Nothing of the file is run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import UNREADABLE, checked_value, parse_constants, rewrite_constants

# Its name for what ours calls otherwise; a pair of values is two constants of ours.
RENAMED = {"ADAM_BETAS": ("ADAM_BETA1", "ADAM_BETA2"), "BATCH_SIZE": ("DEVICE_BATCH_SIZE",)}
UPSTREAM = "prepare"  # the module that only such a file imports


@dataclass(frozen=True)
class Ported:
    """source: the new train.py. carried: {name: value}. left: what was not, a sentence each."""

    source: str
    carried: dict[str, Any]
    left: list[str]


def is_upstream(tree: ast.AST) -> bool:
    """Whether a file is written for karpathy/autoresearch."""
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported.append(node.module)
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    return UPSTREAM in imported


def upstream_constants(tree: ast.Module) -> dict[str, Any]:
    """{NAME: value} of the literals and products of literals that stand at the top of a file."""
    found: dict[str, Any] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id.isupper() and len(node.targets) == 1:
            try:
                found[target.id] = value_of(node.value)
            except (*UNREADABLE, TypeError):
                continue
    return found


def value_of(node: ast.expr) -> Any:
    """A literal, or a product or power of numbers such as 2**18 or 128 * 2.

    Raises ValueError, and what ast raises, on anything else.
    """
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Pow):
        return ast.literal_eval(node)
    left, right = value_of(node.left), value_of(node.right)
    if not all(isinstance(each, int | float) and abs(each) <= 2**20 for each in (left, right)):
        raise ValueError
    if isinstance(node.op, ast.Mult):
        return left * right
    if not 0 <= right <= 40:
        raise ValueError
    return left**right


def port(source: str, template: str) -> Ported:
    """Carry a file's numbers over into our template. Raises SyntaxError where it is no Python."""
    ours, carried, left = parse_constants(template), {}, []
    for name, value in upstream_constants(ast.parse(source)).items():
        names, values = RENAMED.get(name, (name,)), (value,)
        if len(names) > 1 and isinstance(value, tuple) and len(value) == len(names):
            values = value
        for new, each in zip(names, values, strict=False):
            try:
                if new not in ours:
                    raise ConstantsError("the template has no such constant")
                carried[new] = checked_value(ours[new], each)
            except ConstantsError as why:
                left.append(f"{name} = {value!r}: {why}")
    left.append("its code: bring over one idea at a time, each as an experiment of its own")
    return Ported(rewrite_constants(template, carried), carried, left)
