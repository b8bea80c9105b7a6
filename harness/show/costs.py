"""What the language model of a run took: requests, tokens, dollars, in words.

In: usage; the ledger llm.jsonl, which counts every request, those of killed proposals too; and the
journal's entries. Out: figures and sentences. A cost without prices is unknown, and said to be;
tokens that no server counted are our estimate, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.ground.text import one_line
from harness.search.llm.exchanges import Usage, read_ledger
from harness.show.sentences import plural


def run_usage(folder: Path) -> Usage:
    """What a run's language model took so far."""
    return read_ledger(folder / "llm.jsonl").usage()


def asked_of(entries: Sequence[Mapping]) -> list[Mapping]:
    """The proposals for which a language model was asked, whatever it came to."""
    proposed = (entry for entry in entries if entry["event"] == "proposed")
    return [each for each in proposed if each.get("llm_failed") or each.get("proposer") == "llm"]


def failure_words(entries: Sequence[Mapping], quote: Callable[[str], str] = one_line) -> str:
    """How often the model could not be asked, why the last time, and whether it has answered since;
    "" where that never was."""
    asked = asked_of(entries)
    failed = [number for number, each in enumerate(asked) if each.get("llm_failed")]
    if not failed:
        return ""
    why, since = quote(asked[failed[-1]]["llm_failed"]), len(asked) - 1 - failed[-1]
    answered = f"it has answered {plural(since, 'time')} since; " * bool(since)
    times = f"{plural(len(failed), 'time')} it could not be asked, and tpe proposed instead"
    return f"{times}; {answered}the last time: {why}"


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
