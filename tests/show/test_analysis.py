"""Records, frames and tables of runs in every state, against figures worked out another way."""

import json
import math
import os
from dataclasses import replace

import journals
import pytest
from checkout import ROOT

from harness.ground.errors import AnalysisError
from harness.run.records import records_from_journal, time_use
from harness.run.run import list_runs
from harness.show import analysis, analysis_words
from harness.show.frame import choose_run, choose_runs, load_results_tsv, load_run
from harness.show.stage import in_flight

UPSTREAM = ROOT / "tests/support/data" / "upstream-mar8-results.tsv"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    return load_run(
        journals.write_run(tmp_path_factory.mktemp("results"), journals.make_journal(40)).parent,
        "nov23",
    )


def line(seconds: float, event: str, **fields) -> dict:
    return {
        "time": f"2026-11-23T22:{int(seconds // 60):02d}:{seconds % 60:06.3f}Z",
        "event": event,
        **fields,
    }


FIRST, SECOND = {"experiment": 0, "attempt": 0}, {"experiment": 1, "attempt": 0}


def test_time_is_shared_out_to_the_second():
    # 30 training, 14 start-up, 4 over.
    entries = [
        line(0, "opened"),
        line(10, "proposed", **FIRST),  # 10 s overhead
        line(12, "run_started", **FIRST, run=0, kind="score"),  # 2 s
        line(60, "trained", **FIRST, run=0, status="ok", training_seconds=30.0, total_seconds=44.0),
        # 9 scoring, 1 over.
        line(70, "scored", **FIRST, run=0, status="ok", val_bpb=1.5, score_seconds=9.0),
        line(71, "decided", **FIRST, decision="baseline", status="ok", val_bpb=1.5),  # 1
        line(600, "proposed", **SECOND),  # 529 s waiting
        line(610, "run_started", **SECOND, run=0, kind="score"),
        line(
            620,
            "trained",
            **SECOND,
            run=0,
            status="crash",
            training_seconds=None,
            total_seconds=None,
        ),
    ]
    seconds = time_use(entries)
    assert seconds == pytest.approx(
        {"training": 30, "startup": 14, "scoring": 9, "overhead": 38, "waiting": 529}
    )
    (record,) = records_from_journal(entries)
    assert record.seconds == pytest.approx(
        {"training": 30, "startup": 14, "scoring": 9, "overhead": 18, "waiting": 0}
    )
    assert record.minutes == pytest.approx(71 / 60)


def test_times_add_up_to_the_nights_length(night):
    first, last = night.entries[0]["time"], night.entries[-1]["time"]
    minutes = (
        (int(last[8:10]) - int(first[8:10])) * 1440
        + int(last[11:13]) * 60
        + int(last[14:16])
        + float(last[17:-1]) / 60
    )
    assert analysis.time_use(night).sum() == pytest.approx(
        minutes - (22 * 60 + float(first[17:-1]) / 60), abs=1e-6
    )


def test_the_frame_says_what_the_journal_says(night):
    decided = [entry for entry in night.entries if entry["event"] == "decided"]
    frame = night.experiments
    assert list(frame["experiment"]) == [entry["experiment"] for entry in decided]
    on_branch = None
    for entry, shown in zip(decided, frame["on_branch"], strict=True):
        on_branch = entry["val_bpb"] if entry["decision"] in ("baseline", "keep") else on_branch
        assert shown == on_branch
    assert night.best.val_bpb == on_branch
    assert (
        frame["steps"].dropna().eq(953).all()
        and frame["tokens_per_second"].dropna().eq(1_665_000).all()
    )
    failed = frame["status"] != "ok"
    assert (
        frame.loc[failed, "val_bpb"].isna().all()
        and (frame.loc[failed, "outcome"] == "crashed").all()
    )
    assert frame.loc[failed, "cause"].str.len().min() > 0
    by_number = {e["experiment"]: e for e in decided}
    for row in frame[frame["outcome"] == "kept"].itertuples():
        runs = by_number[by_number[row.experiment]["incumbent"]]["n_runs"]
        assert row.noise_of_gain == pytest.approx(row.sigma * math.sqrt(1 / row.n_runs + 1 / runs))


def test_every_prefix_of_a_night_can_be_shown():
    entries = journals.make_journal(12, seed=4, crash_rate=0.4)
    for length in range(len(entries) + 1):
        prefix = entries[:length]
        done = {e["experiment"] for e in prefix if e["event"] == "decided"}
        begun = {e["experiment"] for e in prefix if e["event"] == "proposed"}
        assert len(records_from_journal(prefix)) == len(done)
        flight = in_flight(prefix)
        assert {flight.experiment} == begun - done if flight else begun == done


def test_the_originals_run():
    run = load_results_tsv(UPSTREAM)
    counts = analysis.outcome_counts(run)["experiments"]
    assert counts.to_dict() == {
        "baseline": 1,
        "kept": 22,
        "simplified": 0,
        "discarded": 102,
        "quarantined": 0,
        "crashed": 1,
        "no result": 0,
    }
    scores = [float(text.split("\t")[1]) for text in UPSTREAM.read_text().splitlines()[1:]]
    assert run.best.val_bpb == min(
        s for s in scores if s > 0 and f"{s:.6f}\t60.2\tkeep" in UPSTREAM.read_text()
    )
    best = run.experiments["on_branch"]
    early = (best[0] - best[13]) / (best[0] - best.iloc[-1])
    assert early == pytest.approx(0.88, abs=0.005), "88% of the gain in the first 13 experiments"
    # The interval by scipy.stats.binomtest(22, 125).proportion_ci(method="wilson")
    rate = analysis.keep_rate(run)
    assert (rate["kept"], rate["candidates"]) == (22, 125)
    assert (rate["low"], rate["high"]) == pytest.approx((0.1192, 0.2522), abs=2e-4)
    top = analysis.best_by_gain(run, 3)
    assert list(top.index) == [1, 2, 8] and top["gain"].iloc[0] == pytest.approx(
        0.997900 - 0.986041
    )
    assert analysis.curves(run, 1).empty and analysis.time_use(run).sum() == 0


def test_runs_without_results(tmp_path):
    journals.write_run(tmp_path, journals.opened_only(), journals.make_settings("empty"))
    journals.write_run(tmp_path, journals.crashes_only(), journals.make_settings("crashes"))
    journals.write_run(tmp_path, [], journals.make_settings("nothing"))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "run.json").write_text(json.dumps(journals.make_settings("bare")))
    for tag in ("empty", "nothing", "bare"):
        run = load_run(tmp_path, tag)
        assert len(run.experiments) == 0 and run.best is None and math.isnan(run.sigma)
        assert math.isnan(analysis.keep_rate(run)["rate"]) and analysis.best_by_gain(run).empty
        assert analysis.table_html(analysis.best_by_gain(run)) == ""
    crashes = load_run(tmp_path, "crashes")
    assert (
        analysis.keep_rate(crashes)["kept"] == 0
        and analysis.outcome_counts(crashes).loc["crashed", "experiments"] == 8
    )
    only = [e for e in journals.crashes_only() if e.get("experiment") != 0]  # not even a baseline
    journals.write_run(tmp_path, only, journals.make_settings("worst"))
    assert load_run(tmp_path, "worst").best is None


def test_a_damaged_score_is_no_score(tmp_path):
    entries = journals.make_journal(5, crash_rate=0)
    for value, entry in zip(
        [0.0, -1.0, None, True, "1.0"],
        [e for e in entries if e["event"] == "decided"][1:],
        strict=True,
    ):
        entry["val_bpb"] = value
    run = load_run(journals.write_run(tmp_path, entries).parent, "nov23")
    assert run.experiments["val_bpb"].notna().sum() == 1 and run.best.experiment == 0


def test_curves_pass_over_what_is_no_step(tmp_path):
    folder = journals.write_run(tmp_path, journals.make_journal(3, crash_rate=0))
    events = folder / "experiments/0000/attempts/00/runs/00/events.jsonl"
    lines = events.read_text().splitlines()
    events.write_text(
        "\n".join(
            [
                *lines[:20],
                "not json",
                "[1]",
                '{"event": "step", "progress": "x", "train_loss": 1}',
                lines[20][:30],
            ]
        )
    )
    steps = analysis.curves(load_run(tmp_path, "nov23"), 0)
    assert len(steps[steps["run"] == 0]) == 19, "20 lines, the first of which says ready"
    assert steps["run"].nunique() == 3 and steps["progress"].between(0, 1).all()
    assert list(analysis.final_losses(steps).index) == [1, 2], (
        "the cut training did not come to its last tenth"
    )


def test_runs_are_compared_fact_by_fact(tmp_path):
    changes = {
        "same": {},
        "budget": {"budget_seconds": 60.0},
        "device": {"device": {"kind": "cpu", "name": "AMD EPYC"}},
        "data": {"data_id": "other", "data_hash": "e" * 64},
        "hash": {"data_hash": "e" * 64},
        "harness": {"harness_hash": "c" * 64},
        "torch": {"versions": {"torch": "2.12.0"}},
    }
    runs = {}
    for tag, change in {"first": {}, **changes}.items():
        journals.write_run(tmp_path, journals.opened_only(), journals.make_settings(tag, **change))
        runs[tag] = load_run(tmp_path, tag)
    found = {tag: analysis.compare_runs([runs["first"], runs[tag]]) for tag in changes}
    words = {
        "budget": "training budget",
        "device": "hardware",
        "data": "data differs",
        "hash": "prepared data",
        "torch": "torch",
    }
    assert found["same"] == []
    assert all(len(found[tag]) == 1 and word in found[tag][0] for tag, word in words.items()), found
    assert "cccccccccccc" in found["harness"][0] and "c" * 64 not in found["harness"][0]
    assert (
        "nothing is known" in analysis.compare_runs([runs["first"], load_results_tsv(UPSTREAM)])[0]
    )


def test_a_run_is_chosen_by_tag_by_file_or_by_age(tmp_path):
    with pytest.raises(AnalysisError, match="02_baseline"):
        choose_run("", tmp_path)
    for age, tag in enumerate(["old", "new", "sample"]):
        folder = journals.write_run(tmp_path, journals.opened_only(), journals.make_settings(tag))
        os.utime(folder / "journal.jsonl", (1e9 + age, 1e9 + age))
    (tmp_path / "benchmarks").mkdir()
    assert list_runs(tmp_path) == ["old", "new"]
    assert choose_run("", tmp_path).tag == "new", "the sample is only for a fresh clone"
    assert choose_run("old", str(tmp_path)).tag == "old"
    assert len(choose_run(str(UPSTREAM), tmp_path).experiments) == 126
    assert [r.tag for r in choose_runs(choose_run("old", tmp_path), "", tmp_path)] == ["old", "new"]
    assert [
        r.tag for r in choose_runs(choose_run("old", tmp_path), f"new, old,{UPSTREAM}", tmp_path)
    ] == ["old", "new", UPSTREAM.stem]
    with pytest.raises(AnalysisError, match="old"):
        choose_run("absent", tmp_path)
    with pytest.raises(AnalysisError, match="cannot be read: File name too long"):
        choose_run("x" * 300, tmp_path)  # as with a folder without rights, which root has all of
    (tmp_path / "new" / "journal.jsonl").write_text("damaged\n{}\n")
    assert [r.tag for r in choose_runs(choose_run("old", tmp_path), "", tmp_path)] == ["old"]


def test_a_folder_with_only_a_table_is_a_run(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.tsv").write_bytes(UPSTREAM.read_bytes())
    run = load_run(tmp_path, "theirs")
    assert run.tag == "theirs" and len(run.experiments) == 126


def test_scores_of_the_night_are_stated_as_what_they_are(tmp_path):
    entries = journals.make_journal(0, unfinished=False)
    base = next(e for e in entries if e["event"] == "decided")
    base.update(val_bpb=1.0, sigma=0.002, n_runs=3)
    best = {
        **base,
        "seq": len(entries),
        "experiment": 1,
        "decision": "keep",
        "kind": "gain",
        "val_bpb": 0.99,
        "n_runs": 1,
        "gain": 0.01,
    }
    proposed = next(e for e in entries if e["event"] == "proposed") | {"experiment": 1}
    best |= {"incumbent": 0, "title": "a `nasty` |title|"}
    run = load_run(journals.write_run(tmp_path, [*entries, proposed, best]).parent, "nov23")
    text = analysis_words.say_progress(run)
    assert (
        "0.9900 against the baseline's 1.0000, as judged during the night, flattered by luck (1 run"
        " of it, 3 of the baseline)" in text
    )
    assert "is not measured yet: `python3 scripts/overnight.py --close-out --tag nov23" in text
    assert "`a 'nasty' /title/`" in text and "sigma" not in text


def test_only_what_was_kept_for_its_gain_is_judged_by_it(tmp_path):
    run = load_run(journals.write_run(tmp_path, journals.make_journal(30)).parent, "nov23")
    text = analysis_words.say_gains(run)
    assert "bits per byte" in text and "standard deviations" in text
    few = [replace(record, df=2.0) for record in run.records]
    assert "Too little is known of the noise" in analysis_words.say_gains(replace(run, records=few))
    assert (
        analysis.best_by_gain(replace(run, experiments=run.experiments.assign(df=2.0)))[
            "gain_in_sigma"
        ]
        .isna()
        .all()
    )
    simpler = [replace(r, outcome="simplified") if r.outcome == "kept" else r for r in run.records]
    assert analysis_words.say_gains(replace(run, records=simpler)).startswith(
        "Nothing was kept for its gain"
    )


def test_tables_escape_what_proposers_wrote(tmp_path):
    entries = journals.make_journal(20, crash_rate=0)
    for entry in entries:
        if "title" in entry:
            entry["title"] = "<script>alert(1)</script> $x$ & co"
    html = analysis.table_html(
        analysis.best_by_gain(load_run(journals.write_run(tmp_path, entries).parent, "nov23"))
    )
    assert (
        "<script>" not in html
        and "<code>&lt;script&gt;alert(1)&lt;/script&gt; $x$ &amp; co</code>" in html
    )


def test_a_thousand_experiments(tmp_path):
    entries = journals.make_journal(1000)
    run = load_run(journals.write_run(tmp_path, entries, files_of=0).parent, "nov23")
    assert len(run.experiments) == 1001 and in_flight(run.entries).experiment == 1001
    assert analysis.outcome_counts(run)["experiments"].sum() == 1001
