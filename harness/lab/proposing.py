"""Where the next train.py comes from: the template for the baseline, the propose process for everything after it.

In: the run's state, settings, data and program.md. Out: train.py and proposal.json in the attempt's folder. What was finished and not
noted in the journal is found again. Refuses to go on without a proposal: running the incumbent once more would be no experiment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.data.files import read_json, write_json_atomic, write_text_atomic
from harness.data.manifest import PreparedData
from harness.lab.decisions import history_row
from harness.lab.journal import State, Step
from harness.lab.runner import child_environment
from harness.lab.settings import Settings
from harness.search.constants import ConstantsError, constant_values, rewrite_constants
from harness.search.gate import source_hash
from harness.search.keep import count_code_lines

PROPOSE_SECONDS = 120


class ProposalError(RuntimeError):
    """The proposer made no proposal; the message says why. Nothing is lost: the same command continues."""


class ProposerGone(RuntimeError):
    """The proposer hung or was killed; asking again may help."""


def read_proposal(folder: Path) -> dict | None:
    """A proposal that was finished but not noted in the journal: a kill came between."""
    try:
        proposal = read_json(folder / "proposal.json")
        source = (folder / "train.py").read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        return None
    return proposal if proposal.get("sha256") == source_hash(source) else None


def baseline_source(template: str, settings: Settings) -> str:
    """The template under the constants of the run's profile."""
    return rewrite_constants(template, settings.profile["constants"], clamp=False)


def propose_baseline(folder: Path, template: str, settings: Settings) -> dict:
    """Write experiment 0 into the folder; return its proposal."""
    source = baseline_source(template, settings)
    write_text_atomic(folder / "train.py", source)
    profile = settings.profile["name"]
    proposal = {
        "title": "baseline", "hypothesis": f"The template as the {profile} profile sets it; every idea is measured against this.",
        "category": "baseline", "proposer": "harness", "bank_id": None, "sha256": source_hash(source), "constants_changed": {},
    }  # fmt: skip
    write_json_atomic(folder / "proposal.json", proposal)
    return proposal


def run_proposer(folder: Path, request: dict) -> dict:
    """Run the propose process, the only place where a proposer's code or key may be. Raises ProposalError or ProposerGone."""
    write_json_atomic(folder / "request.json", request)
    command = [sys.executable, "-m", "harness.search.propose", str(folder / "request.json")]
    environment = child_environment()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROPOSE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ProposerGone(
            f"the proposer gave no answer within {PROPOSE_SECONDS} s; run the same command again to continue"
        ) from None
    if done.returncode < 0:
        raise ProposerGone(
            f"the proposer was ended by signal {-done.returncode}; run the same command again to continue"
        )
    proposal = read_proposal(folder)
    if done.returncode or proposal is None:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProposalError(f"no proposal for experiment {request['experiment']}: {why}")
    return proposal


def proposal_request(
    step: Step, folder: Path, state: State, settings: Settings, data: PreparedData, parent_source: str, program: str
) -> dict:
    """What the propose process is told: the run's history as plain rows, so that `search` never reads a journal."""
    return {
        "format_version": 1,
        "experiment": step.experiment,
        "attempt": step.attempt,
        "run_seed": settings.run_seed,
        "out_dir": str(folder),
        "program_md": program,
        "parent_train_py": parent_source,
        "parent_experiment": state.incumbent.number,
        "proposer": "tpe",
        "incumbent_val_bpb": state.incumbent.mean,
        "history": [history_row(e) for e in state.experiments if e.number not in state.excused],
        "limits": {
            "max_seq_len": data.max_seq_len,
            "n_vocab": data.n_vocab,
            "device_kind": settings.device["kind"],
            "memory_mb": settings.device["memory_mb"] or None,
        },
        "force_category": None,
        "allow_structural": True,
    }


def measures(source: str) -> dict:
    """What the journal notes of a train.py for later comparisons; None where the file is too broken to tell, which the gate will say."""
    try:
        return {"constants": constant_values(source), "code_lines": count_code_lines(source)}
    except (
        ConstantsError,
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # the last two: nested too deeply for the parser
        return {"constants": None, "code_lines": None}
