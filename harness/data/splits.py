"""Which document belongs where: decided by its own content, so that nothing else can move it.

In: texts; the token counts of documents in hash order. Out: a text's key, and how many documents
each evaluation split takes. Refuses a corpus too small for splits of MIN_EVAL_ROWS rows.

    val       decides val_bpb
    holdout   says whether a gain is there on other text, too
    unseen    smaller; for the audit: no process that scores val or holdout ever gets it

key = SHA-256 of the text with white space collapsed and letters lower-cased, so that copies that
differ in layout only are one document. The key read as a fraction in [0, 1) places it:

    0                           POOL_SHARE                                   1
    | val | holdout | unseen | train ...     | train, also read by the tokenizer |

Validation takes whole documents from the left until its rows are full, then holdout, then unseen,
and all the rest is train. How many that is depends on the tokenizer; the tokenizer therefore only
ever reads documents right of POOL_SHARE.

A source may keep text out of evaluation (parts of the pool `train`). Evaluation is then chosen in
the same way among its other parts, and train documents equal to one of evaluation are dropped.
Where those other parts are `any`, what evaluation leaves of them is train as well. Where they are
`private`, evaluation is taken from all of them, the rest of them stays unused, and the tokenizer
reads train documents equal to no private one.
"""

import hashlib
import itertools
from collections.abc import Iterable
from typing import NamedTuple

from harness.ground.errors import DataError

EVAL_SPLITS = ("val", "holdout", "unseen")  # in the order in which they take documents
POOL_SHARE = 0.25  # they together never take more of the corpus than this
UNSEEN_TOKENS = 1 << 15  # of the unseen split, at most; no more than of validation either
MIN_EVAL_ROWS = 8  # fewer rows than this measure nothing
# No document fills more of an evaluation split than this while there are others. Long documents
# differ more from one another than their parts do: with 1/8, 26 files of the standard library's
# tests made a split, and a gain of 0.34 bpb on validation was 0.23 on holdout.
DOCUMENT_SHARE = 1 / 64


class SplitChoice(NamedTuple):
    """`rows` rows from the next `documents` documents, in hash order, after the split before.

    A document gives at most `limit` tokens to its split (None: all it has).
    """

    rows: int
    documents: int
    limit: int | None


def content_key(text: str) -> bytes:
    """32 bytes, equal for texts that differ only in white space and case."""
    return hashlib.sha256(" ".join(text.lower().split()).encode("utf-8")).digest()


def hash_fraction(key: bytes) -> float:
    """The key as a number in [0, 1); keys sort as these numbers do."""
    return int.from_bytes(key[:6], "big") / (1 << 48)  # 48 bits: exact, so 1.0 is never reached


def row_slots(tokens: int, max_seq_len: int) -> int:
    """Places that a document fills in rows: its tokens, a BOS before each max_seq_len of them."""
    return tokens + -(-tokens // max_seq_len)


def choose_eval(lengths: Iterable[int], rows: int, max_seq_len: int) -> list[SplitChoice]:
    """Choose the documents of EVAL_SPLITS from `lengths`, the pool's token counts in hash order.

    Reads no more of `lengths` than it needs. Where the pool is too small for `rows` rows of
    validation, the most that it can fill: first by taking long documents whole, then with fewer
    rows. DataError below MIN_EVAL_ROWS.
    """
    lengths, again = itertools.tee(lengths)
    choices = _fill_splits(lengths, rows, max_seq_len, DOCUMENT_SHARE)
    if len(choices) == len(EVAL_SPLITS):
        return choices
    seen = list(again)
    # the most rows that whole documents fill; more rows never fit where fewer did not
    low, high = 0, rows
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(_fill_splits(seen, middle, max_seq_len, None)) == len(EVAL_SPLITS)
        low, high = (middle, high) if fits else (low, middle - 1)
    if low < MIN_EVAL_ROWS:
        raise DataError(
            f"the corpus is too small: the part set aside for evaluation fills {low} rows of "
            f"{max_seq_len} tokens in each of {', '.join(EVAL_SPLITS)}, {MIN_EVAL_ROWS} are the "
            "least: use more text or a smaller max_seq_len"
        )
    return _fill_splits(seen, low, max_seq_len, None)


def _fill_splits(
    lengths: Iterable[int], rows: int, max_seq_len: int, document_share: float | None
) -> list[SplitChoice]:
    """The splits that `lengths` fill, in order; fewer than there are where they do not suffice.

    document_share: the most of its split that one document may fill; None: all of it.
    """
    unseen = min(rows, max(MIN_EVAL_ROWS, UNSEEN_TOKENS // max_seq_len))
    choices: list[SplitChoice] = []
    left = iter(lengths)
    for wanted in (rows, rows, unseen):
        limit = document_share and max(max_seq_len, int(wanted * max_seq_len * document_share))
        documents = slots = 0
        while slots < wanted * (max_seq_len + 1):
            tokens = next(left, None)
            if tokens is None:
                return choices
            slots += row_slots(tokens if limit is None else min(tokens, limit), max_seq_len)
            documents += 1
        choices.append(SplitChoice(wanted, documents, limit))
    return choices
