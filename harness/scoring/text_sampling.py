"""Text that a trained model writes: what it puts after a few beginnings of training text.

In: a run's Measurement. Out: token ids. The model runs in a model server behind the wall and is
asked for its logits at one place of each row, as in an audit; the next token is drawn here, from
seeded randomness, so the same weights write the same text. No private text is shown. numpy only.
"""

from __future__ import annotations

import numpy as np

from harness.data.manifest import PreparedData
from harness.scoring.channel import ModelServer, ScoreError
from harness.scoring.measure import Measurement
from harness.scoring.scorer import open_rows, start_server

TEXTS, BEGINNING, TOKENS = 3, 16, 64  # how many, and how long each begins and goes on
TEMPERATURE = 0.8  # at 1 a small model's rare slips lead it astray within a line
SEED = 1


def beginnings(data: PreparedData) -> np.ndarray:
    """The first tokens of rows from all over the training text, BOS first, (TEXTS, BEGINNING)
    uint16. They are the same for every model of this data.
    """
    rows = open_rows(data, "train")
    return np.array(rows[np.arange(TEXTS) * len(rows) // TEXTS, :BEGINNING])


def write_on(measurement: Measurement) -> np.ndarray:
    """The tokens with which the run's model goes on from `beginnings`, (TEXTS, n) uint16: at most
    TOKENS, as many as its rows have room for. Raises ScoreError."""
    data = measurement.data
    with (
        measurement.ready("writing", None) as job,
        start_server(data, job, "logits", TEXTS) as server,
    ):
        return draw_tokens(server, beginnings(data), data.max_seq_len, np.random.default_rng(SEED))


def draw_tokens(
    server: ModelServer, begun: np.ndarray, length: int, rng: np.random.Generator
) -> np.ndarray:
    """Go on from `begun` (n, m) token by token within rows of `length`; return what was added."""
    rows = np.zeros((len(begun), length), dtype=np.uint16)  # what follows a place is not looked at
    rows[:, : begun.shape[1]] = begun
    end = min(length, begun.shape[1] + TOKENS)
    for place in range(begun.shape[1], end):
        logits = server.logits(rows, np.full(len(rows), place - 1)).astype(np.float64)
        if not np.isfinite(logits).all():
            raise ScoreError("nan", "its logits are not finite")
        # The largest after Gumbel noise is a draw from the softmax.
        rows[:, place] = (logits / TEMPERATURE + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return rows[:, begun.shape[1] : end]
