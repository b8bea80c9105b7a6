"""Which proposer finds more? Whole nights of real trainings on a CPU, a row each, over days.

    python scripts/yardstick.py run                    five nights of each proposer, in turn
    python scripts/yardstick.py run --only random      nights of one of them
    python scripts/yardstick.py table --write          the table, as results/benchmarks/yardstick.md

In: this checkout; every night runs in a copy of it, from the demo's plain GPT, 10 s of the CPU
clock a training, and ends with a claim. Out: a row a night in results/benchmarks/yardstick.jsonl,
as it ends, and a row for each of its trainings, with its curve, in yardstick_curves.jsonl; a night
that has its row is not run again. `random` takes the best file, draws one to
three constants anew and hands the file in by `harness try`, so that gate, score and keep rule are
the same for all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

from benches.markdown import table
from benches.rows import append_row, machine_of, read_rows
from checkout import command_of, copy_checkout, environment
from fake_openai import FakeOpenAI
from scripted_researcher import Mediocre
from synthetic.random_search import random_steps

from harness.ground.student_t import t_quantile
from harness.lab.close_out import read_close_out
from harness.run.journal import read_journal
from harness.run.run import Run
from harness.run.state import fold
from harness.training.devices import cpu_name

ROWS, PAGE = ROOT / "results/benchmarks/yardstick.jsonl", ROOT / "results/benchmarks/yardstick.md"
CURVES = ROOT / "results/benchmarks/yardstick_curves.jsonl"
NIGHTS, EXPERIMENTS, SECONDS = 5, 30, 10
POINTS = 20  # of a curve: means of the training loss over equal shares of the budget
NIGHT = ["--profile", "demo", "--set", f"budget_seconds={SECONDS}"]
CATEGORIES = {
    "random": ("tune",),
    "tpe alone": ("tune",),
    "bank alone": ("architecture", "optimizer", "schedule", "simplify"),
    "tpe and bank": (),
    "hybrid": (),
}
RESEARCHER = "random changes of numbers and code, every fourth answer unusable"


def run(nights: int, experiments: int, only: list[str], cache: str) -> None:
    """Run the nights that have no row yet; proposers take turns, to share the machine's hours."""
    here = [row for row in read_rows(ROWS) if machine_of(row) == cpu_name()]
    done = {(row["proposer"], row["night"], row["wanted"]) for row in here}
    for night in range(1, nights + 1):
        for proposer in only or CATEGORIES:
            if (proposer, night, experiments) not in done:
                row = {"proposer": proposer, "night": night, "wanted": experiments}
                row |= run_night(proposer, night, experiments, Path(cache))
                append_row(ROWS, row)


def run_night(proposer: str, night: int, experiments: int, cache: Path) -> dict:
    """One night in a copy of this checkout, to its claim."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work, researcher(proposer, night) as options:
        checkout = copy_checkout(Path(work) / "lab")
        program = checkout / "program.md"
        if allowed := CATEGORIES[proposer]:
            text = program.read_text(encoding="utf-8")
            every = next(x for x in text.splitlines() if x.startswith("allowed_categories"))
            new = text.replace(every, f"allowed_categories = {json.dumps(allowed)}")
            program.write_text(new, encoding="utf-8")
        tag = f"night{night}"
        of_its_own = 0 if proposer == "random" else experiments
        words = ["--tag", tag, *NIGHT, *options]
        with (Path(work) / "night.log").open("w") as log:
            where = {"cwd": checkout, "env": environment(checkout, cache)}
            where |= {"stdout": log, "stderr": log}
            subprocess.run(command_of(*words, "--experiments", str(of_its_own)), **where)
            if proposer == "random":
                hand_in(checkout, tag, night, experiments, where)
                subprocess.run(command_of(*words, "--experiments", "1"), **where)  # the claim
        facts = facts_of(checkout / "results" / tag)
        if not facts:
            raise SystemExit((Path(work) / "night.log").read_text()[-2000:])
        for row in curves_of(Run(checkout / "results" / tag)):
            append_row(CURVES, {"proposer": proposer, "night": night} | row)
    return facts | {"minutes": round((time.monotonic() - began) / 60, 1)}


@contextlib.contextmanager
def researcher(proposer: str, night: int) -> Iterator[list[str]]:
    """Yield the options of a night under this proposer; a model is a scripted one over HTTP."""
    if proposer != "hybrid":
        yield ["--proposer", "tpe"]
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with FakeOpenAI(Mediocre(night)) as server:
        yield ["--proposer", "hybrid", "--llm", f"base_url={server.url}"]


def hand_in(checkout: Path, tag: str, night: int, experiments: int, where: dict) -> None:
    """Draw constants of the best file anew and try the file, so many times."""
    idea = checkout / "idea.py"
    for number in range(1, experiments + 1):
        best = (checkout / "results" / tag / "best/train.py").read_text(encoding="utf-8")
        request = {"run_seed": night, "experiment": number, "parent_train_py": best, "history": []}
        idea.write_text(random_steps(request).source, encoding="utf-8")
        words = [
            "try",
            str(idea),
            "--tag",
            tag,
            "--idea",
            f"random draw {number}",
            "--by",
            "random",
        ]
        subprocess.run([sys.executable, "-m", "harness", *words], **where)


def curves_of(run: Run) -> Iterator[dict]:
    """Of each training that has a score: what was tried, on what, and its curve."""
    for experiment in run.state.experiments:
        for number, attempt in enumerate(experiment.attempts):
            for training in attempt.own:
                folder = run.training_folder(experiment.number, number, training.number)
                if training.val_bpb is not None:
                    yield {
                        "experiment": experiment.number,
                        "parent": attempt.proposed["parent"],
                        "title": attempt.proposed["title"],
                        "category": attempt.proposed["category"],
                        "constants_changed": attempt.proposed["constants_changed"],
                        "run": training.number,
                        "val_bpb": training.val_bpb,
                        "curve": curve_of(folder / "events.jsonl"),
                    }


def curve_of(path: Path) -> list[float | None]:
    """Mean training loss, nats, in each of POINTS shares of the budget; None where no step fell."""
    losses: list[list[float]] = [[] for _ in range(POINTS)]
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            losses[min(POINTS - 1, int(POINTS * event["progress"]))].append(event["train_loss"])
    return [round(statistics.mean(each), 4) if each else None for each in losses]


def facts_of(run: Path) -> dict:
    """What a night came to; {} where it kept something and has no claim, or has no baseline."""
    state, claimed = fold(read_journal(run / "journal.jsonl")), read_close_out(run).claimed
    decided = [e.decided["decision"] for e in state.experiments[1:] if e.decided]
    trainings = [run for e in state.experiments for a in e.attempts for run in a.runs]
    facts = {
        "experiments": len(decided),
        "trainings": sum(run.started["kind"] != "smoke" for run in trainings),
        "keeps": decided.count("keep"),
        "quarantined": decided.count("quarantine"),
    }
    if claimed and claimed["status"] == "ok":
        facts["gain"], facts["low"], facts["high"] = (
            round(claimed["val"][key], 4) for key in ("difference", "low", "high")
        )
        return facts
    return {} if facts["keeps"] or not decided else facts | {"gain": 0.0, "low": None, "high": None}


def page() -> str:
    """Return the table: a line a machine and proposer, beside random."""
    nights: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(read_rows(ROWS), key=lambda row: list(CATEGORIES).index(row["proposer"])):
        nights.setdefault((machine_of(row), row["proposer"]), []).append(row)
    lines = []
    for (machine, proposer), own in nights.items():
        each, randoms = gains_a_training(own), gains_a_training(nights.get((machine, "random"), []))
        lines.append(
            [
                *(machine, proposer, len(own), with_error([row["gain"] for row in own])),
                *(with_error(each), "" if proposer == "random" else ratio_words(each, randoms)),
                f"{statistics.mean(row['trainings'] for row in own):.0f}",
                f"{statistics.mean(row['keeps'] for row in own):.1f}",
                f"{sum(bool(row['low'] and row['low'] > 0) for row in own)} of {len(own)}",
                f"{statistics.mean(row['minutes'] for row in own):.0f}",
            ]
        )
    heads = ["machine", "proposer", "nights", "gain, bpb", "gain a training, 0.001 bpb"]
    heads += ["of random's", "trainings"]
    heads += ["keeps", "claims above zero", "minutes"]
    text = (
        "# Proposers on real trainings\n\nMade by `python scripts/yardstick.py`, which has a row "
    )
    text += f"a night in yardstick.jsonl. A night: {EXPERIMENTS} experiments of {SECONDS} s of the "
    text += "CPU clock from the demo's plain GPT; its gain is that of its claim, on fresh seeds, 0 "
    text += (
        "where nothing was kept. Means over nights with their standard error. *Of random's*: the "
    )
    text += "gain a training over random's on the same machine, with its 95% interval where both "
    text += "have two nights.\n\n"
    text += f"*hybrid* asks a scripted researcher: {RESEARCHER}. No real model was asked.\n\n"
    return text + table(heads, lines) + "\n" + noise_words(read_rows(CURVES))


def noise_words(rows: list[dict]) -> str:
    """Return how the noise of one training compares with what ideas of the bank are worth there."""
    files: dict[tuple, list[dict]] = {}
    for row in rows:
        files.setdefault((row["proposer"], row["night"], row["experiment"]), []).append(row)
    scores = {key: [row["val_bpb"] for row in own] for key, own in files.items()}
    freedom = sum(len(own) - 1 for own in scores.values())
    squares = (statistics.variance(own) * (len(own) - 1) for own in scores.values() if own[1:])
    changes = [
        abs(statistics.mean(scores[parent]) - statistics.mean(scores[key]))
        for key, (first, *_) in files.items()
        if first["category"] not in ("baseline", "tune")
        and (parent := (*key[:2], first["parent"])) in scores
    ]
    if not freedom or not changes:
        return ""
    sigma, change = math.sqrt(sum(squares) / freedom), statistics.median(changes)
    return (
        f"\nNoise: one file's trainings differ by {sigma:.4f} bpb (standard deviation, {freedom} "
        f"degrees of freedom), {sigma / change:.0%} of the {change:.4f} bpb by which an idea of "
        f"the bank changed the score (median of {len(changes)}). A third was aimed at; more than "
        "that blurs which idea a night keeps, and its claim rests on fresh seeds all the same.\n"
    )


def gains_a_training(nights: list[dict]) -> list[float]:
    """In 0.001 bpb, a night each."""
    return [1000 * night["gain"] / night["trainings"] for night in nights]


def ratio_words(own: list[float], others: list[float]) -> str:
    """The ratio of two means with its 95% interval, by the errors of their logarithms."""
    means = [statistics.mean(each) if each else 0.0 for each in (own, others)]
    if min(means) <= 0:
        return ""
    ratio = means[0] / means[1]
    if min(len(own), len(others)) < 2:
        return f"{ratio:.2f}"
    relative = [
        statistics.variance(each) / len(each) / mean**2
        for each, mean in zip((own, others), means, strict=True)
    ]
    freedom = sum(relative) ** 2 / sum(
        part**2 / (len(each) - 1) for part, each in zip(relative, (own, others), strict=True)
    )
    width = t_quantile(0.975, freedom) * math.sqrt(sum(relative))
    return f"{ratio:.2f} ({ratio * math.exp(-width):.2f} to {ratio * math.exp(width):.2f})"


def with_error(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:+.3f}"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.3f} ± {error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("--nights", type=int, default=NIGHTS)
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS)
    parser.add_argument("--only", action="append", default=[], choices=CATEGORIES)
    parser.add_argument("--cache", default=str(Path.home() / ".cache/autoresearch-lab"))
    parser.add_argument("--write", action="store_true", help="table: write the page too")
    options = parser.parse_args()
    if options.part == "run":
        run(options.nights, options.experiments, options.only, options.cache)
    elif options.write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
