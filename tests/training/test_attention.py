"""Attention: every rung that a CPU can run, layouts of the others, and the choice between them.

The oracle is the formula.
"""

from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, _registry

from harness.ground import cards
from harness.training import attention, rungs
from harness.training.attention import Case

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def default_rungs():
    """What `attend` uses is the process's: put it back."""
    yield
    attention.use(full=rungs.causal, windowed=rungs.chunked)


def plain(q, k, v, window):
    """The definition once more, one query at a time.

    An oracle that shares no line with the module.
    """
    group, scale = q.size(1) // k.size(1), q.size(-1) ** -0.5
    out = torch.empty_like(q)
    for h in range(q.size(1)):
        for i in range(q.size(2)):
            seen = slice(max(0, i - window + 1), i + 1)
            scores = (k[:, h // group, seen] * q[:, h, i : i + 1]).sum(-1) * scale
            out[:, h, i] = (scores.softmax(-1)[..., None] * v[:, h // group, seen]).sum(1)
    return out


def random_heads(heads, kv_heads, T=32):
    torch.manual_seed(0)
    return (
        torch.randn(2, heads, T, 8),
        torch.randn(2, kv_heads, T, 8),
        torch.randn(2, kv_heads, T, 8),
    )


@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("window", [1, 4, 8, 16, 5, 32])
def test_windowed_rungs_and_the_formula_equal_the_definition(window, heads, kv_heads):
    q, k, v = random_heads(heads, kv_heads)
    expected = plain(q, k, v, window)
    for function in (rungs.chunked, rungs.masked, attention.formula, attention.attend):
        assert torch.allclose(function(q, k, v, window), expected, atol=1e-5), function


@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 2), (4, 1)])
def test_full_rungs_equal_the_definition(heads, kv_heads):
    q, k, v = random_heads(heads, kv_heads)
    expected = plain(q, k, v, 32)
    flash = rungs.make_causal(SDPBackend.FLASH_ATTENTION)
    for function in (rungs.causal, rungs.masked, flash, attention.attend):
        assert torch.allclose(function(q, k, v, 32), expected, atol=1e-5), function


@pytest.mark.parametrize("window", [1, 5, 8])
def test_packed_rows_keep_heads_positions_and_rows_apart(monkeypatch, window):
    """varlen's kernel needs a CUDA card; what it is handed, and what comes back, does not."""

    def kernel(q, k, v, starts_q, starts_k, max_q, max_k, *, window_size, enable_gqa=False):
        assert window_size[1] == 0 and max_q == max_k == 32 and starts_q.dtype == torch.int32
        assert enable_gqa or q.size(1) == k.size(1)
        out = []
        for start, end in zip(starts_q.tolist(), starts_k.tolist()[1:], strict=False):
            row = [x[start:end].transpose(0, 1)[None] for x in (q, k, v)]
            out.append(plain(*row, window_size[0] + 1)[0].transpose(0, 1))
        return torch.cat(out)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    for heads, kv_heads in ((2, 2), (4, 2)):
        q, k, v = random_heads(heads, kv_heads)
        assert torch.allclose(
            rungs.make_varlen()(q, k, v, window), plain(q, k, v, window), atol=1e-5
        )


@pytest.fixture
def newer(monkeypatch):
    """Stand-ins for FlashAttention 3 and 4, as installed beside PyTorch; which is there now."""
    active = set()

    class Handle:
        def __init__(self, name):
            self.name = name
            active.add(name)

        def remove(self):
            active.remove(self.name)

    there = {name: partial(Handle, name) for name in ("FA3", "FA4")}
    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", there)
    yield active
    rungs.make_varlen()


def test_a_rung_has_the_flash_attention_that_it_is_named_after(newer, monkeypatch):
    for name, expected in (("fa3", {"FA3"}), ("fa4", {"FA4"}), ("varlen", set())):
        rungs.RUNGS[name].make(CPU, 32)
        assert newer == expected
    attention.select(CPU, torch.float32, 64, {"full": "causal", "windowed": "fa3"})
    assert newer == {"FA3"}
    monkeypatch.delitem(_registry._FLASH_ATTENTION_IMPLS, "FA4")
    assert "Unknown flash attention" in attention.try_rung("fa4", CPU, torch.float32, 64, 8)[1]
    assert newer == set()


def test_a_newer_flash_attention_that_is_wrong_is_gone_when_the_next_rung_is_tried(
    newer, monkeypatch
):
    seen = []

    def kernel(q, k, v, starts_q, starts_k, max_q, max_k, *, window_size, enable_gqa=False):
        seen.append((set(newer), window_size))
        raise RuntimeError("not on this card")

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    order = {"windowed": ["fa3", "fa4", "varlen", "chunked"], "full": ["causal"]}
    monkeypatch.setattr(attention, "ladder", lambda device: order)
    chosen = attention.select(CPU, torch.float32, 64)
    assert (chosen["windowed"], chosen["full"]) == ("chunked", "causal")
    assert seen == [({"FA3"}, (7, 0)), ({"FA4"}, (7, 0)), (set(), (7, 0))] and newer == set()


def test_a_named_kernel_compiles_without_a_graph_break():
    flash = rungs.make_causal(SDPBackend.FLASH_ATTENTION)
    attention.use(full=flash, windowed=rungs.chunked)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(
        lambda q, k, v: attention.attend(2 * q, k, v, 32).square().sum(), backend="aot_eager"
    )
    q, k, v = (x.requires_grad_() for x in random_heads(2, 2))
    compiled(q, k, v).backward()
    grads = [x.grad.clone() for x in (q, k, v)]
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1
    for x in (q, k, v):
        x.grad = None
    rungs.causal(2 * q, k, v, 32).square().sum().backward()
    assert all(
        torch.allclose(grad, x.grad, atol=1e-4) for grad, x in zip(grads, (q, k, v), strict=True)
    )


def test_the_self_test_rejects_looking_ahead_a_wrong_reach_and_nan():
    def ahead(q, k, v, window):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    def further(q, k, v, window):
        return rungs.masked(q, k, v, window + 1)

    def undefined(q, k, v, window):
        return rungs.masked(q, k, v, window) * float("nan")

    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 1.5 * grad

    def half_right(q, k, v, window):
        return rungs.masked(WrongGradient.apply(q), k, v, window)

    case = Case(64, 8)
    for wrong in (ahead, further, undefined, half_right):
        assert "differs" in attention.agrees(wrong, CPU, torch.float32, case), wrong
    assert attention.largest_errors(half_right, CPU, torch.float32, case)[0] < 1e-5
    for fine in (case, Case(48, 10, n_head=4, n_kv_head=1, rows=2), Case(64, 64)):
        assert attention.agrees(rungs.chunked, CPU, torch.float32, fine) == ""


def test_the_ladder_steps_over_rungs_that_cannot_be_built_or_are_wrong(monkeypatch):
    def broken(device, max_seq_len):
        raise OSError("no such kernel\nand a second line")

    def ahead(device, max_seq_len):
        return lambda q, k, v, window: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, enable_gqa=True
        )

    made = rungs.RUNGS | {"broken": rungs.Rung(broken), "ahead": rungs.Rung(ahead)}
    monkeypatch.setattr(attention, "RUNGS", made)
    order = {"full": ["ahead", "causal"], "windowed": ["broken", "ahead", "chunked"]}
    monkeypatch.setattr(attention, "ladder", lambda device: order)
    chosen = attention.select(CPU, torch.float32, 64)
    assert (chosen["full"], chosen["windowed"]) == ("causal", "chunked")
    assert "broken (windowed): OSError: no such kernel;" in chosen["rejected"]
    assert chosen["rejected"].count("differs from the formula") == 2
    order["windowed"] = ["broken"]
    with pytest.raises(RuntimeError, match="no attention kernel is right"):
        attention.select(CPU, torch.float32, 64)


def test_a_card_is_offered_only_what_its_generation_can_run(monkeypatch):
    card = torch.device("cuda")
    monkeypatch.setattr(attention, "newer_attention", list)
    orders = {}
    for major in (7, 8, 9):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, major=major: (major, 0)
        )
        orders[major] = attention.ladder(card)
    assert (
        orders[7]
        == attention.ladder(CPU)
        == {"full": ["causal", "masked"], "windowed": ["chunked", "masked"]}
    )
    assert orders[8] == {
        "full": ["causal", "masked"],
        "windowed": ["varlen", "flex", "chunked", "masked"],
    }
    assert orders[9] == {"full": ["cudnn", *orders[8]["full"]], "windowed": orders[8]["windowed"]}
    monkeypatch.setattr(cards.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(attention, "newer_attention", cards.newer_attention)
    newer = {}
    for major in (8, 9, 10, 12):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, major=major: (major, 0)
        )
        newer[major] = [name for name in attention.ladder(card)["windowed"] if name[:2] == "fa"]
    assert newer == {8: [], 9: ["fa3", "fa4"], 10: ["fa4"], 12: []}
    assert list(attention.ladder(card)) == ["windowed", "full"]
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert attention.ladder(card) == attention.ladder(CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["full", "windowed"])
def test_a_real_card_runs_the_first_rung_of_its_ladder(kind):
    card = torch.device("cuda")
    first = attention.ladder(card)[kind][0]
    chosen = attention.select(card, torch.bfloat16, 512)
    assert chosen[kind] == first, chosen["rejected"]
