"""Every way to compute causal attention that the ladder in `attention` chooses from.

Each rung is a function of q (B, H, T, D), k and v (B, Hkv, T, D) and a window -> (B, H, T, D). Some
only take layers that see the whole row, some only windows. Nothing is fetched, compiled or tried
before a rung's maker is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
    sdpa_kernel,
)

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def masked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Position i sees i - window + 1 .. i, through a dense mask. Right everywhere, and slow."""
    position = torch.arange(q.size(2), device=q.device)
    distance = position[:, None] - position[None, :]
    mask = (distance >= 0) & (distance < window)
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def causal(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Full attention through whichever fused kernel PyTorch prefers; the window is at least T."""
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def make_causal(backend: SDPBackend) -> Attention:
    """Full attention through one named kernel of PyTorch's; a RuntimeError where it cannot run."""

    def only(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        with sdpa_kernel(backend):  # torch.compile traces it without a graph break
            return causal(q, k, v, window)

    return only


def chunked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Windowed attention in blocks of `window`; each sees its own keys and those of the one before.

    Costs T * 2 * window products instead of T * T. Where T is no multiple of the window, `masked`.
    Blocks are laid out as heads, because the fused kernels take four dimensions and no more.
    """
    B, H, T, D = q.shape
    if T % window or window == T:
        return masked(q, k, v, window)
    n = T // window
    if k.size(1) != H:
        k, v = (x.repeat_interleave(H // x.size(1), dim=1) for x in (k, v))
    blocks = (with_previous(x.reshape(B, H, n, window, D)) for x in (k, v))
    keys, values = (x.reshape(B, H * n, 2 * window, D) for x in blocks)
    row = torch.arange(window, device=q.device)[:, None] + window
    column = torch.arange(2 * window, device=q.device)[None, :]
    mask = (column <= row) & (column > row - window)
    first = mask & (column >= window)  # the first block has no block before it
    mask = torch.cat((first[None], mask[None].expand(n - 1, -1, -1))).repeat(H, 1, 1)
    queries = q.reshape(B, H * n, window, D)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.reshape(B, H, T, D)


def with_previous(blocks: Tensor) -> Tensor:
    """(B, H, n, window, D) -> (B, H, n, 2 * window, D): each after the one before, or zeros."""
    return torch.cat((F.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :, : blocks.size(2)], blocks), dim=3)


def make_varlen(implementation: str = "") -> Attention:
    """Attention through PyTorch's FlashAttention-2, whose packed rows take a window.

    implementation: FA3 or FA4, installed beside PyTorch, in its place: for all of this process,
    until the next of these rungs is made.
    """
    from torch.nn.attention.varlen import varlen_attn

    if implementation:
        activate_flash_attention_impl(implementation)
    elif current_flash_attention_impl():
        restore_flash_attention_impl()

    def varlen(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        B, H, T, D = q.shape
        reach = (window - 1, 0) if window < T else (-1, 0)
        starts = torch.arange(0, (B + 1) * T, T, device=q.device, dtype=torch.int32)
        rows = (x.transpose(1, 2).reshape(B * T, x.size(1), D) for x in (q, k, v))
        grouped = {"enable_gqa": True} if k.size(1) != H else {}
        out = varlen_attn(*rows, starts, starts, T, T, window_size=reach, **grouped)
        return out.view(B, T, H, D).transpose(1, 2)

    return varlen


def make_flex(device: torch.device, max_seq_len: int) -> Attention:
    """Windowed attention through a compiled flex_attention, which skips what no query sees.

    The masks of the usual windows are made here, so that a compiled model finds them and its graph
    does not break.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    masks: dict[tuple[int, int, str], object] = {}

    def mask(T: int, window: int, where: torch.device):
        def sees(b, h, i, j):
            return (i >= j) & (i - j < window)

        key = (T, window, str(where))
        if key not in masks:
            masks[key] = create_block_mask(sees, None, None, T, T, device=where)
        return masks[key]

    def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        block_mask = mask(q.size(2), window, q.device)
        return compiled(q, k, v, block_mask=block_mask, enable_gqa=q.size(1) != k.size(1))

    for share in (2, 4, 8, 16):
        mask(max_seq_len, max(1, max_seq_len // share), torch.empty(0, device=device).device)
    return flex


@dataclass(frozen=True)
class Rung:
    """One way to compute attention, and the layers it can take.

    make(device, max_seq_len) raises whatever says that it is not to be had here.
    """

    make: Callable[[torch.device, int], Attention]
    full: bool = False
    windowed: bool = False


# Every rung there is, named as tables and run records name it.
RUNGS = {
    "cudnn": Rung(lambda device, T: make_causal(SDPBackend.CUDNN_ATTENTION), full=True),
    "flash": Rung(lambda device, T: make_causal(SDPBackend.FLASH_ATTENTION), full=True),
    "efficient": Rung(lambda device, T: make_causal(SDPBackend.EFFICIENT_ATTENTION), full=True),
    "causal": Rung(lambda device, T: causal, full=True),
    "fa3": Rung(lambda device, T: make_varlen("FA3"), full=True, windowed=True),
    "fa4": Rung(lambda device, T: make_varlen("FA4"), full=True, windowed=True),
    "varlen": Rung(lambda device, T: make_varlen(), windowed=True),
    "flex": Rung(make_flex, windowed=True),
    "chunked": Rung(lambda device, T: chunked, windowed=True),
    "masked": Rung(lambda device, T: masked, full=True, windowed=True),
}
