"""The audit: are the recorded losses those of the model, without knowledge of what follows?

In: the validation rows, the losses that server A returned for them, the incumbent's losses. Out:
fields of the journal, with a verdict. numpy only.

Server B, another process, predicts some of the same tokens. A probe is a row and a position s. B
gets the row's true tokens up to s, then tokens of another row (a spliced row), and returns the full
logits at s. Their loss for the true next token, which B never gets, is compared with the recorded
one. A model that looks ahead, forges its loss, or replays what A saw cannot agree; an honest one
agrees to the bit. Intact rows, shuffled among the spliced ones, measure how far the model agrees
with itself when it sees the same row in another batch. A model gains nothing by distinguishing
intact from spliced rows, or A from B: at s it must predict a token that it cannot know.

It must not learn these tokens from the audit either. So the other rows are training rows drawn at
random, probes on one row are in different batches, the shorter prefix first, and a second look goes
to a fresh process. Half of the positions are drawn uniformly, half in proportion to the candidate's
gain on the incumbent there, because there a leak would be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from harness.data.manifest import PreparedData
from harness.scoring.channel import ModelServer, ScoreError
from harness.scoring.scorer import ServerJob, open_rows, open_token_bytes, server_of

# Intact rows, at least, as a share of the probes: a few dozen show how far honest losses differ.
INTACT_SHARE = 0.25
NOT_REPRODUCIBLE = 0.05  # nats, root mean square on intact rows
# A single difference above both of these is cheating, one above the first alone not reproducible.
SMALLEST_DIFFERENCE = 0.002  # nats: honest models agree to 1e-5 (results/benchmarks/audit.md)
TIMES_INTACT = 4  # the largest difference on intact rows
# A mean difference above both of these is looked at again.
SMALLEST_GAP = 0.001  # nats
STANDARD_ERRORS = 3
# A difference of so many standard errors is no chance. It gets no second look, in which rows of the
# first would be known.
OVERWHELMING = 6
LOOKS = 2

Look = tuple[str, str, dict[str, float]]  # verdict, words, figures


@dataclass(frozen=True)
class Recorded:
    """What is audited. rows: (n, T + 1); losses, incumbent: (n, T) nats.

    others: (m, T + 1), rows that spliced ones go on with.
    """

    rows: np.ndarray
    losses: np.ndarray
    incumbent: np.ndarray | None
    others: np.ndarray
    token_bytes: np.ndarray


@dataclass(frozen=True)
class Probes:
    """inputs (n, T) uint16; rows, positions (n,): what is asked for, row -1 for fillers.

    It is the row's true token after the position. intact, uniform (n,) bool: whether the row is
    shown as it is, and whether its position was drawn without a look at the losses.
    """

    inputs: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    intact: np.ndarray
    uniform: np.ndarray


def make_probes(
    recorded: Recorded, count: int, batch_rows: int, rng: np.random.Generator
) -> Probes:
    """Draw `count` spliced probes, and intact ones until whole batches of `batch_rows` are full.

    They are in the order of `spread`; what that takes of further room is filled with training rows.
    """
    length = recorded.losses.shape[1]
    scored = (recorded.token_bytes[recorded.rows[:, 1:]] > 0).ravel()
    total = math.ceil((count + max(2, INTACT_SHARE * count)) / batch_rows) * batch_rows
    weighted, share = 0, np.zeros(0)
    if recorded.incumbent is not None:
        gain = (recorded.incumbent - recorded.losses).ravel().astype(np.float64)
        share = np.maximum(0.0, gain) * scored
        weighted = count // 2 if share.any() else 0
    places = rng.choice(np.flatnonzero(scored), total - weighted)
    if weighted:
        places = np.concatenate((rng.choice(len(share), weighted, p=share / share.sum()), places))
    rows, positions = np.divmod(places, length)
    intact, uniform = np.arange(total) >= count, np.arange(total) >= weighted
    last = np.where(intact, length, positions)  # of the true tokens
    order = spread(rows, last, batch_rows, rng)
    asked = order >= 0
    rows = np.where(asked, rows[order], -1)
    inputs = splice(recorded.rows[rows], np.where(asked, last[order], -1), recorded.others, rng)
    return Probes(inputs, rows, positions[order], intact[order] & asked, uniform[order] & asked)


def spread(
    rows: np.ndarray, last: np.ndarray, batch_rows: int, rng: np.random.Generator
) -> np.ndarray:
    """The order (whole batches,) in which probes on `rows` (n,) are asked, -1 for none.

    A row is in a batch at most once, its shorter prefix, up to `last` (n,), first: a longer one
    holds what a shorter one asks for. What does not fit into one batch more than there must be is
    left out.
    """
    waiting: dict[int, list[int]] = {}
    # The shortest is the last, so that it is popped first.
    for probe in np.lexsort((rng.random(len(rows)), -last)):
        waiting.setdefault(int(rows[probe]), []).append(int(probe))
    batches = []
    while waiting and len(batches) <= math.ceil(len(rows) / batch_rows):
        by_length = sorted(waiting, key=lambda row: (-len(waiting[row]), rng.random()))
        chosen = [waiting[row].pop() for row in by_length[:batch_rows]]
        waiting = {row: probes for row, probes in waiting.items() if probes}
        batches.append(rng.permutation(chosen + [-1] * (batch_rows - len(chosen))))
    return np.concatenate(batches)


def splice(
    rows: np.ndarray, last: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Inputs (n, T) uint16: rows (n, T + 1) up to their `last` (n,) token, then another row's.

    A last of -1 shows nothing of the row.
    """
    length = rows.shape[1] - 1
    tails = others[rng.integers(0, len(others), len(rows)), :length]
    return np.where(np.arange(length) > last[:, None], tails, rows[:, :length]).astype(np.uint16)


def losses_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropy (n,) float64, nats, of logits (n, n_vocab). ScoreError `nan` if not finite."""
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = exact - exact.max(axis=1, keepdims=True)
        sums = np.log(np.exp(shifted).sum(axis=1))
        found = sums - shifted[np.arange(len(targets)), targets]
    if bad := int((~np.isfinite(found)).sum()):
        cause = f"{bad} of the audit's {len(found)} rows got logits that are not finite"
        raise ScoreError("nan", cause)
    return found


def judge_probes(differences: np.ndarray, intact: np.ndarray, uniform: np.ndarray) -> Look:
    """Return (verdict, words, figures) for differences (n,) in nats.

    A difference is B's loss less the recorded one. The verdict `gap` asks for a second look.

    Means are judged first, and spliced rows before intact ones. Recorded losses that are too low on
    average are forged or looked up, whereas an honest model that differs from itself (dropout left
    on, dependence on the batch) differs to both sides alike. Means use positions drawn uniformly
    only: at those drawn for their gain chance was favourable. A model could recognise intact rows
    and differ there on purpose. So intact rows never clear a model: if they differ too much to
    prove `cheating`, the verdict is `not reproducible`.
    """
    spliced, own = np.abs(differences[~intact]), differences[intact]
    fair = differences[~intact & uniform]
    r0, largest, widest = float(np.sqrt(np.mean(own**2))), spliced.max(), np.abs(own).max()
    own_gap, own_error = float(own.mean()), standard_error(own)
    gap, error = float(fair.mean()) - own_gap, math.hypot(standard_error(fair), own_error)
    figures = {"r0": r0, "largest": float(largest), "mean_gap": gap, "standard_error": error}
    # Intact rows that are too high are no forgery.
    for lower, off, its_error, how in (
        (gap, abs(gap), error, "without seeing what follows"),
        (own_gap, own_gap, own_error, "in another process"),
    ):
        if off > max(STANDARD_ERRORS * its_error, SMALLEST_GAP):
            verdict = "cheating" if off > OVERWHELMING * its_error else "gap"
            words = f"its losses are {lower:.4f} nats lower on average than what it predicts {how}"
            return verdict, words, figures
    if r0 > NOT_REPRODUCIBLE:
        words = (
            "not reproducible: on the rows it was scored on its losses differ by "
            f"{r0:.3f} nats (rms) in another process"
        )
        return "not reproducible", words, figures
    limit = max(SMALLEST_DIFFERENCE, TIMES_INTACT * widest)
    if largest > limit:
        words = (
            f"{(spliced > limit).sum()} of {len(spliced)} probed losses are not what it predicts "
            f"without seeing what follows (by up to {largest:.3f} nats)"
        )
        return "cheating", words, figures
    if max(widest, largest) > SMALLEST_DIFFERENCE:
        words = (
            f"not reproducible: single losses differ by up to {max(widest, largest):.3f} nats in "
            "another process, behind which a leak could hide"
        )
        return "not reproducible", words, figures
    return "agrees", f"{len(spliced)} probed losses are the model's own", figures


def standard_error(values: np.ndarray) -> float:
    """Of the mean of (n,) values, n at least 2."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def ask_logits(
    server: ModelServer, inputs: np.ndarray, positions: np.ndarray, batch_rows: int
) -> np.ndarray:
    """Logits (n, n_vocab) of inputs (n, T) at one position of each; n is whole batches."""
    batches = [slice(first, first + batch_rows) for first in range(0, len(inputs), batch_rows)]
    return np.concatenate([server.logits(inputs[batch], positions[batch]) for batch in batches])


def look(server: ModelServer, recorded: Recorded, count: int, batch_rows: int, seed: int) -> Look:
    """Return (verdict, words, figures), see `judge_probes`; a seed draws the same probes again."""
    probes = make_probes(recorded, count, batch_rows, np.random.default_rng(seed))
    logits, asked = (
        ask_logits(server, probes.inputs, probes.positions, batch_rows),
        probes.rows >= 0,
    )
    rows, positions = probes.rows[asked], probes.positions[asked]
    found = losses_of(logits[asked], recorded.rows[rows, positions + 1])
    differences = found - recorded.losses[rows, positions]
    return judge_probes(differences, probes.intact[asked], probes.uniform[asked])


def until_sure(look_once: Callable[[int], Look], seed: int) -> tuple[Look, int]:
    """Look again where a look ends as `gap`; return what was found, and in how many looks."""
    seeds = np.random.SeedSequence(seed).generate_state(LOOKS).tolist()
    for looks, sequence in enumerate(seeds, start=1):
        found = look_once(sequence)
        if found[0] != "gap":
            return found, looks
    # Three standard errors happen by chance, twice in a row hardly.
    return ("cheating", *found[1:]), LOOKS


def record(data: PreparedData, losses: np.ndarray, incumbent: np.ndarray | None = None) -> Recorded:
    """What was recorded of the validation rows, losses (n, T), beside the incumbent's."""
    rows, others = open_rows(data, "val"), open_rows(data, "train")
    return Recorded(rows, losses, incumbent, others, open_token_bytes(data))


def audit_model(
    data: PreparedData,
    open_job: Callable[[], AbstractContextManager[ServerJob]],
    recorded: Recorded,
    probes: int,
    seed: int,
    then: Callable[[ModelServer], None] = lambda server: None,
) -> dict:
    """Compare recorded losses of the validation rows with what another process predicts.

    open_job: for each look, a server that knows nothing of the one before. seed: fresh for each
    audit, from the system's randomness; the same seed draws the same probes. then: asks the server
    of the last look something more. Raises ScoreError with the status of the run.

    Return fields for a journal. verdict: agrees, cheating or not reproducible. probes: the spliced
    rows. Differences are B's loss less the recorded one, nats; r0: root mean square on intact rows.
    floor_bpb: the smallest leak, the same at every token, that the mean would have shown.
    """
    started = time.monotonic()

    def look_once(sequence: int) -> Look:
        with open_job() as job, server_of(data, job, "logits") as server:
            found = look(server, recorded, probes, server.header["batch_rows"], sequence)
            if found[0] != "gap":
                then(server)
            return found

    (verdict, words, figures), looks = until_sure(look_once, seed)
    floor = max(STANDARD_ERRORS * figures["standard_error"], SMALLEST_GAP) * bpb_per_nat(data)
    figures |= {"floor_bpb": floor, "looks": looks, "seed": seed}
    figures |= {"seconds": time.monotonic() - started}
    rounded = {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in figures.items()
    }
    return {"verdict": verdict, "words": words, "probes": probes} | rounded


def bpb_per_nat(data: PreparedData) -> float:
    """Bits per byte of the validation text for a nat at each of its scored tokens."""
    scored = data.manifest["scored"]["val"]
    return scored["tokens"] / scored["bytes"] / math.log(2)
