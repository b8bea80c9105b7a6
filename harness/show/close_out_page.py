"""The close-out on one page: the claim, every comparison with its seeds plotted, what each change
is worth, what is not known yet, and what all of it was measured with.

In: a run and its close-out. Out: HTML. Text has the colour of the page around it; a picture holds
lines and dots alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.lab.close_out import BEST, TEMPLATE, CloseOut, Comparison, words_of_claim
from harness.lab.findings import changes_of, sentences
from harness.lab.questions import words_left
from harness.run.pace import cells_of_pace, pace_of
from harness.run.run import Run
from harness.run.settings import command_on, environment_words
from harness.run.state import Training
from harness.show.experiment_page import PACE, outside_lines
from harness.show.markup import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    RED,
    Html,
    bold,
    box,
    divs,
    picture,
    small,
    soft,
    table,
)

ASKED = {
    "claim": "Is the best an improvement?",
    "ablation": "What does the best lose without each change?",
    "simplified": "Is the best as good without what costs nothing?",
    "longer": "Does the gain last at {budgets:g}x the budget?",
}
WIDTH, HEIGHT = 200, 20  # of a row's picture, pixels


def close_out_page(run: Run, found: CloseOut) -> Html:
    """All of it; where there is nothing to say yet, why."""
    if not found.comparisons:
        return box("nothing was kept, so there is nothing to claim: the baseline stands")
    page = Html()
    if found.claimed:
        page += box(bold(words_of_claim(found.claimed)), GREEN)
    said = list(sentences(run.state, found))
    page += box(divs(said)) if said else ""
    best = found.claim.begun["best"]
    titles = {change.number: change.decided["title"] for change in changes_of(run.state)}
    for comparison in found.comparisons:
        if comparison.begun["best"] == best:
            page += comparison_page(comparison, titles)
    if found.current.step != "nothing":
        page += box("stopped before it was complete: run this notebook again, and it goes on")
    elif left := words_left(run, found):
        page += box(f"{left}: {command_on(run.folder, '--close-out')} --hours HOURS")
    page += trainings_page(found.claim)
    return page + soft(environment_words(run.settings))


def comparison_page(comparison: Comparison, titles: dict[int, str]) -> Html:
    """One comparison: a row a file, with its seeds and by how much the best is better.

    titles: of the changes that a file may lack.
    """
    roles = [role for role in (*comparison.against, BEST, TEMPLATE) if comparison.scores(role)]
    all_scores = [score for role in roles for score in comparison.scores(role)]
    heading = box(bold(ASKED[comparison.kind].format(budgets=comparison.budgets)), BLUE)
    if not all_scores:
        return heading + box(divs(entry["cause"] for entry in comparison.claims.values()))
    low, high = min(all_scores), max(all_scores)
    claimed = [entry for entry in comparison.claims.values() if entry["status"] == "ok"]
    ends = [end for entry in claimed for end in (entry["val"]["low"], entry["val"]["high"])]
    reach = max(map(abs, ends), default=0.0)
    head = (
        *("file", f"seeds, {low:.4f} to {high:.4f}", "mean val_bpb", "best is better by"),
        *(f"95% interval, ±{reach:.4f}", "on the holdout"),
    )
    rows = [
        (
            divs([role, *(small(titles[n]) for n in comparison.removed.get(role, []))]),
            seeds_picture(comparison.scores(role), low, high),
            f"{sum(comparison.scores(role)) / len(comparison.scores(role)):.4f}",
            *difference_cells(comparison.claims.get(role), reach),
        )
        for role in roles
    ]
    failed = [entry["cause"] for entry in comparison.claims.values() if entry["status"] != "ok"]
    return heading + table(head, rows) + (box(divs(failed)) if failed else "")


def difference_cells(claimed: dict | None, reach: float) -> tuple[object, object, object]:
    """By how much the best is better than a file: in figures, drawn, and on the holdout."""
    if not claimed or claimed["status"] != "ok":
        return "", "", ""
    val, holdout = claimed["val"], claimed["holdout"]
    on_holdout = f"{holdout['difference']:+.4f} ({holdout['low']:+.4f} to {holdout['high']:+.4f})"
    return f"{val['difference']:+.4f}", interval_picture(val, reach), on_holdout


def seeds_picture(scores: Sequence[float], low: float, high: float) -> Html:
    """A dot a training, and a line at their mean; better is left."""
    mean = sum(scores) / len(scores)
    span = (high - low) or 1.0

    def x(score: float) -> float:
        return 6 + (WIDTH - 12) * (score - low) / span

    drawn = f'<path d="M{x(mean):.1f} 2V{HEIGHT - 2}" stroke="{GREY}" stroke-width="2"/>'
    for score in scores:
        drawn += f'<circle cx="{x(score):.1f}" cy="{HEIGHT / 2}" r="4.5" fill="{BLUE}"/>'
    return drawing(drawn, ", ".join(f"{score:.4f}" for score in scores))


def interval_picture(val: dict, reach: float) -> Html:
    """An interval and its middle, beside zero."""
    colour = GREEN if val["low"] > 0 else RED if val["high"] < 0 else AMBER

    def x(value: float) -> float:
        return WIDTH / 2 + (WIDTH / 2 - 6) * value / (reach or 1.0)

    middle, zero = HEIGHT / 2, WIDTH / 2
    line = f'<path d="M{zero} 0V{HEIGHT}" stroke="{GREY}" stroke-dasharray="3 3"/>'
    bar = f'<path d="M{x(val["low"]):.1f} {middle}H{x(val["high"]):.1f}" stroke="{colour}"'
    dot = f'<circle cx="{x(val["difference"]):.1f}" cy="{middle}" r="4.5" fill="{colour}"/>'
    return drawing(f'{line}{bar} stroke-width="3"/>{dot}', f"{val['low']:+.4f}, {val['high']:+.4f}")


def drawing(drawn: str, words: str) -> Html:
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{drawn}</svg>'
    return picture(svg.encode(), "svg+xml", words, WIDTH)


def trainings_page(claim: Comparison) -> Html:
    """Every training of the claim: its seed, its scores, and how fast it went."""
    head = ("file", "seed", "val_bpb", "holdout_bpb", *PACE, "wall time")
    page = table(head, [cells_of(run) for run in claim.runs if run.scored])
    named = [(f"{run.started['role']}, seed {run.started['seed']}", run) for run in claim.runs]
    return page + outside_lines([(name, run.trained) for name, run in named])


def cells_of(run: Training) -> tuple:
    """A row of the claim's trainings."""
    scores = [run.scored.get(name) for name in ("val_bpb", "holdout_bpb")]
    shown = [f"{score:.6f}" if score else run.status for score in scores]
    pace, wall_time = cells_of_pace(pace_of([run.trained])), f"{run.trained['wall_seconds']:.0f} s"
    return run.started["role"], run.started["seed"], *shown, *pace, wall_time
