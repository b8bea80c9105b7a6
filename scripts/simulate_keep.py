"""Measure the keep rule on made-up nights: what it keeps falsely, what it gains, what it may claim.

In: fixed seeds, and for one landscape a real night (tests/support/data/upstream-mar8-results.tsv).
Out: markdown tables on the screen; `--write` puts them into results/benchmarks/keep_rule.md. numpy
only, one core, about a minute. The rule under test is harness.rules.keep itself, called as a night
calls it. All scores and gains are in sigma of one run; a training's number is the time.

Two parts that share neither seeds nor landscapes: `tune` compares settings of the rule, `report`
measures the one that was chosen.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from synthetic.gains import NOTHING, REPORT_LANDSCAPES, TUNE_LANDSCAPES
from synthetic.keep_nights import (
    CPU,
    MAX_LOOKS,
    OLD,
    POLICIES,
    REPORT,
    SPEEDS_KNOWN,
    TUNE,
    claim_results,
    kept,
    run_nights,
    simplification_losses,
)
from synthetic.machines import MACHINES, RUNS

from harness.rules import keep
from harness.rules.keep import CLAIM_SEEDS
from harness.run.noise import Prior

STRICT = {1: (0.05,), 2: (0.035, 0.035), 3: (0.025, 0.03, 0.03)}  # looks that add up to 5%


@contextmanager
def levels(table: dict[int, tuple[float, ...]]) -> Iterator[None]:
    """Run the rule with other levels of its looks."""
    chosen = keep.LOOK_LEVELS
    keep.LOOK_LEVELS = table
    try:
        yield
    finally:
        keep.LOOK_LEVELS = chosen


def markdown(header: str, rows: list[list[str]]) -> str:
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tune_table(nights: int) -> str:
    """Compare levels: what they gain on the tune landscapes, what they keep falsely."""
    rows = []
    for times in (1, 2, 3, 4, 5):
        table = {looks: tuple(times * level for level in row) for looks, row in STRICT.items()}
        with levels(table):
            cells = []
            for machine in ("steady", "load changes"):
                for landscape in TUNE_LANDSCAPES.values():
                    found = run_nights(TUNE, CPU, machine, landscape, nights)
                    cells.append(f"{found.true_gain:.1f}, {found.false_keeps:.2f}")
        rows.append([f"{times} x 5%", *cells])
    names = [f"{machine}: {name}" for machine in ("steady", "load") for name in TUNE_LANDSCAPES]
    return markdown(" | ".join(["levels", *names]), rows)


def candidate_table(candidates: int) -> str:
    """The share of single candidates that is kept, by their true gain."""
    knowledge = {
        "2 seeds and a right prior": (2, Prior(1.0, 4)),
        "2 seeds, prior half of the truth": (2, Prior(0.5, 4)),
        "2 seeds, prior twice the truth": (2, Prior(2.0, 4)),
        "4 seeds, no prior": (4, None),
    }
    rows = []
    for name, (seeds, prior) in knowledge.items():
        for renewed, label in ((True, "trained again first"), (False, "its seeds alone")):
            cells = []
            for gain in (0, 1, 2, 3, 5):
                rng = np.random.default_rng([REPORT, 1, seeds, gain])
                shares = [kept(gain, seeds, prior, renewed, rng) for _ in range(candidates)]
                cells.append(f"{np.mean(shares):.0%}")
            rows.append([name, label, *cells])
    return markdown("noise known from | baseline | 0: falsely | 1 | 2 | 3 | 5 sigma", rows)


def landscape_table(nights: int) -> str:
    """Whole nights on a steady machine, landscape by landscape."""
    rows = []
    for name, landscape in REPORT_LANDSCAPES.items():
        for policy in POLICIES[:2]:
            found = run_nights(REPORT, policy, "steady", landscape, nights)
            with levels(STRICT):
                strict = run_nights(REPORT, policy, "steady", landscape, nights)
            cells = [
                f"{x.true_gain:.1f} ± {x.error:.1f}, {x.false_keeps:.2f}" for x in (found, strict)
            ]
            greedy = f"{found.greedy_gain:.1f}, {found.greedy_false_keeps:.1f}"
            rows.append([name, policy.name, *cells, greedy])
    return markdown("landscape | policy | keep rule | with levels of 5% | greedy", rows)


def machine_table(nights: int) -> str:
    """Whole nights on each machine: means over the landscapes, and with nothing to gain."""
    rows = []
    for machine in MACHINES:
        for policy in POLICIES + SPEEDS_KNOWN * (machine in ("load changes", "bursts")):
            gained = [
                run_nights(REPORT, policy, machine, landscape, nights)
                for landscape in REPORT_LANDSCAPES.values()
            ]
            nothing = run_nights(REPORT, policy, machine, NOTHING, nights)
            share = np.mean([found.true_gain / found.greedy_gain for found in gained])
            false_keeps = np.mean([found.false_keeps for found in gained])
            greedy = np.mean([found.greedy_false_keeps for found in gained])
            rows.append(
                [
                    machine,
                    policy.name,
                    f"{share:.0%}",
                    f"{false_keeps:.2f} ({greedy:.1f})",
                    f"{nothing.true_gain:+.2f} ({nothing.greedy_gain:+.2f})",
                    f"{nothing.false_keeps:.2f} ({nothing.greedy_false_keeps:.1f})",
                    f"{np.mean([found.refreshes for found in [*gained, nothing]]):.1f}",
                ]
            )
    header = "machine | policy | of greedy's true gain | false keeps (greedy)"
    header += " | nothing to gain: true gain (greedy) | its false keeps (greedy) | refreshes"
    return markdown(header, rows)


def claim_table(claims: int) -> str:
    """How often the claim's 95% interval holds the true difference, and how wide it is."""
    rows = []
    for machine in MACHINES:
        if machine != "neighbour leaves":  # who was gone long before the claim
            found = [claim_results(machine, seeds, claims) for seeds in (CLAIM_SEEDS, 5)]
            rows.append([machine, *(f"{covered:.1%}, ± {half:.1f}" for covered, half in found)])
    return markdown(f"machine | {CLAIM_SEEDS} runs each | 5 runs each", rows)


def simplification_table(nights: int) -> str:
    """True losses of a night to simplifications, on a steady machine."""
    rows = []
    for low, high in ((0.0, 0.0), (0.25, 0.5), (0.0, 2.0)):
        for policy in POLICIES[:2]:
            losses, numbers = simplification_losses(policy, low, high, nights).T
            worse = f"{low:g} to {high:g} sigma" if high else "nothing"
            spread = f"{losses.mean():.2f} | {np.percentile(losses, 95):.2f} | {losses.max():.2f}"
            rows.append([worse, policy.name, f"{numbers.mean():.2f}", spread])
    return markdown(
        "each costs | policy | kept a night | mean loss | 95th percentile | worst", rows
    )


PAGE = """# The keep rule, measured

Made by `python scripts/simulate_keep.py --write` (fixed seeds; the rule is `harness/rules/keep.py`
itself). Gains are in sigma of one run. A night has {runs} trainings, all counted: baseline seeds,
confirmations, refreshes and the claim's. *Greedy* keeps any lower number after one run each.
*False keeps*: of candidates that are truly no better, a night.

Policies. *CPU*: two baseline seeds and a right prior; every keep needs a run of the incumbent that
is newer than the candidate's newest. *Card*: four baseline seeds, no prior; a keep needs a run of
the incumbent at most {old} trainings (about two hours) old. *First keep fresh*: as on a card, but
beside the baseline's own runs a keep always needs a newer one. All train the incumbent again,
unasked, when its last run is {old} trainings old.

Machines. *Load changes*: every 20 trainings or so all scores move to somewhere in 0 to 10 sigma.
*Neighbour leaves*: the baseline's seeds alone are 10 sigma worse. *Bursts*: one run in ten loses 5
sigma on average. *Heavy tails*: Student's t with 3 degrees of freedom. Speeds are not known, which
is the harder case, unless a row says so.

## How the levels were chosen

On three landscapes with seeds of their own; the other sections use other landscapes and other
seeds. Cells: true gain, false keeps; {tune} nights each, CPU policy.

{tune_table}

Bolder levels gain more where gains are small, and keep more falsely. Chosen: three times 5%, the
boldest with about one false keep in a night where nothing is to be gained on a steady machine. On
the same landscapes these were tried and left, because they moved the true gain by less than a
tenth, up here and down there: other shares for a further run (0.4 to 1), refreshes pooled into
sigma, and a refresh that counts as fresh for all later runs of the candidate.

## One candidate

Share of candidates kept, by their true gain, up to {looks} runs each, on a steady machine;
{candidates:,} candidates a cell.

{candidate_table}

The rule promises {false_keep:.0%} and stays below it where the prior is right or there is none. A
prior half of the truth breaks the promise: a single candidate's few runs cannot expose it. A prior
twice the truth costs power. A shipped prior should rather be too large.

## Whole nights, steady machine

Cells: true gain with its standard error, false keeps; {nights} nights each.

{landscape_table}

Greedy ends with more true gain: it spends no run on certainty, and it picks up gains below two
sigma, which one to three runs cannot tell from luck. It pays with several false keeps a night, and
where nothing is to be gained it ends worse than it began (next table). CPU and card differ in what
they know of sigma, too.

## Whole nights, machine by machine

Gains and false keeps over the landscapes above; then nights where nothing is to be gained (40%
without effect, the others worse). {nights} nights each. *Refreshes*: trainings of the incumbent,
asked for or not.

{machine_table}

A fresh incumbent for every keep holds false keeps near one a night on every machine. The card's
policy trusts runs of two hours ago: where the neighbour leaves after the baseline it keeps what is
worse. A new run of the baseline before the first keep repairs that for one or two trainings. Where
load changes all night only the CPU's policy helps. Heavy tails fool the card's policies because
their sigma rests on few runs. Known speeds lower the false keeps under load and bursts. Under load
they cost some gain too, since a run at another speed is lost until a second one agrees with it;
where speeds scatter by 6% from run to run, many good runs are lost.

## The claim

How often the 95% interval holds the true difference, and its median half width; the runs are
interleaved, at a random time of the night; {claims:,} claims each.

{claim_table}

On unruly machines the interval errs on the safe side. With three runs each a difference of two
sigma is just shown, with five one of 1.4.

## Simplifications

Nights in which a third of the candidates are shorter and each truly worse by so much; losses in
sigma; {nights} nights each.

{simplification_table}

The rule allows at most one sigma a night for all simplifications together, and the true loss stays
below that in about 19 nights of 20.
"""


def report(nights: int, tune_nights: int, candidates: int, claims: int) -> str:
    """Return the whole page as markdown."""
    return PAGE.format(
        runs=RUNS,
        old=OLD,
        looks=MAX_LOOKS,
        nights=nights,
        tune=tune_nights,
        candidates=candidates,
        claims=claims,
        false_keep=keep.FALSE_KEEP,
        tune_table=tune_table(tune_nights),
        candidate_table=candidate_table(candidates),
        landscape_table=landscape_table(nights),
        machine_table=machine_table(nights),
        claim_table=claim_table(claims),
        simplification_table=simplification_table(nights),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmarks/keep_rule.md"
    )
    parser.add_argument("--nights", type=int, default=100, help="nights in each cell")
    parser.add_argument("--tune-nights", type=int, default=100, help="nights of each level")
    parser.add_argument(
        "--candidates", type=int, default=2_000, help="single candidates in each cell"
    )
    parser.add_argument("--claims", type=int, default=10_000, help="claims in each cell")
    asked = parser.parse_args()
    started = time.monotonic()
    page = report(asked.nights, asked.tune_nights, asked.candidates, asked.claims)
    print(page)
    if asked.write:
        path = ROOT / "results/benchmarks/keep_rule.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
