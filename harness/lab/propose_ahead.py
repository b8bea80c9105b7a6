"""The next proposal, made while a training runs, so that a language model's minutes cost no night.

In: an experiment in training, and which proposer to ask. Out: a proposal in results/<tag>/ahead/.
The next experiment takes it if the incumbent and program.md are still those for which it was made.
It does not know the result of the experiment in training, as its note says, and is dropped if that
is kept. This is done in a night only; with a model on another machine only, since one on this
machine would slow the training down; and behind a wall only, since the process that asks holds the
key while edited code runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from harness.ground.files import read_json, write_json_atomic
from harness.lab.close_out import STOP_FILE
from harness.lab.open_run import OpenRun
from harness.lab.proposal_request import Asking, proposal_request
from harness.rules.next_step import Step
from harness.run.settings import wall_of
from harness.sandbox.child import child_command, child_environment
from harness.sandbox.left_files import remove_tree
from harness.search.llm.endpoint import Endpoint
from harness.search.llm.options import parse_options
from harness.search.program import parse_program
from harness.search.proposal import read_proposal
from harness.search.turns import choose_turn

NIGHT_VARIABLE = "AUTORESEARCH_NIGHT"  # set for kernels that a night starts
LOOK_SECONDS = 0.2


class Ahead:
    """The propose process beside a training; there is one at most."""

    def __init__(self, run: OpenRun) -> None:
        self.run = run
        self._process: subprocess.Popen | None = None
        self._deadline = 0.0

    @property
    def folder(self) -> Path:
        return self.run.folder / "ahead"

    def begin(self, asking: Asking, parent_source: str, program: str) -> None:
        """Start asking, where it is the model's turn and asking costs the training nothing."""
        walled = wall_of(self.run.settings).walled
        if self._process or not may_ask_ahead(asking, walled):
            return
        step = Step("propose", self.run.step.experiment + 1)
        request = proposal_request(self.run, step, parent_source, program, asking)
        request |= {"out_dir": str(self.folder)}
        if choose_turn(request, parse_program(program)).who != "llm":
            return
        remove_tree(self.folder)
        self.folder.mkdir()
        path = self.folder / "request.json"
        write_json_atomic(path, request)
        self._deadline = parse_options(asking.options, asking.model).deadline_seconds
        self._process = subprocess.Popen(
            child_command("harness.search.propose", str(path), str(os.getpid())),
            env=child_environment(**asking.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def finish(self) -> None:
        """Wait for the answer, as the next experiment would; not where none is to follow."""
        until, stop = time.monotonic() + self._deadline, self.run.folder / STOP_FILE
        while self._process and self._process.poll() is None:
            if stop.exists() or time.monotonic() > until:
                self.drop()
            time.sleep(LOOK_SECONDS)
        self._process = None

    def drop(self) -> None:
        """End the process; what it was to answer is worth nothing now."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def may_ask_ahead(asking: Asking, walled: bool) -> bool:
    """Whether a proposer may work beside a training. walled: whether that is behind a wall; some
    devices do not work behind the one that there is."""
    if asking.proposer == "tpe" or not os.environ.get(NIGHT_VARIABLE):
        return False
    url = parse_options(asking.options, asking.model, os.environ | asking.environment).base_url
    return walled and not Endpoint(url).is_local


def take_ahead(run: OpenRun, step: Step, program: str, folder: Path) -> dict | None:
    """Move a proposal that was made ahead into an attempt's folder and return it; None where there
    is none for this experiment, or it was made for another incumbent or program.md, or the model
    could not be asked."""
    ahead = run.folder / "ahead"
    try:
        request = read_json(ahead / "request.json")
    except (OSError, ValueError):
        return None
    proposal = read_proposal(ahead)
    made_for = (request["experiment"], request["parent_experiment"], request["program_md"])
    is_stale = made_for != (step.experiment, run.state.incumbent.number, program) or step.attempt
    if is_stale or proposal is None or proposal.get("llm_failed") or proposal.get("gave_up"):
        return None
    before = f"proposed while experiment {step.experiment - 1} was in training"
    proposal["note"] = "; ".join(filter(None, (before, proposal.get("note"))))
    shutil.copytree(ahead, folder, dirs_exist_ok=True)
    write_json_atomic(folder / "proposal.json", proposal)
    return proposal
