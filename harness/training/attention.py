"""Causal attention by the fastest kernel that is right on this machine.

In: q (B, H, T, D), k and v (B, Hkv, T, D), a window. Out: (B, H, T, D). `select` walks two ladders
once, before anything is compiled: one for layers that see the whole row, one for layers that see a
window. It keeps the first rung of each whose outputs and gradients agree with the plain formula on
this device; without it `attend` uses plain PyTorch, which runs everywhere. The order is fixed by
published measurements and not by timing here: where a run has frozen no choice, training and both
model servers choose each in a process of its own, and by stopwatch these could differ.
`scripts/gpu_check.py` times every rung and says when the order is wrong for a card. Raises when not
even a dense mask gives what the formula says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.ground.cards import newer_attention
from harness.training.rungs import RUNGS, Attention, causal, chunked

# The generations of cards that run a newer FlashAttention than PyTorch's.
NEWER = {"fa3": (9,), "fa4": (9, 10)}
_full: Attention = causal
_windowed: Attention = chunked


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention over the last `window` positions, the query's own included.

    Fewer key/value heads are shared in groups.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # values come straight from a matrix: autocast's dtype
    return _full(q, k, v, window) if window >= q.size(2) else _windowed(q, k, v, window)


def use(full: Attention, windowed: Attention) -> None:
    """Make `attend` compute layers that see the whole row by `full`, the others by `windowed`."""
    global _full, _windowed
    _full, _windowed = full, windowed


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """The definition, in float32 and without any kernel: what the others are measured against."""
    group, position = q.size(1) // k.size(1), torch.arange(q.size(2), device=q.device)
    distance = position[:, None] - position[None, :]
    scores = q.float() @ k.float().repeat_interleave(group, dim=1).mT / q.size(-1) ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    return scores.softmax(dim=-1) @ v.float().repeat_interleave(group, dim=1)


@dataclass(frozen=True)
class Case:
    """A shape to test a rung at: T positions, a window, heads of queries and of keys, channels."""

    T: int
    window: int
    n_head: int = 2
    n_kv_head: int = 1
    head_dim: int = 64
    rows: int = 1


def largest_errors(
    attention: Attention, device: torch.device, dtype: torch.dtype, case: Case
) -> tuple[float, float]:
    """Compare with the formula on random heads: the largest error of the output, and of gradients.

    Each as a share of the largest value it should have; nan is the largest of all. Heads lie in
    memory as a model's matrices leave them, (rows, T, heads, D).
    """
    generator = torch.Generator().manual_seed(0)
    heads = (case.n_head, case.n_kv_head, case.n_kv_head)
    random = [torch.randn(case.rows, case.T, n, case.head_dim, generator=generator) for n in heads]
    ours = [x.to(device, dtype).requires_grad_() for x in random]
    plain = [x.detach().float().requires_grad_() for x in ours]
    results = []
    for inputs, function in ((ours, attention), (plain, formula)):
        out = function(*(x.transpose(1, 2) for x in inputs), case.window)
        out.float().square().mean().backward()
        results.append([out.detach().float(), *(x.grad.float() for x in inputs)])
    scales = [want.abs().max() for want in results[1]]
    floor = 1e-3 * max(scales[1:])  # a window of one has no gradient for queries and keys
    errors = torch.stack(
        [
            (got - want).abs().max() / max(scale, floor)
            for got, want, scale in zip(*results, scales, strict=True)
        ]
    )
    return float(errors[0]), float(errors[1:].max())


def tolerance(dtype: torch.dtype) -> float:
    """The largest error that rounding explains."""
    return 0.03 if dtype != torch.float32 else 2e-3


def agrees(attention: Attention, device: torch.device, dtype: torch.dtype, case: Case) -> str:
    """Return "" when a rung gives what the formula says, else what is wrong."""
    for error in largest_errors(attention, device, dtype, case):
        if not error < tolerance(dtype):
            return f"differs from the formula by {error:.3g} of its largest value"
    return ""


def ladder(device: torch.device) -> dict[str, list[str]]:
    """Names of the rungs worth trying, best first, for `windowed` and for `full` layers.

    Forward at head_dim 128 and T 2048 on Hopper, published: cuDNN 617 TFLOP/s, FA3 560, flex 389,
    FA2 (varlen) 362. varlen stands before flex all the same: it compiles nothing, which every start
    of a training and of a server would pay for. Windows come first: where they take a newer
    FlashAttention, so does all else that goes by PyTorch's.
    """
    full, windowed = ["causal", "masked"], ["chunked", "masked"]
    if device.type == "cuda" and torch.version.hip is None:
        major = torch.cuda.get_device_capability(device)[0]
        newer = [name for name in newer_attention() if major in NEWER[name]]
        full = (["cudnn"] if major >= 9 else []) + full
        windowed = newer + (["varlen", "flex"] if major >= 8 else []) + windowed
    return {"windowed": windowed, "full": full}


def select(
    device: torch.device,
    dtype: torch.dtype,
    max_seq_len: int,
    frozen: dict[str, str] | None = None,
) -> dict[str, str]:
    """Choose what `attend` uses; return {"full": name, "windowed": name, "rejected": reasons}.

    Called once by the session and by the model server, before compilation. frozen: what the run
    began with, on a card: then nothing is tested. Elsewhere the same machine chooses the same.
    """
    if frozen:
        kinds = ("windowed", "full")
        use(**{kind: RUNGS[frozen[kind]].make(device, max_seq_len) for kind in kinds})
        return frozen | {"rejected": ""}
    windows = {"full": max_seq_len, "windowed": max(1, max_seq_len // 8)}
    chosen, functions, rejected = {}, {}, []
    for kind, names in ladder(device).items():
        for name in names:
            attention, wrong = try_rung(name, device, dtype, max_seq_len, windows[kind])
            if not wrong:
                chosen[kind], functions[kind] = name, attention
                break
            rejected.append(f"{name} ({kind}): {wrong}")
        else:
            reasons = "; ".join(rejected)
            raise RuntimeError(f"no attention kernel is right on this device: {reasons}")
    use(**functions)
    return chosen | {"rejected": "; ".join(rejected)}


def try_rung(
    name: str, device: torch.device, dtype: torch.dtype, max_seq_len: int, window: int
) -> tuple[Attention | None, str]:
    """Build one rung and test it at both usual widths of a head; also why it is no good here."""
    try:
        attention = RUNGS[name].make(device, max_seq_len)
        for head_dim in (64, 128):
            case = Case(max_seq_len, window, head_dim=head_dim)
            if wrong := agrees(attention, device, dtype, case):
                return None, wrong
    except (
        Exception
    ) as error:  # cannot be built, fetched or run here: one rung down, whatever it is
        return None, describe_error(error)
    return attention, ""


def describe_error(error: BaseException) -> str:
    """Type and first line of an exception."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
