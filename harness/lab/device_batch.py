"""How many rows the baseline may hold at once on this machine's card: found once, by training a
few real steps, and kept for the machine.

In: who trains this run's files, the baseline's source. Out: a number of rows, or None where the
constants need no limit. The file is trained like any other, with a budget of seconds: first with as
many rows as it likes, then with half of them, until it runs and leaves some memory free. Not done
on a CPU: memory is paged there, so that too much of it is seldom refused; what does run out there
is repeated with fewer rows when it happens, as on a card.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from harness.ground.files import read_json, write_json_atomic
from harness.lab.executor import Executor
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover

PROBE_SECONDS = 5.0  # of training: a few steps on a card that is worth the name
# Share of a card's memory: its driver, fragments, and ideas that need a little more take the rest.
HEADROOM = 0.85


def find_device_batch(
    executor: Executor, source: str, say: Callable[[str], None] = print
) -> int | None:
    """Return the rows that trainings of this run may hold at once; None for no limit."""
    device = executor.settings.device
    if device["kind"] == "cpu":
        return None
    facts = facts_of(executor, source)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    machine = Path(executor.settings.data_folder).parent / "machine"  # beside the machine's data
    path = machine / f"device_batch-{key}.json"
    try:
        return read_json(path)["device_batch_limit"]
    except (FileNotFoundError, ValueError, KeyError):
        pass  # not tried yet, or half a file
    say(
        "trying how many rows at a time fit into the memory of the "
        f"{device['name']}: once, then it is known"
    )
    train_py = executor.folder / "probe" / "train.py"
    train_py.parent.mkdir(parents=True, exist_ok=True)
    train_py.write_text(source, encoding="utf-8")
    found = search_rows(lambda limit: try_rows(executor, train_py, limit), device["memory_mb"], say)
    if found is None:
        return None
    with contextlib.suppress(OSError):  # a cache only lent for reading: the next run tries again
        machine.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, facts | found)
    return found["device_batch_limit"]


def facts_of(executor: Executor, source: str) -> dict:
    """All that the answer depends on."""
    settings, data = executor.settings, executor.data
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


def try_rows(executor: Executor, train_py: Path, limit: int | None) -> dict:
    """Train a few steps with at most `limit` rows at once; only the log stays."""
    folder = train_py.parent / f"{limit or 'wish'}"
    kill_leftover(folder)
    remove_tree(folder)
    limits = {"budget_seconds": PROBE_SECONDS, "device_batch_limit": limit}
    request = executor.request(train_py, folder, executor.settings.run_seed, **limits)
    result = executor.train(request, score_follows=False)  # the memory is the training's alone
    (folder / "weights.safetensors").unlink(missing_ok=True)
    remove_tree(folder / "compile_cache")
    return result


def search_rows(
    train: Callable[[int | None], dict], memory_mb: float, say: Callable[[str], None]
) -> dict | None:
    """Halve the rows until a training runs and leaves head-room; return limit and trials.

    train: from the most rows at once to the result of a training. None when one ends in any other
    way, or does not say how many rows it held: there is nothing to learn from it, and the baseline,
    which comes next, will say what is wrong. One row is returned even when it is too much: there is
    nothing less to try.
    """
    limit, trials = None, []
    while True:
        result = train(limit)
        rows, used = result["device_batch_size"], result["memory_mb"]
        words = (
            f"{used:,.0f} of {memory_mb:,.0f} MB"
            if used
            else f"{result['status']} {result['cause']}".strip()
        )
        say(f"{rows or 'unknown'} rows at a time: {words}")
        if result["status"] not in ("ok", "oom") or not rows or (limit and rows > limit):
            return None
        trials.append({"rows": rows, "status": result["status"], "memory_mb": used})
        fits = result["status"] == "ok" and (
            not used or not memory_mb or used <= HEADROOM * memory_mb
        )
        if fits or rows == 1:
            return {"device_batch_limit": limit if fits else 1, "trials": trials}
        limit = rows // 2
