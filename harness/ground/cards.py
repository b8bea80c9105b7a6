"""The cards of this machine, as the vendors' tools and the kernel name them, and the build of torch
that can use each. Standard library only: set-up runs this file before anything is installed.

In: nvidia-smi, the PCI bus, AMD's topology. Out: a `Card` each, and the sentence for a person whose
torch sees none of them. Never asks torch. A machine with no card that some build serves has none:
integrated graphics, WSL2 without NVIDIA, a card that is too old for every build.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

PCI, KFD = Path("/sys/bus/pci/devices"), Path("/sys/class/kfd/kfd/topology/nodes")
WSL_TOOL = "/usr/lib/wsl/lib/nvidia-smi"
CONTAINERS = ("/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io")
LOADED = Path("/proc/driver/nvidia/version")  # there while NVIDIA's driver is
INDEX = "https://download.pytorch.org/whl/"
ON_CPU = "to train on the CPU instead: --device cpu"
RESTART = (
    "a card that was lost (Xid in dmesg), or whose driver was updated under it, comes back with a "
    "restart of the machine"
)


@dataclass(frozen=True)
class Build:
    """A build of torch for NVIDIA: the oldest driver that runs it, and the cards it has code for.

    name: as in the address of its index, and as `torch.version.cuda` begins.
    """

    name: str
    cuda: str
    driver: int
    oldest: tuple[int, int]
    newest: tuple[int, int]

    @property
    def index(self) -> str:
        return INDEX + self.name


# Of torch 2.11 to 2.14 (its RELEASE.md, "CUDA support matrix"); the first is PyPI's own.
BUILDS = (
    Build("cu130", "13", 580, (7, 5), (99, 0)),
    Build("cu126", "12", 525, (5, 0), (9, 0)),
)
ROCM_INDEX = INDEX + "rocm7.2"
ROCM_BUILT_FOR = (
    *("gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030"),
    *("gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200", "gfx1201"),
)
# Attention kernels beside torch's own, and the modules that have them.
FLASH_ATTENTION = {"fa3": "flash_attn_interface", "fa4": "flash_attn"}
# NVIDIA's PCI numbers rise with the architecture; this one is the first Maxwell.
OLDEST_PCI = 0x1340


@dataclass(frozen=True)
class Card:
    """architecture: sm_86, gfx942, "" where nobody says. driver: "" where none answers.

    sliced: MIG is on, so that only its slices can be used.
    """

    name: str
    architecture: str = ""
    driver: str = ""
    sliced: bool = False

    @property
    def is_amd(self) -> bool:
        return self.architecture.startswith("gfx")


def find_cards() -> list[Card]:
    """The cards that some build of torch serves, NVIDIA's first."""
    return [card for card in (*nvidia_cards(), *amd_cards()) if card.is_amd or serving(card)]


def nvidia_cards() -> list[Card]:
    """Those that the driver lists, else those on the PCI bus."""
    tool = shutil.which("nvidia-smi") or (WSL_TOOL if os.path.exists(WSL_TOOL) else None)
    # An old driver does not know the last ones.
    for fields in ("name,driver_version,compute_cap,mig.mode.current", "name,driver_version"):
        if tool and (lines := lines_of([tool, f"--query-gpu={fields}", "--format=csv,noheader"])):
            return [listed_card(line.split(", ")) for line in lines]
    return pci_cards()


def listed_card(cells: list[str]) -> Card:
    """A card by the cells of its line, the last two of which may be missing."""
    name, driver, capability, mig = (*cells, "", "")[:4]
    known = re.fullmatch(r"\d+\.\d", capability)
    return Card(name, f"sm_{capability.replace('.', '')}" * bool(known), driver, mig == "Enabled")


def newer_attention() -> list[str]:
    """Which kernels of FLASH_ATTENTION are installed."""
    return [name for name, module in FLASH_ATTENTION.items() if importlib.util.find_spec(module)]


def lines_of(command: list[str], seconds: float = 20.0) -> list[str]:
    """What a command says; nothing where it fails, or hangs for so long."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, timeout=seconds, **options)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def pci_cards() -> list[Card]:
    """NVIDIA's cards on the PCI bus, whose driver does not answer."""
    found = []
    for folder in sorted(PCI.glob("*")):
        try:
            vendor, number, kind = (
                int((folder / name).read_text(), 16) for name in ("vendor", "device", "class")
            )
        except (OSError, ValueError):
            continue
        if vendor == 0x10DE and kind >> 16 == 3 and number >= OLDEST_PCI:
            found.append(Card(f"NVIDIA card at {folder.name}"))
    return found


def amd_cards() -> list[Card]:
    """AMD's cards in the kernel's topology that ROCm's build of torch has code for."""
    found = []
    for folder in sorted(KFD.glob("*")):
        try:
            text = (folder / "properties").read_text()
            name = (folder / "name").read_text().strip()
        except (OSError, ValueError):
            continue
        version = re.search(r"^gfx_target_version (\d+)$", text, re.MULTILINE)
        number = int(version[1]) if version else 0  # 90402: 9, 4, 2, the last two in base 16
        gfx = f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"
        if gfx in ROCM_BUILT_FOR:
            found.append(Card(f"AMD card ({name or gfx})", gfx))
    return found


# --- Which build --------------------------------------------------------------------------------


def serving(card: Card) -> list[Build]:
    """The builds that have code for an NVIDIA card, whatever its driver."""
    if card.is_amd:
        return []
    if not card.architecture:
        return list(BUILDS)
    digits = card.architecture.removeprefix("sm_")
    own = (int(digits[:-1]), int(digits[-1]))
    return [build for build in BUILDS if build.oldest <= own <= build.newest]


def build_for(card: Card) -> Build | None:
    """The build to take for an NVIDIA card: the first that its driver runs."""
    driver = re.match(r"\d+", card.driver)
    runs = [build for build in serving(card) if driver and int(driver[0]) >= build.driver]
    return next(iter(runs), None)


def what_to_do(card: Card, torch_version: str, built_for: str, said: str = "") -> str:
    """Why torch cannot use a card, and the one thing to do.

    built_for: "cpu", "cuda 13.0" or "rocm 7.2". said: what torch says itself.
    """
    driver = f" (driver {card.driver})" if card.driver else ""
    what = f"{card.name}{driver} is here, and torch {torch_version} (built for {built_for}) cannot"
    return f"{what} use it: {advice_for(card, built_for.split('.')[0], said)}; {ON_CPU}"


def advice_for(card: Card, mine: str, said: str) -> str:
    """What mends it. mine: what torch is built for, as "cuda 13"; said: its own words."""
    other_torch, said = "start the same command once with --torch-index ", f"torch says {said!r}: "
    build, fitting = build_for(card), serving(card)
    if card.is_amd and mine[:4] != "rocm":
        return other_torch + ROCM_INDEX
    if card.is_amd:
        return hidden_by("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") or (
            f"{said}see whether rocminfo lists it; a user who may not open /dev/kfd needs: "
            "sudo usermod -aG render,video $USER, and a new login"
        )
    if not card.driver:
        if any(map(os.path.exists, CONTAINERS)):
            return "give this container the card: docker run --gpus all, a pod nvidia.com/gpu: 1"
        if LOADED.exists():
            return f"its driver is loaded and nvidia-smi fails: {RESTART}"
        return f"install NVIDIA's driver, {fitting[0].driver} or newer, until nvidia-smi lists it"
    if build is None:
        oldest = fitting[-1].driver
        return f"its driver is too old for every build of torch: install {oldest} or newer"
    if mine != f"cuda {build.cuda}":
        newer = f", or install driver {fitting[0].driver} or newer" if build != fitting[0] else ""
        return other_torch + build.index + newer * (mine == f"cuda {fitting[0].cuda}")
    if card.sliced:
        return "MIG is on and no slice is to be had: make one (nvidia-smi mig -cgi ... -C)"
    return hidden_by("CUDA_VISIBLE_DEVICES") or (
        f"{said}see whether /dev/nvidia0 is there and may be opened; {RESTART}"
    )


def hidden_by(*variables: str) -> str:
    """What to do about a variable that hides cards; "" where none is set."""
    for name in variables:
        if name in os.environ:
            return f"{name}={os.environ[name]!r} hides it: unset {name}, or name the card there"
    return ""


def main() -> None:
    """Print the cards as JSON. index: where set-up takes torch from, "" PyPI, null nowhere; ask:
    the index that a person has to name, since ROCm's builds differ by the machine's ROCm.
    """
    facts = []
    for card in find_cards():
        build = build_for(card)
        index = "" if build == BUILDS[0] else build and build.index
        facts.append(asdict(card) | {"index": index, "ask": ROCM_INDEX if card.is_amd else None})
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
