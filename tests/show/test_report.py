"""The report: the figures it quotes, the doubts it must raise, and runs in every state."""

import json
import re
import shutil

import journals
import pytest
from checkout import ROOT
from kept_runs import MORE_DEPTH, MORE_HEADS, Kept

from harness.lab.close_out import CloseOut, Comparison, read_close_out
from harness.lab.close_out_questions import next_question
from harness.run.records import incumbent_of, records_from_journal
from harness.run.state import Training
from harness.show import analysis_words, status
from harness.show.charts.scores import plot_progress
from harness.show.doubts import doubts
from harness.show.frame import load_run
from harness.show.index import write_index
from harness.show.report import morning_report, write_report
from harness.show.sentences import headline

NOTEBOOK = ROOT / "notebooks" / "04_analysis.ipynb"


def doubts_of(entries: list[dict]) -> str:
    return " ".join(doubts(entries, records_from_journal(entries)))


def test_the_report_quotes_the_journals_figures():
    entries = journals.make_journal(30)
    decided = {e["experiment"]: e for e in entries if e["event"] == "decided"}
    tip = [e for e in decided.values() if e["decision"] == "keep"][-1]
    text = morning_report(entries, journals.make_settings())
    assert (
        f"Baseline: {decided[0]['val_bpb']:.4f} bits per byte (3 runs, sigma of one run 0.0008)"
        in text
    )
    assert f"The branch stands at experiment {tip['experiment']:04d}" in text
    judged = (
        f"{tip['val_bpb']:.4f} against the baseline's"
        f" {decided[0]['val_bpb']:.4f}, as judged during the night"
    )
    assert judged in text and "flattered by luck" in text
    kept = [e for e in decided.values() if e["decision"] == "keep"]
    assert (
        text.count("| gain: ") == len(kept) and "git switch -c my-branch autoresearch/nov23" in text
    )
    assert "NVIDIA H200" in text and "300 s of training each" in text


def close_out(best: int, low: float = 0.01, **changes) -> CloseOut:
    """A close-out of experiment `best` that came to its end. low: of the interval on validation."""
    difference = {
        "difference": 0.02,
        "low": low,
        "high": 0.03,
        "n_best": 3,
        "n_baseline": 3,
        "words": "",
    }
    claimed = {
        "best": best,
        "status": "ok",
        "cause": "",
        "val": difference,
        "holdout": difference,
        "template_bpb": None,
    }
    runs = [
        Training(
            {"role": "best", "experiment": best, "seed": seed},
            trained={"status": "ok"},
            scored={"status": "ok", "val_bpb": score},
        )
        for seed, score in enumerate((0.90, 0.91, 0.92))
    ]
    begun = {"best": best, "seeds": 3, "first_seed": 1, "template": False}
    return CloseOut([Comparison(begun, runs, {"baseline": claimed | changes})])


def branch_of(entries: list[dict]) -> int:
    return incumbent_of(records_from_journal(entries)).experiment


def improvement_words(text: str) -> list[str]:
    return re.findall(r"[^.\n]*\bimprove[^.\n]*", text)


def test_without_a_claim_nothing_is_called_an_improvement_and_the_command_is_said():
    entries = journals.make_journal(30)
    text = morning_report(
        entries,
        journals.make_settings(),
        claim_command="python3 scripts/overnight.py --close-out --tag nov23",
    )
    assert improvement_words(text) == [] and "not measured yet" in text.splitlines()[0]
    assert "not measured yet: `python3 scripts/overnight.py --close-out --tag nov23`" in text
    records = records_from_journal(entries)
    tip, base = records[branch_of(entries)], records[0]
    assert (
        headline(records)
        == f"30 experiments: the branch stands at {tip.val_bpb:.4f}, baseline {base.val_bpb:.4f},"
        " not measured yet"
    )


def test_the_claim_comes_first_on_validation_and_holdout_with_its_intervals():
    entries = journals.make_journal(30)
    best = branch_of(entries)
    text = morning_report(entries, journals.make_settings(), measured=close_out(best))
    assert (
        "0.0200 bpb better than the baseline on fresh seeds"
        " (95% interval +0.0100 to +0.0300): an improvement" in text.splitlines()[0]
    )
    section = text.split("## ")[1]
    assert (
        section.startswith("The claim") and "on the holdout +0.0200, +0.0100 to +0.0300" in section
    )
    assert "## Change by change" not in text, "nothing was asked after the claim"
    maybe = morning_report(entries, journals.make_settings(), measured=close_out(best, low=-0.01))
    assert "this may be chance, so no improvement is claimed" in maybe.splitlines()[0]
    failed = close_out(
        best, status="crash", cause="nothing can be claimed: the best ended 2 times with crash"
    )
    assert (
        "and nothing can be claimed" in morning_report(entries, {}, measured=failed).splitlines()[0]
    )
    other = morning_report(entries, {}, measured=close_out(best - 1))
    assert "not measured yet" in other.splitlines()[0], (
        "a claim on another file says nothing about this one"
    )


def test_a_demo_is_compared_with_the_template_of_real_nights():
    entries = journals.make_journal(30)
    settings = journals.make_settings()
    settings["profile"] |= {"name": "demo", "constants": {"SHIFT_TAPS": 0}}
    text = morning_report(
        entries, settings, measured=close_out(branch_of(entries), template_bpb=0.8)
    )
    assert (
        "that template scored 0.8000; the file on the branch"
        " scored 0.9100 (3 fresh runs), 0.1100 bpb worse" in text
    )
    assert "plain GPT" in morning_report(entries, settings) and "plain GPT" not in morning_report(
        entries, journals.make_settings()
    )


def test_the_claim_of_a_run_stands_in_its_report_chart_index_and_status(tmp_path):
    entries = journals.make_journal(30, unfinished=False)
    folder, best = journals.write_run(tmp_path, entries), branch_of(entries)
    ledger = [
        {"event": "claim_begun", **close_out(best).claim.begun},
        {"event": "claimed", **close_out(best).claimed},
    ]
    lines = [
        json.dumps({"seq": seq, "time": entries[-1]["time"], **entry})
        for seq, entry in enumerate(ledger)
    ]
    (folder / "close_out.jsonl").write_text("\n".join(lines) + "\n")
    run = load_run(tmp_path, "nov23")
    words = "0.0200 bpb better than the baseline"
    assert words in plot_progress(run).title_text and words in analysis_words.say_progress(run)
    assert words in write_report(folder).read_text() and words in write_index(folder).read_text()
    found = status.scores(run.records, read_close_out(folder))
    assert words in found["claim"] and found["best_experiment"] == best
    (folder / "close_out.jsonl").unlink()
    assert status.scores(run.records, read_close_out(folder))["claim"] is None
    assert words not in write_index(folder).read_text()


def disturbed(speeds: list[float], **more) -> list[dict]:
    """A baseline whose trainings went at these speeds, in steps per charged second."""
    entries = journals.make_journal(0, unfinished=False, baseline_seeds=len(speeds))
    for entry, speed in zip([e for e in entries if e["event"] == "trained"], speeds, strict=True):
        entry.update(steps_per_second=speed, **more)
    return entries


def test_a_machine_that_changed_its_speed_is_said_in_the_first_sentence():
    text = morning_report(disturbed([10.0, 10.1, 7.0]), {}).split("\n\n")[1]
    assert text.startswith("The speed of one file differed by up to 44% between its trainings")
    assert (
        "1 run off by more than 10% did not count" in text
        and "trained again before each keep" in text
    )
    assert "speed" not in morning_report(disturbed([10.0, 10.1, 10.5]), {})
    slow = disturbed(
        [10.0, 10.0, 10.0], core_seconds=590.0, others_core_seconds=30.0, wall_seconds=300.0
    )
    slow[[e["event"] for e in slow].index("trained")]["wall_seconds"] = 600.0
    text = morning_report(slow, {}).split("\n\n")[1]
    assert "by up to 100%" in text and "scores suffered little" in text


def test_what_the_card_did_is_told_where_it_was_watched():
    entries = disturbed([10.0, 10.0, 10.0])
    assert "The card" not in morning_report(entries, {})
    card = {"sm_clock_mhz": 1755.0, "temperature_c": 62.0, "energy_joules": 195_000.0}
    card |= {"slowed_share": 0.0, "others_share": None, "waited_share": 0.02}
    for entry in entries:
        if entry["event"] == "trained":
            entry.update(card=card, total_tokens=500_000_000)
    said = (
        "The card in a training, by the median: 1,755 MHz, 62 °C at most, its process waited for a "
        "core 2% of the time, 195,000 J, 0.39 mJ a token."
    )
    assert said in morning_report(entries, {})


def test_a_machine_that_changed_its_speed_in_the_claim_is_said_too():
    entries = journals.make_journal(30)
    for entry in entries:
        entry.update(steps_per_second=10.0 if entry["event"] == "trained" else None)
    best = branch_of(entries)
    measured = close_out(best)
    assert "speed" not in morning_report(entries, {}, measured=measured)
    for run, speed in zip(measured.runs, (10.0, 10.1, 8.0), strict=True):
        run.trained["steps_per_second"] = speed
    text = morning_report(entries, {}, measured=measured).split("\n\n")[1]
    assert "by up to 26%" in text and "best and baseline met the same machine" in text


def test_the_pace_of_what_was_kept_stands_beside_the_baselines():
    entries = journals.make_journal(30)
    for entry in entries:
        if entry["event"] == "trained":
            entry.update(wall_seconds=300.0, core_seconds=590.0, others_core_seconds=120.0)
    lines = morning_report(entries, {}).splitlines()
    rows = [line for line in lines if "| 953 | 1,665,000 | 0.4 |" in line]
    assert rows[0].startswith("| 0000 | `baseline`") and len(rows) > 1


def test_near_misses_are_the_best_of_the_discarded():
    entries = journals.make_journal(30)
    near = [
        e
        for e in entries
        if e["event"] == "decided" and e["decision"] == "discard" and (e["gain"] or 0) > 0
    ]
    section = morning_report(entries, {}).split("## Near misses")[1].split("##")[0]
    shown = [int(line[2:6]) for line in section.splitlines() if line.startswith("- ")]
    assert shown == [e["experiment"] for e in sorted(near, key=lambda e: -e["gain"])][:5]


def test_no_improvement_is_said_plainly():
    entries = journals.make_journal(8, step=0.0, crash_rate=0, sigma=0.004, seed=0)
    assert not any(e.get("decision") == "keep" for e in entries)
    text = morning_report(entries, journals.make_settings())
    assert (
        "none of 8 experiments was kept" in text
        and "Nothing was kept, so there is nothing to claim" in text
    )
    assert "Nothing was kept of 8 experiments: the baseline stands." in text


def test_failures_are_grouped_with_their_causes():
    entries = journals.crashes_only()
    section = morning_report(entries, {}).split("## Failures")[1].split("##")[0]
    for kind in ("oom", "timeout", "invalid_patch", "nan"):
        count = sum(e["event"] == "decided" and e["status"] == kind for e in entries)
        assert f"- {kind.replace('_', ' ')}: {count}." in section
    assert "`CUDA out of memory` x3" in section


def test_doubts_are_raised_when_there_is_reason():
    entries = journals.make_journal(30, baseline_seeds=2, unfinished=False)
    text = doubts_of(entries)
    assert "prior" in text and "2 seeds" in text
    assert "passed over the data" not in text and "not decided" not in text
    trained = [e for e in entries if e["event"] == "trained"]
    trained[0].update(epochs=6.5)
    assert "up to 6.5 times" in doubts_of(entries)
    assert "not decided yet" in doubts_of(journals.make_journal(3))
    assert "8 of 8 tries crashed" in doubts_of(journals.crashes_only())
    calm = journals.make_journal(1, unfinished=False, crash_rate=0, step=0.0)
    calm[0]["prior"] = None
    assert doubts_of(calm) == ""


def test_what_the_machine_did_to_a_night_is_said():
    entries = journals.make_journal(4, crash_rate=0.0)
    trained = [entry for entry in entries if entry["event"] == "trained"]
    trained[-1]["shared_with"] = ["/results/`other`"]
    trained[-2]["status"] = "interrupted"
    entries.append(
        {
            "seq": len(entries),
            "time": entries[-1]["time"],
            "event": "controlled",
            "status": "crash",
            "cause": "",
            "suspects": [2, 3],
            "suspected": "no kernel",
        }
    )
    text = doubts_of(entries)
    assert (
        "1 training shared the device with run `'other'`" in text
        and "1 training ended for reasons outside" in text
    )
    assert "Experiments 0002, 0003 failed alike (`no kernel`)" in text


def test_untrusted_titles_stay_code():
    entries = journals.make_journal(12, crash_rate=0)
    for entry in entries:
        if "title" in entry and entry["experiment"]:
            entry["title"] = "a `tick` | bar\n# heading <b>"
    text = morning_report(entries, {})
    assert "\n# heading" not in text and "`a 'tick' / bar # heading <b>`" in text


def test_without_git_no_git_is_advised():
    text = morning_report(journals.make_journal(5, git=False), journals.make_settings())
    assert "git show" not in text and "no git history" in text


@pytest.mark.parametrize(
    "entries",
    [[], journals.opened_only(), journals.crashes_only(), journals.make_journal(0)],
    ids=len,
)
def test_reports_of_runs_that_have_little(tmp_path, entries):
    path = write_report(journals.write_run(tmp_path, entries))
    assert path.read_text().startswith("# Run nov23: ") and "![" in path.read_text()
    assert (path.parent / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "progress.png",
        "report.html",
        "report.md",
    ]


@pytest.mark.slow
def test_the_analysis_notebook_runs_from_top_to_bottom(tmp_path):
    import nbformat
    import papermill

    journals.write_run(tmp_path, journals.make_journal(12), journals.make_settings("night"))
    out = tmp_path / "out.ipynb"
    values = {"tag": "night", "results_dir": str(tmp_path)}
    papermill.execute_notebook(
        str(NOTEBOOK),
        str(out),
        values,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(NOTEBOOK.parent),
    )
    cells = nbformat.read(out, 4).cells
    shown = [
        o["data"].get("text/html", "") for c in cells for o in c.get("outputs", []) if "data" in o
    ]
    images = [html for html in shown if html.startswith("<svg")]
    texts = [o for c in cells for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    assert len(images) == 7 and len(texts) == 10, "seven charts, words for each step, and links"
    picked = next(c for c in cells if c["cell_type"] == "code" and "show_picker" in c["source"])[
        "outputs"
    ]
    assert any("data:image/png" in o["data"].get("text/html", "") for o in picked), (
        "the picker leaves a static view"
    )


def test_the_committed_notebook_keeps_the_rules():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(len(cell.source.splitlines()) <= 8 and "def " not in cell.source for cell in code)


def test_what_is_committed_of_the_sample_is_as_this_code_would_make_it(tmp_path):
    """Else `python scripts/make_sample.py` or notebook 04 was not run after a change."""
    sample = ROOT / "results" / "sample"
    copy = shutil.copytree(sample, tmp_path / "sample")
    assert write_report(copy).read_text() == (sample / "report" / "report.md").read_text()
    assert (copy / "report" / "report.html").read_text() == (
        sample / "report" / "report.html"
    ).read_text()
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    shown = "".join(
        "".join(output["data"].get("text/markdown", ""))
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    run = load_run(sample.parent, "sample")
    for say in (
        analysis_words.say_progress,
        analysis_words.say_outcomes,
        analysis_words.say_gains,
        analysis_words.say_curves,
        analysis_words.say_memory,
    ):
        assert say(run) in shown, say.__name__


def test_what_was_found_after_the_claim_stands_change_by_change(tmp_path):
    night = Kept(tmp_path / "t", (MORE_DEPTH,), (MORE_HEADS,))
    night.claim(baseline=[1.20, 1.21, 1.22])
    night.compare(next_question(night.run, night.found), file_without_1=[1.10, 1.11, 1.12])
    found = morning_report(night.run.entries, {}, measured=night.found)
    section = found.split("## Change by change\n\n")[1].split("\n\n")[0]
    confirmed = "- experiment 1 (`idea 1`) is confirmed: without it the best is 0.1000 bpb worse"
    assert section.startswith(confirmed)
    assert "- experiment 2 (`idea 2`) is part of a confirmed best" in section
