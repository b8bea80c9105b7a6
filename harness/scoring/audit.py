"""Whether recorded losses are the model's own: another process predicts the same tokens, on rows in which it cannot look them up.

In: the validation rows, the losses that server A returned for them, the incumbent's. Out: an Audit, with a verdict. numpy only.

A probe is a row and a position s. Server B gets the row's true tokens up to s, then another row's, and returns the full logits at s. Their loss for the true
next token, which B was never told, is compared with the recorded one. A model that looks ahead, forges its loss, or replays what A saw cannot agree; an honest
one agrees to the bit. Intact rows, shuffled among the spliced ones, say how far the model agrees with itself when it sees the same row in another batch: the
yardstick. It gains nothing by telling the two apart, nor A from B: whatever it then does at s, it has to name a token that it cannot know.

So that it cannot learn it from the audit either, the other rows are training rows, and of probes on one row the shorter prefix is asked for first.
Half of the positions are drawn at random, half in proportion to what the candidate gained on the incumbent there: where a leak pays, it is looked for.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import numpy as np

from harness.data.manifest import PreparedData
from harness.scoring.channel import ModelServer, ScoreError
from harness.scoring.scorer import ServerJob, open_rows, open_token_bytes, server_of

INTACT_SHARE = 0.25  # of the probes, at least: how far honest losses differ is known well from a few dozen
NOT_REPRODUCIBLE = 0.05  # nats, root mean square on intact rows
SMALLEST_DIFFERENCE = 0.02  # nats; and
TIMES_INTACT = 4  # the largest difference on intact rows: what is above both is cheating, what is above the first alone is not reproducible
SMALLEST_GAP = 0.001  # nats, of the mean difference; and
STANDARD_ERRORS = 3  # of it: what is above both is looked at again
OVERWHELMING = 6  # standard errors: no chance, and a second look would show the model rows that it knows from the first
SPLICE_TRIES = 8  # other rows that are tried until one goes on with another token


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
    """inputs (n, T) uint16; rows, positions (n,): which row's true token after which position is asked for.

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
    """Draw `count` spliced probes, and intact rows until whole batches are full."""
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
    tails = others[pick_others(others, rows[where, positions + 1], positions, rng), :length]
    inputs = np.where(np.arange(length) > last[:, None], tails, rows[where, :length]).astype(np.uint16)
    order = rng.permutation(total)
    order[np.argsort(where[order], kind="stable")] = np.lexsort(
        (last, where)
    )  # each row keeps its places in the queue, shorter prefix first
    return Probes(inputs[order], where[order], positions[order], intact[order], uniform[order])


def pick_others(others: np.ndarray, wanted: np.ndarray, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each probe one of the other rows, whose token after the position is not the wanted one where such a row is found."""
    tried = rng.integers(0, len(others), (len(wanted), SPLICE_TRIES))
    fits = others[tried, positions[:, None] + 1] != wanted[:, None]
    return tried[np.arange(len(wanted)), fits.argmax(axis=1)]


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


def judge_probes(differences: np.ndarray, intact: np.ndarray, uniform: np.ndarray) -> tuple[str, str, dict[str, float]]:
    """Return (verdict, words, figures) for differences (n,) in nats, B's loss less the recorded one. `gap` is a verdict that wants a second look.

    What is off on average comes first: losses that are too low even on intact rows are forged, whereas an honest model that differs from itself (dropout left
    on, a batch it depends on) is off to both sides alike. Means are of positions drawn uniformly: those drawn for their gain are where chance was kind.
    A model can tell intact rows apart and be off on them on purpose, so they excuse nothing: what they make too wide for `cheating` is not reproducible.
    """
    spliced, own, fair = differences[~intact], differences[intact], differences[~intact & uniform]
    r0, largest = float(np.sqrt(np.mean(own**2))), float(np.abs(spliced).max())
    own_gap, own_error = float(own.mean()), standard_error(own)
    gap, error = float(fair.mean()) - own_gap, math.hypot(standard_error(fair), own_error)
    figures = {"r0": r0, "largest": largest, "mean_gap": gap, "standard_error": error}
    if own_gap > max(STANDARD_ERRORS * own_error, SMALLEST_GAP):
        words = f"its losses are {own_gap:.4f} nats lower on average than what it predicts in another process"
        return "cheating" if own_gap > OVERWHELMING * own_error else "gap", words, figures
    if abs(gap) > max(STANDARD_ERRORS * error, SMALLEST_GAP):
        words = f"its losses are {gap:.4f} nats lower on average than what it predicts without seeing what follows"
        return "cheating" if abs(gap) > OVERWHELMING * error else "gap", words, figures
    if r0 > NOT_REPRODUCIBLE:
        words = f"not reproducible: on the rows it was scored on its losses differ by {r0:.3f} nats (rms) in another process"
        return "not reproducible", words, figures
    widest = float(np.abs(own).max())
    limit = max(SMALLEST_DIFFERENCE, TIMES_INTACT * widest)
    if largest > limit:
        beyond = int((np.abs(spliced) > limit).sum())
        words = f"{beyond} of {len(spliced)} probed losses are not what it predicts without seeing what follows (by up to {largest:.2f} nats)"
        return "cheating", words, figures
    if max(widest, largest) > SMALLEST_DIFFERENCE:
        words = f"not reproducible: single losses differ by up to {max(widest, largest):.2f} nats in another process, behind which a leak could hide"
        return "not reproducible", words, figures
    return "agrees", f"{len(spliced)} probed losses are the model's own", figures


def standard_error(values: np.ndarray) -> float:
    """Of the mean of (n,) values, n at least 2."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def measure_differences(server: ModelServer, probes: Probes, recorded: Recorded, batch_rows: int) -> np.ndarray:
    """Differences (n,) in nats between what the server predicts and what was recorded."""
    batches = [slice(first, first + batch_rows) for first in range(0, len(probes.inputs), batch_rows)]
    logits = np.concatenate([server.logits(probes.inputs[batch], probes.positions[batch]) for batch in batches])
    targets = recorded.rows[probes.rows, probes.positions + 1]
    return losses_of(logits, targets) - recorded.losses[probes.rows, probes.positions]


def look(
    server: ModelServer, recorded: Recorded, count: int, batch_rows: int, seed: int
) -> tuple[str, str, dict[str, float], int]:
    """Return (verdict, words, figures, looks); the same seed draws the same probes."""
    for looks, sequence in enumerate(np.random.SeedSequence(seed).spawn(2), start=1):
        probes = make_probes(recorded, count, batch_rows, np.random.default_rng(sequence))
        verdict, words, figures = judge_probes(measure_differences(server, probes, recorded, batch_rows), probes.intact, probes.uniform)
        if verdict != "gap":
            return verdict, words, figures, looks
    return "cheating", words, figures, looks  # three standard errors happen by chance, twice in a row hardly


def audit_model(
    data: PreparedData,
    job: ServerJob,
    losses: np.ndarray,
    incumbent: np.ndarray | None,
    probes: int,
    seed: int,
) -> Audit:
    """Compare recorded losses (n, T) of the validation rows with what another process predicts. incumbent: its losses (n, T), or None.

    seed: fresh for each audit, from the system's randomness; the same seed draws the same probes. Raises ScoreError with the status of the run.
    """
    started = time.monotonic()
    recorded = Recorded(open_rows(data, "val"), losses, incumbent, open_rows(data, "train"), open_token_bytes(data))
    with server_of(data, job, "logits") as server:
        verdict, words, figures, looks = look(server, recorded, probes, server.header["batch_rows"], seed)
    scored = data.manifest["scored"]["val"]
    bpb_per_nat = scored["tokens"] / scored["bytes"] / math.log(2)
    floor = max(STANDARD_ERRORS * figures["standard_error"], SMALLEST_GAP) * bpb_per_nat
    seconds = time.monotonic() - started
    return Audit(verdict, words, probes, **figures, floor_bpb=floor, looks=looks, seed=seed, seconds=seconds)
