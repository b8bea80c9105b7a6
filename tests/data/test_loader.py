"""Batches are the rows, shifted by one, each once per epoch, in an order the seed decides."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from fake_source import FakeSource, make_texts

from harness.data import loader
from harness.data.loader import SHUFFLE_ROUNDS, TrainRows, shuffle
from harness.data.prepare import DataSpec, prepare
from harness.data.rows import open_rows
from harness.ground.errors import DataError


@pytest.fixture(scope="module")
def train_dir(tmp_path_factory):
    """The train folder alone, moved away from everything private."""
    cache = tmp_path_factory.mktemp("cache")
    data = prepare(
        DataSpec(FakeSource(make_texts(200)), 300, 64, 1024, cache),
        workers=1,
        progress=lambda _: None,
    )
    alone = tmp_path_factory.mktemp("alone") / "train"
    shutil.copytree(data.train_dir, alone)
    shutil.rmtree(data.folder)
    return alone


def take(rows, count, batch=8, seed=0, device="cpu"):
    return list(itertools.islice(rows.batches(batch, device, seed), count))


def test_targets_are_the_inputs_moved_on_by_one_and_bos_is_not_scored(train_dir):
    rows = TrainRows.of_folder(train_dir)
    known = {row.tobytes() for row in open_rows(train_dir / "rows.bin", 64)}
    for inputs, targets, _ in take(rows, 20):
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape == (8, 64)
        assert inputs.is_contiguous() and targets.is_contiguous()
        ids = torch.cat([inputs, torch.where(targets < 0, rows.bos_id, targets)[:, -1:]], dim=1)
        assert all(row.tobytes() in known for row in ids.numpy().astype(np.uint16))
        following = inputs[:, 1:]
        assert torch.equal(targets[:, :-1], torch.where(following == rows.bos_id, -1, following))
        assert (inputs[:, 0] == rows.bos_id).all() and inputs.max() <= rows.bos_id


def test_every_row_comes_once_per_epoch_also_when_batches_do_not_divide_it(train_dir):
    rows = TrainRows.of_folder(train_dir)
    batch = 7
    assert rows.n_rows % batch
    count = -(-2 * rows.n_rows // batch)
    picks = [pick for pick, _ in itertools.islice(rows._iter_picks(batch, 3), count)]
    order = np.concatenate(picks)
    first, second = order[: rows.n_rows], order[rows.n_rows : 2 * rows.n_rows]
    assert sorted(first) == sorted(second) == list(range(rows.n_rows))
    assert first.tolist() != second.tolist()
    epochs = [epoch for _, _, epoch in take(rows, count, batch)]
    assert epochs == [1 + number * batch // rows.n_rows for number in range(count)]


def test_an_order_does_not_depend_on_how_much_of_it_is_computed_at_a_time(train_dir, monkeypatch):
    rows = TrainRows.of_folder(train_dir)
    whole = take(rows, 20)
    monkeypatch.setattr(loader, "BLOCK_PICKS", 3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, take(rows, 20), strict=True))


def draw_keys(seed):
    return np.random.SeedSequence(seed).generate_state(SHUFFLE_ROUNDS, np.uint64)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 37, 1000, 4097])
def test_a_shuffle_is_a_permutation(n):
    assert sorted(shuffle(np.arange(n), n, draw_keys(n))) == list(range(n))


def test_a_shuffle_sends_every_place_everywhere_equally_often():
    n, draws = 50, 800
    counts = np.zeros((n, n))
    for seed in range(draws):
        counts[np.arange(n), shuffle(np.arange(n), n, draw_keys(seed))] += 1
    chi_squared = ((counts - draws / n) ** 2 / (draws / n)).sum()
    degrees = (n - 1) ** 2
    assert abs(chi_squared - degrees) < 6 * np.sqrt(2 * degrees)


def test_neighbours_in_a_shuffle_have_nothing_to_do_with_each_other():
    # At once, of twenty million.
    order = shuffle(np.arange(10_000_000, 10_100_000), 20_000_000, draw_keys(0))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs((np.diff(order) > 0).mean() - 0.5) < 0.01


def test_the_seed_decides_the_order(train_dir):
    rows = TrainRows.of_folder(train_dir)
    one = take(rows, 5, seed=1)
    again = take(TrainRows.of_folder(train_dir), 5, seed=1)
    other = take(rows, 5, seed=2)
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, again, strict=True)
    )
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_batches_may_be_kept_and_changed(train_dir):
    rows = TrainRows.of_folder(train_dir)
    kept = take(rows, 10)
    copies = [inputs.clone() for inputs, _, _ in take(rows, 10)]
    for (inputs, _, _), copy in zip(kept, copies, strict=True):
        assert torch.equal(inputs, copy)
        inputs.zero_()
    assert torch.equal(take(rows, 1)[0][0], copies[0])


def test_a_batch_of_more_rows_than_there_are(train_dir):
    rows = TrainRows.of_folder(train_dir)
    inputs, _, epoch = take(rows, 1, batch=3 * rows.n_rows)[0]
    assert len(inputs) == 3 * rows.n_rows and epoch == 1


def test_files_that_do_not_fit_are_refused(train_dir, tmp_path):
    broken = tmp_path / "train"
    shutil.copytree(train_dir, broken)
    with open(broken / "rows.bin", "ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"rows\.bin.*01_prepare"):
        TrainRows.of_folder(broken)
    for batch, seed in ((0, 0), (2, -1)):
        with pytest.raises(ValueError):
            next(TrainRows.of_folder(train_dir).batches(batch, "cpu", seed))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pinned_slots_are_not_overwritten_while_the_gpu_is_behind(train_dir):
    rows = TrainRows.of_folder(train_dir)
    busy = torch.randn(4096, 4096, device="cuda")
    batches = []
    for batch in itertools.islice(rows.batches(8, "cuda", 0), 200):
        busy = busy @ busy * 1e-3  # the copies queue up behind this
        batches.append(batch)
    for (inputs, targets, epoch), expected in zip(batches, take(rows, 200), strict=True):
        assert torch.equal(inputs.cpu(), expected[0]) and torch.equal(targets.cpu(), expected[1])
        assert epoch == expected[2]
