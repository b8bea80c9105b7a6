"""The bank's ideas, against the real template: they apply, build, learn, stay causal, and change the model."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from harness.search.bank import IDEAS, new_constants
from harness.search.constants import constant_values, parse_constants, rewrite_constants
from harness.search.gate import check_candidate
from harness.search.patch import PatchError

TEMPLATE = (Path(__file__).parent.parent / "train_template.py").read_text(encoding="utf-8")
VOCABULARY, LENGTH = 97, 32
by_id = pytest.mark.parametrize("idea", IDEAS, ids=lambda idea: idea.id)


def tiny(source: str) -> str:
    small = {"DEPTH": 2, "N_HEAD": 2, "HEAD_DIM": 32, "MLP_RATIO": 2, "TOTAL_BATCH_SIZE": 256, "KV_GROUP": 2}
    small |= {"BIGRAM_ROWS": 1024}
    constants = constant_values(source)
    return rewrite_constants(source, {name: value for name, value in small.items() if name in constants})


@pytest.fixture
def load(tmp_path):
    """Return a function that imports a train.py from its text."""
    numbers = itertools.count()

    def load(source: str):
        path = tmp_path / f"candidate_{next(numbers)}.py"
        path.write_text(tiny(source), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module

    return load


def trained(module, steps: int = 30):
    """Train on one fixed batch, with the file's own optimizer; return model, first and last loss."""
    torch.manual_seed(1)
    model = module.build_model(VOCABULARY, LENGTH)
    optimizer = module.Optimizer(model, torch.float32, lambda function: function)
    idx = torch.randint(VOCABULARY, (4, LENGTH + 1), generator=torch.Generator().manual_seed(2))
    losses = []
    for step in range(steps):
        loss = model.loss(idx[:, :-1], idx[:, 1:])
        loss.backward()
        losses.append(loss.item())
        optimizer.step(module.lr_factor(step / steps), module.muon_momentum(step), module.weight_decay(step / steps))
    return model, losses[0], losses[-1]


@by_id
def test_an_idea_passes_the_gate_and_annotates_its_constants(idea):
    source = idea.apply(TEMPLATE)
    assert check_candidate(source) == []
    before, after = parse_constants(TEMPLATE), parse_constants(source)
    assert {name: constant.value for name, constant in after.items() if name in before} == constant_values(TEMPLATE)
    assert after.keys() - before.keys() == new_constants([idea])
    assert all(after[name].searched for name in after.keys() - before.keys())
    assert all((idea.title, idea.hypothesis, idea.evidence)) and len(idea.title) < 80


@by_id
def test_an_idea_changes_the_model_and_learns(idea, load):
    plain, changed = load(TEMPLATE), load(idea.apply(TEMPLATE))
    model, first, last = trained(changed)
    reference, reference_first, _ = trained(plain)
    count = sum(p.numel() for p in model.parameters())
    assert count > sum(p.numel() for p in reference.parameters())
    assert first == pytest.approx(reference_first, rel=0.02)  # it starts from what the model computes without it
    assert last < 0.8 * first
    idx = torch.randint(VOCABULARY, (2, LENGTH))
    new = {name: p for name, p in model.named_parameters() if name not in dict(reference.named_parameters())}
    with torch.no_grad():
        before = model(idx)
        for parameter in new.values():
            assert parameter.abs().sum() > 0, "training did not move it"
            parameter.zero_()
        assert not torch.allclose(model(idx), before, atol=1e-3)  # and the logits depend on it


@by_id
def test_an_idea_is_causal(idea, load):
    model, _, _ = trained(load(idea.apply(TEMPLATE)), steps=5)
    model.eval()
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    with torch.no_grad():
        for cut in (1, 7, LENGTH - 1):
            other = idx.clone()
            other[:, cut:] = (other[:, cut:] + 1 + torch.randint(VOCABULARY - 1, (1, LENGTH - cut))) % VOCABULARY
            assert torch.allclose(model(idx)[:, :cut], model(other)[:, :cut], atol=1e-5)
            assert not torch.allclose(model(idx)[:, cut:], model(other)[:, cut:], atol=1e-3)
        assert model(idx[:, :5]).shape == (1, 5, VOCABULARY)  # shorter rows too


def test_a_looking_ahead_patch_would_be_noticed(load):
    """The test of causality can fail: the same patch with the shift the other way round."""
    source = next(idea for idea in IDEAS if idea.id == "short-convolution").apply(TEMPLATE)
    source = source.replace("F.pad(x, (0, 0, SHIFT_TAPS, 0))", "F.pad(x, (0, 0, 0, SHIFT_TAPS)).roll(-1, 1)")
    model, _, _ = trained(load(source), steps=5)
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    other = idx.clone()
    other[:, 9:] = (other[:, 9:] + 1) % VOCABULARY
    with torch.no_grad():
        assert not torch.allclose(model(idx)[:, :9], model(other)[:, :9], atol=1e-4)


def test_the_bigram_table_is_read_at_the_pair(load):
    model = load(next(idea for idea in IDEAS if idea.id == "bigram-embedding").apply(TEMPLATE)).build_model(97, 32)
    rows = []
    model.bigram_embedding.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0]))
    with torch.no_grad():
        model(torch.tensor([[5, 7, 5, 7, 7, 5]]))
    first = rows[0][0].tolist()
    assert first[1] == first[3] and first[2] == first[5]  # 5 7 and 5 7; 7 5 and 7 5
    assert len({first[1], first[2], first[4]}) == 3  # 5 7, 7 5 and 7 7 fall on different rows


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(IDEAS)))))
def test_all_ideas_apply_one_after_the_other(order):
    source = TEMPLATE
    for index in order:
        source = IDEAS[index].apply(source)
    assert check_candidate(source) == []


def test_all_ideas_together_learn(load):
    source = TEMPLATE
    for idea in IDEAS:
        source = idea.apply(source)
    _, first, last = trained(load(source))
    assert last < 0.8 * first


@by_id
def test_an_idea_does_not_apply_twice_unnoticed_or_to_other_code(idea):
    with pytest.raises(PatchError):
        idea.apply("import torch\n")
