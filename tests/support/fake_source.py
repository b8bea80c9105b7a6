"""A small made-up corpus: words drawn with a seed, and a distinctive line in every document."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator

from harness.data.source import Part, Source


def make_texts(count: int, seed: int = 0, words: int = 120) -> list[str]:
    """`count` different texts of about `words` words each.

    They are of ASCII, accents, Chinese, emoji and a forged special.
    """
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(300)]
    vocabulary += ["naïve", "Übung", "漢字", "\N{SNAKE}", "<|bos|>", "x_1", "42", "=="]
    texts = []
    for number in range(count):
        marker = f"marker {hashlib.sha256(f'{seed}/{number}'.encode()).hexdigest()[:16]}"
        lines = [" ".join(rng.choices(vocabulary, k=8)) for _ in range(rng.randint(1, words // 4))]
        texts.append("\n    ".join([marker, *lines]) + "\n")
    return texts


class FakeSource(Source):
    """The given texts, in their order."""

    name = "fake"

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def source_id(self) -> str:
        digest = hashlib.sha256("\0".join(self.texts).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.name}-{digest[:8]}"

    def total_bytes(self) -> int:
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in self.texts)

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        yield from self.texts


class PartedSource(FakeSource):
    """The given texts in parts of `size` texts; every part skips one text.

    private: how many parts, the first ones, evaluation is made from; pool: theirs, the others are
    `train`. 0: all are `any`.
    """

    def __init__(
        self, texts: list[str], size: int, private: int = 0, pool: str = "private"
    ) -> None:
        super().__init__(texts)
        self.size, self.private, self.pool = size, private, pool

    def parts(self) -> list[Part]:
        count = -(-len(self.texts) // self.size)
        pools = [self.pool] * self.private + ["train" if self.private else "any"] * (
            count - self.private
        )
        return [Part(str(index), pool) for index, pool in enumerate(pools)]

    def iter_part(self, part: Part, skipped: Counter[str]) -> Iterator[str]:
        yield from self.texts[int(part.name) * self.size :][: self.size]
        skipped["empty"] += 1
