"""The claim: by how much the best beats the baseline, measured once, at the end, on runs that took part in no choice.

In: a Lab whose night is over. Out: results/<tag>/close_out.jsonl, append-only, and a folder for each training below
close_out/. Best and baseline are trained in turn on fresh seeds, as often each, and scored on validation and holdout
rows. What comes next is a pure function of the entries, so a kill costs at most the training in flight. Every close-out
begins with `claim_begun`; a run that found a better file afterwards gets another.

    claim_begun -> run_started -> trained -> scored -> run_started ... -> claimed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.data.files import write_json_atomic
from harness.lab import disk_space
from harness.lab.artifacts import drop_weights_of_run
from harness.lab.carrying import FAULTS, Listener, LoopError, Paused
from harness.lab.journal import NOT_HELD_AGAINST, Journal, State, read_journal
from harness.lab.leftovers import kill_leftover
from harness.lab.locks import OnTheClock
from harness.lab.loop import Lab
from harness.lab.runner import run_training
from harness.lab.settings import training_request
from harness.lab.untrusted_files import remove_tree
from harness.search.keep import CLAIM_SEEDS, Claim, claim

NAME = "close_out.jsonl"
STOP_FILE = "STOP"  # in a run's folder: its night was asked to stop
MOST_FAILURES = 2  # trainings of one file that may fail by themselves before nothing can be claimed
FIRST_SEED = 1_000_000_000  # above those of the night's own runs; each close-out takes the next thousand


@dataclass(frozen=True)
class Trial:
    """One training of the claim. role: best, baseline or template."""

    role: str
    experiment: int | None
    seed: int


@dataclass
class CloseOut:
    """The newest close-out, as its entries tell it. runs: one dict a training: trial, started, trained, scored."""

    begun: dict | None = None
    runs: list[dict] = field(default_factory=list)
    claimed: dict | None = None
    numbers: int = 0  # trainings of all close-outs so far: the next one's folder
    newest: str = ""  # when the newest entry was written

    @property
    def in_flight(self) -> dict | None:
        """The training that is not over."""
        last = self.runs[-1] if self.runs else None
        return last if last and not is_over(last) else None

    def scores(self, role: str, name: str = "val_bpb") -> list[float]:
        return [run["scored"][name] for run in self.runs if run["trial"].role == role and is_good(run)]

    def claims(self) -> dict[str, Claim]:
        """What the runs allow to say on validation and on holdout rows."""
        texts = {"val": "val_bpb", "holdout": "holdout_bpb"}
        return {text: claim(self.scores("best", name), self.scores("baseline", name)) for text, name in texts.items()}

    @property
    def trials(self) -> list[Trial]:
        """All trainings of this close-out, in order: in pairs, first one then the other of which comes first."""
        begun = self.begun
        pairs = [("best", begun["best"]), ("baseline", 0)]
        wanted = [
            Trial(role, experiment, begun["first_seed"] + 2 * pair + (role == "best"))
            for pair in range(begun["seeds"])
            for role, experiment in (pairs if pair % 2 else reversed(pairs))
        ]
        return wanted + [Trial("template", None, begun["first_seed"] + 2 * begun["seeds"])] * begun["template"]

    @property
    def next_trial(self) -> Trial | None:
        """The first that has no score yet; None when all have."""
        done = {run["trial"] for run in self.runs if is_good(run)}
        return next((trial for trial in self.trials if trial not in done), None)

    @property
    def failed(self) -> dict | None:
        """The last of so many failed trainings of one file that it cannot be measured."""
        for role in ("best", "baseline", "template"):
            ends = [end_of(run) for run in self.runs if run["trial"].role == role and is_over(run) and not is_good(run)]
            held = [end for end in ends if end["status"] not in NOT_HELD_AGAINST]
            if len(held) >= MOST_FAILURES:
                return held[-1] | {"role": role}
        return None

    @property
    def step(self) -> str:
        """What comes next: begin, close, train, score, claim or nothing."""
        if self.begun is None:
            return "begin"
        if self.claimed:
            return "nothing"
        if run := self.in_flight:
            return "score" if run["trained"] else "close"
        return "claim" if self.failed or self.next_trial is None else "train"


def is_over(run: dict) -> bool:
    return bool(run["scored"] or (run["trained"] and run["trained"]["status"] != "ok"))


def is_good(run: dict) -> bool:
    return bool(run["scored"] and run["scored"]["status"] == "ok")


def end_of(run: dict) -> dict:
    """The entry with which a training ended."""
    return run["scored"] or run["trained"]


def fold_close_out(entries: Sequence[dict]) -> CloseOut:
    """Add up the entries; of several close-outs the newest."""
    found = CloseOut()
    for entry in entries:
        event = entry["event"]
        found.newest = entry.get("time", "")
        if event == "claim_begun":
            found = CloseOut(begun=entry, numbers=found.numbers, newest=found.newest)
        elif event == "run_started":
            trial = Trial(entry["role"], entry["experiment"], entry["seed"])
            found.runs.append({"trial": trial, "started": entry, "trained": None, "scored": None})
            found.numbers += 1
        elif event in ("trained", "scored"):
            found.runs[-1][event] = entry
        elif event == "claimed":
            found.claimed = entry
    return found


def read_close_out(folder: Path) -> CloseOut:
    """The newest close-out of a run's folder; an empty one where there is none."""
    return fold_close_out(read_journal(folder / NAME))


def claim_of(folder: Path, best: int) -> dict | None:
    """The `claimed` entry on the file that is the best now; None where that was not measured."""
    found = read_close_out(folder)
    return found.claimed if found.claimed and found.claimed["best"] == best else None


def is_wanted(state: State, found: CloseOut) -> bool:
    """Whether something was kept that no close-out has measured: one that failed is tried again."""
    if state.incumbent is None or state.incumbent.number == 0:
        return False
    measured = found.claimed and found.claimed["status"] == "ok"
    return not (measured and found.begun["best"] == state.incumbent.number)


def trainings_left(state: State, found: CloseOut, template: bool, seeds: int = CLAIM_SEEDS) -> int:
    """How many trainings the claim still takes, were the night to end now. template: whether that is trained too."""
    if not is_wanted(state, found):
        return 0
    if found.begun and not found.claimed and found.begun["best"] == state.incumbent.number:
        return sum(trial not in {r["trial"] for r in found.runs if is_good(r)} for trial in found.trials)
    return 2 * seeds + template


def words_of_close_out(found: CloseOut) -> str:
    """Where it stands, for one line."""
    if found.begun is None or found.claimed:
        return ""
    done = sum(map(is_good, found.runs))
    return f"claim: training {min(done + 1, len(found.trials))} of {len(found.trials)}"


def words_of_claim(claimed: dict) -> str:
    """The claim as one or two sentences, the only ones that call anything an improvement."""
    if claimed["status"] != "ok":
        return claimed["cause"]
    val, holdout = claimed["val"], claimed["holdout"]
    better = f"experiment {claimed['best']} is {abs(val['difference']):.4f} bpb {'better' if val['difference'] >= 0 else 'worse'} than the baseline"
    size = f"95% interval {val['low']:+.4f} to {val['high']:+.4f}; on the holdout {holdout['difference']:+.4f}, {holdout['low']:+.4f} to {holdout['high']:+.4f}"
    runs = f"{val['n_best']} and {val['n_baseline']} fresh runs"
    return f"{better} ({size}; {runs}): {verdict_of_claim(claimed)}"


def verdict_of_claim(claimed: dict) -> str:
    """What the intervals allow to say."""
    val, holdout = claimed["val"], claimed["holdout"]
    if val["low"] > 0 and holdout["low"] > 0:
        return "an improvement"
    if val["low"] > 0:
        return "an improvement on the validation text, which the holdout does not confirm"
    return "no improvement" if val["high"] < 0 else "this may be chance, so no improvement is claimed"


class Claimant:
    """Carries a close-out out, step by step, while the run's lock is held."""

    def __init__(self, lab: Lab, listen: Listener = lambda event: None, seeds: int = CLAIM_SEEDS) -> None:
        self.lab, self.listen, self.seeds = lab, listen, seeds
        self.journal = Journal(lab.folder / NAME)
        self._faults = 0

    @property
    def found(self) -> CloseOut:
        return fold_close_out(self.journal.entries)

    def run(self) -> CloseOut:
        """Everything that is left to do, or what is in flight where the night was asked to stop.

        Raises Paused where the machine fails, or is busy, again and again.
        """
        state = self.lab.state
        if state.incumbent is None:
            raise LoopError("there is no baseline yet, so there is nothing to claim")
        found = self.found
        if is_wanted(state, found) and (found.claimed or not found.begun or found.begun["best"] != state.incumbent.number):
            self._begin(state)
        self._tidy()
        steps: dict[str, Callable[[CloseOut], None]] = {
            "close": self._close, "train": self._train, "score": self._score, "claim": self._claim
        }  # fmt: skip
        while (found := self.found).step in steps and not (self.lab.folder / STOP_FILE).exists():
            steps[found.step](found)
        return found

    def _begin(self, state: State) -> None:
        sections = sum(entry["event"] == "claim_begun" for entry in self.journal.entries)
        first_seed = max(state.opened["seeds"]) + FIRST_SEED + 1000 * sections
        template = self.lab.settings.profile["name"] == "demo"
        self.journal.append(
            "claim_begun", best=state.incumbent.number, seeds=self.seeds, first_seed=first_seed, template=template
        )

    def folder_of(self, run: dict) -> Path:
        return self.lab.folder / "close_out" / f"{run['started']['run']:02d}"

    def train_py(self, trial: Trial) -> Path:
        """The file of a trial; the template's as real nights begin with it."""
        if trial.experiment is not None:
            return self.lab.train_py(self.lab.state.experiments[trial.experiment])
        path = self.lab.folder / "close_out" / "train_template.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.lab.template(), encoding="utf-8")
        return path

    def _close(self, found: CloseOut) -> None:
        """A training whose harness died."""
        kill_leftover(self.folder_of(found.in_flight))
        self.journal.append("trained", status="interrupted", cause="the harness ended in mid-run")

    def _train(self, found: CloseOut) -> None:
        lab, trial = self.lab, found.next_trial
        if words := disk_space.lacking(lab.folder):
            raise Paused(words)
        started = self.journal.append(
            "run_started", run=found.numbers, role=trial.role, experiment=trial.experiment, seed=trial.seed
        )
        folder = self.folder_of({"started": started})
        request = training_request(lab.settings, lab.data, folder, self.train_py(trial), trial.seed, lab.folder.parent)
        request = dataclasses.replace(
            request, compile_cache=str(lab.folder / "compile_cache"), device_batch_limit=self._rows_at_once(trial)
        )
        context = {"stage": "training", "experiment": trial.experiment, "run": len(found.runs), "run_kind": trial.role}
        context |= {"seed": trial.seed, "budget_seconds": request.budget_seconds}
        self.listen(context)
        try:
            with OnTheClock(f"{lab.settings.device['kind']} {lab.settings.device['name']}", lab.folder) as clock:
                result = run_training(request, lambda event: self.listen(context | event))
        except KeyboardInterrupt:
            self.journal.append("trained", status="interrupted", cause="stopped by hand")
            raise
        result |= lab.runs.blame_the_machine(result) | {"shared_with": clock.others}
        write_json_atomic(folder / "result.json", result | {"seed": trial.seed})
        self.journal.append("trained", **result)
        self.listen(context | {"event": "over", "status": result["status"], "cause": result["cause"]})
        if result["status"] != "ok":  # else the scoring says how it ended
            self._tidy()
            self._pause_after_faults(result)

    def _rows_at_once(self, trial: Trial) -> int | None:
        """As many rows as the file ran with in the night; None for no limit."""
        state = self.lab.state
        if trial.experiment is None:
            return state.opened.get("device_batch_limit")
        return state.experiments[trial.experiment].attempt.own[-1].started.get("device_batch_limit")

    def _score(self, found: CloseOut) -> None:
        run = found.in_flight
        folder = self.folder_of(run)
        context = {"stage": "scoring", "experiment": run["trial"].experiment, "run": len(found.runs) - 1, "run_kind": run["trial"].role}
        self.listen(context | {"share": 0.0})
        measurement = self.lab.runs.measurement(self.train_py(run["trial"]), folder)
        fields = measurement.score(lambda share: self.listen(context | {"share": share}))
        if fields["status"] == "ok":
            fields |= measurement.score_holdout(lambda share: None)
        self.journal.append("scored", **fields)
        self._tidy()
        self.listen(context | {"event": "scored", **{name: fields[name] for name in ("val_bpb", "status", "cause")}})
        self._pause_after_faults(fields)

    def _tidy(self) -> None:
        """Remove what trainings that are over leave, those that a kill cut off too; weights stay while they wait to be scored."""
        found = self.found
        waiting = self.folder_of(found.in_flight) if found.in_flight and found.in_flight["trained"] else None
        for folder in (self.lab.folder / "close_out").glob("[0-9]*"):
            if folder != waiting:
                drop_weights_of_run(folder)
            for left in (folder / "work", folder / "compile_cache", *folder.glob("server_*")):
                remove_tree(left)

    def _pause_after_faults(self, result: dict) -> None:
        self._faults = self._faults + 1 if result["status"] in NOT_HELD_AGAINST else 0
        if self._faults >= FAULTS:
            self._faults = 0
            raise Paused(f"{FAULTS} trainings of the claim in a row failed for reasons outside of train.py: {result['cause']}. Nothing is lost")

    def _claim(self, found: CloseOut) -> None:
        """Write what the runs allow to say."""
        facts = {"best": found.begun["best"], "status": "ok", "cause": ""}
        if failed := found.failed:
            words = f"nothing can be claimed: the {failed['role']}, trained again, ended {MOST_FAILURES} times with {failed['status']}: {failed['cause']}"
            self.journal.append("claimed", **facts | {"status": failed["status"], "cause": words})
            return
        claims = {text: asdict(given) for text, given in found.claims().items()}
        template = found.scores("template")
        self.journal.append("claimed", **facts, **claims, template_bpb=template[0] if template else None)
