"""Finished proposals, left where the propose process would have left them."""

from pathlib import Path

from harness.ground.files import write_json_atomic
from harness.search.gate import source_hash


def leave_proposal(folder: Path, source: str, title: str, **more) -> None:
    """Write an attempt's train.py and proposal.json; further names are fields of the proposal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(source)
    proposal = {
        "title": title,
        "hypothesis": "it may help",
        "category": "tune",
        "proposer": "test",
        "bank_id": None,
        "sha256": source_hash(source),
        "constants_changed": {},
    }
    write_json_atomic(folder / "proposal.json", proposal | more)
