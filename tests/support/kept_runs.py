"""A run that kept some changes of the template, without a training: its files lie as a night leaves
them, its journal says what was kept and how long that took.
"""

import json
from pathlib import Path

from checkout import ROOT
from simulated_runs import Simulated

from harness.lab.close_out import NAME, fold_close_out
from harness.lab.close_out_questions import plan
from harness.lab.kept_files import update_best
from harness.run import git_history
from harness.run.run import Run
from harness.search.gate import source_hash

TEMPLATE = (ROOT / "train_template.py").read_text()


def constant(name: str, value: str) -> tuple[str, str]:
    """The change of a constant's value in the template."""
    line = next(line for line in TEMPLATE.splitlines() if line.startswith(f"{name} = "))
    literal, comment = line.split("#", 1)
    return line, f"{name} = {value}".ljust(len(literal)) + "#" + comment


MORE_DEPTH, MORE_HEADS = constant("DEPTH", "3"), constant("N_HEAD", "4")
COMMENTED = ("import math\n", "import math\nimport itertools\n")


class Kept:
    """A baseline and keeps, each a change of the one before: (old text, new text) pairs.

    repository: with the history of the run, where there is one.
    """

    def __init__(
        self,
        folder: Path,
        *changes: tuple[tuple[str, str], ...],
        kind: str = "gain",
        repository: Path | None = None,
    ):
        self.settings = Simulated(folder, repository).settings
        self.run, self.repository, self.parent = Run(folder), repository, None
        self.close_out: list[dict] = []
        entries = [{"event": "opened", "tag": folder.name, "seeds": [7, 8], "prior": None}]
        source = TEMPLATE
        for number, pairs in enumerate(((), *changes)):
            for old, new in pairs:
                assert source.count(old) == 1, (number, old, source.count(old))
                source = source.replace(old, new)
            path = self.run.attempt_folder(number) / "train.py"
            path.parent.mkdir(parents=True)
            path.write_text(source)
            entries += self.entries_of(number, path, kind)
        for seq, entry in enumerate(entries):
            entry |= {"seq": seq, "time": "2026-11-30T00:00:00.000Z"}
        (folder / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
        best, place = self.run.state.incumbent, path.parent
        update_best(folder, best, place, self.settings, best.commit)

    def entries_of(self, number: int, train_py: Path, kind: str) -> list[dict]:
        place, idea = {"experiment": number, "attempt": 0}, {"title": f"idea {number}"}
        run, decided = place | {"run": 0}, "keep" if number else "baseline"
        plan, commit = self.commit(number, train_py)
        return [
            {"event": "proposed", **place, **idea, "sha256": source_hash(train_py.read_text())}
            | {"parent": number - 1 if number else None},
            {"event": "checked", **place, "ok": True, "reasons": []},
            {"event": "run_started", **run, "kind": "score", "seed": 7},
            # later ones take longer to start
            {"event": "trained", **run, "status": "ok", "cause": "", "num_steps": 10}
            | {"total_seconds": 10.0 + number},
            {"event": "scored", **run, "status": "ok", "val_bpb": 2.0, "score_seconds": 1.0},
            {"event": "decided", **place, **idea, "decision": decided, "kind": kind}
            | {"status": "ok", "val_bpb": 2.0, "n_runs": 1, "gain": 0.1, "git": plan},
            {"event": "committed", "experiment": number, "commit": commit},
        ]

    def commit(self, number: int, train_py: Path) -> tuple[dict | None, str | None]:
        """What its commit is made of, and the commit."""
        if not self.repository:
            return None, None
        base = self.settings.base_commit
        plan = {"parent": self.parent or base, "tree_of": base, "date": "1763935200 +0000"}
        plan["message"] = git_history.commit_message(number, f"idea {number}", [])
        made = git_history.CommitPlan(**plan)
        tag = self.settings.tag
        self.parent = git_history.record_experiment(
            self.repository, tag, number, made, train_py, advance=True
        )
        return plan, self.parent

    def claim(self, demo: bool = False, **scores: list[float]) -> None:
        """Make the claim."""
        self.compare(plan(self.run, "claim", {"baseline": {}}, template=demo), **scores)

    def compare(self, question, **scores: list[float]) -> None:
        """Answer a question: val_bpb of each role's fresh runs, of holdout rows alike; roles
        without any are as good as the best, and "crash" is no number.
        """
        self.close_out.append({"event": "claim_begun"} | question.begun | {"first_seed": 100})
        while (current := self.found.current).step != "nothing":
            self.close_out += self.next_entries(current, scores)

    def next_entries(self, current, scores: dict) -> list[dict]:
        if current.step == "claim":
            return [self.claimed(current, current.next_claim)]
        trial = current.next_trial
        given = scores.get(trial.role.replace(" ", "_"), [1.00, 1.01, 1.02])
        started = {"event": "run_started", "run": self.found.numbers, "role": trial.role}
        started |= {"experiment": trial.experiment, "seed": trial.seed}
        if given == "crash":
            return [started, {"event": "trained", "status": "crash", "cause": "KeyError: 've'"}]
        value = given[len(current.scores(trial.role))]
        scored = {"event": "scored", "status": "ok", "val_bpb": value, "holdout_bpb": value}
        return [started, {"event": "trained", "status": "ok", "cause": ""}, scored]

    def claimed(self, current, role: str) -> dict:
        facts = {"event": "claimed", "best": current.begun["best"], "against": role, "cause": ""}
        if cause := current.others[role].get("not_alone"):
            return facts | {"status": "not alone", "cause": cause}
        if failed := current.failed(role):
            return facts | {"status": failed.status, "cause": f"ended with {failed.cause}"}
        claims = {text: vars(given) for text, given in current.claims_on(role).items()}
        return facts | {"status": "ok", "template_bpb": None} | claims

    def write_close_out(self) -> None:
        lines = [
            json.dumps(e | {"seq": n, "time": "2026-11-30T00:00:00.000Z"})
            for n, e in enumerate(self.close_out)
        ]
        (self.run.folder / NAME).write_text("".join(line + "\n" for line in lines))

    @property
    def found(self):
        return fold_close_out(self.close_out)
