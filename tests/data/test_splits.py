"""Content alone decides where a document goes."""

import pytest

from harness.data.splits import (
    EVAL_SPLITS,
    MIN_EVAL_ROWS,
    UNSEEN_TOKENS,
    choose_eval,
    content_key,
    hash_fraction,
    row_slots,
)
from harness.ground.errors import DataError


def test_layout_and_case_do_not_make_another_document():
    assert content_key("Def  f():\n\treturn 1") == content_key("def f(): return 1\n")
    assert content_key("def f(): return 1") != content_key("def f(): return 2")
    assert 0 <= hash_fraction(bytes(32)) < hash_fraction(b"\xff" * 32) < 1


def count_full_rows(lengths, limit, max_seq_len):
    return sum(row_slots(min(n, limit or n), max_seq_len) for n in lengths) // (max_seq_len + 1)


def test_each_split_takes_just_enough_documents():
    lengths = [100] * 1000
    read = []
    choices = choose_eval((read.append(n) or n for n in lengths), rows=64, max_seq_len=64)
    assert len(choices) == len(EVAL_SPLITS)
    for rows, documents, limit in choices:
        assert rows == 64
        assert count_full_rows([100] * documents, limit, 64) >= 64
        assert count_full_rows([100] * (documents - 1), limit, 64) < 64
    # the rest of the pool was not even tokenised
    assert len(read) == sum(choice.documents for choice in choices)


@pytest.mark.parametrize("max_seq_len", [64, 2048, 2**14])
def test_the_unseen_split_stays_small_and_no_document_makes_it_up(max_seq_len):
    rows = 2**20 // max_seq_len
    val, holdout, unseen = choose_eval([2**18] * 200, rows, max_seq_len)
    assert val.rows == holdout.rows == rows
    assert unseen.rows == max(MIN_EVAL_ROWS, UNSEEN_TOKENS // max_seq_len)
    assert unseen.documents >= 8


def test_no_single_document_makes_up_the_validation_set():
    val, *_ = choose_eval([1_000_000] + [50] * 1000, rows=64, max_seq_len=64)
    assert val.limit == 64  # max_seq_len, which is more than a 64th of the rows' tokens
    assert val.documents > 30


def test_a_small_pool_shrinks_all_splits_alike_and_a_tiny_one_is_refused():
    lengths = [100] * 40  # 4,000 tokens: 20 rows of 64 each at the very most
    choices = choose_eval(lengths, rows=64, max_seq_len=64)
    [most] = {choice.rows for choice in choices}
    assert MIN_EVAL_ROWS <= most < 64
    for rows in (most, most + 1):  # the most that fits: one row more does not
        needed = -(-rows * 65 // row_slots(100, 64))
        assert (3 * needed <= len(lengths)) == (rows == most)
    with pytest.raises(DataError, match="too small"):
        choose_eval([100] * 4, rows=64, max_seq_len=64)
    with pytest.raises(DataError, match="too small"):
        choose_eval([], rows=64, max_seq_len=64)
