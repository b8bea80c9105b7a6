"""Sources in parts: the data is the same however it was made.

By how many processes, in what pools, and after what interruption makes no difference.
"""

import re
import subprocess
import sys

import pytest
from checkout import ROOT
from fake_source import FakeSource, PartedSource, make_texts
from test_prepare import SIZES, prepare_small, quiet, read_pieces

from harness.data import stages
from harness.data.prepare import DataSpec, prepare
from harness.data.splits import EVAL_SPLITS, content_key

TEXTS = make_texts(400)
SPLITS = {"train": "train/rows.bin"} | {split: f"private/{split}.bin" for split in EVAL_SPLITS}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(stages, "SHARD_BYTES", 16_000)


def prepare_parts(cache, source, workers=1):
    return prepare(DataSpec(source, **SIZES, cache=cache), workers=workers, progress=quiet)


def test_parts_and_processes_change_nothing_in_the_data(tmp_path):
    texts = [*TEXTS, TEXTS[0].upper(), TEXTS[399] + "\n"]
    whole = prepare_small(tmp_path / "whole", texts)
    parted = prepare_parts(tmp_path / "parted", PartedSource(texts, 60), workers=3)
    assert parted.data_hash == whole.data_hash
    assert parted.manifest["source"]["skipped"] == {"empty": 7}
    same = ("documents", "bytes", "tokens", "rows", "scored", "unigram_bpb", "train_lengths")
    assert {key: parted.manifest[key] for key in same} == {key: whole.manifest[key] for key in same}


def markers(texts):
    return set(re.findall(r"marker [0-9a-f]{16}", " ".join(texts)))


@pytest.fixture
def split_texts():
    """200 texts for evaluation, with a copy, and 300 for training.

    All of the first 200 and a copy are among the latter.
    """
    private = make_texts(199, seed=1)
    private.append(private[0] + "\n")
    own = make_texts(299, seed=2)
    own.append(own[0].upper())
    return private, own


@pytest.fixture
def pooled(tmp_path, split_texts):
    private, own = split_texts
    leaks = [text.replace("\n", "\n\n") for text in private]
    return prepare_parts(
        tmp_path, PartedSource([*private, *own, *leaks], 100, private=2), workers=2
    )


def find_markers(data):
    """The markers of each split's documents; no document is in two."""
    found = {
        split: markers(piece.decode(errors="replace") for piece in read_pieces(data, name))
        for split, name in SPLITS.items()
    }
    assert all(found.values())
    assert len(set.union(*found.values())) == sum(map(len, found.values()))
    return found


def test_private_parts_give_the_evaluation_and_their_copies_are_dropped_from_training(
    pooled, split_texts
):
    private, own = split_texts
    found = find_markers(pooled)
    assert set.union(*(found[split] for split in EVAL_SPLITS)) <= markers(private)
    # A copy of private text that no evaluation uses may be trained on.
    assert found["train"] & markers(private)
    documents = pooled.manifest["documents"]
    taken = sum(documents[split] for split in EVAL_SPLITS)
    assert documents["equal_to_evaluation"] == taken
    assert documents["private_unused"] == 199 - taken
    assert documents["train"] == 299 + 199 - taken
    # Within private text, within training text, and the copy's own copy.
    assert documents["duplicates_dropped"] == 3
    for count in (documents, pooled.manifest["bytes"]):
        read = count.pop("read")
        assert sum(count.values()) == read


@pytest.mark.slow
def test_evaluation_is_chosen_among_the_any_parts_and_what_it_leaves_is_trained_on(tmp_path):
    eligible, own = make_texts(400, seed=1), make_texts(300, seed=2)
    copies = [text.replace("\n", "\n\n") for text in eligible]

    for texts in ([*eligible, *own], [*eligible, *own, *copies]):
        source = PartedSource(texts, 100, private=4, pool="any")
        data = prepare_parts(tmp_path / str(len(texts)), source, workers=2)
        found, documents = find_markers(data), data.manifest["documents"]
        taken = sum(documents[split] for split in EVAL_SPLITS)
        order = sorted(eligible, key=content_key)
        assert set.union(*(found[split] for split in EVAL_SPLITS)) <= markers(order[:taken])
        assert documents["train"] == 700 - taken
        assert documents["duplicates_dropped"] == len(texts) - 700
        assert documents["equal_to_evaluation"] == documents["private_unused"] == 0
        kept = sum(len(text.encode()) for text in [*own, *order[taken:]])
        assert data.manifest["bytes"]["train"] == kept
        assert sum(map(len, read_pieces(data, SPLITS["train"]))) == data.manifest["bytes"]["train"]


def test_a_source_that_fails_half_way_is_not_read_from_the_start(tmp_path):
    read = []

    class Failing(PartedSource):
        def iter_part(self, part, skipped):
            read.append(part.name)
            if part.name == "3" and len(read) == 4:
                raise RuntimeError("the line went dead")
            return super().iter_part(part, skipped)

    with pytest.raises(RuntimeError, match="went dead"):
        prepare_parts(tmp_path, Failing(TEXTS, 60))
    data = prepare_parts(tmp_path, Failing(TEXTS, 60))
    assert read == ["0", "1", "2", "3", "3", "4", "5", "6"]
    assert data.data_hash == prepare_small(tmp_path / "whole", TEXTS).data_hash


def test_rows_go_on_from_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.rows.CHECKPOINT_PARTS", 3)
    made = []
    make_train_part = stages.make_train_part

    def failing(task):
        made.append(task.index)
        if len(made) == 6:
            raise MemoryError
        return make_train_part(task)

    monkeypatch.setattr(stages, "make_train_part", failing)
    with pytest.raises(MemoryError):
        prepare_small(tmp_path, TEXTS)
    data = prepare_small(tmp_path, TEXTS)
    assert made[:9] == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert data.data_hash == prepare_small(tmp_path / "whole", TEXTS).data_hash


def test_a_source_of_a_script_is_read_by_the_script_itself(tmp_path):
    script = (
        "from fake_source import PartedSource, make_texts\n"
        "from harness.data.prepare import DataSpec, prepare\n"
        "class Own(PartedSource): pass\n"
        "texts, silent = make_texts(200), lambda line: None\n"
        "spec = DataSpec(Own(texts, 50), 256, 32, 3200, 'cache')\n"
        "data = prepare(spec, workers=2, progress=silent)\n"
        "print(data.manifest['documents']['read'])\n"
    )
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}:{ROOT / 'tests/data'}",
        "PATH": "",
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "200", done.stderr


def test_documents_are_counted_by_their_length(tmp_path):
    # Bytes are tokens.
    data = prepare(DataSpec(FakeSource(TEXTS), 256, 256, 3200, tmp_path), workers=1, progress=quiet)
    taken = sum(data.manifest["documents"][split] for split in EVAL_SPLITS)
    sizes = [len(text.encode()) for text in sorted(TEXTS, key=content_key)[taken:]]
    lengths = data.manifest["train_lengths"]
    assert lengths["cut"] == sum(size > 256 for size in sizes)
    for digits in range(len(lengths["documents"])):
        assert lengths["documents"][digits] == sum(
            2**digits // 2 <= size < 2**digits for size in sizes
        )
