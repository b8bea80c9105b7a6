"""What the loop notebook shows of an idea: whose it is, what it changes and cost, how it fared.

In: a Lab and an experiment. Out: HTML in which every foreign text is text: a title with a link, an
image or a tag in it shows those as they are written. The only links are to our own files, the saved
exchanges with the language model.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from harness.lab.loop import Lab
from harness.lab.proposing import program_words
from harness.run.noise import KNOWN_DF
from harness.run.records import noise_of_gain
from harness.run.settings import wall_of
from harness.run.state import Attempt, Experiment
from harness.sandbox import keys
from harness.search.llm.exchanges import Usage
from harness.search.patch import make_diff
from harness.show import markup
from harness.show.addresses import address
from harness.show.costs import usage_words
from harness.show.markup import BLUE, GREEN, GREY, RED, Html, bold, box, diff, divs, soft, table
from harness.show.sentences import hypothesis_words

PASSES = (
    "passes the gate: it parses, keeps the contract, imports and touches only what is allowed, "
    "and was not tried before"
)


def idea_page(lab: Lab, experiment: Experiment) -> Html:
    """The idea, why, and where it comes from."""
    proposed = experiment.attempt.proposed
    head = bold(f"experiment {experiment.number}: {proposed['title']}")
    page = divs(filter(None, [head, proposed.get("hypothesis")]))
    page += Html().join(map(soft, origin_words(proposed)))
    if skipped := proposed.get("not_applicable"):
        page += soft(f"not applicable to this file: {', '.join(map(str, skipped))}")
    page += exchange_line(lab, experiment, len(experiment.attempts) - 1)
    warnings = (program_words(lab.entries), keys.exposure(wall_of(lab.settings).walled))
    page += Html().join(box(warning, RED) for warning in warnings if warning)
    changed = (proposed.get("constants_changed") or {}).items()
    rows = [(name, old, new) for name, (old, new) in changed]
    return box(page, BLUE) + (table(("constant", "was", "now"), rows) if rows else "")


def origin_words(proposed: dict) -> list[str]:
    """Who proposed it and how it came to that."""
    by = proposed["proposer"] + (f" ({proposed['model']})" if proposed.get("model") else "")
    operator = f", asked to {proposed['operator']}" if proposed.get("operator") else ""
    expected = proposed.get("expected_delta")
    says = f"; expects val_bpb to change by {expected:+z.4f}" if expected is not None else ""
    origin = f"proposed by {by}{operator}, from experiment {proposed['parent']}{says}"
    failed = proposed.get("llm_failed")
    told = f"the language model could not: {failed}" if failed else ""
    words = [f"{proposed['category']}, {origin}", told, proposed.get("note")]
    return [word for word in words if word]


def exchange_line(
    lab: Lab, experiment: Experiment, attempt: int, noted: dict | None = None
) -> Html:
    """What an attempt's talk with the language model took, with links to every answer and request.

    Empty without one. noted: the entry that notes its usage, where that is not the proposal.
    """
    noted = noted or experiment.attempts[attempt].proposed
    words = usage_words(Usage(**(noted.get("usage") or {})))
    files = sorted((lab.attempt_folder(experiment.number, attempt) / "exchange").glob("*.json"))
    if not words and not files:
        return Html()
    links = [
        Html("{} ({})").format(answer_link(lab, path), link(lab, path, "request and reply"))
        for path in files
    ]
    exchange = Html("; exchange: {}").format(Html(", ").join(links)) if links else ""
    return soft(Html("{}{}").format(words, exchange))


def answer_link(lab: Lab, exchange: Path) -> Html | str:
    """An exchange's number, as a link to the answer in words where there was one."""
    words = exchange.with_suffix(".txt")
    if not words.exists():
        return f"no answer {exchange.stem}"
    return link(lab, words, f"answer {exchange.stem}")


def link(lab: Lab, path: Path, words: str) -> Html:
    """A link to a file of ours."""
    return markup.link(urllib.parse.quote(address(path, lab.folder)), words)


def check_page(experiment: Experiment) -> Html:
    """What the gate said, of each attempt that came to it."""
    page = Html()
    for number, attempt in enumerate(experiment.attempts):
        name = f"repair {number}: " if number else ""
        if attempt.checked and attempt.checked["ok"]:
            page += box(name + PASSES, GREEN)
        elif attempt.checked:
            reasons = attempt.checked["reasons"]
            page += box(divs([f"{name}refused before training:", *reasons]), RED)
    return page


def repairs_page(lab: Lab, experiment: Experiment) -> Html:
    """Each repair: what had failed, what was changed of it, and what that cost."""
    page, attempts = Html(), experiment.attempts
    for number, (failed, attempt) in enumerate(zip(attempts, attempts[1:], strict=False), 1):
        before, after = (source_of(lab, experiment, each) for each in (number - 1, number))
        title = bold(f"repair {number}: {attempt.proposed['title']}")
        head = divs([title, f"it had failed: {failure_words(failed)}"])
        page += box(head + exchange_line(lab, experiment, number), BLUE)
        page += diff(make_diff(before, after))
    if noted := experiment.unrepaired:
        words = f"{failure_words(experiment.attempt)}. Not repaired: {noted['why']}"
        exchange = exchange_line(lab, experiment, len(attempts), noted)
        page += box(divs([words]) + exchange, RED)
    return page


def failure_words(attempt: Attempt) -> str:
    """Why an attempt failed."""
    if attempt.checked and not attempt.checked["ok"]:
        return f"refused: {'; '.join(attempt.checked['reasons'])}"
    failed = attempt.failure
    return f"{failed.status}: {failed.cause}" if failed else "no failure is noted"


def source_of(lab: Lab, experiment: Experiment, attempt: int) -> str:
    path = lab.attempt_folder(experiment.number, attempt) / "train.py"
    return path.read_text(encoding="utf-8")


def hypothesis_page(lab: Lab, experiment: Experiment) -> Html:
    """Whether what was expected came true; empty where no figure was given."""
    expected, decided = experiment.attempt.proposed.get("expected_delta"), experiment.decided
    if expected is None:
        return Html()
    incumbent = lab.state.experiments[decided["incumbent"]]
    rivals = decided.get("incumbent_runs") or len(incumbent.attempt.scores)
    is_known = (decided["df"] or 0) >= KNOWN_DF
    noise = noise_of_gain(decided["sigma"], decided["n_runs"], rivals) if is_known else None
    verdict, words = hypothesis_words(expected, decided["gain"], noise)
    colour = {"held": GREEN, "did not hold": RED}.get(verdict, GREY)
    return box(divs([bold(f"hypothesis: {verdict}"), words]), colour)
