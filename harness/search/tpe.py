"""The numbers: a small change of a few constants of the incumbent, by what is known, by what the night has shown, and by Optuna's TPE.

In: the incumbent's constants as the program narrows them, the run's history as plain rows, the limits, a seed. Out:
the names and new values of one to three constants. The study is rebuilt from the history each time, in memory, so the
same request gives the same answer. Refused (ProposalError): when nothing untried is left within reach.

How a point is chosen
- Every third tune tries a direction that is known to help elsewhere (KNOWN), as long as one is left that is new here.
- Else `response_model` judges all runs of the night together and draws a step of one to three constants from it.
- Where it has nothing new, one to three constants are drawn as a block, the others stay at the incumbent's values. TPE proposes the
  block's values within a trust region around the incumbent (a factor of two on a log scale, a few steps of an int), from
  the runs that lie in it. When the draws run out of new points the region is doubled, twice;
  then failures no longer count, and at last every value of every constant is looked through.
- A point is never proposed when it was tried, is a hair's breadth from one tried or from the incumbent, breaks a rule
  of `limits`, or is near a failure. Failures are infeasible trials of the study: they say where not to go, and have no
  score.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError, ProposalError
from harness.search.bank.directions import KNOWN, Known
from harness.search.constants import Constant, checked_value
from harness.search.limits import Limits, reasons_against
from harness.search.tried import LEAST_STEP, Past

DRAWS = 60  # candidates drawn before the trust region is doubled
KNOWN_EVERY = 3  # tunes


@dataclass(frozen=True)
class Change:
    """New values of some constants, and why they are worth a run."""

    values: dict[str, Any]
    why: str


def propose_change(
    space: Mapping[str, Constant],
    values: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    limits: Limits,
    seed: int,
) -> Change:
    """Return what to change. Raises ProposalError.

    space: searched constants with their (narrowed) ranges. values: all constants of the incumbent. history: rows with
    experiment, category, status, val_bpb (None without a score), constants and parent, the baseline's among them.
    """
    if not space:
        raise ProposalError("program.md fixes or forbids every constant: free one, or allow another category")
    past = Past(space, values, history, limits)
    tunes = sum(row.get("category") == "tune" for row in history)
    if tunes % KNOWN_EVERY == 0:
        for known in KNOWN:
            change = _known_change(known, space, values, past)
            if change:
                return change
    for candidate in _steps(space, values, past, history, seed):
        if past.accepts(candidate):
            changed = {name: value for name, value in candidate.items() if value != values[name]}
            return Change(changed, f"the best step that {past.scored} scored runs leave possible")
    rng = random.Random(seed)
    for failures in (past.failures, []):  # they say where not to go as long as there is elsewhere: none ends a night
        past.failures = failures
        for reach in (1.0, 2.0, 4.0):
            for candidate in _draws(space, values, past, reach, rng):
                if past.accepts(candidate):
                    changed = {name: value for name, value in candidate.items() if value != values[name]}
                    why = f"proposed by TPE from {past.scored} scored runs, within reach of the incumbent"
                    return Change(changed, why)
    for name, value in _single_changes(space, values):
        if past.accepts({**values, name: value}):
            return Change({name: value}, "an untried value far from the incumbent; nearer ones are used up")
    raise ProposalError("no untried values of a single constant are left: widen [ranges] in program.md")


def _known_change(known: Known, space: Mapping[str, Constant], values: Mapping[str, Any], past: Past) -> Change | None:
    """Return the change that a known direction means here; None if it does not apply or its value was tried."""
    constant = space.get(known.name)
    if constant is None or past.limits.device_kind not in known.devices:
        return None
    value = known.value if known.factor is None else values[known.name] * known.factor
    try:
        value = checked_value(constant, _rounded(constant, value))
    except ConstantsError:  # another scale, other choices or a narrower range than where it was found
        return None
    if any(tried.get(known.name) == value for tried in past.tried) or not past.accepts({**values, known.name: value}):
        return None
    return Change({known.name: value}, known.evidence)


def _steps(
    space: Mapping[str, Constant],
    values: Mapping[str, Any],
    past: Past,
    history: Sequence[Mapping[str, Any]],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yield full sets of values with the most promising constants of each drawn step that can go together."""
    from harness.search.response_model import MOST_CHANGED, draw_steps  # here: numpy takes a tenth of a second

    failed = [constants for constants, _, _ in past.failures]
    for step in draw_steps(space, values, history, failed, seed):
        found = dict(values)
        for name, value in step:
            value = checked_value(space[name], _rounded(space[name], value))
            if value == values[name] or reasons_against({**found, name: value}, past.limits, proven=values):
                continue
            found = past.with_steps({**found, name: value})
            if sum(found[changed] != values[changed] for changed in found) == MOST_CHANGED:
                break
        yield found


def _draws(
    space: Mapping[str, Constant], values: Mapping[str, Any], past: Past, reach: float, rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield DRAWS full sets of values; a new block of one to three constants every few draws."""
    import optuna  # here, since it takes 0.2 s that a structural proposal need not wait for

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for _ in range(DRAWS // 6):
        names = rng.sample(sorted(space), min(len(space), rng.choice((1, 1, 2, 2, 3))))
        region = {name: _region(space[name], values[name], reach) for name in names}
        block = {name: distribution for name, distribution in region.items() if distribution is not None}
        if not block:
            continue
        sampler = optuna.samplers.TPESampler(seed=rng.randrange(2**32), multivariate=True, n_startup_trials=4)
        study = optuna.create_study(sampler=sampler)
        study.add_trials(list(_trials(block, past)))
        for _ in range(6):
            trial = study.ask(fixed_distributions=block)
            drawn = {name: _rounded(space[name], _read(space[name], trial.params[name])) for name in block}
            drawn = {name: checked_value(space[name], value) for name, value in drawn.items()}
            yield past.with_steps({**values, **drawn})


def _single_changes(space: Mapping[str, Constant], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every value of each constant, as finely as counts for a step, those near the incumbent first."""
    from harness.search.response_model import place, value_at

    for name, constant in space.items():
        here = place(constant, values[name])
        places = sorted((i * LEAST_STEP for i in range(round(1 / LEAST_STEP) + 1)), key=lambda there: abs(there - here))
        for there in places:
            yield name, checked_value(constant, _rounded(constant, value_at(constant, there)))


def _trials(block: Mapping[str, Any], past: Past) -> Iterator[Any]:
    """Yield the past as Optuna trials in the block's constants: those whose values all lie in the trust region."""
    import optuna

    failed = [(constants, None) for constants, _, _ in past.failures]
    for constants, score in [*past.runs, *failed]:
        if not all(name in constants for name in block):
            continue
        params = {name: _written(past.space[name], constants[name]) for name in block}
        if all(_contains(distribution, params[name]) for name, distribution in block.items()):
            yield optuna.trial.create_trial(
                params=params,
                distributions=dict(block),
                value=0.0 if score is None else score,  # of an infeasible trial TPE never reads the value
                constraints={"failed": 1.0 if score is None else 0.0},
            )


def _region(constant: Constant, value: Any, reach: float) -> Any:
    """Return the trust region around a value as an Optuna distribution, None when it holds only one point."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if constant.scale == "choice":
        return CategoricalDistribution(constant.choices) if len(constant.choices) > 1 else None
    low, high = constant.low, constant.high
    value = min(max(value, low), high)  # a program may have narrowed the range away from the incumbent
    if constant.scale == "pow2":
        exponent, steps = value.bit_length() - 1, round(reach)
        bounds = max(low.bit_length() - 1, exponent - steps), min(high.bit_length() - 1, exponent + steps)
    elif constant.scale == "log":
        bounds = max(low, value / 2**reach), min(high, value * 2**reach)
    elif constant.scale == "linear":
        bounds = max(low, value - 0.15 * reach * (high - low)), min(high, value + 0.15 * reach * (high - low))
    else:
        bounds = max(low, value - round(2 * reach)), min(high, value + round(2 * reach))
    if constant.is_int:
        bounds = math.ceil(bounds[0]), math.floor(bounds[1])
    if not bounds[0] < bounds[1]:
        return None
    if constant.is_int:
        return IntDistribution(*bounds, log=constant.scale == "log")
    return FloatDistribution(*bounds, log=constant.scale == "log")


def _written(constant: Constant, value: Any) -> Any:
    """Return a constant's value as the study sees it: a power of two by its exponent, a list from JSON as a tuple."""
    if constant.scale == "pow2":
        return int(value).bit_length() - 1
    return tuple(value) if isinstance(value, list) else value


def _read(constant: Constant, value: Any) -> Any:
    return 2**value if constant.scale == "pow2" else value


def _contains(distribution: Any, value: Any) -> bool:
    choices = getattr(distribution, "choices", None)
    return value in choices if choices is not None else distribution.low <= value <= distribution.high


def _rounded(constant: Constant, value: Any) -> Any:
    """Return a float as a person would write it: two digits on a log scale, about a hundredth of a linear range."""
    if not isinstance(value, float) or constant.scale == "choice" or constant.is_int:
        return value
    digits = -math.floor(math.log10((constant.high - constant.low) / 50)) if constant.high > constant.low else 6
    value = float(f"{value:.2g}") if constant.scale == "log" else round(value, digits)
    return min(max(value, constant.low), constant.high)
