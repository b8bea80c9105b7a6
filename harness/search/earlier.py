"""What earlier runs found out, for who proposes now.

In: rows of experiments of earlier runs on a like machine, text and clock, as `lab.earlier_runs`
gives them. Out: how much a bank's idea gained there, the order of ideas that this suggests, lines
for a prompt. It only says what to try first: nothing is kept for what an earlier run found, and
nothing is left out. Gains are bpb, positive is better; an error is one standard deviation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.search.bank.idea import Idea
from harness.search.gain import Gain, pool
from harness.search.llm.quoting import one_line

MOST_LINES = 24  # of a prompt

Row = Mapping[str, Any]


def gain_of_idea(rows: Sequence[Row], bank_id: str) -> Gain:
    """Return the mean gain of a bank's idea over earlier runs."""
    return pool([_gain(row) for row in _measured(rows) if row["bank_id"] == bank_id])


def order_ideas(ideas: Sequence[Idea], rows: Sequence[Row]) -> list[Idea]:
    """Return the ideas, those first that clearly gained, most first, and last what clearly lost."""
    # sorted() is stable: among equals the bank's own order stays.
    return sorted(ideas, key=lambda idea: -gain_of_idea(rows, idea.id).clear)


def lines_of(rows: Sequence[Row]) -> str:
    """Return what clearly gained or lost, a line each, for a prompt; "" where nothing did."""
    sure = [row for row in _measured(rows) if _gain(row).clear]
    if not sure:
        return ""
    largest = sorted(sure, key=lambda row: -abs(row["gain"]) / row["error"])[:MOST_LINES]
    runs = len({row["tag"] for row in rows})
    head = (
        f"{len(rows)} experiments of {runs} earlier run{'s' * (runs > 1)} on this machine, text "
        "and budget; of these what gained or lost more than twice its error. Gain in bpb, "
        "positive is better | category | idea, against the best file of its time."
    )
    return "\n".join([head, *(_line(row) for row in sorted(largest, key=lambda r: -r["gain"]))])


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["gain"] is not None and row["error"]]


def _gain(row: Row) -> Gain:
    return Gain(row["gain"], row["error"])


def _line(row: Row) -> str:
    gain = f"{row['gain']:+z.4f} ± {row['error']:.4f}"
    return f"{gain} | {one_line(row['category'], 24)} | {one_line(row['title'], 100)}"
