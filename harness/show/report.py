"""A run's journal in, its report out: the morning's Markdown with a chart, and the same as HTML.

Plain and honest: what the machine did comes first, then the claim, the only thing that is called an
improvement; what stands in doubt has its own section. Pure functions of the journal but for
write_report. pandas and matplotlib are imported only for the chart.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harness.ground.files import read_json, write_bytes_atomic, write_text_atomic
from harness.ground.text import plain_words
from harness.lab.close_out import CloseOut, read_close_out
from harness.lab.close_out_findings import sentences
from harness.run.machine import trial_words
from harness.run.pace import cells_of_pace, say_speed, words_of_card
from harness.run.records import (
    Record,
    baseline_of,
    best_of,
    incumbent_of,
    parse_time,
    records_from_journal,
)
from harness.run.results import clean_description
from harness.run.run import Run, again_command, claim_command
from harness.run.state import fold
from harness.search.llm.exchanges import Usage
from harness.show.costs import failure_words, run_usage, usage_words
from harness.show.doubts import doubts
from harness.show.learnt import say_learnt
from harness.show.model_text import say_texts
from harness.show.report_page import Report, is_near_miss, report_html
from harness.show.sentences import (
    as_judged,
    candidates_of,
    counts_in_words,
    facts_in_words,
    headline,
    kept_of,
    latest_sigma,
    model_words,
    name_of,
    plural,
    quoted,
    say_claim,
    say_time,
    signed,
)

NEAR_MISSES = 5
CAUSES = 3  # of each kind of failure
REASON = 800  # characters: what to do about it comes last
PICTURE = "![every experiment and what was on the branch](progress.png)"
BRANCH_TABLE = """\
| experiment | idea | val_bpb | gain | runs | steps | tokens/s | cores held by others | why |
|---|---|---|---|---|---|---|---|---|"""


def write_report(run_dir: str | Path) -> Path:
    """Write report.md, report.html and progress.png of a run; return the path of the first."""
    from harness.show.charts.scores import plot_progress
    from harness.show.frame import load_run

    run_dir = Path(run_dir)
    run = load_run(run_dir.parent, run_dir.name)
    folder, said = _write_page(run_dir, live=False)
    write_bytes_atomic(folder / "progress.png", plot_progress(run).png())
    first, rest = as_markdown(said).split("\n", 1)
    write_text_atomic(folder / "report.md", f"{first}\n\n{PICTURE}\n{rest}")
    return folder / "report.md"


def write_page(run_dir: str | Path, live: bool) -> Path:
    """Write report.html of a run and return its path. live: the page loads itself anew."""
    return _write_page(Path(run_dir), live)[0] / "report.html"


def _write_page(run_dir: Path, live: bool) -> tuple[Path, Report]:
    """Write report.html; return its folder and what it says."""
    run, folder = Run(run_dir), run_dir / "report"
    settings = read_json(run_dir / "run.json") if run.is_there else {}
    beside = Beside(
        settings={"tag": run_dir.name, **settings},
        usage=run_usage(run_dir),
        measured=read_close_out(run_dir),
        claim_command=claim_command(run_dir),
        again_command=partial(again_command, run_dir),
        has_pages=(run_dir / "notebooks" / "index.md").exists(),
        texts=say_texts(run),
    )
    said = report_of(run.entries, beside)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "report.html", report_html(run, said, live))
    return folder, said


class Beside(NamedTuple):
    """What a report tells of a run besides its journal.

    settings: run.json. usage: of the language model, by its ledger. measured: the newest close-out;
    claim_command: what makes one. again_command: what tries an experiment's change again, by its
    number. has_pages: whether its experiments have pages, with an index. texts: what its models
    write, in Markdown.
    """

    settings: dict = {}
    usage: Usage = Usage()
    measured: CloseOut = CloseOut()
    claim_command: str = ""
    again_command: Callable[[int], str] = lambda number: ""
    has_pages: bool = True
    texts: str = ""


def morning_report(entries: Sequence[dict], settings: dict, **beside: object) -> str:
    """The report as Markdown. beside: of `Beside`."""
    return as_markdown(report_of(entries, Beside(settings, **beside)))


def as_markdown(said: Report) -> str:
    parts = [f"# Run {said.tag}: {said.headline}", *([said.speed] if said.speed else [])]
    parts += [f"## {title}\n\n{text}" for title, text in said.sections.items() if text]
    return "\n\n".join(parts) + "\n"


def report_of(entries: Sequence[dict], beside: Beside) -> Report:
    """What there is to say of a run. A close-out of another file than the branch's is none."""
    settings, measured = beside.settings, beside.measured
    records, tag = records_from_journal(entries), plain_words(settings.get("tag", "(no tag)"))
    tip = incumbent_of(records)
    measured = measured.about(tip.experiment) if tip else CloseOut()
    claim = say_claim(records, measured.claimed, beside.claim_command)
    state = fold(entries)
    sections = {
        "The claim": f"{claim}{_template(records, settings, measured)}",
        "Change by change": "\n".join(f"- {words}" for words in sentences(state, measured, quoted)),
        "On the branch": _on_the_branch(records),
        "Near misses": _near_misses(entries, records, beside.again_command),
        "What the night learnt": say_learnt(entries, records),
        "Failures": _failures(records),
        "What stands in doubt": "\n".join(f"- {doubt}" for doubt in doubts(entries, records))
        or "Nothing that the journal shows.",
        "What the models write": beside.texts,
        "Whose ideas": _whose_ideas(entries, records, beside.usage),
        "Time": say_time(entries),
        "How it was measured": _measured(entries, settings),
        "Look further": _look_further(records, tag, beside.has_pages),
    }
    first, speed = headline(records, measured.claimed), say_speed(state, measured.runs)
    return Report(tag, first, speed, sections, measured)


def _measured(entries: Sequence[dict], settings: dict) -> str:
    words = ", ".join(facts_in_words(settings)) or "settings that are not stated"
    tried = trial_words(settings.get("device") or {})
    span = "The journal is empty."
    if entries:
        ends = (parse_time(entry.get("time")) for entry in (entries[0], entries[-1]))
        times = (f"{end:%Y-%m-%d %H:%M} UTC" if end else "?" for end in ends)
        span = f"From {' to '.join(times)}."
    card = words_of_card(entry for entry in entries if entry["event"] == "trained")
    told = [f"On this machine {plain_words(each)}." for each in tried]
    told += [f"The card in a training, by the median: {card}."] * bool(card)
    return " ".join([f"{span} Measured with {words}.", *told])


def _template(records: Sequence[Record], settings: dict, measured: CloseOut) -> str:
    """In a demo: how the file on the branch compares with the template of real nights."""
    tip, profile = incumbent_of(records), settings.get("profile") or {}
    is_plain = profile.get("name") == "demo" and profile.get("constants")
    if not is_plain or not tip or tip.experiment == 0:
        return ""
    began = (
        "\n\nThis demo began from a plain GPT, so that a short night has something to find; real "
        "nights begin from a stronger template."
    )
    score, scores = (measured.claimed or {}).get("template_bpb"), measured.scores("best")
    if score is None or not scores:
        return began
    mean = sum(scores) / len(scores)
    difference = f"{abs(score - mean):.4f} bpb {'better' if mean <= score else 'worse'}"
    return (
        f"{began} Trained once beside the claim, that template scored {score:.4f}; the file on the "
        f"branch scored {mean:.4f} ({plural(len(scores), 'fresh run')}), {difference}. One run of "
        "the template gives no interval."
    )


def _on_the_branch(records: Sequence[Record]) -> str:
    """What was kept, the baseline first: scores that chose it, and so are flattered."""
    base, tip, kept = baseline_of(records), incumbent_of(records), kept_of(records)
    if base is None:
        return ""
    sigma = latest_sigma(records)
    noise = f"sigma of one run {sigma:.4f}" if sigma else "noise not measured"
    runs = f"({plural(base.n_runs, 'run')}, {noise})"
    first = f"Baseline: {base.val_bpb:.4f} bits per byte {runs}."
    if not kept:
        tried = plural(len(candidates_of(records)), "experiment")
        return f"{first}\nNothing was kept of {tried}: the baseline stands."
    name = f"experiment {tip.experiment:04d} ({quoted(tip.title)})"
    judged = f"The branch stands at {name}: {as_judged(records)}."
    best = best_of(records)
    score = f"Best score: {best.val_bpb:.4f} ({name_of(best)})."
    over = "A gain is over what was on the branch before."
    lines = [f"{first}\n{score}\n{judged} {over}\n", BRANCH_TABLE]
    for record in [base, *kept]:
        cells = [
            f"{record.experiment:04d}",
            quoted(record.title, 60),
            f"{record.val_bpb:.4f}",
            signed(record.gain),
            str(record.n_runs),
            *cells_of_pace(record.pace),
            record.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _near_misses(
    entries: Sequence[dict], records: Sequence[Record], again: Callable[[int], str]
) -> str:
    """Discards that scored lower than what they were measured against, but for those that were
    tried again since. again: the command that does so."""
    done = {e.attempt.again for e in fold(entries).experiments if e.attempts}
    near = [r for r in records if is_near_miss(r) and r.experiment not in done]
    if not near:
        return ""
    lines = ["A lower score than what was on the branch, but not by enough to keep them.", ""]
    if again(0):
        lines[0] += " The command tries the change again, on what is on the branch now."
    for record in sorted(near, key=lambda record: -record.gain)[:NEAR_MISSES]:
        asked = f", {record.threshold:.4f} was asked for" if record.threshold is not None else ""
        gain = f"gain {signed(record.gain)} over {plural(record.n_runs, 'run')}"
        line = f"- {record.experiment:04d} {quoted(record.title, 60)}: {gain}{asked}"
        command = again(record.experiment)
        lines.append(f"{line}: `{command}`" if command else line)
    return "\n".join(lines)


def _failures(records: Sequence[Record]) -> str:
    """Failures grouped by status, with their commonest causes."""
    causes: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        if record.outcome in ("crashed", "no result", "quarantined"):
            status = "quarantined" if record.outcome == "quarantined" else record.status
            causes[status][clean_description(record.cause or record.verdict or record.title)] += 1
    lines = []
    for status, said in sorted(causes.items(), key=lambda item: -item[1].total()):
        words = [
            quoted(cause, 100) + (f" x{count}" if count > 1 else "")
            for cause, count in list(said.items())[:CAUSES]
        ]
        more = f", and {len(said) - CAUSES} other causes" if len(said) > CAUSES else ""
        lines.append(f"- {status.replace('_', ' ')}: {said.total()}. {', '.join(words)}{more}")
    return "\n".join(lines) or "None."


def _whose_ideas(entries: Sequence[dict], records: Sequence[Record], usage: Usage) -> str:
    """Whose ideas came to what, and the language model's cost; "" where none was asked."""
    proposed = [entry for entry in entries if entry.get("event") == "proposed"]
    failed = failure_words(entries, partial(quoted, limit=REASON))
    models: dict[str, list[str]] = defaultdict(list)
    for entry in proposed:
        model = quoted(model_words(entry), 120) if entry.get("model") else ""
        if model and entry["proposer"] != "tpe" and model not in models[entry["proposer"]]:
            models[entry["proposer"]].append(model)
    if not (usage.requests or models or failed):
        return ""
    lines, tried = [], candidates_of(records)
    for name in dict.fromkeys(record.proposer for record in tried):
        theirs = [record for record in tried if record.proposer == name]
        by = f"{name} ({', '.join(models[name])})" if name in models else name
        lines.append(f"- {by}: {plural(len(theirs), 'idea')}, {counts_in_words(theirs)}.")
    if usage.requests:
        lines.append(f"- The language model took {usage_words(usage)}.")
    if repairs := sum(bool(entry.get("attempt")) for entry in proposed):
        lines.append(f"- {plural(repairs, 'failed idea')} went back to it for repair.")
    if failed:
        lines.append(f"- {failed}.")
    return "\n".join(lines)


def _look_further(records: Sequence[Record], tag: str, has_pages: bool) -> str:
    """Where pages, model and code are."""
    tip = incumbent_of(records)
    lines = ["- [Every experiment as a page](../notebooks/index.md)"] * has_pages
    if tip:
        lines.append("- The model on the branch and its [train.py](../best/train.py)")
    if tip and tip.commit:
        lines += [
            f"- Its code: `git show {tip.commit[:12]}:train.py`",
            f"- Continue from it: `git switch -c my-branch autoresearch/{tag}`",
            f"- What was kept, in order: `git log --oneline autoresearch/{tag}`",
            f"- Any experiment, discards and crashes too: `git show refs/experiments/{tag}/0001`",
        ]
    elif tip:
        lines.append("- There is no git history of this run.")
    return "\n".join(lines)
