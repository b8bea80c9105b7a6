"""The gate: may this train.py be trained at all? A quick look at the text; nothing of it is run.

In: a candidate's source and the hashes of everything tried in this run. Out: the reasons against it, each a sentence
that a proposer can act on; an empty list lets it pass. What it may touch is in `gate_policy`. What only running can show is for the runner to find out.
"""

import ast
import functools
import hashlib
import io
import tokenize
from collections.abc import Collection, Iterator

from harness.ground.errors import ConstantsError
from harness.search.constants import Constant, parse_constants
from harness.search.gate_walk import policy_reasons
from harness.search.port import is_upstream

MOST_REASONS = 20  # as many as a proposer can act on at once; the journal and a prompt hold them
MOST_BYTES = 200_000  # eight times the template: room for any idea, none for weights or text written out as literals
UPSTREAM_WORDS = (
    "this is a train.py of karpathy/autoresearch (it imports prepare), whose contract is another: here batches, seed, clock and log come "
    "from harness.training.session. `python -m harness port FILE` writes train_template.py with its numbers, and says what it could not carry"
)
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # of ast: no Python, a null byte, nested too deeply


def check_candidate(source: str, tried: Collection[str] = ()) -> list[str]:
    """Return the reasons why a candidate must not be trained, [] if none. tried: source_hash of each that was."""
    size = len(source.encode(errors="replace"))
    if size > MOST_BYTES:
        return [f"train.py has {size:,} bytes, {MOST_BYTES:,} are allowed: compute what is written out"]
    if not _is_utf8(source):
        return [
            "train.py declares an encoding, under which Python would read another file than people do: delete that line, it is UTF-8"
        ]
    try:
        reasons = _reasons(source)
    except (RecursionError, MemoryError):
        return ["train.py nests something too deeply to be read: split long expressions over statements"]
    except UNREADABLE as error:
        line = getattr(error, "lineno", None)
        return [f"train.py is not valid Python{f' at line {line}' if line else ''}: {getattr(error, 'msg', error)}"]
    if not reasons and source_hash(source) in tried:
        reasons.append("this train.py was tried before (comments and layout do not count): propose something else")
    more = len(reasons) - MOST_REASONS
    return (
        reasons
        if more <= 0
        else [*reasons[:MOST_REASONS], f"and {more:,} more reasons, which are told once these are mended"]
    )


def check_contract(source: str) -> list[str]:
    """Return why a file could not be trained at all, [] if it could: what it lacks, whatever the policy says of the rest."""
    try:
        return list(_missing_parts(ast.parse(source)))
    except UNREADABLE:
        return check_candidate(source)


def _is_utf8(source: str) -> bool:
    """False for `# coding: utf-7` and its like, by Python's own rule: there a comment may hold lines of code."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source.encode(errors="replace")).readline)
    except SyntaxError:
        return False
    return encoding.startswith("utf-8")


def _reasons(source: str) -> list[str]:
    tree = ast.parse(source)
    if is_upstream(tree):
        return [UPSTREAM_WORDS]
    reasons = [*_missing_parts(tree), *policy_reasons(tree)]
    try:
        reasons += _reassigned(tree, parse_constants(source))
    except ConstantsError as error:
        reasons.append(f"the constants block cannot be read: {error}")
    return reasons


@functools.lru_cache(maxsize=64)
def source_hash(source: str) -> str:
    """Return the sha256 of what a source does: its syntax tree without docstrings, so layout and comments do not count.

    A source that cannot be parsed is hashed as text.
    """
    try:
        tree = without_docstrings(ast.parse(source))
        text = ast.dump(tree)
    except UNREADABLE:
        text = source
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Return the tree, changed in place, without the docstrings of its module, classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            node.body = node.body[1:]
    return tree


def _has_docstring(node: ast.AST) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _missing_parts(tree: ast.Module) -> Iterator[str]:
    if is_upstream(tree):
        yield UPSTREAM_WORDS
        return
    builders = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build_model"]
    if len(builders) != 1:
        yield "train.py must define build_model(vocab_size, max_seq_len) once, at its top level"
    elif [argument.arg for argument in builders[0].args.args] != ["vocab_size", "max_seq_len"]:
        yield f"build_model must take (vocab_size, max_seq_len), at line {builders[0].lineno}"
    if not any(isinstance(node, ast.If) and _is_main_guard(node.test) for node in tree.body):
        yield 'train.py must train only under `if __name__ == "__main__":`, since scoring imports it'
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    for name, purpose in (("start", "starts the clock"), ("finish", "hands over the weights")):
        if name not in called:
            yield f"train.py must call session.{name}(), which {purpose}"


def _is_main_guard(test: ast.expr) -> bool:
    return ast.unparse(test) in ("__name__ == '__main__'", "'__main__' == __name__")


def _reassigned(tree: ast.Module, constants: dict[str, Constant]) -> Iterator[str]:
    """A constant set again elsewhere would make its line in the block a lie that the search believes."""
    lines = {constant.line for constant in constants.values()}
    local = {id(name) for scope in ast.walk(tree) if isinstance(scope, _SCOPES) for name in ast.walk(scope)}
    declared = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)) and node.id in constants:
            in_block = node.lineno in lines
            if not in_block and (id(node) not in local or node.id in declared):
                yield f"line {node.lineno} sets {node.id} again: set it in the constants block only"


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
