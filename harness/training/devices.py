"""What this machine can compute with, and in which precision.

In: torch's own detection, and a self-test where that is not to be trusted. Out: a `Device` (plain
data, also as JSON through `python -m harness.training.devices`, so that code which must not import
torch can ask). bf16 is chosen only where hardware multiplies it; else float32, since float16 would
need its loss scaled. Refuses to take the CPU where there is a card that torch could use and does
not see, and a card for which the installed torch has no kernels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import torch

from harness.ground.cards import ON_CPU, Card, build_for, find_cards, what_to_do
from harness.ground.cgroup import memory_limit_mb, physical_memory_mb
from harness.training.peaks import peak_flops
from harness.training.trial import busy_words, measure_speed, try_compile

# AMD: CDNA 2 (MI200) and later, RDNA 3 and later
BF16_GFX = re.compile(r"gfx(90a|9[45]\w|1[1-9]\d\w)")
# (rows, inputs, outputs) of a product, and how many times slower bf16 may be. The last is a step of
# the CPU profile's feed-forward layer; the small ones before it end the test early where bf16 is
# emulated, up to 499 times slower.
SELF_TEST = (((64, 256, 256), 4.0), ((256, 256, 256), 2.0), ((2048, 128, 512), 1.0))
REFUSED_STATUS = 3  # exit status of the command for a device that cannot be used


class DeviceError(RuntimeError):
    """There is a device, and it cannot be used as things are; the message says what to do."""


@dataclass(frozen=True)
class Device:
    """kind: cuda (ROCm too), mps or cpu. dtype: of autocast, `float32` is none; why: the reason.

    memory_mb: of the card, or what this process may use of the machine. architecture: sm_86, gfx942
    or "". count: of cards, of which this is the first; uuid: which one it is.
    """

    kind: str
    name: str
    dtype: str
    memory_mb: int
    peak_flops: float
    torch_version: str
    backend: str
    architecture: str = ""
    why: str = ""
    count: int = 1
    uuid: str = ""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


def detect_device(kind: str = "auto", dtype: str = "") -> Device:
    """Return the best device, or the named kind. dtype: what a run is frozen to, "" to choose now.

    Raises ValueError for an unknown kind and DeviceError for a card that this torch cannot use.
    """
    if kind == "auto":
        mps = torch.backends.mps.is_available()
        kind = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        if kind == "cpu" and (why := why_unseen()):
            raise DeviceError(why)
    if kind == "cuda":
        return detect_card(dtype)
    if kind == "mps":
        memory_mb, why = (
            torch.mps.recommended_max_memory() // 2**20,
            "Apple GPUs are used in float32",
        )
    elif kind == "cpu":
        memory_mb = memory_limit_mb() or physical_memory_mb()
        why = "as the run began" if dtype else why_no_bf16_on_cpu()
    else:
        raise ValueError(f"unknown device kind {kind!r}: use auto, cuda, mps or cpu")
    dtype = dtype or ("float32" if why else "bfloat16")
    version = torch.__version__
    return Device(kind, cpu_name(), dtype, memory_mb, math.nan, version, backend=kind, why=why)


# --- Cards ----------------------------------------------------------------------------------------


def torch_built_for() -> str:
    """cpu, cuda 13.0 or rocm 7.2."""
    if torch.version.hip:
        return f"rocm {torch.version.hip}"
    return f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu"


def why_unseen() -> str:
    """Why torch sees no card though this machine has one that it could use; "" where it has none.

    torch's own reason is a warning that it gives once.
    """
    cards = find_cards()
    if not cards:
        return ""
    said = ""
    try:
        torch.cuda.current_device()
    except (RuntimeError, AssertionError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
    return what_to_do(cards[0], torch.__version__, torch_built_for(), said)


def detect_card(dtype: str) -> Device:
    """The first card that torch.cuda sees: NVIDIA's, or AMD's under ROCm. May be a DeviceError."""
    if not torch.cuda.is_available():
        raise DeviceError(why_unseen() or f"torch {torch.__version__} sees no card here; {ON_CPU}")
    card = torch.cuda.get_device_properties(0)
    rocm = torch.version.hip is not None
    architecture = card.gcnArchName.split(":")[0] if rocm else f"sm_{card.major}{card.minor}"
    built_for = torch.cuda.get_arch_list()
    if built_for and not has_kernels(architecture, built_for):
        raise DeviceError(why_no_kernels(card.name, architecture, built_for))
    why = why_no_bf16_on_card(architecture)
    return Device(
        kind="cuda",
        name=card.name,
        dtype=dtype or ("float32" if why else "bfloat16"),
        memory_mb=card.total_memory // 2**20,
        peak_flops=peak_flops(card.name),
        torch_version=torch.__version__,
        backend="rocm" if rocm else "cuda",
        architecture=architecture,
        why=why,
        count=torch.cuda.device_count(),
        uuid=str(getattr(card, "uuid", "")),
    )


def why_no_kernels(name: str, architecture: str, built_for: list[str]) -> str:
    """What to do about a card that this torch was not built for."""
    drivers = [card.driver for card in find_cards() if card.architecture == architecture]
    build = build_for(Card(name, architecture, *drivers[:1]))
    url = build.index if build else "URL, where pytorch.org's selector names one for it"
    return (
        f"torch {torch.__version__} has no kernels for the {name} ({architecture}), only for "
        f"{', '.join(built_for)}: start the same command once with --torch-index {url}; {ON_CPU}"
    )


def why_no_bf16_on_card(architecture: str) -> str:
    """Why a card computes in float32; "" where its matrix units multiply bf16.

    torch itself says yes to cards that emulate it.
    """
    if architecture.startswith("gfx"):
        return "" if BF16_GFX.fullmatch(architecture) else f"{architecture} multiplies no bf16"
    if capability(architecture) >= (8, 0):
        return ""
    return f"{architecture} is before Ampere and multiplies no bf16"


def capability(architecture: str) -> tuple[int, int]:
    """(8, 6) of sm_86, (12, 0) of sm_120 or compute_120."""
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def has_kernels(architecture: str, built_for: list[str]) -> bool:
    """Whether a torch built for some architectures runs on another.

    Machine code runs within a major version upwards, PTX (compute_) on all later ones.
    """
    if architecture in built_for or architecture.startswith("gfx"):
        return architecture in built_for
    own = capability(architecture)
    for name in built_for:
        if re.fullmatch(r"(sm|compute)_\d+", name):
            code = capability(name)
            if code <= own and (name.startswith("compute") or code[0] == own[0]):
                return True
    return False


# --- The processor --------------------------------------------------------------------------------


def cpu_name() -> str:
    """The processor's name, as far as the system tells; on a Mac it names the GPU as well."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        return asked.stdout.strip() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_claims_bf16() -> bool:
    """Whether the processor says that it multiplies bf16, by AVX512-BF16 or AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def why_no_bf16_on_cpu() -> str:
    """Why this processor computes in float32.

    "" where it claims bf16 and a product in it is right and not slower than in float32. Decided
    anew in each process that asks, in about 0.1 s: a run therefore freezes the answer in its
    run.json.
    """
    if not cpu_claims_bf16():
        return "the processor has no bf16 instructions"
    for shape, most in SELF_TEST:
        error, ratio = compare_bf16(*shape)
        if not error < 0.02:
            return f"products in bf16 are wrong by {error:.3g} of their largest value"
        if ratio > most:
            return f"products in bf16 take {ratio:.1f} times as long as in float32"
    return ""


def compare_bf16(rows: int, inputs: int, outputs: int, repeats: int = 5) -> tuple[float, float]:
    """Return (error, time ratio) of a bf16 matrix product against float32.

    Error: largest, as a share of the largest value; times: best of repeats.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, inputs), (inputs, outputs))
    half = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    full = [x.float() for x in half]
    want, got = full[0] @ full[1], half[0] @ half[1]
    seconds = {torch.bfloat16: math.inf, torch.float32: math.inf}
    for _ in range(repeats):
        for a, b in (half, full):  # in turn: whatever else the machine does slows both
            started = time.perf_counter()
            a @ b
            seconds[a.dtype] = min(seconds[a.dtype], time.perf_counter() - started)
    error = float((got.float() - want).abs().max() / want.abs().max())
    return error, seconds[torch.bfloat16] / seconds[torch.float32]


# --- The command ----------------------------------------------------------------------------------


def main() -> None:
    """Print the device as one JSON line, a card with its speed and `busy`, in words; with
    --try-compile add `compile_error`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--try-compile", action="store_true")
    arguments = parser.parse_args()
    try:
        device = detect_device(arguments.kind)
    except DeviceError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED_STATUS)
    peak = None if math.isnan(device.peak_flops) else device.peak_flops
    facts = asdict(device) | {"peak_flops": peak, "cpu_count": os.cpu_count()}
    if device.kind == "cuda":  # who else is there, before we are
        facts["busy"] = busy_words(device.name, device.uuid)
        facts |= measure_speed(device.torch_dtype)
    if arguments.try_compile:
        facts["compile_error"] = try_compile(device.kind)
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
