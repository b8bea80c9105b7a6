"""What the prepare notebook shows of the data it made.

In: prepared data. Out: HTML tables and sample rows, decoded. Reads validation rows, as prepare and the scorer do; nothing of them reaches a training.
"""

from __future__ import annotations

import numpy as np

from harness.data.manifest import PreparedData
from harness.data.tokenizer import load_tokenizer
from harness.lab.display import LINE, SOFT, box, escape, table

SPLITS = ("train", "val", "holdout")


def counts_page(data: PreparedData) -> str:
    """Documents, bytes, tokens, rows and the share of text kept, by split."""
    m = data.manifest
    rows = []
    for split in SPLITS:
        tokens, text = m["tokens"][split], m["bytes"][split]
        cells = (
            f"{m['documents'][split]:,}",
            f"{text / 1e6:.2f} MB",
            f"{tokens:,}",
            f"{m['rows'][split]:,}",
            f"{100 * m['kept_share'][split]:.2f}%",
        )
        rows.append((split, *cells))
    shrunk = m["eval_tokens"] < m["eval_tokens_requested"]
    lines = [
        f"<div><b>{escape(data.data_id)}</b></div>",
        f"<div>{m['tokens_per_byte']:.4f} tokens per byte ({1 / m['tokens_per_byte']:.2f} bytes a token), vocabulary {data.vocab_size} and one special</div>",
        f"<div>{m['documents']['duplicates_dropped']:,} duplicate documents dropped; unigram model on the validation rows: {m['unigram_bpb']:.4f} bpb</div>",
    ]
    if shrunk:
        lines.append(
            f"<div>the corpus is small: {m['eval_tokens']:,} evaluation tokens instead of {m['eval_tokens_requested']:,}</div>"
        )
    return box("".join(lines)) + table(("split", "documents", "text", "tokens", "rows", "kept"), rows)


def sample_rows_page(data: PreparedData, count: int = 3, most: int = 700) -> str:
    """A few training rows as text, evenly spaced through the corpus; document starts are marked."""
    tokenizer = load_tokenizer(data.train_dir / "tokenizer.json")
    rows = np.memmap(data.train_dir / "rows.bin", dtype="<u2", mode="r").reshape(-1, data.max_seq_len + 1)
    pages = []
    for index in np.linspace(0, len(rows) - 1, count + 2).astype(int)[1:-1]:
        pieces = np.split(rows[index], np.flatnonzero(rows[index] == data.bos_id))
        texts = (
            tokenizer.decode_bytes(piece[1:].tolist()).decode("utf-8", errors="replace")
            for piece in pieces
            if len(piece)
        )
        text = "".join(f"▶{piece}" for piece in texts)
        style = f"white-space:pre-wrap;font-family:monospace;font-size:12px;border:1px solid {LINE};padding:6px;margin:4px 0"
        pages.append(f'<div style="color:{SOFT}">row {index:,}</div><div style="{style}">{escape(text[:most])}</div>')
    return "".join(pages)
