"""Machines that are not here, simulated: what the vendor's tool, the PCI bus, AMD's topology and
torch would say on each, and what its user reads before a night. docs/machines.md is the table of
it; `python scripts/make_docs.py` writes it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from environment.packages import first_card, torch_sources

from harness.ground import cards
from harness.ground.errors import ProfileError
from harness.lab import start
from harness.run.machine import machine_words
from harness.run.settings import make_settings
from harness.sandbox import device as sandbox_device
from harness.sandbox.wall import VARIABLE, Wall
from harness.training import devices, trial

CUDA13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
ROCM = ["gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1201"]
MI300X = ("MI300X", 90402)
LAPTOP_IGPU = (0x8086, 0x9A49, 0x030000)
SMI_FAILS = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


@dataclass(frozen=True)
class Machine:
    """smi: rows of nvidia-smi's name, driver, compute capability and MIG mode; None: there is no
    such tool, "": it fails.

    pci: vendor, device and class of each device; kfd: AMD's name and version of each node. torch:
    its version. sees: name, architecture and GB of the first card that torch sees, None for none;
    says: what it says then. integrated: whether it shares the processor's memory. speed: TFLOP/s
    and GB/s that would be measured. busy: MB and percent that others hold. lacks: gcc or Python.h.
    behind_the_wall: what of the card is seen there.
    """

    what: str
    smi: list[str] | str | None = None
    pci: tuple[tuple[int, int, int], ...] = ()
    kfd: tuple[tuple[str, int], ...] = ()
    torch: str = "2.13.0+cu130"
    sees: tuple[str, object, int] | None = None
    says: str = ""
    speed: tuple[float, float] = (0.0, 0.0)
    count: int = 1
    busy: tuple[int, int] = (400, 0)
    integrated: bool = False
    lacks: str = ""
    behind_the_wall: bool = True
    container: bool = False
    loaded: bool = False
    variables: dict[str, str] = field(default_factory=dict)


ON_H200 = "NVIDIA H200, 580.65.06, 9.0, Disabled"
V100 = "Tesla V100-SXM2-16GB, 580.65.06, 7.0, [N/A]"
H200 = ("NVIDIA H200", (9, 0), 141)
H100 = ("NVIDIA H100 80GB HBM3", (9, 0), 80)
RTX3060 = ("NVIDIA GeForce RTX 3060", (8, 6), 12)
RTX4090 = ("NVIDIA GeForce RTX 4090", (8, 9), 24)
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020)."
UNKNOWN = "CUDA unknown error"

MACHINES = [
    Machine("an H200, all well", [ON_H200], sees=H200, speed=(690, 4200)),
    Machine(
        "no card: a server's own graphics", pci=((0x1A03, 0x2000, 0x030000),), torch="2.13.0+cpu"
    ),
    Machine("a laptop with Intel graphics", pci=(LAPTOP_IGPU,), torch="2.13.0+cpu"),
    Machine("WSL2 with Intel graphics", pci=((0x1414, 0x008E, 0x030200),), torch="2.13.0+cpu"),
    Machine(
        "an APU without a build of torch (gfx90c)", kfd=(("renoir", 90012),), torch="2.13.0+cpu"
    ),
    Machine(
        "driver too old for the default build",
        ["NVIDIA GeForce RTX 3060, 535.183.01, 8.6, [N/A]"],
        says=TOO_OLD,
    ),
    Machine(
        "driver too old for any build",
        ["Tesla V100-SXM2-16GB, 470.223.02, 7.0, [N/A]"],
        torch="2.13.0+cu126",
        says=TOO_OLD,
    ),
    Machine(
        "driver so old that it names no architecture",
        ["NVIDIA A100-SXM4-40GB, 460.91.03"],
        says=TOO_OLD,
    ),
    Machine(
        "Blackwell, driver too old for its only build",
        ["NVIDIA GeForce RTX 5090, 570.86.10, 12.0, [N/A]"],
        says=TOO_OLD,
    ),
    Machine(
        "CPU build beside a card",
        [ON_H200],
        torch="2.13.0+cpu",
        says="Torch not compiled with CUDA enabled",
    ),
    Machine(
        "CPU build beside a card with an older driver",
        ["NVIDIA L4, 550.54.15, 8.9, [N/A]"],
        torch="2.13.0+cpu",
    ),
    Machine(
        "Pascal, default build",
        ["NVIDIA GeForce GTX 1080 Ti, 580.65.06, 6.1, [N/A]"],
        sees=("NVIDIA GeForce GTX 1080 Ti", (6, 1), 11),
    ),
    Machine("Volta, default build", [V100], sees=("Tesla V100-SXM2-16GB", (7, 0), 16)),
    Machine(
        "Volta, the build that serves it",
        [V100],
        torch="2.13.0+cu126",
        sees=("Tesla V100-SXM2-16GB", (7, 0), 16),
        speed=(14, 790),
    ),
    Machine(
        "Kepler, which no build serves", ["Tesla K80, 470.223.02, 3.7, [N/A]"], torch="2.13.0+cpu"
    ),
    Machine(
        "a card on the PCI bus, no driver",
        "",
        pci=((0x10DE, 0x2684, 0x030000),),
        torch="2.13.0+cpu",
    ),
    Machine(
        "a container that was not given the card", pci=((0x10DE, 0x2330, 0x030200),), container=True
    ),
    Machine(
        "the driver is loaded and nvidia-smi fails (Xid)",
        "",
        pci=((0x10DE, 0x2330, 0x030200),),
        loaded=True,
    ),
    Machine("card hidden by a variable", [ON_H200], variables={"CUDA_VISIBLE_DEVICES": ""}),
    Machine("card lost, and nvidia-smi still lists it", [ON_H200], says=UNKNOWN),
    Machine(
        "MIG is on, and has no slice",
        ["NVIDIA H100 80GB HBM3, 580.65.06, 9.0, Enabled"],
        says="No CUDA GPUs are available",
    ),
    Machine(
        "a MIG slice",
        ["NVIDIA H100 80GB HBM3, 580.65.06, 9.0, Enabled"],
        sees=("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), 10),
        speed=(88, 370),
    ),
    Machine(
        "two cards",
        ["NVIDIA H100 80GB HBM3, 580.65.06, 9.0, Disabled"] * 2,
        sees=H100,
        speed=(640, 2600),
        count=2,
    ),
    Machine(
        "card busy",
        ["NVIDIA H100 80GB HBM3, 580.65.06, 9.0, Disabled"],
        sees=H100,
        speed=(310, 1500),
        busy=(41_000, 98),
    ),
    Machine(
        "a 24 GB card",
        ["NVIDIA GeForce RTX 4090, 580.65.06, 8.9, [N/A]"],
        sees=RTX4090,
        speed=(160, 920),
    ),
    Machine(
        "a 12 GB card",
        ["NVIDIA GeForce RTX 3060, 580.65.06, 8.6, [N/A]"],
        sees=RTX3060,
        speed=(25, 330),
    ),
    Machine(
        "unified memory (DGX Spark)",
        ["NVIDIA GB10, 580.95.05, 12.1, [N/A]"],
        sees=("NVIDIA GB10", (12, 1), 121),
        speed=(95, 220),
        busy=(97_000, 0),
        integrated=True,
    ),
    Machine("large card, no compiler", [ON_H200], sees=H200, speed=(690, 4200), lacks="gcc"),
    Machine(
        "large card, no headers of Python",
        [ON_H200],
        sees=H200,
        speed=(690, 4200),
        lacks="Python.h",
    ),
    Machine(
        "24 GB card, no compiler",
        ["NVIDIA GeForce RTX 4090, 580.65.06, 8.9, [N/A]"],
        sees=RTX4090,
        speed=(160, 920),
        lacks="gcc",
    ),
    Machine(
        "no device nodes behind the wall",
        [ON_H200],
        sees=H200,
        speed=(690, 4200),
        behind_the_wall=False,
    ),
    Machine(
        "the same, where bubblewrap was asked for",
        [ON_H200],
        sees=H200,
        speed=(690, 4200),
        behind_the_wall=False,
        variables={VARIABLE: "bubblewrap"},
    ),
    Machine("AMD, torch from PyPI", kfd=(("cpu", 0), MI300X), torch="2.13.0+cpu"),
    Machine(
        "AMD, ROCm's build",
        kfd=(("cpu", 0), MI300X),
        torch="2.13.0+rocm7.2",
        sees=("AMD Instinct MI300X", "gfx942:xnack-", 192),
        speed=(560, 3900),
    ),
    Machine(
        "AMD, a user who may not open the card",
        kfd=(("cpu", 0), MI300X),
        torch="2.13.0+rocm7.2",
        says="No HIP GPUs are available",
    ),
    Machine(
        "AMD, a card that this build lacks",
        kfd=(("navi33", 110003),),
        torch="2.13.0+rocm7.2",
        sees=("AMD Radeon 780M", "gfx1103", 16),
    ),
]


@contextlib.contextmanager
def simulated(machine: Machine, folder: Path) -> Iterator[None]:
    """This process believes that it is on that machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "CUDA_VISIBLE_DEVICES",
            "HIP_VISIBLE_DEVICES",
            "ROCR_VISIBLE_DEVICES",
            VARIABLE,
            sandbox_device.DEVICE_VARIABLE,
        ):
            patch.delenv(name, raising=False)
        for name, value in machine.variables.items():
            patch.setenv(name, value)
        lay_out(machine, folder, patch)
        simulate_torch(machine, folder, patch)
        patch.setattr(sandbox_device, "ask_device", lambda *asked: ask(machine, *asked))
        patch.setattr(
            sandbox_device, "find_wall", lambda: Wall("bubblewrap", "a wall", "", "bwrap")
        )
        yield


def lay_out(machine: Machine, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """nvidia-smi, the PCI bus and AMD's topology, as files."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    if machine.smi is not None:
        rows = "\n".join(f"echo '{row}'" for row in machine.smi)
        busy = f'case "$*" in *utilization*) echo {machine.busy[1]}; exit;; esac'
        old = 'case "$*" in *compute_cap*) exit 2;; esac' if rows.count(",") < 3 else ""
        script = f"#!/bin/sh\n{busy}\n{old}\n{rows or f'echo {SMI_FAILS!r}; exit 9'}\n"
        (programs / "nvidia-smi").write_text(script)
        (programs / "nvidia-smi").chmod(0o755)
    patch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    patch.setattr(cards, "WSL_TOOL", str(folder / "nowhere"))
    patch.setattr(cards, "CONTAINERS", (str(programs),) if machine.container else ())
    patch.setattr(cards, "LOADED", programs if machine.loaded else folder / "nowhere")
    for name, found in (("PCI", machine.pci), ("KFD", machine.kfd)):
        patch.setattr(cards, name, folder / name)
        for number, values in enumerate(found):
            entry = folder / name / (f"0000:0{number}:00.0" if name == "PCI" else str(number))
            entry.mkdir(parents=True)
            if name == "PCI":
                for file, value in zip(("vendor", "device", "class"), values, strict=True):
                    (entry / file).write_text(f"{value:#x}\n")
            else:
                (entry / "name").write_text(f"{values[0]}\n")
                (entry / "properties").write_text(
                    f"cpu_cores_count 0\ngfx_target_version {values[1]}\n"
                )


def simulate_torch(machine: Machine, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What torch would answer, and what is there to compile with."""
    version, _, build = machine.torch.partition("+")
    rocm = build.removeprefix("rocm") if build.startswith("rocm") else None
    cuda = {"cu130": "13.0", "cu126": "12.6"}.get(build)
    patch.setattr(torch, "__version__", machine.torch)
    patch.setattr(torch.version, "hip", rocm)
    patch.setattr(torch.version, "cuda", cuda)
    patch.setattr(torch.cuda, "is_available", lambda: machine.sees is not None)
    patch.setattr(torch.cuda, "current_device", lambda: fail(machine.says or "no card"))
    patch.setattr(
        torch.cuda, "get_arch_list", lambda: ROCM if rocm else CUDA12 if cuda == "12.6" else CUDA13
    )
    if machine.sees:
        name, architecture, memory_gb = machine.sees
        major, minor = (9, 4) if rocm else architecture
        facts = {
            "name": name,
            "major": major,
            "minor": minor,
            "total_memory": memory_gb * 2**30,
            "uuid": "0a1b",
        }
        facts |= {"gcnArchName": architecture, "is_integrated": machine.integrated}
        total = memory_gb * 2**30
        patch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**facts))
        patch.setattr(torch.cuda, "device_count", lambda: machine.count)
        patch.setattr(torch.cuda, "mem_get_info", lambda: (total - machine.busy[0] * 2**20, total))
    else:
        patch.setattr(
            devices, "why_no_bf16_on_cpu", lambda: "the processor has no bf16 instructions"
        )
    patch.setattr(
        devices,
        "measure_speed",
        lambda dtype: dict(zip(("tflops", "copy_gb_per_s"), machine.speed, strict=True)),
    )
    if machine.lacks == "gcc":
        patch.setenv("CC", "a-compiler-that-is-not-there")
    headers = folder / "headers"
    headers.mkdir()
    if machine.lacks != "Python.h":
        (headers / "Python.h").touch()
    patch.setattr(trial.sysconfig, "get_path", lambda name: str(headers))
    patch.setattr(devices, "try_compile", trial.lacking_for_compiling)


def fail(words: str) -> None:
    raise RuntimeError(words)


def ask(machine: Machine, kind: str, compiles: bool = False, wall: Wall | None = None) -> dict:
    """What the device's own process would answer: its real main, in this one."""
    if wall and not machine.behind_the_wall:
        raise ProfileError("no card there")
    said, refused = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(refused),
    ):
        patch.setattr(sys, "argv", ["devices", "--kind", kind, *["--try-compile"] * compiles])
        try:
            devices.main()
        except SystemExit:
            raise sandbox_device.DeviceRefused(refused.getvalue().strip()) from None
    return json.loads(said.getvalue())


def told(machine: Machine, overrides: str = "", device: str = "auto") -> list[str]:
    """The sentences that its user reads when a real night begins; where it cannot, the one that
    says why.
    """
    with tempfile.TemporaryDirectory() as folder, simulated(machine, Path(folder)):
        try:
            profile, facts = start.find_profile(device=device, overrides=overrides)
        except ProfileError as error:
            own = "python{}.{}-dev".format(*sys.version_info)
            return [f"cannot go on: {error}".replace(own, "python3.12-dev")]
        data = SimpleNamespace(data_id="d", data_hash="d", folder=Path(folder))
        settings = make_settings("t", profile, data, facts)
        return [
            *machine_words(settings.device),
            f"goes on with profile {profile.name}, {'compiled' if settings.compile else 'eager'}",
        ]


def installed(machine: Machine) -> str:
    """What set-up says of the torch that it installs there, where none is."""
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        simulated(machine, Path(folder)),
        contextlib.redirect_stdout(said),
    ):
        cards.main()
    return torch_sources("torch==2.13.0", None, first_card(said.getvalue()), "linux")[0].words


def page() -> str:
    """docs/machines.md."""
    lines = [
        "# What a machine is told",
        "",
        "Made by `python scripts/make_docs.py`. Simulated: the vendor's tool, the PCI bus, AMD's",
        "topology and torch answer as they would there. No card has been at hand yet.",
        "",
        "| machine | a night says | set-up installs, where there is no torch |",
        "|---|---|---|",
    ]
    lines += [
        f"| {machine.what} | {'<br>'.join(told(machine))} | {installed(machine)} |"
        for machine in MACHINES
    ]
    return "\n".join(lines) + "\n"
