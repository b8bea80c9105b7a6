"""How long a call takes on a device.

torch.utils.benchmark would do it, but loads setuptools, which a bare Python 3.12 lacks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

BLOCKS = 5  # the median of so many


def wait_for(device: str) -> float:
    """The time when the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def milliseconds(function: Callable[[], object], least_seconds: float, device: str) -> float:
    """Milliseconds of one call.

    Measured in blocks so long that waiting for the device at their ends does not count.
    """
    function()  # what the first call compiles, allocates or looks up is not its time
    started = wait_for(device)
    function()
    once = wait_for(device) - started
    calls = max(1, round(least_seconds / BLOCKS / max(once, 1e-6)))
    blocks = []
    for _ in range(BLOCKS):
        started = wait_for(device)
        for _ in range(calls):
            function()
        blocks.append((wait_for(device) - started) / calls)
    return 1000 * statistics.median(blocks)
