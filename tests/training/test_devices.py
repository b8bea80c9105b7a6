"""Which device is chosen, and in which precision it computes.

Simulated cards, and this machine's own processor.
"""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from checkout import ROOT

from harness.ground.errors import ProfileError
from harness.sandbox import device as device_facts
from harness.sandbox.child import child_environment
from harness.training import devices, trial
from harness.training.devices import DeviceError, detect_device, has_kernels
from harness.training.peaks import PEAK_FLOPS, peak_flops

# What a CUDA build of torch 2.13 may be built for.
WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
OLD_WHEEL = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
ROCM = ["gfx900", "gfx906", "gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1201"]


def simulate_card(patch, name, architecture, memory_gb=8, built_for=None):
    """Make torch see one card: architecture is (major, minor) for NVIDIA, a gfx name for AMD."""
    rocm = isinstance(architecture, str)
    major, minor = (9, 4) if rocm else architecture  # ROCm fills these in as well
    facts = {"name": name, "major": major, "minor": minor, "total_memory": memory_gb * 2**30}
    facts |= {"gcnArchName": architecture} if rocm else {}
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(
        torch.cuda, "get_device_properties", lambda index: type("Properties", (), facts)()
    )
    patch.setattr(torch.cuda, "get_arch_list", lambda: built_for or (ROCM if rocm else WHEEL))
    patch.setattr(torch.version, "hip", "6.4.1" if rocm else None)


CARDS = [
    ("NVIDIA GeForce GTX 1050 Ti", (6, 1), 4, "float32", "sm_61"),
    ("Tesla V100-SXM2-16GB", (7, 0), 16, "float32", "sm_70"),
    ("NVIDIA GeForce RTX 2080", (7, 5), 8, "float32", "sm_75"),
    ("NVIDIA A100-SXM4-80GB", (8, 0), 80, "bfloat16", "sm_80"),
    ("NVIDIA GeForce RTX 3060", (8, 6), 12, "bfloat16", "sm_86"),
    ("NVIDIA GeForce RTX 4090", (8, 9), 24, "bfloat16", "sm_89"),
    ("NVIDIA H200", (9, 0), 141, "bfloat16", "sm_90"),
    ("NVIDIA GeForce RTX 5090", (12, 0), 32, "bfloat16", "sm_120"),
    ("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", 192, "bfloat16", "gfx942"),
    ("AMD Instinct MI210", "gfx90a:sramecc+:xnack-", 64, "bfloat16", "gfx90a"),
    ("AMD Radeon RX 7900 XTX", "gfx1100", 24, "bfloat16", "gfx1100"),
    ("AMD Radeon RX 9070 XT", "gfx1201", 16, "bfloat16", "gfx1201"),
    ("AMD Radeon RX 6800", "gfx1030", 16, "float32", "gfx1030"),
    ("AMD Radeon VII", "gfx906:sramecc-:xnack-", 16, "float32", "gfx906"),
]


@pytest.mark.parametrize(("name", "architecture", "memory_gb", "dtype", "shown"), CARDS)
def test_a_card_computes_in_bf16_only_where_its_hardware_does(
    monkeypatch, name, architecture, memory_gb, dtype, shown
):
    before_turing = isinstance(architecture, tuple) and architecture < (7, 5)
    simulate_card(monkeypatch, name, architecture, memory_gb, OLD_WHEEL if before_turing else None)
    device = detect_device()
    assert (device.kind, device.name, device.dtype, device.architecture) == (
        "cuda",
        name,
        dtype,
        shown,
    )
    assert device.memory_mb == memory_gb * 1024
    assert device.backend == ("rocm" if isinstance(architecture, str) else "cuda")
    assert bool(device.why) is (dtype == "float32")  # the reason is told
    assert detect_device("cuda", "float32").dtype == "float32"  # what a run is frozen to


def test_a_card_that_this_torch_was_not_built_for_is_refused_with_what_to_do(monkeypatch):
    simulate_card(monkeypatch, "NVIDIA GeForce GTX 1050 Ti", (6, 1), 4)
    with pytest.raises(
        DeviceError,
        match=(
            r"no kernels for the NVIDIA GeForce GTX 1050 Ti \(sm_61\).*--torch-index.*--device cpu"
        ),
    ):
        detect_device()
    assert detect_device("cpu").kind == "cpu"
    simulate_card(monkeypatch, "AMD Radeon 780M", "gfx1103")
    with pytest.raises(DeviceError, match="gfx1103"):
        detect_device()


@pytest.mark.parametrize(
    ("architecture", "built_for", "runs"),
    [
        ("sm_86", ["sm_80"], True),  # machine code runs on later minor versions
        ("sm_80", ["sm_86"], False),
        ("sm_90", ["sm_80", "sm_86"], False),  # and not on another major version
        ("sm_120", ["sm_90", "compute_90"], True),  # where only PTX does
        ("sm_61", ["sm_75", "compute_75"], False),
        ("sm_100", ["sm_90a", "sm_100a"], False),  # an `a` build runs on exactly that
        ("gfx1100", ["gfx1100", "gfx90a"], True),
        ("gfx1103", ["gfx1100"], False),
    ],
)
def test_whose_kernels_run_where(architecture, built_for, runs):
    assert has_kernels(architecture, built_for) is runs


def test_an_apple_gpu_is_used_in_float32_and_within_its_recommended_memory(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(devices, "cpu_name", lambda: "Apple M2")
    device = detect_device()
    found = (device.kind, device.name, device.dtype, device.memory_mb, device.backend)
    assert found == ("mps", "Apple M2", "float32", 16 * 1024, "mps") and math.isnan(
        device.peak_flops
    )
    assert "not compiled" in trial.try_compile("mps")


# --- Peaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GeForce RTX 3060", 25.5),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
        ("AMD Instinct MI325X", 1307),
        ("AMD Instinct MI355X", 2517),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4070 Ti", 80.2),
        ("NVIDIA GeForce RTX 5070", 61.7),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_known_peaks(name, tera):
    assert peak_flops(name) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        *("Imaginary 9000", "NVIDIA H20", "NVIDIA GH200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
        *("NVIDIA A10-24Q", "GRID A100-10C", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        *("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4070 SUPER"),
        *("NVIDIA GeForce RTX 4070 Ti SUPER", "NVIDIA GeForce RTX 3080"),
        *("NVIDIA GeForce RTX 2080", "NVIDIA RTX 4000 Ada Generation", "Apple M2"),
    ],
)
def test_a_card_that_is_not_known_for_certain_has_no_peak(name):
    assert math.isnan(peak_flops(name))


def test_geforce_peaks_are_twice_their_float32_rate():
    """Peaks of GeForce cards against an independent figure for each.

    That is cores x 2 x boost clock, from the product pages. GeForce matrix units do twice that in
    bf16.
    """
    float32 = {
        "RTX 5090": 21760 * 2 * 2.407,
        "RTX 5080": 10752 * 2 * 2.617,
        "RTX 5070 Ti": 8960 * 2 * 2.452,
        "RTX 5070": 6144 * 2 * 2.512,
        "RTX 4090": 16384 * 2 * 2.520,
        "RTX 4080": 9728 * 2 * 2.505,
        "RTX 4070 Ti": 7680 * 2 * 2.610,
        "RTX 4070": 5888 * 2 * 2.475,
        "RTX 3090 Ti": 10752 * 2 * 1.860,
        "RTX 3090": 10496 * 2 * 1.695,
        "RTX 3080 Ti": 10240 * 2 * 1.665,
        "RTX 3070": 5888 * 2 * 1.725,
        "RTX 3060": 3584 * 2 * 1.777,
    }
    assert set(float32) == {name for name in PEAK_FLOPS if re.fullmatch(r"RTX \d{4}( Ti)?", name)}
    for name, gigaflops in float32.items():
        assert PEAK_FLOPS[name] == pytest.approx(2 * gigaflops * 1e9, rel=0.006), name


# --- The processor --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "error", "ratio", "dtype", "why"),
    [
        (False, 0.0, 0.3, "float32", "no bf16 instructions"),
        (True, 0.003, 0.5, "bfloat16", ""),
        (True, 0.003, 44.0, "float32", "44.0 times as long"),
        (True, 0.003, 1.4, "float32", "1.4 times as long"),
        (True, 0.9, 0.5, "float32", "wrong by 0.9"),
        (True, math.nan, 0.5, "float32", "wrong by nan"),
    ],
)
def test_a_processor_computes_in_bf16_where_it_can_and_it_pays(
    monkeypatch, claims, error, ratio, dtype, why
):
    monkeypatch.setattr(devices, "cpu_claims_bf16", lambda: claims)
    monkeypatch.setattr(devices, "compare_bf16", lambda *shape: (error, ratio))
    device = detect_device("cpu")
    assert device.dtype == dtype and (why in device.why if why else device.why == "")


def test_the_self_test_sees_through_a_processor_that_only_emulates_bf16(monkeypatch):
    if devices.cpu_claims_bf16():
        pytest.skip("this processor has the instructions")
    monkeypatch.setattr(devices, "cpu_claims_bf16", lambda: True)
    assert "times as long as in float32" in devices.why_no_bf16_on_cpu()  # really multiplied


def test_the_comparison_measures_the_rounding_of_bf16_and_nothing_else():
    error, ratio = devices.compare_bf16(32, 64, 64, repeats=1)
    # 8 bits of precision, rounded once, against the largest value.
    assert 2**-12 < error < 2**-7 and ratio > 0


def test_what_a_run_is_frozen_to_is_not_tested_again(monkeypatch):
    def asked(*shape):
        raise AssertionError("the self-test ran")

    monkeypatch.setattr(devices, "cpu_claims_bf16", asked)
    assert [detect_device("cpu", dtype).dtype for dtype in ("bfloat16", "float32")] == [
        "bfloat16",
        "float32",
    ]


# --- The command ----------------------------------------------------------------------------------


def test_the_command_prints_the_device_as_json():
    command = [sys.executable, "-m", "harness.training.devices", "--kind", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    facts = json.loads(done.stdout)
    assert (
        facts["kind"] == "cpu"
        and facts["peak_flops"] is None
        and facts["dtype"] in ("float32", "bfloat16")
    )
    with pytest.raises(ValueError, match="use auto"):
        detect_device("tpu")


def test_a_refused_device_is_one_sentence_to_the_user(monkeypatch, capsys):
    simulate_card(monkeypatch, "NVIDIA GeForce GTX 1050 Ti", (6, 1))
    monkeypatch.setattr(sys, "argv", ["devices"])
    with pytest.raises(SystemExit) as exit:
        devices.main()
    said = capsys.readouterr().err
    done = subprocess.CompletedProcess([], exit.value.code, "", said)
    monkeypatch.setattr(device_facts.subprocess, "run", lambda *arguments, **options: done)
    monkeypatch.delenv(device_facts.DEVICE_VARIABLE, raising=False)
    with pytest.raises(ProfileError) as refused:
        device_facts.detect_device()
    assert f"{refused.value}\n" == said and "--device cpu" in said


def test_the_device_is_asked_for_once_and_children_are_told(monkeypatch):
    answers = iter(["first", "second", "third", "fourth"])
    monkeypatch.setattr(
        device_facts, "ask_device", lambda kind: {"kind": "cpu", "name": next(answers)}
    )
    monkeypatch.setenv(device_facts.DEVICE_VARIABLE, "")
    assert [device_facts.detect_device(kind)["name"] for kind in ("auto", "auto", "cpu")] == [
        "first"
    ] * 3
    code = "from harness.sandbox.device import detect_device; print(detect_device()['name'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "first\n"
    assert (
        device_facts.detect_device(again=True)["name"]
        == device_facts.detect_device()["name"]
        == "second"
    )
    # What was found for auto is no card.
    assert device_facts.detect_device("cuda")["name"] == "third"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device_facts.detect_device()["name"] == "fourth"


def test_what_was_told_of_the_device_reaches_no_edited_code(monkeypatch):
    monkeypatch.setenv(device_facts.DEVICE_VARIABLE, "{}")
    assert device_facts.DEVICE_VARIABLE not in child_environment()
