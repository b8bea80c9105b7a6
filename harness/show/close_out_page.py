"""The close-out on one page: the claim, every comparison with its seeds plotted, what each change
is worth, what is not known yet, and what all of it was measured with.

In: a run and its close-out. Out: HTML. Text has the colour of the page around it; a picture holds
lines and dots alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from harness.lab.close_out import BEST, TEMPLATE, CloseOut, Comparison, words_of_claim
from harness.lab.close_out_findings import changes_of, sentences
from harness.lab.close_out_questions import asked_words, words_left
from harness.run.pace import cells_of_pace, pace_of
from harness.run.run import Run
from harness.run.settings import command_on, environment_words
from harness.run.state import State
from harness.show.experiment_page import PACE, training_lines
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
    drawing,
    small,
    soft,
    table,
)

WIDTH, HEIGHT = 160, 20  # of a row's picture, pixels
HEAD = ("best is better by", "95% interval", "on the holdout")


def close_out_page(run: Run, found: CloseOut) -> Html:
    """All of it; where there is nothing to say yet, why."""
    if not found.comparisons:
        return box("nothing was kept, so there is nothing to claim: the baseline stands")
    found = found.about(found.current.begun["best"])
    page = box(bold(words_of_claim(found.claimed)), GREEN) if found.claimed else Html()
    if said := list(sentences(run.state, found)):
        page += box(divs(said))
    page += comparison_pages(run.state, found)
    if found.current.step != "nothing":
        page += box("stopped before it was complete: run this notebook again, and it goes on")
    elif left := words_left(run, found):
        page += box(f"{left}: {command_on(run.folder, '--close-out')} --hours HOURS")
    page += training_lines(
        [(f"{run.started['role']}, seed {run.started['seed']}", run.trained) for run in found.runs]
    )
    return page + soft(environment_words(run.settings))


def comparison_pages(state: State, found: CloseOut) -> Html:
    """Every comparison, in order."""
    titles = {change.number: change.decided["title"] for change in changes_of(state)}
    return Html().join(comparison_page(each, titles) for each in found.comparisons)


def comparison_page(comparison: Comparison, titles: dict[int, str]) -> Html:
    """One comparison: a row a file, with its seeds and by how much the best is better.

    titles: of the changes that a file may lack.
    """
    roles = (*comparison.others, BEST, TEMPLATE)
    scores = {role: each for role in roles if (each := comparison.scores(role))}
    every = [score for each in scores.values() for score in each]
    claimed = comparison.claims.values()
    ends = [each["val"][end] for each in claimed if "val" in each for end in ("low", "high")]
    rows = []
    for role, each in scores.items():
        lacks = comparison.others.get(role, {}).get("lacks", [])
        trained = [run.trained for run in comparison.runs if run.started["role"] == role]
        claim, reach = comparison.claims.get(role, {}), max(map(abs, ends), default=1)
        rows.append(
            (
                divs([role, *(small(titles[number]) for number in lacks if number in titles)]),
                seeds_picture(each, min(every), max(every)),
                f"{statistics.fmean(each):.4f}",
                *difference_cells(claim, reach),
                *cells_of_pace(pace_of(trained)),
            )
        )
    failed = [each["cause"] for each in claimed if each["status"] != "ok"]
    page = box(bold(asked_words(comparison)), BLUE)
    page += table(("file", "seeds, better is left", "mean val_bpb", *HEAD, *PACE), rows)
    return page + (box(divs(failed)) if failed else "")


def difference_cells(claimed: dict, reach: float) -> tuple[object, object, object]:
    """By how much the best is better than a file: in figures, drawn, and on the holdout."""
    if "val" not in claimed:
        return "", "", ""
    figures = [
        f"{each['difference']:+z.4f} ({each['low']:+z.4f} to {each['high']:+z.4f})"
        for each in (claimed["val"], claimed["holdout"])
    ]
    return figures[0], interval_picture(claimed["val"], reach), figures[1]


def seeds_picture(scores: Sequence[float], low: float, high: float) -> Html:
    """A dot a training, and a line at their mean."""

    def x(score: float) -> float:
        return 6 + (WIDTH - 12) * (score - low) / ((high - low) or 1.0)

    drawn = f'<path d="M{x(statistics.fmean(scores)):.1f} 2V{HEIGHT - 2}" stroke="{GREY}"/>'
    for score in scores:
        drawn += f'<circle cx="{x(score):.1f}" cy="{HEIGHT / 2}" r="4.5" fill="{BLUE}"/>'
    return drawing(drawn, ", ".join(f"{score:.4f}" for score in scores), WIDTH, HEIGHT)


def interval_picture(val: dict, reach: float) -> Html:
    """An interval and its middle, beside zero."""
    colour = GREEN if val["low"] > 0 else RED if val["high"] < 0 else AMBER
    low, middle, high = (
        WIDTH / 2 + (WIDTH / 2 - 6) * val[name] / reach for name in ("low", "difference", "high")
    )
    zero = f'<path d="M{WIDTH / 2} 0V{HEIGHT}" stroke="{GREY}" stroke-dasharray="3 3"/>'
    bar = f'<path d="M{low:.1f} {HEIGHT / 2}H{high:.1f}" stroke="{colour}" stroke-width="3"/>'
    dot = f'<circle cx="{middle:.1f}" cy="{HEIGHT / 2}" r="4.5" fill="{colour}"/>'
    words = f"{val['low']:+z.4f} to {val['high']:+z.4f}"
    return drawing(zero + bar + dot, words, WIDTH, HEIGHT)
