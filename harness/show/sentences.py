"""What a run shows, in plain sentences made from its numbers, each with how sure it is.

In: records of experiments, and entries of a journal. Out: text for notebooks and reports. Nothing
but the claim is called an improvement: the scores of a night chose what was kept, so luck flatters
them. Titles are quoted as code, because they come from proposers and are not to be trusted as
Markdown. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.ground.text import one_line
from harness.lab.close_out import claim_of, verdict_of_claim, words_of_claim
from harness.run.facts import plain_settings
from harness.run.records import (
    KEPT,
    OUTCOME_WORDS,
    TIME_KINDS,
    Record,
    baseline_of,
    best_of,
    incumbent_of,
    time_use,
)

SURE = 2  # standard deviations of a difference within which it may be chance
FACT_WORDS = {
    "profile": "profile {}",
    "budget_seconds": "{:g} s of training each",
    "device": "{}",
    "torch": "torch {}",
    "data_id": "data {}",
}


def quoted(text: object, limit: int = 80) -> str:
    """Untrusted words as Markdown code: one line without back-quotes or bars, cut to limit."""
    words = one_line(text).replace("`", "'").replace("|", "/")
    if not words:
        return "(no title)"
    return f"`{words if len(words) <= limit else words[: limit - 3] + '...'}`"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def signed(value: float | None) -> str:
    """A gain with its sign; empty when there is none."""
    return "" if value is None else f"{value:+z.4f}"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def facts_in_words(settings: object, *names: str) -> list[str]:
    """What a run was measured with, as far as its settings say. names: of FACT_WORDS, or all."""
    facts = plain_settings(settings)
    return [FACT_WORDS[name].format(facts[name]) for name in names or FACT_WORDS if facts[name]]


def latest_sigma(records: Sequence[Record]) -> float | None:
    """The newest estimate of the noise of one run, bits per byte."""
    return next((record.sigma for record in reversed(records) if record.sigma is not None), None)


def candidates_of(records: Sequence[Record]) -> list[Record]:
    """Experiments that count as tries: no baseline, and nothing that was cut short from outside."""
    return [record for record in records if record.outcome not in ("baseline", "no result")]


def counts_in_words(records: Sequence[Record]) -> str:
    """Such as "2 kept as better, 1 crashed"."""
    counts = Counter(record.outcome for record in records)
    words = OUTCOME_WORDS.items()
    return ", ".join(f"{counts[outcome]} {word}" for outcome, word in words if outcome in counts)


def say_counts(records: Sequence[Record]) -> str:
    """How many experiments there were, and how they ended."""
    tried = candidates_of(records)
    count, ended = plural(len(tried), "experiment"), counts_in_words(tried)
    return f"{count}: {ended}" if ended else count


def say_standing(records: Sequence[Record]) -> str:
    """The three scores that matter, as all that is shown calls them. There must be a baseline."""
    base, best, tip = baseline_of(records), best_of(records), incumbent_of(records)
    return (
        f"Baseline {base.val_bpb:.4f}, best score {best.val_bpb:.4f} ({name_of(best)}), the branch "
        f"stands at {tip.val_bpb:.4f} ({name_of(tip)})"
    )


def name_of(record: Record) -> str:
    return "the baseline" if record.experiment == 0 else f"experiment {record.experiment}"


def model_words(proposed: dict) -> str:
    """The language model of a proposal, "" for none; and the one that answered in its place."""
    model, answered = proposed.get("model") or "", proposed.get("answered_by")
    return f"{model}, answered by {answered}" if answered and answered != model else model


def kept_of(records: Sequence[Record]) -> list[Record]:
    """What was kept after the baseline."""
    return [record for record in candidates_of(records) if record.outcome in KEPT]


# --- The claim and the scores of the night -------------------------------------------------------


def claim_on_branch(folder: Path, records: Sequence[Record]) -> dict | None:
    """The claim on what is on the branch now; None while that is not measured."""
    tip = incumbent_of(records)
    return claim_of(folder, tip.experiment) if tip else None


def headline(records: Sequence[Record], claimed: dict | None = None) -> str:
    """What the run came to, as a title. claimed: of the file on the branch."""
    base, tip, tried = baseline_of(records), incumbent_of(records), candidates_of(records)
    crashed = sum(record.outcome == "crashed" for record in tried)
    count = plural(len(tried), "experiment")
    if base is None and not tried:
        return "No experiment decided yet"
    if base is None:
        return f"{crashed} of {count} crashed, and no baseline"
    if not tried:
        return f"Baseline at {base.val_bpb:.4f} bits per byte; no other experiment decided yet"
    if tip.experiment == base.experiment:
        what = f"all {count} crashed" if crashed == len(tried) else f"none of {count} was kept"
        return f"The branch stands at the baseline, {base.val_bpb:.4f} bits per byte: {what}"
    if claimed and claimed["status"] == "ok":
        return f"{count}: {_short_claim(claimed)}"
    stands = f"{count}: the branch stands at {tip.val_bpb:.4f}, baseline {base.val_bpb:.4f}"
    return f"{stands}, and nothing can be claimed" if claimed else f"{stands}, not measured yet"


def _short_claim(claimed: dict) -> str:
    val = claimed["val"]
    side = "better" if val["difference"] >= 0 else "worse"
    size = f"{abs(val['difference']):.4f} bpb {side} than the baseline on fresh seeds"
    interval = f"95% interval {val['low']:+z.4f} to {val['high']:+z.4f}"
    return f"{size} ({interval}): {verdict_of_claim(claimed)}"


def say_claim(records: Sequence[Record], claimed: dict | None, command: str = "") -> str:
    """What may be said of the file on the branch. command: what measures it."""
    base, tip = baseline_of(records), incumbent_of(records)
    if base is None:
        return "There is no scored baseline, so nothing can be claimed."
    if tip.experiment == base.experiment:
        return "Nothing was kept, so there is nothing to claim: the baseline stands."
    if claimed:
        words = words_of_claim(claimed)
        return f"{words[:1].upper()}{words[1:]}. That is of the file on the branch alone."
    file = f"experiment {tip.experiment:04d}, the file on the branch,"
    how = f": `{command}`" if command else ""
    return f"Whether {file} is better than the baseline is not measured yet{how}."


def as_judged(records: Sequence[Record]) -> str:
    """The scores of branch and baseline that the night went by."""
    base, tip = baseline_of(records), incumbent_of(records)
    runs = f"{plural(tip.n_runs, 'run')} of it, {base.n_runs} of the baseline"
    scores = f"{tip.val_bpb:.4f} against the baseline's {base.val_bpb:.4f}"
    return f"{scores}, as judged during the night, flattered by luck ({runs})"


def hypothesis_words(
    expected_delta: float, gain: float | None, noise: float | None
) -> tuple[str, str]:
    """Whether an expected change of val_bpb (negative is better) came true: (verdict, figures).

    noise: one standard deviation of the gain, None where it is not known. Held means: as expected
    within SURE of those, and no change at all would not be.
    """
    if gain is None:
        return "not tested", f"expected {expected_delta:+z.4f} bpb, and nothing was measured"
    figures = f"expected {expected_delta:+z.4f} bpb, measured {-gain:+z.4f}"
    if noise is None:
        return "cannot be told", f"{figures}; too little is known of the noise of a run"
    figures += f" ± {SURE * noise:.4f} ({SURE} standard deviations)"
    as_expected = abs(gain + expected_delta) <= SURE * noise
    beyond_noise = abs(gain) > SURE * noise
    if as_expected and not beyond_noise:
        return "cannot be told", f"{figures}: as much as nothing, too"
    if as_expected:
        return "held", figures
    same_side = beyond_noise and gain * expected_delta < 0
    return ("held in direction, not in size" if same_side else "did not hold"), figures


def say_time(entries: Sequence[dict]) -> str:
    """Where the wall-clock time went, measured from the times of the journal's lines."""
    seconds = time_use(entries)
    total = sum(seconds.values())
    if total <= 0:
        return "This file carries no times."
    shares = {kind: seconds[kind] / total for kind in TIME_KINDS}
    listed = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items() if share >= 0.0005)
    decided = max(1, sum(entry.get("event") == "decided" for entry in entries))
    return (
        f"{duration(total)} in all: {listed}. Overhead comes to "
        f"{seconds['overhead'] / decided:.1f} s per experiment (everything outside training, "
        "start-up with compilation, scoring, and gaps of more than two minutes)."
    )
