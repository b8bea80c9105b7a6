"""Sources stream every usable document once; content alone decides where a document goes."""

import sysconfig
from pathlib import Path

import pytest
from fake_source import FakeSource, make_texts

from harness.data import DataError, splits
from harness.data.rows import iter_tokenizer_text
from harness.data.sources import open_source
from harness.data.stdlib import PythonStdlib
from harness.data.splits import (
    MIN_EVAL_ROWS,
    POOL_SHARE,
    choose_eval,
    content_key,
    hash_fraction,
    iter_shards,
    read_shard,
    row_slots,
    shard_path,
    write_shards,
)


def make_library(folder: Path) -> Path:
    files = {
        "a.py": b"import os\r\n",
        "pkg/b.py": "name = 'é'\n".encode(),
        "pkg/__init__.py": b"",
        "pkg/blank.py": b" \n\t\n",
        "pkg/latin.py": b"# caf\xe9\n",
        "pkg/notes.txt": b"no Python",
        "pkg/__pycache__/b.py": b"cached",
        "site-packages/other.py": b"installed",
        "dist-packages/other.py": b"installed",
        "_sysconfigdata__linux_x86_64.py": b"build = 1\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "gone.py").symlink_to(folder / "nowhere.py")
    return folder


def test_the_library_is_read_byte_for_byte_and_skips_are_counted(tmp_path):
    source = PythonStdlib(make_library(tmp_path))
    documents = {document.name: document.text for document in source.iter_part(source.parts()[0])}
    assert documents == {"a.py": "import os\r\n", "pkg/b.py": "name = 'é'\n"}
    assert dict(source.skipped) == {"badly encoded": 1, "empty": 2}
    list(source.iter_part(source.parts()[0]))
    assert source.skipped["empty"] == 2  # counted afresh


def test_the_id_follows_the_content_and_nothing_else(tmp_path):
    folder = make_library(tmp_path)
    before = PythonStdlib(folder).source_id()
    (folder / "site-packages" / "new.py").write_bytes(b"x = 1\n")
    (folder / "_sysconfigdata__linux_x86_64.py").write_bytes(b"build = 2\n")
    assert PythonStdlib(folder).source_id() == before
    (folder / "a.py").write_bytes(b"import re\r\n")
    assert PythonStdlib(folder).source_id() != before


def test_this_interpreters_own_library():
    source = open_source("python-stdlib")
    names = {document.name for document in source.iter_part(source.parts()[0])}
    assert {"os.py", "json/decoder.py"} <= names
    assert not any("site-packages" in name for name in names)
    assert source.total_bytes() > 5_000_000
    assert source.folder == Path(sysconfig.get_path("stdlib"))


def test_unknown_and_empty_sources_are_named(tmp_path):
    with pytest.raises(DataError, match="python-stdlib"):
        open_source("wikipedia")
    with pytest.raises(DataError, match="no Python sources"):
        PythonStdlib(tmp_path).source_id()


def test_layout_and_case_do_not_make_another_document():
    assert content_key("Def  f():\n\treturn 1") == content_key("def f(): return 1\n")
    assert content_key("def f(): return 1") != content_key("def f(): return 2")
    assert 0 <= hash_fraction(bytes(32)) < hash_fraction(b"\xff" * 32) < 1


def test_shards_hold_every_document_once_in_hash_order(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "BUFFER_BYTES", 3000)  # many flushes
    texts = make_texts(200)
    copies = [texts[3].upper(), texts[7] + "\n\n", texts[7]]
    counts = write_shards(FakeSource(texts + copies), tmp_path, 5, lambda *_: None)
    assert counts["documents"] == 203
    assert counts["bytes"] == sum(len(text.encode()) for text in texts + copies)
    documents = list(iter_shards(tmp_path, 5))
    assert sorted(document.text for document in documents) == sorted(text.encode() for text in texts)
    assert [document.key for document in documents] == sorted(content_key(text) for text in texts)
    shards = [read_shard(shard_path(tmp_path, index)) for index in range(5)]
    assert sum(shard.duplicates for shard in shards) == 3
    assert sum(shard.duplicate_bytes for shard in shards) == sum(len(text.encode()) for text in copies)
    for index, shard in enumerate(shards):
        assert all(index / 5 <= hash_fraction(document.key) < (index + 1) / 5 for document in shard.documents)


def test_half_a_surrogate_pair_is_a_counted_skip(tmp_path):
    counts = write_shards(FakeSource(["fine", "bad \ud800"]), tmp_path, 1, lambda *_: None)
    assert counts["documents"] == 1
    assert counts["skipped"] == {"badly encoded": 1}


def test_the_tokenizer_reads_no_document_that_could_be_private(tmp_path):
    texts = make_texts(300)
    write_shards(FakeSource(texts), tmp_path, 7, lambda *_: None)
    seen = list(iter_tokenizer_text(tmp_path, 7, 1 << 30))
    assert set(seen) == {text for text in texts if hash_fraction(content_key(text)) >= POOL_SHARE}
    sample = list(iter_tokenizer_text(tmp_path, 7, 20_000))
    assert seen[: len(sample)] == sample
    assert 20_000 <= sum(len(text.encode()) for text in sample) < 20_000 + max(len(text.encode()) for text in texts)


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
