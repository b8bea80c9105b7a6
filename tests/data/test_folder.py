"""A folder of anything as a corpus: every text comes out once, and nothing crashes.

Everything else is counted.
"""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from fake_source import make_texts

from harness.data import folder, textfiles
from harness.data.folder import Folder
from harness.data.prepare import DataSpec, find_prepared, prepare
from harness.data.sources import open_source
from harness.ground.errors import DataError

SIZES = {"vocab_size": 256, "max_seq_len": 32, "eval_tokens": 3200}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_table(path: Path, columns: dict, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def read_all(source):
    """All texts, and everything that was skipped, over all parts."""
    skipped = Counter()
    return [text for part in source.parts() for text in source.iter_part(part, skipped)], skipped


def test_every_kind_of_text_is_read_and_everything_else_is_counted(tmp_path):
    write(tmp_path / "a.txt", "plain\r\ntext\n")
    write(tmp_path / "deep" / "er" / "B.MD", "\ufeff# Titel über\n")
    write(tmp_path / "deep" / "c.py", "x = 1\n")
    write(tmp_path / "z.txt.gz", gzip.compress(b"squeezed\n"))
    lines = [
        *('{"text": "one"}', "", "{broken", '{"body": 2}', '["text"]'),
        *('{"text": ""}', '{"text": 3}', '{"text": "two"}'),
    ]
    write(tmp_path / "lines.jsonl", "\n".join(lines))
    write_table(
        tmp_path / "table.parquet", {"n": [1, 2, 3, 4], "text": ["row 0", None, " ", "row 3"]}
    )
    write_table(tmp_path / "other.parquet", {"body": ["nothing to see"]})
    write(tmp_path / "torn.parquet", (tmp_path / "table.parquet").read_bytes()[:200])
    write(tmp_path / "torn.jsonl.gz", gzip.compress(b'{"text": "never whole"}\n' * 1000)[:40])
    write(tmp_path / "not.txt.gz", "not compressed")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "blank.md", " \n\t\n")
    write(tmp_path / "latin.txt", b"caf\xe9\n")
    write(tmp_path / "program.txt", b"\x7fELF\0\0\0")
    write(tmp_path / "picture.png", b"\x89PNG")
    write(tmp_path / ".git" / "readme.md", "hidden")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    texts, skipped = read_all(Folder(tmp_path))
    assert texts == [  # in the order of the files' names
        "plain\r\ntext\n",
        "x = 1\n",
        "# Titel über\n",
        *("one", "two"),
        *("row 0", "row 3"),
        "squeezed\n",
    ]
    assert skipped == {
        "malformed line": 1,
        "no text in 'text'": 4,  # three lines and a null
        "empty": 4,  # two files, a line, a row
        "no text column": 1,
        "damaged": 3,
        "badly encoded": 1,
        "binary": 1,
    }


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read, even by root"
)
def test_an_unreadable_file_is_a_counted_skip(tmp_path):
    write(tmp_path / "a.txt", "fine\n")
    (tmp_path / "mem.txt").symlink_to("/proc/self/mem")
    source = Folder(tmp_path)
    assert source.source_id()
    assert read_all(source) == (["fine\n"], {"unreadable": 1})


def test_another_field_is_named_in_the_spec(tmp_path):
    write(tmp_path / "lines.jsonl", '{"body": "one", "text": "no"}\n')
    write_table(tmp_path / "table.parquet", {"body": ["two"], "text": ["no"]})
    source = open_source(f"folder:{tmp_path}::body")
    assert read_all(source)[0] == ["one", "two"]
    assert open_source(source.spec).spec == source.spec
    assert source.source_id() != Folder(tmp_path).source_id()


def test_a_giant_file_becomes_documents_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "DOCUMENT_BYTES", 1000)
    text = "".join(f"line {number} with an é\n" for number in range(500)) + "ü" * 2500 + "\nend"
    write(tmp_path / "giant.txt", text)
    bad = write(tmp_path / "spoilt.txt", "x\n" * 1400)
    bad.write_bytes(bad.read_bytes()[:1500] + b"\xff" + bad.read_bytes()[1500:])
    texts, skipped = read_all(Folder(tmp_path))
    spoilt = [piece for piece in texts if piece.startswith("x\n")]
    pieces = [piece for piece in texts if piece not in spoilt]
    assert "".join(pieces) == text and all(len(piece.encode()) <= 1000 for piece in pieces)
    assert all(piece.endswith("\n") or "ü" in piece or piece.endswith("end") for piece in pieces)
    assert skipped == {"badly encoded": 1}  # one piece of the spoilt file, not all of it
    assert len(spoilt) == 2


def test_an_endless_line_of_json_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(textfiles, "LINE_BYTES", 100)
    lines = [json.dumps({"text": "x" * size}) for size in (10, 500, 1000, 20)]
    write(tmp_path / "a.jsonl", "\n".join(lines))
    texts, skipped = read_all(Folder(tmp_path))
    assert [len(text) for text in texts] == [10, 20]
    assert skipped == {"line too long": 2}


def test_a_table_is_read_by_rows_across_its_groups(tmp_path):
    write_table(
        tmp_path / "t.parquet", {"text": [f"row {n}" for n in range(1000)]}, row_group_size=300
    )
    for start, stop in ((0, 1000), (0, 10), (299, 301), (300, 600), (650, None), (999, 1000)):
        texts = list(textfiles.iter_table(tmp_path / "t.parquet", "text", {}, start, stop))
        assert texts == [f"row {n}" for n in range(1000)[start:stop]]


def test_parts_share_the_files_among_processes(tmp_path, monkeypatch):
    for number in range(10):
        write(tmp_path / f"{number}.txt", f"{number}" * 100)
    whole = read_all(Folder(tmp_path))[0]
    monkeypatch.setattr(folder, "PART_BYTES", 300)
    source = Folder(tmp_path)
    assert len(source.parts()) == 4
    assert read_all(source)[0] == whole and len(whole) == 10


def test_the_id_follows_names_and_content_and_its_memory_keeps_it_cheap(tmp_path, monkeypatch):
    text = write(tmp_path / "My Books!" / "a.txt", "one\n")
    write(text.with_name("b.txt"), "two\n")

    def identify():
        return open_source(f"folder:{text.parent}", tmp_path / "cache").source_id()

    first = identify()
    assert first.startswith("folder-my-books-") and Folder(text.parent).source_id() == first
    write(text.with_name("picture.png"), "not read")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "sha256_file", lambda path: pytest.fail(f"read {path} again"))
        assert identify() == first
    write(text, "One\n")
    os.utime(text, ns=(1, 1))
    second = identify()
    text.rename(text.with_name("c.txt"))
    third = identify()
    assert len({first, second, third}) == 3
    write(text.with_name("c.txt"), "one\n").rename(text)
    [memory] = (tmp_path / "cache" / "folders").iterdir()
    memory.write_text("[damaged")
    assert identify() == first


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file, not a folder"),
        (lambda path: path.mkdir(), "no file at all"),
        (lambda path: write(path / "a.csv", "x"), "1 with .csv"),
    ],
)
def test_a_path_that_gives_no_text_says_what_is_wanted(tmp_path, make, words):
    make(tmp_path / "here")
    with pytest.raises(DataError, match=words) as error:
        find_prepared(DataSpec(f"folder:{tmp_path / 'here'}", **SIZES, cache=tmp_path / "cache"))
    assert ".txt, .md, .py, .jsonl, .parquet" in str(error.value)


def test_files_that_are_all_unusable_are_an_error_with_the_reasons(tmp_path):
    write(tmp_path / "here" / "a.txt", b"\xff\xfe")
    write(tmp_path / "here" / "b.txt", "")
    with pytest.raises(DataError, match="no usable document; skipped: 1 badly encoded, 1 empty"):
        prepare(
            DataSpec(f"folder:{tmp_path / 'here'}", **SIZES, cache=tmp_path / "cache"),
            progress=lambda line: None,
        )


@pytest.mark.parametrize("spec", ["folder", "folder:", "folder:x::"])
def test_a_spec_without_a_path_is_refused(spec):
    with pytest.raises(DataError, match="folder:PATH"):
        open_source(spec)


def test_a_relative_path_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_source("folder:./a/../books").spec == f"folder:{tmp_path}/books"
    assert open_source("folder:~/books").spec == f"folder:{tmp_path}/books"


def make_corpus(path: Path) -> Path:
    for number, text in enumerate(make_texts(200)):
        write(path / f"{number // 10}" / f"{number}.txt", text)
    return path


def test_a_folder_is_prepared_and_found_and_a_change_is_another_corpus(tmp_path):
    corpus, cache = make_corpus(tmp_path / "corpus"), tmp_path / "cache"
    data = prepare(
        DataSpec(f"folder:{corpus}", **SIZES, cache=cache), workers=2, progress=lambda line: None
    )
    assert data.manifest["documents"]["read"] == 200
    assert (
        find_prepared(DataSpec(f"folder:{corpus}", **SIZES, cache=cache)).data_hash
        == data.data_hash
    )
    write(corpus / "more.txt", "more text\n")
    with pytest.raises(DataError, match=f"--source folder:{corpus} --vocab-size 256"):
        find_prepared(DataSpec(f"folder:{corpus}", **SIZES, cache=cache))


def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path / "corpus")
    read = Folder.iter_part

    def read_and_change(self, part, skipped):
        yield from read(self, part, skipped)
        write(corpus / "late.txt", "late\n")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "iter_part", read_and_change)
        with pytest.raises(DataError, match="changed while it was read"):
            prepare(
                DataSpec(f"folder:{corpus}", **SIZES, cache=tmp_path / "cache"),
                workers=1,
                progress=lambda line: None,
            )
    data = prepare(
        DataSpec(f"folder:{corpus}", **SIZES, cache=tmp_path / "cache"),
        workers=1,
        progress=lambda line: None,
    )
    assert data.manifest["documents"]["read"] == 201 and not data.manifest["prepare"]["resumed"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM")
def test_memory_stays_bounded_on_giant_files(tmp_path):
    with open(tmp_path / "giant.txt", "wb") as file:
        for number in range(100):
            file.write((f"{number} some words of text\n" * 50_000).encode()[: 1 << 20])
    texts = [f"{number} " + "word " * 200 for number in range(60_000)]
    write_table(
        tmp_path / "giant.parquet",
        {"text": texts},
        row_group_size=60_000,
        use_dictionary=False,
        compression="none",
    )
    code = (
        "import sys\n"
        "from harness.data.folder import Folder\n"
        "from harness.data.workers import peak_rss_mb\n"
        "import pyarrow.parquet\n"
        "source = Folder(sys.argv[1])\n"
        "before = peak_rss_mb()\n"
        "size = sum(len(text) for part in source.parts() for text in source.iter_part(part, {}))\n"
        "print(size, peak_rss_mb() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(out[0]) == 100 * (1 << 20) + sum(map(len, texts))
    assert int(out[1]) < 50, f"{out[1]} MB for two files of 100 and 60 MB"
