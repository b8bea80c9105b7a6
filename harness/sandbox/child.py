"""How a process that runs, or might run, edited code is started and ended.

It gets an allow-listed environment and this harness, imported from its sources alone: compiled
files beside them may hold other code, and are not hashed. The folder that holds the package is not
on the import path, so no module there can take the place of another. `scoring.integrity` checks
what Python would import from there at its start.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys

from harness import REPOSITORY

WAIT_SECONDS = 5.0  # for what was killed to end
# OpenMP is ours to set: time that threads spin is charged as work. Threads that spin for long also
# fight any other process for the core: 3,300 against 11,400 tokens/s beside one. The second is that
# of Intel's and LLVM's libraries, in ms.
SPIN_COUNT = "1000"
OPENMP = {"GOMP_SPINCOUNT": SPIN_COUNT, "KMP_BLOCKTIME": "1"}
# No PYTHONPATH, and no variable that could hold a key. PATHS: a child must be able to read there.
# fmt: off
PATHS = (
    "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "HIP_PATH",
    "TRITON_LIBCUDA_PATH", "TRITON_PTXAS_PATH", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_CACHE_PATH",
)
PASSED_ON = (
    *PATHS, "HF_HOME", "KERNELS_CACHE", "USER", "LOGNAME", "TORCHINDUCTOR_COMPILE_THREADS",
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "VIRTUAL_ENV", "CONDA_PREFIX",
    "CC", "CXX", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
)
# Of AMD's runtime, which reads them by the dozen.
PREFIXES = ("HSA_",)
A_KEY = re.compile(r"KEY|TOKEN|SECRET|PASS(WORD|WD)|CREDENTIAL|AUTH")
# fmt: on


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of every child that runs, or might run, edited code."""
    amd = {name for name in os.environ if name.startswith(PREFIXES) and not A_KEY.search(name)}
    kept = OPENMP | {name: os.environ[name] for name in amd.union(PASSED_ON) & os.environ.keys()}
    if "USER" not in kept:  # an id without a name, as in some containers: caches are named by it
        kept.setdefault("LOGNAME", f"user{os.getuid()}")
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"} | extra


START = """
import importlib.machinery, importlib.util, os, runpy, sys
folder, module = sys.argv[1:3]
del sys.argv[1:3]
parent = os.path.realpath(os.path.dirname(folder))
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != parent]
class Source(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        return self.source_to_code(self.get_data(self.path), self.path)
def sources(place):
    if place != parent and not (place + "/").startswith(folder + "/"):
        raise ImportError
    return importlib.machinery.FileFinder(place, (Source, [".py"]))
sys.path_hooks.insert(0, sources)
spec = sources(parent).find_spec("harness")
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this harness as a program."""
    return [
        sys.executable,
        "-P",
        "-c",
        START,
        os.path.realpath(REPOSITORY / "harness"),
        module,
        *arguments,
    ]


def kill_child(process: subprocess.Popen, walled: bool) -> None:
    """Kill a child that leads its process group, with that group; it has ended when this returns.

    Behind a wall what lives inside is in a group of its own. The wall's own process ends when all
    that is inside has ended and its memory, a card's too, is free; so that is killed first.
    """
    if walled and process.poll() is None:
        import psutil  # a bare machine that only scores has neither a wall nor psutil

        with contextlib.suppress(psutil.Error):  # it ends just now
            for inner in psutil.Process(process.pid).children():
                inner.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a device that lets nobody go
            process.wait(timeout=WAIT_SECONDS)
    # Of the group nothing is left, or (macOS) only zombies are.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
