"""A train.py of karpathy/autoresearch, carried over: our template with its numbers (`python -m harness port FILE`).

In: the text of such a file, and our template. Out: the template with the values of all constants that both have, and what
could not be carried: constants under other names, values outside of ours, and the file's code, which is for a person or a
coding agent to bring over by hand, one idea at a time. Nothing of the file is run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError
from harness.search.constants import Constant, checked_value, parse_constants, rewrite_constants

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
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == UPSTREAM:
            return True
        if isinstance(node, ast.Import) and any(alias.name == UPSTREAM for alias in node.names):
            return True
    return False


def upstream_constants(tree: ast.Module) -> dict[str, Any]:
    """{NAME: value} of the literals and products of literals that stand at the top of a file."""
    found: dict[str, Any] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(target, ast.Name) and target.id.isupper():
            try:
                found[target.id] = value_of(node.value)
            except ValueError:
                continue
    return found


def value_of(node: ast.expr) -> Any:
    """A literal, or a product or power of numbers such as 2**18 or 128 * 2. Raises ValueError."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Pow):
        left, right = value_of(node.left), value_of(node.right)
        small = all(isinstance(each, int | float) and abs(each) <= 2**20 for each in (left, right))
        if not small or (isinstance(node.op, ast.Pow) and not 0 <= right <= 40):
            raise ValueError
        return left * right if isinstance(node.op, ast.Mult) else left**right
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError from None


def port(source: str, template: str) -> Ported:
    """Carry the numbers of a file over into our template. Raises SyntaxError where it is no Python."""
    ours, carried, left = parse_constants(template), {}, []
    for name, value in upstream_constants(ast.parse(source)).items():
        names = RENAMED.get(name, (name,))
        values = value if len(names) > 1 and isinstance(value, tuple) and len(value) == len(names) else (value,)
        for new, each in zip(names, values, strict=False):
            why = reason_against(ours.get(new), each)
            if why:
                left.append(f"{name} = {value!r}: {why}")
            else:
                carried[new] = checked_value(ours[new], each)
    left.append("its code: bring over one idea at a time, each as an experiment of its own")
    return Ported(rewrite_constants(template, carried), carried, left)


def reason_against(constant: Constant | None, value: Any) -> str:
    """Why a value is not carried over, "" where it is."""
    if constant is None:
        return "the template has no such constant"
    try:
        checked_value(constant, value)
    except ConstantsError as error:
        return str(error)
    return ""
