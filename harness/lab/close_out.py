"""The close-out: how good a run's best is, measured at the end, on trainings that took part in no
choice.

In: entries of results/<tag>/close_out.jsonl, which is append-only. Out: where it stands, what comes
next and what may be claimed. A close-out is a series of comparisons. In each, `claimant` trains the
best and one or more other files in turn, equally often, on fresh seeds, and scores them on
validation and holdout rows. For each other file a claim then says by how much the best is better.
The first comparison is with the baseline and gives *the* claim; `close_out_questions` chooses the
later ones. What comes next within a comparison is a pure function of its entries, so a kill costs
at most the training in flight. If the run finds a better file afterwards, a new close-out begins.

    claim_begun -> run_started -> trained -> scored -> run_started ... -> claimed, for each file
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.ground.text import plain_words
from harness.rules.keep import Claim, claim
from harness.run.journal import read_journal
from harness.run.state import State, Training

NAME = "close_out.jsonl"
STOP_FILE = "STOP"  # in a run's folder: its night was asked to stop
MOST_FAILURES = 2  # trainings of one file that may fail by themselves before nothing can be claimed
OVER = ("begin", "nothing")  # steps of a comparison with which nothing is to be done
BEST, BASELINE, TEMPLATE = "best", "baseline", "template"  # roles of files


@dataclass(frozen=True)
class Trial:
    """One training of a comparison. role: which of its files; experiment: None for one that no
    experiment tried."""

    role: str
    experiment: int | None
    seed: int


@dataclass
class Comparison:
    """One comparison of the best with other files on fresh seeds, by its entries."""

    begun: dict | None = None
    runs: list[Training] = field(default_factory=list)
    claims: dict[str, dict] = field(default_factory=dict)  # the `claimed` entry by the file's role

    @property
    def kind(self) -> str:
        """The question it answers: claim, ablation, simplified, longer or elsewhere."""
        return self.begun.get("kind", "claim")

    @property
    def others(self) -> dict[str, dict]:
        """The other files by role: what they lack of the best, and why one cannot be made. Entries
        of older harnesses name none: the baseline."""
        return self.begun.get("against", {BASELINE: {}})

    @property
    def made(self) -> list[str]:
        """The roles of those that can be made."""
        return [role for role, facts in self.others.items() if not facts.get("not_alone")]

    @property
    def budgets(self) -> float:
        """The budget of its trainings, in budgets of the night."""
        return self.begun.get("budgets", 1)

    @property
    def text(self) -> dict:
        """Facts of the text that it trains and scores on (`other_text`); {} for the run's own."""
        return self.begun.get("text", {})

    @property
    def in_flight(self) -> Training | None:
        """The training that is not over."""
        return self.runs[-1] if self.runs and self.runs[-1].status is None else None

    def scores(self, role: str, name: str = "val_bpb") -> list[float]:
        runs = [run for run in self.runs if run.started["role"] == role and run.status == "ok"]
        return [run.scored[name] for run in runs]

    def claims_on(self, role: str) -> dict[str, Claim]:
        """What the runs allow to say of best and another file, on validation and holdout rows."""
        return {
            text: claim(self.scores(BEST, name), self.scores(role, name))
            for text, name in (("val", "val_bpb"), ("holdout", "holdout_bpb"))
        }

    @property
    def trials(self) -> list[Trial]:
        """All its trainings, in order: round after round, in turn forwards and backwards."""
        files = [*self.made, BEST] if self.made else []
        experiments, first = {BASELINE: 0, BEST: self.begun["best"]}, self.begun["first_seed"]
        trials = []
        for turn in range(self.begun["seeds"]):
            seeds = range(first + turn * len(files), first + (turn + 1) * len(files))
            each = [Trial(f, experiments.get(f), s) for f, s in zip(files, seeds, strict=True)]
            trials += reversed(each) if turn % 2 else each
        last = Trial(TEMPLATE, None, first + len(files) * self.begun["seeds"])
        return [*trials, last] if self.begun.get("template") else trials

    @property
    def trials_left(self) -> list[Trial]:
        """Those without a score, of files that can be measured."""
        done = {trial_of(run) for run in self.runs if run.status == "ok"}
        left = [trial for trial in self.trials if trial not in done]
        left = [trial for trial in left if not self.failed(trial.role)]
        measured = not self.failed(BEST) and not all(map(self.failed, self.made))
        return left if measured else []

    @property
    def next_trial(self) -> Trial | None:
        """The first that has no score yet; None when all have."""
        return next(iter(self.trials_left), None)

    @property
    def next_claim(self) -> str | None:
        """The first file that nothing was claimed of yet; None when all have that."""
        return next((role for role in self.others if role not in self.claims), None)

    def failed(self, role: str) -> Training | None:
        """The last of so many failed trainings of a file that it cannot be measured."""
        own = [run for run in self.runs if run.started["role"] == role]
        held = [run for run in own if run.status not in (None, "ok") and not run.excused]
        return held[-1] if len(held) >= MOST_FAILURES else None

    @property
    def step(self) -> str:
        """What comes next: begin, close, train, score, claim or nothing."""
        if self.begun is None:
            return "begin"
        if run := self.in_flight:
            return "score" if run.trained else "close"
        if self.next_trial:
            return "train"
        return "claim" if self.next_claim else "nothing"


@dataclass
class CloseOut:
    """All comparisons of a run, in order."""

    comparisons: list[Comparison] = field(default_factory=list)
    numbers: int = 0  # trainings so far: the next one's folder
    newest: str = ""  # when the newest entry was written

    @property
    def current(self) -> Comparison:
        """The newest; an empty one before the first."""
        return self.comparisons[-1] if self.comparisons else Comparison()

    @property
    def claim(self) -> Comparison:
        """The newest comparison with the baseline that gives the claim."""
        return (self.of_kind("claim") or [Comparison()])[-1]

    @property
    def claimed(self) -> dict | None:
        """The claim itself, once it is made."""
        return self.claim.claims.get(BASELINE)

    @property
    def runs(self) -> list[Training]:
        """The claim's trainings."""
        return self.claim.runs

    def scores(self, role: str) -> list[float]:
        """Of the claim's trainings."""
        return self.claim.scores(role)

    def goes_on_with(self, best: int) -> bool:
        """Whether the newest comparison is of this experiment, and has not come to its end."""
        current = self.current
        return current.step not in OVER and current.begun["best"] == best

    def of_kind(self, kind: str) -> list[Comparison]:
        return [each for each in self.comparisons if each.kind == kind]

    def about(self, best: int) -> CloseOut:
        """What of it is about this experiment as the best."""
        of_it = [each for each in self.comparisons if each.begun["best"] == best]
        return CloseOut(of_it, self.numbers, self.newest)


def trial_of(run: Training) -> Trial:
    return Trial(run.started["role"], run.started["experiment"], run.started["seed"])


def built_name(role: str, best: int) -> str:
    """The name in close_out/ of a file that no experiment tried; best: number of the best."""
    return (
        "train_template.py" if role == TEMPLATE else f"best_{best:04d}_{role.replace(' ', '_')}.py"
    )


def fold_close_out(entries: Sequence[dict]) -> CloseOut:
    """Add up the entries."""
    found = CloseOut()
    for entry in entries:
        event = entry["event"]
        found.newest = entry.get("time", "")
        if event == "claim_begun":
            found.comparisons.append(Comparison(entry))
        elif event == "run_started":
            found.current.runs.append(Training(entry))
            found.numbers += 1
        elif event in ("trained", "scored"):
            setattr(found.current.runs[-1], event, entry)
        elif event == "claimed":
            # The cause may end with words of edited code, and is part of our sentences.
            plain = {"cause": plain_words(entry["cause"])}
            found.current.claims[entry.get("against", BASELINE)] = entry | plain
    return found


def read_close_out(folder: Path) -> CloseOut:
    """The close-out of a run's folder; an empty one where there is none."""
    return fold_close_out(read_journal(folder / NAME))


def claim_of(folder: Path, best: int) -> dict | None:
    """The `claimed` entry on the file that is the best now; None where that was not measured."""
    return read_close_out(folder).about(best).claimed


def is_wanted(state: State, found: CloseOut) -> bool:
    """Whether something was kept that no close-out has measured: one that failed is tried again."""
    if state.incumbent is None or state.incumbent.number == 0:
        return False
    measured = found.claimed and found.claimed["status"] == "ok"
    return not (measured and found.claimed["best"] == state.incumbent.number)


def words_of_close_out(found: CloseOut) -> str:
    """Where it stands, for one line."""
    current = found.current
    if current.step in OVER:
        return ""
    most = len(current.trials)
    return f"{current.kind}: training {min(most - len(current.trials_left) + 1, most)} of {most}"


def words_of_claim(claimed: dict) -> str:
    """The claim as one or two sentences, the only ones that call anything an improvement."""
    if claimed["status"] != "ok":
        return claimed["cause"]
    difference = claimed["val"]["difference"]
    sign = "better" if difference >= 0 else "worse"
    size = f"{abs(difference):.4f} bpb {sign} than the baseline"
    verdict = verdict_of_claim(claimed)
    return f"experiment {claimed['best']} is {size} ({words_of_interval(claimed)}): {verdict}"


def words_of_interval(claimed: dict) -> str:
    """How sure a difference is, on both texts."""
    val, holdout = claimed["val"], claimed["holdout"]
    on_val = f"95% interval {val['low']:+z.4f} to {val['high']:+z.4f}"
    interval = f"{holdout['low']:+z.4f} to {holdout['high']:+z.4f}"
    on_holdout = f"on the holdout {holdout['difference']:+z.4f}, {interval}"
    return f"{on_val}; {on_holdout}; {val['n_best']} and {val['n_baseline']} fresh runs"


def is_improvement(claimed: dict) -> bool:
    """Whether the best is better than the other file beyond chance, on both texts."""
    return claimed["val"]["low"] > 0 and claimed["holdout"]["low"] > 0


def verdict_of_claim(claimed: dict) -> str:
    """What the intervals allow to say."""
    if is_improvement(claimed):
        return "an improvement"
    if claimed["val"]["low"] > 0:
        return "an improvement on the validation text, which the holdout does not confirm"
    if claimed["val"]["high"] < 0:
        return "no improvement"
    return "this may be chance, so no improvement is claimed"
