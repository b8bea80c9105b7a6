"""Requests to the propose process, rows of the history in them, and edits of its models."""

from checkout import TEMPLATE

from harness.search.constants import constant_values
from harness.search.duplicates import structure_hash
from harness.search.gate import source_hash
from harness.search.patch import Edit, find_blocks, split_lines

PROGRAM = "# Goals\n\n```settings\n%s\n```\n"


def block(search: str, replace: str) -> str:
    """An edit as a model writes it."""
    return f"<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def edits_in(text: str) -> list[Edit]:
    """The edits of the blocks in a text."""
    return [piece.change for piece in find_blocks(split_lines(text))]


def history_row(
    experiment,
    source,
    bank_id=None,
    decision="discard",
    score=1.6,
    status="ok",
    category=None,
    parent=0,
):
    return {
        "experiment": experiment,
        "title": "t",
        "category": category or ("architecture" if bank_id else "tune"),
        "status": status,
        "decision": decision,
        "val_bpb": score,
        "constants": constant_values(source),
        "sha256": source_hash(source),
        "structure": structure_hash(source),
        "bank_id": bank_id,
        "parent": parent,
        "cause": "",
        "gain": None,
        "sigma": None,
        "proposer": "tpe",
        "operator": "",
        "sources": [],
        "llm_failed": "",
    }


BASELINE = history_row(0, TEMPLATE, decision="baseline", category="baseline", parent=None)


def request(experiment=1, history=(BASELINE,), settings="", source=TEMPLATE, **more):
    return {
        "experiment": experiment,
        "attempt": 0,
        "run_seed": 7,
        "out_dir": "unused",
        "program_md": PROGRAM % settings,
        "parent_train_py": source,
        "parent_experiment": 0,
        "proposer": "tpe",
        "history": list(history),
        "incumbent_val_bpb": 1.6,
        "limits": {"max_seq_len": 256, "memory_mb": 64000, "device_kind": "cpu", "n_vocab": 2049},
    } | more
