"""Where the next train.py comes from: the template for the baseline, the propose process for
everything after it.

In: an open run, program.md, and which proposer to ask. Out: train.py and proposal.json in the
attempt's folder, and the journal's `proposed`. A proposal that was finished before a kill, and is
not in the journal yet, is used. Refuses to go on without a proposal: running the incumbent once
more would be no experiment. If a language model cannot be asked, `tpe` makes the proposal instead,
and says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.ground.errors import (
    ConstantsError,
    KeyFileError,
    LoopError,
    ProgramError,
    ProposalError,
    ProposerGone,
)
from harness.ground.files import write_json_atomic, write_text_atomic
from harness.lab.open_run import OpenRun
from harness.lab.proposal_request import Asking, proposal_request
from harness.lab.propose_ahead import take_ahead
from harness.rules.keep import count_code_lines
from harness.rules.next_step import Step
from harness.run.settings import Settings
from harness.run.state import Experiment
from harness.sandbox import keys
from harness.sandbox.child import child_command, child_environment
from harness.search.constants import constant_values, parse_constants, rewrite_constants
from harness.search.duplicates import structure_hash
from harness.search.keyless import known_names
from harness.search.llm.endpoint import EndpointError, parse_options
from harness.search.patch import make_diff
from harness.search.program import has_settings, narrow_constants, parse_program
from harness.search.proposal import JOURNALED, Proposal, read_proposal, write_files

PROPOSERS = ("tpe", "llm", "hybrid")
PROPOSE_SECONDS = 120.0  # for what needs no language model
PROGRAM = "program.md"
OBEYED = "program.md is mended, and holds as it stands"
# Proposers whose code is new to everybody: a few steps come before the whole training.
SMOKED = ("llm", "external")


# --- who is asked ---------------------------------------------------------------------------------


def default_proposer(options: str = "") -> str:
    """Who proposes unless a person says: `hybrid` where a language model is known, else `tpe`."""
    return "hybrid" if keys.has_endpoint(options) else "tpe"


def make_asking(proposer: str = "", model: str = "", options: str = "") -> Asking:
    """Who is to be asked, and with what.

    Raises LoopError for an unknown proposer, options that cannot be read, a key file that is not
    safe.
    """
    if proposer not in ("", *PROPOSERS):
        known = ", ".join(PROPOSERS)
        raise LoopError(f"proposer is {proposer!r}: it must be one of {known}")
    proposer = proposer or default_proposer(options)
    if proposer == "tpe":
        return Asking()
    try:
        parse_options(options, model)
        key_file, environment = keys.for_proposer()
    except (EndpointError, KeyFileError) as error:
        raise LoopError(str(error)) from error
    return Asking(proposer, model, options, key_file, environment)


# --- one attempt ----------------------------------------------------------------------------------


def propose_attempt(run: OpenRun, step: Step, asking: Asking) -> None:
    """Make one attempt of an experiment, its first or a repair of the last, and note it."""
    folder = run.attempt_folder(step.experiment, step.attempt)
    folder.mkdir(parents=True, exist_ok=True)
    incumbent = run.state.incumbent
    before = source_of(run, incumbent)
    program, why = program_in_force(run, before)
    if why != program_words(run.journal.entries):
        run.journal.append("note", text=why or OBEYED, about=PROGRAM)
    proposal = read_proposal(folder)
    if proposal is None and incumbent:
        proposal = take_ahead(run, step, program, folder)
    if proposal is None and incumbent:
        request = proposal_request(run, step, before, program, asking)
        try:
            proposal = run_proposer(folder, request, asking)
        except ProposalError as error:
            raise LoopError(str(error)) from error
    elif proposal is None:
        proposal = propose_baseline(folder, before, run.settings)
    place = {"experiment": step.experiment, "attempt": step.attempt}
    if why := proposal.get("gave_up"):
        spent = {key: proposal.get(key) for key in ("usage", "exchange")}
        run.journal.append("unrepaired", **place, why=why, **spent)
        return
    parent = parent_of(run, proposal)
    before = source_of(run, parent)
    after = (folder / "train.py").read_text(encoding="utf-8")
    write_text_atomic(folder / "train.diff", make_diff(before, after))
    run.journal.append(
        "proposed",
        **place,
        **{name: proposal.get(name) for name in JOURNALED},
        parent=parent.number if parent else None,
        smoke=parent is not None and needs_smoke_run(proposal["proposer"], after, before),
        **measures(after),
        program_sha256=hashlib.sha256(program.encode()).hexdigest(),
    )


def source_of(run: OpenRun, experiment: Experiment | None) -> str:
    """The train.py that a proposal changes: an experiment's, or the template for the baseline."""
    return run.train_py(experiment).read_text(encoding="utf-8") if experiment else run.template()


def parent_of(run: OpenRun, proposal: dict) -> Experiment | None:
    """What a proposal is a change of: the incumbent, or another experiment that it names and that
    has a score."""
    scored = [e for e in run.state.experiments if e.decided and e.mean is not None]
    return next((e for e in scored if e.number == proposal.get("parent")), run.state.incumbent)


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
    """Run the propose process, the only place where a proposer's code or key may be.

    One that waits too long for a language model is killed; `tpe` proposes instead. Raises
    ProposalError or ProposerGone.
    """
    limit = PROPOSE_SECONDS
    if request.get("llm"):
        limit += parse_options(asking.options, asking.model).deadline_seconds
    path = folder / "request.json"
    write_json_atomic(path, request)
    command = child_command("harness.search.propose", str(path), str(os.getpid()))
    environment = child_environment(**asking.environment)
    options = {"env": environment, "capture_output": True, "text": True, "check": False}
    again = "run the same command again to continue"
    try:
        done = subprocess.run(command, **options, timeout=limit)
    except subprocess.TimeoutExpired:
        if not request.get("llm"):
            words = f"the proposer gave no answer within {limit:.0f} s; {again}"
            raise ProposerGone(words) from None
        why = f"the language model gave no answer within {limit:.0f} s, and its process was killed"
        if request.get("repair"):
            return {"gave_up": why}
        by_tpe = request | {"proposer": "tpe", "llm": None}
        return run_proposer(folder, by_tpe, Asking()) | {"llm_failed": why}
    if done.returncode < 0:
        raise ProposerGone(f"the proposer was ended by signal {-done.returncode}; {again}")
    proposal = read_proposal(folder)
    if done.returncode or proposal is None:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProposalError(f"no proposal for experiment {request['experiment']}: {why}")
    return proposal


def needs_smoke_run(proposer: str, source: str, parent_source: str) -> bool:
    """Whether a few steps should come before the whole training: code that nobody has run yet, not
    merely other numbers."""
    return proposer in SMOKED and structure_hash(source) != structure_hash(parent_source)


def measures(source: str) -> dict:
    """What the journal notes of a train.py for later comparisons; None where the file is too broken
    to tell, which the gate will say."""
    found = {"constants": None, "code_lines": None}
    # the last two: nested too deeply for the parser
    broken = (ConstantsError, SyntaxError, ValueError, RecursionError, MemoryError)
    with contextlib.suppress(*broken):
        found = {"constants": constant_values(source), "code_lines": count_code_lines(source)}
    return found | {"structure": structure_hash(source)}


# --- program.md -----------------------------------------------------------------------------------


def check_program(
    text: str, source: str, experiments: Sequence[Experiment] = (), kept: str | None = None
) -> None:
    """Whether the settings of a program.md can be obeyed in a run that stands so. source: of the
    incumbent; kept: the program.md that held so far. Raises ProgramError."""
    if has_settings(kept or "") and not has_settings(text):
        raise ProgramError(
            "program.md has lost its block of settings: put it back, or an empty one (a line "
            "```settings and a line ```), under which every kind of idea is allowed"
        )
    attempts = [attempt for experiment in experiments for attempt in experiment.attempts]
    names = known_names([{"constants": each.proposed.get("constants")} for each in attempts])
    narrow_constants(parse_program(text), parse_constants(source), names)


def kept_program(folder: Path) -> str | None:
    """The program.md that held last in a run, None where none did yet."""
    kept = folder / "program.md"
    return kept.read_text(encoding="utf-8") if kept.exists() else None


def program_words(entries: Sequence[dict]) -> str:
    """Why the program.md of the person does not hold in a run, as it was told last; "" where it
    does."""
    notes = [entry["text"] for entry in entries if entry.get("about") == PROGRAM]
    return "" if notes[-1:] == [OBEYED] else "".join(notes[-1:])


def program_in_force(run: OpenRun, source: str) -> tuple[str, str]:
    """Return the program.md that holds, and why that is not the present one, "" where it is.

    A person may edit it all night long; while it cannot be obeyed, it holds as it last could.
    Raises LoopError where it never could.
    """
    kept = kept_program(run.folder)
    try:
        text = run.program_text()
        check_program(text, source, run.state.experiments, kept)
    except (ProgramError, ConstantsError) as error:
        if kept is None:
            raise LoopError(str(error)) from error
        return kept, f"{error}. Until that is mended, program.md holds as it was before"
    if kept != text:
        write_text_atomic(run.folder / "program.md", text)
    return text, ""
