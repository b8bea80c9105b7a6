"""Splits a torch.profiler trace into classes of work.

In: the events of a Chrome trace with record_shapes, and `mark:` annotations at the borders of
loading, forward, backward and optimizer. Out: milliseconds per class. Standard library only, so
that a written trace can be read anywhere. How each is told, in this order:

    loader, optimizer   by the marks around them, whatever runs there
    attention           name of the kernel, its operator or an operator around that: flash, fmha,
                        sdpa, attention, flex; any batched product
    head, linears       a matrix product: head when an operand has the vocabulary's dimension
    loss                named log_softmax, nll or cross_entropy, or its operands' last dimension
                        is the vocabulary's
    elementwise         fused (triton, cpp) and plain pointwise, reducing, copying and indexing
                        kernels, embeddings and norms included
    unclassified        the rest, the longest named

A kernel that fuses two classes counts wholly as the first that fits.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

CLASSES = (
    *("linears", "head", "attention", "elementwise"),
    *("loss", "optimizer", "loader", "unclassified"),
)
ATTENTION = re.compile(r"flash|fmha|sdpa|attention|flex|\b(b|bad|badd)bmm|\bbmm\b", re.IGNORECASE)
MATMUL = re.compile(
    r"aten::(mm|addmm|linear|matmul|_scaled_mm|mkldnn\w*linear)|mkl_linear|_linear_pointwise"
    r"|gemm|cutlass|nvjet|xmma|cublas|triton_tem_fused\w*mm",
    re.IGNORECASE,
)
LOSS = re.compile(r"log_softmax|nll_loss|cross_entropy|logsumexp", re.IGNORECASE)
ELEMENTWISE = re.compile(
    r"^triton_|^cpp_fused|fused_|aten::|elementwise|vectorized|reduce|copy|memcpy|memset|index|gather|scatter|embedding|norm|cat|fill",
    re.IGNORECASE,
)
MARK = "mark:"
OPERATORS = ("cpu_op", "user_annotation")
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass
class Operator:
    """A span on the host. own: microseconds not spent in operators inside it."""

    name: str
    start: float
    end: float
    dims: list
    around: tuple[str, ...]
    own: float


@dataclass(frozen=True)
class Split:
    """Where the time of some steps went.

    milliseconds: per class. loader_host_ms: what the host spent between the loader's marks.
    unclassified: the longest names.
    """

    milliseconds: dict[str, float]
    loader_host_ms: float
    unclassified: list[str]


def split_trace(events: list[dict], vocab_sizes: set[int], on_device: bool) -> Split:
    """Sum up a trace: kernels on a device, or else the host's operators by their own time."""
    spans = [event for event in events if event.get("ph") == "X"]
    phases = find_phases(spans)
    operators, by_id = nest_operators(spans)
    on_host = [(operator.start, operator.own, "", operator) for operator in operators]
    work = (
        [device_work(span, by_id) for span in spans if span.get("cat") in DEVICE_WORK]
        if on_device
        else on_host
    )
    totals, unknown = Counter(dict.fromkeys(CLASSES, 0.0)), Counter()
    for start, duration, kernel, operator in work:
        phase = next((name for first, last, name in phases if first <= start < last), None)
        if phase is None:
            # Before the first mark, or the loop's own bookkeeping after the last of a step.
            continue
        kind = classify(kernel, operator, phase, vocab_sizes)
        totals[kind] += duration / 1000
        if kind == "unclassified":
            unknown[kernel or operator.name] += duration
    host = sum(last - first for first, last, name in phases if name == "load") / 1000
    return Split(dict(totals), host, [name[:80] for name, _ in unknown.most_common(5)])


def find_phases(spans: list[dict]) -> list[tuple[float, float, str]]:
    """(start, end, name) between marks: load, forward, backward and optimizer.

    `optimizer` follows a backward where the step ends there.
    """
    marked = [
        span
        for span in spans
        if span.get("cat") == "user_annotation" and span["name"].startswith(MARK)
    ]
    marks = sorted(
        (span["ts"] + span.get("dur", 0), span["name"].removeprefix(MARK)) for span in marked
    )
    phases = []
    for (start, name), (end, following) in zip(marks, marks[1:], strict=False):
        if name == "update":
            # Adding up the loss between two device batches.
            name = "optimizer" if following == "log" else "forward"
        if name != "log":
            phases.append((start, end, name))
    return phases


def nest_operators(spans: list[dict]) -> tuple[list[Operator], dict[int, Operator]]:
    """Host operators with what is around them and their own time; the innermost of each id.

    The id is the external one.
    """
    operators, by_id = [], {}
    hosts = [
        span for span in spans if span.get("cat") in OPERATORS and not span["name"].startswith(MARK)
    ]
    stacks: dict[object, list[Operator]] = {}
    for span in sorted(hosts, key=lambda span: (span["ts"], -span.get("dur", 0))):
        stack = stacks.setdefault(span.get("tid"), [])
        while stack and stack[-1].end <= span["ts"]:
            stack.pop()
        arguments, duration = span.get("args", {}), span.get("dur", 0)
        dims = arguments.get("Input Dims", [])
        around = tuple(operator.name for operator in stack)
        operator = Operator(span["name"], span["ts"], span["ts"] + duration, dims, around, duration)
        if stack:
            stack[-1].own -= duration
        stack.append(operator)
        operators.append(operator)
        if "External id" in arguments:
            by_id[arguments["External id"]] = operator
    return operators, by_id


def device_work(span: dict, by_id: dict[int, Operator]) -> tuple[float, float, str, Operator]:
    """(start, duration, kernel, operator that launched it) of one span on the device."""
    unknown = Operator("", span["ts"], span["ts"], [], (), 0)
    return (
        span["ts"],
        span.get("dur", 0),
        span["name"],
        by_id.get(span.get("args", {}).get("External id"), unknown),
    )


def classify(kernel: str, operator: Operator, phase: str, vocab_sizes: set[int]) -> str:
    """The class of one piece of work; see the module's docstring."""
    if phase in ("load", "optimizer"):
        return "loader" if phase == "load" else phase
    shapes = [
        shape
        for shape in operator.dims
        if isinstance(shape, list) and shape and all(type(size) is int for size in shape)
    ]
    name = f"{kernel} {operator.name}"
    if ATTENTION.search(" ".join([name, *operator.around])):
        return "attention"
    if MATMUL.search(name):
        return (
            "head" if any(size in vocab_sizes for shape in shapes for size in shape) else "linears"
        )
    if LOSS.search(name) or any(len(shape) > 1 and shape[-1] in vocab_sizes for shape in shapes):
        return "loss"
    return "elementwise" if ELEMENTWISE.search(kernel or operator.name) else "unclassified"
