"""Nights side by side: what each found per hour and per training, and who had the ideas that held.

In: runs, or tables of others. Out: Markdown. All is taken from journals and claims; what a table
does not tell stays empty. A gain is a claim's, on fresh seeds, where the night made one; gains as
judged are larger than true ones, since what is kept was chosen for them.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from harness.ground.student_t import t_quantile
from harness.ground.text import plain_words
from harness.lab.close_out import read_close_out
from harness.lab.close_out_findings import CONFIRMED, findings_of
from harness.run.records import Record, time_use
from harness.run.state import fold
from harness.show.analysis import compare_runs
from harness.show.costs import run_usage
from harness.show.frame import RunData
from harness.show.sentences import candidates_of, kept_of

NIGHT = ("run", "machine", "budget", "ideas by", "hours", "at work", "experiments", "trainings")
NIGHT += ("kept", "confirmed", "claim (95%)", "as judged", "an hour", "100 trainings")
NIGHT += ("cost of 0.001 bpb", "of a confirmed change")
GROUP = ("experiments", "kept", "crashed", "looked at again", "kept of these", "confirmed")
GROUP += ("mean gain (95%)",)
ALL = "all"  # runs together
LEVEL = 0.95


def compare_nights(runs: Sequence[RunData]) -> str:
    """Return all tables, and before them in what the runs are unlike."""
    parts = ["# Nights side by side"]
    if warnings := compare_runs(runs):
        parts.append("\n".join(f"- **not alike**: {warning}" for warning in warnings))
    verdicts = [verdicts_of(run) for run in runs]
    parts.append(_table(NIGHT, map(_night, runs, verdicts)))
    for heading, name_of in (("who had the idea", whose_ideas), ("kind of idea", _kinds)):
        rows = list(_groups([*zip(runs, map(name_of, runs), verdicts, strict=True)]))
        if rows:
            parts.append(f"## By {heading}\n\n{_table(('run', heading, *GROUP), rows)}")
    parts.append(
        "The claim is measured on fresh seeds; *as judged* adds up what keeps gained when they "
        "were decided, which overstates. *At work* leaves out the hours in which a night stood "
        "still; *an hour* is of these, as *100 trainings* of the claim, 0 where nothing was kept. "
        "*Confirmed* are keeps without which the best is worse on fresh seeds, of those that were "
        "measured. A mean gain is of all ideas that got a score, as judged."
    )
    return "\n\n".join(parts) + "\n"


def _night(run: RunData, verdicts: dict[int, bool]) -> list[str]:
    candidates, kept = candidates_of(run.records), kept_of(run.records)
    gain = claimed_gain(run)
    minutes = [record.minutes for record in run.records if record.minutes is not None]
    hours = max(minutes, default=0.0) / 60
    at_work = max(0.0, hours - time_use(run.entries)["waiting"] / 3600)
    trainings = trainings_of(run)
    device = run.settings.get("device", {}).get("name", "")
    budget = run.settings.get("profile", {}).get("budget_seconds")
    judged = [record.gain for record in kept if record.gain is not None]
    confirmed = sum(verdicts.values())
    return [
        run.tag,
        device,
        f"{budget:g} s" if budget else "",
        ", ".join(sorted(set(whose_ideas(run).values()))),
        f"{hours:.1f}" if hours else "",
        f"{at_work:.1f}" if at_work else "",
        str(len(candidates)),
        str(trainings),
        _share(len(kept), len(candidates)),
        _share(confirmed, len(verdicts)),
        _claim_words(run),
        f"{sum(judged):+z.4f}" if judged else "",
        f"{gain / at_work:+z.4f}" if gain is not None and at_work else "",
        f"{100 * gain / trainings:+z.4f}" if gain is not None and trainings else "",
        _cost(run, 0.001 / gain) if gain and gain > 0 else "",
        _cost(run, 1 / confirmed) if confirmed else "",
    ]


def whose_ideas(run: RunData) -> dict[int, str]:
    """Who had each idea, by experiment: the proposer, and which language model it was."""
    models = {}
    for entry in run.entries:
        if entry["event"] == "proposed" and entry.get("proposer") == "llm":
            place = entry["experiment"], entry.get("attempt")
            models[place] = entry.get("answered_by") or entry.get("model")
    whose = {}
    for record in candidates_of(run.records):
        model = models.get((record.experiment, record.attempt))
        whose[record.experiment] = f"{record.proposer} ({model})" if model else record.proposer
    return {experiment: name for experiment, name in whose.items() if name}


def _kinds(run: RunData) -> dict[int, str]:
    return {record.experiment: record.category for record in candidates_of(run.records)}


def verdicts_of(run: RunData) -> dict[int, bool]:
    """Whether each kept change that a close-out measured is confirmed, by experiment."""
    if run.folder is None or run.best is None or not run.entries:
        return {}
    found = read_close_out(run.folder).about(run.best.experiment)
    findings = findings_of(fold(run.entries), found)
    return {
        each.experiment: each.verdict == CONFIRMED for each in findings if each.loss is not None
    }


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


def _cost(run: RunData, share: float) -> str:
    """Dollars, else tokens, that this share of what the language model took is."""
    usage = run_usage(run.folder) if run.folder else None
    if usage is None or not usage.requests:
        return ""
    if usage.cost_usd is not None:
        return f"{usage.cost_usd * share:.4f} USD"
    return f"{usage.tokens * share:,.0f} tokens"


def _groups(
    told: Sequence[tuple[RunData, dict[int, str], dict[int, bool]]],
) -> Iterator[list[str]]:
    """Yield a row for each run and name that its ideas have, then one for each name in all runs.

    told: runs, each with the names and verdicts of its experiments.
    """
    everywhere = defaultdict(list)
    for run, names, verdicts in told:
        ideas = defaultdict(list)
        for record in candidates_of(run.records):
            if name := names.get(record.experiment):
                ideas[name].append((record, verdicts.get(record.experiment)))
        for name, own in sorted(ideas.items()):
            everywhere[name] += own
            yield [run.tag, name, *_group(own)]
    for name, own in sorted(everywhere.items()) if len(told) > 1 else ():
        yield [ALL, name, *_group(own)]


def _group(ideas: Sequence[tuple[Record, bool | None]]) -> list[str]:
    """The cells of some ideas. Each with whether it is confirmed, None where that is not known."""
    records = [record for record, _ in ideas]
    verdicts = [verdict for _, verdict in ideas if verdict is not None]
    again = [record for record in records if record.n_runs > 1]
    gains = [record.gain for record in records if record.gain is not None]
    return [
        str(len(records)),
        _share(len(kept_of(records)), len(records)),
        _share(sum(record.outcome == "crashed" for record in records), len(records)),
        _share(len(again), len(records)),
        _share(len(kept_of(again)), len(again)),
        _share(sum(verdicts), len(verdicts)),
        _mean_words(gains),
    ]


def _mean_words(gains: Sequence[float]) -> str:
    """Their mean, and how sure it is where there are two or more."""
    if not gains:
        return ""
    words, df = f"{statistics.fmean(gains):+z.4f}", len(gains) - 1
    if not df:
        return words
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{words} ± {t_quantile((1 + LEVEL) / 2, df) * error:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(plain_words, row))} |" for row in lines)
