"""Whether weights and losses are as long as they say themselves: an emptied or cut file is told without a second one to compare it with.

In: a path. Out: what is wrong in words that go on from the file's name, "" for nothing. Reads headers only, and believes nothing in them: edited code wrote
the weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

MOST_HEADER_BYTES = 10**7  # of weights: about a hundred thousand tensors
LENGTH_BYTES = 8  # with which a safetensors file begins: the length of its header, little-endian


def weights_damage(path: Path) -> str:
    """What is wrong with a safetensors file; "" for one that is whole, or not there.

    Format: https://huggingface.co/docs/safetensors: length, header in JSON with the data_offsets of each tensor, data.
    """
    return damage(path, weights_bytes, "a safetensors header")


def losses_damage(path: Path, least: int = 0) -> str:
    """What is wrong with losses (rows, T) float32 as numpy saves them; "" for those that are whole, or not there. least: how many there must be."""
    return damage(path, lambda file: losses_bytes(file, least), "the header of an array of losses")


def damage(path: Path, measure: Callable[[BinaryIO], int], header: str) -> str:
    """Compare a file's size with what `measure` reads in its header; header: what should be there, in words."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if not found:
                return "is empty"
            wanted = measure(file)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError, EOFError, RecursionError, OverflowError):
        return f"has not {header}"
    if found != wanted:
        return f"has {found} bytes, and {wanted} by its own header"
    return ""


def weights_bytes(file: BinaryIO) -> int:
    """How long a safetensors file should be, by its header. Raises ValueError and others where that is none."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    tensors = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    return LENGTH_BYTES + length + max(map(int, ends), default=0)


def losses_bytes(file: BinaryIO, least: int) -> int:
    """How long a file of losses should be, by its header. Raises ValueError and others where that is none, or of another array."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, kind = read(file)
    if kind != np.float32 or len(shape) != 2 or math.prod(shape) < least:
        raise ValueError(f"an array {shape} of {kind}")
    return file.tell() + math.prod(shape) * kind.itemsize
