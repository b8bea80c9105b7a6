"""Machine code for a card that is not here, out of what PyTorch compiles for it.

    python -m rehearsal.machine_code < JOBS.json > FACTS.json

In: a list of jobs, {source, profile, card}, whose steps are one pass each; triton, and the guard of
`fake_card`. Out: for each the bytes that a step's graphs read and write, and the Triton kernels,
each once, with what became of it. Products and attention are calls to libraries, and are not
compiled here. What a kernel computes is not looked at.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import torch._dynamo.device_interface as device_interface
import torch._inductor.fx_passes.fuse_attention as fuse_attention
import torch._inductor.fx_passes.pad_mm as pad_mm
import triton
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime import triton_heuristics
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

from rehearsal.fake_card import CARDS, Card, believe_in
from rehearsal.training import rehearse

KERNEL = re.compile(r"async_compile\.triton\('([^']+)', '''\n?(.*?)'''", re.DOTALL)
# Of the warm-up and of the one step on the clock, which is alike.
STEPS = 3
# A kernel is named after its place in a graph, and is the same under another name.
NAME = re.compile(r"triton_[a-z]+_fused_\w+")


class Driver:
    """What Triton asks of a card's driver before anything is started."""

    def __init__(self, card: Card) -> None:
        self.target = GPUTarget("cuda", 10 * card.major + card.minor, 32)
        facts = {
            "max_shared_mem": card.shared_memory_per_block_optin,
            "multiprocessor_count": card.multi_processor_count,
            "warpSize": 32,
            "max_num_regs": 65_536,
        }
        self.utils = SimpleNamespace(get_device_properties=lambda *args: facts)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_device_interface(self):
        return torch.cuda

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda:0")


def believe_in_compiling_for(card: Card) -> None:
    """Make Triton and Inductor in this process generate code for the card."""
    believe_in(card)
    driver.set_active(Driver(card))
    torch._C._cuda_getCurrentRawStream = lambda device: 0
    interface = device_interface.CudaInterface
    for name in ("current_device", "device_count", "get_device_properties", "synchronize"):
        setattr(interface, name, staticmethod(getattr(torch.cuda, name)))
    for name in ("exchange_device", "maybe_exchange_device", "set_device"):
        setattr(interface, name, staticmethod(lambda *args: 0))
    interface.is_bf16_supported = staticmethod(torch.cuda.is_bf16_supported)
    triton_heuristics.triton_helpers.set_driver_to_gpu = lambda: None
    # These would try out kernels with numbers.
    fuse_attention._sfdp_init = pad_mm._pad_mm_init = lambda *args: None
    config.joint_graph_constant_folding = config.fx_graph_cache = False
    torch._functorch.config.enable_autograd_cache = False


def generate(job: dict) -> list[dict]:
    """Run all of train(); return what Inductor made of each graph: kind, code, bytes, calls."""
    graphs: list[dict] = []

    def keep_code(self: GraphLowering) -> SimpleNamespace:
        code = self.codegen()[0].value
        kind = "optimizer" if self.is_inference else "backward" if self.is_backward else "forward"
        graph = {"kind": kind, "code": code, "bytes": int(self.count_bytes()[0]), "calls": 0}
        graphs.append(graph)
        (output,) = (node for node in self.orig_gm.graph.nodes if node.op == "output")
        values = [getattr(node, "meta", {}).get("val", node) for node in output.args[0]]

        def call(args: list) -> tuple:
            args.clear()
            graph["calls"] += 1
            return tuple(map(like, values))

        self.cache_key, self.cache_linemap = "", []
        path = Path(tempfile.gettempdir()) / f"graph_{len(graphs)}.py"
        path.write_text(code, encoding="utf-8")
        self.cache_path = str(path)
        return SimpleNamespace(call=call, runner=None, __file__=self.cache_path)

    real, GraphLowering._compile_to_module = GraphLowering._compile_to_module, keep_code
    try:
        facts = rehearse(**job, backend="inductor", steps=STEPS - 2)
    finally:
        GraphLowering._compile_to_module = real
    if facts["failed"]:
        raise RuntimeError(facts["failed"])
    return graphs


def like(value: object) -> object:
    """A tensor without numbers for the one that a graph would return."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def compile_kernels(graphs: list[dict], card: Card) -> dict:
    """Every kernel once: how many became machine code, their bytes, most shared memory, faults."""
    found: dict = {"kernels": 0, "code_bytes": 0, "shared_bytes": 0, "failed": []}
    seen: set[str] = set()
    for name, body in (each for graph in graphs for each in KERNEL.findall(graph["code"])):
        body = body.replace("\\'", "'")
        digest = hashlib.sha256(NAME.sub("", body).encode()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            made = compile_kernel(digest, body, card)
        except Exception as error:  # whatever a compiler raises is the answer
            found["failed"].append(f"{name}: {type(error).__name__}: {error}"[:500])
            continue
        found["kernels"] += 1
        found["code_bytes"] += len(made.asm["cubin"])
        found["shared_bytes"] = max(found["shared_bytes"], made.metadata.shared)
    return found


def compile_kernel(name: str, body: str, card: Card):
    """One kernel of Inductor's, in the first of the ways that it would try."""
    path = Path(tempfile.gettempdir()) / f"kernel_{name}.py"
    path.write_text(body, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tuners = [x for x in vars(module).values() if isinstance(x, triton_heuristics.CachingAutotuner)]
    meta = tuners[0]._create_compile_meta(tuners[0].configs[0])
    kernel = ASTSource(tuners[0].fn, meta["signature"], meta["constants"], meta["configs"][0])
    options = {name: meta[name] for name in ("num_warps", "num_stages")}
    return triton.compile(kernel, target=driver.active.get_current_target(), options=options)


def main() -> None:
    """One list of facts for one list of jobs."""
    answers = []
    for job in json.load(sys.stdin):
        card = CARDS[job["card"]]
        believe_in_compiling_for(card)
        graphs = generate(job)
        moved = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        for graph in graphs:
            moved[graph["kind"]] += graph["bytes"] * graph["calls"] / STEPS
        answers.append({"graphs": len(graphs), "moved": moved} | compile_kernels(graphs, card))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
