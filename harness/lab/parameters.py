"""Checks what papermill or a person put into a notebook's parameters cell.

In: the notebook's globals and the expected names and types. Out: nothing, or a ParameterError that
names the right ones. papermill itself only warns about an unknown name, and a misspelt one would
cost a night.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from harness.ground.errors import ParameterError

MINIMUM_TORCH = (2, 11)


def check_parameters(namespace: Mapping[str, object], expected: Mapping[str, type]) -> None:
    """Raise ParameterError unless every expected name is there with its type, and papermill
    injected no other name.

    An int is accepted where a float is expected. Also refuses a kernel that is not this project's
    environment.
    """
    listing = ", ".join(f"{name} ({kind.__name__})" for name, kind in expected.items())
    takes = f"This notebook takes: {listing}"
    for name in injected_names(namespace):
        if name not in expected:
            close = difflib.get_close_matches(name, expected, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ParameterError(f"unknown parameter {name!r}.{hint} {takes}")
    for name, kind in expected.items():
        if name not in namespace:
            raise ParameterError(f"parameter {name!r} is missing from the parameters cell. {takes}")
        value = namespace[name]
        good = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not good or (isinstance(value, bool) and kind is not bool):
            hint = ""
            if kind is str and isinstance(value, int):
                hint = " (papermill reads digits as a number: pass it with -r instead of -p)"
            wrong = f"parameter {name} must be {kind.__name__}, got {value!r}{hint}"
            raise ParameterError(f"{wrong}. {takes}")
    check_kernel()


def injected_names(namespace: Mapping[str, object]) -> list[str]:
    """Names that papermill's injected cell assigns, found in IPython's record of executed cells."""
    executed = [str(cell) for cell in namespace.get("In", [])]
    cells = [cell for cell in executed if cell.startswith("# Parameters\n")]
    if not cells:
        return []
    assigned = [node for node in ast.walk(ast.parse(cells[-1])) if isinstance(node, ast.Assign)]
    targets = [target for node in assigned for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check_kernel() -> None:
    """Refuse a torch that is too old, and a kernel outside the environment that started this."""
    installed = version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < MINIMUM_TORCH:
        raise ParameterError(
            f"torch {installed} is too old, 2.11 is needed: use the environment that "
            "scripts/overnight.py makes, or upgrade it"
        )
    wanted = os.environ.get("AUTORESEARCH_PREFIX")
    if wanted and Path(wanted).resolve() != Path(sys.prefix).resolve():
        raise ParameterError(
            f"this kernel runs in {sys.prefix}, the project's environment is {wanted}: choose its "
            "kernel (Kernel > Change Kernel)"
        )
