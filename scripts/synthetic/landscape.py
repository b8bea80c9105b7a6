"""A made-up response of val_bpb to train.py: what a night would have measured without training.

In: a seed and the template. Out: for any candidate's source its true val_bpb, or the status it
fails with; each run adds noise of SIGMA. Scales are those of the original's night (125 experiments
on one H100, noise about 0.0005): the optimum of the constants lies 50 sigma of one run below the
template, most of it in a handful of constants, and about a quarter of the structural ideas help.

- Every constant has an optimum of its own, near the template's value (normal, OFFSET of its range),
  and a weight (log-normal: few matter; all scaled so that POSSIBLE is there to be gained). Its
  response is quadratic in the place within its range, on the annotation's own scale. Constants that
  only some files have are drawn by name, so that one which a structural idea brings answers like
  any other.
- Neighbours in a shuffled order interact: the best value of one moves with the other.
- Too high learning rates end in nan, too much memory in oom, sizes that do not divide in a crash.
- A structure (the code without the constants' values) has a level: its parent's plus a draw of its
  own, the same whoever finds it.
"""

import ast
import hashlib
import math
import random

from harness.search.constants import Constant, parse_constants
from harness.search.limits import Limits, estimate_memory_mb, reasons_against
from harness.search.response_model import place

SIGMA = 0.001  # bpb, of one run
BASELINE = 1.5  # bpb
# Of a range: how far from its optimum the template's value is, one standard deviation.
OFFSET = 0.12
SPREAD = 1.5  # standard deviation of the logarithm of a weight
POSSIBLE = 50.0  # sigma from the template to the optimum of its constants
# Of the geometric mean of two weights, at most; below 0.5 the response stays convex.
INTERACTION = 0.45
# Of a range above its optimum, where a learning rate diverges; several of them together, twice
# that.
HOT = 0.35
# Share of the structures that help; mean gain and mean loss in sigma.
HELPFUL, HELP, HARM = 0.25, 3.0, 6.0
LIMITS = Limits(max_seq_len=256, n_vocab=2049, memory_mb=8000, device_kind="cpu")
REAL_MEMORY_MB = 4000  # nobody is told


class Landscape:
    """The truth behind one simulated night."""

    def __init__(self, seed: int, template: str) -> None:
        self.seed = seed
        # Every constant as it was when first seen: its optimum lies near that value.
        self.first = parse_constants(template)
        names = [name for name, constant in self.first.items() if constant.searched]
        self._rng("order").shuffle(names)
        self.pairs = list(zip(names, names[1:], strict=False))
        self.levels = {structure(template): 0.0}  # sigma, positive is better
        self.scale = 1.0  # of the weights
        self.scale = POSSIBLE / self._penalty(self.first)

    def run(self, source: str, parent: str) -> tuple[str, float | None]:
        """Return (status, true val_bpb or None) of a candidate made from parent."""
        constants = parse_constants(source)
        values = {name: constant.value for name, constant in constants.items()}
        self.first = {**constants, **self.first}
        if reasons_against(values, LIMITS):
            return "crash", None
        if estimate_memory_mb(values, LIMITS, 1) > REAL_MEMORY_MB:
            return "oom", None
        heat = [
            self._away(constant) for name, constant in constants.items() if name.endswith("_LR")
        ]
        if max(heat) > HOT or sum(max(0.0, share) for share in heat) > 2 * HOT:
            return "nan", None
        return "ok", BASELINE + SIGMA * (
            self._penalty(constants) - POSSIBLE - self.level(source, parent)
        )

    def level(self, source: str, parent: str) -> float:
        """Sigma by which a file's structure is better than the template's."""
        key = structure(source)
        if key not in self.levels:
            rng = self._rng(key)
            own = (
                rng.expovariate(1 / HELP) if rng.random() < HELPFUL else -rng.expovariate(1 / HARM)
            )
            self.levels[key] = self.levels[structure(parent)] + own
        return self.levels[key]

    def _penalty(self, constants: dict[str, Constant]) -> float:
        """Sigma lost to not being at the optimum."""
        away = {
            name: self._away(constant) for name, constant in constants.items() if constant.searched
        }
        total = sum(self._weight(name) * distance**2 for name, distance in away.items())
        for a, b in self.pairs:
            if a in away and b in away:
                pull = self._rng("pair", a, b).uniform(-2 * INTERACTION, 2 * INTERACTION)
                total += pull * math.sqrt(self._weight(a) * self._weight(b)) * away[a] * away[b]
        return total

    def _away(self, constant: Constant) -> float:
        """How far above its optimum a constant is, as a share of its range."""
        optimum = place(constant, self.first[constant.name].value) + self._rng(
            "optimum", constant.name
        ).gauss(0, OFFSET)
        return place(constant, constant.value) - min(max(optimum, 0.0), 1.0)

    def _weight(self, name: str) -> float:
        return self.scale * math.exp(self._rng("weight", name).gauss(0, SPREAD))

    def _rng(self, *words: str) -> random.Random:
        return random.Random(f"{self.seed} {' '.join(words)}")


def structure(source: str) -> str:
    """Hash of a file's code without comments and the values of its constants."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.isupper()
        ):
            node.value = ast.Constant(0)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
