"""What the night learnt: which way each constant should go, by kind what ideas came to, dead ends,
and which constants mattered.

In: a journal's entries and records. Out: a section of the report, in Markdown. A gain within its
noise is said to be that; only what is beyond it is called help or harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.run.records import OUTCOME_WORDS, Record
from harness.show.importances import (
    LEAST_TUNED,
    constant_importances,
    is_number,
    proposals_of,
    tuned_experiments,
)
from harness.show.sentences import candidates_of, counts_in_words, kept_of, quoted, signed

MOST_TRIES = 3  # of one constant in one direction
MOST_NAMED = 3  # kept ideas of a kind
MOST_DEAD_ENDS = 10
MOST_CONSTANTS = 8  # whose importance is told

Change = tuple[object, object]


def say_learnt(entries: Sequence[dict], records: Sequence[Record]) -> str:
    """The section; "" before an idea was decided."""
    moves, others = _moves_and_others(entries, records)
    parts = (
        ("**Constants**, each moved alone, the largest effect first:", _constants(moves)),
        ("**Ideas**, by kind:", _kinds(others)),
        ("**Dead ends**, worse by more than the keep rule calls noise:", _dead_ends(others)),
    )
    told = [f"{head}\n\n" + "\n".join(lines) for head, lines in parts if lines]
    if moves or others:
        told.append(f"**Importance of constants**: {_importance(entries)}")
    return "\n\n".join(told)


def _moves_and_others(
    entries: Sequence[dict], records: Sequence[Record]
) -> tuple[dict[tuple[str, str], list[tuple[Change, Record]]], list[Record]]:
    """By (constant, way) the experiments that moved it alone; and all other ideas."""
    proposals, moves, others = proposals_of(entries), defaultdict(list), []
    for record in candidates_of(records):
        proposed = proposals.get((record.experiment, record.attempt), {})
        changed = proposed.get("constants_changed") or {}
        if record.category == "tune" and len(changed) == 1:
            [(name, (old, new))] = changed.items()
            moves[name, _way(old, new)].append(((old, new), record))
        else:
            others.append(record)
    return moves, others


def _way(old: object, new: object) -> str:
    if not (is_number(old) and is_number(new)):
        return "set otherwise"
    return "raised" if new > old else "lowered"


# --- constants ------------------------------------------------------------------------------------


def _constants(moves: dict[tuple[str, str], list[tuple[Change, Record]]]) -> list[str]:
    def size(tried: tuple[Change, Record]) -> float:
        return abs(tried[1].gain or 0.0)

    lines = []
    for (name, way), tries in sorted(moves.items(), key=lambda item: -max(map(size, item[1]))):
        tries = sorted(tries, key=size, reverse=True)
        told = "; ".join(_try_words(*each) for each in tries[:MOST_TRIES])
        more = f"; and {len(tries) - MOST_TRIES} more" if len(tries) > MOST_TRIES else ""
        lines.append(f"- {quoted(name)} {way}: {told}{more}")
    return lines


def _try_words(change: Change, record: Record) -> str:
    old, new = (f"{value:g}" if is_number(value) else quoted(value, 30) for value in change)
    words = effect_words(record)
    gain = f"gain {signed(record.gain)}, " if record.gain is not None else ""
    return f"{old} to {new}, {gain}{words} ({record.experiment:04d})"


def effect_words(record: Record) -> str:
    """What an outcome says of an idea, no more than its noise allows."""
    if record.outcome != "discarded":
        return OUTCOME_WORDS[record.outcome]
    if record.threshold is None:
        return "noise unknown"
    return "worse" if record.kind == "worse" else "within the noise"


# --- other ideas ----------------------------------------------------------------------------------


def _kinds(others: Sequence[Record]) -> list[str]:
    kinds = defaultdict(list)
    for record in others:
        kinds[record.category or "of no kind"].append(record)
    return [_kind_words(kind, tried) for kind, tried in sorted(kinds.items())]


def _kind_words(kind: str, tried: Sequence[Record]) -> str:
    """A kind of ideas: how many, and those that were kept, else the best of them."""
    name = "several constants at once" if kind == "tune" else kind
    kept = sorted(kept_of(tried), key=lambda record: -(record.gain or 0.0))
    words = f"- {name}, {len(tried)} tried: {counts_in_words(tried)}"
    if kept:
        more = f", and {len(kept) - MOST_NAMED} more" if len(kept) > MOST_NAMED else ""
        return f"{words}. Kept: {', '.join(map(_named, kept[:MOST_NAMED]))}{more}"
    scored = [record for record in tried if record.gain is not None]
    if not scored:
        return words
    return f"{words}. The best: {_named(max(scored, key=lambda record: record.gain))}"


def _named(record: Record) -> str:
    return f"{quoted(record.title, 60)} {signed(record.gain)} ({record.experiment:04d})"


def _dead_ends(others: Sequence[Record]) -> list[str]:
    lost = [record for record in others if effect_words(record) == "worse"]
    lost.sort(key=lambda record: record.gain)
    lines = [f"- {_named(record)}" for record in lost[:MOST_DEAD_ENDS]]
    more = len(lost) - MOST_DEAD_ENDS
    return [*lines, f"- and {more} more"] if more > 0 else lines


# --- importance -----------------------------------------------------------------------------------


def _importance(entries: Sequence[dict]) -> str:
    """Which constants went with the largest changes of the score, where moved."""
    tuned = tuned_experiments(entries)
    shares = constant_importances(tuned)
    if not shares:
        return f"told from {LEAST_TUNED} tuned experiments on; there are {len(tuned)}."
    told = ", ".join(f"{quoted(name)} {share:.0%}" for name, share in shares[:MOST_CONSTANTS])
    return (
        f"of {len(tuned)} tuned experiments, those whose score moved most, up or down, had moved"
        f" these (shares of 100%): {told}. The shares add up whether or not any constant matters:"
        " one whose gains above are within the noise has shown nothing."
    )
