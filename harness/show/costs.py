"""What the language model of a run took: requests, tokens, dollars, in words.

In: usage as the propose process notes it, and the ledger llm.jsonl, which counts every request, those of killed proposals too. Out: figures and sentences.
A cost without prices is unknown, and said to be; tokens that no server counted are our estimate, and said to be.
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
    noted = noted or {}
    return Usage(
        noted.get("requests") or 0,
        noted.get("prompt_tokens") or 0,
        noted.get("completion_tokens") or 0,
        noted.get("cost_usd"),
        bool(noted.get("estimated")),
    )


def usage_words(usage: Usage) -> str:
    """One line; "" where no request was made."""
    if not usage.requests:
        return ""
    about = "about " if usage.estimated else ""
    tokens = f"{about}{usage.prompt_tokens:,} tokens in and {usage.completion_tokens:,} out"
    return f"{plural(usage.requests, 'request')}, {tokens}, {cost_words(usage)}"


def cost_words(usage: Usage) -> str:
    """What that cost, as far as it is known."""
    if usage.cost_usd is None:
        return "cost unknown (no prices were given)"
    return f"{'about ' if usage.estimated else ''}{usage.cost_usd:.4f} USD by the prices given"
