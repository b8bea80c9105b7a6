"""Part `attention`: every rung against the float32 formula, and its time at the original's shape.

A task is `<kind>/<rung>/<check>`: kind full or windowed, check the number of a case below or
`time`, `time-<window>`. One task each, so that a rung that is right at one shape and fails at
another shows both.
"""

from __future__ import annotations

import torch

from gpu.settings import Settings
from gpu.timing import milliseconds
from harness.training.attention import Case, largest_errors, tolerance
from harness.training.devices import detect_device
from harness.training.rungs import RUNGS, Attention


def cases(kind: str, T: int) -> list[Case]:
    """Shapes to be right at.

    Long and short rows; one, two and four queries to a key; heads of 64 and 128; windows that fit
    and do not.
    """
    shapes = [(T, 1, 128), (T, 2, 64), (T, 4, 128), (T // 8, 1, 64), (T // 8, 2, 128)]
    reaches = [T // 8, T // 2, 5 * T // 32 + 1, T // 64, 3]  # the third and the last divide nothing
    windows = reaches if kind == "windowed" else [shape[0] for shape in shapes]
    return [
        Case(length, window, n_head=4, n_kv_head=4 // group, head_dim=head_dim, rows=2)
        for (length, group, head_dim), window in zip(shapes, windows, strict=True)
    ]


def list_tasks(settings: Settings) -> list[str]:
    """All of it, cheap rungs first.

    flex compiles for every shape anew.
    """
    tasks = []
    for name in sorted(RUNGS, key=lambda name: name == "flex"):
        for kind in ("full", "windowed"):
            if getattr(RUNGS[name], kind):
                checks = [str(number) for number in range(len(cases(kind, settings.max_seq_len)))]
                times = (
                    ["time"]
                    if kind == "full"
                    else [f"time-{window}" for window in settings.short_windows]
                )
                tasks += [f"{kind}/{name}/{check}" for check in times + checks]
    return tasks


def run(task: str, settings: Settings) -> dict:
    """Errors of one case, or milliseconds."""
    kind, name, check = task.split("/")
    device = detect_device(settings.device)
    torch._dynamo.reset()  # flex would stop compiling after some shapes
    # Anew each time: it also says which FlashAttention this process has.
    attention = RUNGS[name].make(device.torch_device, settings.max_seq_len)
    if check.startswith("time"):
        window = int(check.partition("-")[2] or settings.max_seq_len)
        return time_rung(attention, device.torch_device, device.torch_dtype, window, settings)
    case = cases(kind, settings.max_seq_len)[int(check)]
    forward, backward = largest_errors(attention, device.torch_device, device.torch_dtype, case)
    limit = tolerance(device.torch_dtype)
    return {
        "case": str(case),
        "right": forward < limit and backward < limit,
        "forward": forward,
        "backward": backward,
    }


def time_rung(
    attention: Attention, device: torch.device, dtype: torch.dtype, window: int, settings: Settings
) -> dict:
    """Milliseconds forward, and forward with backward; TFLOP/s forward by the positions seen."""
    rows, heads, head_dim = settings.attention_shape
    T = settings.max_seq_len
    torch.manual_seed(0)
    inputs = [
        torch.randn(rows, T, heads, head_dim, device=device, dtype=dtype).requires_grad_()
        for _ in range(3)
    ]

    def forward() -> torch.Tensor:
        return attention(*(x.transpose(1, 2) for x in inputs), window)

    grad = torch.randn_like(forward())
    with torch.no_grad():
        forward_ms = milliseconds(forward, settings.timing_seconds, settings.device)
    both_ms = milliseconds(
        lambda: torch.autograd.grad(forward(), inputs, grad),
        settings.timing_seconds,
        settings.device,
    )
    seen = window * (window + 1) / 2 + (T - window) * window  # pairs of positions in one row
    flops = 4 * rows * heads * head_dim * seen
    return {
        "window": window,
        "forward_ms": forward_ms,
        "both_ms": both_ms,
        "tflops": flops / forward_ms / 1e9,
    }


def ranking(rows: dict[str, dict]) -> dict[str, list[str]]:
    """Rungs of each kind that are right in every case and were timed, fastest first.

    The time is that of forward and backward, all windows together.
    """
    ranked = {}
    for kind in ("full", "windowed"):
        times: dict[str, float] = {}
        for name in RUNGS:
            own = [row for task, row in rows.items() if task.startswith(f"{kind}/{name}/")]
            if own and all(row.get("right", "both_ms" in row) for row in own):
                times[name] = sum(row.get("both_ms", 0.0) for row in own)
        ranked[kind] = sorted(times, key=times.get)
    return ranked
