"""A card that is not there: what torch is told of it, and tensors on it that have no numbers.

In: the name of a card below, and a torch that was built for the CPU. Out: this process believes in
the card: `torch.cuda` answers as it would, and under FakeTensorMode all of a train.py runs on it,
backward too, with shapes, layouts, dtypes and devices as they would be. Nothing is computed, and
no kernel is started. For a process of its own: nothing is put back.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent
SOURCE = Path(__file__).with_name("card_guard.cpp")
KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Card:
    """What makers publish of a card. gb_per_s: of its memory."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    L2_cache_size: int
    shared_memory_per_block_optin: int
    max_threads_per_multi_processor: int
    gb_per_s: int

    @property
    def properties(self) -> SimpleNamespace:
        """As torch.cuda.get_device_properties gives them."""
        return SimpleNamespace(
            **vars(self),
            gcnArchName="",
            warp_size=32,
            regs_per_multiprocessor=65_536,
            max_threads_per_block=1024,
            shared_memory_per_block=48 * KIB,
            shared_memory_per_multiprocessor=self.shared_memory_per_block_optin + KIB,
            clock_rate=1_980_000,
        )


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; data sheets.
CARDS = {
    "sm_75": Card("Tesla T4", 7, 5, 40, 15 * GIB, 4 * MIB, 64 * KIB, 1024, 320),
    "sm_80": Card("NVIDIA A100 80GB", 8, 0, 108, 80 * GIB, 40 * MIB, 163 * KIB, 2048, 2039),
    "sm_90": Card("NVIDIA H200", 9, 0, 132, 141 * GIB, 50 * MIB, 227 * KIB, 2048, 4800),
}


def why_impossible() -> str:
    """Why nothing can be rehearsed here, "" where it can."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return f"torch {torch.__version__} was built for real cards: use a build for the CPU"
    return "" if find_compiler() else "there is no C++ compiler"


def find_compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def build_guard(folder: Path) -> Path:
    """Compile what the C++ side of torch needs, 4 seconds, once for a torch and a folder."""
    torch_folder = Path(importlib.util.find_spec("torch").origin).parent
    version = (torch_folder / "version.py").read_bytes()
    digest = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    made = folder / f"card_guard_{digest}.so"
    if not made.exists():
        part = made.with_suffix(f".{os.getpid()}")
        command = [find_compiler(), "-std=c++20", "-O0", "-shared", "-fPIC", str(SOURCE)]
        command += [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
        command += [f"-Wl,-rpath,{torch_folder / 'lib'}"]
        subprocess.run([*command, "-lc10", "-ltorch_cpu", "-o", str(part)], check=True)
        part.replace(made)
    return made


def ask_child(
    module: str, jobs: list[dict], guard: Path, packages: Sequence[Path] = ()
) -> list[dict]:
    """Have a module do jobs in a process that can believe in a card; return its answers.

    packages: folders of packages that it needs and that are not installed.
    """
    path = os.pathsep.join(map(str, (ROOT, SCRIPTS, *packages)))
    environment = os.environ | {"LD_PRELOAD": str(guard), "PYTHONPATH": path}
    command = [sys.executable, "-m", module]
    done = subprocess.run(
        command, env=environment, input=json.dumps(jobs), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def believe_in(card: Card) -> None:
    """Make torch in this process, which the guard was loaded into, answer as with this card."""
    import torch
    import torch._subclasses.fake_tensor as fake_tensor
    import torch.cuda.amp.common as amp

    os.environ.pop("LD_PRELOAD", None)  # compilers that are started need none of it
    fake_tensor.init_gpu_context = lambda device: None
    amp.amp_definitely_not_available = lambda: False
    torch.version.cuda = "13.0"
    zeros = torch.zeros(16, dtype=torch.uint8)
    answers = {
        "is_available": True,
        "is_bf16_supported": card.major >= 8,
        "_is_compiled": True,
        "_lazy_init": None,
        "current_device": 0,
        "device_count": 1,
        "set_device": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "synchronize": None,
        "get_device_properties": card.properties,
        "get_device_capability": (card.major, card.minor),
        "get_device_name": card.name,
        "get_arch_list": list(CARDS),
        "get_rng_state": zeros,
        "set_rng_state": None,
        "max_memory_allocated": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
