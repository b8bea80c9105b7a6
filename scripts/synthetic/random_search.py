"""Random search, to compare proposers with: constants of a train.py drawn anew.

In: a request as proposers get it. Out: a Proposal whose file is new and obeys the rules of
`harness.search.limits`, as the keyless proposer's do.
"""

import random
from typing import Any

from harness.search.constants import Constant, constant_values, parse_constants, rewrite_constants
from harness.search.gate import source_hash
from harness.search.limits import reasons_against
from harness.search.proposal import Proposal
from harness.search.response_model import place, value_at
from synthetic.landscape import LIMITS


def random_everywhere(request: dict) -> Proposal:
    """Textbook random search: every constant anew, anywhere in its range."""
    return _random(request, everything=True)


def random_steps(request: dict) -> Proposal:
    """One to three constants of the incumbent anew, anywhere in their ranges: random search that
    builds on what was kept.
    """
    return _random(request)


def random_near(request: dict) -> Proposal:
    """The same within a seventh of the range to either side: about where tpe draws, so the part of
    tpe that is not learning.
    """
    return _random(request, reach=0.15)


def _random(request: dict, everything: bool = False, reach: float = 1.0) -> Proposal:
    """A candidate that obeys the same rules of `limits` as tpe's, and is new."""
    rng = random.Random(f"{request['run_seed']} {request['experiment']}")
    source = request["parent_train_py"]
    space = {
        name: constant for name, constant in parse_constants(source).items() if constant.searched
    }
    tried = {row["sha256"] for row in request["history"]}
    while True:
        names = (
            list(space) if everything else rng.sample(sorted(space), rng.choice((1, 1, 2, 2, 3)))
        )
        values = {name: _draw(space[name], reach, rng) for name in names}
        candidate = rewrite_constants(source, values)
        if source_hash(candidate) not in tried and not reasons_against(
            constant_values(candidate), LIMITS
        ):
            return Proposal(candidate, "random", "", "tune")


def _draw(constant: Constant, reach: float, rng: random.Random) -> Any:
    """A value whose place in the constant's range is at most reach away from the present one."""
    here = place(constant, constant.value)
    return value_at(constant, rng.uniform(max(0.0, here - reach), min(1.0, here + reach)))
