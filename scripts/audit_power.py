"""Measure the audit: false alarms, the smallest leak that it finds, and the seconds it takes.

    python scripts/audit_power.py             most of an hour; a second call goes on
    python scripts/audit_power.py --seconds   the last table alone, two minutes
    python scripts/audit_power.py --quick     tiny counts: all parts run, the figures mean nothing
    python scripts/audit_power.py --write results/benchmarks/audit.md

In: the models of tests/support/models_for_audit.py on the profile `tiny`, trained for some steps;
two trainings of the template on the profile `demo`. Out: Markdown tables. Servers, probes and
verdicts are the harness's own, called as a night calls them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support"), str(ROOT)]

from benches.rows import append_row, read_rows
from benches.runs import evaluate_here
from benches.setup import Bench, make_bench
from models_for_audit import DISHONEST, HONEST, UNSTEADY, Honest, bigrams, load, made, save

from harness.data.manifest import PreparedData
from harness.run.settings import harness_hash, score_settings
from harness.sandbox.child import child_environment
from harness.sandbox.wall import find_wall
from harness.scoring.audit import (
    LOOKS,
    SMALLEST_DIFFERENCE,
    Recorded,
    judge_probes,
    look,
    make_probes,
    until_sure,
)
from harness.scoring.channel import Launch
from harness.scoring.holdout import Losses, agrees, gain_and_error, row_nats
from harness.scoring.integrity import Integrity
from harness.scoring.measure import PROBES as MEASURED_PROBES
from harness.scoring.measure import Measurement
from harness.scoring.scorer import (
    Score,
    ServerJob,
    open_rows,
    open_token_bytes,
    score_model,
    start_server,
)
from harness.scoring.unseen import (
    Text,
    count_places,
    gain_of_places,
    measure_places,
    smallest_missed,
)

LAUNCH = Launch(child_environment())
PROBES = (64, 128, 512, 1024)
PROBED = 128  # of each scored run in a night
POWER = 0.9
# Of audits made so far: the whole takes longer than a machine is quiet.
ROWS = Path(tempfile.gettempdir()) / "audit_power.jsonl"


@dataclasses.dataclass(frozen=True)
class Counts:
    """How much is measured.

    seeds: audits of each model. steps: of its training. draws: simulated audits of each size of a
    leak.
    """

    seeds: int = 15
    steps: int = 60
    draws: int = 100
    repeats: int = 3
    seconds: float | None = None  # of the template's trainings; None: the profile's budget


# --- Honest and other models, through real servers


def train_a_little(model: torch.nn.Module, data: PreparedData, steps: int) -> None:
    """Some steps of AdamW, so that the losses are those of a model that has learnt something."""
    rows, rng = open_rows(data, "train"), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-3)
    for _ in range(steps):
        batch = torch.from_numpy(rows[rng.integers(0, len(rows), 8)].astype(np.int64))
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def unseen_text(data: PreparedData) -> Text:
    return Text(open_rows(data, "unseen"), open_rows(data, "train"), open_token_bytes(data))


def by_rows(data: PreparedData, own: np.ndarray, incumbent: np.ndarray) -> Losses:
    """Losses (n, T) of two runs on the validation rows, as the check on unseen text takes them."""
    targets, token_bytes = open_rows(data, "val")[:, 1:], open_token_bytes(data)
    own, rival = (row_nats(losses, targets, token_bytes) for losses in (own, incumbent))
    return Losses(
        (token_bytes[targets] > 0).sum(axis=1), [own], [rival], data.manifest["documents"]["val"]
    )


def audits(
    model: Honest, data: PreparedData, counts: Counts, folder: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Train, score and audit one model: (verdict, figures) of each seed.

    One server B answers all seeds.

    A gain on the incumbent, a table of pairs, that is missing on unseen text makes it `disagrees`.
    """
    trained = load(model.source, data, folder)
    if model.source not in CHEATS:
        train_a_little(trained, data, counts.steps)
        save(trained, folder)
    paths = (folder / "train.py", folder / "weights.safetensors")
    job = ServerJob(*paths, "cpu", model.dtype, 1, LAUNCH, folder, 7200)
    losses = score_model(data, job).losses
    rows = open_rows(data, "val")
    table, unseen = bigrams(data), unseen_text(data)
    incumbent = -table[rows[:, :-1], rows[:, 1:]]
    validation = by_rows(data, losses, incumbent)
    places = count_places(len(rows), data.manifest["eval_batch_rows"])
    recorded = Recorded(rows, losses, incumbent, open_rows(data, "train"), open_token_bytes(data))
    with start_server(data, job, "logits") as server:
        for seed in range(counts.seeds):
            once = functools.partial(look, server, recorded, PROBED, server.header["batch_rows"])
            (verdict, _, figures), _ = until_sure(once, seed)
            losses_there = measure_places(server, unseen, places, seed)
            rows, positions = losses_there[:2].astype(int)
            pairs = np.stack(
                [
                    rows,
                    positions,
                    -table[unseen.rows[rows, positions], unseen.rows[rows, positions + 1]],
                ]
            )
            there = gain_of_places(losses_there, pairs, data.manifest["documents"]["unseen"])
            yield (
                (verdict if agrees(validation, *there) or verdict != "agrees" else "disagrees"),
                figures,
            )


CHEATS = {made(body) for body in (*DISHONEST.values(), *UNSTEADY.values())}


@functools.cache
def scoring_hash() -> str:
    """Of the code that scores and audits, and of the models."""
    paths = sorted((ROOT / "harness/scoring").glob("*.py"))
    paths.append(ROOT / "tests/support/models_for_audit.py")
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def audits_so_far(
    name: str, model: Honest, data: PreparedData, counts: Counts
) -> list[tuple[str, dict[str, float]]]:
    """The audits of a model, each a verdict and its figures.

    Those that an earlier call made of the same scoring code are taken from the file; others are
    made now and added to it.
    """
    known = [name, counts.seeds, counts.steps, scoring_hash()]
    for row in read_rows(ROWS):
        if row["known"] == known:
            return row["found"]
    with tempfile.TemporaryDirectory() as folder:
        found = list(audits(model, data, counts, Path(folder)))
    append_row(ROWS, {"known": known, "found": found})
    return found


def model_table(
    models: dict[str, Honest], data: PreparedData, counts: Counts, say: Callable
) -> tuple[list[str], dict[str, int]]:
    """Return lines of a table, and how the audits of models that agree with themselves ended."""
    lines = [
        (
            "| model | dtype | agrees | disagrees on unseen text | not reproducible | cheating"
            " | r0, nats | largest, nats |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    total = {}
    for name, model in models.items():
        say(name)
        found = audits_so_far(name, model, data, counts)
        ends = {
            verdict: sum(each == verdict for each, _ in found)
            for verdict in ("agrees", "disagrees", "not reproducible", "cheating")
        }
        r0, largest = (max(figures[key] for _, figures in found) for key in ("r0", "largest"))
        lines.append(
            f"| {name} | {model.dtype} | {' | '.join(str(count or '') for count in ends.values())}"
            f" | {r0:.1e} | {largest:.1e} |"
        )
        say(lines[-1])
        if model.reproducible:
            total = {key: total.get(key, 0) + count for key, count in ends.items()}
    return lines, total


# --- The smallest leak that is found, simulated on real losses


Leak = Callable[[float, np.random.Generator], np.ndarray]


def leaks(losses: np.ndarray, incumbent: np.ndarray) -> dict[str, Leak]:
    """What each kind of leak makes of honest losses (n, T), given its strength in (0, 1]."""
    rows, length = losses.shape
    late = np.arange(length) >= 0.9 * length
    bad = incumbent >= np.quantile(incumbent, 0.9)

    def a_little(share: float, rng: np.random.Generator) -> np.ndarray:
        return np.maximum(0.0, losses - 5 * share).astype(np.float32)

    def one_in_n(where: np.ndarray | bool, left: float = 0.0) -> Leak:
        def leak(share: float, rng: np.random.Generator) -> np.ndarray:
            known = where & (rng.random(losses.shape) < share)
            return np.where(known, left * losses, losses).astype(np.float32)

        return leak

    def whole_rows(share: float, rng: np.random.Generator) -> np.ndarray:
        known = rng.choice(rows, max(1, round(share * rows)), replace=False)
        return np.where(np.isin(np.arange(rows), known)[:, None], 0.0, losses).astype(np.float32)

    return {
        "every token, a little": a_little,
        "one token in n, wholly": one_in_n(True),
        "one token in n, half of its loss": one_in_n(True, left=0.5),
        "only in the last tenth of a row, one in n": one_in_n(late),
        "only where the incumbent is worst, one in n": one_in_n(bad),
        "all tokens of one row in n": whole_rows,
    }


def caught(
    recorded: Recorded,
    honest: np.ndarray,
    probes: int,
    batch_rows: int,
    rng: np.random.Generator,
    dither: float,
) -> bool:
    """Whether one audit, with the second look of `audit.until_sure`, is not content with a model.

    dither: by how much, at most, its answers on intact rows differ from what is recorded, on
    purpose.
    """
    for _ in range(LOOKS):
        drawn = make_probes(recorded, probes, batch_rows, rng)
        differences = (honest - recorded.losses)[drawn.rows, drawn.positions].astype(np.float64)
        differences[drawn.intact] = rng.uniform(-dither, dither, int(drawn.intact.sum()))
        asked = drawn.rows >= 0
        verdict = judge_probes(differences[asked], drawn.intact[asked], drawn.uniform[asked])[0]
        if verdict != "gap":
            break
    return verdict != "agrees"


def smallest_leak(
    leak: Callable, honest: Recorded, probes: int, batch_rows: int, draws: int, dither: float = 0.0
) -> float:
    """The smallest leak found with probability POWER, in nats over all targets; inf: none is."""
    scored = honest.token_bytes[honest.rows[:, 1:]] > 0

    def found(share: float) -> tuple[bool, float]:
        hits, nats = 0, 0.0
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            forged = leak(share, rng)
            claimed = dataclasses.replace(honest, losses=forged)
            hits += caught(claimed, honest.losses, probes, batch_rows, rng, dither)
            nats += float((honest.losses - forged)[scored].sum())
        return hits >= POWER * draws, nats / draws

    low, high = 1e-5, 1.0
    if not found(high)[0]:
        return math.inf
    for _ in range(10):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if found(middle)[0] else (middle, high)
    return found(high)[1]


def power_table(
    bench: Bench, losses: np.ndarray, incumbent: np.ndarray, counts: Counts, say: Callable
) -> list[str]:
    data = bench.data
    honest = Recorded(
        open_rows(data, "val"), losses, incumbent, open_rows(data, "train"), open_token_bytes(data)
    )
    bits = math.log(2) * data.manifest["scored"]["val"]["bytes"]
    lines = [
        f"| leak | beside an incumbent | {' | '.join(f'{probes} probes' for probes in PROBES)} |",
        "|---" * (2 + len(PROBES)) + "|",
    ]

    def adaptive(share: float, rng: np.random.Generator) -> np.ndarray:
        most = np.float32(4 * share * SMALLEST_DIFFERENCE)
        return losses - most * rng.random(losses.shape, np.float32)

    kinds = [(name, leak, 0.0) for name, leak in leaks(losses, incumbent).items()]
    dithered = "every token, by a dithered bit, and intact rows dithered as far as allowed"
    kinds.append((dithered, adaptive, SMALLEST_DIFFERENCE))
    for name, leak, dither in kinds:
        for rival in (incumbent, None):
            say(f"leak: {name}")
            weighed = dataclasses.replace(honest, incumbent=rival)
            nats = [
                smallest_leak(
                    leak, weighed, probes, data.manifest["eval_batch_rows"], counts.draws, dither
                )
                for probes in PROBES
            ]
            lines.append(
                f"| {name} | {'no' if rival is None else 'yes'} |"
                f" {' | '.join(f'{each / bits:.5f}' for each in nats)} |"
            )
            say(lines[-1])
    return lines


def replay_table(bench: Bench, own: Score, rival: Score) -> list[str]:
    """By how much a gain that was looked up may be missed.

    Measured on two trainings, at as many places of unseen text as there are rows to ask at.
    """
    data, text, scored = bench.data, unseen_text(bench.data), bench.data.manifest["scored"]["val"]
    validation = by_rows(data, own.losses, rival.losses)
    usual = count_places(len(own.losses), data.manifest["eval_batch_rows"])
    lines = [
        "| places | gain on validation text | on unseen text | says | found with 90% |",
        "|---|---|---|---|---|",
    ]
    bits = scored["tokens"] / scored["bytes"] / math.log(2)
    for places in (usual // 2, usual, 4 * usual, 16 * usual):
        there = []
        for name in ("short", "rival"):
            folder = bench.work / name / "server_b"
            folder.mkdir(exist_ok=True)
            weights, settings = bench.work / name / "weights.safetensors", bench.settings
            job = ServerJob(
                bench.train_py,
                weights,
                "cpu",
                settings.dtype,
                settings.threads,
                LAUNCH,
                folder,
                1800,
            )
            with start_server(data, job, "logits") as server:
                there.append(measure_places(server, text, places))
        gain, error = gain_of_places(*there, data.manifest["documents"]["unseen"])
        says = "agrees" if agrees(validation, gain, error) else "disagrees"
        recorded = gain_and_error(validation)[0] * bits
        found = smallest_missed(validation, error) * bits
        of_a_night = " (a night's)" if places == usual else ""
        lines.append(
            f"| {len(there[0][0]):,}{of_a_night} | {recorded:+.4f}"
            f" | {gain * bits:+.4f} | {says} | {found:.4f} |"
        )
    return lines


# --- Seconds


def seconds_table(bench: Bench, repeats: int, seconds: float = 3.0) -> list[str]:
    """What isolation adds to each scored run.

    That is the lab's own measurement, with both servers and the hashes after it, less an evaluation
    in this process.

    Each scored run has a training of its own, since server A starts with it. seconds: of that
    training.
    """
    integrity, wall = Integrity(bench.data, harness_hash()), find_wall()
    run = Measurement(
        score_settings(bench.settings, bench.data, bench.work),
        bench.data,
        integrity,
        wall,
        bench.train_py,
        bench.work / "short",
    )
    torch.set_num_threads(bench.settings.threads or 1)
    found, beside, alone = [], [], []
    for _ in range(repeats):
        alone.append(bench.train("short", 1, seconds)["startup_seconds"])
        with run.started_early("val") as server_a:
            beside.append(bench.train("short", 1, seconds)["startup_seconds"])
            found.append(run.score(lambda share: None, server_a))
    if bad := [each["cause"] for each in found if each["status"] != "ok"]:
        raise SystemExit(f"a run could not be measured: {bad[0]}")
    whole, audit = (
        statistics.median(values)
        for values in zip(
            *((each["score_seconds"], each["audit"]["seconds"]) for each in found), strict=True
        )
    )
    here = statistics.median(evaluate_here(bench) for _ in range(repeats))
    start, tokens = statistics.median(alone), found[0]["scored_tokens"]
    later = statistics.median(beside) - start
    added = sorted(
        each["score_seconds"] + late - early - here
        for each, late, early in zip(found, beside, alone, strict=True)
    )
    return [
        "| part | seconds |",
        "|---|---|",
        f"| evaluation of {tokens:,} tokens in one process, nothing kept apart | {here:.2f} |",
        f"| the same as in a night, wall: {wall.kind}, {MEASURED_PROBES} probes | {whole:.2f} |",
        f"| of this the audit, from the end of server A on | {audit:.2f} |",
        f"| a training's start-up alone, {start:.2f}; later,"
        f" since server A starts beside it | {later:+.2f} |",
        f"| **isolation adds to each scored run**, median of {repeats}"
        f" ({added[0]:.2f} to {added[-1]:.2f}) | **{statistics.median(added):.2f}** |",
    ]


# --- The page

PAGE = """\
# The audit, measured

Made by `python scripts/audit_power.py --write results/benchmarks/audit.md`. Servers, probes and
verdicts are those of `harness/scoring`.

## False alarms

Profile `tiny` (vocabulary 256, T 64): {honest} honest models, each trained for {steps} steps,
scored by server A and audited by server B with {probed} probes under {seeds} seeds, at the real
batch shape. **{alarms} false alarms in {audits} audits** of models that agree with themselves;
those that depend on their batch are to be labelled, and are not counted. r0: root mean square of
the differences on intact rows; largest: on spliced rows; both the largest of all seeds.

{honest_table}

## Models that look ahead, or differ from themselves

{dishonest_table}

## The smallest leak that is found

bpb over the whole validation text, found with {power:.0%} probability; {draws} simulated audits for
each size, on the real losses of two trainings of the template on the profile `demo` (val_bpb
{bpb:.3f}; incumbent {rival_bpb:.3f}). *Beside an incumbent* half of the probes follow the gain on
it; a baseline has none. The verdict and its second look are the harness's own.

{power_table}

A leak at every token is found by its mean, which has to exceed 0.001 nats a token, and more probes
do not lower that. One that is whole but rare has to be hit once. What is below these figures can be
kept. The last row knows the rule: it takes a random bit off each loss and answers intact rows as
far off as is allowed without a word (beyond that it is *not reproducible*, which waits for a
person).

## A gain that was looked up

What passed from server A to server B, whatever the way, is not of the unseen text. Gain of the one
training on the other, bits per byte; *found with 90%*: the replay whose gain would be missing there
by more than four standard errors nine times in ten.

{replay_table}

## Seconds

Profile `demo`, {threads} threads, {dtype}; medians of {repeats}; the machine's load was {load:.1f}
on {cores} cores.

{seconds_table}
"""


def report(work: Path, counts: Counts, say: Callable[[str], None]) -> str:
    """Measure everything and return the page."""
    tiny, demo = (make_bench(name, None, work / name, say) for name in ("tiny", "demo"))
    demo.work.mkdir()
    honest_lines, total = model_table(HONEST, tiny.data, counts, say)
    others = {
        name: Honest(made(body), reproducible=False)
        for name, body in (DISHONEST | UNSTEADY).items()
    }
    dishonest_lines, _ = model_table(others, tiny.data, counts, say)
    scores = []
    for name, seed in (("short", 1), ("rival", 2)):
        say(f"training the template, seed {seed}")
        demo.train(name, seed, counts.seconds or demo.profile.budget_seconds)
        scores.append(demo.score(name))
    own, rival = scores
    replay_lines = replay_table(demo, own, rival)
    # Its short trainings take the place of the first one's files.
    seconds_lines = seconds_table(demo, 2 * counts.repeats - 1, counts.seconds or 3.0)
    return PAGE.format(
        honest=len(HONEST),
        steps=counts.steps,
        probed=PROBED,
        seeds=counts.seeds,
        audits=sum(total.values()),
        alarms=sum(total.values()) - total["agrees"],
        honest_table="\n".join(honest_lines),
        dishonest_table="\n".join(dishonest_lines),
        power=POWER,
        draws=counts.draws,
        bpb=own.val_bpb,
        rival_bpb=rival.val_bpb,
        power_table="\n".join(power_table(demo, own.losses, rival.losses, counts, say)),
        replay_table="\n".join(replay_lines),
        load=os.getloadavg()[0],
        cores=os.cpu_count(),
        threads=demo.settings.threads,
        dtype=demo.settings.dtype,
        repeats=2 * counts.repeats - 1,
        seconds_table="\n".join(seconds_lines),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny counts")
    parser.add_argument("--seconds", action="store_true", help="the last table alone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what is printed")
    options = parser.parse_args()
    counts = (
        Counts(seeds=2, steps=2, draws=5, repeats=1, seconds=1.0) if options.quick else Counts()
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        if options.seconds:
            bench = make_bench("demo", None, Path(work) / "demo", print)
            bench.work.mkdir()
            print("\n".join(seconds_table(bench, 2 * counts.repeats - 1, counts.seconds or 3.0)))
            return
        page = report(Path(work), counts, lambda line: print(line, file=sys.stderr, flush=True))
    print(page)
    if options.write:
        options.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
