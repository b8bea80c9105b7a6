"""Part `machine`: what the device is, how fast it multiplies and copies."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import asdict

import torch

from gpu.settings import Settings
from gpu.timing import milliseconds
from harness.training.devices import detect_device

TASKS = ("versions", "matmul", "copy")


def run(task: str, settings: Settings) -> dict:
    """One of TASKS."""
    measure = {"versions": versions, "matmul": matmul, "copy": copy}[task]
    return measure(settings)


def versions(settings: Settings) -> dict:
    """Names and versions of everything below us."""
    facts = asdict(detect_device(settings.device))
    peak = facts.pop("peak_flops")
    found = {
        "device": facts["name"],
        "backend": facts["backend"],
        "dtype": facts["dtype"],
        "memory_mb": facts["memory_mb"],
    }
    found |= {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    found["peak_tflops"] = peak / 1e12 if peak == peak else None
    if settings.device == "cuda":
        found |= {
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "driver": driver_version(),
        }
    return found


def driver_version() -> str:
    """The NVIDIA driver's, as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def matmul(settings: Settings) -> dict:
    """TFLOP/s of one large square product in the dtype of training: the ceiling for any model."""
    device = detect_device(settings.device)
    torch.set_float32_matmul_precision("high")
    n = settings.matmul_size
    a, b = (
        torch.randn(n, n, device=device.torch_device, dtype=device.torch_dtype) for _ in range(2)
    )
    ms = milliseconds(lambda: a @ b, 5 * settings.timing_seconds, settings.device)
    return {"matmul_tflops": 2 * n**3 / ms / 1e9}


def copy(settings: Settings) -> dict:
    """GB/s read and written by copying a large tensor: the ceiling for everything elementwise."""
    source = torch.empty(
        settings.copy_mb * 2**18, device=detect_device(settings.device).torch_device
    )
    target = torch.empty_like(source)
    ms = milliseconds(lambda: target.copy_(source), 5 * settings.timing_seconds, settings.device)
    return {"copy_gb_per_s": 2 * 4 * source.numel() / ms / 1e6}
