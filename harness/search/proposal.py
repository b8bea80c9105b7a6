"""A proposal: a candidate train.py and what it is about, and the two files that carry it out of the propose process.

In: the request and the proposal. Out, in the request's `out_dir`: train.py, then proposal.json, each written atomically;
for a repair that could not be made proposal.json alone, with `gave_up` saying why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError
from harness.ground.files import write_json_atomic, write_text_atomic
from harness.search.constants import constant_values
from harness.search.gate import source_hash

FORMAT_VERSION = 2


@dataclass
class Proposal:
    """A candidate train.py and what it is about.

    proposer: who made it, tpe or llm. operator: what was asked for. expected_delta: of val_bpb, negative is better, None if
    not said. parent: the experiment it changes, None for the incumbent. sources: experiments it was asked to build on.
    usage: what the model took, None when none was asked. llm_failed: why the model's turn became tpe's, "" otherwise.
    gave_up: why a repair could not be made; then there is no source.
    """

    source: str
    title: str
    hypothesis: str
    category: str
    bank_id: str | None = None
    not_applicable: list[str] = field(default_factory=list)
    note: str = ""
    proposer: str = "tpe"
    operator: str = ""
    expected_delta: float | None = None
    parent: int | None = None
    sources: tuple[int, ...] = ()
    model: str = ""
    exchange: str = ""
    usage: Mapping[str, Any] | None = None
    llm_failed: str = ""
    gave_up: str = ""


def write_proposal(request: Mapping[str, Any], proposal: Proposal) -> None:
    """Write train.py and then proposal.json into the request's out_dir."""
    folder = Path(request["out_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"model": proposal.model, "exchange": proposal.exchange, "usage": proposal.usage}
    if proposal.gave_up:
        write_json_atomic(
            folder / "proposal.json", {"format_version": FORMAT_VERSION, "gave_up": proposal.gave_up} | asked
        )
        return
    write_text_atomic(folder / "train.py", proposal.source)
    write_json_atomic(
        folder / "proposal.json",
        {
            "format_version": FORMAT_VERSION,
            "title": proposal.title,
            "hypothesis": proposal.hypothesis,
            "category": proposal.category,
            "proposer": proposal.proposer,
            "operator": proposal.operator or proposal.category,
            "expected_delta": proposal.expected_delta,
            "constants_changed": constants_changed(request["parent_train_py"], proposal.source),
            "bank_id": proposal.bank_id,
            "sha256": source_hash(proposal.source),
            "parent": request["parent_experiment"] if proposal.parent is None else proposal.parent,
            "sources": list(proposal.sources),
            "not_applicable": proposal.not_applicable,
            "note": proposal.note,
            "llm_failed": proposal.llm_failed,
        }
        | asked,
    )


def constants_changed(old: str, new: str) -> dict[str, list[Any]]:
    """Return {name: [before, after]}, None where it was not there; {} when a source's block cannot be read, as the gate will say."""
    try:
        before, after = constant_values(old), constant_values(new)
    except ConstantsError:
        return {}
    return {
        name: [before.get(name), after.get(name)]
        for name in {**before, **after}
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }
