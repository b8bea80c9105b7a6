"""What this machine can compute with.

In: torch's own detection. Out: a `Device` (plain data, also as JSON through `python -m harness.training.devices`, so that
code which must not import torch can ask). Refuses to guess: an unknown card has no peak, and its MFU is nan.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass

import torch

# Dense bf16 tensor-core peaks in FLOP/s from the makers' data sheets; matched as whole words, longest first.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A6000": 155e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


@dataclass(frozen=True)
class Device:
    """kind: cuda (ROCm too), mps or cpu. dtype: of autocast, `float32` is none. memory_mb: of the card, or of the machine."""

    kind: str
    name: str
    dtype: str
    memory_mb: int
    peak_flops: float
    torch_version: str
    backend: str

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def machine_memory_mb() -> int:
    """Physical memory in MiB; 0 where the system does not say."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return 0


def peak_flops(name: str) -> float:
    """Peak bf16 FLOP/s of a card by its name, nan when unknown. Laptop and NVL parts share names with faster ones: unknown."""
    if re.search(r"\b(laptop|nvl|max-q)\b", name, re.IGNORECASE):
        return math.nan
    for known in sorted(PEAK_FLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(known)}\b", name, re.IGNORECASE):
            return PEAK_FLOPS[known]
    return math.nan


def cpu_has_bf16() -> bool:
    """True where the CPU multiplies bf16 itself (AVX512-BF16 or AMX); elsewhere bf16 is emulated, up to 499x slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def detect_device(kind: str = "auto") -> Device:
    """Return the best device, or the named kind. bf16 from Ampere on; fp32 before it, on MPS, and on CPUs without bf16 instructions."""
    version = torch.__version__
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        bf16 = torch.version.hip is not None or properties.major >= 8
        dtype, backend = ("bfloat16" if bf16 else "float32"), ("rocm" if torch.version.hip else "cuda")
        return Device(
            "cuda",
            properties.name,
            dtype,
            properties.total_memory // 2**20,
            peak_flops(properties.name),
            version,
            backend,
        )
    if kind == "mps":
        return Device(
            "mps", platform.processor() or "Apple GPU", "float32", machine_memory_mb(), math.nan, version, "mps"
        )
    if kind == "cpu":
        dtype = "bfloat16" if cpu_has_bf16() else "float32"
        return Device("cpu", cpu_name(), dtype, machine_memory_mb(), math.nan, version, "cpu")
    raise ValueError(f"unknown device kind {kind!r}: use auto, cuda, mps or cpu")


def try_compile(kind: str) -> str:
    """Compile, run and differentiate one small function; return "" when that works, else why not (first line of the error)."""
    x = torch.randn(64, 64, device=kind, requires_grad=True)
    try:
        torch.compile(lambda a: torch.tanh(a @ a).square().sum(), dynamic=False)(x).backward()
    except (
        Exception
    ) as error:  # any failure of a compiler on an unknown machine means the same: run eagerly, and say why
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return "" if x.grad is not None and bool(torch.isfinite(x.grad).all()) else "compiled gradient is wrong"


def main() -> None:
    """Print the device as one JSON line; with --try-compile add `compile_error`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--try-compile", action="store_true")
    arguments = parser.parse_args()
    device = detect_device(arguments.kind)
    facts = asdict(device) | {
        "peak_flops": None if math.isnan(device.peak_flops) else device.peak_flops,
        "cpu_count": os.cpu_count(),
    }
    if arguments.try_compile:
        facts["compile_error"] = try_compile(device.kind)
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
