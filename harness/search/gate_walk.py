"""Reads a train.py against `gate_policy`: which of its names, attributes and calls are refused.

In: a syntax tree. Out: one sentence for each thing refused: the line, what stands there, what to
write instead. Pure; nothing is run or imported. It follows names to what they were imported as, and
no further: what a call returns or a container holds, it does not know.
"""

from __future__ import annotations

import _string  # what string.Formatter itself reads fields with
import ast
import contextlib
import math
import string

from harness.search import gate_policy as policy

MOST_LETTERS = 160  # of a candidate's own words in a reason
_REWRITES = ("replace", "strip", "lstrip", "rstrip", "lower", "upper")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, *_COMPREHENSIONS)


def policy_reasons(tree: ast.Module) -> list[str]:
    """Return what in a train.py is refused, in the order of lines, each reason once."""
    visitor = _Reader(tree)
    visitor.visit(tree)
    return [words for _, words in sorted(dict.fromkeys(visitor.found))]


class _Reader(ast.NodeVisitor):
    """Walks a file with what its names stand for: modules, their contents, sessions, locals."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[int, str]] = []
        self.paths: dict[str, str] = {}  # name -> dotted path that it was imported from
        self.modules: set[str] = set()  # of those, names of modules for certain
        self.sessions = {"session"}
        self.aliases: set[str] = set()  # variables that hold such a path
        self.local: list[set[str]] = []  # names of the functions around
        self.read: set[ast.AST] = set()  # nodes that were visited before their scope
        top = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        # From there on a builtin of that name is hidden, unless it is deleted again.
        self.defined = {node.name: (node.end_lineno, node.end_col_offset) for node in top}
        for node in ast.walk(tree):
            self.note_import(node)
        for node in ast.walk(tree):
            self.note_alias(node)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
                self.defined.pop(node.id, None)

    def note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                self.paths[name] = alias.name if alias.asname else name
                self.modules.add(name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name, path = alias.asname or alias.name, f"{node.module}.{alias.name}"
                self.paths[name] = path
                if path in policy.ALLOWED_MODULES:
                    self.modules.add(name)

    def note_alias(self, node: ast.AST) -> None:
        """`F = torch.nn.functional`, `s = open_session(__file__)`."""
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                called = self.path(getattr(value, "func", None))
                if isinstance(value, ast.Attribute) and (path := self.path(value)):
                    self.paths.setdefault(name, path)
                    self.aliases.add(name)
                elif self.is_session(value) or called == policy.OPEN_SESSION:
                    self.sessions.add(name)

    def refuse(self, node: ast.AST, what: str, instead: str) -> None:
        what = what if len(what) <= MOST_LETTERS else what[:MOST_LETTERS] + "..."
        self.found.append((node.lineno, f"line {node.lineno} {what}: {instead}"))

    def path(self, node: ast.AST | None) -> str:
        """The dotted path of an expression that begins at an imported name, else ""."""
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return f"{base}.{node.attr}" if base else ""
        if isinstance(node, ast.Name) and (node.id in self.aliases or not self.is_local(node.id)):
            return self.paths.get(node.id, "")
        return ""

    def is_local(self, name: str) -> bool:
        return any(name in names for names in self.local)

    def is_session(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == "session"
        return isinstance(node, ast.Name) and node.id in self.sessions

    # --- imports ---------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check_import(node, alias.name, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                instead = "name what you import, so that it can be read"
                self.refuse(node, f"imports * from {module}", instead)
            else:
                self.check_import(node, f"{module}.{alias.name}", module)

    def check_import(self, node: ast.AST, path: str, module: str) -> None:
        """path: of the module, or of what is taken from it."""
        if _is_below(path, "harness"):
            if not any(_is_below(name, path) for name in policy.HARNESS):
                self.refuse(node, f"imports {path}", policy.HARNESS_WORDS)
        elif module in policy.ALLOWED_MODULES or (module + ".").startswith(policy.ALLOWED_BELOW):
            self.check_path(node, path)
        else:
            self.refuse(node, f"imports {module}", policy.ALLOWED_WORDS)

    # --- names and attributes --------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        name, is_read = node.id, isinstance(node.ctx, ast.Load)
        if name in policy.HOOKS and not is_read:
            return self.refuse(node, f"sets {name}", policy.PATCHING)
        is_hidden = (node.lineno, node.col_offset) > self.defined.get(name, (math.inf,))
        if self.is_local(name) or is_hidden:
            return
        if name in policy.BUILTINS and is_read:
            self.refuse(node, f"uses {name}", policy.BUILTINS[name])
        elif name in policy.BY_NAME:
            self.refuse(node, f"passes {name} on", policy.WRITTEN_OUT)
        elif name in self.modules and is_read:
            instead = f"write out what is used of it, {name}.something"
            self.refuse(node, f"passes the module {name} on", instead)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load) or not self.check_set(node, node.value):
            self.check_attribute(node, node.value, node.attr)
        if not self.path(node.value):  # else all of the chain has been looked at
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.check_set(node, node.value)
        self.generic_visit(node)

    def check_set(self, node: ast.AST, base: ast.AST) -> bool:
        """Whether setting or deleting something of `base` is refused."""
        if self.path(base):
            self.refuse(node, f"sets {ast.unparse(node)}", policy.PATCHING)
        elif self.is_session(base):
            self.refuse(node, f"sets {ast.unparse(node)}", policy.SESSION_IS_OURS)
        else:
            return False
        return True

    def check_attribute(self, node: ast.AST, base: ast.AST, name: str) -> None:
        """Whether `base.name` may be read, or set where nothing is known of `base`."""
        is_read = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        if path := self.path(base):
            self.check_path(node, f"{path}.{name}")
        elif is_dunder(name) and not (is_read and name in policy.DUNDERS):
            self.refuse(node, f"uses {name}", policy.PATCHING)
        elif name in policy.ATTRIBUTES:
            self.refuse(node, f"uses .{name}", policy.ATTRIBUTES[name])
        elif self.is_session(base) and name not in policy.SESSION:
            self.refuse(node, f"uses session.{name}", policy.SESSION_WORDS)

    def check_path(self, node: ast.AST, path: str) -> None:
        """Whether what a dotted path leads to may be used."""
        top, *parts = path.split(".")
        if top == "harness":
            if not any(_is_below(path, name) or _is_below(name, path) for name in policy.HARNESS):
                self.refuse(node, f"uses {path}", policy.HARNESS_WORDS)
            return
        below, allowed = policy.UTILITIES
        if path.startswith(below) and not _is_below(path, allowed):
            return self.refuse(node, f"uses {path}", policy.ALLOWED_WORDS)
        known = policy.PARTS | policy.ATTRIBUTES
        for part in parts:
            private = part.startswith("_") and part not in policy.DUNDERS
            if part in known or (private and not part.startswith(policy.PRIVATE_OPERATIONS)):
                return self.refuse(node, f"uses {path}", known.get(part, policy.PRIVATE))
        random = "random." in path and path.startswith(("random.", "numpy.random."))
        if random and not any(_is_below(path, name) for name in policy.SEEDED_BY_CALLER):
            self.refuse(node, f"uses {path}", policy.UNSEEDED)

    # --- calls -----------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        called, path = node.func, self.path(node.func)
        is_method = isinstance(called, ast.Attribute) and not path
        if (joined := joined_text(node)) is not None:
            self.check_text(node, joined)
        elif is_method and called.attr in ("format", "format_map"):
            self.check_format(node, called.value)
        if path in ("random.Random", "numpy.random.default_rng"):
            self.check_seed(node, path)
        elif is_method and called.attr in ("manual_seed", "seed"):
            self.check_seed(node, f".{called.attr}")
        if isinstance(called, ast.Name) and called.id in policy.BY_NAME and node.args:
            self.check_by_name(node, called.id)
            for child in (*node.args, *node.keywords):
                self.visit(child)
        else:
            self.generic_visit(node)

    def check_format(self, node: ast.Call, text: ast.AST) -> None:
        """A format that is put together here may have any field; a variable's was looked at."""
        if isinstance(text, ast.Name) and text.id == "str" and node.args:
            text = node.args[0]
        is_made = isinstance(text, (ast.BinOp, ast.JoinedStr, ast.Call, ast.Subscript))
        if is_made and joined_text(text) is None:
            self.refuse(node, "calls format on text that is not written out", policy.WRITTEN_OUT)

    def check_seed(self, node: ast.Call, called: str) -> None:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if len(given) != 1 or getattr(given[0], "attr", "") != "seed":
            instead = f"{policy.SEED}; a generator of your own takes exactly session.seed"
            self.refuse(node, f"calls {called}", instead)

    def check_by_name(self, node: ast.Call, function: str) -> None:
        """getattr and its like, as if the attribute were written out; of modules not at all."""
        base, attribute = node.args[0], node.args[1] if len(node.args) > 1 else None
        is_module = isinstance(base, ast.Name) and base.id in self.modules
        if is_module or self.path(base) or self.is_session(base):
            what = f"calls {function} on {ast.unparse(base)}"
            self.refuse(node, what, policy.WRITTEN_OUT)
        elif isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
            self.check_attribute(node, base, attribute.value)
        elif function == "getattr" or isinstance(base, ast.Starred):
            what = f"calls {function} with a name that is not written out"
            self.refuse(node, what, policy.WRITTEN_OUT)

    # --- names in other clothes ------------------------------------------------------------------

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, (str, bytes)):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            self.check_text(node, text)

    def visit_BinOp(self, node: ast.BinOp | ast.JoinedStr) -> None:
        joined = joined_text(node)
        self.check_text(node, joined) if joined is not None else self.generic_visit(node)

    visit_JoinedStr = visit_BinOp

    def check_text(self, node: ast.AST, text: str) -> None:
        """A name as text, for whatever looks it up; and the fields of a format."""
        if is_dunder(text) and text != "__main__":
            self.refuse(node, f"names {text}", policy.PATCHING)
        for name in attributes_in_format(text):
            self.check_attribute(node, node, name)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        for name in node.kwd_attrs:
            self.check_attribute(node, node, name)
        self.generic_visit(node)

    # --- scopes ----------------------------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if node not in self.read:
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in policy.HOOKS:
            self.refuse(node, f"defines {node.name}", policy.PATCHING)
        self.visit_Lambda(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.AST) -> None:
        outside = _evaluated_outside(node)
        for child in outside:
            self.visit(child)
        self.read.update(outside)
        self.local.append(_locals(node))
        self.generic_visit(node)
        self.local.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda


def _is_below(path: str, other: str) -> bool:
    """Whether a dotted path is the other, or leads further from there."""
    return (path + ".").startswith(other + ".")


def is_dunder(name: str) -> bool:
    """True for __names__ with two underscores on both sides."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def joined_text(node: ast.AST) -> str | None:
    """Text put together from literal pieces: with +, by an f-string, join, replace or strip; else
    None.
    """
    separator: str | None = ""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=value):
            return joined_text(value)
        case ast.JoinedStr(values=parts):
            pass
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            parts = [left, right]
        case ast.Call(
            func=ast.Attribute(value=between, attr="join"),
            args=[ast.List(elts=parts) | ast.Tuple(elts=parts)],
        ):
            separator = joined_text(between)
        case ast.Call(func=ast.Attribute(value=text, attr=name), args=args) if name in _REWRITES:
            texts = [joined_text(part) for part in (text, *args)]
            if None not in texts and len("".join(texts)) <= MOST_LETTERS:  # no name is longer
                with contextlib.suppress(TypeError):  # as many arguments as it takes
                    return getattr(texts[0], name)(*texts[1:])
            return None
        case _:
            return None
    pieces = [joined_text(part) for part in parts]
    return None if separator is None or None in pieces else separator.join(pieces)


def attributes_in_format(text: str) -> list[str]:
    """The attributes that `text.format(...)` would read."""
    names = []
    try:
        for _, field, spec, _ in string.Formatter().parse(text):
            steps = _string.formatter_field_name_split(field or "")[1]
            names += [name for is_attribute, name in steps if is_attribute]
            names += attributes_in_format(spec or "")
    except ValueError:  # no format
        return []
    return names


def _evaluated_outside(scope: ast.AST) -> list[ast.AST]:
    """What of a function, lambda or comprehension is evaluated before its own names exist."""
    if isinstance(scope, _COMPREHENSIONS):
        return [scope.generators[0].iter]
    found = [scope.args, getattr(scope, "returns", None), *getattr(scope, "decorator_list", ())]
    return [node for node in found if node]


def _locals(scope: ast.AST) -> set[str]:
    """Names that a function, lambda or comprehension binds: parameters and what it assigns.

    Imports and sessions keep their meaning.
    """
    names, declared = set(), set()
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.NamedExpr) and isinstance(scope, _COMPREHENSIONS):
            waiting.append(node.value)  # its name is bound outside of the comprehension
            continue
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            declared |= set(node.names)
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)
    return names - declared
