"""The journal: what survives a cut, and `next_step` over every prefix of a real run's journal."""

import json
import os

import pytest

from harness.ground.errors import JournalError
from harness.night.progress import progress_made
from harness.rules.next_step import Step, next_step
from harness.run.journal import Journal, JournalReader, read_journal
from harness.run.state import fold

PROPOSAL = {
    "title": "idea",
    "hypothesis": "why",
    "category": "tune",
    "proposer": "tpe",
    "parent": 0,
    "sha256": "x",
    "constants": {},
    "code_lines": 100,
}


def script(*events: dict) -> list[dict]:
    return [
        {"seq": i, "time": "2026-11-23T00:00:00.000Z"} | event for i, event in enumerate(events)
    ]


def run(
    experiment: int,
    number: int,
    val_bpb: float | None = None,
    status: str = "ok",
    kind: str = "score",
    rows: int | None = None,
    limit: int | None = None,
    sure: bool = True,
    beside: int | None = None,
    **facts: object,
) -> list[dict]:
    """The entries of one run.

    started: with at most `limit` rows at a time; trained: with `rows`; scored.
    """
    at = {"experiment": experiment, "attempt": 0, "run": number}
    started = {"kind": kind, "seed": 1, "device_batch_limit": limit}
    started |= {} if beside is None else {"beside": beside}
    events = [
        {"event": "run_started", **at, **started},
        {
            "event": "trained",
            **at,
            "status": status,
            "cause": "",
            "memory_mb": 1.0,
            "device_batch_size": rows,
            "sure": sure,
            **facts,
        },
    ]
    return events + [{"event": "scored", **at, "status": "ok", "cause": "", "val_bpb": val_bpb}] * (
        status == "ok"
    )


def audited(experiment: int, *numbers: int, status: str = "ok") -> list[dict]:
    at = {
        "event": "audited",
        "experiment": experiment,
        "attempt": 0,
        "status": status,
        "cause": "",
        "holdout": "agrees",
    }
    return [at | {"run": number} for number in numbers]


def experiment(number: int, runs: list[dict], decision: str = "discard") -> list[dict]:
    at = {"experiment": number, "attempt": 0}
    ends = [
        {"event": "decided", "experiment": number, "decision": decision, "status": "ok"},
        {"event": "committed", "experiment": number, "commit": None},
    ]
    return [
        {"event": "proposed", **at, **PROPOSAL},
        {"event": "checked", **at, "ok": True, "reasons": []},
        *runs,
        *ends,
    ]


OPENED = {"event": "opened", "tag": "t", "seeds": [1, 2], "max_looks": 3, "prior": None}
BASELINE = experiment(0, run(0, 0, 1.500) + run(0, 1, 1.502), "baseline")
NIGHT = script(
    OPENED,
    *BASELINE,
    *experiment(1, run(1, 0, 1.6)),
    *experiment(2, run(2, 0, 1.496) + run(2, 1, 1.4955, kind="confirm") + audited(2, 0, 1), "keep"),
    *experiment(3, run(3, 0, status="crash")),
    *experiment(4, run(4, 0, status="interrupted") + run(4, 1, 1.5)),
    *experiment(
        5,
        run(5, 0, status="oom", rows=4)
        + run(5, 1, status="oom", rows=2, limit=2)
        + run(5, 2, 1.5, rows=1, limit=1),
    ),
    *experiment(6, run(6, 0, status="oom", rows=2) + run(6, 1, status="oom", rows=1, limit=1)),
)
# The same rules on a CPU: whatever would be kept is judged beside a run of the incumbent from its
# own time.
FRESH = script(
    OPENED | {"prior": {"sigma": 0.001, "df": 4, "note": ""}, "refresh_seconds": 0.0},
    *BASELINE,
    *experiment(
        1, run(1, 0, 1.48) + run(0, 2, 1.501, kind="refresh", beside=1) + audited(1, 0), "keep"
    ),
    *experiment(2, run(2, 0, 1.6)),
    *experiment(
        3,
        run(3, 0, 1.46)
        + run(1, 1, status="interrupted", kind="refresh", beside=3)
        + run(1, 2, status="crash", kind="refresh", beside=3)
        + run(1, 3, 1.46, kind="refresh", beside=3),
    ),
)
KINDS = {
    "opened": "propose",
    "proposed": "check",
    "checked": "train",
    "run_started": "in_flight",
    "decided": "commit",
    "committed": "propose",
}


@pytest.mark.parametrize("night", [NIGHT, FRESH], ids=["night", "with refreshes"])
def test_every_prefix_of_a_night_has_one_next_step_and_it_is_what_the_next_entry_does(night):
    """So a kill at any moment, in a refresh too, is followed by what was to come."""
    does = {
        "proposed": "propose",
        "checked": "check",
        "run_started": "train",
        "trained": "in_flight",
        "scored": "score",
        "audited": "audit",
        "decided": "decide",
        "committed": "commit",
    }
    assert next_step([]) == Step("open")
    beside = {}
    for length in range(1, len(night)):
        step, following = next_step(night[:length]), night[length]
        place = tuple(following.get(key) for key in ("experiment", "attempt", "run"))
        assert step.kind == does[following["event"]], (length, step, following)
        if following["event"] == "run_started":
            assert step.run_kind == following["kind"]
            beside[place] = following.get("beside", following["experiment"])
        assert step.experiment == beside.get(place, following["experiment"])
        if following["event"] in ("run_started", "trained", "scored", "audited"):
            assert (*step.file, step.run) == place
        if night[length - 1]["event"] in KINDS:
            assert step.kind == KINDS[night[length - 1]["event"]]
    assert next_step(night) == Step("propose", night[-1]["experiment"] + 1)


def test_next_step_is_pure():
    copy = json.loads(json.dumps(NIGHT))
    assert [next_step(NIGHT[:n]) for n in range(len(NIGHT))] == [
        next_step(copy[:n]) for n in range(len(NIGHT))
    ]
    assert copy == NIGHT


def test_runs_get_seeds_of_their_own():
    seeds = set()
    for scores in ([], [1.5001]):
        runs = [entry for number, score in enumerate(scores) for entry in run(1, number, score)]
        step = next_step(script(OPENED, *BASELINE, *experiment(1, runs)[:-2]))
        if step.kind == "train":
            seeds.add(step.seed)
    assert not seeds & {1, 2} and seeds


def test_a_promising_result_asks_for_another_run_and_a_bad_one_for_the_decision():
    prior = {"sigma": 0.001, "df": 4, "note": ""}
    start = [OPENED | {"prior": prior}, *BASELINE]
    promising = next_step(script(*start, *experiment(1, run(1, 0, 1.4992))[:-2]))
    assert (promising.kind, promising.run_kind) == ("train", "confirm")
    assert next_step(script(*start, *experiment(1, run(1, 0, 1.6))[:-2])).kind == "decide"
    assert next_step(script(*start, *experiment(1, run(1, 0, 1.3))[:-2])).kind == "audit"
    assert (
        next_step(script(*start, *experiment(1, run(1, 0, 1.3) + audited(1, 0))[:-2])).kind
        == "decide"
    )


@pytest.mark.parametrize("sigma, more", [(0.0014, 0), (0.00001, 2)])
def test_a_baseline_that_contradicts_the_shipped_noise_is_trained_on_more_seeds(sigma, more):
    runs = [*run(0, 0, 1.500), *run(0, 1, 1.502)]
    for number in range(2, 2 + more):
        step = next_step(
            script(
                OPENED | {"prior": {"sigma": sigma, "df": 4, "note": ""}}, *experiment(0, runs)[:-2]
            )
        )
        assert (step.kind, step.run, step.seed > 2) == ("train", number, True)
        runs += run(0, number, 1.501)
    assert (
        next_step(
            script(
                OPENED | {"prior": {"sigma": sigma, "df": 4, "note": ""}}, *experiment(0, runs)[:-2]
            )
        ).kind
        == "decide"
    )


def test_an_infrastructure_fault_runs_the_same_candidate_again_and_is_not_held_against_it():
    step = next_step(
        script(OPENED, *BASELINE, *experiment(1, run(1, 0, status="infrastructure"))[:-2])
    )
    assert (step.kind, step.run, step.attempt) == ("train", 1, 0)
    assert (
        next_step(script(OPENED, *BASELINE, *experiment(1, run(1, 0, status="crash"))[:-2])).kind
        == "decide"
    )


def test_a_fault_that_only_the_training_tells_of_is_forgiven_twice():
    unsure = [run(1, n, status="infrastructure", sure=False) for n in range(3)]
    assert after(*unsure[:2]).kind == "train" and after(*unsure).kind == "decide"
    assert after(*[run(1, n, status="infrastructure", sure=True) for n in range(5)]).kind == "train"


def test_a_training_that_is_disturbed_on_a_card_is_repeated_twice_and_then_says_nothing():
    disturbed = [run(1, n, status="infrastructure", sure=True, disturbed=True) for n in range(3)]
    assert after(*disturbed[:2]).kind == "train" and after(*disturbed).kind == "decide"


def after(*runs: list[dict], opened: dict = OPENED) -> Step:
    """What comes next when experiment 1 has had these runs."""
    return next_step(
        script(opened, *BASELINE, *experiment(1, [entry for one in runs for entry in one])[:-2])
    )


def test_a_training_out_of_memory_is_repeated_with_half_the_rows_down_to_one():
    first = after()
    assert first.device_batch_limit is None
    ooms, limit = [], None
    for rows, fewer in ((12, 6), (6, 3), (3, 1)):
        ooms.append(run(1, len(ooms), status="oom", rows=rows, limit=limit))
        step = after(*ooms)
        assert (step.kind, step.run, step.run_kind, step.seed) == (
            "train",
            len(ooms),
            "score",
            first.seed,
        )
        assert step.device_batch_limit == fewer
        limit = fewer
    assert after(*ooms, run(1, 3, status="oom", rows=1, limit=1)).kind == "decide"
    state = fold(
        script(
            OPENED,
            *BASELINE,
            *experiment(1, [e for one in ooms for e in one] + run(1, 3, 1.6, rows=1)),
        )
    )
    assert state.experiments[1].attempt.failure is None and state.experiments[1].attempt.scores == [
        1.6
    ]


def test_an_interruption_does_not_forget_the_smaller_batch_and_a_confirmation_keeps_it():
    oom = run(1, 0, status="oom", rows=8)
    assert after(oom, run(1, 1, status="interrupted", limit=4)).device_batch_limit == 4
    assert after(oom, run(1, 1, status="infrastructure", limit=4)).device_batch_limit == 4
    prior = {"sigma": 0.001, "df": 4, "note": ""}
    step = after(oom, run(1, 1, 1.4992, rows=4, limit=4), opened=OPENED | {"prior": prior})
    assert (step.run_kind, step.device_batch_limit) == ("confirm", 4)


@pytest.mark.parametrize(
    "oom",
    [
        run(1, 0, status="oom"),  # it does not say how many rows it held
        run(1, 0, status="oom", rows=8, limit=4),  # it takes more than it was allowed
        [
            *run(1, 0, rows=8)[:-1],
            {
                "event": "scored",
                "experiment": 1,
                "attempt": 0,
                "run": 0,
                "status": "oom",
                "cause": "",
                "val_bpb": None,
            },
        ],
    ],
)
def test_out_of_memory_that_fewer_rows_cannot_mend_is_the_ideas_failure(oom):
    assert after(oom).kind == "decide"
    state = fold(script(OPENED, *BASELINE, *experiment(1, oom)))
    assert state.experiments[1].attempt.failure.status == "oom"


def test_a_training_that_lies_about_its_rows_is_not_repeated_for_ever():
    runs, rows = [], 2**60
    while (step := after(*runs)).kind == "train":
        runs.append(run(1, len(runs), status="oom", rows=rows, limit=step.device_batch_limit))
        rows //= 2
    assert len(runs) == 9


def test_a_kept_ideas_smaller_batch_is_its_childrens_and_a_discarded_ones_is_forgotten():
    opened = OPENED | {"device_batch_limit": 32}
    big = run(1, 0, status="oom", rows=32, limit=32) + run(1, 1, 1.4, rows=16, limit=16)
    for decision, limit in (("keep", 16), ("discard", 32)):
        entries = script(opened, *BASELINE, *experiment(1, big, decision), *experiment(2, [])[:2])
        entries = [
            (
                e | {"device_batch_limit": 32}
                if e.get("experiment") == 0 and e["event"] == "run_started"
                else e
            )
            for e in entries
        ]
        assert next_step(entries).device_batch_limit == limit
    baseline = script(opened, *experiment(0, [])[:2])
    assert next_step(baseline).device_batch_limit == 32  # what the probe found
    again = script(
        opened,
        *experiment(
            0, run(0, 0, 1.5, rows=32, limit=32) + run(0, 1, status="oom", rows=32, limit=32)
        )[:-2],
    )
    assert (next_step(again).seed, next_step(again).device_batch_limit) == (2, 16)


def test_a_refused_candidate_is_decided_without_training():
    entries = script(
        OPENED,
        *BASELINE,
        *experiment(1, [])[:1],
        {"event": "checked", "experiment": 1, "attempt": 0, "ok": False, "reasons": ["no"]},
    )
    assert next_step(entries).kind == "decide"


def test_the_incumbent_is_the_last_keep_and_the_noise_pools_its_groups():
    state = fold(NIGHT)
    assert state.incumbent.number == 2 and state.incumbent.mean == pytest.approx(1.49575)
    assert [run.val_bpb for run in state.rivals] == [1.496, 1.4955]
    # two baseline seeds; of the decided attempts the first run, selected for being low, is left out
    assert state.noise.df == 1


def test_runs_beside_an_idea_are_the_incumbents_and_neither_its_score_nor_noise():
    state = fold(FRESH)
    kept = state.experiments[1]
    assert (state.incumbent, len(kept.attempt.runs), len(kept.attempt.own)) == (kept, 4, 1)
    assert kept.attempt.scores == [1.48] and kept.attempt.failure is None and kept.mean == 1.48
    # 1.48 is contradicted by 1.46: it counts no longer
    assert [run.val_bpb for run in state.rivals] == [1.46]
    # two seeds of the baseline beside the prior's four: its third run is of another time
    assert state.noise.df == 5


LINES = [
    json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    for entry in script(OPENED, *experiment(0, []), {"event": "note", "text": "é 漢\u2028"})
]
LAST = LINES[-1]


def mended(path, whole: list[bytes]) -> str:
    """See that a damaged journal with good entries on `whole` lines goes on from there.

    Returns what is said.
    """
    assert [
        json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in read_journal(path)
    ] == whole
    journal = Journal(path)
    assert path.read_bytes() == b"".join(whole)
    journal.append("note", text="goes on")
    assert [entry["seq"] for entry in read_journal(path)] == list(range(len(whole) + 1))
    assert Journal(path).mended == ""
    return journal.mended


@pytest.mark.parametrize("length", range(1, len(LAST)))
def test_a_last_line_cut_anywhere_is_put_aside_and_nothing_else_is_lost(tmp_path, length):
    path, aside = tmp_path / "journal.jsonl", tmp_path / "journal.jsonl.cut"
    path.write_bytes(b"".join(LINES[:-1]) + LAST[:length])
    if length == len(LAST) - 1:  # only the line end is missing: the entry is whole
        assert mended(path, LINES) == "" and not aside.exists()
    else:
        assert f"({length} bytes)" in mended(path, LINES[:-1])
        assert aside.read_bytes() == LAST[:length] + b"\n"


@pytest.mark.parametrize(
    "end",
    [
        b"\0" * 512,
        b"\0" * 512 + b"\n",
        LAST[:30] + b"\0" * 5000,
        b"\r\n",
        b"\xff\xfe\r\x0b\n",
        b"{}\n",
        b"null",
        LINES[0],
        b"\n\n",
    ],
)
def test_what_a_power_cut_leaves_at_the_end_is_put_aside(tmp_path, end):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(LINES) + end)
    assert f"({len(end)} bytes)" in mended(path, LINES)
    assert (tmp_path / "journal.jsonl.cut").read_bytes() == end + b"\n"


def test_a_first_line_cut_short_leaves_an_empty_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(LINES[0][:20])
    assert "put aside" in mended(path, [])


def test_what_is_cut_a_second_time_joins_what_is_aside(tmp_path):
    path = tmp_path / "journal.jsonl"
    for cut in (b"first", b"second"):
        path.write_bytes(LINES[0] + cut)
        Journal(path)
    assert (tmp_path / "journal.jsonl.cut").read_bytes() == b"first\nsecond\n"


def test_an_append_that_fails_half_way_leaves_no_half_line(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("note", text="first")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        journal.append("note", text="second")
    journal.append("note", text="third")
    assert [entry["text"] for entry in read_journal(tmp_path / "journal.jsonl")] == [
        "first",
        "third",
    ]


def test_a_watcher_reads_only_whole_new_lines(tmp_path):
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.entries() == []
    lines = [json.dumps(entry).encode() + b"\n" for entry in NIGHT[:4]]
    path.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    assert reader.entries() == NIGHT[:2]
    path.write_bytes(b"".join(lines))
    assert reader.entries() == NIGHT[:4]
    for edited in (lines[0], b"".join(lines).replace(b"idea", b"IDEA", 1), b""):
        path.write_bytes(edited)
        with pytest.raises(JournalError, match="was changed while this process watched it"):
            reader.entries()
    path.write_bytes(b"".join(lines))
    assert reader.entries() == NIGHT[:4]


def test_a_run_that_is_begun_and_cut_off_again_and_again_is_no_progress():
    begun = script(OPENED, *BASELINE, *experiment(1, [])[:2])
    cut = script(*begun, *run(1, 0, status="interrupted"), *run(1, 1, status="interrupted"))
    assert (
        progress_made(cut) == progress_made(begun) < progress_made(script(*begun, *run(1, 0, 1.4)))
    )


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(
        "\n".join(["{}" if i == 2 else json.dumps(e) for i, e in enumerate(NIGHT)]) + "\n"
    )
    with pytest.raises(JournalError, match="line 3"):
        read_journal(path)


def test_a_missing_journal_is_empty(tmp_path):
    assert read_journal(tmp_path / "none.jsonl") == []


def test_every_field_that_the_code_writes_is_in_the_schema():
    """By reading: what trainings, scores and audits may hold, also where something went wrong."""
    from harness.run.events import EVENTS

    judged = {"status", "cause", "sure", "val_bpb"}  # measure.Measurement._judged
    assert judged | {"holdout_seconds", "score_seconds"} <= EVENTS["scored"].keys()
    assert judged | {"audit_seconds"} <= EVENTS["audited"].keys()
    assert {"status", "cause", "sure", "cut_off", "log_bytes", "shared_with", "wall"} <= EVENTS[
        "trained"
    ].keys()


def test_a_field_that_nobody_named_is_not_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(AssertionError, match="pad"):
        journal.append("note", text="x", pad=1)
    assert not journal.entries and not (tmp_path / "journal.jsonl").exists()
