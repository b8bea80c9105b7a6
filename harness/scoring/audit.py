"""Whether recorded losses are the model's own: another process predicts the same tokens, on rows in which it cannot look them up.

In: the validation rows, the losses that server A returned for them, the incumbent's. Out: an Audit, with a verdict. numpy only.

A probe is a row and a position s. Server B gets the row's true tokens up to s, then another row's, and returns the full logits at s. Their loss for the true
next token, which B was never told, is compared with the recorded one. A model that looks ahead, forges its loss, or replays what A saw cannot agree; an honest
one agrees to the bit. Intact rows, shuffled among the spliced ones, say how far the model agrees with itself when it sees the same row in another batch: the
yardstick. It gains nothing by telling the two apart, nor A from B: whatever it then does at s, it has to name a token that it cannot know.

So that it cannot learn it from the audit either, the other rows are training rows drawn without a look at the text, probes on one row are in different
batches, the shorter prefix first, and a second look is at a fresh process.
Half of the positions are drawn at random, half in proportion to what the candidate gained on the incumbent there: where a leak pays, it is looked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import numpy as np

from harness.data.manifest import PreparedData
from harness.scoring.channel import ModelServer, ScoreError
from harness.scoring.scorer import ServerJob, open_rows, open_token_bytes, server_of

INTACT_SHARE = 0.25  # of the probes, at least: how far honest losses differ is known well from a few dozen
NOT_REPRODUCIBLE = 0.05  # nats, root mean square on intact rows
SMALLEST_DIFFERENCE = 0.002  # nats: honest models agree to 1e-5 (results/benchmarks/audit.md); and
TIMES_INTACT = 4  # the largest difference on intact rows: what is above both is cheating, what is above the first alone is not reproducible
SMALLEST_GAP = 0.001  # nats, of the mean difference; and
STANDARD_ERRORS = 3  # of it: what is above both is looked at again
OVERWHELMING = 6  # standard errors: no chance, and a second look would show the model rows that it knows from the first
LOOKS = 2

Look = tuple[str, str, dict[str, float]]  # verdict, words, figures


@dataclass(frozen=True)
class Recorded:
    """What is audited. rows: (n, T + 1); losses, incumbent: (n, T) nats; others: (m, T + 1), rows that spliced ones go on with."""

    rows: np.ndarray
    losses: np.ndarray
    incumbent: np.ndarray | None
    others: np.ndarray
    token_bytes: np.ndarray


@dataclass(frozen=True)
class Probes:
    """inputs (n, T) uint16; rows, positions (n,): which row's true token after which position is asked for, row -1 for fillers.

    intact, uniform (n,) bool: whether the row is shown as it is, and whether its position was drawn without a look at the losses.
    """

    inputs: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    intact: np.ndarray
    uniform: np.ndarray


@dataclass(frozen=True)
class Audit:
    """verdict: agrees, cheating or not reproducible. Differences are B's loss less the recorded one, nats; probes counts spliced rows.

    r0: root mean square on intact rows. floor_bpb: the smallest leak, the same at every token, that the mean would have shown.
    """

    verdict: str
    words: str
    probes: int
    r0: float
    largest: float
    mean_gap: float
    standard_error: float
    floor_bpb: float
    looks: int
    seed: int
    seconds: float

    def as_dict(self) -> dict:
        """Plain finite numbers, for a journal."""
        return {
            key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }


def make_probes(recorded: Recorded, count: int, batch_rows: int, rng: np.random.Generator) -> Probes:
    """Draw `count` spliced probes, and intact ones until whole batches of `batch_rows` are full.

    Of probes on one row no two are in one batch, and those with a shorter prefix come first: a longer one holds what a
    shorter one asks for. What that takes of further room is filled with training rows.
    """
    rows, others, length = recorded.rows, recorded.others, recorded.rows.shape[1] - 1
    scored = (recorded.token_bytes[rows[:, 1:]] > 0).ravel()
    total = math.ceil((count + max(2, INTACT_SHARE * count)) / batch_rows) * batch_rows
    weighted, share = 0, np.zeros(0)
    if recorded.incumbent is not None:
        share = np.maximum(0.0, (recorded.incumbent - recorded.losses).ravel().astype(np.float64)) * scored
        weighted = count // 2 if share.any() else 0
    places = rng.choice(np.flatnonzero(scored), total - weighted)
    if weighted:
        places = np.concatenate((rng.choice(len(share), weighted, p=share / share.sum()), places))
    where, positions = np.divmod(places, length)
    intact, uniform = np.arange(total) >= count, np.arange(total) >= weighted
    last = np.where(intact, length, positions)  # of the true tokens
    tails = others[rng.integers(0, len(others), total), :length]
    inputs = np.where(np.arange(length) > last[:, None], tails, rows[where, :length]).astype(np.uint16)
    order = spread(where, last, batch_rows, total // batch_rows + 1, rng)
    filler = order < 0
    drawn = others[rng.integers(0, len(others), len(order)), :length]
    inputs = np.where(filler[:, None], drawn, inputs[order]).astype(np.uint16)
    return Probes(inputs, np.where(filler, -1, where[order]), positions[order], intact[order] & ~filler, uniform[order] & ~filler)


def spread(where: np.ndarray, last: np.ndarray, batch_rows: int, batches: int, rng: np.random.Generator) -> np.ndarray:
    """The order in which probes on rows `where` (n,) with prefixes up to `last` (n,) are asked, (batches x batch_rows,), -1 for none.

    A row is in a batch at most once, its shorter prefixes first. What does not fit into that many batches is left out.
    """
    waiting: dict[int, list[int]] = {}
    for probe in np.lexsort((rng.random(len(where)), -last)):  # the shortest last, so that it is popped first
        waiting.setdefault(int(where[probe]), []).append(int(probe))
    order = np.full((batches, batch_rows), -1)
    for batch in order:
        rows = sorted(waiting, key=lambda row: (-len(waiting[row]), rng.random()))[:batch_rows]
        chosen = [waiting[row].pop() for row in rows]
        waiting = {row: probes for row, probes in waiting.items() if probes}
        batch[rng.permutation(batch_rows)[: len(chosen)]] = chosen
        if not waiting:
            break
    used = (order >= 0).any(axis=1)
    return order[used].ravel()


def losses_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropy in nats, (n,) float64, of logits (n, n_vocab). Raises ScoreError `nan` where it is not finite."""
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = exact - exact.max(axis=1, keepdims=True)
        found = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    if not np.isfinite(found).all():
        raise ScoreError(
            "nan", f"{int((~np.isfinite(found)).sum())} of the audit's {len(found)} rows got logits that are not finite"
        )
    return found


def judge_probes(differences: np.ndarray, intact: np.ndarray, uniform: np.ndarray) -> Look:
    """Return (verdict, words, figures) for differences (n,) in nats, B's loss less the recorded one. `gap` is a verdict that wants a second look.

    What is off on average comes first, and spliced rows before intact ones: losses that are too low are forged or looked up, whereas an honest model that
    differs from itself (dropout left on, a batch it depends on) is off to both sides alike. Means are of positions drawn uniformly: those drawn for their
    gain are where chance was kind. A model can tell intact rows apart and be off on them on purpose, so they excuse nothing: what they make too wide for
    `cheating` is not reproducible.
    """
    spliced, own, fair = differences[~intact], differences[intact], differences[~intact & uniform]
    r0, largest = float(np.sqrt(np.mean(own**2))), float(np.abs(spliced).max())
    own_gap, own_error = float(own.mean()), standard_error(own)
    gap, error = float(fair.mean()) - own_gap, math.hypot(standard_error(fair), own_error)
    figures = {"r0": r0, "largest": largest, "mean_gap": gap, "standard_error": error}
    if abs(gap) > max(STANDARD_ERRORS * error, SMALLEST_GAP):
        words = f"its losses are {gap:.4f} nats lower on average than what it predicts without seeing what follows"
        return "cheating" if abs(gap) > OVERWHELMING * error else "gap", words, figures
    if own_gap > max(STANDARD_ERRORS * own_error, SMALLEST_GAP):
        words = f"its losses are {own_gap:.4f} nats lower on average than what it predicts in another process"
        return "cheating" if own_gap > OVERWHELMING * own_error else "gap", words, figures
    if r0 > NOT_REPRODUCIBLE:
        words = f"not reproducible: on the rows it was scored on its losses differ by {r0:.3f} nats (rms) in another process"
        return "not reproducible", words, figures
    widest = float(np.abs(own).max())
    limit = max(SMALLEST_DIFFERENCE, TIMES_INTACT * widest)
    if largest > limit:
        beyond = int((np.abs(spliced) > limit).sum())
        words = f"{beyond} of {len(spliced)} probed losses are not what it predicts without seeing what follows (by up to {largest:.3f} nats)"
        return "cheating", words, figures
    if max(widest, largest) > SMALLEST_DIFFERENCE:
        words = f"not reproducible: single losses differ by up to {max(widest, largest):.3f} nats in another process, behind which a leak could hide"
        return "not reproducible", words, figures
    return "agrees", f"{len(spliced)} probed losses are the model's own", figures


def standard_error(values: np.ndarray) -> float:
    """Of the mean of (n,) values, n at least 2."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def ask_logits(server: ModelServer, inputs: np.ndarray, positions: np.ndarray, batch_rows: int) -> np.ndarray:
    """Logits (n, n_vocab) of inputs (n, T) at one position of each; n is a multiple of batch_rows."""
    batches = [slice(first, first + batch_rows) for first in range(0, len(inputs), batch_rows)]
    return np.concatenate([server.logits(inputs[batch], positions[batch]) for batch in batches])


def look(server: ModelServer, recorded: Recorded, count: int, batch_rows: int, seed: int) -> Look:
    """Return (verdict, words, figures), see `judge_probes`; the same seed draws the same probes."""
    probes = make_probes(recorded, count, batch_rows, np.random.default_rng(seed))
    logits, asked = ask_logits(server, probes.inputs, probes.positions, batch_rows), probes.rows >= 0
    rows, positions = probes.rows[asked], probes.positions[asked]
    found = losses_of(logits[asked], recorded.rows[rows, positions + 1]) - recorded.losses[rows, positions]
    return judge_probes(found, probes.intact[asked], probes.uniform[asked])


def until_sure(look_once: Callable[[int], Look], seed: int) -> tuple[Look, int]:
    """Look again where a look ends as `gap`; return what was found, and in how many looks."""
    for looks, sequence in enumerate(np.random.SeedSequence(seed).generate_state(LOOKS).tolist(), start=1):
        found = look_once(sequence)
        if found[0] != "gap":
            return found, looks
    return ("cheating", *found[1:]), LOOKS  # three standard errors happen by chance, twice in a row hardly


def record(data: PreparedData, losses: np.ndarray, incumbent: np.ndarray | None = None) -> Recorded:
    """What was recorded of the validation rows, losses (n, T), beside the incumbent's."""
    return Recorded(open_rows(data, "val"), losses, incumbent, open_rows(data, "train"), open_token_bytes(data))


def audit_model(
    data: PreparedData,
    open_job: Callable[[], AbstractContextManager[ServerJob]],
    recorded: Recorded,
    probes: int,
    seed: int,
    then: Callable[[ModelServer], None] = lambda server: None,
) -> Audit:
    """Compare recorded losses of the validation rows with what another process predicts.

    open_job: for each look, a server that knows nothing of the one before. seed: fresh for each audit, from the system's
    randomness; the same seed draws the same probes. then: asks the server of the last look something more. Raises
    ScoreError with the status of the run.
    """
    started = time.monotonic()

    def look_once(sequence: int) -> Look:
        with open_job() as job, server_of(data, job, "logits") as server:
            found = look(server, recorded, probes, server.header["batch_rows"], sequence)
            if found[0] != "gap":
                then(server)
            return found

    (verdict, words, figures), looks = until_sure(look_once, seed)
    scored = data.manifest["scored"]["val"]
    bpb_per_nat = scored["tokens"] / scored["bytes"] / math.log(2)
    floor = max(STANDARD_ERRORS * figures["standard_error"], SMALLEST_GAP) * bpb_per_nat
    seconds = time.monotonic() - started
    return Audit(verdict, words, probes, **figures, floor_bpb=floor, looks=looks, seed=seed, seconds=seconds)
