"""Part `first`: what only a card can tell, and what loses a night: compiling, the wall, attention.

A small function is compiled, run and differentiated as a night would try it, outside of the wall
and behind it; and the attention kernels are chosen as a run chooses them.
"""

from __future__ import annotations

from gpu.settings import Settings
from harness.sandbox.device import attempt
from harness.sandbox.wall import find_wall
from harness.training import attention
from harness.training.devices import detect_device

TASKS = ("outside", "behind the wall", "attention")


def run(task: str, settings: Settings) -> dict:
    """One of TASKS."""
    if task == "attention":
        device = detect_device(settings.device)
        return attention.select(device.torch_device, device.torch_dtype, settings.max_seq_len)
    wall = find_wall() if task == "behind the wall" else None
    if wall and not wall.walled:
        return {"failed": f"there is no wall here: {wall.why}"}
    refused, compile_error = attempt(settings.device, settings.compile, wall)
    if refused or compile_error:
        return {"failed": refused or compile_error}
    return {"works": "compiled" if settings.compile else "eager"}
