"""What a run shows, in plain sentences made from its numbers, each with how sure it is: for notebooks and reports.

Nothing but the claim is called an improvement: the scores of a night chose what was kept, so luck flatters them. In:
records of experiments (and a RunData where times or curves are asked for). Out: text; titles in it are quoted as code,
because they come from proposers and are not to be trusted as Markdown. Imports only the standard library, except where
a sentence about the claim, curves or comparisons is asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.run.facts import plain_settings
from harness.run.noise import KNOWN_DF
from harness.run.records import TIME_KINDS, Record, baseline_of, incumbent_of, time_use
from harness.show.stage import in_flight

if TYPE_CHECKING:
    from harness.show.frame import RunData


SURE = 2  # standard deviations of a difference within which it may be chance


def quoted(text: object, limit: int = 80) -> str:
    """Untrusted words as Markdown code: one line, no back-quote, no bar (it would end a table's cell), cut to limit."""
    words = "".join(c for c in " ".join(str(text).split()) if c.isprintable())
    words = words.replace("`", "'").replace("|", "/")
    return f"`{words if len(words) <= limit else words[: limit - 3] + '...'}`" if words else "(no title)"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def signed(value: float | None) -> str:
    """A gain with its sign; empty when there is none."""
    return "" if value is None else f"{value:+.4f}"


def tag_of(settings: object) -> str:
    tag = settings.get("tag") if isinstance(settings, dict) else getattr(settings, "tag", None)
    return str(tag or "(no tag)")


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def latest_sigma(records: Sequence[Record]) -> float | None:
    """The newest estimate of the noise of one run, bits per byte."""
    return next((record.sigma for record in reversed(records) if record.sigma is not None), None)


def in_its_unit(sentence: Callable[[RunData], str]) -> Callable[[RunData], str]:
    """A sentence on a run that names the score which the run's table has."""

    @functools.wraps(sentence)
    def said(run: RunData) -> str:
        return run.in_its_unit(sentence(run))

    return said


def candidates_of(records: Sequence[Record]) -> list[Record]:
    """Experiments that count as tries: no baseline, nothing that a machine or a person cut short."""
    return [record for record in records if record.outcome not in ("baseline", "no result")]


def headline(records: Sequence[Record], claimed: dict | None = None) -> str:
    """What the run came to, in one sentence; the title of its chart and of its report. claimed: of the file on the branch."""
    base, tip, tried = baseline_of(records), incumbent_of(records), candidates_of(records)
    crashed = sum(record.outcome == "crashed" for record in tried)
    if base is None:
        return (
            f"{crashed} of {plural(len(tried), 'experiment')} crashed, and no baseline"
            if tried
            else "No experiment decided yet"
        )
    if not tried:
        return f"Baseline at {base.val_bpb:.4f} bits per byte; no other experiment decided yet"
    count = plural(len(tried), "experiment")
    if tip.experiment == base.experiment:
        what = f"all {count} crashed" if crashed == len(tried) else f"none of {count} was kept"
        return f"The baseline stands at {base.val_bpb:.4f} bits per byte: {what}"
    if claimed and claimed["status"] == "ok":
        return f"{count}: {_short_claim(claimed)}"
    stands = f"{count}: branch at {tip.val_bpb:.4f}, baseline {base.val_bpb:.4f}"
    return f"{stands}, and nothing can be claimed" if claimed else f"{stands}, not measured yet"


def _short_claim(claimed: dict) -> str:
    from harness.lab.close_out import verdict_of_claim

    val = claimed["val"]
    side = "better" if val["difference"] >= 0 else "worse"
    interval = f"95% interval {val['low']:+.4f} to {val['high']:+.4f}"
    return f"{abs(val['difference']):.4f} bpb {side} than the baseline on fresh seeds ({interval}): {verdict_of_claim(claimed)}"


def say_claim(records: Sequence[Record], claimed: dict | None, command: str = "") -> str:
    """What may be said of the file on the branch. command: measures it, where it was not measured yet."""
    from harness.lab.close_out import words_of_claim

    base, tip = baseline_of(records), incumbent_of(records)
    if base is None:
        return "There is no scored baseline, so nothing can be claimed."
    if tip.experiment == base.experiment:
        return "Nothing was kept, so there is nothing to claim: the baseline stands."
    if claimed:
        words = words_of_claim(claimed)
        return f"{words[:1].upper()}{words[1:]}. That is of the file on the branch alone."
    how = f": `{command}`" if command else ""
    return f"Whether experiment {tip.experiment:04d}, the file on the branch, is better than the baseline is not measured yet{how}."


def as_judged(records: Sequence[Record]) -> str:
    """The scores of branch and baseline that the night went by."""
    base, tip = baseline_of(records), incumbent_of(records)
    if base is None:
        return "There is no baseline to compare with."
    runs = f"{plural(tip.n_runs, 'run')} of it, {base.n_runs} of the baseline"
    return f"{tip.val_bpb:.4f} against the baseline's {base.val_bpb:.4f}, as judged during the night, flattered by luck ({runs})"


def hypothesis_words(expected_delta: float, gain: float | None, noise: float | None) -> tuple[str, str]:
    """Whether an expected change of val_bpb (negative is better) came true: (verdict, the figures in a sentence).

    noise: one standard deviation of the gain, None where it is not known. Held means: as expected within SURE of those, and no change at all would not be.
    """
    if gain is None:
        return "not tested", f"expected {expected_delta:+.4f} bpb, and nothing was measured"
    figures = f"expected {expected_delta:+.4f} bpb, measured {-gain:+.4f}"
    if noise is None:
        return "cannot be told", f"{figures}; too little is known of the noise of a run"
    figures += f" ± {SURE * noise:.4f} ({SURE} standard deviations)"
    as_expected, beyond_noise = abs(gain + expected_delta) <= SURE * noise, abs(gain) > SURE * noise
    if as_expected:
        return ("held", figures) if beyond_noise else ("cannot be told", f"{figures}: as much as nothing, too")
    same_side = beyond_noise and gain * expected_delta < 0
    return ("held in direction, not in size" if same_side else "did not hold"), figures


@in_its_unit
def say_run(run: RunData) -> str:
    """Which run this is and how far it has come."""
    facts, flight, base = plain_settings(run.settings), in_flight(run.entries), baseline_of(run.records)
    tried = plural(len(run.records) - (base is not None), "experiment") + " decided"
    counted = f"baseline {base.val_bpb:.4f} and {tried}" if base else tried
    parts = [
        f"Run **{quoted(run.tag)}**: {counted}" + (f", experiment {flight.experiment} in progress." if flight else ".")
    ]
    budget = facts["budget_seconds"]
    stated = [f"profile {facts['profile']}"] if facts["profile"] else []
    stated += [f"{budget:g} s of training each"] if isinstance(budget, int | float) else []
    stated += [str(facts[name]) for name in ("device", "data_id") if facts[name]]
    parts.append("Measured with " + ", ".join(stated) + "." if stated else "Its settings are not stated in this file.")
    if run.metric != "val_bpb":
        parts.append(f"Its scores are {quoted(run.metric)}, of which {'more' if run.higher_is_better else 'less'} is better.")
    return " ".join(parts)


@in_its_unit
def say_progress(run: RunData) -> str:
    """What may be said of the file on the branch, and the scores it was kept with."""
    base, tip, tried = baseline_of(run.records), incumbent_of(run.records), candidates_of(run.records)
    if base is None or not tried:
        return headline(run.records) + "."
    if tip.experiment == base.experiment:
        helped = "These ideas do not help here, or by less than the noise can show."
        nothing = "Nothing was scored, so this says nothing about the ideas."
        return f"{headline(run.records)}. {helped if any(record.val_bpb for record in tried) else nothing}"
    claim = say_claim(run.records, run.claimed, run.claim_command)
    return f"{claim} Experiment {tip.experiment:04d} ({quoted(tip.title)}): {as_judged(run.records)}."


def say_outcomes(run: RunData) -> str:
    """How often a candidate was kept, with an interval, and what failed most."""
    from harness.show.analysis import keep_rate

    rate = keep_rate(run)
    if not rate["candidates"]:
        return "Nothing has been tried against the baseline yet."
    crashed = [record for record in run.records if record.outcome == "crashed"]
    low, high, tries = f"{rate['low']:.0%}", f"{rate['high']:.0%}", plural(rate["candidates"], "candidate")
    text = f"{rate['kept']} of {tries} {'was' if rate['kept'] == 1 else 'were'} kept, {rate['rate']:.0%}; "
    text += f"after so many tries the long-run rate lies between {low} and {high} with 95% confidence."
    share = len(crashed) / rate["candidates"]
    return text + (f" {plural(len(crashed), 'experiment')} crashed ({share:.0%})." if crashed else "")


@in_its_unit
def say_gains(run: RunData) -> str:
    """How much of the night's gains, as judged, the largest keeps carry, and how many are small against the noise."""
    kept = [r for r in run.records if r.outcome in ("kept", "simplified") and r.gain is not None]
    if not kept:
        return "Nothing was kept, so there is no list of gains."
    judged = [record for record in kept if record.outcome == "kept"]
    if not judged:
        return "Nothing was kept for its gain: what was kept is simpler, and its difference is within the noise."
    gains = sorted((record.gain for record in kept if record.gain > 0), reverse=True)
    total, carried = sum(gains), 0
    while carried < len(gains) and sum(gains[:carried]) < 0.8 * total:
        carried += 1
    if len(kept) == 1:
        text = f"The one keep gained {total:.4f} bits per byte, as judged."
    else:
        most = (
            f"The largest keep of {len(kept)} carries"
            if carried == 1
            else f"The largest {carried} keeps of {len(kept)} carry"
        )
        text = f"{most} 80% or more of the summed gain of {total:.4f} bits per byte, as judged."
    known = [record for record in judged if record.noise_of_gain and (record.df or 0) >= KNOWN_DF]
    if not known:
        return text + " Too little is known of the noise to say how much of that is luck."
    small = sum(record.gain < 2 * record.noise_of_gain for record in known)
    if not small:
        return text + " Each kept for its gain gained at least two standard deviations of its own difference."
    return (
        text
        + f" {small} kept for their gain gained less than two standard deviations: levels are loose during a night."
    )


@in_its_unit
def say_curves(run: RunData) -> str:
    """Whether the file on the branch is ahead in training loss too, and since when."""
    from harness.show.analysis import curves, final_losses

    base, best = baseline_of(run.records), incumbent_of(run.records)
    if base is None or best is None or best.experiment == base.experiment:
        return "Nothing was kept that could be compared with the baseline."
    ours, theirs = curves(run, best.experiment), curves(run, base.experiment)
    if ours.empty or theirs.empty:
        return "The training curves of the two are not both on disk."
    ours_end, base_end = final_losses(ours), final_losses(theirs)
    if ours_end.empty or base_end.empty:
        return "Not both trainings logged their last tenth, so their ends cannot be compared."
    lead, spread = base_end.mean() - ours_end.mean(), base_end.std()
    side = "below" if lead >= 0 else "above"
    text = f"In its last tenth the training loss of the file on the branch is {abs(lead):.3f} nats per token {side} the baseline's"
    if math.isfinite(spread):
        text += f"; the baseline's own seeds spread by {spread:.3f} (one standard deviation)"
    return text + ". Training loss is noisier than val_bpb and decides nothing: it shows when a difference arises."


def say_memory(run: RunData) -> str:
    """What the file on the branch takes of memory."""
    base, best = baseline_of(run.records), incumbent_of(run.records)
    if base is None or best is None or base.memory_gb is None or best.memory_gb is None:
        return "There are no memory figures to compare."
    if best.experiment == base.experiment:
        return f"The baseline uses {base.memory_gb:.1f} GB at its peak."
    change = best.memory_gb / base.memory_gb - 1
    text = f"The file on the branch uses {best.memory_gb:.1f} GB at its peak, the baseline {base.memory_gb:.1f} GB ({change:+.0%})."
    return text + " One figure each, not a mean over seeds: read nothing into a few percent."


def say_time(entries: Sequence[dict]) -> str:
    """Where the wall-clock time went, measured from the times of the journal's lines."""
    seconds = time_use(entries)
    total = sum(seconds.values())
    if total <= 0:
        return "This file carries no times."
    shares = ", ".join(f"{kind} {seconds[kind] / total:.1%}" for kind in TIME_KINDS if seconds[kind] / total >= 0.0005)
    decided = max(1, sum(entry.get("event") == "decided" for entry in entries))
    text = f"{duration(total)} in all: {shares}. Overhead comes to {seconds['overhead'] / decided:.1f} s per experiment"
    return (
        text + " (everything outside training, start-up with compilation, scoring, and gaps of more than two minutes)."
    )


def say_overlay(runs: Sequence[RunData]) -> str:
    """Whether the runs drawn together may be compared at all."""
    from harness.show.analysis import compare_runs

    runs = [run for run in runs if baseline_of(run.records)]
    if len(runs) < 2:
        return "Only one run is drawn; name others in `compare` to overlay them."
    warnings = compare_runs(runs)
    if warnings:
        return "**These runs must not be compared by score**: " + "; ".join(warnings) + "."
    return (
        "The runs state the same data, budget, profile, hardware and harness, so their scores compare within the noise."
    )
