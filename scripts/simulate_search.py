"""Measure the proposers on made-up landscapes, judged by the real keep rule.

In: fixed seeds and scripts/synthetic/landscape.py. Out: markdown tables on the screen; `--write`
puts them into results/benchmarks/search.md. Every experiment is one call of harness.search.propose,
as in a night, and every verdict is harness.rules.keep's; only the training is made up.
"""

import argparse
import dataclasses
import logging
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from fake_openai import FakeOpenAI
from scripted_researcher import Mediocre
from synthetic.landscape import (
    BASELINE,
    HELP,
    HELPFUL,
    LIMITS,
    POSSIBLE,
    SIGMA,
    Landscape,
    structure,
)
from synthetic.random_search import random_everywhere, random_near, random_steps

from harness.rules.keep import judge
from harness.run.noise import Prior, estimate_noise, noise_groups
from harness.search.constants import (
    BEGIN,
    END,
    constant_values,
    parse_constants,
)
from harness.search.gate import check_candidate, source_hash
from harness.search.proposal import Proposal
from harness.search.propose import propose

RUNS = 100  # trainings of a night: baseline seeds and confirmations among them
SEEDS = 2  # of the baseline
MAX_LOOKS = 3
# Of the landscapes: those from 0 to 139 were looked at while response.py was written.
FIRST_SEED = 200
MARKS = (25, 50, 100)  # trainings after which the gain is noted
TEMPLATE = (ROOT / "train_template.py").read_text(encoding="utf-8")
ABOUT = {
    "profile": "cpu",
    "budget_seconds": 300.0,
    "device": "a CPU",
    "device_kind": "cpu",
    "dtype": "float32",
}
ABOUT |= {"n_vocab": LIMITS.n_vocab, "max_seq_len": LIMITS.max_seq_len, "data_id": "none"}
# For the numbers the file is its constants block alone: the rest would only be read and hashed, a
# hundred times a night.
NUMBERS = TEMPLATE[TEMPLATE.index(BEGIN) : TEMPLATE.index(END)] + END + "\n"
ONLY_NUMBERS = '```settings\nallowed_categories = ["tune"]\n```\n'


@dataclass
class Night:
    """What one simulated night came to; true gains over the baseline in sigma of one run."""

    gains: dict[int, float] = field(default_factory=dict)  # after so many trainings
    experiments: int = 0
    keeps: int = 0
    failures: int = 0
    of_model: int = 0  # experiments


def draws_only(request: dict) -> Proposal:
    """tpe as it was before it judged all runs together.

    Known directions, and TPE's draws from blocks of constants.
    """
    with mock.patch("harness.search.response_model.draw_steps", lambda *_: ()):
        return propose(request)


PROPOSERS: dict[str, Callable[[dict], Proposal]] = {
    "random everywhere": random_everywhere,
    "random": random_steps,
    "random, near": random_near,
    "TPE's draws alone": draws_only,
    "tpe": propose,
    "hybrid": propose,
    "llm": propose,
}


def simulate(proposer: str, template: str, seed: int) -> Night:
    """One night on the landscape of that seed.

    A language model is a mediocre one that answers over HTTP.
    """
    if proposer not in ("hybrid", "llm"):
        return _simulate(proposer, template, seed, {"proposer": "tpe"})
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with FakeOpenAI(Mediocre(seed)) as server, tempfile.TemporaryDirectory() as folder:
        llm = {
            "model": "",
            "options": f"base_url={server.url}",
            "key_file": "",
            "ledger": f"{folder}/llm.jsonl",
        }
        return _simulate(
            proposer, template, seed, {"proposer": proposer, "llm": llm, "out_dir": folder}
        )


def _simulate(proposer: str, template: str, seed: int, asked: dict) -> Night:
    landscape, noise_rng = Landscape(seed, template), random.Random(f"noise {seed} {proposer}")
    night, left = Night(), RUNS
    baseline = [BASELINE + noise_rng.gauss(0, SIGMA) for _ in range(SEEDS)]
    sources, incumbent, scores, best = {0: template}, 0, baseline, BASELINE
    rows = [_row(0, template, None, "baseline", "ok", "baseline", baseline)]
    decided: list[list[float]] = []
    left -= SEEDS
    while left:
        number = len(rows)
        proposal = PROPOSERS[proposer](
            _request(number, sources[incumbent], incumbent, rows, seed) | asked
        )
        sources[number] = proposal.source
        status, truth = landscape.run(proposal.source, sources[incumbent])
        night.of_model += proposal.proposer == "llm"
        if structure(proposal.source) not in landscape.levels and check_candidate(
            proposal.source, set()
        ):
            status, truth = "invalid_patch", None
        runs: list[float] = []
        decision = "discard"
        while left:
            left -= status != "invalid_patch"  # which costs no training
            if truth is None:
                night.failures += 1
                break
            runs.append(truth + noise_rng.gauss(0, SIGMA))
            verdict = judge(
                runs,
                scores,
                estimate_noise(noise_groups(baseline, decided, runs), Prior(SIGMA, 4)),
                MAX_LOOKS,
            )
            decision = verdict.decision
            if decision != "confirm":
                break
        decided += [runs] if runs else []
        rows.append(
            _row(
                number,
                proposal.source,
                incumbent,
                proposal.category,
                status,
                decision,
                runs,
                proposal,
            )
        )
        rows[-1]["gain"] = statistics.fmean(scores) - statistics.fmean(runs) if runs else None
        if decision == "keep":
            incumbent, scores, best = number, runs, truth
            night.keeps += 1
        night.experiments = number
        for mark in MARKS:
            if RUNS - left <= mark:
                night.gains[mark] = (BASELINE - best) / SIGMA
    return night


def _row(
    number: int,
    source: str,
    parent: int | None,
    category: str,
    status: str,
    decision: str,
    runs: list[float],
    proposal: Proposal | None = None,
) -> dict:
    """A row of the history as a proposer sees it."""
    return {
        "experiment": number,
        "title": proposal.title if proposal else "baseline",
        "hypothesis": proposal.hypothesis if proposal else "",
        "category": category,
        "bank_id": proposal.bank_id if proposal else None,
        "constants": constant_values(source),
        "sha256": source_hash(source),
        "structure": structure(source),
        "parent": parent,
        "status": status,
        "decision": decision,
        "val_bpb": statistics.fmean(runs) if runs else None,
        "n_runs": len(runs),
        "sigma": SIGMA,
        "proposer": proposal.proposer if proposal else "harness",
        "operator": proposal.operator if proposal else "",
        "llm_failed": proposal.llm_failed if proposal else "",
        "sources": list(proposal.sources) if proposal else [],
    }


def _request(number: int, source: str, incumbent: int, rows: list[dict], seed: int) -> dict:
    return {
        "experiment": number,
        "attempt": 0,
        "run_seed": seed,
        "out_dir": "",
        "program_md": "" if source.count("\n") > 100 else ONLY_NUMBERS,
        "parent_train_py": source,
        "parent_experiment": incumbent,
        "sigma": SIGMA,
        "about": ABOUT,
        "repair": None,
        "history": rows,
        "incumbent_val_bpb": rows[incumbent]["val_bpb"],
        "limits": dataclasses.asdict(LIMITS),
    }


def table(template: str, proposers: Sequence[str], nights: int) -> list[str]:
    """A row for each proposer, on the same landscapes: means and standard errors over nights."""
    head = [
        "proposer",
        *(f"gain after {mark}" for mark in MARKS),
        "a training",
        "of the first",
        "beside the first",
    ]
    head += ["experiments", "of the model", "keeps", "failed"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    first: list[Night] = []
    for proposer in proposers:
        with ProcessPoolExecutor(max_workers=2) as pool:
            done = list(
                pool.map(
                    simulate,
                    [proposer] * nights,
                    [template] * nights,
                    range(FIRST_SEED, FIRST_SEED + nights),
                )
            )
        first = first or done
        gains = [_mean_and_error([night.gains[mark] for night in done]) for mark in MARKS]
        mean = lambda values: f"{statistics.fmean(values):.1f}"  # noqa: E731
        per_training = statistics.fmean(night.gains[RUNS] for night in done) / RUNS
        ratio = statistics.fmean(n.gains[RUNS] for n in done) / statistics.fmean(
            n.gains[RUNS] for n in first
        )
        beside = _mean_and_error(
            [b.gains[RUNS] - a.gains[RUNS] for a, b in zip(first, done, strict=True)], "+"
        )
        cells = [
            proposer,
            *gains,
            f"{per_training:.3f}",
            f"{ratio:.2f}x",
            beside if done is not first else "",
        ]
        cells += [
            mean([getattr(night, name) for night in done])
            for name in ("experiments", "of_model", "keeps", "failures")
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _mean_and_error(values: Sequence[float], sign: str = "") -> str:
    return (
        f"{statistics.fmean(values):{sign}.1f} ±"
        f" {statistics.stdev(values) / math.sqrt(len(values)):.1f}"
    )


PAGE = """# The proposers, measured

Made by `python scripts/simulate_search.py --write` (fixed seeds). Nothing is trained:
`scripts/synthetic/landscape.py` says what a file would have scored. Every experiment is a call of
`harness.search.propose`, every verdict `harness/rules/keep.py`'s. A night is {runs} trainings,
{seeds} of the baseline and all confirmations among them. Gains are true ones, in sigma of one run,
means over nights with their standard error; every proposer has the same landscapes. *A training*:
gain after the night over its trainings. *Beside the first*: difference on the same landscapes.
*Failed*: crashes, out of memory, diverged, refused.

## Numbers only

{nights} nights on as many landscapes; {possible:.0f} sigma are there to be gained on each.

{numbers}

*random*: one to three constants of the incumbent anew, anywhere in their ranges, kept by the same
rule. *random everywhere*: textbook random search, all {constants} constants anew each time; it
never comes near a template that is roughly right. *random, near*: within a seventh of the range.
*TPE's draws alone*: `tpe` before it judged all runs of a night together
(`harness/search/response_model.py`): of the trials that a block of one to three constants sees
nearly all have those constants at the incumbent's values, so TPE has nothing to learn from. The
constants of `response.py` were chosen among some twenty variants on landscapes of this kind under
other seeds. Its model is a sum of parabolas and the landscape is one too, but for its interactions,
choices and failures, which favours it; a real response is not so smooth. Every third number is a
direction known from elsewhere, which on a made-up landscape is no better than a guess.

## Numbers and code

{structural_nights} nights with the bank of ideas and, for *hybrid* and *llm*, a scripted mediocre
researcher (`tests/support/scripted_researcher.py`) behind the real client: random changes of
numbers and code, every fourth answer unusable. A structure helps with probability {helpful:.0%},
the bank's as often as the researcher's, by {help:.0f} sigma on average. No repairs are made. It
shows what the division of labour costs or brings with such a researcher, and nothing about any real
model: none was asked.

{structures}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="write results/benchmarks/search.md too"
    )
    parser.add_argument(
        "--nights",
        type=int,
        default=40,
        help="nights of each proposer of numbers, each on a landscape of its own",
    )
    parser.add_argument(
        "--structural-nights", type=int, default=12, help="the same with ideas that change code"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    numbers = table(
        NUMBERS,
        ("random", "random everywhere", "random, near", "TPE's draws alone", "tpe"),
        arguments.nights,
    )
    structures = table(TEMPLATE, ("tpe", "hybrid", "llm"), arguments.structural_nights)
    page = PAGE.format(
        runs=RUNS,
        seeds=SEEDS,
        nights=arguments.nights,
        possible=POSSIBLE,
        numbers="\n".join(numbers),
        constants=sum(constant.searched for constant in parse_constants(TEMPLATE).values()),
        structural_nights=arguments.structural_nights,
        helpful=HELPFUL,
        help=HELP,
        structures="\n".join(structures),
    )
    print(page)
    if arguments.write:
        (ROOT / "results/benchmarks/search.md").write_text(page, encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
