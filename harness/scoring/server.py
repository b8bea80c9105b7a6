"""The model server: a fresh process that runs a candidate's model.

It returns one loss per token, or logits at one position of each row. In, on stdin: one JSON header
line, then per batch a sequence word and, in mode `losses`, rows (B, T + 1) uint16; in mode
`logits`, inputs (B, T) uint16 and positions (B,) uint16. Out, on the real stdout: one JSON line
when the model is loaded, then per batch the sequence word and losses (B, T) or logits (B, n_vocab),
float32. The candidate's code lives in here, so nothing that leaves here is believed beyond being
numbers: losses are checked against logits of another such process, which never sees their targets.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import struct
import sys
import types
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model

from harness.ground.parent import die_with_parent
from harness.ground.syscalls import refuse_calls
from harness.training import attention

SEQUENCE = struct.Struct("<I")
# Of logits that are in float32 and in the softmax at a time: those of a whole batch would be a
# run's largest tensors.
LOSS_ROWS = 4
FILE_CAP_BYTES = 64 * 2**20  # of any file that this process writes, its log included


class ContractError(ValueError):
    """A model does not give what train.py promises."""


def claim_channel() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for ourselves, safe from what a candidate prints."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def import_candidate(path: str) -> types.ModuleType:
    """Import a train.py by path, without running its training."""
    spec = importlib.util.spec_from_file_location("candidate", path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling of functions look the module up by name.
    sys.modules["candidate"] = module
    spec.loader.exec_module(module)
    return module


def load_candidate(header: dict) -> torch.nn.Module:
    """Build the candidate's model, load its weights, and put it on the device in eval mode."""
    candidate = import_candidate(header["train_py"])
    model = candidate.build_model(header["n_vocab"], header["max_seq_len"])
    load_model(model, header["weights"])
    return model.to(header["device"]).eval()


def run_model(
    model: torch.nn.Module, inputs: torch.Tensor, n_vocab: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return logits (B, T, n_vocab) of inputs (B, T), or ContractError for another shape."""
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(inputs)
    shape = (*inputs.shape, n_vocab)
    if logits.shape != shape:
        found = f"forward returned logits of shape {tuple(logits.shape)}"
        raise ContractError(f"{found}, the contract says {shape}")
    return logits


@torch.inference_mode()
def token_losses(
    model: torch.nn.Module, rows: torch.Tensor, n_vocab: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the cross-entropy of each target in nats, (B, T) float32. rows: (B, T + 1) int64."""
    targets = rows[:, 1:].split(LOSS_ROWS)
    logits = run_model(model, rows[:, :-1], n_vocab, dtype).split(LOSS_ROWS)
    return torch.cat(
        [
            F.cross_entropy(few.float().flatten(0, 1), wanted.flatten(), reduction="none")
            for few, wanted in zip(logits, targets, strict=True)
        ]
    ).view(len(rows), -1)


@torch.inference_mode()
def logits_at(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    positions: torch.Tensor,
    n_vocab: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the logits (B, n_vocab) float32 of inputs (B, T) at one position of each, (B,)."""
    logits = run_model(model, inputs, n_vocab, dtype)
    return logits[torch.arange(len(inputs), device=logits.device), positions].float()


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer batches until stdin ends; quietly, where nothing was ever asked."""
    line = requests.readline()
    if not line:
        return
    header = json.loads(line)
    if header.get("threads"):
        torch.set_num_threads(header["threads"])
    torch.set_float32_matmul_precision("high")
    dtype, device, n_vocab = getattr(torch, header["dtype"]), header["device"], header["n_vocab"]
    attention.select(torch.device(device), dtype, header["max_seq_len"], header.get("attention"))
    model = load_candidate(header)
    replies.write(json.dumps({"ready": True}).encode() + b"\n")
    replies.flush()
    rows, length = header["batch_rows"], header["max_seq_len"]
    # Of both modes: T + 1 tokens of each row, or T and a position.
    size = SEQUENCE.size + 2 * rows * (length + 1)
    while len(message := requests.read(size)) == size:
        sent = np.frombuffer(message, dtype="<u2", offset=SEQUENCE.size).astype(np.int64)
        numbers = torch.from_numpy(sent).to(device)
        if header["mode"] == "losses":
            answer = token_losses(model, numbers.view(rows, length + 1), n_vocab, dtype)
        else:
            inputs, positions = (
                numbers[: rows * length].view(rows, length),
                numbers[rows * length :],
            )
            answer = logits_at(model, inputs, positions, n_vocab, dtype)
        replies.write(message[: SEQUENCE.size] + answer.cpu().numpy().astype("<f4").tobytes())
        replies.flush()


def main() -> None:
    """Serve on stdin and stdout; argv[1] is the parent's id, 0 behind a wall that hides it."""
    die_with_parent(int(sys.argv[1]))
    refuse_calls()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the cap fails instead of killing
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_CAP_BYTES, FILE_CAP_BYTES))
    serve(*claim_channel())


if __name__ == "__main__":
    main()
