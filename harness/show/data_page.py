"""What the prepare notebook shows of the data it made.

In: prepared data. Out: HTML: tables of what was read, dropped and kept, a figure of documents by
length, sample rows decoded. Text of the corpus is shown as text, never rendered. Only training rows
are decoded; of the others only the manifest's counts are shown.
"""

from __future__ import annotations

import numpy as np

from harness.data.manifest import PreparedData
from harness.data.rows import open_rows
from harness.data.tokenizer import load_tokenizer
from harness.show.markup import AMBER, BLUE, LINE, MONO, Html, bold, box, divs, soft, table

WIDEST = 300  # pixels of a bar
FATES = {
    "read": "read from the source",
    "train": "training",
    "val": "validation",
    "holdout": "holdout",
    "unseen": "unseen: a smaller private split, for the audit alone",
    "duplicates_dropped": "dropped: equal to another document but for layout and case",
    "equal_to_evaluation": "dropped: equal to a document of an evaluation split",
    "private_unused": "set aside by the source for evaluation, not needed",
}


def counts_page(data: PreparedData) -> Html:
    """Documents, bytes, tokens, rows and the share of text kept, by split."""
    m = data.manifest
    rows = [
        (
            split,
            f"{m['documents'][split]:,}",
            megabytes(m["bytes"][split]),
            f"{m['tokens'][split]:,}",
            f"{m['rows'][split]:,}",
            f"{100 * m['kept_share'][split]:.2f}%",
        )
        for split in m["rows"]
    ]
    rate = m["tokens_per_byte"]
    vocabulary = f"vocabulary {data.vocab_size} and one special"
    lines = [
        bold(data.data_id),
        f"{rate:.4f} tokens per byte ({1 / rate:.2f} bytes a token), {vocabulary}",
        f"unigram model on the validation rows: {m['unigram_bpb']:.4f} bpb",
    ]
    if m["eval_tokens"] < m["eval_tokens_requested"]:
        asked = f"{m['eval_tokens_requested']:,}"
        lines.append(
            f"the corpus is small: {m['eval_tokens']:,} evaluation tokens instead of {asked}"
        )
    if note := m["source"].get("evaluation_note"):  # absent in data of format 2
        lines.append(note)
    if data.lacks:
        lines.append(f"prepared by an older version, without: {', '.join(data.lacks)}")
    return box(divs(lines)) + table(("split", "documents", "text", "tokens", "rows", "kept"), rows)


def dropped_page(data: PreparedData) -> Html:
    """What the source gave and where it went; documents and text add up to what was read."""
    documents, text = data.manifest["documents"], data.manifest["bytes"]
    rows = [
        (words, f"{documents[name]:,}", megabytes(text[name]))
        for name, words in FATES.items()
        if documents.get(name) or name == "duplicates_dropped"
    ]
    skipped = sorted(data.manifest["source"]["skipped"].items())
    rows += [(f"not read: {reason}", f"{count:,}", "") for reason, count in skipped]
    return table(("what became of it", "documents", "text"), rows)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def lengths_page(data: PreparedData) -> Html:
    """Training documents by length in tokens, as bars: those that fit a row, and those cut."""
    lengths = data.manifest["train_lengths"]
    counts = lengths["documents"]
    used = [digits for digits, count in enumerate(counts) if count]
    rows = Html()
    for digits in range(used[0], used[-1] + 1):
        low = (1 << digits) >> 1
        colour = AMBER if 1 << digits > data.max_seq_len + 1 else BLUE
        width = max(1, WIDEST * counts[digits] // max(counts))
        rows += Html(
            '<tr><td style="padding-right:8px">{}</td><td><div style="width:{}px;height:12px;'
            'background:{}"></div></td><td style="padding-left:8px">{}</td></tr>'
        ).format(low if low < 1024 else f"{low >> 10}k", width, colour, short(counts[digits]))
    share = 100 * lengths["cut"] / data.manifest["documents"]["train"]
    row = f"a row's {data.max_seq_len:,} tokens"
    words = f"{share:.1f}% of the training documents are longer than {row} and were cut into pieces"
    figure = Html('<table style="border-collapse:collapse">{}</table>').format(rows)
    scale = "each bar from its number to twice that; k is 1,024; those cut are amber"
    return box(divs([words]) + figure + soft(f"documents by tokens, {scale}"))


def short(number: int) -> str:
    """950, 12k, 3M."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def sample_rows_page(data: PreparedData, count: int = 3, most: int = 700) -> Html:
    """A few training rows as text, evenly spaced; the starts of documents are marked."""
    tokenizer = load_tokenizer(data.train_dir / "tokenizer.json")
    rows = open_rows(data.train_dir / "rows.bin", data.max_seq_len)
    style = f"white-space:pre-wrap;{MONO};border:1px solid {LINE};padding:6px;margin:4px 0"
    page = Html()
    for index in np.linspace(0, len(rows) - 1, count + 2).astype(int)[1:-1]:
        text = ""
        for piece in np.split(rows[index], np.flatnonzero(rows[index] == data.bos_id)):
            if len(piece):
                text += "▶" + tokenizer.decode_bytes(piece[1:].tolist()).decode(errors="replace")
        shown = Html('<div style="{}">{}</div>').format(style, text[:most])
        page += soft(f"row {index:,}") + shown
    return page
