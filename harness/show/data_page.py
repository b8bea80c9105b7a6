"""What the prepare notebook shows of the data it made.

In: prepared data. Out: HTML: tables of what was read, dropped and kept, a figure of documents by length, sample rows decoded. Text of the corpus is
escaped and shown as text, never rendered. Only training rows are decoded; of the others only the manifest's counts are shown.
"""

from __future__ import annotations

import numpy as np

from harness.data.manifest import PreparedData
from harness.data.rows import open_rows
from harness.data.tokenizer import load_tokenizer
from harness.show.markup import AMBER, BLUE, LINE, MONO, box, escape, soft, table


def counts_page(data: PreparedData) -> str:
    """Documents, bytes, tokens, rows and the share of text kept, by split."""
    m = data.manifest
    rows = []
    for split in m["rows"]:
        tokens, text = m["tokens"][split], m["bytes"][split]
        cells = (
            f"{m['documents'][split]:,}",
            f"{text / 1e6:,.2f} MB",
            f"{tokens:,}",
            f"{m['rows'][split]:,}",
            f"{100 * m['kept_share'][split]:.2f}%",
        )
        rows.append((split, *cells))
    lines = [
        f"<div><b>{escape(data.data_id)}</b></div>",
        f"<div>{m['tokens_per_byte']:.4f} tokens per byte ({1 / m['tokens_per_byte']:.2f} bytes a token), vocabulary {data.vocab_size} and one special</div>",
        f"<div>unigram model on the validation rows: {m['unigram_bpb']:.4f} bpb</div>",
    ]
    if m["eval_tokens"] < m["eval_tokens_requested"]:
        lines.append(
            f"<div>the corpus is small: {m['eval_tokens']:,} evaluation tokens instead of {m['eval_tokens_requested']:,}</div>"
        )
    if note := m["source"].get("evaluation_note"):  # absent in data of format 2
        lines.append(f"<div>{escape(note)}</div>")
    if data.lacks:
        lines.append(f"<div>prepared by an older version, without: {', '.join(data.lacks)}</div>")
    return box("".join(lines)) + table(("split", "documents", "text", "tokens", "rows", "kept"), rows)


def dropped_page(data: PreparedData) -> str:
    """What the source gave and where it went: into the splits, or out for a reason. Documents and text add up to what was read."""
    documents, text = data.manifest["documents"], data.manifest["bytes"]
    names = {
        "read": "read from the source",
        "train": "training",
        "val": "validation",
        "holdout": "holdout",
        "unseen": "unseen: a smaller private split, for the audit alone",
        "duplicates_dropped": "dropped: equal to another document but for layout and case",
        "equal_to_evaluation": "dropped: equal to a document of an evaluation split",
        "private_unused": "set aside by the source for evaluation, not needed",
    }
    rows = [
        (words, f"{documents[name]:,}", f"{text[name] / 1e6:,.2f} MB")
        for name, words in names.items()
        if documents.get(name) or name == "duplicates_dropped"
    ]
    skipped = sorted(data.manifest["source"]["skipped"].items())
    rows += [(f"not read: {reason}", f"{count:,}", "") for reason, count in skipped]
    return table(("what became of it", "documents", "text"), rows)


def lengths_page(data: PreparedData, widest: int = 300) -> str:
    """Training documents by length in tokens, as bars: those that fit a row, and those cut because they do not."""
    counts, cut = data.manifest["train_lengths"]["documents"], data.manifest["train_lengths"]["cut"]
    used = [digits for digits, count in enumerate(counts) if count]
    rows = []
    for digits in range(used[0], used[-1] + 1):
        colour, low = AMBER if 1 << digits > data.max_seq_len + 1 else BLUE, (1 << digits) >> 1
        bar = f"width:{max(1, widest * counts[digits] // max(counts))}px;height:12px;background:{colour}"
        name, count = f"{low if low < 1024 else f'{low >> 10}k'}", short(counts[digits])
        rows.append(f'<tr><td style="padding-right:8px">{name}</td><td><div style="{bar}"></div></td><td style="padding-left:8px">{count}</td></tr>')
    share = 100 * cut / data.manifest["documents"]["train"]
    words = f"{share:.1f}% of the training documents are longer than a row's {data.max_seq_len:,} tokens and were cut into pieces"
    figure = f'<table style="border-collapse:collapse">{"".join(rows)}</table>'
    return box(f"<div>{words}</div>{figure}" + soft("documents by tokens, each bar from its number to twice that; k is 1,024; those cut are amber"))


def short(number: int) -> str:
    """950, 12k, 3M."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def sample_rows_page(data: PreparedData, count: int = 3, most: int = 700) -> str:
    """A few training rows as text, evenly spaced through the corpus; document starts are marked."""
    tokenizer = load_tokenizer(data.train_dir / "tokenizer.json")
    rows = open_rows(data.train_dir / "rows.bin", data.max_seq_len)
    pages = []
    for index in np.linspace(0, len(rows) - 1, count + 2).astype(int)[1:-1]:
        pieces = np.split(rows[index], np.flatnonzero(rows[index] == data.bos_id))
        texts = (
            tokenizer.decode_bytes(piece[1:].tolist()).decode("utf-8", errors="replace")
            for piece in pieces
            if len(piece)
        )
        text = "".join(f"▶{piece}" for piece in texts)
        style = f"white-space:pre-wrap;{MONO};border:1px solid {LINE};padding:6px;margin:4px 0"
        pages.append(f'{soft(f"row {index:,}")}<div style="{style}">{escape(text[:most])}</div>')
    return "".join(pages)
