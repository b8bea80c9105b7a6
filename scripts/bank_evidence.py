"""What each idea of the bank is worth: alone in a plain GPT, and in the template that nights use.

    python scripts/bank_evidence.py run              three seeds of each file: hours
    python scripts/bank_evidence.py run --only gate  one idea and what it is compared with
    python scripts/bank_evidence.py table --write    the table, as results/benchmarks/bank.md, and
                                                     what proposers go by

In: the bank of this checkout; 60 s of the CPU clock a training, the demo's text. A rented core is
faster in one minute than in the next, by more than most ideas are worth: so every few trainings the
file without an idea trains again, and an idea is compared with those next to it. Out: a row a
training in results/benchmarks/bank.jsonl, as it ends, and the gains over all machines in
harness/search/bank/measured.json. What has a row is not done again, so the script may be stopped
and called again, on other days too. An idea that a file has already is measured by taking it out. A
training beside which other programs used more than a tenth of the cores does not count, and is made
again: most ideas are worth less than what such company can change.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

from benches.markdown import table
from benches.rows import append_row, machine_of, read_rows
from benches.setup import train_and_score

from harness.lab.start import find_profile, prepare_profile
from harness.run.profiles import choose_profile
from harness.run.settings import make_settings
from harness.search.bank.measured import FILE, FILES
from harness.search.bank.order import ON_CARDS
from harness.search.constants import rewrite_constants
from harness.search.gain import Gain, pool
from harness.search.patch import PatchError
from harness.training.clock import own_cpus

ROWS, PAGE = ROOT / "results/benchmarks/bank.jsonl", ROOT / "results/benchmarks/bank.md"
SECONDS, SEEDS = 60.0, 3
EVERY = 4  # trainings of ideas between two of their base
MOST_HELD = 0.1  # share of the cores that others may use beside a training that counts
BASES = FILES
TAKEN_OUT = {"short-convolution": {"SHIFT_TAPS": 0}, "token-tables": {"NGRAM_TABLES": 0}}


def base_source(base: str) -> str:
    """Return the template under the demo's plain constants, or as a night on a CPU begins."""
    template = (ROOT / "train_template.py").read_text(encoding="utf-8")
    profile = choose_profile("demo" if base == "plain" else "cpu", {"kind": "cpu"})
    return rewrite_constants(template, profile.constants, clamp=False)


def files_of(base: str) -> dict[str, tuple[str, bool]]:
    """Return the sources to train, by idea, and whether the idea was taken out; "" is the file that
    they are compared with."""
    source = base_source(base)
    files = {"": (source, False)}
    for idea in ON_CARDS:
        try:
            files[idea.id] = idea.apply(source), False
        except PatchError:
            if idea.id in TAKEN_OUT:
                files[idea.id] = rewrite_constants(source, TAKEN_OUT[idea.id]), True
    return files


def sha256(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def run(seeds: int, bases: list[str], only: list[str]) -> None:
    """Train what has no row yet, each few with their base before and after, and append the rows."""
    profile, device = find_profile("demo", overrides=f"budget_seconds={SECONDS}")
    data = prepare_profile(profile)
    settings = make_settings("bank", profile, data, device)
    session = time.strftime("%Y-%m-%dT%H:%M:%S")

    def train(base: str, idea: str, seed: int) -> dict:
        source, taken_out = files_of(base)[idea]
        with tempfile.TemporaryDirectory() as work:
            train_py = Path(work) / "train.py"
            train_py.write_text(source, encoding="utf-8")
            found = train_and_score(settings, data, train_py, Path(work) / "run", seed)
        row = {"base": base, "idea": idea, "taken_out": taken_out, "seed": seed}
        row |= {"sha256": sha256(source), "of": sha256(base_source(base)), "session": session}
        row |= found | {"data": data.data_id, "cores": len(own_cpus())}
        append_row(ROWS, row)
        return row

    for seed, base in itertools.product(range(1, seeds + 1), bases or BASES):
        rows = [row for row in quiet(read_rows(ROWS)) if machine_of(row) == device["name"]]
        done = {(row["sha256"], row["seed"]) for row in rows if row["idea"]}
        left = [
            idea
            for idea, (source, _) in files_of(base).items()
            if idea and (not only or idea in only) and (sha256(source), seed) not in done
        ]
        again = set()
        while left:
            train(base, "", seed)
            for _ in range(min(EVERY, len(left))):
                idea = left.pop(0)
                if not quiet([train(base, idea, seed)]) and idea not in again:
                    again.add(idea)
                    left.append(idea)
            if not left:
                train(base, "", seed)


def quiet(rows: list[dict]) -> list[dict]:
    """Those of trainings that had the cores for themselves."""
    most = [MOST_HELD * row["cores"] * (row["wall_seconds"] or 0.0) for row in rows]
    return [row for row, seconds in zip(rows, most, strict=True) if held(row) <= seconds]


def held(row: dict) -> float:
    """Core-seconds that others used beside a training."""
    return row["others_core_seconds"] or 0.0


def gains_of(base: str, rows: list[dict]) -> Iterator[tuple[str, float, float, int, float]]:
    """Yield idea, gain in bpb, its standard error, trainings, and steps relative to the base's.

    rows: of one machine, as they were made. A training is compared with the mean of its base's last
    training before and first one after, in which a machine that gets faster or slower meanwhile
    meets both alike. The error is that of the differences between one training of a base and the
    next.
    """
    own = [row for row in rows if row["base"] == base and row["val_bpb"]]
    newest = [row["of"] for row in own if not row["idea"]][-1:]
    own = [row for row in own if row["of"] in newest]
    pairs, found = [], {}
    for session in dict.fromkeys(row["session"] for row in own):
        of_it = [row for row in own if row["session"] == session]
        places = [place for place, row in enumerate(of_it) if not row["idea"]]
        pairs += [(of_it[a]["val_bpb"], of_it[b]["val_bpb"]) for a, b in itertools.pairwise(places)]
        for place, row in enumerate(of_it):
            before = [of_it[p] for p in places if p < place][-1:]
            after = [of_it[p] for p in places if p > place][:1]
            if row["idea"] and (beside := before + after):
                level, steps = (
                    statistics.mean(each[name] for each in beside)
                    for name in ("val_bpb", "num_steps")
                )
                gain = (row["val_bpb"] - level) * (1 if row["taken_out"] else -1)
                found.setdefault(row["idea"], []).append((gain, row["num_steps"] / steps))
    if not pairs:
        return
    sigma = math.sqrt(statistics.mean((a - b) ** 2 for a, b in pairs) / 2)
    for idea, each in found.items():
        gains, steps = zip(*each, strict=True)
        error = sigma * math.sqrt(1.5 / len(gains))
        yield idea, statistics.mean(gains), error, len(gains), statistics.mean(steps)


INTRODUCTION = """\
# What the bank's ideas are worth

Made by `python scripts/bank_evidence.py`, which has every training in bank.jsonl: {seconds:.0f} s
of the CPU clock, two cores, python-stdlib, vocabulary 2048, T 256. Gains are in bpb, with one
standard error.

Each training is compared with those of the file without the idea just before and after it, since
the machine's speed drifts by more than most ideas are worth; *steps* are relative to these. Of what
the strong file has already, the gain is what it loses without. Ideas without figures do not apply
to one layer, or were not measured yet.

"""


def page() -> str:
    """Return a table a machine."""
    rows = read_rows(ROWS)
    machines = dict.fromkeys(map(machine_of, rows))
    return INTRODUCTION.format(seconds=SECONDS) + "\n".join(
        table_of(machine, [row for row in rows if machine_of(row) == machine])
        for machine in machines
    )


def words_of_company(rows: list[dict]) -> str:
    """Return what other programs did to trainings that were made again without them; "" for none.

    rows: of one machine, all of them.
    """
    alone = {(row["sha256"], row["seed"]): row for row in quiet(rows) if row["idea"]}
    beside = [row for row in rows if row["idea"] and row not in alone.values()]
    pairs = [(row, alone[key]) for row in beside if (key := (row["sha256"], row["seed"])) in alone]
    shares = [
        (held(row) / (row["cores"] * row["wall_seconds"]), row["num_steps"] / again["num_steps"])
        for row, again in pairs
    ]
    told = ", ".join(f"{steps:.2f} ({share:.0%})" for share, steps in sorted(shares))
    return (
        "- steps of trainings beside other programs, over those of the same file made again alone; "
        f"in brackets the share of the cores that the others held: {told}\n" * bool(told)
    )


def gains_of_all(rows: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what `harness.search.bank.measured` reads: machines weighted by their errors."""
    found: dict[str, dict[str, list[Gain]]] = {}
    for machine in dict.fromkeys(map(machine_of, rows)):
        own = [row for row in rows if machine_of(row) == machine]
        for base in BASES:
            for idea, gain, error, *_ in gains_of(base, own):
                found.setdefault(idea, {}).setdefault(base, []).append(Gain(gain, error))
    return {
        idea: {base: rounded(pool(each)) for base, each in of.items()} for idea, of in found.items()
    }


def rounded(gain: Gain) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(gain).items()}


def table_of(machine: str, rows: list[dict]) -> str:
    """Return the table of all ideas, by what they are worth in the strong file, from rows of one
    machine."""
    company, rows = words_of_company(rows), quiet(rows)
    bases = {base: {idea: facts for idea, *facts in gains_of(base, rows)} for base in BASES}
    bare = {base: [r for r in rows if r["base"] == base and not r["idea"]] for base in BASES}
    text = f"## {machine}\n\n"
    for base, group in bare.items():
        if group:
            scores = ", ".join(f"{row['val_bpb']:.4f}" for row in group)
            text += f"- the {base} file itself: {scores}\n"
    text += company
    lines = []
    for idea in ON_CARDS:
        cells = []
        for base in BASES:
            gain, error, seeds, steps = bases[base].get(idea.id, [None] * 4)
            known = gain is not None
            cells += [f"{gain:+.4f} ± {error:.4f}", seeds, f"{steps:.2f}"] if known else [""] * 3
        worth = next((bases[b][idea.id][0] for b in reversed(BASES) if idea.id in bases[b]), -9)
        lines.append((-worth, [idea.id, *cells]))
    heads = [
        "idea",
        "alone in the plain file",
        "trainings",
        "steps",
        "in the strong file",
        "trainings",
        "steps",
    ]
    return (
        text
        + "\n"
        + table(heads, [line for _, line in sorted(lines, key=lambda pair: pair[0])])
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--base", action="append", default=[], choices=BASES)
    parser.add_argument("--only", action="append", default=[], metavar="IDEA")
    parser.add_argument("--write", action="store_true", help="table: write the page too")
    options = parser.parse_args()
    if options.part == "run":
        run(options.seeds, options.base, options.only)
    elif options.write:
        PAGE.write_text(page(), encoding="utf-8")
        gains = gains_of_all(quiet(read_rows(ROWS)))
        FILE.write_text(json.dumps(gains, indent=1) + "\n", encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
