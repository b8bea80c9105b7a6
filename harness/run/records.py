"""Journal entries in, one plain record per decided experiment out: what a report, an index page or a data frame needs.

Also says what is in flight and where the wall-clock time went. Pure functions over the list that read_journal gives;
standard library only, so that a status line costs no import of pandas. Missing fields become None, never 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from harness.run.pace import Pace, paces_of
from harness.run.results import CRASH_STATUSES, NO_ROW_STATUSES
from harness.run.state import fold

OUTCOMES = ("baseline", "kept", "simplified", "discarded", "quarantined", "crashed", "no result")
KEPT = ("baseline", "kept", "simplified")
TIME_KINDS = ("training", "startup", "scoring", "overhead", "waiting")
IDLE_SECONDS = 120  # a gap this long that no run explains is waiting: a stopped or paused night, a very slow proposer


@dataclass(frozen=True)
class Record:
    """One decided experiment. Scores in bits per byte, memory in GB, minutes since the journal was opened (never going back, as a clock may).

    outcome is one of OUTCOMES. on_branch is the val_bpb of what was kept last, up to here. noise_of_gain is sigma times
    sqrt(1/n + 1/n of the incumbent's runs): one standard deviation of the gain. kept_at is the number of the journal's
    line that put it on the branch. pace is of its scored runs. seconds holds one figure per TIME_KINDS.
    """

    experiment: int
    outcome: str
    decision: str = ""
    status: str = ""
    kind: str = ""
    category: str = ""
    proposer: str = ""
    title: str = "(no title)"
    time: datetime | None = None
    minutes: float | None = None
    val_bpb: float | None = None
    n_runs: int = 0
    gain: float | None = None
    sigma: float | None = None
    df: float | None = None
    threshold: float | None = None
    noise_of_gain: float | None = None
    verdict: str = ""
    memory_gb: float | None = None
    commit: str | None = None
    attempt: int | None = None
    incumbent: int | None = None
    cause: str = ""
    on_branch: float | None = None
    kept_at: int | None = None
    pace: Pace = Pace()
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TIME_KINDS, math.nan))


def parse_time(text: object) -> datetime | None:
    """An ISO 8601 time of the journal as an aware datetime; None when it is not one."""
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def finite(value: object) -> float | None:
    """value as a float when it is a finite number, else None (JSON can carry NaN, and null means no score)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def positive(value: object) -> float | None:
    """As finite, and None at or below 0: no score is 0."""
    number = finite(value)
    return number if number is not None and number > 0 else None


def records_from_journal(entries: Sequence[dict]) -> list[Record]:
    """One record per decided experiment, in journal order; the unfinished one is left to in_flight."""
    start = parse_time(entries[0].get("time")) if entries else None
    commits = {e.get("experiment"): e.get("commit") for e in entries if e.get("event") == "committed"}
    rulings = {e.get("experiment"): e for e in entries if e.get("event") == "ruled"}
    causes, seconds, paces = _causes(entries), _seconds_by_experiment(entries), paces_of(fold(entries))
    records: dict[int, Record] = {}
    for entry in entries:
        number = entry.get("experiment")
        if entry.get("event") == "decided" and number not in records:
            cause, spent = causes.get(number, ""), seconds[number]
            final = entry | _ruled(entry, rulings.get(number))
            record = _record(final, records, start, commits.get(number), cause, spent)
            records[number] = replace(record, pace=paces.get((number, entry.get("attempt")), Pace()))
    return list(records.values())


def _ruled(decided: dict, ruled: dict | None) -> dict:
    """What a person's word on a quarantined experiment changes in its `decided` line."""
    if ruled is None:
        return {}
    word = "accepted" if ruled.get("accept") else "refused"
    decision = "keep" if ruled.get("becomes_incumbent") else "discard"
    verdict = f"{word} by a person; it was {decided.get('verdict')}"
    return {"decision": decision, "verdict": verdict, "seq": ruled.get("seq")}


def _record(
    entry: dict,
    before: dict[int, Record],
    start: datetime | None,
    commit: str | None,
    cause: str,
    seconds: dict[str, float],
) -> Record:
    number, time, score = entry["experiment"], parse_time(entry.get("time")), positive(entry.get("val_bpb"))
    result, sigma, runs = outcome(entry), positive(entry.get("sigma")), int(entry.get("n_runs") or 0)
    rival = before.get(entry.get("incumbent"))
    last = next(reversed(before.values())).on_branch if before else None
    before_it = max((r.minutes for r in before.values() if r.minutes is not None), default=0.0)
    return Record(
        experiment=number,
        time=time,
        decision=entry.get("decision") or "",
        status=entry.get("status") or "",
        kind=entry.get("kind") or "",
        outcome=result,
        category=entry.get("category") or "",
        proposer=entry.get("proposer") or "",
        title=entry.get("title") or ("baseline" if number == 0 else "(no title)"),
        val_bpb=score,
        n_runs=runs,
        gain=finite(entry.get("gain")),
        sigma=sigma,
        df=positive(entry.get("df")),
        threshold=finite(entry.get("threshold")),
        noise_of_gain=noise_of_gain(sigma, runs, entry.get("incumbent_runs") or (rival.n_runs if rival else 0)),
        verdict=entry.get("verdict") or "",
        memory_gb=positive(entry.get("memory_gb")),
        commit=commit,
        attempt=entry.get("attempt"),
        incumbent=entry.get("incumbent"),
        cause=cause if result == "crashed" else "",
        minutes=max(before_it, (time - start).total_seconds() / 60) if time and start else None,
        on_branch=score if result in KEPT else last,
        kept_at=entry.get("seq") if result in KEPT else None,
        seconds=seconds,
    )


def outcome(decided: dict) -> str:
    """One of OUTCOMES for a decided line: decision and status in the one word that a reader wants."""
    status, decision = decided.get("status"), decided.get("decision")
    if status in NO_ROW_STATUSES:
        return "no result"
    if status in CRASH_STATUSES or positive(decided.get("val_bpb")) is None:
        return "crashed"
    if decision == "keep":
        return "simplified" if decided.get("kind") == "simplification" else "kept"
    return {"baseline": "baseline", "quarantine": "quarantined"}.get(decision, "discarded")


def noise_of_gain(sigma: float | None, runs: int, incumbent_runs: int) -> float | None:
    """Standard deviation of the difference of two means of `runs` and `incumbent_runs` values; None when unknown."""
    if sigma is None or runs < 1 or incumbent_runs < 1:
        return None
    return sigma * math.sqrt(1 / runs + 1 / incumbent_runs)


def work_of(entries: Sequence[dict]) -> list[int | None]:
    """Of each entry the experiment that it was written for.

    A run of the best file that is trained again beside an idea (`refresh`) is work for that idea.
    """
    beside: dict[tuple, int] = {}
    found = []
    for entry in entries:
        place = (entry.get("experiment"), entry.get("attempt"), entry.get("run"))
        if entry.get("event") == "run_started" and entry.get("beside") is not None:
            beside[place] = entry["beside"]
        found.append(beside.get(place, entry.get("experiment")))
    return found


def _causes(entries: Sequence[dict]) -> dict[int, str]:
    """The last stated cause of failure of each experiment: of its checks, its training or its scoring."""
    causes: dict[int, str] = {}
    for entry, number in zip(entries, work_of(entries), strict=True):
        if number != entry.get("experiment"):
            continue  # the best file, trained again: it says nothing about either experiment
        if entry.get("event") == "checked" and entry.get("ok") is False:
            causes[entry.get("experiment")] = "; ".join(map(str, entry.get("reasons") or []))
        elif entry.get("event") in ("trained", "scored", "audited") and entry.get("status") != "ok":
            causes[entry.get("experiment")] = str(entry.get("cause") or entry.get("status") or "")
        elif entry.get("event") == "decided" and entry.get("cause"):
            causes[entry.get("experiment")] = str(entry["cause"])
    return causes


def time_use(entries: Sequence[dict]) -> dict[str, float]:
    """Wall-clock seconds of the whole journal by TIME_KINDS; they add up to last time minus first time."""
    total = dict.fromkeys(TIME_KINDS, 0.0)
    for spent in _seconds_by_experiment(entries).values():
        for kind, seconds in spent.items():
            total[kind] += seconds
    return total


def _seconds_by_experiment(entries: Sequence[dict]) -> dict[int | None, dict[str, float]]:
    """Each gap between two lines belongs to the experiment that the later line was written for.

    A trained line explains its total_seconds (training, and start-up with compilation), a scored line its
    score_seconds; what is left of the gap is overhead, or waiting when it is longer than IDLE_SECONDS.
    """
    spent: dict[int | None, dict[str, float]] = {}
    last = None
    for entry, number in zip(entries, work_of(entries), strict=True):
        into = spent.setdefault(number, dict.fromkeys(TIME_KINDS, 0.0))
        now = parse_time(entry.get("time"))
        gap = max(0.0, (now - last).total_seconds()) if now and last else 0.0
        for kind, seconds in _explained(entry):
            taken = min(seconds, gap)
            into[kind] += taken
            gap -= taken
        into["waiting" if gap > IDLE_SECONDS else "overhead"] += gap
        last = now or last
    return spent


def _explained(entry: dict) -> list[tuple[str, float]]:
    if entry.get("event") == "trained":
        training = positive(entry.get("wall_seconds")) or positive(entry.get("training_seconds")) or 0.0
        startup = max(0.0, (positive(entry.get("total_seconds")) or training) - training)
        return [("training", training), ("startup", startup)]
    if entry.get("event") == "scored":
        return [("scoring", positive(entry.get("score_seconds")) or 0.0)]
    if entry.get("event") == "audited":
        return [("scoring", positive(entry.get("audit_seconds")) or 0.0)]
    return []


def baseline_of(records: Sequence[Record]) -> Record | None:
    """The baseline, when it has a score."""
    return next((record for record in records if record.outcome == "baseline"), None)


def incumbent_of(records: Sequence[Record]) -> Record | None:
    """What is on the branch: what was kept last, in the order in which it was kept; the baseline at first."""
    kept = [record for record in records if record.outcome in KEPT]
    return max(kept, key=lambda record: record.experiment if record.kept_at is None else record.kept_at, default=None)
