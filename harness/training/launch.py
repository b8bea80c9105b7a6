"""Run one train.py as the runner's child: `python -m harness.training.launch TRAIN_PY PARENT`.

In: the session's environment (see `session`). Out: the exit status, a `launched` event before any
of train.py runs, and a `failed` event that tells out-of-memory and a non-finite loss from other
exceptions. Dies with its parent where the system offers that (Linux), and limits itself first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import runpy
import sys
import traceback

import torch

from harness.ground.errors import DataError
from harness.ground.parent import die_with_parent
from harness.ground.syscalls import PR_SET_NO_NEW_PRIVS, refuse_calls
from harness.training.session import EVENTS_VARIABLE, NonFiniteLoss

NOT_THE_IDEA = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # a full or broken disk
# Bytes of any one file, open files, bytes of a memory image
LIMITS = {
    resource.RLIMIT_FSIZE: 20 * 10**9,
    resource.RLIMIT_NOFILE: 4096,
    resource.RLIMIT_CORE: 0,
}
# What libraries say, in exceptions of many types, when memory runs out: CUDA, HIP and MPS; cuBLAS
# and cuDNN; the CPU on Linux and on Windows.
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "not enough memory")


def classify(error: BaseException) -> str:
    """Return the run's status for an exception that ended train.py."""
    if isinstance(error, NonFiniteLoss):
        return "nan"
    if isinstance(error, DataError) or _os_error(error) in NOT_THE_IDEA:
        return "infrastructure"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "oom"
    return "oom" if any(words in str(error) for words in OUT_OF_MEMORY) else "crash"


def _os_error(error: BaseException) -> int | None:
    """The errno of an error of the system, also where a library in Rust (safetensors) passes it on.

    Such a library raises an exception of its own and ends its text in "(os error N)".
    """
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def cause_of(error: BaseException) -> str:
    """The first line; with the next where the first only says who raised it, as a compiler's do."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return " ".join(map(str.strip, lines[: 1 + lines[0].rstrip().endswith(":")]))[:500]


def limit_process() -> None:
    """Bound what this process and all it starts may do: LIMITS, and no programs that gain rights.

    Where memory runs out, it is what the system ends first, not a notebook or the night beside it.
    """
    for name, most in LIMITS.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")


def send(event: dict) -> None:
    os.write(int(os.environ[EVENTS_VARIABLE]), json.dumps(event).encode() + b"\n")


def main() -> None:
    """Run argv[1] as __main__ and report how it ended.

    argv[2]: the parent's process id, 0 where it cannot be seen.
    """
    train_py, parent = sys.argv[1], int(sys.argv[2])
    die_with_parent(parent)
    limit_process()
    refuse_calls()
    send({"event": "launched"})
    sys.argv = [train_py]
    try:
        runpy.run_path(train_py, run_name="__main__")
    except Exception as error:
        traceback.print_exc()
        send({"event": "failed", "status": classify(error), "cause": cause_of(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
