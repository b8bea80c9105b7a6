"""How every process begins that runs, or might run, edited code: with this harness and an allow-listed environment.

The child is given the package harness itself; the folder that it lies in is on no path, so that no module there takes
the place of another. What Python would run from there before all else, `scoring.integrity` sees.
"""

from __future__ import annotations

import os
import sys

from harness import REPOSITORY

# OpenMP is ours to set: time that threads spin is charged as work. Threads that spin for long also fight any other process
# for the core: 3,300 against 11,400 tokens/s beside one. The second is that of Intel's and LLVM's libraries, in ms.
SPIN_COUNT = "1000"
OPENMP = {"GOMP_SPINCOUNT": SPIN_COUNT, "KMP_BLOCKTIME": "1"}
# No PYTHONPATH, and no variable that could hold a key.
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "CC", "CXX", "CUDA_HOME", "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "SYSTEMROOT", "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip


def child_environment(**extra: str) -> dict[str, str]:
    """The environment of every child that runs, or might run, edited code: allow-listed, without keys."""
    kept = OPENMP | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"} | extra


START = """
import importlib.util, os, runpy, sys
folder, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(os.path.dirname(folder))]
spec = importlib.util.spec_from_file_location("harness", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this harness as a program."""
    return [sys.executable, "-P", "-c", START, str(REPOSITORY / "harness"), module, *arguments]
