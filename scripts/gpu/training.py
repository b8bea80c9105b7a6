"""Part `training`: the real template at a named shape, driven through the session it asks for.

A task is `<shape>/ladder` (attention as a run would choose it), `<shape>/ladder/long`, or
`<shape>/<full rung>+<windowed rung>`. The session below is the harness's, except that it stops
after some seconds, measures between synchronised points after the first steps, and writes no
weights.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import runpy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch._dynamo.utils import counters

import harness.training.session as session_module
from gpu.settings import Settings, template_text
from harness.data.loader import TrainRows
from harness.training import attention
from harness.training.devices import Device, detect_device
from harness.training.rungs import RUNGS
from harness.training.session import Session

UNTIMED_STEPS = 2  # after warm-up: what the first real batches still allocate
LEAST_STEPS = 6


def run(task: str, settings: Settings) -> dict:
    """Train at one shape with one choice of attention.

    The device batch is halved while memory runs out.
    """
    shape, choice, *long = task.split("/")
    if long:
        settings = replace(settings, train_seconds=settings.long_seconds)
    constants = dict(settings.shapes[shape])
    while True:
        row = train_once(shape, constants, choice, settings, MeasuredSession)
        if not row.get("out_of_memory"):
            return row
        if constants["DEVICE_BATCH_SIZE"] == 1:
            return {"failed": f"out of memory at a device batch of one row: {row['out_of_memory']}"}
        constants["DEVICE_BATCH_SIZE"] //= 2


def train_once(
    shape: str,
    constants: dict,
    choice: str,
    settings: Settings,
    session_class: type[MeasuredSession],
) -> dict:
    """Run the template once as __main__.

    Returns the session's facts, or {"out_of_memory": message}.
    """
    train_py = settings.folder / f"train_{shape}.py"
    train_py.write_text(template_text(constants), encoding="utf-8")
    fresh_start(settings.device)
    device = detect_device(settings.device)
    chosen = choose_attention(choice, device, settings)
    session = session_class(make_request(settings, device), device, settings)
    # The template imports it by name when it runs.
    session_module.open_session = lambda path: session
    try:
        runpy.run_path(str(train_py), run_name="__main__")
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0][:200]}
    if not session.facts:
        return {"failed": "the template ended without session.finish(model)"}
    return (
        {
            "shape": shape,
            "device_batch": constants["DEVICE_BATCH_SIZE"],
            "total_batch": constants["TOTAL_BATCH_SIZE"],
        }
        | chosen
        | session.facts
    )


def fresh_start(device: str) -> None:
    """Nothing of the run before in memory, in the compiler or in its counters."""
    gc.collect()
    torch._dynamo.reset()
    counters.clear()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(1)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def choose_attention(choice: str, device: Device, settings: Settings) -> dict:
    """Set what `attend` uses: by the ladder, or as named."""
    if choice == "ladder":
        return {
            "choice": choice,
            **attention.select(device.torch_device, device.torch_dtype, settings.max_seq_len),
        }
    names = dict(zip(("full", "windowed"), choice.split("+"), strict=True))
    attention.use(
        **{
            kind: RUNGS[name].make(device.torch_device, settings.max_seq_len)
            for kind, name in names.items()
        }
    )
    return {"choice": choice, **names}


def make_request(settings: Settings, device: Device) -> dict:
    """What the runner would write into the run's request file."""
    return {
        "train_dir": str(settings.train_dir),
        "n_vocab": TrainRows.of_folder(settings.train_dir).bos_id + 1,
        "max_seq_len": settings.max_seq_len,
        "seed": 1,
        "budget_seconds": settings.train_seconds,
        "device": device.kind,
        "dtype": device.dtype,
        "compile": settings.compile,
        "threads": None,
    }


def compiled_graphs() -> int:
    return counters["stats"]["unique_graphs"]


class MeasuredSession(Session):
    """The template's session, timed."""

    def __init__(self, request: dict, device: Device, settings: Settings) -> None:
        super().__init__(request, os.open(os.devnull, os.O_WRONLY), device)
        self.settings, self.facts, self.known = settings, {}, device
        self.losses: list[float] = []
        self.latest: torch.Tensor | None = None
        self.tokens = self.steps = 0
        self.opened = time.monotonic()

    def _receive_rows(self) -> TrainRows:
        """From the folder: no runner hands them over here."""
        return TrainRows.of_folder(self.settings.train_dir)

    def wait(self) -> float:
        """The time when the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def start(self) -> None:
        super().start()
        self.began = self.wait()
        self.graphs_at_start = compiled_graphs()

    @property
    def progress(self) -> float:
        """As the session's; but never at the end before there are some steps to measure."""
        share = (time.monotonic() - self.began) / self.settings.train_seconds
        return share if self.steps >= LEAST_STEPS else min(share, 0.99)

    def log(self, step: int, train_loss: torch.Tensor, tokens: int, **fields: float) -> None:
        """Count the step, and read the loss of the one before.

        The session reads it so too: the device need not wait.
        """
        if self.latest is not None:
            self.losses.append(float(self.latest))
        self.latest = train_loss.detach().clone()
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        if self.steps == UNTIMED_STEPS:
            self.timed_from, self.tokens_before = self.wait(), self.tokens

    def finish(
        self,
        model: torch.nn.Module,
        depth: int,
        flops_per_token: float = math.nan,
        **fields: object,
    ) -> None:
        """Keep the figures; write nothing."""
        seconds = self.wait() - self.timed_from
        rate = (self.tokens - self.tokens_before) / seconds
        peak, broken = self.known.peak_flops, counters["graph_break"]
        self.facts = {
            "depth": depth,
            "params_M": sum(p.numel() for p in model.parameters()) / 1e6,
            "flops_per_token_M": flops_per_token / 1e6,
            "steps": self.steps,
            "step_ms": 1000 * seconds / (self.steps - UNTIMED_STEPS),
            "tok_per_sec": rate,
            "model_tflops": flops_per_token * rate / 1e12,
            "mfu_percent": 100 * flops_per_token * rate / peak if peak == peak else None,
            "peak_mb": self.peak_mb(),
            "startup_seconds": self.began - self.opened,
            "first_loss": self.losses[0],
            "last_loss": float(self.latest),
            "graphs": compiled_graphs(),
            "graphs_on_the_clock": compiled_graphs() - self.graphs_at_start,
            "graph_breaks": sum(broken.values()),
            "graph_break_reasons": [reason.splitlines()[0][:160] for reason in broken][:3],
        }

    def peak_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def list_tasks(settings: Settings, ranked: dict[str, list[str]]) -> list[str]:
    """The ladder's choice at both shapes, then other right rungs at the original's.

    The rest of the time decides how many.
    """
    full, windowed = ranked["full"], ranked["windowed"]
    tasks = [f"{shape}/ladder" for shape in settings.shapes]
    if full and windowed:
        pairs = [(full[0], name) for name in windowed] + [(name, windowed[0]) for name in full[1:]]
        tasks += [f"{next(iter(settings.shapes))}/{one}+{other}" for one, other in pairs]
    return tasks


def weights_for(train_py: Path, n_vocab: int, max_seq_len: int) -> torch.nn.Module:
    """A model of the given file as it is before training."""
    return runpy.run_path(str(train_py))["build_model"](n_vocab, max_seq_len)
