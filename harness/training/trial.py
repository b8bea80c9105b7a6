"""What can only be tried on a device: compiling, how fast it multiplies and copies, who is there.

In: the device, in a process that is there for nothing else. Out: numbers, and reasons in words.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable

import torch

from harness.ground.cards import lines_of
from harness.training.attention import describe_error

# Of a card: the side of a square product, bytes of a copy, seconds for each of the two, and calls
# before it is waited for.
PRODUCT, COPY_BYTES, TRIAL_SECONDS, CALLS = 4096, 2**28, 0.15, 5
# A card is busy from here on: MB and share of its memory, share of the time, held by others.
BUSY_MB, BUSY_MEMORY, BUSY_TIME = 2_000, 0.1, 0.2


def try_compile(kind: str) -> str:
    """Compile, run and differentiate one small function; "" when that works, else why not."""
    if kind == "mps":
        return "not compiled on Apple GPUs"
    x = torch.randn(64, 64, device=kind, requires_grad=True)
    try:
        torch.compile(lambda a: torch.tanh(a @ a).square().sum(), dynamic=False)(x).backward()
    except Exception as error:  # whatever a compiler on an unknown machine raises: run eagerly
        return lacking_for_compiling(kind) or describe_error(error)
    return "" if bool(torch.isfinite(x.grad).all()) else "compiled gradient is wrong"


def lacking_for_compiling(kind: str) -> str:
    """What is to be installed before anything can be compiled, "" where that is all there."""
    named, programs = ("CXX", "g++ clang++ c++") if kind == "cpu" else ("CC", "gcc clang cc")
    if not any(shutil.which(name) for name in (os.environ.get(named) or programs).split()):
        package = programs.split()[0]
        return f"there is no compiler (Debian, Ubuntu: apt install {package})"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        package = "python{}.{}-dev".format(*sys.version_info)
        return f"Python's headers are missing (Debian, Ubuntu: apt install {package})"
    return ""


def measure_speed(dtype: torch.dtype) -> dict[str, float]:
    """How fast a card multiplies large matrices and copies: TFLOP/s, and GB/s read and written."""
    torch.set_float32_matmul_precision("high")
    a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=dtype) for _ in range(2))
    source = torch.empty(COPY_BYTES, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    product = fastest_seconds(lambda: a @ b)
    copy = fastest_seconds(lambda: target.copy_(source))
    return {
        "tflops": round(2e-12 * PRODUCT**3 / product, 1),
        "copy_gb_per_s": round(2e-9 * COPY_BYTES / copy, 1),
    }


def fastest_seconds(work: Callable[[], object]) -> float:
    """Seconds of one call, from the fastest of many rows of CALLS; the first row only warms up."""
    rows, began = [], time.perf_counter()
    while len(rows) < 2 or time.perf_counter() - began < TRIAL_SECONDS:
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        torch.cuda.synchronize()
        rows.append(time.perf_counter() - started)
    return min(rows[1:]) / CALLS


def busy_words(name: str, uuid: str) -> str:
    """Who else uses a card, "" for nobody. Asked before this process has anything there."""
    free, total = (each // 2**20 for each in torch.cuda.mem_get_info())
    command = ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu"]
    said = "".join(lines_of([*command, "--format=csv,noheader,nounits"])[:1]).strip()
    share = int(said) / 100 if said.isdigit() else 0.0
    # Of memory that card and processor share, the system's file cache counts as held.
    held = 0 if getattr(torch.cuda.get_device_properties(0), "is_integrated", 0) else total - free
    if held < max(BUSY_MB, BUSY_MEMORY * total) and share < BUSY_TIME:
        return ""
    return (
        f"the {name} is busy: others hold {held:,} of its {total:,} MB and {share:.0%} of its time."
        " What is measured beside them says little; end them, or wait"
    )
