"""All of a train.py on a card that is not there, and what can be seen of it.

    python -m rehearsal.training < JOBS.json > FACTS.json

In: a list of jobs, the arguments of `rehearse`; the guard of `fake_card`. Out: a list of
facts, one a job, see `rehearse`. Session, loader, attention and the file itself are the real
ones; a tensor has no numbers, so a loss reads as 1 and the weights stay unwritten. A process of its
own: it cannot be made to see what is there again.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import runpy
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.data.loader import TrainRows
from harness.run.profiles import PROFILES, Profile
from harness.training import attention, session
from harness.training.devices import why_no_bf16_on_card
from rehearsal.fake_card import CARDS, believe_in

ROWS = 8  # of training text
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


def rehearse(source: str, profile: str, card: str, backend: str = "eager", steps: int = 2) -> dict:
    """Run train.py once as a session would, and return what was seen.

    backend: eager; aot (through dynamo and AOTAutograd); memory (as aot, partitioned as Inductor
    would); inductor (see `machine_code`). steps: on the clock. In the facts: `events`, as the
    runner would read them; `failed`, "" where it ran; `weights`, dtypes of what was handed in. Of
    eager `products` and `attention`, what reached those operators, and `strangers`, operators that
    met a tensor elsewhere than on the card. Of others `graphs`, `late` ones that were compiled on
    the clock, `breaks`; of memory `saved_bytes`, what forward passes keep.
    """
    torch._dynamo.reset()
    counters.clear()
    facts: dict = {"failed": ""}
    log = OperatorLog()
    request = make_request(PROFILES[profile], card, backend != "eager", steps)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        stand_ins(backend, facts, log),
    ):
        channel = open_channel(Path(folder), source, request)
        try:
            with FakeTensorMode(), log if backend == "eager" else contextlib.nullcontext():
                runpy.run_path("train.py", run_name="__main__")
        except Exception as error:  # whatever the file raises is the answer
            lines = traceback.format_exc().splitlines()
            inside = [line.strip() for line in lines if "train.py" in line]
            facts["failed"] = f"{type(error).__name__}: {error} {inside[-1:]}"[:1000]
        facts["events"] = read_events(channel)
    graphs = counters["stats"].get("unique_graphs", 0)
    facts |= {"graphs": graphs, "late": graphs - facts.pop("at_start", graphs)}
    facts["breaks"] = dict(counters["graph_break"])
    return facts | log.seen()


def make_request(profile: Profile, card: str, compiles: bool, steps: int) -> dict:
    """What the runner would ask for, with the first rung of attention of each kind."""
    device = torch.device("cuda")
    return {
        "device": "cuda",
        "dtype": "float32" if why_no_bf16_on_card(card) else "bfloat16",
        "seed": 1,
        "max_seq_len": profile.max_seq_len,
        "n_vocab": profile.vocab_size + 1,
        "compile": compiles,
        "budget_seconds": float(steps),
        "clock_step_seconds": 1.0,
        "attention": {kind: names[0] for kind, names in attention.ladder(device).items()},
    }


def open_channel(folder: Path, source: str, request: dict) -> socket.socket:
    """What the runner prepares: the file, its request, rows of text, the socket between them."""
    (folder / "train.py").write_text(source, encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(request), encoding="utf-8")
    shape = (ROWS, request["max_seq_len"] + 1)
    rows = np.random.default_rng(0).integers(0, request["n_vocab"], shape).astype("<u2")
    rows.tofile(folder / "rows.bin")
    ours, theirs = socket.socketpair()
    with (folder / "rows.bin").open("rb") as file:
        socket.send_fds(ours, [b"r"], [file.fileno()])
    os.environ[session.RUN_VARIABLE] = str(folder / "run.json")
    os.environ[session.EVENTS_VARIABLE] = str(theirs.detach())
    return ours


def read_events(channel: socket.socket) -> list[dict]:
    """All that the session sent: it has ended, and a socket holds as much at once."""
    with channel:
        lines = channel.recv(2**22).splitlines()
    os.close(int(os.environ[session.EVENTS_VARIABLE]))
    return [json.loads(line) for line in lines]


# --- What numbers would be needed for ----------------------------------------------------------


@contextlib.contextmanager
def stand_ins(backend: str, facts: dict, log: OperatorLog):
    """Replace what reads numbers, or asks the card, while a file is rehearsed."""

    def start(self: session.Session) -> None:
        facts["at_start"] = counters["stats"].get("unique_graphs", 0)
        real_start(self)

    def device_batch_size(self: session.Session, wanted: int, tokens: int) -> int:
        log.open = True  # the model is built and moved
        return real_batch(self, wanted, tokens)

    def save(model: SimpleNamespace, path: str) -> None:
        facts["weights"] = sorted({str(x.dtype) for x in model.state_dict().values()})
        Path(path).touch()

    real_start = session.Session.start
    real_batch = session.Session.device_batch_size
    replaced = [
        (session.Session, "device_batch_size", device_batch_size),
        (session.Session, "start", start),
        (session, "save_model", save),
        (TrainRows, "_iter_pinned", lambda self, picks, *_: self._iter_plain(picks)),
        (torch.nn.Module, "to", move_module),
        (FakeTensor, "__float__", lambda self: 1.0),
        (FakeTensor, "data_ptr", lambda self: id(self)),
        (F, "scaled_dot_product_attention", scaled_dot_product_attention),
        (torch, "compile", functools.partial(torch.compile, backend=backend_of(backend, facts))),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, new in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield


def move_module(model: torch.nn.Module, *where) -> torch.nn.Module:
    """model.to(...): PyTorch would swap each tensor's contents, and these have none."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and id(tensor) not in moved:
                there = tensor.detach().to(*where)
                moved[id(tensor)] = torch.nn.Parameter(there, tensor.requires_grad)
            module._parameters[name] = moved.get(id(tensor))
        for name, tensor in module._buffers.items():
            module._buffers[name] = None if tensor is None else tensor.to(*where)
    return model


def scaled_dot_product_attention(
    q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """The fused kernel that PyTorch would choose: it asks the card, and takes a plain formula for
    tensors without numbers."""
    ops = torch.ops.aten
    if attn_mask is None and q.dtype != torch.float32:
        if torch.cuda.get_device_capability()[0] >= 9:
            args = (None, True, dropout_p, is_causal)
            return ops._scaled_dot_product_cudnn_attention(q, k, v, *args)[0]
        return ops._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]
    if enable_gqa:
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    bias = attn_mask
    if bias is not None:
        bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
        bias = bias.expand(q.size(0), q.size(1), q.size(2), k.size(2))
    return ops._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout_p, is_causal)[0]


def backend_of(name: str, facts: dict):
    """What torch.compile hands graphs to."""
    if name != "memory":
        return "inductor" if name == "inductor" else "aot_eager"
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    facts["saved_bytes"] = 0

    def forward(graph, example_inputs):
        nodes = graph.graph.nodes
        (output,) = (node for node in nodes if node.op == "output")
        inputs = {node for node in nodes if node.op == "placeholder"}
        kept = [node.meta["val"] for node in set(output.args[0][1:]) - inputs - {None}]
        facts["saved_bytes"] += sum(x.nbytes for x in kept if isinstance(x, torch.Tensor))
        return graph.forward

    return aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, example_inputs: graph.forward,
        inference_compiler=lambda graph, example_inputs: graph.forward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )


class OperatorLog(TorchDispatchMode):
    """Counts what reaches the operators that matter, from the first warm-up on."""

    def __init__(self) -> None:
        super().__init__()
        self.open = False
        self.products: collections.Counter = collections.Counter()
        self.attention: collections.Counter = collections.Counter()
        self.strangers: collections.Counter = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.open:
            name = func.overloadpacket.__name__
            self.note(name, [x for x in args if isinstance(x, torch.Tensor)])
        return func(*args, **kwargs or {})

    def note(self, name: str, tensors: list[torch.Tensor]) -> None:
        dtypes = (str(x.dtype) for x in tensors)
        places = sorted({str(x.device) for x in tensors})
        if any(place != "cuda:0" for place in places):
            self.strangers[name, *places] += 1
        if name in PRODUCTS:
            self.products[name, *dtypes] += 1
        if "attention" in name or "varlen" in name:
            q = tensors["backward" in name]
            self.attention[name, str(q.dtype), tuple(q.shape), q.stride()] += 1

    def seen(self) -> dict[str, list]:
        """[[what, .., how often], ..] by kind."""
        kinds = {kind: getattr(self, kind) for kind in ("products", "attention", "strangers")}
        return {kind: sorted([*key, n] for key, n in seen.items()) for kind, seen in kinds.items()}


def main() -> None:
    """One list of facts for one list of jobs."""
    facts = []
    for job in json.load(sys.stdin):
        believe_in(CARDS[job["card"]])
        facts.append(rehearse(**job))
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
