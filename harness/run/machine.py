"""What a night says of the machine's device before it begins, in sentences.

In: the facts of `harness.sandbox.device`, and what a run has frozen of them. Out: sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.run.settings import SLOWER


def machine_words(device: Mapping[str, Any]) -> Iterator[str]:
    """What was found and measured, and what does not work here; nothing of a plain CPU."""
    if device["kind"] == "cuda":
        yield from card_words(device)
    yield from trial_words(device)


def trial_words(device: Mapping[str, Any]) -> Iterator[str]:
    """What did not work when the device was tried, and what is done instead."""
    kind, why = device.get("kind"), device.get("compile_error")
    if why and kind != "mps":
        yield f"nothing is compiled{SLOWER * (kind == 'cuda')}: {why}"
    if why := device.get("wall_error"):
        yield f"edited code has process limits and no wall: {why}"
    if fell := device.get("fell"):
        yield fell


def card_words(device: Mapping[str, Any]) -> Iterator[str]:
    """What the card is, does, and whose it is."""
    measured = ""
    if device.get("tflops"):
        measured = (
            f", multiplies {device['tflops']:g} TFLOP/s and copies {device['copy_gb_per_s']:g} GB/s"
        )
    dtype = f"{device['dtype']}{': ' if device['why'] else ''}{device['why']}"
    yield f"{device['name']}: {device['memory_mb']:,} MB{measured} ({dtype})"
    if device.get("count", 1) > 1:
        yield (
            f"there are {device['count']} cards, and a run uses the first that it sees: for a "
            "second night beside it, CUDA_VISIBLE_DEVICES=1 and another tag"
        )
    if device.get("busy"):
        yield device["busy"]
