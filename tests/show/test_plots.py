"""Charts: drawn for every kind of run, stating what the numbers say, hiding nothing silently."""

import html
import math
import re
import subprocess
import sys

import journals
import pytest
from checkout import ROOT
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from harness.rules.keep import judge
from harness.run.noise import Noise, Prior, estimate_noise
from harness.show import analysis_words
from harness.show.charts import plots
from harness.show.charts.figure import focused_limits
from harness.show.frame import load_results_tsv, load_run
from harness.show.importances import constant_importances, say_constants, tuned_experiments

UPSTREAM = ROOT / "tests/support/data" / "upstream-mar8-results.tsv"
GROUNDS = ("#ffffff", "#111111")  # of JupyterLab's themes
OF_ONE_RUN = [
    plots.plot_progress,
    plots.plot_outcomes,
    plots.plot_curves,
    plots.plot_memory_against_score,
    plots.plot_time_use,
    lambda run: plots.plot_overlay([run]),
]


def contrast(one: str, other: str) -> float:
    """Of two colours such as #1fa37a, as WCAG defines it."""
    lights = []
    for colour in (one, other):
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        lights.append(sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def draws_of_one_run(run) -> list[Figure]:
    return [draw(run) for draw in OF_ONE_RUN] + plots.plot_constants(run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    kinds = {
        "night": journals.make_journal(30),
        "empty": journals.opened_only(),
        "crashes": journals.crashes_only(),
        "thousand": journals.make_journal(1000, seed=1),
        "tuned": journals.tuned(journals.make_journal(80, seed=3)),
        "one": journals.tuned(journals.make_journal(1, seed=8, crash_rate=0)),
        "few": journals.tuned(journals.make_journal(9, seed=3)),
        "still": journals.nothing_kept(),
        "unsure": journals.sigma_unknown(),
        "ruins": [e for e in journals.crashes_only() if e.get("experiment") != 0],
    }
    for tag, entries in kinds.items():
        journals.write_run(
            folder, entries, journals.make_settings(tag), files_of=30 if tag == "night" else 0
        )
    return {tag: load_run(folder, tag) for tag in kinds} | {"original": load_results_tsv(UPSTREAM)}


THOUSAND = pytest.param("thousand", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "tag",
    [
        "night",
        "empty",
        "crashes",
        THOUSAND,
        "ruins",
        "original",
        "tuned",
        "one",
        "few",
        "still",
        "unsure",
    ],
)
def test_every_chart_draws_every_kind_of_run(runs, tag):
    for figure in draws_of_one_run(runs[tag]):
        assert isinstance(figure, Figure) and figure.title_text
        assert figure.png(dpi=40).startswith(b"\x89PNG")


def words(figure: Figure) -> str:
    axes = [text.get_text() for ax in figure.axes for text in ax.texts]
    return " | ".join([text.get_text() for text in figure.texts] + axes)


def test_the_title_is_the_finding(runs):
    assert (
        "125 experiments: the branch stands at 0.9697, baseline 0.9979, not measured yet"
        in plots.plot_progress(runs["original"]).title_text
    )
    assert "all 8 experiments crashed" in plots.plot_progress(runs["crashes"]).title_text
    assert "No experiment decided yet" in plots.plot_progress(runs["empty"]).title_text
    assert "6 of 6" not in plots.plot_progress(runs["ruins"]).title_text
    assert "and no baseline" in plots.plot_progress(runs["ruins"]).title_text


def test_what_is_outside_the_picture_is_counted(runs):
    figure = plots.plot_progress(runs["original"])
    low, high = figure.axes[0].get_ylim()
    scores = runs["original"].experiments["val_bpb"].dropna()
    assert (scores > high).sum() == 1 and scores.max() > 3
    assert "1 above the scale (as far as 3.216)" in words(figure)
    kept = runs["original"].experiments.query("outcome in ['kept', 'baseline']")["val_bpb"]
    assert kept.between(low, high).all(), "everything kept is in the picture"
    crosses = [c for c in figure.axes[0].collections if c.get_label() == "crashed"]
    assert len(crosses[0].get_offsets()) == 1


@pytest.mark.parametrize("tag", ["original", "night", "thousand"])
def test_labels_do_not_hide_one_another(runs, tag):
    figure = plots.plot_progress(runs[tag])
    figure.set_dpi(144)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    titles = set(runs[tag].experiments["title"])
    labels = [
        t
        for t in ax.texts
        if isinstance(t, Annotation) and t.get_text()[:12] in {title[:12] for title in titles}
    ]
    assert len(labels) >= 5
    # Of the words, without the leader.
    boxes = [super(Annotation, label).get_window_extent() for label in labels]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1)


@pytest.mark.parametrize("best", [1.3552, 1.3516, 1.2])
def test_the_values_of_best_and_baseline_do_not_cover_each_other(tmp_path, best):
    entries = journals.make_journal(0, unfinished=False)
    base = next(e for e in entries if e["event"] == "decided")
    base.update(val_bpb=1.3553, sigma=0.02)
    told = {
        "seq": len(entries),
        "experiment": 1,
        "decision": "keep",
        "kind": "gain",
        "title": "better",
        "incumbent": 0,
    }
    proposed = next(e for e in entries if e["event"] == "proposed")
    entries += [
        proposed | {"experiment": 1},
        base | told | {"val_bpb": best, "gain": 1.3553 - best},
    ]
    figure = plots.plot_progress(load_run(journals.write_run(tmp_path, entries).parent, "nov23"))
    figure.draw_without_rendering()
    values = (f"{best:.4f}", "1.3553")
    lower, upper = (
        next(t for t in figure.axes[0].texts if t.get_text() == value) for value in values
    )
    assert lower.get_window_extent().y1 <= upper.get_window_extent().y0


def test_limits_keep_anchors_and_cut_outliers():
    low, high = focused_limits([1.0, 0.99, 0.98, 1.002, 55.0, 0.1], [1.0, 0.98], sigma=0.001)
    assert 0.9 < low < 0.98 and 1.002 < high < 1.1
    assert focused_limits([], []) == (0.0, 1.0)
    assert all(map(math.isfinite, focused_limits([1.0], [1.0])))


def test_untrusted_titles_cannot_break_a_chart(tmp_path):
    entries = journals.make_journal(10, crash_rate=0)
    bad = ["$\\frac{", "a $ b", "$x$", "\\", "x" * 300, "", "\n\n", "日本語", "${", "^_{}"]
    for entry in entries:
        if "title" in entry and entry["experiment"]:
            entry["title"] = bad[entry["experiment"] % len(bad)]
    run = load_run(journals.write_run(tmp_path, entries).parent, "nov23")
    for figure in draws_of_one_run(run):
        assert figure.png(dpi=40)


def test_runs_that_do_not_compare_are_drawn_as_gains_with_a_warning(runs):
    alike = plots.plot_overlay([runs["night"], runs["thousand"]])
    assert len(alike.axes) == 2 and "same data" in words(alike)
    unlike = plots.plot_overlay([runs["night"], runs["original"]])
    assert len(unlike.axes) == 1 and "SCORES DO NOT COMPARE" in words(unlike)
    assert "gain" in unlike.axes[0].get_ylabel()


def test_one_file_that_scored_differently_says_that_the_machine_changed(runs, tmp_path):
    entries = journals.make_journal(12, seed=7, start_bpb=1.2)
    journals.write_run(tmp_path, entries, journals.make_settings("slow"), files_of=0)
    slow = load_run(tmp_path, "slow")
    figure = plots.plot_overlay([runs["night"], slow])
    apart = abs(slow.baseline.val_bpb - runs["night"].baseline.val_bpb)
    assert (
        f"{apart:.4f} apart" in words(figure)
        and "SCORES DO NOT COMPARE" in words(figure)
        and len(figure.axes) == 1
    )
    assert "must not be compared" in analysis_words.say_overlay([runs["night"], slow])
    assert "no more than chance gives" in analysis_words.say_overlay(
        [runs["night"], runs["thousand"]]
    )
    other = [
        entry | {"sha256": "f" * 64} if entry["event"] == "proposed" else entry for entry in entries
    ]
    journals.write_run(tmp_path, other, journals.make_settings("other"), files_of=0)
    told = analysis_words.say_overlay([runs["night"], load_run(tmp_path, "other")])
    assert "cannot be told" in told and "must not" not in told


def test_up_to_four_trainings_are_compared_in_one_chart(runs, tmp_path):
    night = runs["night"]
    scored = [record for record in night.records if record.val_bpb][:6]
    figure = plots.compare_curves([(night, record) for record in scored])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert (
        len(legend) == 4
        and legend[0] == "the baseline"
        and all(f"{r.experiment:04d}" in t for r, t in zip(scored[1:4], legend[1:], strict=True))
    )
    assert "lowest" in figure.title_text
    journals.write_run(
        tmp_path,
        journals.make_journal(3, seed=4),
        journals.make_settings("other", budget_seconds=60.0),
    )
    other = load_run(tmp_path, "other")
    both = plots.compare_curves([(night, night.baseline), (other, other.baseline)])
    assert (
        "of night" in both.title_text
        and "of other" in both.title_text
        and "DO NOT COMPARE" in words(both)
    )


def test_importances_slices_and_parallel_coordinates_as_far_as_there_is_enough(runs):
    titles = {
        tag: [figure.title_text for figure in plots.plot_constants(runs[tag])]
        for tag in ("tuned", "few", "one", "empty", "original")
    }
    assert ["mattered most" in title for title in titles["tuned"]] == [True, False, False]
    assert len(titles["few"]) == 2 and len(titles["one"]) == 1
    assert titles["empty"] == titles["original"] == ["No tuned experiments"]
    assert "Importances are told from 30 on" in say_constants(runs["few"].entries)
    first = constant_importances(tuned_experiments(runs["tuned"].entries))[0][0]
    assert titles["tuned"][0].startswith(first) and first in say_constants(runs["tuned"].entries)


def test_the_noise_chart_draws_the_keep_rules_own_line():
    seeds = [1.4203, 1.4169, 1.4210]
    noise = estimate_noise([seeds], Prior(0.003, 4))
    figure = plots.plot_noise(seeds, noise)
    edge = sum(seeds) / 3 - judge([1.0], seeds, noise).threshold
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert any(x == pytest.approx(edge) for x in lines)
    assert f"{noise.sigma:.4f}" in figure.title_text
    assert "unknown" in plots.plot_noise([1.42], Noise(math.nan, 0, "one seed")).title_text
    assert plots.plot_noise([], noise).png(dpi=40)


def test_a_crashed_training_is_not_compared_at_its_end(runs):
    night = runs["night"]
    crashed = next(
        r for r in night.records if r.outcome == "crashed" and r.status != "invalid_patch"
    )
    figure = plots.compare_curves([(night, night.baseline), (night, crashed)])
    assert "stopped at 32% of its budget" in figure.title_text


def test_a_chart_has_the_ink_of_its_page_and_leaves_a_picture_where_no_drawing_stays(runs):
    for figure in draws_of_one_run(runs["tuned"]):
        shown = figure._repr_html_()
        parts = re.fullmatch(r"<svg.*?<desc>(.*?)</desc>(.*)</svg>", shown, re.DOTALL)
        picture, drawn = parts.groups()
        assert picture.startswith("<img ") and "data:image/png;base64," in picture
        assert figure.title_text in html.unescape(picture)
        words = re.findall(r'<g id="text_\d+">\s*<g style="fill: (.*?)[";]', drawn)
        assert words and set(words) == {"currentColor"}
        seen = drawn.replace("stroke: #000000; stroke-opacity: 0", "")
        inks = set(re.findall(r"#[0-9a-f]{6}", re.sub(r'xlink:href="[^"]*"', "", seen)))
        faint = [ink for ink in inks for ground in GROUNDS if contrast(ink, ground) < 3]
        assert not faint, "lines and marks are at least 3:1 on white and on JupyterLab's black"
        assert "<style" not in drawn and "<!--" not in drawn


def test_words_of_others_in_a_drawing_are_no_markup(tmp_path):
    entries = journals.make_journal(8, seed=2, crash_rate=0)
    for entry in entries:
        if entry["event"] == "decided" and entry["experiment"]:
            entry["title"] = "--><script>alert(1)</script> $x$"
    journals.write_run(tmp_path, entries, journals.make_settings("run"))
    shown = plots.plot_progress(load_run(tmp_path, "run"))._repr_html_()
    assert "<script" not in shown and "alert(1)" not in re.sub(r"&lt;.*?&gt;", "", shown)


def test_a_thousand_experiments_are_drawn(runs):
    assert plots.plot_progress(runs["thousand"]).png().startswith(b"\x89PNG")


def test_pyplot_stays_unloaded():
    code = (
        "import sys, harness.show.picker; print('matplotlib.pyplot'"
        " in sys.modules, 'torch' in sys.modules)"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"], done.stdout + done.stderr
