"""Journal entries in, one plain record per decided experiment out: for tables, reports and pages.

Also says where the wall-clock time went. Pure functions over the list that read_journal gives;
standard library only, so that a status line costs no import of pandas. Missing fields become None,
never 0.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from harness.ground.text import one_line, plain_words
from harness.run.pace import Pace, pace_of
from harness.run.state import NOT_HELD_AGAINST, Attempt, Experiment, fold

KEPT = ("baseline", "kept", "simplified")
OUTCOMES = (*KEPT, "discarded", "quarantined", "crashed", "no result")
# As people read them: what was kept does not all score better.
OUTCOME_WORDS = {name: name for name in OUTCOMES} | {
    "kept": "kept as better",
    "simplified": "kept as simpler",
}
TIME_KINDS = ("training", "startup", "scoring", "overhead", "waiting")
# A gap this long that no run explains is waiting: a stopped or paused night, a very slow proposer.
IDLE_SECONDS = 120
TITLE_CHARACTERS = 160
MOST_CHARACTERS = 2000  # of any words, whoever wrote the journal
# What a record has as the `decided` entry has it.
AS_DECIDED = (
    *("decision", "status", "kind", "category", "proposer", "title", "n_runs", "gain"),
    *("sigma", "threshold", "verdict", "attempt", "incumbent"),
)


@dataclass(frozen=True)
class Record:
    """One decided experiment. Scores in bits per byte, memory in GB.

    minutes: since the journal was opened, never going back, as a clock may. outcome: of OUTCOMES.
    on_branch: the val_bpb of what was kept last, up to here. noise_of_gain: sigma times
    sqrt(1/n + 1/n of the incumbent's runs), one standard deviation of the gain. kept_at: the number
    of the journal's line that put it on the branch. ruled: a person's word on it, accepted or
    refused. pace: of its scored runs. seconds: one figure per TIME_KINDS.
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
    is_committed: bool = False
    ruled: str = ""
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


def records_from_journal(entries: Sequence[dict]) -> list[Record]:
    """One record per decided experiment, in journal order."""
    start = parse_time(entries[0].get("time")) if entries else None
    seconds = seconds_by_experiment(entries)
    records: list[Record] = []
    for experiment in fold(entries).experiments:
        if experiment.decided:
            last = records[-1] if records else None
            records.append(make_record(experiment, last, start, seconds[experiment.number]))
    return records


def make_record(
    experiment: Experiment, last: Record | None, start: datetime | None, seconds: dict[str, float]
) -> Record:
    """The record of a decided experiment. last: the one before; start: when the run was opened."""
    ruled = word_on(experiment)
    decided = experiment.decided | ruled
    fields = {name: decided[name] for name in AS_DECIDED if decided.get(name) not in (None, "")}
    words = {k: str(v)[:MOST_CHARACTERS] for k, v in fields.items() if isinstance(v, str)}
    # A title is shown as it is, and quoted wherever that matters.
    fields |= {k: one_line(v) if k == "title" else plain_words(v) for k, v in words.items()}
    result, time = outcome(decided), parse_time(decided.get("time"))
    is_kept = result in KEPT
    minutes = None
    if time and start:
        before = last.minutes if last and last.minutes else 0.0
        minutes = max(before, (time - start).total_seconds() / 60)
    runs, rival_runs = decided.get("n_runs") or 0, decided.get("incumbent_runs") or 0
    score = score_of(decided)
    return Record(
        experiment.number,
        result,
        **fields,
        time=time,
        val_bpb=score,
        minutes=minutes,
        df=decided.get("df") or None,
        memory_gb=decided.get("memory_gb") or None,
        noise_of_gain=noise_of_gain(decided.get("sigma"), runs, rival_runs),
        commit=experiment.committed and experiment.committed["commit"],
        is_committed=experiment.committed is not None,
        ruled=ruled.get("ruled", ""),
        cause=cause_of(experiment.attempt) if result == "crashed" else "",
        on_branch=score if is_kept else last and last.on_branch,
        kept_at=decided.get("seq") if is_kept else None,
        pace=pace_of(run.trained for run in experiment.attempt.scored),
        seconds=seconds,
    )


def short_title(record: Record) -> str:
    """Its title on one line, cut to what a table has room for."""
    title = one_line(record.title)
    return title if len(title) <= TITLE_CHARACTERS else f"{title[: TITLE_CHARACTERS - 3]}..."


def word_on(experiment: Experiment) -> dict:
    """What a person's word on a quarantined experiment changes in its `decided` entry."""
    ruled = experiment.ruled
    if ruled is None:
        return {}
    word = "accepted" if ruled["accept"] else "refused"
    return {
        "ruled": word,
        "decision": "keep" if ruled["becomes_incumbent"] else "discard",
        "verdict": f"{word} by a person; it was {experiment.decided['verdict']}",
        "seq": ruled.get("seq"),
    }


def score_of(decided: dict) -> float | None:
    """val_bpb of a decided entry; None for none, and for what is no score: 0 and less."""
    score = decided["val_bpb"]
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return score if is_number and score > 0 else None


def outcome(decided: dict) -> str:
    """One of OUTCOMES for a decided entry: decision and status in the word that a reader wants."""
    if decided["status"] in NOT_HELD_AGAINST:
        return "no result"
    if decided["status"] != "ok" or score_of(decided) is None:
        return "crashed"
    if decided["decision"] == "keep":
        return "simplified" if decided["kind"] == "simplification" else "kept"
    words = {"baseline": "baseline", "quarantine": "quarantined", "discard": "discarded"}
    return words[decided["decision"]]


def cause_of(attempt: Attempt) -> str:
    """Why an attempt has no score: what its check, its training or its scoring says."""
    if attempt.checked and not attempt.checked["ok"]:
        return "; ".join(attempt.checked["reasons"])
    failure = attempt.failure
    return failure.cause or failure.status if failure else ""


def noise_of_gain(sigma: float | None, runs: int, incumbent_runs: int) -> float | None:
    """Standard deviation of the difference of two means of so many values; None when unknown."""
    if sigma is None or runs < 1 or incumbent_runs < 1:
        return None
    return sigma * math.sqrt(1 / runs + 1 / incumbent_runs)


def time_use(entries: Sequence[dict]) -> dict[str, float]:
    """Wall-clock seconds of the journal by TIME_KINDS; they add up to last minus first time."""
    spent = seconds_by_experiment(entries).values()
    return {kind: sum(seconds[kind] for seconds in spent) for kind in TIME_KINDS}


def seconds_by_experiment(entries: Sequence[dict]) -> dict[int | None, dict[str, float]]:
    """Each gap between two entries belongs to the experiment that the later one was written for.

    A run of the best file that is trained again beside an idea (`refresh`) is work for that idea.
    An entry explains some of the gap before it; the rest is overhead, or waiting when it is longer
    than IDLE_SECONDS.
    """
    spent: dict[int | None, dict[str, float]] = {}
    beside: dict[tuple, int] = {}
    last = None
    for entry in entries:
        place = (entry.get("experiment"), entry.get("attempt"), entry.get("run"))
        if entry.get("beside") is not None:
            beside[place] = entry["beside"]
        into = spent.setdefault(beside.get(place, place[0]), dict.fromkeys(TIME_KINDS, 0.0))
        now = parse_time(entry.get("time"))
        gap = max(0.0, (now - last).total_seconds()) if now and last else 0.0
        for kind, seconds in explained(entry):
            into[kind] += min(seconds, gap)
            gap -= min(seconds, gap)
        into["waiting" if gap > IDLE_SECONDS else "overhead"] += gap
        last = now or last
    return spent


def explained(entry: dict) -> Iterator[tuple[str, float]]:
    """What the time before an entry went into, as far as it says: (kind, seconds)."""
    if entry["event"] == "trained":
        told = ("wall_seconds", "training_seconds", "spent_seconds")  # the last of failed ones, too
        training = next((entry[name] for name in told if entry.get(name)), 0.0)
        yield "training", training
        yield "startup", max(0.0, (entry.get("total_seconds") or training) - training)
    yield "scoring", entry.get("score_seconds") or entry.get("audit_seconds") or 0.0


def baseline_of(records: Sequence[Record]) -> Record | None:
    """The baseline, when it has a score."""
    return next((record for record in records if record.outcome == "baseline"), None)


def best_of(records: Sequence[Record]) -> Record | None:
    """The best score: the lowest that was on the branch, which may have gone on to simpler code."""
    kept = [record for record in records if record.outcome in KEPT]
    return min(kept, key=lambda record: record.val_bpb, default=None)


def incumbent_of(records: Sequence[Record]) -> Record | None:
    """What is on the branch: what was kept last, the baseline at first."""
    kept = [record for record in records if record.outcome in KEPT]
    # A bare table has no lines of a journal: there the experiments' numbers tell the order.
    return max(kept, key=lambda r: r.experiment if r.kept_at is None else r.kept_at, default=None)
