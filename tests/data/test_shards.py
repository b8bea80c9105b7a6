"""Shards hold every document once, in hash order, whoever wrote them."""

import pytest
from fake_source import FakeSource, PartedSource, make_texts

from harness.data import shards
from harness.data.rows import iter_tokenizer_text
from harness.data.shards import make_group_tasks, read_shard, write_group
from harness.data.source import Part
from harness.data.splits import POOL_SHARE, content_key, hash_fraction


def write_all(source, folder, n_shards, order=1):
    """The pool's folder, and the counts of its groups."""
    counts = [write_group(task) for task in make_group_tasks(source, folder, n_shards)[::order]]
    return folder / "any", counts


def test_shards_hold_every_document_once_in_hash_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK_BYTES", 3000)  # many blocks
    texts = make_texts(200)
    copies = [texts[3].upper(), texts[7] + "\n\n", texts[7]]
    folder, [counts] = write_all(FakeSource(texts + copies), tmp_path, 5)
    assert counts["documents"] == 203
    assert counts["bytes"] == sum(len(text.encode()) for text in texts + copies)
    read = [read_shard([folder], index) for index in range(5)]
    documents = [document for shard in read for document in shard.documents]
    assert sorted(document.text for document in documents) == sorted(
        text.encode() for text in texts
    )
    assert [document.key for document in documents] == sorted(content_key(text) for text in texts)
    assert sum(shard.duplicates for shard in read) == 3
    assert sum(shard.duplicate_bytes for shard in read) == sum(
        len(text.encode()) for text in copies
    )
    for index, shard in enumerate(read):
        assert all(
            index / 5 <= hash_fraction(document.key) < (index + 1) / 5
            for document in shard.documents
        )


@pytest.mark.parametrize("most", [256, 3])
def test_the_order_in_which_parts_are_read_does_not_matter(tmp_path, monkeypatch, most):
    monkeypatch.setattr(shards, "MAX_GROUPS", most)
    texts = make_texts(60)
    # Which of two equal ones is kept must not depend on the order.
    texts += [text.upper() for text in texts[:30]]
    whole, _ = write_all(FakeSource(texts), tmp_path / "whole", 4)
    cut, counts = write_all(PartedSource(texts, 13), tmp_path / "cut", 4, order=-1)
    assert len(counts) == (7 if most > 7 else 3)
    # Of every part, not of a group's last one.
    assert sum(group["skipped"]["empty"] for group in counts) == 7
    for index in range(4):
        assert read_shard([cut], index) == read_shard([whole], index)


def test_a_finished_group_is_not_read_again(tmp_path):
    [task] = make_group_tasks(FakeSource(make_texts(3)), tmp_path, 2)
    counts = write_group(task)
    assert write_group(task._replace(source=None)) == counts


def test_pools_that_contradict_each_other_are_refused(tmp_path):
    source = FakeSource([])
    for pools in (["any", "private"], ["any", "private", "train"], ["private"], ["train"]):
        source.parts = lambda pools=pools: [Part(pool, pool) for pool in pools]
        with pytest.raises(AssertionError, match="fake has parts of"):
            make_group_tasks(source, tmp_path, 2)


def test_half_a_surrogate_pair_is_a_counted_skip(tmp_path):
    _, [counts] = write_all(FakeSource(["fine", "bad \ud800"]), tmp_path, 1)
    assert counts["documents"] == 1
    assert counts["skipped"] == {"badly encoded": 1}


def test_the_tokenizer_reads_no_document_that_could_be_private(tmp_path):
    texts = make_texts(300)
    write_all(FakeSource(texts), tmp_path, 7)
    seen = list(iter_tokenizer_text(tmp_path, 7, 1 << 30))
    assert set(seen) == {text for text in texts if hash_fraction(content_key(text)) >= POOL_SHARE}
    sample = list(iter_tokenizer_text(tmp_path, 7, 20_000))
    assert seen[: len(sample)] == sample
    assert (
        20_000
        <= sum(len(text.encode()) for text in sample)
        < 20_000 + max(len(text.encode()) for text in texts)
    )


def test_the_tokenizer_reads_no_copy_of_a_document_that_the_source_set_aside(tmp_path):
    texts = make_texts(90)
    texts[50], texts[70] = texts[3].upper(), texts[29]
    write_all(PartedSource(texts, 30, private=1), tmp_path, 7)
    seen = set(iter_tokenizer_text(tmp_path, 7, 1 << 30))
    assert seen == {
        text for number, text in enumerate(texts) if number >= 30 and number not in (50, 70)
    }
