"""How many rows the baseline may hold at once on this machine's card: found once, by training a few real steps, and kept for the machine.

In: a run's settings and data, the baseline's source. Out: a number of rows, or None where the constants need no limit. The file is trained
by the runner like any other, with a budget of seconds: first with as many rows as it likes, then with half of them, until it runs and leaves
some memory free. Not done on a CPU: memory is paged there, so that too much of it is seldom refused, and the rows of its profiles are few;
what does run out there is repeated with fewer rows when it happens, as on a card.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from harness.data.manifest import PreparedData
from harness.ground.files import read_json, write_json_atomic
from harness.run.settings import Settings, training_request
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover
from harness.sandbox.runner import run_training

PROBE_SECONDS = 5.0  # of training: a few steps on a card that is worth the name
HEADROOM = 0.85  # share of a card's memory: its driver, fragments, and ideas that need a little more take the rest
Trainer = Callable[[int | None], dict]  # the most rows at once -> the result of a training


def find_device_batch(
    settings: Settings, data: PreparedData, source: str, folder: Path, say: Callable[[str], None] = print
) -> int | None:
    """Return the rows that trainings of this run may hold at once; None for no limit. folder: of the run, for the trials' logs."""
    if settings.device["kind"] == "cpu":
        return None
    path = machine_file(settings, data, source)
    try:
        return read_json(path)["device_batch_limit"]
    except (FileNotFoundError, ValueError, KeyError):
        pass  # not tried yet, or half a file
    say(f"trying how many rows at a time fit into the memory of the {settings.device['name']}: once, then it is known")
    folder = folder / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(source, encoding="utf-8")
    found = search_rows(lambda limit: try_rows(settings, data, folder, limit), settings.device["memory_mb"], say)
    if found is None:
        return None
    with contextlib.suppress(OSError):  # a cache that is only lent to us for reading: the next run tries again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, facts_of(settings, data, source) | found)
    return found["device_batch_limit"]


def facts_of(settings: Settings, data: PreparedData, source: str) -> dict:
    """All that the answer depends on."""
    return {
        "format_version": 1,
        "device": settings.device["name"],
        "memory_mb": settings.device["memory_mb"],
        "torch": settings.versions["torch"],
        "train_py_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "max_seq_len": data.max_seq_len,
        "n_vocab": data.n_vocab,
        "dtype": settings.dtype,
        "compile": settings.compile,
    }


def machine_file(settings: Settings, data: PreparedData, source: str) -> Path:
    """Where the answer is kept: beside the prepared data, which is the machine's too."""
    key = hashlib.sha256(json.dumps(facts_of(settings, data, source), sort_keys=True).encode()).hexdigest()[:16]
    return Path(settings.data_folder).parent / "machine" / f"device_batch-{key}.json"


def try_rows(settings: Settings, data: PreparedData, folder: Path, limit: int | None) -> dict:
    """Train a few steps with at most `limit` rows at once; only the log stays."""
    run = folder / f"{limit or 'wish'}"
    kill_leftover(run)
    remove_tree(run)
    request = training_request(settings, data, run, folder / "train.py", settings.run_seed)
    result = run_training(dataclasses.replace(request, budget_seconds=PROBE_SECONDS, device_batch_limit=limit))
    (run / "weights.safetensors").unlink(missing_ok=True)
    remove_tree(run / "compile_cache")
    return result


def search_rows(train: Trainer, memory_mb: float, say: Callable[[str], None]) -> dict | None:
    """Halve the rows until a training runs and leaves head-room; return the limit and what was tried.

    None when a training ends in any other way, or does not say how many rows it held: there is nothing to learn from it, and the baseline,
    which comes next, will say what is wrong. One row is returned even when it is too much: there is nothing less to try.
    """
    limit, trials = None, []
    while True:
        result = train(limit)
        rows, used = result["device_batch_size"], result["memory_mb"]
        words = f"{used:,.0f} of {memory_mb:,.0f} MB" if used else f"{result['status']} {result['cause']}".strip()
        say(f"{rows or 'unknown'} rows at a time: {words}")
        if result["status"] not in ("ok", "oom") or not rows or (limit and rows > limit):
            return None
        trials.append({"rows": rows, "status": result["status"], "memory_mb": used})
        fits = result["status"] == "ok" and (not used or not memory_mb or used <= HEADROOM * memory_mb)
        if fits or rows == 1:
            return {"device_batch_limit": limit if fits else 1, "trials": trials}
        limit = rows // 2
