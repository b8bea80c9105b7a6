"""The morning report as one HTML file: nothing beside it, no request, readable on a phone, in a
mail and in JupyterLab.

In: a run, read only. Out: report/report.html. The words are those of report.md; chart, table and
the folded ideas are drawn here. Every text of others is escaped by the template. Without scripts
(JupyterLab runs none in a file that nobody trusts) only sorting is lost.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2
import mistune

from harness.ground.files import read_tail
from harness.lab.close_out import CloseOut
from harness.run.noise import KNOWN_DF
from harness.run.pace import cells_of_pace, pace_of
from harness.run.records import (
    KEPT,
    OUTCOME_WORDS,
    TIME_KINDS,
    Record,
    baseline_of,
    best_of,
    incumbent_of,
    records_from_journal,
    short_title,
)
from harness.run.run import Run, experiment_of_page, page_name
from harness.run.state import Attempt, Experiment
from harness.show.charts.svg import COLOURS, Points, curves_svg, legend_of, progress_svg
from harness.show.close_out_page import comparison_pages
from harness.show.costs import run_usage
from harness.show.markup import (
    GREY,
    RED,
    VIEWER_NOTE,
    VIEWER_STYLE,
    Html,
    diff,
    folded,
    preformatted,
)
from harness.show.sentences import (
    candidates_of,
    duration,
    hypothesis_words,
    latest_sigma,
    name_of,
    plural,
    signed,
)
from harness.show.stage import read_curve

# For the ideas folded in, of the whole page and for each experiment: with them 100 experiments come
# to less than 0.5 MB and 1,000 to less than 3 MB. Where there is no room, there are links to pages.
ROOM_BYTES, ROOM_EACH_BYTES = 210_000, 1_700
DIFF_LINES, LOG_CHARACTERS = 160, 3000


class Report(NamedTuple):
    """What a report says of run `tag`. sections: title -> Markdown; speed: what the machine did,
    "" for nothing; measured: the close-out of the file on the branch.
    """

    tag: str
    headline: str
    speed: str
    sections: dict[str, str]
    measured: CloseOut


def report_html(run: Run, said: Report, live: bool) -> str:
    """The page. live: it loads itself anew."""
    records = records_from_journal(run.entries)
    template = _templates().get_template("report.html")
    script = _templates().get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ideas = _folded(run, records)
    left_out = len(records) - len(ideas)

    def address(number: int) -> str:
        return f"#e{number:04d}" if number in ideas else _page(run, number) or "#experiments"

    page = template.render(
        tag=run.folder.name,
        headline=said.headline,
        live=live,
        span=_span(records),
        cards=_cards(run, records, said.measured.claimed),
        alarm=said.speed,
        chart=progress_svg(records, address),
        small_chart=progress_svg(records, address, width=420, height=240),
        legend=legend_of(records),
        pages=_pages(run),
        filters=[(name, Html(f".idea:not(.{group})")) for name, group, _ in GROUPS],
        rows=[_row(run, record, record.experiment in ideas) for record in reversed(records)],
        sections=_sections(run, said),
        ideas=ideas.values(),
        left_out=f"{plural(left_out, 'experiment')} more: see their pages." if left_out else "",
        colours={"red": RED},
        viewer_style=Html(VIEWER_STYLE),
        viewer_note=VIEWER_NOTE,
        script=Html(script),
        script_hash=digest,
    )
    # In a tab of their own: see VIEWER_STYLE, which a link within the page ends.
    return page.replace('<a href="../', '<a target="_blank" href="../')


def _sections(run: Run, said: Report) -> Iterator[Html]:
    """What report.md says, and after the claim the seeds of the close-out."""
    for title, text in said.sections.items():
        if text and title != "On the branch":  # the page's own table has it
            yield _markdown(f"## {title}\n\n{text}")
        if title == "Change by change" and said.measured.runs:
            seeds = Html('<div class="wide">{}</div>').format(
                comparison_pages(run.state, said.measured)
            )
            yield folded("Every training of the close-out", seeds)


def _folded(run: Run, records: Sequence[Record]) -> dict[int, Html]:
    """The ideas that there is room for, by number: keeps, near misses and failures come before the
    others, and newer ones before older.
    """
    template, ideas = _templates().get_template("details.html"), {}
    room, experiments = ROOM_BYTES + ROOM_EACH_BYTES * len(records), run.state.experiments
    for record in sorted(records, key=lambda r: (not _is_telling(r), -r.experiment)):
        idea = template.render(idea=idea_of(run, record, experiments))
        room -= len(idea.encode())
        if room < 0:
            break
        ideas[record.experiment] = Html(idea)
    return dict(sorted(ideas.items()))


def idea_html(run: Run, record: Record) -> Html:
    """An experiment as the report unfolds it, without its heading and the report's own links."""
    template = _templates().get_template("idea.html")
    idea = idea_of(run, record, run.state.experiments)
    return Html(template.render(idea=idea | {"page": ""}))


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness.show"),
        autoescape=lambda name: name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    """Words of others as a page may hold them: of a bounded length, and none that reorder it."""
    is_foreign = isinstance(value, str) and not hasattr(value, "__html__")
    return Html.escape(value) if is_foreign else value


@cache
def _renderer() -> mistune.Markdown:
    return mistune.create_markdown(escape=True, plugins=["table"])


def _markdown(text: str) -> Html:
    return Html(f'<div class="wide">{_renderer()(text)}</div>')


def _span(records: Sequence[Record]) -> str:
    times = [record.time for record in records if record.time]
    return f"{times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC" if times else ""


def _cards(run: Run, records: Sequence[Record], claimed: dict | None) -> list[tuple[str, str, str]]:
    """(name, figure, note) of what one looks for first."""
    base, tip, tried = baseline_of(records), incumbent_of(records), candidates_of(records)
    if base is None:
        return []
    best = best_of(records)
    outcomes = [record.outcome for record in tried]
    sigma = latest_sigma(records)
    hours = sum(record.seconds[kind] for record in records for kind in TIME_KINDS)
    usage = run_usage(run.folder)
    found = [
        ("baseline", f"{base.val_bpb:.4f}", plural(base.n_runs, "run")),
        ("best score", f"{best.val_bpb:.4f}", name_of(best)),
        ("the branch stands at", f"{tip.val_bpb:.4f}", name_of(tip)),
        ("noise of one run", f"{sigma:.4f}" if sigma else "unknown", "one sigma"),
        ("tried", str(len(tried)), f"{outcomes.count('crashed')} crashed"),
        ("kept as better", str(outcomes.count("kept")), ""),
        ("kept as simpler", str(outcomes.count("simplified")), ""),
        ("time", duration(hours), ""),
    ]
    if claimed and claimed.get("val"):
        val = claimed["val"]
        interval = f"95%: {val['low']:+z.4f} to {val['high']:+z.4f}"
        found.insert(0, ("gain on fresh seeds", f"{val['difference']:+z.4f}", interval))
    if usage.requests:
        cost = f"{usage.cost_usd:.2f} USD" if usage.cost_usd is not None else "price unknown"
        found.append(("language model", plural(usage.requests, "request"), cost))
    return found


def _pages(run: Run) -> list[tuple[str, str]]:
    """Pages of the night that are no experiments, with their addresses from the report's folder."""
    pages = sorted((run.folder / "notebooks").glob("*.html"))
    names = [page.stem for page in pages if experiment_of_page(page) is None]
    return [(name.replace("_", " "), f"../notebooks/{name}.html") for name in names]


def _page(run: Run, number: int) -> str:
    """The address of an experiment's page from the report's folder; "" where it has none."""
    name = f"{page_name(number)}.html"
    return f"../notebooks/{name}" if (run.folder / "notebooks" / name).exists() else ""


def is_near_miss(record: Record) -> bool:
    """Whether it scored better than the branch, and not by enough."""
    return record.outcome == "discarded" and (record.gain or 0) > 0


def _is_telling(record: Record) -> bool:
    return record.outcome != "discarded" or is_near_miss(record)


# What the page can be narrowed to: (name, class, whether an experiment is one of those).
GROUPS: tuple[tuple[str, str, Callable[[Record], bool]], ...] = (
    ("kept", "kept", lambda record: record.outcome in KEPT),
    ("near-misses", "near", is_near_miss),
    ("failures", "failed", lambda r: r.outcome in ("crashed", "no result", "quarantined")),
)


def _classes(record: Record) -> str:
    return " ".join(["idea", *(name for _, name, holds in GROUPS if holds(record))])


def _row(run: Run, record: Record, is_folded: bool) -> dict:
    noise = _known_noise(record)
    return {
        "number": f"{record.experiment:04d}",
        "classes": _classes(record),
        "colour": COLOURS.get(record.outcome, GREY),
        "outcome": OUTCOME_WORDS[record.outcome],
        "title": short_title(record),
        "folded": is_folded,
        "score": "" if record.val_bpb is None else f"{record.val_bpb:.4f}",
        "gain": signed(record.gain),
        "sigmas": f"{record.gain / noise:+z.1f}" if noise and record.gain is not None else "",
        "runs": str(record.n_runs or ""),
        "steps": cells_of_pace(record.pace)[0],
        "page": _page(run, record.experiment),
    }


def _known_noise(record: Record) -> float | None:
    """One standard deviation of its gain; None where too few trainings tell of it."""
    return record.noise_of_gain if (record.df or 0) >= KNOWN_DF else None


def idea_of(run: Run, record: Record, experiments: Sequence[Experiment]) -> dict:
    """An experiment in full: why, what came of it, curve over its parent's, runs, diff, the log's
    end. experiments: the run's, read once, since each reading looks at the whole journal.
    """
    experiment = experiments[record.experiment]
    attempt = experiment.attempt
    folder = run.attempt_folder(record.experiment, len(experiment.attempts) - 1)
    proposed = attempt.proposed
    expected = proposed.get("expected_delta")
    lines = [proposed.get("hypothesis") or "", record.verdict]
    if expected is not None and record.status == "ok":
        lines.append(
            "hypothesis: "
            + ": ".join(hypothesis_words(expected, record.gain, _known_noise(record)))
        )
    return {
        "number": f"{record.experiment:04d}",
        "classes": _classes(record),
        "outcome": OUTCOME_WORDS[record.outcome],
        "title": short_title(record),
        "lines": [line for line in lines if line],
        "curve": curves_svg(curves_over_parent(run, experiment, experiments)),
        "runs": _runs(attempt),
        "diff": _diff(folder),
        "log": _log(folder, attempt) if record.outcome in ("crashed", "no result") else "",
        "page": _page(run, record.experiment),
    }


def curves_over_parent(
    run: Run, experiment: Experiment, experiments: Sequence[Experiment]
) -> list[tuple[str, Points]]:
    """(name, points) of the experiment's own first run, and of its parent's behind it."""
    parent = experiment.attempt.proposed.get("parent")
    ways = [("this experiment", experiment)]
    if parent is not None and parent < len(experiments):
        ways.append((f"experiment {parent}, which it changes", experiments[parent]))
    return [(name, curve_of(run, each)) for name, each in ways]


def curve_of(run: Run, experiment: Experiment, which: int = 0) -> Points:
    """(progress, loss) of an experiment's own training `which`, -1 for its last; [] without it."""
    trainings = [each for each in experiment.attempt.own if each.started["kind"] != "smoke"]
    if not trainings:
        return []
    training, attempt = trainings[which], len(experiment.attempts) - 1
    folder = run.training_folder(experiment.number, attempt, training.number)
    return read_curve(folder) or _noted(training.trained)


def _noted(trained: dict | None) -> list[tuple[float, float]]:
    """The few losses that the journal keeps when a training's folder is gone."""
    losses = (trained or {}).get("losses") or {}
    return [(int(at) / 100, loss) for at, loss in losses.items() if loss is not None]


def _runs(attempt: Attempt) -> list[tuple[object, ...]]:
    """Of each run its number, kind, score or end, and pace."""
    return [
        (
            run.number,
            run.started["kind"],
            f"{run.val_bpb:.4f}" if run.val_bpb is not None else str(run.status or "in work"),
            *cells_of_pace(pace_of([run.trained] if run.trained else [])),
        )
        for run in attempt.own
    ]


def _diff(folder: Path) -> Html | str:
    try:
        text = (folder / "train.diff").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # Its first two lines name the files.
    return diff(text.split("\n", 2)[-1], DIFF_LINES) if text.strip() else ""


def _log(folder: Path, attempt: Attempt) -> Html | str:
    """The end of the log of the attempt's last run."""
    if not attempt.runs:
        return ""
    log = folder / "runs" / f"{attempt.runs[-1].number:02d}" / "run.log"
    # A character takes up to four bytes.
    text = read_tail(log, 4 * LOG_CHARACTERS)[-LOG_CHARACTERS:]
    return preformatted(text) if text.strip() else ""
