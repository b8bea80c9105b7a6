"""What the bank's ideas were worth where they were measured: on CPUs, in trainings of 60 s.

In: measured.json, which `scripts/bank_evidence.py table --write` makes from its trainings. Out:
gains in bpb, positive is better, with one standard error. On cards nothing was measured.

    plain   the idea alone in a plain GPT
    strong  the idea in the template that nights begin with; of what is in there already, what the
            template loses without it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from harness.search.gain import UNKNOWN, Gain

FILE = Path(__file__).with_name("measured.json")
FILES = ("plain", "strong")


@cache
def measured() -> Mapping[str, Mapping[str, Gain]]:
    """The gains by idea and file, as far as they were measured."""
    ideas = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        idea: {file: Gain(**gain) for file, gain in files.items()} for idea, files in ideas.items()
    }


def worth(idea_id: str) -> Gain:
    """What an idea is worth beside all that the template has; alone, where only that is known."""
    files = measured().get(idea_id, {})
    return next((files[file] for file in reversed(FILES) if file in files), UNKNOWN)


def largest_clear_gain(idea_id: str) -> float:
    """Its largest gain beyond chance, 0 where there is none."""
    return max((gain.clear for gain in measured().get(idea_id, {}).values()), default=0.0)
