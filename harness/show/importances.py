"""Which constants mattered in a night: Optuna's PED-ANOVA over its tuned experiments.

In: a journal's entries. Out: the tuned experiments, and each constant's share in what set those
that changed the score most apart from all. Says nothing of fewer than LEAST_TUNED.

PED-ANOVA asks what the best trials have in common. Given each trial's constants and val_bpb it
finds hardly more than chance does: a night changes a few constants of one file at a time, so those
that matter have in its best trials the value that they have in nearly all. So here a trial is which
constants an experiment moved, and the best are those whose score moved the most, up or down. On
made-up nights of 40 experiments, of whose 20 constants 3 matter, 0.82 of these 3 are among the
first five, 0.35 with values and val_bpb, 0.25 by chance (tests/show/test_importances.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.ground.text import plain_words
from harness.run.records import records_from_journal
from harness.show.sentences import plural

LEAST_TUNED = 30  # about twenty constants, two or three of them moved at a time
LARGEST = 0.15  # of the experiments: whose score moved most


class Tuned(NamedTuple):
    """A scored experiment that changed constants alone.

    gain: in val_bpb over its parent. moved: (old, new) of the constants that it changed; constants:
    the values of all, {} where the journal does not say.
    """

    experiment: int
    outcome: str
    val_bpb: float
    gain: float
    moved: Mapping[str, Sequence[Any]]
    constants: Mapping[str, Any]


def tuned_experiments(entries: Sequence[dict]) -> list[Tuned]:
    """The tuned experiments of a journal, in order."""
    proposals, found = proposals_of(entries), []
    for record in records_from_journal(entries):
        proposed = proposals.get((record.experiment, record.attempt), {})
        moved, constants = proposed.get("constants_changed"), proposed.get("constants") or {}
        if record.category == "tune" and moved and None not in (record.val_bpb, record.gain):
            facts = record.experiment, record.outcome, record.val_bpb, record.gain
            found.append(Tuned(*facts, moved, constants))
    return found


def proposals_of(entries: Sequence[dict]) -> dict[tuple[int, int], dict]:
    """The `proposed` entries of a journal, by experiment and attempt."""
    proposed = (entry for entry in entries if entry.get("event") == "proposed")
    return {(entry["experiment"], entry["attempt"]): entry for entry in proposed}


def is_number(value: object) -> bool:
    """Whether a constant's value is one: no word, no switch."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def constant_importances(tuned: Sequence[Tuned]) -> list[tuple[str, float]]:
    """(constant, share), the largest first, shares adding up to 1; [] under LEAST_TUNED."""
    if len(tuned) < LEAST_TUNED:
        return []
    import optuna  # takes 0.2 s

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = sorted({name for each in tuned for name in each.moved})
    moved_or_not = optuna.distributions.CategoricalDistribution([False, True])
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        optuna.trial.create_trial(
            params={name: name in each.moved for name in names},
            distributions=dict.fromkeys(names, moved_or_not),
            value=abs(each.gain),
        )
        for each in tuned
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=LARGEST)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return sorted(shares.items(), key=lambda share: (-share[1], share[0]))


def say_constants(entries: Sequence[dict]) -> str:
    """Which constants mattered, and how sure that is."""
    tuned = tuned_experiments(entries)
    shares = constant_importances(tuned)
    if not shares:
        return (
            f"{plural(len(tuned), 'tuned experiment')} with a score. Importances are told from "
            f"{LEAST_TUNED} on: each moves only a few of about twenty constants."
        )
    first = ", ".join(f"{plain_words(name)} {share:.0%}" for name, share in shares[:5])
    return (
        f"What mattered in {len(tuned)} tuned experiments: {first}. That is rough: on made-up "
        "nights four of five constants that mattered were among the first five. Which way to move "
        "one is in the slices."
    )
