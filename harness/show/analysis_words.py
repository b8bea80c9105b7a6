"""What the analysis notebook says of a run, section by section, each with how sure it is.

In: RunData. Out: Markdown. Titles are quoted as code, because they come from proposers.
"""

import functools
import math
from collections.abc import Callable, Sequence

from harness.run.noise import KNOWN_DF
from harness.show.analysis import baseline_gaps, compare_runs, curves, final_losses, keep_rate
from harness.show.frame import RunData
from harness.show.sentences import (
    SURE,
    as_judged,
    candidates_of,
    facts_in_words,
    headline,
    kept_of,
    plural,
    quoted,
    say_claim,
)
from harness.show.stage import in_flight


def in_its_unit(sentence: Callable[[RunData], str]) -> Callable[[RunData], str]:
    """A sentence on a run that names the score which the run's table has."""

    @functools.wraps(sentence)
    def said(run: RunData) -> str:
        return run.in_its_unit(sentence(run))

    return said


@in_its_unit
def say_run(run: RunData) -> str:
    """Which run this is and how far it has come."""
    flight, base = in_flight(run.entries), run.baseline
    tried = plural(len(run.records) - (base is not None), "experiment") + " decided"
    counted = f"baseline {base.val_bpb:.4f} and {tried}" if base else tried
    working = f", experiment {flight.experiment} in progress" if flight else ""
    measured, facts = "Its settings are not stated in this file.", facts_in_words(run.settings)
    if facts:
        measured = f"Measured with {', '.join(facts)}."
    text = f"Run **{quoted(run.tag)}**: {counted}{working}. {measured}"
    if run.metric == "val_bpb":
        return text
    better = "more" if run.higher_is_better else "less"
    return f"{text} Its scores are {quoted(run.metric)}, of which {better} is better."


@in_its_unit
def say_progress(run: RunData) -> str:
    """What may be said of the file on the branch, and the scores it was kept with."""
    base, tip, tried = run.baseline, run.best, candidates_of(run.records)
    if base is None or not tried:
        return headline(run.records) + "."
    if tip.experiment == base.experiment:
        said = "Nothing was scored, so this says nothing about the ideas."
        if any(record.val_bpb for record in tried):
            said = "These ideas do not help here, or by less than the noise can show."
        return f"{headline(run.records)}. {said}"
    claim = say_claim(run.records, run.claimed, run.claim_command)
    name = f"Experiment {tip.experiment:04d} ({quoted(tip.title)})"
    return f"{claim} {name}: {as_judged(run.records)}."


def say_outcomes(run: RunData) -> str:
    """How often a candidate was kept, with an interval, and what failed most."""
    rate = keep_rate(run)
    if not rate["candidates"]:
        return "Nothing has been tried against the baseline yet."
    crashed = sum(record.outcome == "crashed" for record in run.records)
    tries, were = plural(rate["candidates"], "candidate"), "was" if rate["kept"] == 1 else "were"
    text = (
        f"{rate['kept']} of {tries} {were} kept, {rate['rate']:.0%}; after so many tries the "
        f"long-run rate lies between {rate['low']:.0%} and {rate['high']:.0%} with 95% confidence."
    )
    if not crashed:
        return text
    return f"{text} {plural(crashed, 'experiment')} crashed ({crashed / rate['candidates']:.0%})."


@in_its_unit
def say_gains(run: RunData) -> str:
    """How much of the gains the largest keeps carry, and how many are small against the noise."""
    kept = [record for record in kept_of(run.records) if record.gain is not None]
    if not kept:
        return "Nothing was kept, so there is no list of gains."
    judged = [record for record in kept if record.outcome == "kept"]
    if not judged:
        return (
            "Nothing was kept for its gain: what was kept is simpler, and its difference is within "
            "the noise."
        )
    known = [r for r in judged if r.noise_of_gain and (r.df or 0) >= KNOWN_DF]
    small = sum(record.gain < SURE * record.noise_of_gain for record in known)
    if not known:
        luck = "Too little is known of the noise to say how much of that is luck."
    elif small:
        luck = (
            f"{small} kept for their gain gained less than two standard deviations: levels are "
            "loose during a night."
        )
    else:
        luck = "Each kept for its gain gained at least two standard deviations of its difference."
    return f"{_sum_of_gains([record.gain for record in kept])} {luck}"


def _sum_of_gains(gains: Sequence[float]) -> str:
    largest = sorted((gain for gain in gains if gain > 0), reverse=True)
    total, carried = sum(largest), 0
    if len(gains) == 1:
        return f"The one keep gained {total:.4f} bits per byte, as judged."
    while carried < len(largest) and sum(largest[:carried]) < 0.8 * total:
        carried += 1
    many = f"The largest {carried} keeps of {len(gains)} carry"
    most = f"The largest keep of {len(gains)} carries" if carried == 1 else many
    return f"{most} 80% or more of the summed gain of {total:.4f} bits per byte, as judged."


@in_its_unit
def say_curves(run: RunData) -> str:
    """Whether the file on the branch is ahead in training loss too, and since when."""
    base, best = run.baseline, run.best
    if base is None or best.experiment == base.experiment:
        return "Nothing was kept that could be compared with the baseline."
    ours, theirs = curves(run, best.experiment), curves(run, base.experiment)
    if ours.empty or theirs.empty:
        return "The training curves of the two are not both on disk."
    ours_end, base_end = final_losses(ours), final_losses(theirs)
    if ours_end.empty or base_end.empty:
        return "Not both trainings logged their last tenth, so their ends cannot be compared."
    lead, spread = base_end.mean() - ours_end.mean(), base_end.std()
    of_seeds = f"; the baseline's own seeds spread by {spread:.3f} (one standard deviation)"
    return (
        "In its last tenth the training loss of the file on the branch is "
        f"{abs(lead):.3f} nats per token {'below' if lead >= 0 else 'above'} the baseline's"
        f"{of_seeds if math.isfinite(spread) else ''}. Training loss is noisier than val_bpb and "
        "decides nothing: it shows when a difference arises."
    )


def say_memory(run: RunData) -> str:
    """What the file on the branch takes of memory."""
    base, best = run.baseline, run.best
    if base is None or base.memory_gb is None or best.memory_gb is None:
        return "There are no memory figures to compare."
    if best.experiment == base.experiment:
        return f"The baseline uses {base.memory_gb:.1f} GB at its peak."
    change = best.memory_gb / base.memory_gb - 1
    return (
        f"The file on the branch uses {best.memory_gb:.1f} GB at its peak, the baseline "
        f"{base.memory_gb:.1f} GB ({change:+z.0%}). One figure each, not a mean over seeds: read "
        "nothing into a few percent."
    )


def say_overlay(runs: Sequence[RunData]) -> str:
    """Whether the runs drawn together may be compared at all."""
    runs = [run for run in runs if run.baseline]
    if len(runs) < 2:
        return "Only one run is drawn; name others in `compare` to overlay them."
    warnings = compare_runs(runs)
    if warnings:
        return "**These runs must not be compared by score**: " + "; ".join(warnings) + "."
    same = "The runs state the same data, budget, profile, hardware and harness"
    if gaps := baseline_gaps(runs):
        apart = f"their baselines, one file, differ by at most {max(gap[0] for gap in gaps):.4f}"
        return f"{same}, and {apart}, no more than chance gives: their scores compare."
    return (
        f"{same}. No two have a baseline of the same file and a known noise, so whether the "
        "machine was the same, too, cannot be told."
    )
