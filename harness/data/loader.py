"""Prepared training rows in, device batches out.

In: rows.bin, all that a training may see of the text. Out: an endless stream of (inputs, targets,
epoch) in an order that the seed alone decides. Rows are memory-mapped and gathered by numpy in tens
of microseconds, so nothing is fetched ahead and no thread exists. The order is computed as it is
needed: drawing a permutation of ten million rows takes most of a second, which a run would pay on
its clock, and 80 MB. Refuses a file that holds no whole rows.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from harness.data.packing import ROW_DTYPE
from harness.ground.errors import DataError
from harness.ground.files import read_json

PINNED_SLOTS = 4  # host buffers in flight on CUDA
IGNORED = -1  # target id that a loss leaves out
BLOCK_PICKS = 4096  # rows whose place in the order is computed at a time
SHUFFLE_ROUNDS = 6


class TrainRows:
    """Training rows: `rows` (n_rows, max_seq_len + 1) uint16, memory-mapped, read-only.

    file: rows.bin, open for reading. bos_id: the id that begins a document, which no loss counts.
    DataError where the file is no whole number of rows.
    """

    def __init__(self, file: BinaryIO, max_seq_len: int, bos_id: int) -> None:
        self.max_seq_len, self.bos_id = max_seq_len, bos_id
        size, width = os.fstat(file.fileno()).st_size, max_seq_len + 1
        self.n_rows, rest = divmod(size, width * ROW_DTYPE.itemsize)
        if rest or not self.n_rows:
            raise DataError(
                f"rows.bin has {size} bytes, no whole rows of {width} uint16: "
                "run notebooks/01_prepare.ipynb"
            )
        self.rows = np.memmap(file, dtype=ROW_DTYPE, mode="r", shape=(self.n_rows, width))

    @classmethod
    def of_folder(cls, train_dir: str | os.PathLike[str]) -> TrainRows:
        """The rows of a `train/` folder."""
        meta = read_json(Path(train_dir, "meta.json"))
        with open(Path(train_dir, "rows.bin"), "rb") as file:
            return cls(file, meta["max_seq_len"], meta["bos_id"])

    def batches(
        self, device_batch_size: int, device: str | torch.device, seed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Endless inputs and targets, both int64 (device_batch_size, max_seq_len), and epoch.

        targets are inputs moved on by one, with -1 where the target is BOS. The epoch counts from 1
        and is that of the batch's first row; each epoch holds every row once, in an order of its
        own, and a batch may reach into the next. The tensors are fresh each time: they may be kept
        or changed. On CUDA they belong to the current stream.
        """
        if device_batch_size < 1:
            raise ValueError(f"device_batch_size must be 1 row or more, not {device_batch_size}")
        device = torch.device(device)
        picks = self._iter_picks(device_batch_size, seed)
        send = self._iter_plain(picks)
        if device.type == "cuda":
            send = self._iter_pinned(picks, device_batch_size, device)
        for ids, epoch in send:
            ids = ids.to(device)
            targets = ids[:, 1:]
            targets = targets.masked_fill(targets >= self.bos_id, IGNORED)
            yield ids[:, :-1].contiguous(), targets, epoch

    def _iter_picks(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
        """Row numbers (count,) and epoch, one seeded order of all rows after the other."""
        blocks, waiting, taken = self._iter_blocks(seed), np.empty(0, dtype=np.int64), 0
        while True:
            while len(waiting) < count:
                waiting = np.concatenate([waiting, next(blocks)])
            yield waiting[:count], 1 + taken // self.n_rows
            waiting, taken = waiting[count:], taken + count

    def _iter_blocks(self, seed: int) -> Iterator[np.ndarray]:
        for epoch in itertools.count(1):
            keys = np.random.SeedSequence([seed, epoch]).generate_state(SHUFFLE_ROUNDS, np.uint64)
            for start in range(0, self.n_rows, BLOCK_PICKS):
                places = np.arange(start, min(start + BLOCK_PICKS, self.n_rows))
                yield shuffle(places, self.n_rows, keys)

    def _iter_plain(
        self, picks: Iterator[tuple[np.ndarray, int]]
    ) -> Iterator[tuple[torch.Tensor, int]]:
        for pick, epoch in picks:
            yield torch.from_numpy(self.rows[pick].astype(np.int64)), epoch

    def _iter_pinned(
        self, picks: Iterator[tuple[np.ndarray, int]], count: int, device: torch.device
    ) -> Iterator[tuple[torch.Tensor, int]]:
        """Ids int64 on the GPU by way of pinned slots, so that the copy does not hold up the host.

        A slot is written again only after the event recorded behind its last copy.
        """
        shape = (count, self.max_seq_len + 1)
        slots = [
            (torch.empty(shape, dtype=torch.int16, pin_memory=True), torch.cuda.Event())
            for _ in range(PINNED_SLOTS)
        ]
        for (slot, copied), (pick, epoch) in zip(itertools.cycle(slots), picks, strict=False):
            copied.synchronize()  # returns at once for an event never recorded
            slot.numpy().view(np.uint16)[:] = self.rows[pick]
            with torch.cuda.device(device):
                ids = slot.to(device, non_blocking=True)
                copied.record()
            # uint16 read as int16: undo the sign
            yield ids.to(torch.int64).bitwise_and_(0xFFFF), epoch


def shuffle(places: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a random permutation of range(n) sends `places`, int64 of any shape.

    `keys`, uint64 (rounds,), choose it. A Feistel network over pairs of numbers below the square
    root of n, which is a permutation whatever its round function; a pair that stands for n or more
    is sent on until it does not (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    Memory and time are those of `places`.
    """
    root = math.isqrt(n - 1) + 1
    left, right = np.divmod(places, root)
    for key in keys:
        mixed = _mix(right.astype(np.uint64) ^ key) % np.uint64(root)
        left, right = right, (left + mixed.astype(np.int64)) % root
    shuffled = left * root + right
    outside = shuffled >= n
    if outside.any():
        shuffled[outside] = shuffle(shuffled[outside], n, keys)
    return shuffled


def _mix(words: np.ndarray) -> np.ndarray:
    """Spread each bit of 64 over all (the finaliser of splitmix64: Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
