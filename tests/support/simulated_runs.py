"""Whole runs without a training: the journal is what `next_step` asks for, files and commits are written by the harness's own functions.

For tests of what looks at runs from outside. Scores are made up; a third of the ideas crash, some gain, some are refused, number 13 waits in quarantine.
"""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np

from harness.ground.files import write_json_atomic
from harness.lab.kept_files import append_summary, drop_weights, drop_weights_of_run, update_best
from harness.rules.decision import commit_facts, decision
from harness.rules.next_step import next_step
from harness.run import git_history
from harness.run.journal import Journal
from harness.run.profiles import PROFILES
from harness.run.results import results_from_journal, write_results
from harness.run.run import page_name
from harness.run.settings import FORMAT_VERSION, Settings, write_settings
from harness.run.state import fold
from harness.scoring.integrity import harness_hash
from harness.search.gate import source_hash
from harness.show import index

TENSORS = b'{"w": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]}}'
HEADER = len(TENSORS).to_bytes(8, "little") + TENSORS  # of a safetensors file of 100 bytes


class Simulated:
    """A run in results/<tag>/ of a repository (None: without history), advanced step by step."""

    def __init__(self, folder: Path, repository: Path | None = None, seed: int = 0) -> None:
        self.folder, self.repository, self.random = folder, repository, random.Random(seed)
        folder.mkdir(parents=True)
        profile = dataclasses.asdict(PROFILES["tiny"])
        base = git_history.head_commit(repository) if repository else None
        self.settings = Settings(
            FORMAT_VERSION, folder.name, "2026-11-23T22:00:00.000Z", 7, profile, [7, 8], {"kind": "cpu", "name": "a CPU"}, "float32", False, 2,
            "data", "d" * 64, "/nowhere", harness_hash(), {"torch": "2.13.0"}, base,
        )  # fmt: skip
        write_settings(folder, self.settings)
        self.journal = Journal(folder / "journal.jsonl")
        (folder / "night.log").write_text("")

    @property
    def state(self):
        return fold(self.journal.entries)

    @property
    def step(self):
        return next_step(self.journal.entries)

    def attempt(self, experiment: int) -> Path:
        return self.folder / "experiments" / f"{experiment:04d}" / "attempts" / "00"

    def training_folder(self, experiment: int, run: int) -> Path:
        return self.attempt(experiment) / "runs" / f"{run:02d}"

    def until(self, kind: str, experiment: int) -> "Simulated":
        """Go on until this step is what comes next."""
        while (self.step.kind, self.step.experiment) != (kind, experiment):
            getattr(self, self.step.kind)(self.step)
        return self

    def open(self, step) -> None:
        prior = {"sigma": 0.001, "df": 4, "note": "made up"}
        facts = {"device_kind": "cpu", "source": "python-stdlib", "refresh_seconds": 0.0}
        self.journal.append("opened", tag=self.folder.name, seeds=[7, 8], prior=prior, profile="tiny", max_looks=3, **facts)

    def propose(self, step) -> None:
        folder, number = self.attempt(step.experiment), step.experiment
        folder.mkdir(parents=True, exist_ok=True)
        source = f"DEPTH = {number}\n"
        (folder / "train.py").write_text(source)
        told = {"title": f"depth {number}", "hypothesis": "", "category": "tune", "proposer": "test", "bank_id": None}
        told |= {"sha256": source_hash(source), "constants_changed": {}, "constants": {}}
        told |= {"code_lines": self.code_lines(number)}
        parent = self.state.incumbent.number if number else None
        self.journal.append("proposed", experiment=number, attempt=0, parent=parent, **told)

    def code_lines(self, experiment: int) -> int:
        return 100

    def check(self, step) -> None:
        reasons = ["it is the same"] if step.experiment % 7 == 5 else []
        self.journal.append("checked", experiment=step.experiment, attempt=0, ok=not reasons, reasons=reasons)

    def train(self, step) -> None:
        facts = {"kind": step.run_kind, "seed": step.seed, "device_batch_limit": step.device_batch_limit}
        facts |= {"beside": step.experiment} if step.of else {}
        self.journal.append("run_started", **self.place(step), **facts)

    def place(self, step) -> dict:
        experiment, attempt = step.file
        return {"experiment": experiment, "attempt": attempt, "run": step.run}

    def in_flight(self, step) -> None:
        folder = self.training_folder(step.file[0], step.run)
        folder.mkdir(parents=True)
        status = "crash" if step.experiment % 3 == 2 and not step.of else "ok"
        result = {
            "status": status,
            "cause": "" if status == "ok" else f"error {step.experiment}",
            "tok_per_sec": 1000.0 - step.experiment,
        }
        result |= {
            "startup_seconds": 1.0,
            "training_seconds": 1.0,
            "total_seconds": 2.5,
            "num_steps": 100,
            "weights_seconds": 0.1,
            "memory_mb": 100.0,
        }
        for name in ("run.log", "events.jsonl"):
            (folder / name).write_text("")
        write_json_atomic(folder / "run.json", {})
        write_json_atomic(folder / "result.json", result | {"val_bpb": None})
        if status == "ok":
            (folder / "weights.safetensors").write_bytes(HEADER + self.random.randbytes(100))
            np.save(folder / "losses.npy", np.frombuffer(self.random.randbytes(100), np.float32).reshape(5, 5))
        self.journal.append("trained", **self.place(step), **result, log_bytes=0)

    def score(self, step) -> None:
        value = round(self.score_of(step), 6) if step.experiment else 2.0 + step.run / 1000
        if step.of:
            value = self.state.incumbent.mean
        path = self.training_folder(step.file[0], step.run) / "result.json"
        fields = {
            "status": "ok",
            "cause": "",
            "val_bpb": value,
            "scored_tokens": 24,
            "doubts": ["odd"] if step.experiment == 13 and not step.of else [],
            "audit": None,
            "score_seconds": 0.5,
        }
        write_json_atomic(path, json.loads(path.read_text()) | fields)
        append_summary(path.with_name("run.log"), 0, fields)
        self.journal.append("scored", **self.place(step), **fields)
        if step.of:
            drop_weights_of_run(path.parent)

    def score_of(self, step) -> float:
        gain = 0.02 * len(self.state.kept) if step.experiment % 4 == 1 else -0.01
        return 2.0 - gain + self.random.uniform(0, 0.001)

    def audit(self, step) -> None:
        self.journal.append("audited", **self.place(step), status="ok", cause="", holdout=None, audit_seconds=0.5)

    def decide(self, step) -> None:
        state = self.state
        entry, git = decision(state, self.settings.budget_seconds), None
        if self.settings.base_commit:
            parent = state.incumbent.commit if state.incumbent else self.settings.base_commit
            message = git_history.commit_message(step.experiment, entry["title"], commit_facts(entry))
            git = {
                "parent": parent,
                "tree_of": self.settings.base_commit,
                "date": "1763935200 +0000",
                "message": message,
            }
        self.journal.append("decided", **entry, git=git)

    def commit(self, step) -> None:
        commit = self.make_commit()
        self.tidy(commit)
        self.journal.append("committed", experiment=step.experiment, commit=commit)
        self.write_table()
        self.write_pages(step.experiment)

    def make_commit(self) -> str | None:
        experiment = self.state.experiments[-1]
        if not experiment.decided["git"]:
            return None
        plan, train_py = git_history.CommitPlan(**experiment.decided["git"]), self.attempt(experiment.number) / "train.py"
        kept = experiment in self.state.kept
        return git_history.record_experiment(self.repository, self.folder.name, experiment.number, plan, train_py, kept)

    def tidy(self, commit: str | None) -> None:
        state, experiment = self.state, self.state.experiments[-1]
        if experiment in state.kept:
            update_best(self.folder, experiment, self.attempt(experiment.number), self.settings, commit)
            others = state.kept[1:-1][-1:]
        else:
            others = [] if experiment.in_quarantine else [experiment]
        for other in others:
            drop_weights(self.attempt(other.number))

    def write_table(self) -> None:
        write_results(self.folder / "results.tsv", results_from_journal(self.journal.entries))

    def write_pages(self, experiment: int) -> None:
        folder = self.folder / "notebooks"
        folder.mkdir(exist_ok=True)
        if experiment:
            said = f"<div><b>experiment {experiment}: depth {experiment}</b></div>"
            cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": "", "id": "idea"}
            cell["outputs"] = [{"output_type": "display_data", "data": {"text/html": said}, "metadata": {}}]
            page = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            (folder / f"{page_name(experiment)}.ipynb").write_text(json.dumps(page) + "\n")
            (folder / f"{page_name(experiment)}.html").write_text("<p>a page</p>")
        index.write_index(self.folder)
