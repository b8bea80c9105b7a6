"""ClimbMix and TinyStories from a local hub, prepared with their own evaluation text.

Once downloaded they are found without a network.
"""

import io
import shutil
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from fake_hub import clean_environment, serve
from fake_source import make_texts

from harness.data.hub import ClimbMix, TinyStories
from harness.data.manifest import FORMAT_VERSION, open_prepared
from harness.data.prepare import DataSpec, find_prepared, name_data
from harness.data.rows import open_rows
from harness.data.source import Part
from harness.data.sources import open_source
from harness.data.splits import EVAL_SPLITS
from harness.data.tokenizer import load_tokenizer
from harness.ground.errors import DataError

SIZES = ["--vocab-size", "320", "--max-seq-len", "32", "--eval-tokens", "1600", "--workers", "1"]
KINDS = {"vocab_size": 320, "max_seq_len": 32, "eval_tokens": 1600}
TEXTS = make_texts(400)
# The real ones with the sizes of a test; a process of its own, since the client reads HF_ENDPOINT
# when it is imported.
PREPARE = """
import sys, shutil
from harness.data import download, prepare
from harness.data.hub import ClimbMix, TinyStories
ClimbMix.shard_bytes, TinyStories.text_bytes = 100_000, 300_000
TinyStories.private_rows, TinyStories.rows, TinyStories.part_rows = 100, 400, 100
download.WAIT_SECONDS = ()
if free := int(sys.argv.pop(1)):
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda path: usage._replace(free=free)
sys.exit(prepare.main(sys.argv[1:]))
"""


def table(texts):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=64)
    return file.getvalue()


CLIMBMIX = {
    "shard_06542.parquet": table(TEXTS[:100]),
    # The validation shard's documents again.
    "shard_00000.parquet": table(TEXTS[100:250] + TEXTS[:100]),
    "shard_00001.parquet": table(TEXTS[250:]),
    "shard_00002.parquet": table(["not asked for"]),
}


def run(hub_url, home, cache, source, free=0):
    command = [
        sys.executable,
        "-c",
        PREPARE,
        str(free),
        "--source",
        source,
        "--cache",
        str(cache),
        *SIZES,
    ]
    environment = clean_environment(hub_url, home, PYTHONPATH=str(ROOT))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def pieces_of(data, name):
    """Text between BOS tokens in the rows of a file."""
    tokenizer = load_tokenizer(data.train_dir / "tokenizer.json")
    rows = open_rows(data.folder / name, data.max_seq_len).tolist()
    ids = [[token for token in row if token != data.bos_id] for row in rows]
    return b"".join(tokenizer.decode_bytes(row) for row in ids)


def markers(text):
    return {line.split()[1] for line in text.splitlines() if line.startswith("marker ")}


def check_splits(data, private, train):
    """Evaluation is made from private texts alone, and none of the texts in it is trained on."""
    private, train = markers("\n".join(private)), markers("\n".join(train))
    text = b"".join(pieces_of(data, f"private/{split}.bin") for split in EVAL_SPLITS)
    evaluated = {marker for marker in private | train if marker.encode() in text}
    text = pieces_of(data, "train/rows.bin")
    trained = {marker for marker in private | train if marker.encode() in text}
    assert len(evaluated) > 5 and evaluated <= private
    assert not evaluated & trained
    assert len(trained & train) > 0.5 * len(train)  # the others were cut in two


def test_climbmix_is_downloaded_prepared_and_found_without_a_network(tmp_path):
    cache = tmp_path / "cache"
    with serve(dict(CLIMBMIX)) as hub:
        done = run(hub.url, tmp_path, cache, "climbmix:1")
        assert done.returncode == 0, done.stderr
        assert {name for _, name, *_ in hub.requests} == {
            "shard_06542.parquet",
            "shard_00000.parquet",
        }
        [said] = [line for line in done.stdout.splitlines() if "to download" in line]
        assert "2 files of climbmix:1, 0 MB" in said and "100 Mbit/s" in said and "MB free" in said
        hub.requests.clear()
        assert run(hub.url, tmp_path, cache, "climbmix:2").returncode == 0
        # The others are there.
        assert {name for _, name, *_ in hub.requests} == {"shard_00001.parquet"}
    data = find_prepared(DataSpec("climbmix:2", **KINDS, cache=cache))
    assert data.data_id == f"climbmix-2-{ClimbMix.revision[:8]}-v320-t32-e1600-f{FORMAT_VERSION}"
    check_splits(data, TEXTS[:100], TEXTS[100:])
    shutil.rmtree(cache / "downloads")
    again = run("http://127.0.0.1:9", tmp_path, cache, "climbmix:2")
    assert again.returncode == 0 and "nothing to do" in again.stdout


def test_tinystories_keeps_its_first_rows_private(tmp_path):
    with serve({TinyStories.file: table(TEXTS)}) as hub:
        done = run(hub.url, tmp_path, tmp_path / "cache", "tinystories")
        assert done.returncode == 0, done.stderr
    data = open_prepared(tmp_path / "cache" / name_data(DataSpec("tinystories", **KINDS)))
    assert data.manifest["documents"]["read"] == len(TEXTS)
    check_splits(data, TEXTS[:100], TEXTS[100:])


def test_a_disk_too_small_is_refused_before_the_first_byte(tmp_path):
    with serve(dict(CLIMBMIX)) as hub:
        done = run(hub.url, tmp_path, tmp_path / "cache", "climbmix:2", free=400_000)
        assert (
            done.returncode == 2
            and "the download), and 0 MB are free: free some space" in done.stderr
        )
        assert hub.requests == [] and hub.tokens == {None}  # asked for the sizes only


def test_no_network_names_the_corpus_that_needs_none(tmp_path):
    done = run("http://127.0.0.1:9", tmp_path, tmp_path / "cache", "climbmix:2")
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: cannot download shard_")
        and "--source python-stdlib" in done.stderr
    )


def test_a_shard_that_is_no_table_is_named(tmp_path):
    source = open_source("climbmix:1", tmp_path)
    source.folder.mkdir(parents=True)
    (source.folder / "shard_00000.parquet").write_bytes(b"PAR1 torn")
    for name in ("shard_00000.parquet", "shard_06542.parquet"):
        with pytest.raises(DataError, match=f"{name} cannot be read .*: delete it"):
            list(source.iter_part(Part(name), Counter()))


def test_ids_and_parts_need_neither_disk_nor_network():
    source = open_source("climbmix:20")
    assert source.source_id() == "climbmix-20-915333b4"
    assert [part.pool for part in source.parts()] == ["private"] + ["train"] * 20
    assert (
        source.parts()[0].name == "shard_06542.parquet"
        and source.parts()[-1].name == "shard_00019.parquet"
    )
    assert open_source("climbmix").spec == f"climbmix:{ClimbMix.default_shards}"
    stories = open_source("tinystories")
    assert stories.source_id() == "tinystories-0397e271"
    assert [part.pool for part in stories.parts()] == ["private"] + ["train"] * 16
    covered = [(part.start, part.stop) for part in stories.parts()]
    assert covered[0][0] == 0 and covered[-1][1] is None
    assert all(before[1] == after[0] for before, after in zip(covered, covered[1:], strict=False))


@pytest.mark.parametrize(
    "spec", ["climbmix:0", "climbmix:6543", "climbmix:many", "climbmix:-1", "tinystories:2"]
)
def test_a_spec_that_makes_no_sense_is_refused(spec):
    with pytest.raises(DataError, match=spec.partition(":")[0]):
        open_source(spec)


def test_the_validation_shard_is_never_trained_on():
    parts = open_source("climbmix:6542").parts()
    assert len({part.name for part in parts}) == len(parts) == 6543
