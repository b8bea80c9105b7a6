"""Token ids in, rows of max_seq_len + 1 out: every row begins with BOS, no text is cropped.

A row gives a model inputs row[:-1] and targets row[1:]; BOS as a target is not scored. A document
is cut into pieces of at most T = max_seq_len tokens, each with its own BOS before it. A full piece
is a row. The others are packed best-fit: a row takes the longest piece that fits what is left of
it, and where none fits, the longest of all is cut: its head fills the row to the last place, its
tail goes back with a BOS of its own. A single place left over holds a lone BOS. Only the last row
may end in padding, which is BOS too. The cost is linear in tokens, a few microseconds per piece.
"""

import math
from collections.abc import Sequence

import numpy as np

ROW_DTYPE = np.dtype("<u2")  # on disk: little-endian on every machine

# Start and length, in tokens of the text; a plain tuple, since there are millions
Piece = tuple[int, int]
# Where in the flat rows a piece's first token goes, and the piece
Placed = tuple[int, int, int]


class Pool:
    """Pieces by length, with the longest that is at most some length found in one step."""

    def __init__(self, max_length: int) -> None:
        self._starts: list[list[int]] = [[] for _ in range(max_length + 1)]
        self._lengths = 0  # bit n is set when there is a piece of length n

    def __bool__(self) -> bool:
        return self._lengths != 0

    def add(self, start: int, length: int) -> None:
        self._starts[length].append(start)
        self._lengths |= 1 << length

    def pop_longest(self, limit: int) -> Piece | None:
        """Take out the longest piece of at most `limit` tokens, or None."""
        length = (self._lengths & ((2 << limit) - 1)).bit_length() - 1
        if length < 0:
            return None
        starts = self._starts[length]
        start = starts.pop()
        if not starts:
            self._lengths ^= 1 << length
        return start, length


def pack_rows(
    text: np.ndarray, lengths: Sequence[int], max_seq_len: int, bos_id: int
) -> np.ndarray:
    """Pack documents into rows (n_rows, max_seq_len + 1) uint16.

    text: the ids of all documents, uint16 (n,); lengths: how many each document has. Rows of full
    pieces come first, in the documents' order; then the mixed ones.
    """
    full, pool = _cut_documents(lengths, max_seq_len)
    placed, n_mixed = _place_pieces(pool, max_seq_len)
    n_full = sum(count for _, count in full)
    rows = np.full((n_full + n_mixed, max_seq_len + 1), bos_id, dtype=ROW_DTYPE)
    top = 0
    for start, count in full:
        pieces = text[start : start + count * max_seq_len]
        rows[top : top + count, 1:] = pieces.reshape(count, max_seq_len)
        top += count
    mixed = rows[top:].reshape(-1)
    for place, start, length in placed:
        mixed[place : place + length] = text[start : start + length]
    return rows


def _cut_documents(lengths: Sequence[int], max_seq_len: int) -> tuple[list[Piece], Pool]:
    """Where each document's full pieces start and how many there are; a pool of its shorter end."""
    full, pool, start = [], Pool(max_seq_len), 0
    for length in lengths:
        count, rest = divmod(length, max_seq_len)
        if count:
            full.append((start, count))
        if rest:
            pool.add(start + count * max_seq_len, rest)
        start += length
    return full, pool


def _place_pieces(pool: Pool, max_seq_len: int) -> tuple[list[Placed], int]:
    """Empty the pool into rows, best-fit; the pieces' places and the number of rows."""
    placed: list[Placed] = []
    width, row = max_seq_len + 1, 0
    while pool:
        column = 0
        while pool and column < max_seq_len:  # at column max_seq_len there is room for a BOS only
            room = max_seq_len - column
            start, length = pool.pop_longest(room) or (0, 0)
            if not length:
                start, whole = pool.pop_longest(max_seq_len)
                length = room
                pool.add(start + length, whole - length)
            placed.append((row * width + column + 1, start, length))
            column += 1 + length
        row += 1
    return placed, row


def count_content(rows: np.ndarray, bos_id: int) -> int:
    """Ordinary tokens that stand in `rows`, counted."""
    return int(np.count_nonzero(rows != bos_id))


def count_targets(rows: np.ndarray, n_vocab: int) -> np.ndarray:
    """How often each id is a target: stands anywhere but first in a row. int64 (n_vocab,)."""
    return np.bincount(rows[:, 1:].ravel(), minlength=n_vocab)


def score_totals(target_counts: np.ndarray, token_bytes: np.ndarray) -> dict[str, int]:
    """Scored targets and their raw bytes: all targets but the special ones, which have no bytes."""
    tokens = int(target_counts[token_bytes > 0].sum())
    return {"tokens": tokens, "bytes": int(target_counts @ token_bytes.astype(np.int64))}


def unigram_bpb(
    train_counts: np.ndarray, eval_counts: np.ndarray, token_bytes: np.ndarray
) -> float:
    """Bits per byte of a model that knows only how frequent each ordinary token is.

    Frequencies from `train_counts` with one added to each, so that an unseen token costs much but
    not everything; scored on `eval_counts`. All three (n_vocab,). The bar that any trained model
    must clear by far.
    """
    scored = token_bytes > 0
    smoothed = train_counts[scored] + 1.0
    nats = -float(eval_counts[scored] @ np.log(smoothed / smoothed.sum()))
    return nats / (math.log(2) * score_totals(eval_counts, token_bytes)["bytes"])
