"""The claim: by how much the best beats the baseline, measured once, at the end, on runs that took part in no choice.

In: a Lab whose night is over. Out: results/<tag>/close_out.jsonl, append-only, and a folder for each training below
close_out/. Best and baseline are trained in turn on fresh seeds, as often each, and scored on validation and holdout
rows. What comes next is a pure function of the entries, so a kill costs at most the training in flight. Every close-out
begins with `claim_begun`; a run that found a better file afterwards gets another.

    claim_begun -> run_started -> trained -> scored -> run_started ... -> claimed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.ground.errors import LoopError
from harness.lab.kept_files import drop_weights_of_run
from harness.lab.loop import Lab
from harness.lab.trainings import Listener, tell_score
from harness.rules.keep import CLAIM_SEEDS, Claim, claim
from harness.run.journal import Journal, read_journal
from harness.run.state import NOT_HELD_AGAINST, State, Training
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover

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
    """The newest close-out, as its entries tell it."""

    begun: dict | None = None
    runs: list[Training] = field(default_factory=list)
    claimed: dict | None = None
    numbers: int = 0  # trainings of all close-outs so far: the next one's folder
    newest: str = ""  # when the newest entry was written

    @property
    def in_flight(self) -> Training | None:
        """The training that is not over."""
        return self.runs[-1] if self.runs and self.runs[-1].status is None else None

    def scores(self, role: str, name: str = "val_bpb") -> list[float]:
        return [run.scored[name] for run in self.runs if run.started["role"] == role and run.status == "ok"]

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
    def trials_left(self) -> list[Trial]:
        done = {trial_of(run) for run in self.runs if run.status == "ok"}
        return [trial for trial in self.trials if trial not in done]

    @property
    def next_trial(self) -> Trial | None:
        """The first that has no score yet; None when all have."""
        return next(iter(self.trials_left), None)

    @property
    def failed(self) -> Training | None:
        """The last of so many failed trainings of one file that it cannot be measured."""
        failed = [run for run in self.runs if run.status not in (None, "ok", *NOT_HELD_AGAINST)]
        for role in ("best", "baseline", "template"):
            held = [run for run in failed if run.started["role"] == role]
            if len(held) >= MOST_FAILURES:
                return held[-1]
        return None

    @property
    def step(self) -> str:
        """What comes next: begin, close, train, score, claim or nothing."""
        if self.begun is None:
            return "begin"
        if self.claimed:
            return "nothing"
        if run := self.in_flight:
            return "score" if run.trained else "close"
        return "claim" if self.failed or self.next_trial is None else "train"


def trial_of(run: Training) -> Trial:
    return Trial(run.started["role"], run.started["experiment"], run.started["seed"])


def fold_close_out(entries: Sequence[dict]) -> CloseOut:
    """Add up the entries; of several close-outs the newest."""
    found = CloseOut()
    for entry in entries:
        event = entry["event"]
        found.newest = entry.get("time", "")
        if event == "claim_begun":
            found = CloseOut(begun=entry, numbers=found.numbers, newest=found.newest)
        elif event == "run_started":
            found.runs.append(Training(entry))
            found.numbers += 1
        elif event in ("trained", "scored"):
            setattr(found.runs[-1], event, entry)
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
        return len(found.trials_left)
    return 2 * seeds + template


def words_of_close_out(found: CloseOut) -> str:
    """Where it stands, for one line."""
    if found.begun is None or found.claimed:
        return ""
    of = len(found.trials)
    return f"claim: training {min(of - len(found.trials_left) + 1, of)} of {of}"


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


def context_of(number: int, trial: Trial) -> dict:
    """What listeners are told of a training."""
    return {"experiment": trial.experiment, "run": number, "run_kind": trial.role, "seed": trial.seed}


class Claimant:
    """Carries a close-out out, step by step, while the run's lock is held."""

    def __init__(self, lab: Lab, listen: Listener = lambda event: None, seeds: int = CLAIM_SEEDS) -> None:
        self.lab, self.listen, self.seeds = lab, listen, seeds
        self.journal = Journal(lab.folder / NAME)

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

    def folder_of(self, run: Training) -> Path:
        return self.lab.folder / "close_out" / f"{run.number:02d}"

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
        trial, runs = found.next_trial, self.lab.runs
        facts = {"run": found.numbers, "role": trial.role, "experiment": trial.experiment, "seed": trial.seed}
        train_py, folder = self.train_py(trial), self.lab.folder / "close_out" / f"{found.numbers:02d}"
        request = runs.request(train_py, folder, trial.seed, self._rows_at_once(trial))
        measurement = runs.measurement(train_py, folder)
        result = runs.train(request, measurement, context_of(found.numbers, trial), self.listen, self.journal.append, facts)
        if result["status"] != "ok":  # else the scoring says how it ended
            self._over(result)

    def _rows_at_once(self, trial: Trial) -> int | None:
        """As many rows as the file ran with in the night; None for no limit."""
        state = self.lab.state
        if trial.experiment is None:
            return state.opened.get("device_batch_limit")
        return state.experiments[trial.experiment].attempt.own[-1].started.get("device_batch_limit")

    def _score(self, found: CloseOut) -> None:
        run, trial = found.in_flight, trial_of(found.in_flight)
        context, runs = context_of(run.number, trial), self.lab.runs
        measurement = runs.measurement(self.train_py(trial), self.folder_of(run))
        fields = runs.score(measurement, context, self.listen)
        if fields["status"] == "ok":
            fields |= measurement.score_holdout(lambda share: None)
        self.journal.append("scored", **fields)
        tell_score(fields, context, self.listen)
        self._over(fields)

    def _over(self, result: dict) -> None:
        """A training is over."""
        self._tidy()
        self.lab.runs.pause_after_faults(result["cause"] if result["status"] in NOT_HELD_AGAINST else "")

    def _tidy(self) -> None:
        """Remove what trainings that are over leave, those that a kill cut off too; weights stay while they wait to be scored."""
        found = self.found
        waiting = self.folder_of(found.in_flight) if found.step == "score" else None
        for folder in (self.lab.folder / "close_out").glob("[0-9]*"):
            if folder != waiting:
                drop_weights_of_run(folder)
            for left in (folder / "work", folder / "compile_cache", *folder.glob("server_*")):
                remove_tree(left)

    def _claim(self, found: CloseOut) -> None:
        """Write what the runs allow to say."""
        facts = {"best": found.begun["best"], "status": "ok", "cause": ""}
        if failed := found.failed:
            words = f"nothing can be claimed: the {failed.started['role']}, trained again, ended {MOST_FAILURES} times with {failed.status}: {failed.cause}"
            self.journal.append("claimed", **facts | {"status": failed.status, "cause": words})
            return
        claims = {text: asdict(given) for text, given in found.claims().items()}
        template = found.scores("template")
        self.journal.append("claimed", **facts, **claims, template_bpb=template[0] if template else None)
