"""What the loop notebook shows of an idea: who had it and why, what it changes, what it cost, what the gate said, how it was repaired, and whether it held.

In: a Lab and an experiment. Out: HTML, every foreign text escaped: a title with a link, an image or a tag in it shows those as they are written.
The only links are to our own files, the saved exchanges with the language model.
"""

from __future__ import annotations

import html
import os
import urllib.parse
from pathlib import Path

from harness.lab.loop import NIGHT_VARIABLE, Lab
from harness.run.noise import KNOWN_DF
from harness.run.records import noise_of_gain
from harness.run.state import Attempt, Experiment
from harness.sandbox import keys
from harness.sandbox.wall import find_wall
from harness.search.patch import make_diff
from harness.show.costs import usage_of, usage_words
from harness.show.markup import BLUE, GREEN, GREY, RED, box, diff, divs, escape, soft, table
from harness.show.sentences import hypothesis_words


def idea_page(lab: Lab, experiment: Experiment) -> str:
    """The idea, why, and where it comes from."""
    proposed = experiment.attempt.proposed
    changed = [(name, old, new) for name, (old, new) in (proposed.get("constants_changed") or {}).items()]
    lines = [f"<div><b>experiment {experiment.number}: {escape(proposed['title'])}</b></div>"]
    lines += [f"<div>{escape(proposed['hypothesis'])}</div>"] if proposed.get("hypothesis") else []
    lines += [soft(text) for text in origin_words(proposed)]
    if skipped := proposed.get("not_applicable"):
        lines.append(soft(f"not applicable to this file: {', '.join(map(str, skipped))}"))
    lines.append(exchange_line(lab, experiment, len(experiment.attempts) - 1))
    if warning := keys.exposure(find_wall().walled):
        lines.append(box(escape(warning), RED))
    return box("".join(lines), BLUE) + (table(("constant", "was", "now"), changed) if changed else "")


def origin_words(proposed: dict) -> list[str]:
    """Who proposed it and how it came to that."""
    by = proposed["proposer"] + (f" ({proposed['model']})" if proposed.get("model") else "")
    operator = f", asked to {proposed['operator']}" if proposed.get("operator") else ""
    expected = proposed.get("expected_delta")
    says = f"; expects val_bpb to change by {expected:+.4f}" if expected is not None else ""
    words = [f"{proposed['category']}, proposed by {by}{operator}, from experiment {proposed['parent']}{says}"]
    words += [f"the language model could not: {proposed['llm_failed']}"] if proposed.get("llm_failed") else []
    return words + ([proposed["note"]] if proposed.get("note") else [])


def exchange_line(lab: Lab, experiment: Experiment, attempt: int, noted: dict | None = None) -> str:
    """What an attempt's talk with the language model took, with links to every answer, request and reply; "" without one."""
    noted = noted or experiment.attempts[attempt].proposed
    words = usage_words(usage_of(noted.get("usage")))
    files = sorted((lab.attempt_folder(experiment.number, attempt) / "exchange").glob("*.json"))
    links = ", ".join(f"{answer_link(lab, path)} ({link(lab, path, 'request and reply')})" for path in files)
    if not words and not links:
        return ""
    return f'<div><small>{escape(words)}{"; exchange: " + links if links else ""}</small></div>'


def answer_link(lab: Lab, exchange: Path) -> str:
    """An exchange's number, as a link to the answer in words where there was one."""
    words = exchange.with_suffix(".txt")
    return link(lab, words, f"answer {exchange.stem}") if words.exists() else escape(f"no answer {exchange.stem}")


def link(lab: Lab, path: Path, words: str) -> str:
    """A link to a file of ours that works from the page: a night's pages lie in the run's folder, a notebook by hand where its kernel works."""
    page = lab.folder / "notebooks" if os.environ.get(NIGHT_VARIABLE) else Path.cwd()
    target = Path(os.path.relpath(path, page)).as_posix()
    return f'<a href="{html.escape(urllib.parse.quote(target))}">{escape(words)}</a>'


def check_page(experiment: Experiment) -> str:
    """What the gate said, of each attempt that came to it."""
    passes = "passes the gate: it parses, keeps the contract, imports and touches only what is allowed, and was not tried before"
    pages = []
    for number, attempt in enumerate(experiment.attempts):
        if attempt.checked is None:
            continue
        name = f"repair {number}: " if number else ""
        if attempt.checked["ok"]:
            pages.append(box(name + passes, GREEN))
        else:
            pages.append(box(divs([f"{name}refused before training:", *attempt.checked["reasons"]]), RED))
    return "".join(pages)


def repairs_page(lab: Lab, experiment: Experiment) -> str:
    """Each repair: what had failed, what was changed of it, and what that cost; "" where there was none."""
    pages = []
    for number, attempt in enumerate(experiment.attempts[1:], 1):
        before, after = (source_of(lab, experiment, each) for each in (number - 1, number))
        head = [f"<div><b>repair {number}: {escape(attempt.proposed['title'])}</b></div>"]
        head += [divs([f"it had failed: {failure_words(experiment.attempts[number - 1])}"])]
        pages.append(box("".join(head) + exchange_line(lab, experiment, number), BLUE))
        pages.append(diff(make_diff(before, after)))
    if experiment.unrepaired:
        noted, number = experiment.unrepaired, len(experiment.attempts)
        words = divs([f"{failure_words(experiment.attempt)}. Not repaired: {noted['why']}"])
        pages.append(box(words + exchange_line(lab, experiment, number, noted), RED))
    return "".join(pages)


def failure_words(attempt: Attempt) -> str:
    """Why an attempt failed."""
    if attempt.checked and not attempt.checked["ok"]:
        return f"refused: {'; '.join(attempt.checked['reasons'])}"
    return f"{attempt.failure.status}: {attempt.failure.cause}" if attempt.failure else "no failure is noted"


def source_of(lab: Lab, experiment: Experiment, attempt: int) -> str:
    return (lab.attempt_folder(experiment.number, attempt) / "train.py").read_text(encoding="utf-8")


def hypothesis_page(lab: Lab, experiment: Experiment) -> str:
    """Whether what was expected came true; "" where no figure was given."""
    expected, decided = experiment.attempt.proposed.get("expected_delta"), experiment.decided
    if expected is None:
        return ""
    rivals = decided.get("incumbent_runs") or len(lab.state.experiments[decided["incumbent"]].attempt.scores)
    known = (decided["df"] or 0) >= KNOWN_DF
    noise = noise_of_gain(decided["sigma"], decided["n_runs"], rivals) if known else None
    verdict, words = hypothesis_words(expected, decided["gain"], noise)
    colour = {"held": GREEN, "did not hold": RED}.get(verdict, GREY)
    return box(
        f'<div><b>hypothesis: {escape(verdict)}</b></div><div>{escape(words)}</div>', colour
    )
