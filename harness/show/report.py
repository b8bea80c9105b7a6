"""A run's journal in, its report out: the morning's Markdown with a chart, and the one-screen status of a night.

Plain and honest: what the machine did comes first, then the claim, the only thing that is called an improvement; what
stands in doubt has its own section. Pure functions of the journal but for write_report. pandas and matplotlib are imported only for the chart.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.ground.files import read_json, write_bytes_atomic, write_text_atomic
from harness.lab.close_out import CloseOut, read_close_out
from harness.run.facts import plain_settings
from harness.run.journal import read_journal
from harness.run.pace import cells_of_pace, say_speed
from harness.run.records import Record, baseline_of, incumbent_of, records_from_journal
from harness.run.results import clean_description
from harness.run.state import fold
from harness.search.llm.exchanges import Usage
from harness.show.costs import run_usage, usage_words
from harness.show.doubts import doubts
from harness.show.sentences import (
    as_judged,
    candidates_of,
    headline,
    latest_sigma,
    plural,
    quoted,
    say_claim,
    say_time,
    signed,
    tag_of,
)
from harness.show.status_text import status_text

__all__ = ["morning_report", "status_text", "write_report"]
NEAR_MISSES = 5


def write_report(run_dir: str | Path) -> Path:
    """Write report/report.md and report/progress.png of a run, each atomically; return the path of the former."""
    from harness.show.charts.scores import plot_progress
    from harness.show.frame import load_run

    run_dir = Path(run_dir)
    entries = read_journal(run_dir / "journal.jsonl")
    settings = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    folder = run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    run = load_run(run_dir.parent, run_dir.name)
    write_bytes_atomic(folder / "progress.png", plot_progress(run).png())
    measured = read_close_out(run_dir)
    text = morning_report(entries, {"tag": run_dir.name, **settings}, run_usage(run_dir), measured, run.claim_command)
    first, rest = text.split("\n", 1)
    write_text_atomic(
        folder / "report.md", f"{first}\n\n![every experiment and what was on the branch](progress.png)\n{rest}"
    )
    return folder / "report.md"


def morning_report(
    entries: Sequence[dict],
    settings: object,
    usage: Usage | None = None,
    measured: CloseOut | None = None,
    command: str = "",
) -> str:
    """The report as Markdown. settings: run.json as a dict, or the dataclass. usage: of the language model, by its ledger.

    measured: the newest close-out; command: what makes one. A close-out of another file than the branch's is none.
    """
    records, tag = records_from_journal(entries), tag_of(settings)
    tip, measured = incumbent_of(records), measured or CloseOut()
    if not (tip and measured.claimed and measured.claimed["best"] == tip.experiment):
        measured = CloseOut()
    sections = [
        f"# Run {tag}: {headline(records, measured.claimed)}",
        say_speed(fold(entries), measured.runs),
        "## The claim\n\n" + say_claim(records, measured.claimed, command),
        _template(records, settings, measured),
        _on_the_branch(records),
        _near_misses(records),
        _failures(records),
        _model(entries, records, usage or Usage()),
        "## Time\n\n" + say_time(entries),
        _doubts(entries, records),
        "## How it was measured\n\n" + _measured(entries, settings),
        _check_out(records, tag),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _measured(entries: Sequence[dict], settings: object) -> str:
    facts = plain_settings(settings)
    words = [
        f"profile {facts['profile']}" if facts["profile"] else "",
        f"{facts['budget_seconds']:g} s of training each" if facts["budget_seconds"] else "",
        str(facts["device"] or ""),
        f"torch {facts['torch']}" if facts["torch"] else "",
        f"data {facts['data_id']}" if facts["data_id"] else "",
    ]
    times = [entry.get("time", "") for entry in (entries[:1] + entries[-1:] if entries else [])]
    span = f"From {times[0]} to {times[-1]}." if times else "The journal is empty."
    return f"{span} Measured with {', '.join(word for word in words if word) or 'settings that are not stated'}."


def _template(records: Sequence[Record], settings: object, measured: CloseOut) -> str:
    """In a demo: how the file on the branch compares with the template that real nights begin from."""
    tip = incumbent_of(records)
    profile = settings.get("profile") if isinstance(settings, dict) else settings.profile
    began_plain = isinstance(profile, dict) and profile.get("name") == "demo" and profile.get("constants")
    if not began_plain or not tip or tip.experiment == 0:
        return ""
    began = "This demo began from a plain GPT, so that a short night has something to find; real nights begin from a stronger template."
    score, scores = (measured.claimed or {}).get("template_bpb"), measured.scores("best")
    if score is None or not scores:
        return began
    mean = sum(scores) / len(scores)
    side = "better" if mean <= score else "worse"
    return (
        f"{began} Trained once beside the claim, that template scored {score:.4f}; the file on the branch scored {mean:.4f} "
        f"({plural(len(scores), 'fresh run')}), {abs(score - mean):.4f} bpb {side}. One run of the template gives no interval."
    )


def _on_the_branch(records: Sequence[Record]) -> str:
    """What was kept during the night, with the baseline first: scores that chose it, and so are flattered."""
    base, tip = baseline_of(records), incumbent_of(records)
    if base is None:
        return ""
    sigma = latest_sigma(records)
    noise = f"sigma of one run {sigma:.4f}" if sigma else "noise not measured"
    kept = [record for record in records if record.outcome in ("kept", "simplified")]
    lines = [
        "## On the branch",
        "",
        f"Baseline: {base.val_bpb:.4f} bits per byte ({plural(base.n_runs, 'run')}, {noise}).",
    ]
    if not kept:
        return "\n".join(
            [*lines, f"Nothing was kept of {plural(len(candidates_of(records)), 'experiment')}: the baseline stands."]
        )
    name = f"experiment {tip.experiment:04d} ({quoted(tip.title)})"
    lines += [
        f"The branch is at {name}: {as_judged(records)}. A gain is over what was on the branch before.", "",
        "| experiment | idea | val_bpb | gain | runs | steps | tokens/s | cores held by others | why |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in [base, *kept]:
        cells = [
            f"{r.experiment:04d}",
            quoted(r.title, 60),
            f"{r.val_bpb:.4f}",
            signed(r.gain),
            str(r.n_runs),
            *cells_of_pace(r.pace),
        ]
        lines.append("| " + " | ".join([*cells, clean_description(r.verdict).replace("|", "/")]) + " |")
    return "\n".join(lines)


def _near_misses(records: Sequence[Record]) -> str:
    """Discards that scored lower than what they were measured against: not proven, worth another look."""
    near = [r for r in records if r.outcome == "discarded" and r.gain is not None and r.gain > 0]
    near = sorted(near, key=lambda r: -r.gain)[:NEAR_MISSES]
    if not near:
        return ""
    rows = [f"- {r.experiment:04d} {quoted(r.title, 60)}: gain {signed(r.gain)}" + _asked(r) for r in near]
    return (
        "## Near misses\n\nA lower score than what was on the branch, but not by enough to keep them.\n\n"
        + "\n".join(rows)
    )


def _asked(record: Record) -> str:
    runs = plural(record.n_runs, "run")
    return f" over {runs}" + (f", {record.threshold:.4f} was asked for" if record.threshold is not None else "")


def _failures(records: Sequence[Record]) -> str:
    """Failures grouped by status, with their commonest causes."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.outcome in ("crashed", "no result", "quarantined"):
            groups.setdefault(record.outcome if record.outcome == "quarantined" else record.status, []).append(record)
    if not groups:
        return "## Failures\n\nNone."
    lines = []
    for status, failed in sorted(groups.items(), key=lambda item: -len(item[1])):
        causes = [clean_description(r.cause or r.verdict or r.title) for r in failed]
        common = [
            f"{quoted(c, 100)}" + (f" x{causes.count(c)}" if causes.count(c) > 1 else "") for c in dict.fromkeys(causes)
        ]
        more = f", and {len(common) - 3} other causes" if len(common) > 3 else ""
        lines.append(f"- {status.replace('_', ' ')}: {len(failed)}. {', '.join(common[:3])}{more}")
    return "## Failures\n\n" + "\n".join(lines)


def _model(entries: Sequence[dict], records: Sequence[Record], usage: Usage) -> str:
    """Whose ideas came to what, and what the language model cost; nothing where none was asked."""
    proposed = [entry for entry in entries if entry.get("event") == "proposed"]
    failed = [entry for entry in proposed if entry.get("llm_failed")]
    tried, names = candidates_of(records), {}
    for entry in proposed:
        if entry.get("model") and entry["proposer"] != "tpe":
            names.setdefault(entry["proposer"], {})[quoted(entry["model"], 60)] = True
    if not (usage.requests or names or failed):
        return ""
    lines = ["## Whose ideas", ""]
    for name in dict.fromkeys(record.proposer for record in tried):
        theirs = [record.outcome for record in tried if record.proposer == name]
        kept = sum(word in ("kept", "simplified") for word in theirs)
        by = f"{name} ({', '.join(names[name])})" if name in names else name
        lines.append(f"- {by}: {plural(len(theirs), 'idea')}, {kept} kept, {theirs.count('crashed')} crashed.")
    if usage.requests:
        lines.append(f"- The language model took {usage_words(usage)}.")
    repairs = sum(bool(entry.get("attempt")) for entry in proposed)
    lines += [f"- {plural(repairs, 'failed idea')} went back to it for repair."] if repairs else []
    if failed:
        last = quoted(failed[-1]["llm_failed"], 120)
        lines.append(
            f"- {plural(len(failed), 'time')} it could not be asked, and tpe proposed instead; the last time: {last}."
        )
    return "\n".join(lines)


def _doubts(entries: Sequence[dict], records: Sequence[Record]) -> str:
    found = "\n".join(f"- {doubt}" for doubt in doubts(entries, records))
    return "## What stands in doubt\n\n" + (found or "Nothing that the journal shows.")


def _check_out(records: Sequence[Record], tag: str) -> str:
    tip = incumbent_of(records)
    if tip is None:
        return f"## Look further\n\n- All experiments: `results/{tag}/notebooks/index.html`"
    lines = [
        f"- Every experiment as a page: `results/{tag}/notebooks/index.html`",
        f"- The model on the branch and its train.py: `results/{tag}/best/`",
    ]
    if tip.commit:
        lines += [
            f"- Its code: `git show {tip.commit[:12]}:train.py`",
            f"- Continue from it: `git switch -c my-branch autoresearch/{tag}`",
            f"- What was kept, in order: `git log --oneline autoresearch/{tag}`",
            f"- Any experiment, discards and crashes too: `git show refs/experiments/{tag}/0001`",
        ]
    else:
        lines.append("- There is no git history of this run.")
    return "## Look further\n\n" + "\n".join(lines)
