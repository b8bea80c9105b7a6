"""Causal attention by the fastest kernel that is right on this machine.

In: q (B, H, T, D), k and v (B, Hkv, T, D), a window. Out: (B, H, T, D). `select` walks a ladder once, before anything is compiled,
and keeps the first rung whose outputs and gradients agree with the plain formula on this device; without it `attend` uses
plain PyTorch, which runs everywhere. Raises when not even a dense mask gives what the formula says.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Position i sees positions i - window + 1 .. i, through a dense mask. Right everywhere, slow everywhere."""
    T = q.size(2)
    position = torch.arange(T, device=q.device)
    distance = position[:, None] - position[None, :]
    mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.size(1) != k.size(1))


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Full causal attention through PyTorch's fused kernels; the window is at least T."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


def chunked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Windowed attention in blocks of `window`: each block of queries sees its own and the previous block of keys.

    Costs T * 2 * window products instead of T * T. Needs T to be a multiple of the window, else falls to `masked`.
    """
    B, H, T, D = q.shape
    if T % window or window == T:
        return masked(q, k, v, window)
    n = T // window
    if k.size(1) != H:
        k, v = (x.repeat_interleave(H // x.size(1), dim=1) for x in (k, v))
    blocks = [x.reshape(B, H, n, window, D) for x in (q, k, v)]
    keys, values = (torch.cat((F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :n], x), dim=3) for x in blocks[1:])
    row = torch.arange(window, device=q.device)[:, None] + window
    column = torch.arange(2 * window, device=q.device)[None, :]
    mask = (column <= row) & (column > row - window)
    first = mask & (column >= window)  # the first block has no block before it
    mask = torch.cat((first[None], mask[None].expand(n - 1, -1, -1)))
    return F.scaled_dot_product_attention(blocks[0], keys, values, attn_mask=mask).reshape(B, H, T, D)


def make_flex(device: torch.device, max_seq_len: int) -> Attention:
    """Windowed attention through a compiled flex_attention, whose block mask skips what no query sees.

    The masks of the usual windows are made here, so that a compiled model finds them and its graph does not break.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    masks: dict[tuple[int, int, str], object] = {}

    def mask(T: int, window: int, where: torch.device):
        key = (T, window, str(where))
        if key not in masks:
            masks[key] = create_block_mask(
                lambda b, h, i, j: (i >= j) & (i - j < window), None, None, T, T, device=where
            )
        return masks[key]

    def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        block_mask = mask(q.size(2), window, q.device)
        return compiled(q, k, v, block_mask=block_mask, enable_gqa=q.size(1) != k.size(1))

    for share in (2, 4, 8, 16):
        mask(max_seq_len, max(1, max_seq_len // share), torch.empty(0, device=device).device)
    return flex


def make_fa3() -> Attention:
    """FlashAttention-3 for Hopper, as packaged for the `kernels` library; windowed and full."""
    kernel = importlib.import_module("kernels").get_kernel("kernels-community/flash-attn3")
    interface = kernel.flash_attn_interface

    def fa3(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
        reach = (window - 1, 0) if window < q.size(2) else (-1, -1)
        out = interface.flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), causal=True, window_size=reach)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return fa3


_full: Attention = causal
_windowed: Attention = chunked


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention over the last `window` positions, the query's own included. Fewer key/value heads are shared in groups."""
    q, k = q.to(v.dtype), k.to(v.dtype)  # values come straight from a matrix: the dtype of autocast
    return _full(q, k, v, window) if window >= q.size(2) else _windowed(q, k, v, window)


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """The definition, in float32 and without any kernel: what the others are measured against."""
    T, group = q.size(2), q.size(1) // k.size(1)
    distance = torch.arange(T, device=q.device)[:, None] - torch.arange(T, device=q.device)[None, :]
    scores = q.float() @ k.float().repeat_interleave(group, dim=1).mT / q.size(-1) ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    return scores.softmax(dim=-1) @ v.float().repeat_interleave(group, dim=1)


def agrees(
    attention: Attention, device: torch.device, dtype: torch.dtype, max_seq_len: int, window: int, head_dim: int = 64
) -> str:
    """Compare outputs and gradients with the formula on random heads, two queries to one key; return "" or what is wrong."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 2, max_seq_len, head_dim), (1, 1, max_seq_len, head_dim), (1, 1, max_seq_len, head_dim))
    ours = [torch.randn(s, generator=generator).to(device, dtype).requires_grad_() for s in shapes]
    plain = [x.detach().float().requires_grad_() for x in ours]
    results = []
    for inputs, function in ((ours, attention), (plain, formula)):
        out = function(*inputs, window)
        out.float().square().mean().backward()
        results.append([out.float(), *(x.grad.float() for x in inputs)])
    tolerance = 0.03 if dtype != torch.float32 else 2e-3
    for got, want in zip(*results, strict=True):
        error = float(((got - want).abs().max() / (want.abs().max() + 1e-12)).detach())
        if not error < tolerance:
            return f"differs from the formula by {error:.3g} of its largest value"
    return ""


def ladder(device: torch.device, max_seq_len: int) -> list[tuple[str, Callable[[], Attention], bool]]:
    """Rungs worth trying on a device, best first: (name, maker, also for full layers)."""
    rungs: list[tuple[str, Callable[[], Attention], bool]] = []
    if device.type == "cuda" and torch.version.hip is None:
        major = torch.cuda.get_device_capability(device)[0]
        if major == 9 and importlib.util.find_spec("kernels"):
            rungs.append(("fa3", make_fa3, True))
        if major >= 8:
            rungs.append(("flex", lambda: make_flex(device, max_seq_len), False))
    return [*rungs, ("chunked", lambda: chunked, False), ("masked", lambda: masked, False)]


def select(device: torch.device, dtype: torch.dtype, max_seq_len: int, window: int | None = None) -> dict[str, str]:
    """Choose the kernels `attend` will use; return {"full": name, "windowed": name, "rejected": reasons}.

    Called once by the session and by the model server, before compilation, with the same result on the same machine.
    """
    global _full, _windowed
    window = window or max(1, max_seq_len // 8)
    rejected: list[str] = []
    for name, make, also_full in ladder(device, max_seq_len):
        attention = try_rung(name, make, also_full, (device, dtype, max_seq_len), window, rejected)
        if attention is None:
            continue
        full = attention if also_full else causal if not wrong_full(causal, device, dtype, max_seq_len) else masked
        _windowed, _full = attention, full
        return {"full": name if also_full else full.__name__, "windowed": name, "rejected": "; ".join(rejected)}
    raise RuntimeError("no attention kernel is right on this device: " + "; ".join(rejected))


def wrong_full(attention: Attention, device: torch.device, dtype: torch.dtype, max_seq_len: int) -> str:
    """What is wrong with a kernel on full layers, for both usual widths of a head; "" for nothing."""
    return agrees(attention, device, dtype, max_seq_len, max_seq_len) or agrees(
        attention, device, dtype, max_seq_len, max_seq_len, 128
    )


def try_rung(
    name: str,
    make: Callable[[], Attention],
    also_full: bool,
    where: tuple[torch.device, torch.dtype, int],
    window: int,
    rejected: list[str],
) -> Attention | None:
    """Build and test one rung; None, with the reason added to rejected, when it is not right here."""
    try:
        attention = make()
        wrong = agrees(attention, *where, window) or agrees(attention, *where, window, 128)
        if also_full and not wrong:
            wrong = wrong_full(attention, *where)
    except (
        Exception
    ) as error:  # a kernel that cannot be built, fetched or run here is one rung down, whatever its reason
        wrong = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    if wrong:
        rejected.append(f"{name}: {wrong}")
    return None if wrong else attention
