"""How many rows a file may hold at once in a card's memory, found by training a few real steps.

In: an executor, the file, and how it is trained. Out: a number of rows, or None where the file's
own number fits. It is tried with its own number of rows, then with half of them, until it runs and
leaves some memory free.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.lab.executor import Executor
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import kill_leftover

PROBE_SECONDS = 5.0  # of training: a few steps on a card that is worth the name
# Share of a card's memory: its driver, fragments, and ideas that need a little more take the rest.
HEADROOM = 0.85


def try_rows(executor: Executor, train_py: Path, how: dict, limit: int | None) -> dict:
    """Train a few steps with at most `limit` rows at once; only the log stays.

    how: of the request, what is not as the settings say.
    """
    rung = f"{'compiled' if how['compile'] else 'eager'}{'-plain' * bool(how['attention'])}"
    folder = train_py.parent / rung / f"{limit or 'wish'}"
    kill_leftover(folder)
    remove_tree(folder)
    limits = how | {"budget_seconds": PROBE_SECONDS, "device_batch_limit": limit}
    limits |= {"compile_cache": None}  # the baseline's first start-up is what cold ones are held to
    request = executor.request(train_py, folder, executor.settings.run_seed, **limits)
    result = executor.train(request, score_follows=False)  # the memory is the training's alone
    (folder / "weights.safetensors").unlink(missing_ok=True)
    return result


def search_rows(
    train: Callable[[int | None], dict], memory_mb: float, say: Callable[[str], None]
) -> dict:
    """Halve the rows until a training runs and leaves head-room.

    train: from the most rows at once to the result of a training. Return the limit, the trials,
    status and attention of the last, and `failed`: how a training ended in another way than for
    want of memory, or without a word on how many rows it held; there is nothing to learn from it.
    One row is returned even when it is too much: there is nothing less to try.
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
        ended = {"trials": trials, "failed": "", "status": result["status"]}
        ended |= {"attention": result["attention"]}
        if result["status"] not in ("ok", "oom") or not rows or (limit and rows > limit):
            cause = result["cause"] or "it did not say how many rows it holds"
            return ended | {"device_batch_limit": None, "failed": f"{result['status']}: {cause}"}
        trials.append({"rows": rows, "status": result["status"], "memory_mb": used})
        fits = result["status"] == "ok" and (
            not used or not memory_mb or used <= HEADROOM * memory_mb
        )
        if fits or rows == 1:
            return ended | {"device_batch_limit": limit if fits else 1}
        limit = rows // 2
