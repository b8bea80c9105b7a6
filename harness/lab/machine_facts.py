"""What was found out about this machine once, for all of its runs: machine/ beside prepared data.

In: all that an answer depends on. Out: the answer, where an earlier run has kept it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from harness.ground.files import read_json, write_json_atomic
from harness.run.settings import Settings

PROBE = "probe"  # in a run's folder: trainings with which something is found out


class MachineFact:
    """One answer, in a file that is named by what it depends on. name: such as "fit"."""

    def __init__(self, settings: Settings, name: str, facts: dict) -> None:
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.name, self.facts = name, facts
        self.path = Path(settings.data_folder).parent / "machine" / f"{name}-{key}.json"

    def read(self) -> object:
        """The answer; None where it was not found out yet, or the file is half or another's."""
        try:
            return read_json(self.path)[self.name]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, answer: object, **evidence: object) -> None:
        """Keep the answer, unless the folder is only lent for reading: then it is asked again."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.path, self.facts | {self.name: answer} | evidence)
