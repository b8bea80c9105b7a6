"""The machine's own yardsticks: how much it multiplies and copies in a second.

In: a train.py, whose products of matrices are listed as one training step makes them. Out: rates in
FLOP/s and bytes/s, and a table. Each product is timed alone, with its operands in the cache if they
fit there: a ceiling for what training can reach.
"""

from __future__ import annotations

import math
import os
import platform
import runpy
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer

from benches.markdown import table
from benches.setup import Bench
from harness import REPOSITORY
from harness.run import git_history

MULTIPLYING = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)
COPIED_FLOATS = 32 * 2**20  # 128 MB: more than a cache holds
SHOWN_PRODUCTS = 6


@dataclass(frozen=True)
class Pace:
    """What the machine gave at one moment.

    fp32 FLOP/s of a product of 1024^3, and bytes/s read and written by a copy.
    """

    flops: float
    copied: float


@dataclass(frozen=True)
class Product:
    """Operands of one product as they lie in memory: (shape, stride) of each.

    Both are matrices, or both are stacks of matrices.
    """

    a: tuple[tuple[int, ...], tuple[int, ...]]
    b: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def flops(self) -> int:
        return 2 * math.prod(self.a[0]) * self.b[0][-1]

    @property
    def sizes(self) -> str:
        stack = f"{self.a[0][0]} of " if len(self.a[0]) == 3 else ""
        return f"{stack}{self.a[0][-2]} x {self.a[0][-1]} x {self.b[0][-1]}"


@dataclass(frozen=True)
class Rates:
    """What the machine multiplies.

    products: with how often a step makes each. square, model: FLOP/s by dtype, of 1024^3 and of all
    the products of a step one after the other. alone: FLOP/s of each product by dtype.
    """

    products: Counter
    square: dict[str, float]
    model: dict[str, float]
    alone: dict[str, dict[Product, float]]
    tokens: int

    @property
    def flops_per_token(self) -> float:
        """Of the products alone, forward and backward: without fused attention."""
        return sum(count * product.flops for product, count in self.products.items()) / self.tokens


class ListProducts(TorchDispatchMode):
    """Notes every product that is made inside it, backward passes too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in MULTIPLYING:
            a, b = ((tuple(operand.shape), operand.stride()) for operand in args[-2:])
            self.seen[Product(a, b)] += 1
        return function(*args, **(kwargs or {}))


def build(bench: Bench) -> torch.nn.Module:
    return runpy.run_path(str(bench.train_py))["build_model"](
        bench.data.n_vocab, bench.data.max_seq_len
    )


def list_products(bench: Bench, dtype: torch.dtype) -> Counter:
    """The products of one forward and backward pass over a device batch."""
    model = build(bench)
    idx = torch.randint(bench.data.vocab_size, (bench.device_batch_rows, bench.data.max_seq_len))
    with ListProducts() as products:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model.loss(idx, idx) if hasattr(model, "loss") else plain_loss(model, idx)
        loss.backward()
    return products.seen


def plain_loss(model: torch.nn.Module, idx: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(idx).float().flatten(0, 1), idx.flatten())


def operand(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random numbers that lie as the model's do."""
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(last + 1).to(dtype).as_strided(shape, stride)


def product_rate(product: Product, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of one product, the median over about so many seconds."""
    names = {"a": operand(*product.a, dtype), "b": operand(*product.b, dtype)}
    timer = Timer("a @ b", globals=names, num_threads=torch.get_num_threads())
    return product.flops / timer.blocked_autorange(min_run_time=seconds).median


def square_rate(dtype: torch.dtype, seconds: float) -> float:
    square = ((1024, 1024), (1024, 1))
    return product_rate(Product(square, square), dtype, seconds)


def measure_pace(quick: bool) -> Pace:
    """A look at the machine, a second long."""
    seconds = 0.02 if quick else 0.5
    names = {"source": torch.ones(COPIED_FLOATS // (32 if quick else 1))}
    names["target"] = torch.empty_like(names["source"])
    timer = Timer("target.copy_(source)", globals=names, num_threads=torch.get_num_threads())
    median = timer.blocked_autorange(min_run_time=seconds).median
    return Pace(square_rate(torch.float32, seconds), 2 * 4 * names["source"].numel() / median)


def measure_rates(bench: Bench) -> Rates:
    """All yardsticks, in float32 and, where the CPU multiplies it itself, in bfloat16."""
    trained_in = getattr(torch, bench.settings.dtype)
    products = list_products(bench, trained_in)
    seconds = 0.002 if bench.quick else 0.2
    square, model, alone = {}, {}, {}
    for dtype in dict.fromkeys((torch.float32, trained_in)):
        name = str(dtype).removeprefix("torch.")
        square[name] = square_rate(dtype, 5 * seconds)
        alone[name] = {product: product_rate(product, dtype, seconds) for product in products}
        time = sum(
            count * product.flops / alone[name][product] for product, count in products.items()
        )
        model[name] = sum(count * product.flops for product, count in products.items()) / time
    return Rates(products, square, model, alone, bench.device_batch_rows * bench.data.max_seq_len)


def heaviest(products: Counter) -> list[tuple[str, Counter]]:
    """Those of the same sizes together, however their operands lie; most FLOPs first."""
    groups: dict[str, Counter] = {}
    for product, count in products.items():
        groups.setdefault(product.sizes, Counter())[product] = count
    flops = {
        sizes: sum(count * product.flops for product, count in group.items())
        for sizes, group in groups.items()
    }
    return sorted(groups.items(), key=lambda item: -flops[item[0]])[:SHOWN_PRODUCTS]


def machine_section(bench: Bench, rates: Rates, pace: Pace) -> str:
    """What everything else was measured on."""
    settings, device = bench.settings, bench.device
    commit = git_history.head_commit(REPOSITORY)
    facts = [
        ("processor", device["name"]),
        ("cores, threads of torch", f"{os.cpu_count()}, {torch.get_num_threads()}"),
        (
            "load before (1 minute)",
            f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else None,
        ),
        ("torch, Python", f"{device['torch_version']}, {platform.python_version()}"),
        (
            "profile, precision",
            (
                f"{bench.profile.name}, {settings.dtype},"
                f" {'compiled' if settings.compile else 'eager'}"
            ),
        ),
        ("corpus", f"{bench.data.data_id} ({bench.data.data_hash[:12]})"),
        ("commit", (commit or "none")[:12]),
        ("memory copy, GB/s read and written", pace.copied / 1e9),
    ]
    total = sum(count * product.flops for product, count in rates.products.items())
    head = [
        "product, rows x inner x columns",
        "in a step",
        "% of its FLOPs",
        *(f"{name}, GFLOP/s" for name in rates.square),
    ]
    lines = [["1024 x 1024 x 1024", None, None, *(rate / 1e9 for rate in rates.square.values())]]
    lines += [
        [
            "**all the model's own**",
            sum(rates.products.values()),
            100.0,
            *(rate / 1e9 for rate in rates.model.values()),
        ]
    ]
    for sizes, group in heaviest(rates.products):
        flops = sum(count * product.flops for product, count in group.items())
        times = [
            sum(count * product.flops / alone[product] for product, count in group.items())
            for alone in rates.alone.values()
        ]
        lines.append(
            [
                sizes,
                sum(group.values()),
                100 * flops / total,
                *(flops / time / 1e9 for time in times),
            ]
        )
    return (
        "## Machine\n\n"
        + table(["what", "value"], facts)
        + "\n\nProducts of matrices in one forward and backward pass over"
        f" {bench.device_batch_rows} rows of {bench.data.max_seq_len} tokens, each alone:\n\n"
        + table(head, lines)
    )
