"""A proposal: a candidate train.py and what it is about. The one place that names its fields.

In: the request and the proposal. Out, in the request's `out_dir`: train.py, then proposal.json,
each written atomically; for a repair that could not be made proposal.json alone, with `gave_up`
saying why.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.ground.errors import ConstantsError
from harness.ground.files import read_json, write_json_atomic, write_text_atomic
from harness.search.constants import constant_values
from harness.search.gate import source_hash

FORMAT_VERSION = 2


@dataclass
class Proposal:
    """A candidate train.py and what it is about.

    proposer: who made it, such as tpe or llm. operator: what was asked for, the category where
    nothing was. expected_delta: of val_bpb, negative is better, None if not said. parent: the
    experiment it changes, None for the incumbent. sources: experiments it was asked to build on.
    answered_by: the model's own name in its replies. usage: what the model took, None when none was
    asked. llm_failed: why the model's turn became tpe's, "" otherwise. gave_up: why a repair could
    not be made; then there is no source. constants_changed: {name: [before, after]}.
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
    answered_by: str = ""
    exchange: str = ""
    usage: Mapping[str, Any] | None = None
    llm_failed: str = ""
    gave_up: str = ""
    constants_changed: dict[str, list[Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """proposal.json: all but the source, which is a file of its own."""
        told = asdict(self) | {"sha256": source_hash(self.source)}
        names = ("gave_up", "model", "exchange", "usage") if self.gave_up else TOLD
        return {"format_version": FORMAT_VERSION} | {name: told[name] for name in names}


TOLD = [each.name for each in fields(Proposal) if each.name not in ("source", "gave_up")]
TOLD.append("sha256")
# What the journal's `proposed` takes over as it is.
JOURNALED = [name for name in TOLD if name != "parent"]


def write_proposal(request: Mapping[str, Any], proposal: Proposal) -> None:
    """Write train.py and then proposal.json into the request's out_dir."""
    if not proposal.gave_up:
        proposal.constants_changed = constants_changed(request["parent_train_py"], proposal.source)
        if proposal.parent is None:
            proposal.parent = request["parent_experiment"]
        proposal.operator = proposal.operator or proposal.category
    write_files(Path(request["out_dir"]), proposal)


def write_files(folder: Path, proposal: Proposal) -> dict[str, Any]:
    """Write a proposal's files into a folder; return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    if not proposal.gave_up:
        write_text_atomic(folder / "train.py", proposal.source)
    record = proposal.record()
    write_json_atomic(folder / "proposal.json", record)
    return record


def constants_changed(old: str, new: str) -> dict[str, list[Any]]:
    """Return {name: [before, after]}, None where it was not there.

    {} when a source's block cannot be read, as the gate will say.
    """
    try:
        before, after = constant_values(old), constant_values(new)
    except ConstantsError:
        return {}
    return {
        name: [before.get(name), after.get(name)]
        for name in {**before, **after}
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }


def read_proposal(folder: Path) -> dict | None:
    """A proposal that was finished but not noted in the journal: a kill came between.

    One that gave up a repair has no train.py.
    """
    try:
        proposal = read_json(folder / "proposal.json")
        if proposal.get("gave_up"):
            return proposal
        source = (folder / "train.py").read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        return None
    return proposal if proposal.get("sha256") == source_hash(source) else None
