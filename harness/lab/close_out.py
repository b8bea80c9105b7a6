"""The claim: by how much the best beats the baseline, measured once, at the end, on runs that took
part in no choice.

In: entries of results/<tag>/close_out.jsonl, which is append-only. Out: where the claim stands,
what comes next and what may be said. Best and baseline are trained in turn on fresh seeds, as often
each, and scored on validation and holdout rows (by `claimant`). What comes next is a pure function
of the entries, so a kill costs at most the training in flight. Every close-out begins with
`claim_begun`; a run that found a better file afterwards gets another.

    claim_begun -> run_started -> trained -> scored -> run_started ... -> claimed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.rules.keep import CLAIM_SEEDS, Claim, claim
from harness.run.journal import read_journal
from harness.run.state import NOT_HELD_AGAINST, State, Training

NAME = "close_out.jsonl"
STOP_FILE = "STOP"  # in a run's folder: its night was asked to stop
MOST_FAILURES = 2  # trainings of one file that may fail by themselves before nothing can be claimed


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

    def goes_on_with(self, best: int) -> bool:
        """Whether it has begun on this experiment, and not come to its end."""
        return bool(self.begun and not self.claimed and self.begun["best"] == best)

    def scores(self, role: str, name: str = "val_bpb") -> list[float]:
        runs = [run for run in self.runs if run.started["role"] == role and run.status == "ok"]
        return [run.scored[name] for run in runs]

    def claims(self) -> dict[str, Claim]:
        """What the runs allow to say on validation and on holdout rows."""
        return {
            text: claim(self.scores("best", name), self.scores("baseline", name))
            for text, name in (("val", "val_bpb"), ("holdout", "holdout_bpb"))
        }

    @property
    def trials(self) -> list[Trial]:
        """All its trainings, in order: in pairs, with now the one first, now the other."""
        first, trials = self.begun["first_seed"], []
        for pair in range(self.begun["seeds"]):
            seed = first + 2 * pair
            both = [Trial("baseline", 0, seed), Trial("best", self.begun["best"], seed + 1)]
            trials += reversed(both) if pair % 2 else both
        template = Trial("template", None, first + 2 * self.begun["seeds"])
        return [*trials, template] if self.begun["template"] else trials

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


def trainings_left(state: State, found: CloseOut, template: bool) -> int:
    """How many trainings the claim still takes, were the night to end now.

    template: whether that is trained too.
    """
    if not is_wanted(state, found):
        return 0
    if found.goes_on_with(state.incumbent.number):
        return len(found.trials_left)
    return 2 * CLAIM_SEEDS + template


def words_of_close_out(found: CloseOut) -> str:
    """Where it stands, for one line."""
    if found.begun is None or found.claimed:
        return ""
    most = len(found.trials)
    return f"claim: training {min(most - len(found.trials_left) + 1, most)} of {most}"


def words_of_claim(claimed: dict) -> str:
    """The claim as one or two sentences, the only ones that call anything an improvement."""
    if claimed["status"] != "ok":
        return claimed["cause"]
    val, holdout = claimed["val"], claimed["holdout"]
    sign = "better" if val["difference"] >= 0 else "worse"
    size = f"{abs(val['difference']):.4f} bpb {sign} than the baseline"
    on_val = f"95% interval {val['low']:+.4f} to {val['high']:+.4f}"
    interval = f"{holdout['low']:+.4f} to {holdout['high']:+.4f}"
    on_holdout = f"on the holdout {holdout['difference']:+.4f}, {interval}"
    runs = f"{val['n_best']} and {val['n_baseline']} fresh runs"
    verdict = verdict_of_claim(claimed)
    return f"experiment {claimed['best']} is {size} ({on_val}; {on_holdout}; {runs}): {verdict}"


def verdict_of_claim(claimed: dict) -> str:
    """What the intervals allow to say."""
    val, holdout = claimed["val"], claimed["holdout"]
    if val["low"] > 0 and holdout["low"] > 0:
        return "an improvement"
    if val["low"] > 0:
        return "an improvement on the validation text, which the holdout does not confirm"
    if val["high"] < 0:
        return "no improvement"
    return "this may be chance, so no improvement is claimed"
