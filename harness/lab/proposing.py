"""Where the next train.py comes from: the template for the baseline, the propose process for everything after it.

In: the run's state, settings, data, program.md, and who is to be asked. Out: train.py and proposal.json in the attempt's folder. What was finished and not
noted in the journal is found again. Refuses to go on without a proposal: running the incumbent once more would be no experiment. A language model that
cannot be asked costs nothing but its proposal: `tpe` makes one instead, and says why.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.ground.errors import ConstantsError, LoopError, ProgramError, ProposalError, ProposerGone
from harness.ground.files import read_json, write_json_atomic, write_text_atomic
from harness.lab.open_run import OpenRun
from harness.rules.decision import history_row
from harness.rules.keep import count_code_lines
from harness.rules.next_step import Step
from harness.run.settings import Settings
from harness.run.state import Experiment
from harness.sandbox import keys
from harness.sandbox.child import child_command, child_environment
from harness.search.constants import constant_values, parse_constants, rewrite_constants
from harness.search.duplicates import structure_hash
from harness.search.gate import source_hash
from harness.search.keyless import known_names
from harness.search.llm.endpoint import LlmOptions, parse_options
from harness.search.program import narrow_constants, parse_program
from harness.search.proposal import Proposal, write_files

PROPOSERS = ("tpe", "llm", "hybrid")
SINCE_VARIABLE = "AUTORESEARCH_NIGHT_SINCE"  # the first experiment of the night that a kernel works for
PROPOSE_SECONDS = 120.0  # for what needs no language model
LOG_BYTES = 20_000  # of either end of a failed run's log that a repair is told of
SMOKED = ("llm", "external")  # proposers whose code is new to everybody: a few steps come before the whole training


@dataclass(frozen=True)
class Asking:
    """Who is asked for ideas. proposer: of PROPOSERS; options: of the language model, text as the user gave it; key_file: where its key is, "" for none.

    environment: what the propose process gets besides, and no other child.
    """

    proposer: str = "tpe"
    model: str = ""
    options: str = ""
    key_file: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def parsed(self) -> LlmOptions:
        return parse_options(self.options, self.model)


def default_proposer(options: str = "") -> str:
    """Who proposes unless a person says: `hybrid` where a key or an endpoint of one's own is known, else `tpe`."""
    return "hybrid" if keys.has_endpoint(options) else "tpe"


def make_asking(proposer: str = "", model: str = "", options: str = "") -> Asking:
    """Who is to be asked, and with what.

    Raises EndpointError for options that cannot be read, KeyFileError for a key file that is not safe, ProposalError for an unknown proposer.
    """
    if proposer not in ("", *PROPOSERS):
        raise ProposalError(f"proposer is {proposer!r}: it must be one of {', '.join(PROPOSERS)}")
    proposer = proposer or default_proposer(options)
    if proposer == "tpe":
        return Asking()
    parse_options(options, model)
    key_file, environment = keys.for_proposer()
    return Asking(proposer, model, options, key_file, tuple(environment.items()))


def read_proposal(folder: Path) -> dict | None:
    """A proposal that was finished but not noted in the journal: a kill came between. One that gave up a repair has no train.py."""
    try:
        proposal = read_json(folder / "proposal.json")
        if proposal.get("gave_up"):
            return proposal
        source = (folder / "train.py").read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        return None
    return proposal if proposal.get("sha256") == source_hash(source) else None


def baseline_source(template: str, settings: Settings) -> str:
    """The template under the constants of the run's profile."""
    return rewrite_constants(template, settings.profile["constants"], clamp=False)


def propose_baseline(folder: Path, template: str, settings: Settings) -> dict:
    """Write experiment 0 into the folder; return its proposal."""
    profile = settings.profile["name"]
    words = f"The template as the {profile} profile sets it; every idea is measured against this."
    source = baseline_source(template, settings)
    return write_files(folder, Proposal(source, "baseline", words, "baseline", proposer="harness"))


def run_proposer(folder: Path, request: dict, asking: Asking) -> dict:
    """Run the propose process, the only place where a proposer's code or key may be. Raises ProposalError or ProposerGone.

    One that waits too long for a language model is killed; `tpe` proposes instead.
    """
    limit = PROPOSE_SECONDS + (asking.parsed.deadline_seconds if request.get("llm") else 0.0)
    write_json_atomic(folder / "request.json", request)
    command = child_command("harness.search.propose", str(folder / "request.json"), str(os.getpid()))
    environment = child_environment(**dict(asking.environment))
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        if not request.get("llm"):
            raise ProposerGone(
                f"the proposer gave no answer within {limit:.0f} s; run the same command again to continue"
            ) from None
        why = f"the language model gave no answer within {limit:.0f} s, and its process was killed"
        if request.get("repair"):
            return {"gave_up": why}
        return run_proposer(folder, request | {"proposer": "tpe", "llm": None}, Asking()) | {"llm_failed": why}
    if done.returncode < 0:
        raise ProposerGone(
            f"the proposer was ended by signal {-done.returncode}; run the same command again to continue"
        )
    proposal = read_proposal(folder)
    if done.returncode or proposal is None:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProposalError(f"no proposal for experiment {request['experiment']}: {why}")
    return proposal


def proposal_request(run: OpenRun, step: Step, parent_source: str, program: str, asking: Asking) -> dict:
    """What the propose process is told: the run's history as plain rows, so that `search` never reads a journal. No secret is in it.

    program: the text of program.md.
    """
    state, settings, attempt_folder = run.state, run.settings, run.attempt_folder
    folder = attempt_folder(step.experiment, step.attempt)
    others = [e for e in state.experiments if e.number not in state.excused and e.number != step.experiment]
    rows = [history_row(e) | {"folder": str(attempt_folder(e.number, len(e.attempts) - 1))} for e in others]
    rows = [row | {"cause": without_paths(row["cause"])} for row in rows]
    llm = {
        "model": asking.model, "options": asking.options, "key_file": asking.key_file, "ledger": str(ledger_path(run.folder)),
    }  # fmt: skip
    noise, profile, device = state.noise, settings.profile, settings.device
    return {
        "format_version": 2,
        "experiment": step.experiment,
        "attempt": step.attempt,
        "run_seed": settings.run_seed,
        "out_dir": str(folder),
        "program_md": program,
        "parent_train_py": parent_source,
        "parent_experiment": state.incumbent.number,
        "proposer": asking.proposer,
        "llm": None if asking.proposer == "tpe" else llm,
        "incumbent_val_bpb": state.incumbent.mean,
        "sigma": noise.sigma if noise.df else None,
        "about": {
            "profile": profile["name"],
            "budget_seconds": settings.budget_seconds,
            "device": device["name"],
            "dtype": settings.dtype,
        },
        "asked_since": int(os.environ.get(SINCE_VARIABLE) or step.experiment),
        "repair": repair_facts(state.experiments[-1], attempt_folder) if step.attempt else None,
        "history": rows,
        "limits": {
            "max_seq_len": run.data.max_seq_len,
            "n_vocab": run.data.n_vocab,
            "device_kind": device["kind"],
            "memory_mb": device["memory_mb"] or None,
        },
        "force_category": None,
        "allow_structural": True,
    }


def check_program(text: str, source: str, experiments: Sequence[Experiment] = ()) -> None:
    """Whether the settings of a program.md can be obeyed in a run that stands so. source: of the incumbent. Raises ProgramError."""
    names = known_names([{"constants": attempt.proposed.get("constants")} for e in experiments for attempt in e.attempts])
    narrow_constants(parse_program(text), parse_constants(source), names)


def program_in_force(run: OpenRun, text: str, source: str) -> tuple[str, str]:
    """Return the program.md that holds, and why that is not the present one, "" where it is.

    A person may edit it all night long; while it cannot be obeyed, it holds as it last could. Raises LoopError where it
    never could.
    """
    kept = run.folder / "program.md"
    try:
        check_program(text, source, run.state.experiments)
    except (ProgramError, ConstantsError) as error:
        if not kept.exists():
            raise LoopError(str(error)) from error
        return kept.read_text(encoding="utf-8"), f"{error}. Until that is mended, program.md holds as it was before"
    if not kept.exists() or kept.read_text(encoding="utf-8") != text:
        write_text_atomic(kept, text)
    return text, ""


def ledger_path(folder: Path) -> Path:
    """Where a run's requests to language models are counted."""
    return folder / "llm.jsonl"


def repair_facts(experiment: Experiment, attempt_folder: Callable[[int, int], Path]) -> dict:
    """What failed, for who is to mend it: the file, why, and both ends of its log, which its training wrote and nobody should trust."""
    number = len(experiment.attempts) - 1
    folder, attempt, run = attempt_folder(experiment.number, number), experiment.attempt, experiment.attempt.failure
    told = ("title", "hypothesis", "category", "expected_delta", "operator", "parent")
    return {
        "attempt": number,
        "status": run.status if run else "invalid_patch",
        "cause": without_paths(run.cause) if run else "",
        "reasons": attempt.checked["reasons"] if attempt.checked else [],
        "log": without_paths(both_ends(folder / "runs" / f"{run.number:02d}" / "run.log")) if run else "",
        "train_py": (folder / "train.py").read_text(encoding="utf-8"),
        "folder": str(folder),
    } | {key: attempt.proposed.get(key) for key in told}


def without_paths(text: str) -> str:
    """Text of which a path keeps its file's name alone, or what of it is a package's: where things lie here is no language model's business."""
    text = re.sub(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+(?:site|dist)-packages/", "", text)
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+(?=[^\s/'\":])", "", text)


def both_ends(path: Path, most: int = LOG_BYTES) -> str:
    """The first and the last `most` bytes of a log; "" where there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(most)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), size - most))
            tail = file.read()
    except OSError:
        return ""
    left_out = size - len(head) - len(tail)
    middle = f"\n[{left_out} bytes left out]\n".encode() if left_out else b""
    return (head + middle + tail).decode(errors="replace")


def needs_smoke_run(proposer: str, source: str, parent_source: str) -> bool:
    """Whether a few steps should come before the whole training: code that nobody has run yet, not merely other numbers."""
    return proposer in SMOKED and structure_hash(source) != structure_hash(parent_source)


def measures(source: str) -> dict:
    """What the journal notes of a train.py for later comparisons; None where the file is too broken to tell, which the gate will say."""
    structure = structure_hash(source)
    try:
        return {"constants": constant_values(source), "code_lines": count_code_lines(source), "structure": structure}
    except (
        ConstantsError,
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # the last two: nested too deeply for the parser
        return {"constants": None, "code_lines": None, "structure": structure}
