"""Part `profile`: where one step's time goes, by kernels.

The template runs as in part `training`; for PROFILED_STEPS further steps the device is waited for
at the borders of loading, forward, backward and optimizer, and a marker put there, so that a
kernel's time says which of them it belongs to. torch.profiler's trace is then read by
`split_trace`. Idle is what remains of a step measured without profiler and without waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from gpu.settings import Settings
from gpu.split import split_trace
from gpu.training import LEAST_STEPS, UNTIMED_STEPS, MeasuredSession, train_once

PROFILED_STEPS = 2


def run(task: str, settings: Settings) -> dict:
    """The split at one shape, attention as the ladder chooses it."""
    constants = dict(settings.shapes[task])
    while True:
        row = train_once(task, constants, "ladder", settings, MarkedSession)
        if not row.get("out_of_memory") or constants["DEVICE_BATCH_SIZE"] == 1:
            return row if not row.get("out_of_memory") else {"failed": row["out_of_memory"]}
        constants["DEVICE_BATCH_SIZE"] //= 2


class MarkedSession(MeasuredSession):
    """Measures as its parent does, then profiles some steps before it ends."""

    profiler: profile | None = None
    ended = False
    profiled = 0

    @property
    def progress(self) -> float:
        """As measured, but over only when the profile is."""
        return 1.0 if self.ended else min(super().progress, 0.99)

    def mark(self, name: str) -> None:
        if self.profiler is not None:
            self.wait()
            with record_function(f"mark:{name}"):
                pass

    def batches(self, device_batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        source = super().batches(device_batch_size)
        while True:
            self.mark("load")
            batch = next(source)
            self.mark("forward")
            yield batch

    def log(self, step: int, train_loss: torch.Tensor, tokens: int, **fields: float) -> None:
        if self.profiler is None:
            super().log(step, train_loss, tokens, **fields)
            if self.steps >= LEAST_STEPS and super().progress >= 1.0:
                self.measured = {"timed_to": self.wait(), "steps": self.steps}
                self.begin()
            return
        self.mark("log")
        self.profiled += 1
        if self.profiled == PROFILED_STEPS:
            self.end()

    def begin(self) -> None:
        """Start the profiler and have Tensor.backward mark its borders."""
        plain, activities = torch.Tensor.backward, [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)

        def backward(tensor: torch.Tensor, *arguments: object, **options: object) -> None:
            self.mark("backward")
            plain(tensor, *arguments, **options)
            self.mark("update")

        self.plain_backward, torch.Tensor.backward = plain, backward
        self.profiler = profile(activities=activities, record_shapes=True)
        self.profiler.start()
        self.mark("log")

    def end(self) -> None:
        self.profiler.stop()
        torch.Tensor.backward = self.plain_backward
        self.ended = True

    def finish(
        self,
        model: torch.nn.Module,
        depth: int,
        flops_per_token: float = float("nan"),
        **fields: object,
    ) -> None:
        """Facts of the measured steps, and the split of the profiled ones."""
        trace_path = self.settings.folder / "trace.json"
        self.profiler.export_chrome_trace(str(trace_path))
        events = json.loads(trace_path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
        step_ms = (
            1000
            * (self.measured["timed_to"] - self.timed_from)
            / (self.measured["steps"] - UNTIMED_STEPS)
        )
        sizes = {self.vocab_size, *padded_sizes(model, self.vocab_size)}
        split = split_trace(events, sizes, on_device=self.device.type == "cuda")
        self.facts = {
            "step_ms": step_ms,
            "split_ms": {name: ms / PROFILED_STEPS for name, ms in split.milliseconds.items()},
        } | {
            "loader_host_ms": split.loader_host_ms / PROFILED_STEPS,
            "unclassified": split.unclassified,
        }


def padded_sizes(model: torch.nn.Module, vocab_size: int) -> set[int]:
    """The vocabulary as the model's matrices have it: a first dimension of at most 1/8 more."""
    firsts = {p.shape[0] for p in model.parameters() if p.dim() == 2}
    return {size for size in firsts if vocab_size <= size <= vocab_size * 9 // 8}
