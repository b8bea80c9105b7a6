"""Byte-pair encoding: learnt by rustbpe, served by tiktoken, kept as plain versioned JSON.

In: training text. Out: a `Tokenizer` whose ids are the 256 single bytes, then the merges in the
order learnt, then one special token, BOS. vocab_size counts the ordinary tokens, so BOS is id
vocab_size and n_vocab = vocab_size + 1; every id fits uint16. Refuses a vocabulary outside
256..65535, a text too poor for the merges asked for. Text is never trusted: whatever it spells,
encoding it yields ordinary tokens only.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.ground.errors import DataError
from harness.ground.files import read_json, write_json_atomic

if TYPE_CHECKING:
    import tiktoken

BYTE_TOKENS = 256
MAX_VOCAB_SIZE = 65535  # ordinary tokens; with BOS all ids fit uint16
BOS = "<|bos|>"

# Text is first split into short runs, and merges never cross from one to the next: the scheme that
# GPT-2 began. Read from the top, the first that matches wins. Digits go in pairs, since a small
# vocabulary cannot afford every triple. All that needs no look-ahead stands in one group, which the
# regular expression engine then matches in one go instead of one alternative after the other: the
# same runs, and encoding takes about two thirds of the time.
PLAIN_RUNS = "|".join(
    [
        r"'(?i:[sdmt]|ll|re|ve)",  # what follows the apostrophe in it's, we'll
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one space, underscore or bracket before them
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, with the line ends that follow
        r"\s*[\r\n]+",  # blank lines
    ]
)
INDENTATION = r"\s+(?!\S)|\s+"  # but its last space goes with the word that follows
SPLIT_PATTERN = f"(?:{PLAIN_RUNS})|{INDENTATION}"

# The split's regular expression runs on a bounded stack: a million blanks in a row are an abort of
# the whole process. So text is handed over in windows, cut after a line end wherever there is one.
WINDOW_CHARS = 1 << 16


@dataclass(frozen=True)
class Tokenizer:
    """Ordinary tokens as byte strings, position = id; the first 256 are the single bytes."""

    tokens: tuple[bytes, ...]
    pattern: str = SPLIT_PATTERN

    @property
    def vocab_size(self) -> int:
        """Ordinary tokens."""
        return len(self.tokens)

    @property
    def n_vocab(self) -> int:
        """All ids, BOS included: the width of a model's output."""
        return self.vocab_size + 1

    @property
    def bos_id(self) -> int:
        return self.vocab_size

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """The same tokenizer as a tiktoken.Encoding."""
        import tiktoken  # only those who encode pay for it

        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding(
            name=f"bpe-{self.vocab_size}",
            pat_str=self.pattern,
            mergeable_ranks=ranks,
            special_tokens={BOS: self.bos_id},
            explicit_n_vocab=self.n_vocab,
        )

    def encode(self, text: str) -> np.ndarray:
        """Ordinary token ids, uint16 (n,). Their bytes joined are the text's UTF-8 bytes."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Iterable[str]) -> tuple[np.ndarray, list[int]]:
        """The ids of all texts in one array, uint16 (n,), and how many each text has."""
        parts, lengths = [np.empty(0, np.uint16)], []
        for group in iter_groups(texts):
            joined = BOS.join(group)
            if len(joined) > WINDOW_CHARS or joined.count(BOS) >= len(group):
                for text in group:
                    windows = [self._encode_window(window) for window in iter_windows(text)]
                    parts += windows
                    lengths.append(sum(map(len, windows)))
            else:  # one call for many short texts halves their cost
                ids = self._encode_window(joined, frozenset({BOS}))
                is_bos = ids == self.bos_id
                parts.append(ids[~is_bos])
                ends = np.flatnonzero(is_bos)
                lengths += (np.diff(ends, prepend=-1, append=len(ids)) - 1).tolist()
        # every id fits: see MAX_VOCAB_SIZE
        return np.concatenate(parts, dtype=np.uint16, casting="unsafe"), lengths

    def _encode_window(self, text: str, special: frozenset[str] = frozenset()) -> np.ndarray:
        """Ids, uint32. A special token not named is read as the characters it consists of."""
        return self.encoding.encode_to_numpy(text, allowed_special=special, disallowed_special=())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The raw bytes of `ids`; BOS stands for none."""
        return b"".join(self.tokens[index] for index in ids if index != self.bos_id)

    def token_bytes(self) -> np.ndarray:
        """Raw bytes of each id, int32 (n_vocab,), 0 for BOS.

        Not through decode(): half of the single bytes are no valid UTF-8 and would count as the
        three bytes of a replacement character.
        """
        return np.array([len(token) for token in self.tokens] + [0], dtype=np.int32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write versioned JSON, the tokens in hex in the order of their ids."""
        content = {
            "format": "autoresearch-lab-tokenizer",
            "format_version": 1,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": {BOS: self.bos_id},
            "tokens": [token.hex() for token in self.tokens],
        }
        write_json_atomic(path, content)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read what `save` wrote; its bytes are vouched for by the hashes of the manifest."""
    try:
        content = read_json(path)
        tokens = tuple(bytes.fromhex(token) for token in content["tokens"])
        return Tokenizer(tokens, content["pattern"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"no usable tokenizer at {path} ({error}): run notebooks/01_prepare.ipynb"
        ) from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of exactly `vocab_size` ordinary tokens from `texts`, read once.

    256 is plain bytes: nothing is learnt and nothing read. DataError when the texts do not hold
    that many merges; a smaller vocabulary than asked for would silently be another experiment.
    """
    check_vocab_size(vocab_size)
    if vocab_size == BYTE_TOKENS:
        return Tokenizer(tuple(bytes([value]) for value in range(BYTE_TOKENS)))
    import rustbpe

    learner = rustbpe.Tokenizer()
    windows = (window for text in texts for window in iter_windows(text))
    learner.train_from_iterator(
        windows, vocab_size=vocab_size, buffer_size=64, pattern=SPLIT_PATTERN
    )
    ranks = sorted((rank, bytes(token)) for token, rank in learner.get_mergeable_ranks())
    if len(ranks) < vocab_size:
        raise DataError(
            f"the training text is too small for a vocabulary of {vocab_size}: it yields "
            f"{len(ranks)} tokens; use more text or a smaller vocab_size"
        )
    return Tokenizer(tuple(token for _, token in ranks))


def check_vocab_size(vocab_size: int) -> None:
    """DataError unless it is an int in 256..65535."""
    if type(vocab_size) is not int or not BYTE_TOKENS <= vocab_size <= MAX_VOCAB_SIZE:
        bounds = f"from {BYTE_TOKENS} to {MAX_VOCAB_SIZE}"
        raise DataError(f"vocab_size must be a whole number {bounds}, not {vocab_size!r}")


def iter_groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Neighbours whose texts, joined by BOS, have at most WINDOW_CHARS characters.

    A longer text is a group of its own.
    """
    group, size = [], 0
    for text in texts:
        if group and size + len(text) > WINDOW_CHARS:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text) + len(BOS)
    if group:
        yield group


def iter_windows(text: str) -> Iterator[str]:
    """`text` in parts of at most WINDOW_CHARS, cut after a line end where there is one."""
    start = 0
    while len(text) - start > WINDOW_CHARS:
        line_end = text.rfind("\n", start, start + WINDOW_CHARS)
        end = start + WINDOW_CHARS if line_end < 0 else line_end + 1
        yield text[start:end]
        start = end
    yield text[start:]
