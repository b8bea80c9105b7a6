"""The template itself."""

import importlib.util
import math
import subprocess
import sys

import pytest
import torch
from checkout import ROOT
from safetensors.torch import load_model, save_model


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
    "constants",
    [
        {},
        {"DEPTH": 4, "N_HEAD": 4, "KV_GROUP": 2, "HEAD_DIM": 32, "WINDOW_PATTERN": "SSL"},
        {"VALUE_EMBED_EVERY": 0, "DEPTH": 1},
        {"SHIFT_TAPS": 0, "NGRAM_TABLES": 0, "LOGIT_SOFTCAP": 15.0, "DEPTH": 2},
        {"SHIFT_TAPS": 7, "NGRAM_TABLES": 4, "NGRAM_ROWS": 1024},
    ],
)
def test_the_template_keeps_the_contract_and_is_causal(constants):
    torch.manual_seed(0)
    model = import_template(**constants).build_model(257, 64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Blocks start as identity: wake them up.
            parameter.add_(0.02 * torch.randn_like(parameter))
    idx = torch.randint(257, (2, 64))
    changed = idx.clone()
    changed[:, 40:] = torch.randint(257, (2, 24))
    with torch.no_grad():
        logits, others = model(idx), model(changed)
    assert logits.shape == (2, 64, 257) and logits.dtype == torch.float32
    assert torch.equal(logits[:, :40], others[:, :40]) and not torch.allclose(
        logits[:, 40:], others[:, 40:]
    )
    # A row shorter than what shift and tables look back.
    assert model(idx[:, :1]).shape == (2, 1, 257)


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
    assert losses[0] == pytest.approx(math.log(320), abs=0.1)  # 257 rounded up to a multiple of 64
    assert losses[-1] < losses[0] - 1
    save_model(model, str(tmp_path / "w"))
    fresh = module.build_model(257, 32)
    load_model(fresh, str(tmp_path / "w"))
    assert torch.equal(fresh(idx[:, 1:]), model(idx[:, 1:]))


def test_a_step_on_the_rows_that_were_read_is_the_dense_step_there_and_leaves_the_others_alone():
    module = import_template(NGRAM_ROWS=1024, N_HEAD=1, HEAD_DIM=32)
    idx = torch.randint(257, (2, 33))
    tables = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = module.build_model(257, 32)
        optimizer = module.Optimizer(model, torch.float32, lambda function: function)
        assert all(table.sparse for table in model.ngram_embeddings)
        for table in model.ngram_embeddings:
            table.sparse = sparse
        model.unembedding.weight.data.normal_()
        model.loss(idx[:, :-1], idx[:, 1:]).backward()
        assert model.ngram_embeddings[0].weight.grad.is_sparse is sparse
        optimizer.step(1.0, 0.9, 0.0)
        tables.append(model.ngram_embeddings[0].weight.detach())
    moved = tables[0].abs().sum(dim=1) > 0
    assert 0 < moved.sum() <= idx[:, :-1].numel() and torch.allclose(*tables, atol=1e-6)


def test_the_same_last_tokens_share_a_row_and_others_do_not():
    model = import_template(NGRAM_ROWS=2**20, N_HEAD=1, HEAD_DIM=32).build_model(257, 32)
    pairs, triples = [], []
    for rows, table in zip((pairs, triples), model.ngram_embeddings, strict=True):
        table.register_forward_hook(
            lambda module, inputs, output, rows=rows: rows.extend(inputs[0][0].tolist())
        )
    model(torch.tensor([[5, 7, 9, 5, 7, 9, 9, 7]]))
    assert pairs[1] == pairs[4] and pairs[2] == pairs[5] and len(set(pairs)) == 6
    assert triples[2] == triples[5] and len(set(triples)) == 7


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
    assert (
        optimizer.steps == 0
        and moments
        and not any(moment.any() for pair in moments for moment in pair)
    )


def test_schedules_begin_and_end_where_their_constants_say():
    module = import_template(WARMUP_RATIO=0.1, WARMDOWN_RATIO=0.5, FINAL_LR_FRAC=0.05)
    assert (
        module.lr_factor(0.0) == 0.0
        and module.lr_factor(0.05) == pytest.approx(0.5)
        and module.lr_factor(0.3) == 1.0
    )
    assert module.lr_factor(0.75) == pytest.approx(0.5 + 0.5 * 0.05) and module.lr_factor(
        1.0
    ) == pytest.approx(0.05)
    assert (
        module.muon_momentum(0) == pytest.approx(0.85)
        and module.muon_momentum(10_000) == module.MUON_MOMENTUM
    )


def test_importing_the_template_trains_nothing_and_opens_nothing(tmp_path):
    code = (
        f"import runpy; m = runpy.run_path({str(ROOT / 'train_template.py')!r});"
        " m['build_model'](257, 64); print('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == "fine\n" and list(tmp_path.iterdir()) == []
