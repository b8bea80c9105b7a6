"""As much text as a benchmark asks for, made of the standard library's sources as it is read.

Every document is a run of whole lines from a random place of the library, under a first line of its
own, so no two are equal. Its statistics are those of code and prose; a language model would learn
the library by heart, so train on something else. In a module of its own, so that worker processes
can import it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from harness.data.source import Part, Source
from harness.data.sources import open_source

PART_BYTES = 32_000_000


class SyntheticSource(Source):
    """About `size` bytes in documents of about `mean` bytes each, log-normal with `spread`.

    The same arguments give the same documents.
    """

    name = "synthetic"

    def __init__(self, size: int, mean: int = 4000, spread: float = 1.0) -> None:
        self.size, self.mean, self.spread = size, mean, spread

    def source_id(self) -> str:
        library = open_source("python-stdlib").source_id()
        return f"{self.name}-{self.size}-{self.mean}-{self.spread}-{library}"

    def total_bytes(self) -> int:
        return self.size

    def parts(self) -> list[Part]:
        return [Part(str(start)) for start in range(0, self.size, PART_BYTES)]

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        library, line_starts = load_library()
        left = min(PART_BYTES, self.size - int(part.name))
        rng = np.random.default_rng([self.mean, int(part.name)])
        number = 0
        while left > 0:
            length = int(self.mean * np.exp(rng.normal(0, self.spread) - self.spread**2 / 2))
            first = line_starts[rng.integers(len(line_starts))]
            number += 1
            text = f"# {part.name}-{number}\n"
            while len(text) < length:  # more than the library has: round and round
                text += library[first : first + length - len(text)]
                first = 0
            left -= len(text)
            yield text


@functools.cache
def load_library() -> tuple[str, np.ndarray]:
    """All of the library as one ASCII text (characters are bytes), and where its lines begin."""
    source = open_source("python-stdlib")
    texts = (text for part in source.parts() for text in source.iter_part(part, Counter()))
    text = "".join(text for text in texts if text.isascii())
    return text, np.flatnonzero(np.frombuffer(text.encode(), np.uint8) == ord("\n"))[:-1] + 1
