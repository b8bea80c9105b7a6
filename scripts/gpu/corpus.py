"""Part `corpus`: rows to train and to score on, from the running interpreter's own library.

Needs no network.

The tokenizer is learnt where rustbpe is installed; else it is the carried one, `tokenizer.json`:
8,192 tokens that `harness.data.tokenizer` learnt from the standard library of Python 3.11.7
(`PYTHONPATH=scripts python -m gpu.corpus` makes it again). For timing, not for research: what is
scored is 5% of the files, repeated up to the size asked for.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator

import numpy as np

from gpu.settings import TOKENIZER, Settings
from harness.data.manifest import PreparedData
from harness.data.packing import ROW_DTYPE, count_targets, pack_rows, score_totals
from harness.data.splits import content_key, hash_fraction
from harness.data.stdlib import PythonStdlib
from harness.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from harness.ground.errors import DataError
from harness.ground.files import write_json_atomic

VOCAB_SIZE = 8192
VAL_SHARE = 0.05
EVAL_BATCH_TOKENS = 16384  # as harness.data prepares it


def run(task: str, settings: Settings) -> dict:
    """Make train/ and the evaluation folders; return what they hold."""
    note = ""
    try:
        texts = list(library_texts(settings.corpus_bytes))
        tokenizer, learnt = make_tokenizer([text for text in texts if not is_val(text)])
        train, val = (
            pack_texts(
                [text for text in texts if is_val(text) is wanted], tokenizer, settings.max_seq_len
            )
            for wanted in (False, True)
        )
        if not len(train) or not len(val):
            raise DataError(f"{len(train)} training and {len(val)} validation rows are too few")
    except (DataError, ImportError) as error:
        # Timings need tokens, whichever: the later parts go on.
        tokenizer, learnt = load_tokenizer(TOKENIZER), "carried in"
        train, val = (
            np.random.default_rng(0)
            .integers(0, VOCAB_SIZE, (n, settings.max_seq_len + 1))
            .astype(ROW_DTYPE)
            for n in (256, 16)
        )
        note = f"random tokens, since the library could not be used: {error}"
    write_train(settings, tokenizer, train)
    for name, tokens in settings.eval_tokens.items():
        write_eval(settings, name, tokens, tokenizer, val)
    return {
        "train_rows": len(train),
        "train_tokens_M": round(train.size / 1e6, 3),
        "val_rows": len(val),
        "tokenizer": learnt,
        "note": note,
    }


def library_texts(max_bytes: int) -> Iterator[str]:
    """Files of the Python library, up to `max_bytes`."""
    source = PythonStdlib()
    for text in (text for part in source.parts() for text in source.iter_part(part, Counter())):
        max_bytes -= len(text)
        if max_bytes < 0:
            return
        yield text


def pack_texts(texts: list[str], tokenizer: Tokenizer, max_seq_len: int) -> np.ndarray:
    """Rows of all texts, (n_rows, max_seq_len + 1) uint16."""
    encoded = [tokenizer.encode(text) for text in texts]
    ids = np.concatenate([np.empty(0, ROW_DTYPE), *encoded])
    return pack_rows(ids, [len(document) for document in encoded], max_seq_len, tokenizer.bos_id)


def is_val(text: str) -> bool:
    return hash_fraction(content_key(text)) < VAL_SHARE


def make_tokenizer(texts: list[str]) -> tuple[Tokenizer, str]:
    """A tokenizer and where it is from.

    One learnt from little text may lack merges: then the carried one serves.
    """
    if importlib.util.find_spec("rustbpe"):
        try:
            return train_tokenizer(texts, VOCAB_SIZE), "learnt here"
        except DataError:
            pass
    return load_tokenizer(TOKENIZER), "carried in"


def write_train(settings: Settings, tokenizer: Tokenizer, rows: np.ndarray) -> None:
    """The folder that harness.data.loader reads."""
    folder = settings.train_dir
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    np.save(folder / "token_bytes.npy", tokenizer.token_bytes())
    rows.tofile(folder / "rows.bin")
    meta = {
        "max_seq_len": settings.max_seq_len,
        "n_rows": len(rows),
        "n_vocab": tokenizer.n_vocab,
        "bos_id": tokenizer.bos_id,
    }
    write_json_atomic(folder / "meta.json", meta)


def write_eval(
    settings: Settings, name: str, tokens: int, tokenizer: Tokenizer, rows: np.ndarray
) -> None:
    """A prepared folder as the scorer wants it, its validation rows repeated up to `tokens`."""
    folder = settings.folder / "eval" / name
    (folder / "private").mkdir(parents=True, exist_ok=True)
    (folder / "train").mkdir(exist_ok=True)
    np.save(folder / "train" / "token_bytes.npy", tokenizer.token_bytes())
    rows = np.resize(rows, (max(1, tokens // settings.max_seq_len), rows.shape[1]))
    rows.tofile(folder / "private" / "val.bin")
    totals = score_totals(count_targets(rows, tokenizer.n_vocab), tokenizer.token_bytes())
    manifest = {
        "vocab_size": tokenizer.vocab_size,
        "n_vocab": tokenizer.n_vocab,
        "max_seq_len": settings.max_seq_len,
        "eval_batch_rows": max(1, EVAL_BATCH_TOKENS // settings.max_seq_len),
        "scored": {"val": totals},
    }
    write_json_atomic(folder / "manifest.json", manifest)


def open_eval(settings: Settings, name: str) -> PreparedData:
    """What write_eval made. Not a real prepared folder: its manifest holds no hashes."""
    from harness.ground.files import read_json

    folder = settings.folder / "eval" / name
    return PreparedData(folder, read_json(folder / "manifest.json"))


if __name__ == "__main__":
    train_tokenizer(library_texts(10**9), VOCAB_SIZE).save(TOKENIZER)
