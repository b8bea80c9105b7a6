"""Content alone decides where a document goes."""

import pytest

from harness.data import DataError
from harness.data.splits import MIN_EVAL_ROWS, choose_eval, content_key, hash_fraction, row_slots


def test_layout_and_case_do_not_make_another_document():
    assert content_key("Def  f():\n\treturn 1") == content_key("def f(): return 1\n")
    assert content_key("def f(): return 1") != content_key("def f(): return 2")
    assert 0 <= hash_fraction(bytes(32)) < hash_fraction(b"\xff" * 32) < 1


def count_full_rows(lengths, limit, max_seq_len):
    return sum(row_slots(min(n, limit or n), max_seq_len) for n in lengths) // (max_seq_len + 1)


def test_validation_then_holdout_take_just_enough_documents():
    lengths = [100] * 1000
    read = []
    choice = choose_eval((read.append(n) or n for n in lengths), rows=64, max_seq_len=64)
    assert choice.rows == 64
    assert choice.n_val == choice.n_holdout
    assert count_full_rows([100] * choice.n_val, choice.limit, 64) >= 64
    assert count_full_rows([100] * (choice.n_val - 1), choice.limit, 64) < 64
    assert len(read) == choice.n_val + choice.n_holdout  # the rest of the pool was not even tokenised


def test_no_single_document_makes_up_the_validation_set():
    choice = choose_eval([1_000_000] + [50] * 1000, rows=64, max_seq_len=64)
    assert choice.limit == 64 * 64 // 8
    assert choice.n_val > 30


def test_a_small_pool_shrinks_both_splits_alike_and_a_tiny_one_is_refused():
    lengths = [100] * 40  # 4,000 tokens: 30 rows of 64 each at the very most
    choice = choose_eval(lengths, rows=64, max_seq_len=64)
    assert MIN_EVAL_ROWS <= choice.rows < 64
    for rows in (choice.rows, choice.rows + 1):  # the most that fits: one row more does not
        needed = -(-rows * 65 // row_slots(100, 64))
        assert (2 * needed <= len(lengths)) == (rows == choice.rows)
    with pytest.raises(DataError, match="too small"):
        choose_eval([100] * 4, rows=64, max_seq_len=64)
    with pytest.raises(DataError, match="too small"):
        choose_eval([], rows=64, max_seq_len=64)
