"""Rows begin with BOS and hold every token exactly once."""

import math

import numpy as np
import pytest

from harness.data.packing import count_content, count_targets, pack_rows, score_totals, unigram_bpb

BOS = 60_000


def pack_numbered(lengths, max_seq_len):
    """Packed documents whose ids count up through all of them, so that each id names its place."""
    assert sum(lengths) < BOS
    return pack_rows(np.arange(sum(lengths), dtype=np.uint16), lengths, max_seq_len, BOS)


def read_segments(rows):
    """The runs between BOS tokens."""
    return [
        segment
        for row in rows.tolist()
        for segment in "".join(map(chr, row)).split(chr(BOS))
        if segment
    ]


@pytest.mark.parametrize("max_seq_len", [2, 7, 64, 256])
@pytest.mark.parametrize("mean", [1, 20, 300, 3000])
def test_every_token_stands_in_the_rows_exactly_once_and_in_order(max_seq_len, mean):
    rng = np.random.default_rng([max_seq_len, mean])
    lengths = []
    while sum(lengths) < 20_000 and len(lengths) < 2000:
        lengths.append(int(rng.exponential(mean)) + 1)
    rows = pack_numbered(lengths, max_seq_len)
    assert rows.dtype == np.uint16 and rows.shape[1] == max_seq_len + 1
    assert (rows[:, 0] == BOS).all()
    assert count_content(rows, BOS) == sum(lengths)
    segments = sorted([ord(char) for char in segment] for segment in read_segments(rows))
    assert [token for segment in segments for token in segment] == list(range(sum(lengths)))
    starts = set(np.cumsum([0, *lengths]).tolist())
    for segment in segments:  # no piece is too long or reaches from one document into the next
        assert len(segment) <= max_seq_len
        assert not starts & set(segment[1:])


def test_only_the_last_row_is_padded():
    rng = np.random.default_rng(0)
    rows = pack_numbered(rng.integers(1, 90, 500).tolist(), 64)
    double = (rows[:-1, 1:] == BOS) & (rows[:-1, :-1] == BOS)
    # A gap of one is a lone BOS, so no two stand together before the last row.
    assert not double.any()
    assert not (rows[-1] == BOS).all()


def test_best_fit_cuts_the_longest_where_nothing_fits():
    rows = pack_numbered([5, 2, 6], 8)  # ids 0-4, 5-6, 7-12
    assert rows.tolist() == [[BOS, 7, 8, 9, 10, 11, 12, BOS, 0], [BOS, 1, 2, 3, 4, BOS, 5, 6, BOS]]


def test_full_pieces_are_rows_of_their_own():
    rows = pack_numbered([9], 4)
    assert rows.tolist() == [[BOS, 0, 1, 2, 3], [BOS, 4, 5, 6, 7], [BOS, 8, BOS, BOS, BOS]]


def test_nothing_gives_no_rows():
    assert pack_numbered([], 8).shape == (0, 9)
    assert pack_numbered([0], 8).shape == (0, 9)


def test_packing_keeps_up_with_many_short_documents():
    lengths = np.random.default_rng(0).integers(1, 400, 5000).tolist()
    rows = pack_rows(np.zeros(sum(lengths), np.uint16), lengths, 256, BOS)
    assert (rows != BOS).mean() > 0.97  # the places that BOS takes are few


def test_targets_are_counted_without_the_first_column():
    rows = np.array([[3, 0, 1, 3, 1], [3, 2, 2, 3, 3]], dtype=np.uint16)
    counts = count_targets(rows, 4)
    assert counts.tolist() == [1, 2, 2, 3]
    assert score_totals(counts, np.array([1, 4, 2, 0], np.int32)) == {
        "tokens": 5,
        "bytes": 1 + 8 + 4,
    }


def test_a_uniform_unigram_scores_log2_of_the_vocabulary_per_token():
    token_bytes = np.array([1] * 16 + [0], np.int32)
    even = np.array([1000] * 16 + [77], np.int64)
    assert unigram_bpb(even, even, token_bytes) == pytest.approx(math.log2(16))
    assert unigram_bpb(np.zeros(17, np.int64), even, token_bytes) == pytest.approx(math.log2(16))
    assert unigram_bpb(even, even, token_bytes * 3) == pytest.approx(math.log2(16) / 3)


def test_a_unigram_fitted_on_what_it_scores_has_the_entropy_of_the_counts():
    counts = np.array([800_000, 150_000, 50_000, 0, 5], np.int64)
    shares = np.array([0.8, 0.15, 0.05])
    entropy = -(shares * np.log2(shares)).sum()
    assert unigram_bpb(counts, counts, np.array([1, 1, 1, 1, 0], np.int32)) == pytest.approx(
        entropy, rel=1e-4
    )
