"""The report and the status: the figures they quote, the doubts they must raise, and runs in every state."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import journals
import pytest

from harness.lab.doubts import doubts
from harness.lab.findings import headline
from harness.lab.records import records_from_journal
from harness.lab.report import morning_report, status_text, write_report

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "04_analysis.ipynb"


def doubts_of(entries: list[dict]) -> str:
    return " ".join(doubts(entries, records_from_journal(entries)))


def test_the_report_quotes_the_journals_figures():
    entries = journals.make_journal(30)
    decided = {e["experiment"]: e for e in entries if e["event"] == "decided"}
    best = min((e for e in decided.values() if e["decision"] == "keep"), key=lambda e: e["val_bpb"])
    text = morning_report(entries, journals.make_settings())
    assert f"Baseline: {decided[0]['val_bpb']:.4f} bits per byte (3 runs, sigma of one run 0.0008)" in text
    gain = decided[0]["val_bpb"] - best["val_bpb"]
    assert f"Best: {best['val_bpb']:.4f} by experiment {best['experiment']:04d}" in text
    assert f"{gain:.4f} bits per byte below the baseline" in text
    kept = [e for e in decided.values() if e["decision"] == "keep"]
    assert text.count("| gain: ") == len(kept) and "git switch -c my-branch autoresearch/nov23" in text
    assert "NVIDIA H200" in text and "300 s of training each" in text


def test_a_headline_claims_no_gain_that_the_noise_explains():
    entries = journals.make_journal(4, crash_rate=0.0, unfinished=False)
    base = next(e for e in entries if e["event"] == "decided")
    last = entries[-2]
    assert last["event"] == "decided"
    for e in entries[:-2]:
        if e["event"] == "decided" and e["experiment"]:
            e["decision"] = "discard"
    last |= {"decision": "keep", "kind": "simplification", "status": "ok", "n_runs": 2, "sigma": base["sigma"]}
    for gain, words in ((0.5, "no gain beyond the noise"), (5, "bits per byte less")):
        last["val_bpb"] = base["val_bpb"] - gain * base["sigma"]
        assert words in headline(records_from_journal(entries))


def test_near_misses_are_the_best_of_the_discarded():
    entries = journals.make_journal(30)
    near = [e for e in entries if e["event"] == "decided" and e["decision"] == "discard" and (e["gain"] or 0) > 0]
    section = morning_report(entries, {}).split("## Near misses")[1].split("##")[0]
    shown = [int(line[2:6]) for line in section.splitlines() if line.startswith("- ")]
    assert shown == [e["experiment"] for e in sorted(near, key=lambda e: -e["gain"])][:5]


def test_no_improvement_is_said_plainly():
    entries = journals.make_journal(8, step=0.0, crash_rate=0, sigma=0.004, seed=0)
    assert not any(e.get("decision") == "keep" for e in entries)
    text = morning_report(entries, journals.make_settings())
    assert "none of 8 experiments was kept" in text and "No improvement: the baseline stands" in text
    assert "## Kept\n\nNothing." in text


def test_failures_are_grouped_with_their_causes():
    entries = journals.crashes_only()
    section = morning_report(entries, {}).split("## Failures")[1].split("##")[0]
    for status in ("oom", "timeout", "invalid_patch", "nan"):
        count = sum(e["event"] == "decided" and e["status"] == status for e in entries)
        assert f"- {status.replace('_', ' ')}: {count}." in section
    assert "`CUDA out of memory` x3" in section


def test_doubts_are_raised_when_there_is_reason():
    entries = journals.make_journal(30, baseline_seeds=2, unfinished=False)
    text = doubts_of(entries)
    assert "prior" in text and "2 seeds" in text and "best of 30 tries" in text
    assert "passed over the data" not in text and "differed in speed" not in text and "not decided" not in text
    trained = [e for e in entries if e["event"] == "trained"]
    trained[0].update(epochs=6.5, tok_per_sec=2_000_000)
    text = doubts_of(entries)
    assert "up to 6.5 times" in text and "differed in speed by up to 20%" in text
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
    assert "1 training shared the device with `'other'`" in text and "1 training ended for reasons outside" in text
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
    "entries", [[], journals.opened_only(), journals.crashes_only(), journals.make_journal(0)], ids=len
)
def test_reports_of_runs_that_have_little(tmp_path, entries):
    path = write_report(journals.write_run(tmp_path, entries))
    assert path.read_text().startswith("# Run nov23: ") and "![" in path.read_text()
    assert (path.parent / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in path.parent.iterdir()) == ["progress.png", "report.md"]


def test_the_status_fits_a_screen_at_every_moment():
    entries = journals.make_journal(9, seed=6, crash_rate=0.3)
    for length in range(len(entries) + 1):
        text = status_text(entries[:length], journals.make_settings(), NOW)
        assert len(text.splitlines()) <= 16 and max(map(len, text.splitlines())) <= 160
        assert text.startswith("run        nov23, profile large")


def test_the_status_says_what_is_running_and_what_is_left():
    entries = journals.make_journal(9, unfinished=True)
    last = datetime.fromisoformat(entries[-1]["time"].replace("Z", "+00:00"))
    text = status_text(
        entries, journals.make_settings(), last + timedelta(seconds=70), deadline=last + timedelta(hours=3)
    )
    assert "experiment 10, training run 0 (score), for 70 s: QK scale" in text and "3.0 hours left" in text
    assert text.count("\n  00") == 5 and "no sign of life" not in text
    assert "no sign of life" in status_text(entries, {}, last + timedelta(hours=2))
    assert status_text(entries, {}, (last + timedelta(hours=2)).isoformat()).count("\n") > 8
    limited = status_text(entries, {}, last, experiments_left=10)
    assert " hours left" in limited or " minutes left" in limited


def test_the_analysis_notebook_runs_from_top_to_bottom(tmp_path):
    import nbformat
    import papermill

    journals.write_run(tmp_path, journals.make_journal(12), journals.make_settings("night"))
    out = tmp_path / "out.ipynb"
    values = {"tag": "night", "results_dir": str(tmp_path)}
    papermill.execute_notebook(
        str(NOTEBOOK), str(out), values, kernel_name="python3", progress_bar=False, cwd=str(NOTEBOOK.parent)
    )
    cells = nbformat.read(out, 4).cells
    images = [o for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    texts = [o for c in cells for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    assert len(images) == 6 and len(texts) == 8, "six charts, and a sentence for each step"
    picked = next(c for c in cells if c["cell_type"] == "code" and "show_picker" in c["source"])["outputs"]
    assert any("data:image/png" in o["data"].get("text/html", "") for o in picked), "the picker leaves a static view"


def test_the_committed_notebook_keeps_the_rules():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(len(cell.source.splitlines()) <= 8 and "def " not in cell.source for cell in code)
