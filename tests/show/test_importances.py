"""Importances of constants on made-up nights of which it is known what matters, beside PED-ANOVA as it comes."""

import random
import statistics

import journals
import optuna
import pytest

from harness.show.importances import LEAST_TUNED, Tuned, constant_importances, tuned_experiments

NAMES = [f"C{number:02d}" for number in range(20)]
MATTERING = NAMES[:3]
NOISE = 0.001


def night(seed: int, length: int = 40) -> list[Tuned]:
    """Tuned experiments as a night makes them: one to three constants of the best so far moved a little, what gains is kept.

    The first three constants cost up to 10 standard deviations of a run, the others nothing.
    """
    rng = random.Random(seed)
    optimum = {name: rng.uniform(0.2, 0.8) for name in MATTERING}

    def run(values: dict) -> float:
        lost = sum((values[name] - optimum[name]) ** 2 for name in MATTERING)
        return 1.5 + 100 * NOISE * lost + rng.gauss(0, NOISE)

    best, found = dict.fromkeys(NAMES, 0.5), []
    score = run(best)
    for number in range(1, length + 1):
        moved = {name: (best[name], best[name] + rng.uniform(-0.3, 0.3)) for name in rng.sample(NAMES, rng.choice((1, 2, 3)))}
        values = best | {name: new for name, (_, new) in moved.items()}
        val_bpb = run(values)
        found.append(Tuned(number, "discarded", val_bpb, score - val_bpb, moved, values))
        if score - val_bpb > 2 * NOISE:
            best, score = values, val_bpb
    return found


def as_it_comes(tuned: list[Tuned]) -> list[tuple[str, float]]:
    """PED-ANOVA of all constants' values and val_bpb."""
    study = optuna.create_study()
    space = dict.fromkeys(NAMES, optuna.distributions.FloatDistribution(-1, 2))
    study.add_trials(
        optuna.trial.create_trial(params=dict(each.constants), distributions=space, value=each.val_bpb) for each in tuned
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.15)
    return list(optuna.importance.get_param_importances(study, evaluator=evaluator).items())


def found_of(importances: list[tuple[str, float]]) -> float:
    """The share of the constants that matter which is among the first five."""
    first = [name for name, _ in importances[:5]]
    return sum(name in first for name in MATTERING) / len(MATTERING)


def test_what_matters_comes_first_where_the_usual_importance_ranks_by_chance():
    nights = [night(seed) for seed in range(20)]
    ours = statistics.fmean(found_of(constant_importances(tuned)) for tuned in nights)
    usual = statistics.fmean(found_of(as_it_comes(tuned)) for tuned in nights)
    print(f"of what matters among the first five: {ours:.2f}, as it comes {usual:.2f}, by chance 0.25")
    assert ours > 0.75 and usual < 0.4


def test_shares_add_up_and_few_experiments_say_nothing():
    tuned = night(1)
    shares = [share for _, share in constant_importances(tuned)]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True) and min(shares) >= 0
    assert len(constant_importances(tuned[:LEAST_TUNED])) > 1
    assert constant_importances(tuned[: LEAST_TUNED - 1]) == [] == constant_importances([])


def test_the_same_night_gives_the_same_importances():
    assert constant_importances(night(3)) == constant_importances(night(3))


def test_only_scored_experiments_that_changed_constants_alone_count():
    entries = journals.make_journal(40, seed=2)
    for entry in entries:
        if entry["event"] == "proposed" and entry["category"] == "tune":
            entry |= {"constants_changed": {"DEPTH": [8, 9]}, "constants": {"DEPTH": 9}}
    decided = {e["experiment"]: e for e in entries if e["event"] == "decided"}
    wanted = [n for n, e in decided.items() if e["category"] == "tune" and e["val_bpb"] is not None]
    tuned = tuned_experiments(entries)
    assert [each.experiment for each in tuned] == wanted and wanted
    assert all(each.gain == decided[each.experiment]["gain"] and each.constants == {"DEPTH": 9} for each in tuned)
    assert tuned_experiments(journals.crashes_only()) == tuned_experiments([]) == []
