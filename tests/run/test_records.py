"""Records of a journal in which the best file is trained again beside an idea.

Its time, its causes and what is in flight are the idea's.
"""

import pytest

from harness.run.records import records_from_journal, time_use

FIRST, AGAIN = {"experiment": 0, "attempt": 0, "run": 0}, {"experiment": 0, "attempt": 0, "run": 1}
IDEA = {"experiment": 1, "attempt": 0}
RUN = IDEA | {"run": 0}


def line(seconds: float, event: str, **fields) -> dict:
    return {
        "time": f"2026-11-23T22:{int(seconds // 60):02d}:{seconds % 60:06.3f}Z",
        "event": event,
        **fields,
    }


BEGUN = [
    line(0, "opened"),
    line(1, "proposed", **FIRST, title="baseline"),
    line(2, "run_started", **FIRST, kind="score"),
    line(42, "trained", **FIRST, status="ok", training_seconds=30.0, total_seconds=40.0),
    line(52, "scored", **FIRST, status="ok", val_bpb=1.5, score_seconds=10.0),
    line(53, "decided", **FIRST, decision="baseline", status="ok", val_bpb=1.5, n_runs=1),
    line(54, "proposed", **IDEA, title="an idea"),
    line(55, "run_started", **RUN, kind="score"),
    line(95, "trained", **RUN, status="ok", training_seconds=30.0, total_seconds=40.0),
    line(105, "scored", **RUN, status="ok", val_bpb=1.4, score_seconds=10.0),
]
REFRESH = [
    line(106, "run_started", **AGAIN, kind="refresh", beside=1),
    line(146, "trained", **AGAIN, status="ok", training_seconds=30.0, total_seconds=40.0),
    line(156, "scored", **AGAIN, status="ok", val_bpb=1.5, score_seconds=10.0),
]
KEPT = line(
    157, "decided", **IDEA, decision="keep", status="ok", val_bpb=1.4, n_runs=1, kind="gain"
)


def test_time_of_a_refresh_is_the_ideas_beside_which_it_was():
    entries = [*BEGUN, *REFRESH, KEPT]
    baseline, idea = records_from_journal(entries)
    assert baseline.seconds == pytest.approx(
        {"training": 30, "startup": 10, "scoring": 10, "overhead": 3, "waiting": 0}
    )
    assert idea.seconds == pytest.approx(
        {"training": 60, "startup": 20, "scoring": 20, "overhead": 4, "waiting": 0}
    )
    assert sum(time_use(entries).values()) == pytest.approx(157)


def test_a_refresh_that_failed_is_nobodys_failure():
    failed = line(146, "trained", **AGAIN, status="crash", cause="no kernel", training_seconds=None)
    crash = KEPT | {"decision": "discard", "status": "crash", "val_bpb": None}
    baseline, idea = records_from_journal([*BEGUN, REFRESH[0], failed, KEPT])
    assert (baseline.outcome, baseline.cause, idea.outcome, idea.cause) == (
        "baseline",
        "",
        "kept",
        "",
    )
    # where the idea then fails by itself, that is told
    own = [
        line(110, "run_started", **IDEA, run=1, kind="confirm"),
        line(150, "trained", **IDEA, run=1, status="oom", cause="too large"),
    ]
    assert records_from_journal([*BEGUN, *own, REFRESH[0], failed, crash])[1].cause == "too large"
