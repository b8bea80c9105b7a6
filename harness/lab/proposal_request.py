"""What the propose process gets: the run's history as plain rows, how an attempt failed, and which
proposer to ask.

In: an open run, the step that asks for a proposal. Out: plain data, so that `search` never reads a
journal. No secret is in it, and of paths only the names.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.lab.earlier_runs import earlier_rows
from harness.lab.open_run import OpenRun
from harness.rules.decision import history_row
from harness.rules.next_step import Step
from harness.run.state import State

# The environment variable that names the first experiment of the night that a kernel works for.
SINCE_VARIABLE = "AUTORESEARCH_NIGHT_SINCE"
# The folders of a path, in a list of paths or a file:// address too, but not a web address's.
FOLDERS = r"(?:(?<=file://)|(?<![\w./]))/(?!/)(?:[^\s/'\":]+/)+"
LOG_BYTES = 20_000  # of either end of a failed run's log that a repair is told of


@dataclass(frozen=True)
class Asking:
    """Who is asked for ideas: tpe, llm or hybrid.

    options: of the language model, text as the user gave it; key_file: where its key is, "" for
    none; environment: what the propose process gets besides, and no other child.
    """

    proposer: str = "tpe"
    model: str = ""
    options: str = ""
    key_file: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def proposal_request(
    run: OpenRun, step: Step, parent_source: str, program: str, asking: Asking
) -> dict:
    """The request of one proposal. program: the text of program.md."""
    state, settings = run.state, run.settings
    llm = {
        "model": asking.model,
        "options": asking.options,
        "key_file": asking.key_file,
        "ledger": str(run.folder / "llm.jsonl"),  # where a run's requests are counted
        "before": model_before(state),
    }
    noise, device = state.noise, settings.device
    return {
        "experiment": step.experiment,
        "attempt": step.attempt,
        "run_seed": settings.run_seed,
        "out_dir": str(run.attempt_folder(step.experiment, step.attempt)),
        "program_md": program,
        "parent_train_py": parent_source,
        "parent_experiment": state.incumbent.number,
        "proposer": asking.proposer,
        "llm": None if asking.proposer == "tpe" else llm,
        "incumbent_val_bpb": state.incumbent.mean,
        "sigma": noise.sigma if noise.df else None,
        "about": {
            "profile": settings.profile["name"],
            "budget_seconds": settings.budget_seconds,
            "device": device["name"],
            "dtype": settings.dtype,
        },
        "asked_since": int(os.environ.get(SINCE_VARIABLE) or step.experiment),
        "repair": repair_facts(run) if step.attempt else None,
        "earlier": earlier_rows(run),
        "history": [row for row in history(run) if row["experiment"] != step.experiment],
        "limits": {
            "max_seq_len": run.data.max_seq_len,
            "n_vocab": run.data.n_vocab,
            "device_kind": device["kind"],
            "memory_mb": device["memory_mb"] or None,
        },
    }


def model_before(state: State) -> str:
    """The language model that a run asked last, "" for none."""
    proposed = [each.proposed for e in state.experiments for each in e.attempts]
    asked = (each for each in reversed(proposed) if each["proposer"] != "external")
    return next((each["model"] for each in asked if each.get("model")), "")


def history(run: OpenRun) -> list[dict]:
    """What a proposer may know of each experiment, but for those that the machine failed."""
    known = [e for e in run.state.experiments if e.number not in run.state.excused]
    rows = [history_row(e) | {"folder": str(run.train_py(e).parent)} for e in known]
    return [row | {"cause": without_paths(row["cause"])} for row in rows]


def repair_facts(run: OpenRun) -> dict:
    """What failed of the newest experiment, for who is to mend it: the file, why, and both ends of
    its log, which its training wrote and nobody should trust."""
    experiment = run.state.experiments[-1]
    attempt, failure = experiment.attempt, experiment.attempt.failure
    train_py, cause, log = run.train_py(experiment), "", ""
    if failure:
        cause = without_paths(failure.cause)
        path = train_py.parent / "runs" / f"{failure.number:02d}" / "run.log"
        log = without_paths(both_ends(path))
    told = ("title", "hypothesis", "category", "expected_delta", "operator", "parent")
    return {
        "status": failure.status if failure else "invalid_patch",
        "cause": cause,
        "reasons": attempt.checked["reasons"] if attempt.checked else [],
        "log": log,
        "train_py": train_py.read_text(encoding="utf-8"),
    } | {key: attempt.proposed.get(key) for key in told}


def without_paths(text: str) -> str:
    """Text of which a path keeps its file's name alone, or what of it is a package's: where things
    lie here is no language model's business."""
    text = re.sub(FOLDERS + r"(?:site|dist)-packages/", "", text)
    return re.sub(FOLDERS + r"(?=[^\s/'\":])", "", text)


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
