"""Runs the tasks of one part of gpu_check; what fails, hangs or dies takes nothing with it.

A part is a module with `run(task, settings) -> dict`. Its tasks run one after the other in a child
process, which notes start and result of each in a file of lines; when it dies or one task takes too
long, the next child goes on with the tasks that are left. An exception fails its task alone, except
a fault of CUDA itself, after which a process is of no more use. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from gpu.settings import Settings, load_settings
from harness.ground.parent import die_with_parent

Rows = dict[str, dict]  # task -> what it measured, or {"failed": reason}
LEAST_SECONDS = 3.0  # less is not enough to start a child


def run_part(
    module: str, tasks: Sequence[str], settings: Settings, deadline: float, task_seconds: float
) -> Rows:
    """Run all tasks, or as many as there is time for; return a row for every one.

    deadline: of time.monotonic.
    """
    rows: Rows = {}
    while left := [task for task in tasks if task not in rows]:
        if deadline - time.monotonic() < LEAST_SECONDS:
            return rows | {task: {"failed": "not run: the time was over"} for task in left}
        run_child(module, left, settings, deadline, task_seconds * settings.patience, rows)
    return rows


def run_child(
    module: str,
    tasks: list[str],
    settings: Settings,
    deadline: float,
    task_seconds: float,
    rows: Rows,
) -> None:
    """Run one child on `tasks` until it ends or is overdue.

    Adds a row for each task that it began, or for all if it began none.
    """
    settings_path, lines_path, log_path = (
        settings.folder / f"{module}{end}" for end in (".json", ".jsonl", ".log")
    )
    settings.save(settings_path)
    lines_path.write_text("", encoding="utf-8")
    command = [
        sys.executable,
        "-P",
        "-m",
        "gpu.parts",
        module,
        str(settings_path),
        str(lines_path),
        str(os.getpid()),
        *tasks,
    ]
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=settings.child_environment(),
            start_new_session=True,
        )
    reason, current, since = "", None, time.monotonic()
    try:
        while child.poll() is None and not reason:
            time.sleep(0.1)
            begun = read_lines(lines_path, rows)
            if begun != current:
                current, since = begun, time.monotonic()
            if time.monotonic() > deadline:
                reason = "stopped: the time was over"
            elif time.monotonic() - since > task_seconds:
                reason = f"stopped: it took longer than {task_seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # the group: compile workers outlive their parent
        child.wait()
    begun = read_lines(lines_path, rows)
    reason = reason or f"the process ended with status {child.returncode}: {last_line(log_path)}"
    for task in [begun] if begun else [task for task in tasks if not set(tasks) & rows.keys()]:
        rows[task] = {"failed": reason}


def read_lines(path: Path, rows: Rows) -> str | None:
    """Add finished rows; return the task that was begun and is not finished."""
    begun = None
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a line half written
            entry = json.loads(line)
            begun = entry["task"] if entry["row"] is None else None
            if entry["row"] is not None:
                rows[entry["task"]] = entry["row"]
    return begun


def last_line(path: Path) -> str:
    lines = path.read_bytes()[-20_000:].decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def child_main() -> None:
    """The child: argv is module, settings file, lines file, parent's process id, tasks."""
    module, settings_path, lines_path, parent, *tasks = sys.argv[1:]
    die_with_parent(int(parent))
    settings = load_settings(Path(settings_path))
    part = importlib.import_module(module)
    with open(lines_path, "a", encoding="utf-8") as lines:
        for task in tasks:
            write_line(lines, task, None)
            started = time.monotonic()
            try:
                row = part.run(task, settings)
            except Exception as error:
                traceback.print_exc()
                row = {
                    "failed": (
                        f"{type(error).__name__}:"
                        f" {(str(error).strip().splitlines() or [''])[0][:300]}"
                    )
                }
            write_line(lines, task, {"seconds": round(time.monotonic() - started, 2)} | row)
            if "CUDA error" in row.get("failed", "") or "AcceleratorError" in row.get("failed", ""):
                sys.exit(1)  # every further call in this process would fail with the same


def write_line(lines, task: str, row: dict | None) -> None:
    lines.write(json.dumps({"task": task, "row": row}) + "\n")
    lines.flush()


if __name__ == "__main__":
    child_main()
