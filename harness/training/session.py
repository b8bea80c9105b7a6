"""What a train.py gets from the harness: device, seed, batches, clock, log, a place for weights.

In: the run's request file (named by $AUTORESEARCH_RUN) and a socket to the runner. Out: events on
the socket, weights.safetensors in the working folder. The runner hands over the training rows, as
an open file, when it hears that the start-up is over; so nothing is trained on before the clock
runs. Run by hand, without a runner, a train.py is passed on to `python -m harness train`, which
makes one. It measures no score: the runner does, from the weights, after this process is gone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_model

from harness.data.loader import TrainRows
from harness.training import attention
from harness.training.clock import CoreClock, WallClock, make_clock, own_cpu_seconds
from harness.training.devices import Device, detect_device

RUN_VARIABLE = "AUTORESEARCH_RUN"
EVENTS_VARIABLE = "AUTORESEARCH_EVENTS_FD"
WEIGHTS_NAME = "weights.safetensors"
LOGGED_STEPS = 500  # about as many step events as one run sends, however many steps it takes


class NonFiniteLoss(RuntimeError):
    """The training loss became nan or infinite; the run ends with status `nan`."""


def copy_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now, in main memory; what names one tensor twice still does.

    Tensors of a class that train.py wrote become plain ones: writing them calls nothing of it.
    """
    weights: dict[str, torch.Tensor] = {}
    copies: dict[tuple | str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        place = place if tensor.numel() else name
        if place not in copies:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[place] = copy.copy_(tensor.detach())
        weights[str(name)] = copies[place]
    return weights


class Session:
    """One training run, seen from inside it. Times are in seconds, losses in nats."""

    def __init__(self, request: dict, events_fd: int, device: Device) -> None:
        self.request = request
        self.seed: int = request["seed"]
        self.budget_seconds: float = request["budget_seconds"]
        self._clock_step_seconds: float = request.get("clock_step_seconds") or 0.0
        self.max_seq_len: int = request["max_seq_len"]
        self.vocab_size: int = request["n_vocab"]
        self.device = device.torch_device
        self.dtype = device.torch_dtype
        self._peak_flops = device.peak_flops
        self._events_fd = events_fd
        self._opened = time.monotonic()
        self._clock: WallClock | CoreClock | None = None
        self._rows: TrainRows | None = None
        self._pending: tuple[dict, torch.Tensor] | None = None
        self._next_log = 0.0
        self._steps = self._tokens = self._epoch = 0

    def _send(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event} | fields, ensure_ascii=False)
        os.write(self._events_fd, line.encode() + b"\n")

    def autocast(self) -> contextlib.AbstractContextManager:
        """The mixed precision that the profile names; nothing in float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def compile(self, function: Callable) -> Callable:
        """The function compiled, where that was found to work here; else the function itself."""
        return torch.compile(function, dynamic=False) if self.request["compile"] else function

    def leave_eager(self, function: Callable) -> Callable:
        """The function, left out of what is compiled around it."""
        return torch.compiler.disable(function) if self.request["compile"] else function

    def device_batch_size(self, wanted: int, total_batch_tokens: int) -> int:
        """Return rows per forward pass: `wanted` at most, and no more than fit this device.

        They divide the batch into equal parts. total_batch_tokens: of one optimizer step, which
        accumulates the gradients of total_batch_tokens / (rows * max_seq_len) passes: the batch
        stays the same on every device. Raises ValueError for a batch of no whole number of rows.
        """
        rows, rest = divmod(total_batch_tokens, self.max_seq_len)
        if rows < 1 or rest or wanted < 1:
            raise ValueError(
                f"cannot make a batch of {total_batch_tokens} tokens from rows of "
                f"{self.max_seq_len} tokens, {wanted} at a time: the batch must be a whole number "
                "of rows, one or more, and so must what is taken at a time"
            )
        most = min(wanted, rows, self.request.get("device_batch_limit") or rows)
        size = next(size for size in range(most, 0, -1) if rows % size == 0)
        # before it is tried: what is too much is repeated with fewer
        self._send("batch", device_batch_size=size)
        return size

    def batches(self, device_batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless (inputs, targets), each (device_batch_size, max_seq_len) int64 on the device.

        Target -1 is not scored.
        """
        if self._rows is None:
            raise RuntimeError(
                "call session.start() before taking batches: all training is on the clock"
            )
        batches = self._rows.batches(device_batch_size, self.device, self.seed)
        for inputs, targets, self._epoch in batches:
            yield inputs, targets

    def start(self) -> None:
        """Start the clock, and get the training rows.

        Everything before (building, compiling, warming up on dummy data) is start-up.
        """
        if self._clock is not None:
            raise RuntimeError("the clock runs already: call session.start() once")
        gc.collect()
        gc.freeze()  # what building and compiling left is not looked through again on the clock
        self._synchronize()
        self._send("ready", startup_seconds=time.monotonic() - self._opened)
        self._rows = self._receive_rows()
        self._clock = make_clock(self.request, own_cpu_seconds)

    def _receive_rows(self) -> TrainRows:
        """The training rows, an open file that the runner sends when it has heard "ready"."""
        with socket.socket(fileno=os.dup(self._events_fd)) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not descriptors:
            raise RuntimeError("the runner sent no training rows: it has ended")
        file = os.fdopen(descriptors[0], "rb")
        return TrainRows(file, self.max_seq_len, bos_id=self.vocab_size - 1)

    @property
    def progress(self) -> float:
        """Share of the training budget used up, 0 at the start, 1 and more when it is over."""
        if self._clock is None:
            raise RuntimeError(
                "call session.start() before asking for progress: the clock is not running yet"
            )
        if self._clock_step_seconds:  # for tests: as many steps on every machine, however busy
            return self._steps * self._clock_step_seconds / self.budget_seconds
        return self._clock.read().charged / self.budget_seconds

    def log(self, step: int, train_loss: torch.Tensor, tokens: int, **fields: float) -> None:
        """Note one optimizer step.

        train_loss: scalar tensor, mean nats per token; tokens: how many the step trained on. The
        loss is read one logged step late, so that the device never waits. Raises NonFiniteLoss.
        """
        self._steps, self._tokens = step + 1, self._tokens + tokens
        progress = self.progress
        if progress < self._next_log:
            return
        self._flush_log()
        self._next_log = progress + 1 / LOGGED_STEPS
        rate = self._tokens / (progress * self.budget_seconds)
        event = {
            "step": step,
            "progress": round(progress, 5),
            "tokens": self._tokens,
            "tok_per_sec": round(rate, 1),
        }
        event |= {name: float(value) for name, value in fields.items()}
        self._pending = (event, train_loss.detach().clone())

    def _flush_log(self) -> None:
        if self._pending is None:
            return
        (event, loss), self._pending = self._pending, None
        value = float(loss)
        if not math.isfinite(value):
            raise NonFiniteLoss(f"training loss is {value} at step {event['step']}")
        self._send("step", **event, train_loss=round(value, 5))

    def finish(self, model: torch.nn.Module, depth: int, flops_per_token: float = math.nan) -> None:
        """Copy the weights, stop the clock, write the copy (tied weights once) and report.

        depth and flops_per_token are for the summary only. After the stop no code of train.py is
        called: what it might compute then would be training that nobody counts.
        """
        self._flush_log()
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        weights = copy_weights(model)
        num_params = sum(parameter.numel() for parameter in model.parameters())
        facts = {"num_params": num_params, "depth": int(depth)} | self._memory()
        flops_per_token = float(flops_per_token)
        self._synchronize()
        training_seconds = self.progress * self.budget_seconds
        self._send("stop", training_seconds=training_seconds)
        save_model(SimpleNamespace(state_dict=lambda: weights), "weights.tmp")
        os.replace("weights.tmp", WEIGHTS_NAME)
        # no second has passed where steps are the clock and none was made
        tok_per_sec = self._tokens / training_seconds if training_seconds else 0.0
        mfu = 100 * flops_per_token * tok_per_sec / self._peak_flops
        self._send(
            "finish",
            training_seconds=training_seconds,
            num_steps=self._steps,
            total_tokens=self._tokens,
            tok_per_sec=tok_per_sec,
            epochs=self._epoch,
            mfu_percent=mfu if math.isfinite(mfu) else None,
            **facts,
        )

    def _memory(self) -> dict[str, object]:
        kind = "vram"
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
        elif self.device.type == "mps":
            peak = torch.mps.driver_allocated_memory()
        else:
            kind, peak = "rss", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peak *= 1 if sys.platform == "darwin" else 2**10
        return {"memory_mb": peak / 2**20, "memory_kind": kind}

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()


def open_session(train_py: str) -> Session:
    """Return the session of this process; by hand, hand the file to `python -m harness train`."""
    request_path = os.environ.get(RUN_VARIABLE)
    if request_path is None:
        command = ["-m", "harness", "train", os.path.abspath(train_py), *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, *command])
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    device = detect_device(request["device"], request["dtype"])
    torch.manual_seed(request["seed"])
    torch.set_float32_matmul_precision("high")
    session = Session(request, int(os.environ[EVENTS_VARIABLE]), device)
    frozen = request.get("attention")
    chosen = attention.select(session.device, session.dtype, session.max_seq_len, frozen)
    facts = {"device": device.name, "kind": device.kind, "dtype": device.dtype}
    session._send("open", **facts, attention=chosen)
    return session
