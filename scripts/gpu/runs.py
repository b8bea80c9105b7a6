"""Parts `start-up` and `evaluation`: the whole template as a run of its own, and its score.

The training is started as the runner starts it, `python -m harness.training.launch`, with a request
file and a pipe for events; the runner itself needs psutil, which a bare machine lacks. The scoring
is the harness's: `score_model` with its model server in another process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import save_model

from gpu.corpus import open_eval
from gpu.settings import Settings, template_text
from gpu.training import make_request, weights_for
from harness.scoring.channel import Launch, ScoreError
from harness.scoring.scorer import ServerJob, score_model
from harness.training.devices import detect_device
from harness.training.session import EVENTS_VARIABLE, RUN_VARIABLE, WEIGHTS_NAME

START_TASKS = ("cold", "warm")
CACHE = "startup_cache"  # of compiled code: these runs' own


def run(task: str, settings: Settings) -> dict:
    """Run `cold` (an empty compile cache), `warm` (the one that it left) or an evaluation size."""
    if task not in START_TASKS:
        return evaluate(task, settings)
    if task == "cold":
        shutil.rmtree(settings.folder / CACHE, ignore_errors=True)
    return train_run(task, settings)


def train_run(task: str, settings: Settings) -> dict:
    """Train at the default shape in a fresh process; return seconds of each stage.

    They count from the launch on.
    """
    folder = settings.folder / task
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    device = detect_device(settings.device)
    train_py, request, log_path = folder / "train.py", folder / "run.json", folder / "run.log"
    train_py.write_text(template_text(settings.shapes["default"]), encoding="utf-8")
    request.write_text(
        json.dumps(make_request(settings, device) | {"budget_seconds": settings.startup_seconds}),
        encoding="utf-8",
    )
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.training.launch", str(train_py), str(os.getpid())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            env=settings.child_environment(CACHE)
            | {RUN_VARIABLE: str(request), EVENTS_VARIABLE: str(theirs.fileno())},
        )
    theirs.close()
    times, events = {}, {}
    # Ends with the process: this part's time limit is the one above us.
    with ours, ours.makefile("rb") as channel:
        for line in channel:
            event = json.loads(line)
            times[event["event"]] = time.monotonic() - started
            events[event["event"]] = event
            # The rows come with the clock, as the runner hands them over.
            if event["event"] == "ready":
                with open(settings.train_dir / "rows.bin", "rb") as rows:
                    socket.send_fds(ours, [b"r"], [rows.fileno()])
    process.wait()
    times["ended"] = time.monotonic() - started
    if process.returncode or "finish" not in events:
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        cause = events.get("failed", {}).get("cause") or (
            lines[-1] if lines else f"exit status {process.returncode}"
        )
        return {"failed": cause[:300]}
    finish, chosen = events["finish"], events["open"].get("attention", {})
    return {
        "to_open": times["open"],
        "to_ready": times["ready"],
        "training": times["stop"] - times["ready"],
        "to_end": times["ended"],
        "num_steps": finish["num_steps"],
        "tok_per_sec": finish["tok_per_sec"],
        "attention": chosen,
        "last_loss": events.get("step", {}).get("train_loss"),
    }


def evaluate(name: str, settings: Settings) -> dict:
    """Score the weights of the latest start-up run, or untrained ones where both failed."""
    folder = next(
        (
            settings.folder / task
            for task in reversed(START_TASKS)
            if (settings.folder / task / WEIGHTS_NAME).is_file()
        ),
        None,
    )
    data, device = open_eval(settings, name), detect_device(settings.device)
    note = "trained for a few seconds" if folder else "untrained"
    folder = folder or untrained(settings, data.n_vocab)
    launch = Launch(settings.child_environment())
    paths = (folder / "train.py", folder / WEIGHTS_NAME)
    try:
        score = score_model(
            data, ServerJob(*paths, device.kind, device.dtype, None, launch, folder, 600)
        )
    except ScoreError as error:
        return {"failed": f"{error.status}: {error.cause}"}
    return {
        "tokens": score.scored_tokens,
        "scoring_seconds": score.seconds,
        "val_bpb": score.val_bpb,
        "weights": note,
    }


def untrained(settings: Settings, n_vocab: int) -> Path:
    """A folder with the template at the default shape and its weights before training."""
    folder = settings.folder / "untrained"
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(template_text(settings.shapes["default"]), encoding="utf-8")
    save_model(
        weights_for(folder / "train.py", n_vocab, settings.max_seq_len), str(folder / WEIGHTS_NAME)
    )
    return folder
