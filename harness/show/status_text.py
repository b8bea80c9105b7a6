"""A run's journal in, one screen of plain text out: what it is doing, the best so far, the last five, the time.

Cheap enough to ask every second; standard library only.
"""

import statistics
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

from harness.run.facts import plain_settings
from harness.run.records import (
    OUTCOMES,
    Record,
    baseline_of,
    incumbent_of,
    parse_time,
    records_from_journal,
    time_use,
)
from harness.run.results import clean_description
from harness.show.sentences import candidates_of, duration, latest_sigma, plural, signed, tag_of
from harness.show.stage import in_flight

CLAIM_WIDTH = 110  # characters of a line of the claim
SILENT_SECONDS = 1800  # a journal that says nothing for this long, and for three budgets, has probably stopped


def status_text(
    entries: Sequence[dict],
    settings: object,
    now: datetime | str | None = None,
    *,
    state: str = "",
    claim: str = "",
    more: Sequence[tuple[str, str]] = (),
) -> str:
    """One screen on a run in progress: state, best so far, the last five, time. now: with time zone.

    state: what is known of it, if more than the journal tells; claim: what may be said of the file on the branch, or how
    far its measuring is; more: further rows, (name, words).
    """
    now = (parse_time(now) if isinstance(now, str) else now) or datetime.now(UTC)
    records, facts = records_from_journal(entries), plain_settings(settings)
    budget = facts["budget_seconds"]
    stated = [
        f"profile {facts['profile']}" if facts["profile"] else "",
        f"{budget:g} s each" if budget else "",
        str(facts["device"] or ""),
    ]
    rows = [
        ("run", ", ".join([tag_of(settings), *(word for word in stated if word)])),
        ("state", state or _state(entries, now, budget or 0.0)),
    ]
    base, tip, sigma = baseline_of(records), incumbent_of(records), latest_sigma(records)
    if base:
        rows.append(
            (
                "baseline",
                f"{base.val_bpb:.4f} from {plural(base.n_runs, 'run')}" + (f", sigma {sigma:.4f}" if sigma else ""),
            )
        )
    if tip and base and tip.experiment != base.experiment:
        rows.append(("branch", f"{tip.val_bpb:.4f}, experiment {tip.experiment}: {clean_description(tip.title)[:60]}"))
        rows.append(("", "as judged during the night, flattered by luck"))
        lines = textwrap.wrap(claim or "not measured yet", CLAIM_WIDTH)
        rows += [("" if number else "claim", line) for number, line in enumerate(lines)]
    elif base:
        rows.append(("branch", "the baseline so far"))
    outcomes = [record.outcome for record in candidates_of(records)]
    counts = ", ".join(f"{outcomes.count(name)} {name}" for name in OUTCOMES if name in outcomes)
    waiting = [f"{r.experiment:04d}" for r in records if r.outcome == "quarantined"]
    rows += [("quarantine", f"{', '.join(waiting)}: look, then --accept N or --refuse N")] if waiting else []
    rows += [
        ("tried", f"{len(outcomes)}" + (f": {counts}" if counts else "")),
        ("time", _time_words(entries, records)),
        *more,
    ]
    lines = [f"{name:10} {text}" for name, text in rows]
    recent = [
        f"  {r.experiment:04d}  {r.outcome:11} {_score(r):>8}  {signed(r.gain):>8}  {clean_description(r.title)[:60]}"
        for r in records[-5:]
    ]
    return "\n".join([*lines, *(["last five", *recent] if recent else [])])


def _score(record: Record) -> str:
    return "-" if record.val_bpb is None else f"{record.val_bpb:.4f}"


def _state(entries: Sequence[dict], now: datetime, budget: float) -> str:
    if not entries:
        return "nothing has run yet"
    flight, last = in_flight(entries), parse_time(entries[-1].get("time"))
    quiet = (now - last).total_seconds() if last else 0.0
    silent = quiet > max(SILENT_SECONDS, 3 * budget)
    if flight:
        title = clean_description(flight.title)[:50]
        text = f"experiment {flight.experiment}, {flight.words}, for {duration(max(quiet, 0.0))}: {title}"
        return text + (" (no sign of life: the same command continues it)" if silent else "")
    return f"between experiments for {duration(max(quiet, 0.0))}" + (
        ": stopped; the same command continues" if silent else ""
    )


def _time_words(entries: Sequence[dict], records: Sequence[Record]) -> str:
    seconds = time_use(entries)
    total = sum(seconds.values())
    busy = [sum(r.seconds.values()) - r.seconds["waiting"] for r in records[-20:] if r.experiment]
    words = [f"{duration(total)} so far" + (f", {seconds['training'] / total:.0%} in training" if total else "")]
    words += [f"about {duration(statistics.median(busy))} an experiment"] if busy else []
    return "; ".join(words)
