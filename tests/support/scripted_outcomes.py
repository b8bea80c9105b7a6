"""What comes of each of the thirty scripted replies.

A server gives it in every round; the real client asks, reads and applies it.

In: a folder to work in. Out: for each reply the proposal or None, why not, and the requests that
were made. Shared by test_researcher.py and scripts/recover_replies.py.
"""

from functools import partial
from pathlib import Path

from fake_openai import FakeOpenAI, completion
from scripted_replies import REPLIES, TEMPLATE, ScriptedReply

from harness.search.constants import constant_values
from harness.search.gate import source_hash
from harness.search.llm.converse import ask_model, propose_llm
from harness.search.program import parse_program
from harness.search.proposal import Proposal
from harness.search.turns import Turn

PROGRAM = "```settings\n```\n"


def request(folder: Path, url: str, source: str = TEMPLATE) -> dict:
    """A request for the first experiment of a night."""
    baseline = {
        "experiment": 0,
        "title": "baseline",
        "category": "baseline",
        "status": "ok",
        "decision": "baseline",
        "val_bpb": 1.5,
    }
    baseline |= {
        "constants": constant_values(source),
        "sha256": source_hash(source),
        "bank_id": None,
        "parent": None,
    }
    about = {
        "profile": "cpu",
        "budget_seconds": 60.0,
        "device": "a CPU",
        "device_kind": "cpu",
        "dtype": "float32",
    }
    llm = {
        "model": "",
        "options": f"base_url={url}",
        "key_file": "",
        "ledger": str(folder / "llm.jsonl"),
    }
    return {
        "experiment": 1,
        "attempt": 0,
        "run_seed": 7,
        "out_dir": str(folder / "attempt"),
        "program_md": PROGRAM,
        "parent_train_py": source,
        "parent_experiment": 0,
        "proposer": "llm",
        "llm": llm,
        "sigma": 0.001,
        "incumbent_val_bpb": 1.5,
        "about": about | {"n_vocab": 2049, "max_seq_len": 256, "data_id": "data"},
        "repair": None,
        "history": [baseline],
        "limits": {"max_seq_len": 256, "n_vocab": 2049, "memory_mb": 64000, "device_kind": "cpu"},
    }


def give_each(folder: Path) -> dict[str, tuple[Proposal | None, str, list[dict]]]:
    """Return {name: (the proposal or None, why not, requests)}.

    A server says the same in every round.
    """
    found, saying = {}, {}

    def answer(body: dict, number: int) -> dict:
        return completion(saying["reply"].text, finish_reason=saying["reply"].finish_reason)

    with FakeOpenAI(answer) as server:
        for number, reply in enumerate(REPLIES.values()):
            saying["reply"] = reply
            own = folder / f"{number:02d}"
            own.mkdir()
            asked, before = request(own, server.url, reply.source()), len(server.bodies)
            turn = Turn("llm", reply.category or "architecture", "it is its turn")
            settings = parse_program(PROGRAM)
            proposal, why, _ = ask_model(asked, partial(propose_llm, asked, turn, settings))
            found[reply.name] = proposal, why, server.bodies[before:]
    return found


def recovered(reply: ScriptedReply, found: dict) -> bool:
    """Whether what was meant was proposed, to the letter."""
    proposal = found[reply.name][0]
    return proposal is not None and proposal.source == reply.intended()
