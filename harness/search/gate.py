"""The gate: may this train.py be trained at all? A quick look at the text; nothing of it is run.

In: a candidate's source and the hashes of everything tried in this run. Out: the reasons against
it, each a sentence that a proposer can act on; an empty list lets it pass. What it may touch is in
`gate_policy`. What only running can show is for the runner to find out.
"""

import ast
import functools
import hashlib
import io
import tokenize
from collections.abc import Collection, Iterator

from harness.ground.errors import ConstantsError
from harness.search.constants import BEGIN, UNREADABLE, parse_constants
from harness.search.gate_walk import policy_reasons
from harness.search.port import is_upstream

MOST_REASONS = 20  # as many as a proposer can act on at once; the journal and a prompt hold them
MOST_BYTES = 200_000  # eight times the template: for any idea, not for weights or text in literals
CONTRACT_WORDS = (
    "here batches, seed, clock and log come from harness.training.session, and build_model makes "
    "the model. `python -m harness port FILE` writes train_template.py with its numbers, and says "
    "what it could not carry"
)
UPSTREAM_WORDS = (
    f"this is a train.py of karpathy/autoresearch, whose contract is another: {CONTRACT_WORDS}"
)
FOREIGN_WORDS = f"this file is not made from this lab's train.py: {CONTRACT_WORDS}"
FOREIGN = ([UPSTREAM_WORDS], [FOREIGN_WORDS])
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def check_candidate(source: str, tried: Collection[str] = ()) -> list[str]:
    """Return why a candidate must not be trained. tried: source_hash of each that was."""
    size = len(source.encode(errors="replace"))
    if size > MOST_BYTES:
        return [
            f"train.py has {size:,} bytes, {MOST_BYTES:,} are allowed: compute what is written out"
        ]
    if not _is_utf8(source):
        return [
            "train.py declares an encoding, under which Python would read another file than people "
            "do: delete that line, it is UTF-8"
        ]
    try:
        reasons = _reasons(source, ast.parse(source))
    except (RecursionError, MemoryError):
        return [
            "train.py nests something too deeply to be read: split long expressions over statements"
        ]
    except UNREADABLE as error:
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        return [f"train.py is not valid Python{where}: {getattr(error, 'msg', error)}"]
    if not reasons and source_hash(source) in tried:
        return [
            "this train.py was tried before (comments and layout do not count): "
            "propose something else"
        ]
    more = len(reasons) - MOST_REASONS
    if more > 0:
        return [
            *reasons[:MOST_REASONS],
            f"and {more:,} more reasons, which are told once these are mended",
        ]
    return reasons


def check_contract(source: str) -> list[str]:
    """Return what a file lacks to be trained at all, whatever the policy says of the rest."""
    try:
        return _missing_parts(source, ast.parse(source))
    except UNREADABLE:
        return check_candidate(source)


def _is_utf8(source: str) -> bool:
    """False for `# coding: utf-7` and its like, where a comment may hold lines of code."""
    try:
        start = io.BytesIO(source.encode(errors="replace"))
        return tokenize.detect_encoding(start.readline)[0].startswith("utf-8")
    except SyntaxError:
        return False


def _reasons(source: str, tree: ast.Module) -> list[str]:
    reasons = _missing_parts(source, tree)
    if reasons in FOREIGN:
        return reasons
    reasons += policy_reasons(tree)
    try:
        return reasons + list(_set_again(source, tree))
    except ConstantsError as error:
        return [*reasons, f"the constants block cannot be read: {error}"]


@functools.lru_cache(maxsize=64)
def source_hash(source: str) -> str:
    """Return the sha256 of what a source does: its syntax tree without docstrings.

    A source that cannot be parsed is hashed as text.
    """
    try:
        text = ast.dump(without_docstrings(ast.parse(source)))
    except UNREADABLE:
        text = source
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Return the tree, changed in place, without docstrings of module, classes and functions."""
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _missing_parts(source: str, tree: ast.Module) -> list[str]:
    missing = []
    builders = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "build_model"
    ]
    if not builders and BEGIN not in source:
        return [UPSTREAM_WORDS if is_upstream(tree) else FOREIGN_WORDS]
    if len(builders) != 1:
        missing.append(
            "train.py must define build_model(vocab_size, max_seq_len) once, at its top level"
        )
    elif [argument.arg for argument in builders[0].args.args] != ["vocab_size", "max_seq_len"]:
        line = builders[0].lineno
        missing.append(f"build_model must take (vocab_size, max_seq_len), at line {line}")
    guards = ("__name__ == '__main__'", "'__main__' == __name__")
    if not any(isinstance(node, ast.If) and ast.unparse(node.test) in guards for node in tree.body):
        missing.append(
            'train.py must train only under `if __name__ == "__main__":`, since scoring imports it'
        )
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    for name, purpose in (("start", "starts the clock"), ("finish", "hands over the weights")):
        if name not in called:
            missing.append(f"train.py must call session.{name}(), which {purpose}")
    return missing


def _set_again(source: str, tree: ast.Module) -> Iterator[str]:
    """A constant set again elsewhere would make its line in the block a lie to the search.

    Raises ConstantsError.
    """
    constants = parse_constants(source)
    lines = {constant.line for constant in constants.values()}
    nodes = list(ast.walk(tree))
    scopes = [node for node in nodes if isinstance(node, (ast.ClassDef, ast.Lambda, *_FUNCTIONS))]
    local = {id(name) for scope in scopes for name in ast.walk(scope)}
    declared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
    for node in nodes:
        if not isinstance(node, ast.Name) or isinstance(node.ctx, ast.Load):
            continue
        is_global = id(node) not in local or node.id in declared
        if node.id in constants and node.lineno not in lines and is_global:
            yield f"line {node.lineno} sets {node.id} again: set it in the constants block only"
