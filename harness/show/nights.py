"""Nights side by side: what each found per hour and per training, and who had the ideas that held.

In: runs, or tables of others. Out: Markdown. All is taken from journals and claims; what a table
does not tell stays empty. A gain is a claim's, on fresh seeds, where the night made one; gains as
judged are larger than true ones, since what is kept was chosen for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.ground.text import plain_words
from harness.show.analysis import compare_runs
from harness.show.costs import run_usage
from harness.show.frame import RunData
from harness.show.sentences import candidates_of, kept_of

NIGHT = ("run", "machine", "budget", "ideas by", "hours", "experiments", "trainings", "kept")
NIGHT += ("claim (95%)", "as judged", "an hour", "100 trainings", "cost of 0.001 bpb")
GROUP = ("experiments", "kept", "crashed", "looked at again", "kept of these", "mean gain")


def compare_nights(runs: Sequence[RunData]) -> str:
    """Return all tables, and before them in what the runs are unlike."""
    parts = ["# Nights side by side"]
    if warnings := compare_runs(runs):
        parts.append("\n".join(f"- **not alike**: {warning}" for warning in warnings))
    parts.append(_table(NIGHT, map(_night, runs)))
    for heading, field in (("who had the idea", "proposer"), ("kind of idea", "category")):
        rows = list(_groups(runs, field))
        if rows:
            parts.append(f"## By {heading}\n\n{_table(('run', heading, *GROUP), rows)}")
    parts.append(
        "The claim is measured on fresh seeds; *as judged* adds up what keeps gained when they "
        "were decided, which overstates. *An hour* and *100 trainings* are of the claim, 0 where "
        "nothing was kept."
    )
    return "\n\n".join(parts) + "\n"


def _night(run: RunData) -> list[str]:
    candidates, kept = candidates_of(run.records), kept_of(run.records)
    gain = claimed_gain(run)
    minutes = [record.minutes for record in run.records if record.minutes is not None]
    hours = max(minutes, default=0.0) / 60
    trainings = trainings_of(run)
    device = run.settings.get("device", {}).get("name", "")
    budget = run.settings.get("profile", {}).get("budget_seconds")
    judged = [record.gain for record in kept if record.gain is not None]
    return [
        run.tag,
        device,
        f"{budget:g} s" if budget else "",
        ", ".join(sorted({record.proposer for record in candidates if record.proposer})),
        f"{hours:.1f}" if hours else "",
        str(len(candidates)),
        str(trainings),
        _share(len(kept), len(candidates)),
        _claim_words(run),
        f"{sum(judged):+z.4f}" if judged else "",
        f"{gain / hours:+z.4f}" if gain is not None and hours else "",
        f"{100 * gain / trainings:+z.4f}" if gain is not None and trainings else "",
        _cost(run, gain),
    ]


def trainings_of(run: RunData) -> int:
    """Return how many trainings a run made, the baseline's among them; of a table, its scores."""
    started = [entry for entry in run.entries if entry["event"] == "run_started"]
    made = sum(entry.get("kind") != "smoke" for entry in started)
    return made or sum(record.n_runs for record in run.records)


def claimed_gain(run: RunData) -> float | None:
    """Return what the claim gives, bpb; 0 where nothing was kept, None where nothing is claimed."""
    if run.claimed and run.claimed["status"] == "ok":
        return run.claimed["val"]["difference"]
    return None if kept_of(run.records) or run.folder is None or not run.records else 0.0


def _claim_words(run: RunData) -> str:
    if not run.claimed or run.claimed["status"] != "ok":
        return ""
    return "{difference:+z.4f} ({low:+z.4f} to {high:+z.4f})".format(**run.claimed["val"])


def _cost(run: RunData, gain: float | None) -> str:
    """Dollars, else tokens, that the language model took for each thousandth of the claim."""
    usage = run_usage(run.folder) if run.folder else None
    if usage is None or not usage.requests or not gain or gain <= 0:
        return ""
    if usage.cost_usd is not None:
        return f"{usage.cost_usd * 0.001 / gain:.4f} USD"
    return f"{usage.tokens * 0.001 / gain:,.0f} tokens"


def _groups(runs: Iterable[RunData], field: str) -> Iterable[list[str]]:
    """Yield a row for each run and each word that its ideas have in a field of their records."""
    for run in runs:
        ideas = defaultdict(list)
        for record in candidates_of(run.records):
            ideas[getattr(record, field)].append(record)
        for word, own in sorted(ideas.items()):
            if not word:
                continue
            again = [record for record in own if record.n_runs > 1]
            gains = [record.gain for record in own if record.gain is not None]
            yield [
                run.tag,
                word,
                str(len(own)),
                _share(len(kept_of(own)), len(own)),
                _share(sum(record.outcome == "crashed" for record in own), len(own)),
                _share(len(again), len(own)),
                _share(len(kept_of(again)), len(again)),
                f"{sum(gains) / len(gains):+z.4f}" if gains else "",
            ]


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(plain_words, row))} |" for row in lines)
