"""Close out made-up nights, whose truth is known: how often do intervals hold it, and how many of
the changes called confirmed are worth nothing?

    python scripts/synthetic/close_outs.py --write      into results/benchmarks/close_out.md

In: fixed seeds, and the landscapes and machines of simulate_keep. A night keeps what the keep rule
keeps; then come the claim, the best without each change, and the simplified file, by the lab's own
functions: the order of trainings, the statistics, the verdicts. Out: a markdown page. All in sigma
of one run.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from simulate_keep import markdown

from harness.lab.close_out import BASELINE, CloseOut, Comparison, is_improvement
from harness.lab.close_out_findings import CONFIRMED, findings_of, removable
from harness.rules.keep import CLAIM_SEEDS
from harness.run.state import Experiment, State, Training
from synthetic.gains import NOTHING, REPORT_LANDSCAPES
from synthetic.keep_nights import CARD, kept
from synthetic.machines import RUNS, Conditions, Rng, draw_conditions

SEED = 21  # first word of every seed
MOST_KEPT = 12  # changes of a night, so that its close-out fits into the conditions drawn for it
HOLDOUT = 0.3  # sigma, by which the two texts differ in what they say of one training
MACHINES = ("steady", "load changes", "bursts", "heavy tails")
LANDSCAPES = REPORT_LANDSCAPES | {"nothing to gain": NOTHING}


@dataclass
class Night:
    """A night with its truth. gains: of each change, in the order of the night."""

    gains: list[float]
    conditions: Conditions
    rng: Rng
    found: CloseOut = field(default_factory=CloseOut)
    trained: int = 0

    @property
    def state(self) -> State:
        decided = {"title": "", "kind": "gain"}
        kept = [Experiment(n, decided=decided) for n in range(len(self.gains) + 1)]
        return State(kept=kept)

    def level(self, lacks: list[int]) -> float:
        """What the best scores in truth without some changes; lower is better."""
        return -sum(gain for n, gain in enumerate(self.gains, 1) if n not in lacks)

    def ask(self, kind: str, against: dict[str, list[int]]) -> Comparison:
        """Train and claim as the lab does. against: what each other file lacks of the best."""
        begun = {"best": len(self.gains), "seeds": CLAIM_SEEDS, "first_seed": 0, "kind": kind}
        others = {role: {"lacks": lacks} for role, lacks in against.items()}
        comparison = Comparison(begun | {"against": others})
        for trial in comparison.trials:
            lacks = against.get(trial.role, [])
            score = self.level(lacks) + self.conditions.score(self.trained)
            self.trained += 1
            scored = {"status": "ok", "val_bpb": score}
            scored["holdout_bpb"] = score + HOLDOUT * float(self.rng.normal())
            started = {"role": trial.role, "experiment": trial.experiment, "seed": trial.seed}
            comparison.runs.append(Training(started, trained={"status": "ok"}, scored=scored))
        for role in against:
            claims = {name: vars(given) for name, given in comparison.claims_on(role).items()}
            comparison.claims[role] = {"status": "ok", "best": len(self.gains), **claims}
        self.found.comparisons.append(comparison)
        return comparison


@dataclass
class Count:
    """What many close-outs came to."""

    nights: int = 0
    kept: int = 0
    null: int = 0  # kept changes that are worth nothing, or less
    intervals: int = 0
    held: int = 0  # intervals that hold the truth
    claims: int = 0
    improvements: int = 0
    false_improvements: int = 0
    confirmed: int = 0
    confirmed_null: int = 0
    simplified: int = 0
    simplified_loss: float = 0.0  # in truth, of simplified files that may take the best's place

    def add(self, other: "Count") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def hold(self, claimed: dict, truth: float) -> None:
        self.intervals += 1
        self.held += claimed["val"]["low"] <= truth <= claimed["val"]["high"]


def keep_some(landscape: Callable[[Rng], np.ndarray], rng: Rng) -> list[float]:
    """True gains of what the keep rule keeps of a night's candidates."""
    gains = [
        float(gain) for gain in landscape(rng) if kept(gain, CARD.seeds, CARD.prior, True, rng)
    ]
    return gains[:MOST_KEPT]


def close_out(gains: list[float], machine: str, rng: Rng) -> Count:
    """Close one night out and compare with its truth."""
    night = Night(gains, draw_conditions(machine, 0, rng), rng)
    count = Count(nights=1, kept=len(gains), null=sum(gain <= 0 for gain in gains))
    if not gains:
        return count
    claimed = night.ask("claim", {BASELINE: list(range(1, len(gains) + 1))}).claims[BASELINE]
    count.claims = 1
    count.hold(claimed, sum(gains))
    count.improvements = is_improvement(claimed)
    count.false_improvements = is_improvement(claimed) and sum(gains) <= 0
    if len(gains) > 1:
        roles = {f"file without {n}": [n] for n in range(1, len(gains) + 1)}
        for role, entry in night.ask("ablation", roles).claims.items():
            count.hold(entry, gains[roles[role][0] - 1])
    findings = findings_of(night.state, night.found)
    confirmed = [gains[each.experiment - 1] for each in findings if each.verdict == CONFIRMED]
    count.confirmed, count.confirmed_null = len(confirmed), sum(gain <= 0 for gain in confirmed)
    if drop := removable(night.state, night.found):
        entry = night.ask("simplified", {"simplified": drop}).claims["simplified"]
        loss = sum(gains[number - 1] for number in drop)
        count.hold(entry, loss)
        if entry["val"]["low"] <= 0:
            count.simplified, count.simplified_loss = 1, loss
    return count


def close_outs(landscape: str, machine: str, nights: int) -> Count:
    """Many of them; the same nights on every machine."""
    total = Count()
    for number in range(nights):
        rng = np.random.default_rng([SEED, list(LANDSCAPES).index(landscape), number])
        total.add(close_out(keep_some(LANDSCAPES[landscape], rng), machine, rng))
    return total


def share(part: int, whole: int) -> str:
    """A share with its standard error."""
    if not whole:
        return "-"
    rate = part / whole
    return f"{rate:.1%} ± {math.sqrt(rate * (1 - rate) / whole):.1%}"


HEADER = (
    "machine | landscape | kept a night, of them null | intervals that hold the truth |"
    " confirmed a night | of them null | simplified, its true loss"
)
PAGE = """# The close-out, on nights whose truth is known

Made by `scripts/synthetic/close_outs.py`: {nights} nights of each row, {runs} trainings drawn for
each, {seeds} fresh runs of each file in a comparison. All in sigma of one run; ± is one standard
error. What a night keeps, the keep rule decides; *null* is a kept change that is worth nothing, or
less. Effects add up: of interactions this says nothing.

{table}

All of it: {held} of {intervals} intervals hold the truth ({held_share}), and {null} of {confirmed}
confirmed changes are null ({null_share}); of {kept} kept changes {kept_null} were. {improvements}
of {claims} claims are an improvement, {false_improvements} of them falsely.
"""


def report(nights: int) -> str:
    """The page."""
    rows, total = [], Count()
    for machine in MACHINES:
        for landscape in LANDSCAPES:
            found = close_outs(landscape, machine, nights)
            total.add(found)
            loss = found.simplified_loss / found.simplified if found.simplified else math.nan
            rows.append(
                [
                    machine,
                    landscape,
                    f"{found.kept / nights:.1f}, {found.null / nights:.1f}",
                    share(found.held, found.intervals),
                    f"{found.confirmed / nights:.2f}",
                    f"{found.confirmed_null} of {found.confirmed}",
                    f"{found.simplified / nights:.0%}, {loss:+.1f}" if found.simplified else "-",
                ]
            )
    return PAGE.format(
        nights=nights,
        runs=RUNS,
        seeds=CLAIM_SEEDS,
        table=markdown(HEADER, rows),
        held_share=share(total.held, total.intervals),
        null=total.confirmed_null,
        null_share=share(total.confirmed_null, total.confirmed),
        kept_null=total.null,
        **{
            name: getattr(total, name)
            for name in (
                *("held", "intervals", "confirmed", "kept"),
                *("claims", "improvements", "false_improvements"),
            )
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="results/benchmarks/close_out.md")
    parser.add_argument("--nights", type=int, default=200, help="nights of each row")
    asked = parser.parse_args()
    started = time.process_time()
    page = report(asked.nights)
    print(page)
    if asked.write:
        (ROOT / "results/benchmarks/close_out.md").write_text(page, encoding="utf-8")
    print(f"{time.process_time() - started:.0f} s of CPU time", file=sys.stderr)


if __name__ == "__main__":
    main()
