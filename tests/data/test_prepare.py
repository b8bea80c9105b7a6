"""Preparing: what comes out, that it is done once, goes on after a kill, and says what is wrong."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import filelock
import numpy as np
import pytest
from checkout import ROOT
from fake_source import FakeSource, make_texts
from waiting import wait_until

from harness.data import prepare as prepare_module
from harness.data import rows, stages
from harness.data.manifest import FILES, FORMAT_VERSION, open_prepared, without_format
from harness.data.packing import pack_rows
from harness.data.prepare import DataSpec, default_cache, find_prepared, prepare
from harness.data.rows import open_rows
from harness.data.splits import EVAL_SPLITS, content_key
from harness.data.tokenizer import load_tokenizer
from harness.ground.errors import DataError
from harness.scoring.scorer import open_rows as open_split

TEXTS = make_texts(400)
COPIES = [TEXTS[0].upper(), TEXTS[1].replace("\n", "\n\n"), TEXTS[2]]
SIZES = {"vocab_size": 320, "max_seq_len": 32, "eval_tokens": 3200}
SPLITS = ("train", *EVAL_SPLITS)


def quiet(_):
    pass


def prepare_small(cache, texts=TEXTS + COPIES, workers=1, progress=quiet, **sizes):
    return prepare(
        DataSpec(FakeSource(texts), **{**SIZES, **sizes}, cache=cache),
        workers=workers,
        progress=progress,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "SHARD_BYTES", 16_000)
        return prepare_small(tmp_path_factory.mktemp("cache"))


def read_pieces(data, name):
    """The text between BOS tokens, as bytes, in every row of a file."""
    tokenizer = load_tokenizer(data.train_dir / "tokenizer.json")
    pieces = []
    for row in open_rows(data.folder / name, data.max_seq_len).tolist():
        start = 0
        for end in [i for i, token in enumerate(row) if token == data.bos_id] + [len(row)]:
            if piece := tokenizer.decode_bytes(row[start:end]):
                pieces.append(piece)
            start = end
    return pieces


def test_the_manifest_counts_what_is_there(data):
    manifest = data.manifest
    counts = {split: manifest["documents"][split] for split in SPLITS}
    assert sum(counts.values()) == len(TEXTS)
    assert manifest["documents"]["duplicates_dropped"] == len(COPIES)
    assert sum(manifest["bytes"][split] for split in counts) == sum(
        len(text.encode()) for text in TEXTS
    )
    assert {manifest["rows"][split] for split in EVAL_SPLITS} == {3200 // 32}
    assert manifest["eval_tokens"] == manifest["eval_tokens_requested"] == 3200
    assert manifest["eval_batch_rows"] == 16384 // 32
    assert (data.vocab_size, data.n_vocab, data.bos_id, data.max_seq_len) == (320, 321, 320, 32)
    assert set(manifest["files"]) == set(FILES)
    assert manifest["prepare"]["peak_rss_mb"] > 0 and not manifest["prepare"]["resumed"]
    for split in SPLITS:
        assert os.path.getsize(data.rows_path(split)) == manifest["rows"][split] * 33 * 2
        assert open_split(data, split).shape == (manifest["rows"][split], 33)


def test_training_rows_hold_all_the_text_of_their_documents(data):
    pieces = read_pieces(data, "train/rows.bin")
    assert sum(map(len, pieces)) == data.manifest["bytes"]["train"]
    assert data.manifest["kept_share"]["train"] == 1.0
    everything = b"\0".join(text.encode() for text in TEXTS)
    assert all(piece in everything for piece in pieces)


def test_no_document_is_in_two_splits(data):
    markers = {}
    for split in SPLITS:
        joined = b"\0".join(read_pieces(data, data.rows_path(split)))
        markers[split] = set(re.findall(rb"marker [0-9a-f]{16}", joined))
        # The others were cut in two.
        assert len(markers[split]) > 0.5 * data.manifest["documents"][split]
    assert len(set.union(*markers.values())) == sum(map(len, markers.values()))


def test_private_documents_are_the_first_in_hash_order(data):
    order = sorted(TEXTS, key=content_key)
    for split in EVAL_SPLITS:
        texts = [order.pop(0).encode() for _ in range(data.manifest["documents"][split])]
        text = b"\0".join(texts)
        assert all(piece in text for piece in read_pieces(data, f"private/{split}.bin"))
        assert data.manifest["bytes"][split] == sum(map(len, texts))
        assert data.manifest["kept_share"][split] > 0.98


def test_scored_targets_and_their_bytes(data):
    for split in EVAL_SPLITS:
        ids = open_rows(data.private_dir / f"{split}.bin", 32)
        content = Counter(ids[:, 1:].ravel().tolist())
        del content[data.bos_id]
        scored = data.manifest["scored"][split]
        assert scored["tokens"] == content.total() == data.manifest["tokens"][split]
        assert scored["bytes"] == sum(map(len, read_pieces(data, f"private/{split}.bin")))
        assert (ids[:, 0] == data.bos_id).all()


def test_the_table_of_bytes_is_the_tokenizers(data):
    table = np.load(data.train_dir / "token_bytes.npy", allow_pickle=False)
    assert np.array_equal(table, load_tokenizer(data.train_dir / "tokenizer.json").token_bytes())
    assert 0 < data.manifest["unigram_bpb"] < 8
    assert (
        data.manifest["tokens_per_byte"]
        == data.manifest["tokens"]["train"] / data.manifest["bytes"]["train"]
    )


def test_train_holds_nothing_private_and_no_work_is_left(data):
    found = {
        path.relative_to(data.folder).as_posix()
        for path in data.folder.rglob("*")
        if path.is_file()
    }
    assert found == {*FILES, "manifest.json"}
    assert not [path for path in (data.folder.parent / ".work").iterdir() if path.suffix != ".lock"]


def test_worker_processes_give_the_same_bytes(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SHARD_BYTES", 16_000)
    other = prepare_small(tmp_path, workers=2)
    assert other.data_hash == data.data_hash
    assert other.data_id == data.data_id


def test_preparing_twice_does_nothing_twice(data, monkeypatch):
    monkeypatch.setattr(prepare_module, "_build", lambda *_: pytest.fail("built again"))
    lines = []
    again = prepare_small(data.folder.parent, progress=lines.append)
    assert again.manifest == data.manifest
    assert len(lines) == 1 and "nothing to do" in lines[0]
    assert (
        find_prepared(
            DataSpec(FakeSource(TEXTS + COPIES), **SIZES, cache=data.folder.parent)
        ).data_hash
        == data.data_hash
    )


def test_absent_data_names_the_notebook_and_the_command(tmp_path):
    with pytest.raises(
        DataError, match=r"01_prepare\.ipynb.*--vocab-size 320 --max-seq-len 32 --eval-tokens 3200"
    ):
        find_prepared(DataSpec(FakeSource(TEXTS), **SIZES, cache=tmp_path))
    with pytest.raises(DataError, match="01_prepare"):
        open_prepared(tmp_path)


def copy_of(data, tmp_path):
    folder = tmp_path / data.folder.name
    shutil.copytree(data.folder, folder)  # keeps the times
    return folder


def test_a_changed_byte_is_found_and_named_and_prepare_repairs_it(data, tmp_path, monkeypatch):
    folder = copy_of(data, tmp_path)
    raw = bytearray((folder / "train" / "rows.bin").read_bytes())
    raw[100] ^= 1
    (folder / "train" / "rows.bin").write_bytes(raw)
    with pytest.raises(DataError, match=r"train/rows\.bin \(content changed\).*01_prepare"):
        open_prepared(folder)
    monkeypatch.setattr(stages, "SHARD_BYTES", 16_000)
    lines = []
    assert prepare_small(tmp_path, progress=lines.append).data_hash == data.data_hash
    assert "content changed" in lines[0]


def test_every_missing_or_cut_file_is_named(data, tmp_path):
    folder = copy_of(data, tmp_path)
    (folder / "private" / "val.bin").unlink()
    (folder / "train" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json \(size 2, was .*val\.bin \(missing\)"):
        open_prepared(folder)


def test_a_new_time_is_taken_only_with_the_old_content(data, tmp_path):
    folder = copy_of(data, tmp_path)
    path = folder / "private" / "val.bin"
    os.utime(path, ns=(1, 1))
    opened = open_prepared(folder)
    assert opened.data_hash == data.data_hash
    assert (
        json.loads((folder / "manifest.json").read_text())["files"]["private/val.bin"]["mtime_ns"]
        == 1
    )
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(DataError, match=r"val\.bin \(content changed\)"):
        open_prepared(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_manifest_that_is_none_is_refused(data, tmp_path, content):
    folder = copy_of(data, tmp_path)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="01_prepare"):
        open_prepared(folder)


UNSEEN = "private/unseen.bin"


def make_old(folder):
    """Turn a prepared folder into one of format 2, which had no unseen rows."""
    (folder / UNSEEN).unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format_version"] = 2
    del manifest["files"][UNSEEN]
    for counts in ("documents", "bytes", "tokens", "rows", "scored", "kept_share"):
        del manifest[counts]["unseen"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_data_of_format_2_opens_and_says_what_it_lacks(data, tmp_path):
    folder = copy_of(data, tmp_path)
    assert data.lacks == ()
    make_old(folder)
    old = open_prepared(folder)
    assert old.lacks == ("unseen",) and old.data_hash != data.data_hash
    for split in ("train", "val", "holdout"):
        assert np.array_equal(open_split(old, split), open_split(data, split))
    with pytest.raises(DataError, match="without the split 'unseen'.*start a new tag"):
        open_split(old, "unseen")
    (folder / "private" / "val.bin").unlink()
    with pytest.raises(DataError, match=r"val\.bin \(missing\)"):
        open_prepared(folder)


def test_an_unseen_file_that_format_3_should_have_is_missed(data, tmp_path):
    folder = copy_of(data, tmp_path)
    (folder / UNSEEN).unlink()
    with pytest.raises(DataError, match=r"unseen\.bin \(missing\)"):
        open_prepared(folder)


def test_the_id_tells_formats_apart(data):
    assert data.data_id.endswith(f"-v320-t32-e3200-f{FORMAT_VERSION}")
    assert without_format(data.data_id) == data.data_id.removesuffix(f"-f{FORMAT_VERSION}")
    assert without_format("fake-f3-v320-t32-e3200") == "fake-f3-v320-t32-e3200"  # one of format 2


def test_a_small_corpus_shrinks_the_evaluation_and_records_it(tmp_path):
    lines = []
    small = prepare_small(tmp_path, TEXTS[:120], eval_tokens=32_000, progress=lines.append)
    manifest = small.manifest
    assert manifest["eval_tokens"] < manifest["eval_tokens_requested"] == 32_000
    assert {manifest["rows"][split] for split in EVAL_SPLITS} == {manifest["eval_tokens"] // 32}
    assert manifest["rows"]["train"] > manifest["rows"]["val"]
    assert any("the corpus is small" in line for line in lines)


def test_a_corpus_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(DataError, match="too small"):
        prepare_small(tmp_path, TEXTS[:2], vocab_size=256)
    with pytest.raises(DataError, match="no usable document"):
        prepare_small(tmp_path, ["\ud800"])


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 100},
        {"max_seq_len": 1},
        {"eval_tokens": 10},
        {"eval_tokens": "3200"},
        {"workers": 0},
    ],
)
def test_impossible_sizes_are_refused(tmp_path, sizes):
    with pytest.raises(DataError, match=next(iter(sizes))):
        prepare_small(tmp_path, **sizes)


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_clear(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="AUTORESEARCH_CACHE"):
        prepare_small(tmp_path / "file" / "cache")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(DataError, match="MB are free"):
            prepare_small(tmp_path)

    def no_space(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "pack_rows", no_space)
        with pytest.raises(DataError, match="disk of .* is full"):
            prepare_small(tmp_path)
    assert prepare_small(tmp_path).manifest["prepare"]["resumed"]


def test_the_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "there"))
    assert default_cache() == tmp_path / "there"
    monkeypatch.delenv("AUTORESEARCH_CACHE")
    assert default_cache() == Path.home() / ".cache" / "autoresearch-lab"


def test_a_second_prepare_waits_and_says_so(data, tmp_path):
    lock = filelock.FileLock(tmp_path / ".work" / f"{data.data_id}.lock")
    (tmp_path / ".work").mkdir()
    lines, results = [], []
    with lock:
        thread = threading.Thread(
            target=lambda: results.append(prepare_small(tmp_path, progress=lines.append))
        )
        thread.start()
        wait_until(lambda: lines)
        assert "waiting" in lines[0]
        shutil.copytree(data.folder, tmp_path / data.data_id)  # the first one finishes
    thread.join(30)
    assert results[0].data_hash == data.data_hash
    assert "nothing to do" in lines[1]


# A prepare in a process of its own that stops for good at a chosen place, so that it can be killed
# there.
STOPPING = """
import sys, time
from pathlib import Path
from fake_source import FakeSource
from harness.data import prepare as prepare_module, rows, stages
from test_prepare import COPIES, SIZES, TEXTS, prepare

cache, place = Path(sys.argv[1]), sys.argv[2]
stages.SHARD_BYTES = 16_000

def stop():
    (cache / "stopped").touch()
    time.sleep(600)

class Stopping(FakeSource):
    def iter_part(self, part, skipped):
        for number, text in enumerate(super().iter_part(part, skipped)):
            if place == "read" and number == 100:
                stop()
            yield text

def stopping(function, name):
    def run(*arguments):
        if place == name and (name != "rows" or arguments[0].index == 3):
            stop()
        return function(*arguments)
    return run

rows.CHECKPOINT_PARTS = 1
stages.train_tokenizer = stopping(stages.train_tokenizer, "tokenizer")
stages.make_eval_rows = stopping(stages.make_eval_rows, "private")
stages.make_train_part = stopping(stages.make_train_part, "rows")
prepare_module.describe_files = stopping(prepare_module.describe_files, "files")
prepare_module.prepare(
    prepare_module.DataSpec(Stopping(TEXTS + COPIES), **SIZES, cache=cache), workers=1
)
"""


def start_stopping(cache, place):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT / part) for part in ("", "tests/support", "tests/data")]
        ),
    }
    command = [sys.executable, "-c", STOPPING, str(cache), place]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=cache)


@pytest.mark.parametrize("place", ["read", "tokenizer", "private", "rows", "files"])
def test_a_killed_prepare_goes_on_where_it_was(data, tmp_path, monkeypatch, place):
    process = start_stopping(tmp_path, place)
    wait_until((tmp_path / "stopped").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / data.data_id).exists()
    work = tmp_path / ".work" / data.data_id
    n_shards = (
        1 if place == "read" else json.loads((work / "shards" / "read.json").read_text())["shards"]
    )
    (work / "out" / "train" / ".rows.bin.abc.tmp").touch()  # what a kill inside a write would leave
    if place == "rows":
        with open(work / "out" / "train" / "rows.bin", "ab") as file:
            file.write(b"half a part")
    packed = []
    monkeypatch.setattr(rows, "pack_rows", lambda *a: packed.append(1) or pack_rows(*a))
    monkeypatch.setattr(stages, "SHARD_BYTES", 16_000)
    lines = []
    finished = prepare_small(tmp_path, progress=lines.append)
    assert finished.data_hash == data.data_hash
    assert finished.manifest["prepare"]["resumed"] and "going on with" in lines[0]
    whole = n_shards + len(EVAL_SPLITS)
    expected = {"tokenizer": whole, "private": whole, "rows": n_shards - 3, "files": 0}
    if place != "read":  # what was finished was not packed again
        assert len(packed) == expected[place]
    assert sorted(path.name for path in finished.train_dir.iterdir()) == sorted(
        Path(name).name for name in FILES if name.startswith("train/")
    )


def test_a_call_from_a_script_without_a_main_guard_and_from_stdin(tmp_path):
    script = (
        "from fake_source import FakeSource, make_texts\n"
        "from harness.data import stages\n"
        "from harness.data.prepare import DataSpec, prepare\n"
        "stages.SHARD_BYTES = 50_000\n"
        "spec = DataSpec(FakeSource(make_texts(200)), 256, 32, 3200, 'cache')\n"
        "print(prepare(spec, workers=2).data_hash)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT / part) for part in ("", "tests/support", "tests/data")]
        ),
    }
    (tmp_path / "script.py").write_text(script)
    hashes = []
    for arguments, text in ((["script.py"], None), (["-"], script)):
        command = [sys.executable, *arguments]
        out = subprocess.run(
            command,
            input=text,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        hashes.append(out.stdout.split()[-1])
        if text is None:
            shutil.rmtree(tmp_path / "cache")
    assert len(set(hashes)) == 1


@pytest.mark.slow
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "harness.data.prepare"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    bad = subprocess.run(
        [*command, "--source", "moon"], env=environment, capture_output=True, text=True
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: unknown source 'moon'") and "Traceback" not in bad.stderr
    assert main_in_process(tmp_path) == 0


def main_in_process(tmp_path):
    return prepare_module.main(
        ["--vocab-size", "256", "--eval-tokens", "20000", "--cache", str(tmp_path)]
    )
