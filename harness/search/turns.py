"""Whose turn it is, and what is asked for: decided by the harness, never by the model.

In: the request (its history as plain rows) and the settings of program.md. Out: a Turn. Pure: the
same request gives the same turn. Nothing is read and nobody is asked.

Who
- `tpe`: the keyless proposer, always. Experiments 1, 4, 7, ... of its own are the bank's, the
  others are numbers, unless the bank has an untried idea whose gain was measured on this kind of
  device (see `keyless`).
- `llm`: the model, always; `hybrid`: the model for structure and TPE with the bank for the rest.
  There the model has every second experiment, and half as many after each SHARE_AFTER ideas without
  a keep, down to every eighth, so that a mediocre model does not hold a night back; a keep gives it
  half again.
- After a failure of the model (`llm_failed` in a row) the next 1, 2, 4, 8 experiments are tpe's. No
  wait follows AT_ONCE, which cost a moment and which a person may mend in the middle of a night.
- What failed before this start of the night, and what another model than the present one did, does
  not count: who starts it again may have mended that.

What the model is asked for
- The operator that was asked for least, one that brought k keeps counting 1 + k times less; ties by
  the order of OPERATORS; never the same twice in a row where there is another.
- `combine` once two near misses were not combined yet; `restart` once RESTART_AFTER results in a
  row were flat, from the best candidate that is not far behind the incumbent and not in its line.
  Numbers (`tune`) are TPE's in a hybrid.
- After FLAT results without a keep and without structure in them, a structural one is forced:
  numbers alone will not do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import Any

from harness.search.llm.failures import LASTING
from harness.search.program import ProgramSettings

OPERATORS = ("architecture", "tune", "optimizer", "combine", "schedule", "restart", "simplify")
BANK_EVERY = 3  # experiments of the keyless proposer
SHARE_AFTER = 6  # ideas of the model without a keep
LEAST_SHARE = 8  # the model has at least one experiment in so many
MOST_WAIT = 8  # experiments after a failure of the model
AT_ONCE = (*LASTING, "unreachable")  # kinds of failures that no wait follows
FLAT = 5  # results without a keep and without structure
RESTART_AFTER = 10  # results without a keep
NEAR_MISS_SIGMA = 1.0  # a loss up to this is a near miss
GOOD_SIGMA = 3.0  # a candidate as far behind the incumbent is worth a restart
UNKNOWN_SIGMA = 0.003  # bpb, where none is known

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """who: tpe or llm. operator: one of OPERATORS, for tpe tune or structural.

    why: a sentence for the notebook. parent: the experiment to change instead of the incumbent
    (restart). sources: the experiments to combine. forced: numbers alone will not do.
    """

    who: str
    operator: str
    why: str
    parent: int | None = None
    sources: tuple[int, ...] = ()
    forced: bool = False


def choose_turn(request: Mapping[str, Any], settings: ProgramSettings) -> Turn:
    """Return whose turn the request's experiment is, and with which operator."""
    rows = [row for row in request["history"] if row["experiment"] > 0]
    proposer = request["proposer"]
    if proposer == "tpe":
        return keyless_turn(request, "no language model was asked for")
    turns = [_had_its_turn(row, request) for row in rows]
    since = turns[::-1].index(True) if True in turns else len(rows) + LEAST_SHARE
    theirs = [row for row, had in zip(rows, turns, strict=True) if had]
    wait = _failure_wait(theirs)
    if since < wait:
        left = f"{wait - since} experiment{'s' * (wait - since != 1)}"
        return keyless_turn(request, f"the model failed; it is asked again in {left}")
    operators = _operators(request, settings, rows)
    if not operators:
        return keyless_turn(request, "program.md allows only numbers, and those are TPE's")
    structural = [name for name in operators if name != "tune"]
    numbers_only = not any(is_structural(row) for row in rows[-FLAT:])
    forced = _is_flat(rows, FLAT) and numbers_only and bool(structural)
    period = _period(theirs)
    if proposer == "hybrid" and not forced and since < period - 1:
        return keyless_turn(request, f"the model has one experiment in {period}")
    operator = _next_operator(structural if forced else list(operators), rows)
    why = f"{operator}: the operator that was asked for least, by its keeps"
    if forced:
        why = f"{FLAT} results without a keep and without structure: {operator} is forced"
    return Turn("llm", operator, why, forced=forced, **operators[operator])


def keyless_turn(request: Mapping[str, Any], why: str, structural: bool = False) -> Turn:
    """Return the keyless proposer's turn. structural: ask the bank even out of its turn."""
    models = sum(row.get("proposer") == "llm" for row in request["history"])
    structural = structural or (request["experiment"] - models) % BANK_EVERY == 1
    return Turn("tpe", "structural" if structural else "tune", why)


def near_misses(history: Sequence[Row]) -> list[Row]:
    """Return the discarded results that lost by no more than the noise, best first."""
    found = [
        row
        for row in history
        if row["decision"] == "discard"
        and row["gain"] is not None
        and row["gain"] >= -NEAR_MISS_SIGMA * (row["sigma"] or UNKNOWN_SIGMA)
    ]
    return sorted(found, key=lambda row: (-row["gain"], row["experiment"]))


def is_structural(row: Row) -> bool:
    """Whether an experiment changed more than numbers."""
    return row["category"] not in ("tune", "baseline")


def _next_operator(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the one of these operators that was asked for least, by its keeps."""
    asked = [row for row in rows if row["proposer"] == "llm"]
    last = asked[-1]["operator"] if asked else None

    def burden(name: str) -> tuple[float, int]:
        uses = [row for row in asked if row["operator"] == name]
        keeps = sum(row["decision"] == "keep" for row in uses)
        return len(uses) / (1 + keeps), OPERATORS.index(name)

    return min([name for name in names if name != last] or names, key=burden)


def _operators(
    request: Mapping[str, Any], settings: ProgramSettings, rows: Sequence[Row]
) -> dict[str, dict[str, Any]]:
    """Return {operator that the model may be asked for: the fields of a Turn that it sets}."""
    allowed = set(settings.allowed_categories)
    if request["proposer"] == "hybrid":
        allowed -= {"tune"}
    found: dict[str, dict[str, Any]] = {name: {} for name in OPERATORS if name in allowed}
    if allowed - {"tune"}:
        if pair := _pair(rows):
            found["combine"] = {"sources": pair}
        if _is_flat(rows, RESTART_AFTER) and (other := _other_candidate(request, rows)) is not None:
            found["restart"] = {"parent": other}
    return found


def _pair(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the best two near misses of different ideas that were not combined yet, or ()."""
    done = {tuple(row["sources"]) for row in rows if row["operator"] == "combine"}
    best = [row for row in near_misses(rows) if row["operator"] != "combine"][:6]
    for one, other in combinations(best, 2):
        pair = tuple(sorted((one["experiment"], other["experiment"])))
        if pair not in done and one["title"] != other["title"]:
            return pair
    return ()


def _other_candidate(request: Mapping[str, Any], rows: Sequence[Row]) -> int | None:
    """Return the best good experiment that was not restarted from and is not in our line.

    None where there is none. Our line: the incumbent and its ancestors.
    """
    parents = {row["experiment"]: row["parent"] for row in request["history"]}
    line, number = set(), request["parent_experiment"]
    while number is not None:
        line.add(number)
        number = parents.get(number)
    done = {row["parent"] for row in rows if row["operator"] == "restart"}
    sigma = request.get("sigma") or UNKNOWN_SIGMA
    most = request["incumbent_val_bpb"] + GOOD_SIGMA * sigma
    others = [
        row
        for row in rows
        if row["decision"] in ("keep", "discard")
        and row["val_bpb"] is not None
        and row["val_bpb"] < most
        and row.get("folder")
        and row["experiment"] not in line | done
    ]
    best = min(others, key=lambda row: (row["val_bpb"], row["experiment"]), default=None)
    return best["experiment"] if best else None


def _is_flat(rows: Sequence[Row], count: int) -> bool:
    return len(rows) >= count and not any(row["decision"] == "keep" for row in rows[-count:])


def _period(theirs: Sequence[Row]) -> int:
    """Return how many experiments the model shares one of. theirs: those that had its turn."""
    without = 0
    for row in theirs:
        if row["proposer"] == "llm":
            without = 0 if row["decision"] == "keep" else without + 1
    return min(2 * 2 ** (without // SHARE_AFTER), LEAST_SHARE)


def _had_its_turn(row: Row, request: Mapping[str, Any]) -> bool:
    """Return whether the present model was asked, in this start of the night where that failed."""
    if row["llm_failed"]:
        return row["experiment"] >= request.get("asked_since", 0)
    named = (request.get("llm") or {}).get("model")
    return row["proposer"] == "llm" and (not named or row.get("model") in (named, None))


def _failure_wait(theirs: Sequence[Row]) -> int:
    """Return how many experiments to wait after the model's failures in a row: 1, 2, 4, 8."""
    whys = [row["llm_failed"] for row in reversed(theirs)]
    failures = list(takewhile(lambda why: why and not why.startswith(AT_ONCE), whys))
    return min(2 ** (len(failures) - 1), MOST_WAIT) if failures else 0
