"""Devices, and the template itself."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model

from harness.training import devices

ROOT = Path(__file__).parents[1]


def import_template(**constants):
    """Import train_template.py as a module, with constants set before any model is built."""
    spec = importlib.util.spec_from_file_location("template_under_test", ROOT / "train_template.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in constants.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    "name, capability, hip, expected",
    [
        ("NVIDIA H100 80GB HBM3", 9, None, "bfloat16"),
        ("Tesla V100", 7, None, "float32"),
        ("AMD Instinct MI300X", 9, "6.2", "bfloat16"),
    ],
)
def test_simulated_cards_get_the_right_precision(monkeypatch, name, capability, hip, expected):
    properties = type("Properties", (), {"name": name, "major": capability, "total_memory": 80 * 2**30})()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    device = devices.detect_device()
    assert (device.kind, device.dtype, device.memory_mb) == ("cuda", expected, 80 * 1024)
    assert (device.peak_flops == 989e12) is ("H100" in name)


def test_an_unknown_device_has_no_peak_and_says_nothing_it_does_not_know():
    for name in ("Imaginary 9000", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 NVL"):
        assert math.isnan(devices.peak_flops(name))
    assert devices.peak_flops("NVIDIA L4") == 121e12 and devices.peak_flops("NVIDIA GeForce RTX 4090") == 165e12
    done = subprocess.run(
        [sys.executable, "-m", "harness.training.devices", "--kind", "cpu"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    facts = json.loads(done.stdout)
    assert facts["kind"] == "cpu" and facts["peak_flops"] is None
    with pytest.raises(ValueError, match="use auto"):
        devices.detect_device("tpu")


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"DEPTH": 4, "N_HEAD": 4, "KV_GROUP": 2, "HEAD_DIM": 32, "WINDOW_PATTERN": "SSL"},
        {"VALUE_EMBED_EVERY": 0, "DEPTH": 1},
    ],
)
def test_the_template_keeps_the_contract_and_is_causal(constants):
    torch.manual_seed(0)
    model = import_template(**constants).build_model(257, 64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # blocks start as identity: wake them up
    idx = torch.randint(257, (2, 64))
    changed = idx.clone()
    changed[:, 40:] = torch.randint(257, (2, 24))
    with torch.no_grad():
        logits, others = model(idx), model(changed)
    assert logits.shape == (2, 64, 257) and logits.dtype == torch.float32
    assert torch.equal(logits[:, :40], others[:, :40]) and not torch.allclose(logits[:, 40:], others[:, 40:])


def test_the_template_learns_and_its_weights_survive_the_round_trip(tmp_path):
    torch.manual_seed(0)
    module = import_template(DEPTH=2, N_HEAD=1, HEAD_DIM=32)
    model = module.build_model(257, 32)
    optimizer = module.Optimizer(model, torch.float32, lambda function: function)
    idx = torch.randint(257, (4, 33))
    losses = []
    for step in range(30):
        loss = model.loss(idx[:, :-1], idx[:, 1:])
        loss.backward()
        optimizer.step(1.0, module.muon_momentum(step), module.weight_decay(0.0))
        losses.append(loss.item())
    assert losses[0] == pytest.approx(5.55, abs=0.1) and losses[-1] < losses[0] - 1
    save_model(model, str(tmp_path / "w"))
    fresh = module.build_model(257, 32)
    load_model(fresh, str(tmp_path / "w"))
    assert torch.equal(fresh(idx[:, 1:]), model(idx[:, 1:]))


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    module = import_template()
    for shape in ((3, 16, 64), (3, 64, 16)):
        values = torch.linalg.svdvals(module.orthogonalize(torch.randn(shape), 5, torch.float32))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_warming_up_changes_no_weight_and_leaves_no_moment():
    module = import_template(N_HEAD=1, HEAD_DIM=32)
    model = module.build_model(257, 32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = module.Optimizer(model, torch.float32, lambda function: function)

    class Session:
        vocab_size, max_seq_len, device = 257, 32, torch.device("cpu")
        autocast = staticmethod(lambda: torch.autocast("cpu", enabled=False))

    module.warm_up(model, optimizer, Session(), 2)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    moments = [*optimizer.buffers.values(), *optimizer.moments.values()]
    assert optimizer.steps == 0 and moments and not any(moment.any() for pair in moments for moment in pair)


def test_schedules_begin_and_end_where_their_constants_say():
    module = import_template(WARMUP_RATIO=0.1, WARMDOWN_RATIO=0.5, FINAL_LR_FRAC=0.05)
    assert (
        module.lr_factor(0.0) == 0.0 and module.lr_factor(0.05) == pytest.approx(0.5) and module.lr_factor(0.3) == 1.0
    )
    assert module.lr_factor(0.75) == pytest.approx(0.5 + 0.5 * 0.05) and module.lr_factor(1.0) == pytest.approx(0.05)
    assert module.muon_momentum(0) == pytest.approx(0.85) and module.muon_momentum(10_000) == module.MUON_MOMENTUM


def test_importing_the_template_trains_nothing_and_opens_nothing(tmp_path):
    code = f"import runpy; m = runpy.run_path({str(ROOT / 'train_template.py')!r}); m['build_model'](257, 64); print('fine')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == "fine\n" and list(tmp_path.iterdir()) == []
