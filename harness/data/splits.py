"""Which document belongs where: decided by its own content, so that nothing else can move it.

In: texts; the token counts of documents in hash order. Out: a text's key, and how many documents validation and holdout
take. Refuses a corpus too small for an evaluation of MIN_EVAL_ROWS rows.

key = SHA-256 of the text with white space collapsed and letters lower-cased, so that copies that differ in layout only
are one document. The key read as a fraction in [0, 1) places it:

    0                      POOL_SHARE                                   1
    | validation | holdout | train ...          | train, also read by the tokenizer |

Validation takes whole documents from the left until its rows are full, then holdout, and all the rest is train. How
many that is depends on the tokenizer; the tokenizer therefore only ever reads documents right of POOL_SHARE.

Where the source itself sets text aside (parts of the pools `private` and `train`), validation and holdout are taken in
the same way, but from all of the private documents; the rest of those stays unused, and train is the train documents less
those equal to one of validation or holdout. The tokenizer then reads train documents equal to no private one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from harness.data import DataError

POOL_SHARE = 0.25  # validation and holdout together never take more of the corpus than this
MIN_EVAL_ROWS = 8  # fewer rows than this measure nothing
DOCUMENT_SHARE = 1 / 8  # no document fills more of an evaluation split than this while there are others


class EvalChoice(NamedTuple):
    """Documents in hash order: the first `n_val` are validation, the next `n_holdout` holdout, `rows` rows of each.

    A document gives at most `limit` tokens to its split (None: all it has).
    """

    rows: int
    n_val: int
    n_holdout: int
    limit: int | None


def content_key(text: str) -> bytes:
    """32 bytes, equal for texts that differ only in white space and case."""
    return hashlib.sha256(" ".join(text.lower().split()).encode("utf-8")).digest()


def hash_fraction(key: bytes) -> float:
    """The key as a number in [0, 1); keys sort as these numbers do."""
    return int.from_bytes(key[:6], "big") / (1 << 48)  # 48 bits: exact in a float, so 1.0 is never reached


def row_slots(tokens: int, max_seq_len: int) -> int:
    """Places that a document fills in rows: its tokens, and a BOS before each piece of at most max_seq_len of them."""
    return tokens + -(-tokens // max_seq_len)


def choose_eval(lengths: Iterable[int], rows: int, max_seq_len: int) -> EvalChoice:
    """Choose the documents of validation and holdout from `lengths`, the pool's token counts in hash order.

    Reads no more of `lengths` than it needs. Where the pool is too small for `rows` rows of each, the most that it can
    fill: first by taking long documents whole, then with fewer rows. DataError below MIN_EVAL_ROWS.
    """
    seen: list[int] = []
    limit = max(max_seq_len, int(rows * max_seq_len * DOCUMENT_SHARE))
    ends = _split_ends(_remember(lengths, seen), rows, max_seq_len, limit)
    if len(ends) == 2:
        return EvalChoice(rows, ends[0], ends[1] - ends[0], limit)
    low, high = 0, rows  # the most rows that whole documents fill; more rows never fit where fewer did not
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(_split_ends(seen, middle, max_seq_len, None)) == 2
        low, high = (middle, high) if fits else (low, middle - 1)
    if low < MIN_EVAL_ROWS:
        raise DataError(
            f"the corpus is too small: the part set aside for evaluation fills {low} rows of {max_seq_len} tokens for "
            f"validation and as many for holdout, {MIN_EVAL_ROWS} are the least: use more text or a smaller max_seq_len"
        )
    ends = _split_ends(seen, low, max_seq_len, None)
    return EvalChoice(low, ends[0], ends[1] - ends[0], None)


def _remember(values: Iterable[int], seen: list[int]) -> Iterator[int]:
    for value in values:
        seen.append(value)
        yield value


def _split_ends(lengths: Iterable[int], rows: int, max_seq_len: int, limit: int | None) -> list[int]:
    """Up to two ends: validation is documents [0, ends[0]), holdout [ends[0], ends[1])."""
    ends: list[int] = []
    slots = 0
    for number, tokens in enumerate(lengths, start=1):
        slots += row_slots(tokens if limit is None else min(tokens, limit), max_seq_len)
        if slots >= rows * (max_seq_len + 1):
            ends.append(number)
            slots = 0
            if len(ends) == 2:
                break
    return ends
