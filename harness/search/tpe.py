"""The numbers: a small change of a few constants of the incumbent, from three sources.

They are what is known, what the night has shown, and Optuna's TPE. In: the incumbent's constants
as the program narrows them, the run's history as plain rows, the limits, a seed. Out: the names
and new values of one to three constants. The study is rebuilt from the history each time, in
memory, so the same request gives the same answer. Refused (ProposalError): when nothing untried
is left within reach.

How a point is chosen
- Every third tune tries a direction that is known to help elsewhere (KNOWN), as long as one is
  left that is new here.
- Else `response_model` judges all runs of the night together and draws a step of one to three
  constants from it.
- Where it has nothing new, one to three constants are drawn as a block, the others stay at the
  incumbent's values. TPE proposes the block's values within a trust region around the incumbent (a
  factor of two on a log scale, a few steps of an int), from the runs that lie in it. When the
  draws run out of new points the region is doubled, twice; then failures no longer count, and at
  last every value of every constant is looked through.
- A point is never proposed when it was tried, is a hair's breadth from one tried or from the
  incumbent, breaks a rule of `limits`, or is near a failure. Failures are infeasible trials of the
  study: they say where not to go, and have no score.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.ground.errors import ConstantsError, ProposalError
from harness.search.bank.directions import KNOWN
from harness.search.constants import Constant, as_written, checked_value, place, value_at
from harness.search.limits import Limits, Values, reasons_against
from harness.search.tried import LEAST_STEP, Past

DRAWS = 60  # candidates drawn before the trust region is doubled
BLOCK_DRAWS = 6  # of them from one block of constants
KNOWN_EVERY = 3  # tunes


@dataclass(frozen=True)
class Change:
    """New values of some constants, and why they are worth a run."""

    values: dict[str, Any]
    why: str


def propose_change(
    space: Mapping[str, Constant],
    values: Values,
    history: Sequence[Mapping[str, Any]],
    limits: Limits,
    seed: int,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Change:
    """Return what to change. Raises ProposalError.

    space: searched constants with their (narrowed) ranges. values: all constants of the incumbent.
    history: rows with experiment, category, status, val_bpb (None without a score), constants and
    parent, the baseline's among them. earlier: rows of other runs like this one, which say what a
    constant does and forbid nothing.
    """
    if not space:
        raise ProposalError(
            "program.md fixes or forbids every constant: free one, or allow another category"
        )
    past = Past(space, values, history, limits)
    for candidate, why in _candidates(past, earlier, seed):
        if past.accepts(candidate):
            changed = {name: new for name, new in candidate.items() if new != values[name]}
            return Change(changed, why)
    raise ProposalError(
        "no untried values of a single constant are left: widen [ranges] in program.md"
    )


def _candidates(
    past: Past, earlier: Sequence[Mapping[str, Any]], seed: int
) -> Iterator[tuple[Values, str]]:
    """Yield full sets of values and why they are worth a run, the most promising first."""
    tunes = sum(row["category"] == "tune" for row in past.history)
    if tunes % KNOWN_EVERY == 0:
        yield from _known_directions(past)
    more = f" and {len(earlier)} of earlier runs" if earlier else ""
    for candidate in _steps(past, earlier, seed):
        yield candidate, f"the best step that {len(past.runs)} scored runs{more} leave possible"
    rng = random.Random(seed)
    why = f"proposed by TPE from {len(past.runs)} scored runs, within reach of the incumbent"
    for failures in (past.failures, []):  # none ends a night: they count while there is elsewhere
        past.failures = failures
        for reach in (1.0, 2.0, 4.0):
            for candidate in _draws(past, reach, rng):
                yield candidate, why
    for candidate in _single_changes(past):
        yield candidate, "an untried value far from the incumbent; nearer ones are used up"


def _known_directions(past: Past) -> Iterator[tuple[Values, str]]:
    """Yield what the known directions that apply mean here, without values that were tried."""
    for known in KNOWN:
        constant = past.space.get(known.name)
        if constant is None or past.limits.device_kind not in known.devices:
            continue
        factor, value = known.factor, known.value
        try:
            value = _tidy(constant, value if factor is None else past.values[known.name] * factor)
        except ConstantsError:  # another scale, other choices or a narrower range than there
            continue
        if all(tried.get(known.name) != value for tried in past.tried):
            yield {**past.values, known.name: value}, known.evidence


def _steps(past: Past, earlier: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Values]:
    """Yield the most promising constants of each drawn step that can go together."""
    from harness.search.response_model import MOST_CHANGED, draw_steps  # numpy takes 0.1 s

    failed = [failure.constants for failure in past.failures]
    rows = [*earlier, *past.history]
    for step in draw_steps(past.space, past.values, rows, failed, seed):
        found = past.values
        for name, value in step:
            changed = {**found, name: _tidy(past.space[name], value)}
            if changed == found or reasons_against(changed, past.limits, proven=past.values):
                continue
            found = past.with_steps(changed)
            if sum(found[name] != past.values[name] for name in found) == MOST_CHANGED:
                break
        yield found


def _draws(past: Past, reach: float, rng: random.Random) -> Iterator[Values]:
    """Yield DRAWS sets of values; a new block of one to three constants every few draws."""
    import optuna  # here, since it takes 0.2 s that a structural proposal need not wait for

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = past.space
    for _ in range(DRAWS // BLOCK_DRAWS):
        names = rng.sample(sorted(space), min(len(space), rng.choice((1, 1, 2, 2, 3))))
        region = {name: _region(space[name], past.values[name], reach) for name in names}
        block = {name: distribution for name, distribution in region.items() if distribution}
        if not block:
            continue
        seed = rng.randrange(2**32)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=4)
        study = optuna.create_study(sampler=sampler)
        study.add_trials(list(_trials(block, past)))
        for _ in range(BLOCK_DRAWS):
            params = study.ask(fixed_distributions=block).params
            drawn = {name: _tidy(space[name], _read(space[name], params[name])) for name in block}
            yield past.with_steps({**past.values, **drawn})


def _single_changes(past: Past) -> Iterator[Values]:
    """Yield every value of each constant, a step apart, those near the incumbent first."""
    places = [i * LEAST_STEP for i in range(round(1 / LEAST_STEP) + 1)]
    for name, constant in past.space.items():
        here = place(constant, past.values[name])
        for there in sorted(places, key=lambda there: abs(there - here)):
            yield {**past.values, name: _tidy(constant, value_at(constant, there))}


def _trials(block: Mapping[str, Any], past: Past) -> Iterator[Any]:
    """Yield the past as Optuna trials: the block's constants, where all lie in the trust region."""
    import optuna

    failed = [(failure.constants, None) for failure in past.failures]
    for constants, score in [*past.runs, *failed]:
        if not all(name in constants for name in block):
            continue
        params = {name: _written(past.space[name], constants[name]) for name in block}
        if all(_contains(distribution, params[name]) for name, distribution in block.items()):
            yield optuna.trial.create_trial(
                params=params,
                distributions=dict(block),
                value=score or 0.0,  # of an infeasible trial TPE never reads the value
                constraints={"failed": 1.0 if score is None else 0.0},
            )


def _region(constant: Constant, value: Any, reach: float) -> Any:
    """Return the trust region around a value, None when it holds only one point."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if constant.scale == "choice":
        return CategoricalDistribution(constant.choices) if len(constant.choices) > 1 else None
    low, high = constant.low, constant.high
    value = min(max(value, low), high)  # a program may have narrowed the range away from it
    if constant.scale == "log":
        first, last = value / 2**reach, value * 2**reach
    else:
        if constant.scale == "linear":
            step = 0.15 * reach * (high - low)
        elif constant.scale == "pow2":
            step = round(reach)
            low, value, high = (_written(constant, number) for number in (low, value, high))
        else:
            step = round(2 * reach)
        first, last = value - step, value + step
    first, last = max(low, first), min(high, last)
    if constant.is_int:
        first, last = math.ceil(first), math.floor(last)
    if not first < last:
        return None
    distribution = IntDistribution if constant.is_int else FloatDistribution
    return distribution(first, last, log=constant.scale == "log")


def _written(constant: Constant, value: Any) -> Any:
    """Return a constant's value as the study sees it: a power of two by its exponent."""
    return int(value).bit_length() - 1 if constant.scale == "pow2" else as_written(value)


def _read(constant: Constant, value: Any) -> Any:
    return 2**value if constant.scale == "pow2" else value


def _contains(distribution: Any, value: Any) -> bool:
    choices = getattr(distribution, "choices", None)
    return value in choices if choices else distribution.low <= value <= distribution.high


def _tidy(constant: Constant, value: Any) -> Any:
    """Return a value as a person would write it. Raises ConstantsError when it cannot stand.

    Of a float two digits on a log scale, about a hundredth of the range on a linear one.
    """
    low, high = constant.low, constant.high
    if isinstance(value, float) and constant.scale in ("log", "linear") and not constant.is_int:
        if constant.scale == "log":
            value = float(f"{value:.2g}")
        else:
            digits = -math.floor(math.log10((high - low) / 50)) if high > low else 6
            value = round(value, digits)
        value = min(max(value, low), high)
    return checked_value(constant, value)
