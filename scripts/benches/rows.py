"""Rows of measurements, a JSON object a line, kept so that a script may be stopped and go on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from harness import REPOSITORY
from harness.run.git_history import head_commit
from harness.training.devices import cpu_name

NOT_NOTED = "not noted"  # the machine of rows from before it was


def read_rows(path: Path) -> list[dict]:
    """The rows so far, none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def machine_of(row: dict) -> str:
    """The processor that a row was measured on: figures of different ones do not compare."""
    return row.get("machine", NOT_NOTED)


def append_row(path: Path, row: dict) -> None:
    """Add a row, with its machine, commit and date, and say it."""
    commit = (head_commit(REPOSITORY) or "")[:10]
    row |= {"machine": cpu_name(), "commit": commit, "date": time.strftime("%Y-%m-%d")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)
