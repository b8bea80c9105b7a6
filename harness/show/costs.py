"""What the language model of a run took: requests, tokens, dollars, in words.

In: usage as a proposal notes it, and the ledger llm.jsonl, which counts every request, those of
killed proposals too. Out: figures and sentences. A cost without prices is unknown, and said to be;
tokens that no server counted are our estimate, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.search.llm.exchanges import Usage, read_ledger
from harness.show.sentences import plural


def run_usage(folder: Path) -> Usage:
    """What a run's language model took so far."""
    return read_ledger(folder / "llm.jsonl").usage()


def usage_of(noted: Mapping | None) -> Usage:
    """The usage that a proposal noted."""
    return Usage(**noted) if noted else Usage()


def usage_words(usage: Usage) -> str:
    """One line; "" where no request was made."""
    if not usage.requests:
        return ""
    about = "about " if usage.estimated else ""
    tokens = f"{about}{usage.prompt_tokens:,} tokens in and {usage.completion_tokens:,} out"
    cost = "cost unknown (no prices were given)"
    if usage.cost_usd is not None:
        cost = f"{about}{usage.cost_usd:.4f} USD by the prices given"
    return f"{plural(usage.requests, 'request')}, {tokens}, {cost}"
