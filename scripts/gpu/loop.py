"""Part `experiment`: one experiment through the whole loop, as a night would run it.

In a copy of this checkout, without git, and with folders of its own: overnight.py's command, from
preparing the library's text to the first decision, then it is stopped. Where papermill is missing,
one training and its score by hand instead, which needs BY_HAND besides torch. Out: what was done
and when, by the run's journal.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from gpu.parts import last_line
from gpu.settings import ROOT, Settings

TAG = "gpucheck"
COPIED = ("harness", "notebooks", "train_template.py", "program.md")
BY_HAND = ("psutil", "filelock")  # what the runner imports
STOP_SECONDS = 20.0
# Of a journal's entries, what a table shows.
TOLD = ("status", "cause", "startup_seconds", "compiled", "val_bpb", "decision", "reason")


def run(task: str, settings: Settings) -> dict:
    """The only task: `whole`."""
    if lacking := [name for name in BY_HAND if importlib.util.find_spec(name) is None]:
        names = " ".join(lacking)
        advice = f"pip install --target FOLDER {names}, then PYTHONPATH=FOLDER"
        return {"failed": f"{names}: not installed here. Where there is a network: {advice}"}
    folder = settings.folder / "loop"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    whole = importlib.util.find_spec("papermill") is not None
    results = ["--results", str(folder / "results"), "--tag", TAG, "--experiments", "1"]
    command = ["overnight", *results] if whole else ["train", "train_template.py"]
    command = [sys.executable, "-m", "harness", *command, *settings.loop_options]
    row = watch(command, folder, settings)
    return row | {"way": "whole loop" if whole else "by hand: papermill is not installed"}


def watch(command: list[str], folder: Path, settings: Settings) -> dict:
    """Run the command until the first experiment is decided, it ends, or its time is over."""
    log, began = folder / "loop.log", time.time()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "AUTORESEARCH_CACHE": str(folder / "cache")}
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    journal = folder / "results" / TAG / "journal.jsonl"
    reason = ""
    while process.poll() is None and not reason:
        time.sleep(0.2)
        if any(each["event"] == "committed" and each["experiment"] for each in entries_of(journal)):
            reason = "done"
        elif time.time() - began > settings.loop_seconds:
            reason = f"stopped: it took longer than {settings.loop_seconds:.0f} s"
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    events = [told(each, began) for each in entries_of(journal)]
    if reason == "done" or process.returncode == 0:
        return {"events": events, "whole_seconds": time.time() - began}
    return {"events": events, "failed": reason or f"it ended: {last_line(log)}"}


def entries_of(journal: Path) -> list[dict]:
    """All whole lines of the journal so far."""
    try:
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def told(entry: dict, began: float) -> list:
    """A journal's entry as a row: seconds, experiment, event, and the facts that matter."""
    seconds = datetime.fromisoformat(entry["time"]).timestamp() - began
    place = f"{entry.get('experiment', '')}/{entry.get('run', '')}".strip("/")
    facts = {name: entry[name] for name in TOLD if entry.get(name) not in (None, "")}
    words = ", ".join(f"{name} {value}" for name, value in facts.items())
    return [round(seconds, 1), place, entry["event"], words[:200]]
