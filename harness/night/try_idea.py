"""One idea of a person or a coding agent, run as in a night: `python -m harness try FILE --idea
"..."`.

In: a changed train.py, what the idea is, and a run whose baseline is done. Out: one experiment,
with the same gate, score, keep rule, journal, git and page, and its result as plain data (see
KEYS). Refuses, before anything is written: a file that the gate refuses, an idea that program.md
does not allow, one that was tried before (and returns its result), and a run that another process
works on.

The file is put where a proposer would have written it, and a night of one experiment does the rest.
So the same command continues one that was killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from harness.ground.errors import ConstantsError, LoopError, Paused, ProgramError
from harness.ground.text import one_line, without_escapes
from harness.lab.loop import Lab
from harness.lab.proposal_request import history
from harness.lab.proposing import program_in_force
from harness.night.notebook_runner import NotebookRunner
from harness.night.requests import StopNow, Stopper
from harness.night.terminal import Terminal
from harness.night.wishes import Wishes
from harness.run import heartbeat
from harness.run.git_history import experiment_ref
from harness.run.locks import hold
from harness.run.records import records_from_journal
from harness.run.run import Run, page_name
from harness.run.settings import command_on
from harness.run.state import AGAIN
from harness.sandbox.left_files import remove_tree
from harness.search.constants import keep_annotations
from harness.search.duplicates import near_duplicate, structure_hash
from harness.search.gate import FOREIGN, MOST_BYTES, check_candidate, source_hash
from harness.search.keyless import obey_program
from harness.search.patch import PatchError
from harness.search.port import port
from harness.search.program import parse_program
from harness.search.proposal import Proposal, constants_changed, write_files

PROPOSER = "external"
TITLE, HYPOTHESIS, BY = 120, 1000, 60  # characters
TAIL_LINES, TAIL_BYTES = 20, 8_000  # of the log of a run that failed
STATUS_SECONDS = 60.0  # between two lines of progress: an agent reads them all

# Of the object on stdout. Numbers are null where there are none; all text is data.
KEYS = {
    "tag": "the run",
    "outcome": "kept, simplified, discarded, quarantined (waits for a person), crashed; "
    "refused (nothing was run); busy; error",
    "retry_after_seconds": "busy: when to ask again",
    "experiment": "its number",
    "title": "the idea",
    "reason": "why that outcome, in one sentence",
    "reasons": "refused: what to change, one sentence each",
    "earlier": "of a file that was tried before: the object that it got then",
    "status": "of the last run: ok, crash, oom, nan, timeout, hopeless, cheating",
    "val_bpb": "mean of its scored runs, bits per byte, lower is better",
    "scores": "val_bpb of each of its trainings",
    "gain": "val_bpb of the best so far less its own; positive is better",
    "gain_in_sigma": "the gain over sigma",
    "threshold": "the gain from which on it would have been kept",
    "sigma": "noise of one training, bits per byte",
    "memory_gb": "peak memory",
    "tokens_per_second": "of its last training",
    "num_steps": "of its last training",
    "log": "path of its last training's log",
    "log_tail": "the last lines of that log, when the training failed: output of train.py, and no "
    "instructions to anybody",
    "train_py": "path of the exact file",
    "page": "path of its executed notebook as HTML",
    "commit": "its git commit",
    "ref": "the git ref at that commit",
    "best": "the best so far: experiment, val_bpb, train_py (copy it, change the copy, try that)",
    "next": "what to do next",
}


@dataclass(frozen=True)
class Idea:
    """source: the whole train.py. expected_delta: of val_bpb, negative is better. by: who has it,
    such as an agent's name. again: the experiment whose change it is."""

    source: str
    title: str
    hypothesis: str = ""
    category: str = ""
    expected_delta: float | None = None
    by: str = ""
    again: int | None = None


class Refused(RuntimeError):
    """Nothing was run and nothing was written.

    reasons: what to change; earlier: the number of the experiment that was this very file.
    """

    def __init__(self, reasons: Sequence[str], earlier: int | None = None) -> None:
        super().__init__("; ".join(reasons))
        self.reasons, self.earlier = list(reasons), earlier


def try_idea(folder: Path, idea: Idea, stream: TextIO, again: str = "") -> dict:
    """Run one idea to its decision; return what came of it by KEYS.

    again: the command that continues it. Raises Refused; BusyError while somebody works on the run;
    Paused where it may go on later; LoopError, SettingsError, ... with what to do; StopNow.
    """
    lab = Lab(folder)
    advice = f"Wait for it, or stop it: {command_on(folder, '--stop')}"
    with hold(folder, "night", f"an idea of {idea.by or 'somebody'}", advice):
        with lab:  # never beside a night, whose next experiment would find the run in use
            lab.rule()
            number = place_idea(lab, idea)
        results = str(folder.parent)
        wishes = Wishes(
            folder.name, experiments=number, results=results, proposer="tpe", again=again
        )
        try:
            carry_out(wishes, number, stream)
        except BaseException as error:
            stopped = isinstance(error, StopNow)
            words = "stopped at once" if stopped else f"cannot go on: {error}"
            heartbeat.end(folder, 130 if stopped else 1, words)
            raise
        heartbeat.end(folder, 0, "done: one idea was tried", done=True)
    return facts_of(folder, number)


def place_idea(lab: Lab, idea: Idea) -> int:
    """Leave the idea where the run's next proposal is expected, unless it is in the journal
    already; return its experiment's number. Raises as `check_idea`, before anything is written."""
    best = lab.state.incumbent
    if best and len(idea.source) <= MOST_BYTES:
        before = lab.train_py(best).read_text(encoding="utf-8")
        idea = replace(idea, source=keep_annotations(idea.source, before))
    category, number = check_idea(lab, idea), lab.step.experiment
    if lab.state.experiments[-1].number == number:
        return number
    folder = lab.attempt_folder(number)
    remove_tree(folder)  # a proposal that was cut off
    proposal = Proposal(
        idea.source,
        one_line(idea.title)[:TITLE],
        one_line(idea.hypothesis)[:HYPOTHESIS],
        category,
        proposer=PROPOSER,
        operator="" if idea.again is None else AGAIN,
        sources=() if idea.again is None else (idea.again,),
        model=one_line(idea.by)[:BY],
        expected_delta=idea.expected_delta,
        parent=best.number,
        constants_changed=constants_changed(before, idea.source),
    )
    write_files(folder, proposal)
    return number


def check_idea(lab: Lab, idea: Idea) -> str:
    """Return the idea's category.

    Raises Refused with everything that speaks against it, LoopError where the run is not ready for
    another.
    """
    step, state, tag = lab.step, lab.state, lab.settings.tag
    if step.experiment == 0:
        command = command_on(lab.folder, "--experiments", "0")
        raise LoopError(f"run {tag} has no baseline yet: {command}")
    if len(idea.source) > MOST_BYTES:  # nothing else looks at it: that would take minutes
        raise Refused(check_candidate(idea.source, {}))
    newest, sha = state.experiments[-1], source_hash(idea.source)
    if newest.number == step.experiment:
        proposed = newest.attempt.proposed
        if proposed["sha256"] == sha:
            return proposed["category"]  # it was cut off, and goes on
        command = command_on(lab.folder, "--experiments", str(newest.number))
        raise LoopError(
            f"experiment {newest.number} is unfinished ({one_line(proposed['title'])[:60]}): the "
            f"same command as then, or {command}, finishes it"
        )
    tried, category = lab.tried(idea.again), idea.category
    before = lab.train_py(state.incumbent).read_text(encoding="utf-8")
    reasons = check_candidate(idea.source, tried)
    if not reasons and not category and structure_hash(idea.source) == structure_hash(before):
        category = "tune"
    if reasons in FOREIGN:
        reasons += port(idea.source, lab.template()).words
    reasons = reasons or program_reasons(lab, idea, category, before)
    if not one_line(idea.title):
        reasons.append('say what the idea is: --idea "wider embeddings"')
    if reasons:
        raise Refused(reasons, tried.get(sha))
    return category


def program_reasons(lab: Lab, idea: Idea, category: str, before: str) -> list[str]:
    """What program.md, and what was tried already, have against an idea that the gate lets pass."""
    program, _ = program_in_force(lab, before)
    settings = parse_program(program)
    rows = [row for row in history(lab) if row["experiment"] != idea.again]
    allowed, reasons = settings.allowed_categories, []
    if not category:
        kinds = ", ".join(name for name in allowed if name != "tune")
        reasons.append(
            "it changes more than numbers: say what kind of change it is with --category "
            f"(one of {kinds})"
        )
    elif category not in allowed:
        reasons.append(f"program.md allows ideas of {', '.join(allowed)}, not {category}")
    if entry := settings.forbids(None, idea.title):
        reasons.append(f"program.md forbids {entry!r}: propose something else")
    try:
        obey_program(settings, before, idea.source, rows)
    except (PatchError, ConstantsError, ProgramError) as error:
        reasons.append(f"by the constants' annotations and program.md: {error}")
    if earlier := near_duplicate(idea.source, before, rows):
        reasons.append(earlier)
    return reasons


def carry_out(wishes: Wishes, number: int, stream: TextIO) -> None:
    """Execute the loop notebook until the experiment is decided and committed.

    Raises Paused, LoopError, StopNow.
    """
    terminal = Terminal(wishes.folder / "night.log", stream, every_seconds=STATUS_SECONDS)
    parameters = {"tag": wishes.tag, "results_dir": wishes.results}
    parameters |= {"proposer": "tpe", "model": "", "llm": ""}
    try:
        with Stopper(wishes, terminal) as stopper:
            runner = NotebookRunner(wishes, terminal, stopper)
            runner.execute_now("03_agent_loop", page_name(number), parameters)
            runner.derive_pages(live=False)
    except Paused as error:
        terminal.say(f"paused: {error}")
        raise
    finally:
        terminal.close()


# --- what came of it ------------------------------------------------------------------------------


def facts_of(folder: Path, number: int) -> dict:
    """A decided experiment by KEYS."""
    run = Run(folder)
    experiment = run.state.experiments[number]
    record = next(r for r in records_from_journal(run.entries) if r.experiment == number)
    decided, train_py = experiment.decided, run.train_py(experiment)
    last, log = experiment.attempt.own[-1] if experiment.attempt.runs else None, None
    if last:
        log = train_py.parent / "runs" / f"{last.number:02d}" / "run.log"
    trained = (last.trained if last else None) or {}
    page = folder / "notebooks" / f"{page_name(number)}.html"
    sigma, gain = decided["sigma"], decided["gain"]
    return {
        "tag": folder.name,
        "outcome": record.outcome,
        "experiment": number,
        "title": record.title,
        "reason": one_line(decided["verdict"]),
        "status": decided["status"],
        "val_bpb": decided["val_bpb"],
        "scores": experiment.attempt.scores,
        "gain": gain,
        "gain_in_sigma": round(gain / sigma, 2) if sigma and gain is not None else None,
        "threshold": rounded(decided["threshold"]),
        "sigma": rounded(sigma),
        "memory_gb": record.memory_gb,
        "tokens_per_second": trained.get("tok_per_sec"),
        "num_steps": trained.get("num_steps"),
        "log": str(log) if log else None,
        "log_tail": log_tail(log) if log and record.outcome == "crashed" else None,
        "train_py": str(train_py),
        "page": str(page) if page.exists() else None,
        "commit": experiment.commit,
        "ref": experiment_ref(folder.name, number) if experiment.commit else None,
        "best": best_of(run),
        "next": next_words(record.outcome),
    }


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def refusal(folder: Path, refused: Refused) -> dict:
    """A refused idea by KEYS."""
    return {
        "tag": folder.name,
        "outcome": "refused",
        "reason": "nothing was run and nothing was written down",
        "reasons": refused.reasons,
        "earlier": None if refused.earlier is None else facts_of(folder, refused.earlier),
        "best": best_of(Run(folder)),
        "next": "change the file or the words as the reasons say, and try again",
    }


def best_of(run: Run) -> dict:
    """The incumbent."""
    best, train_py = run.state.incumbent, run.folder / "best" / "train.py"
    return {"experiment": best.number, "val_bpb": best.mean, "train_py": str(train_py)}


def next_words(outcome: str) -> str:
    begin = "copy best.train_py, change the copy, and try that"
    return {
        "kept": f"it is the new best: {begin}",
        "simplified": f"it is the new best, with less code for the same score: {begin}",
        "crashed": f"read log_tail and reason: mend the file, or {begin}",
        "quarantined": f"a person must look at it; until then, {begin}",
    }.get(outcome, begin)


def log_tail(log: Path) -> list[str]:
    """The last lines of a log, without escapes."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [without_escapes(line)[:300] for line in text.splitlines()[-TAIL_LINES:]]
