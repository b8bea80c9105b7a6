"""What constants mean together: which sets of them cannot run, which make no difference, and
roughly how much memory they take.

In: the values of a train.py's constants and the run's limits. Out: the reasons why such a file
could not be trained, as sentences, or the values cut down to what they bring about. A rule speaks
only when every constant it is about exists, so a train.py that lost or renamed some is judged by
the others. Nothing here is exact: the training itself still has the last word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Values = Mapping[str, Any]

# Constants of which more is never less memory: what failed for lack of it fails with more of them
# too. The rows at a time are not among them: they are halved until a training fits, and what failed
# did so with a single row.
MEMORY_CONSTANTS = ("DEPTH", "N_HEAD", "HEAD_DIM", "MLP_RATIO", "NGRAM_TABLES", "NGRAM_ROWS")


@dataclass(frozen=True)
class Limits:
    """The run's sizes: tokens in a row, vocabulary with special tokens, memory of the device."""

    max_seq_len: int
    n_vocab: int
    memory_mb: float | None = None  # None: unknown
    device_kind: str = "cpu"


def reasons_against(values: Values, limits: Limits, proven: Values | None = None) -> list[str]:
    """Return a sentence for each rule that the values break.

    proven: values that did run. A rule that they break is plainly wrong there and is not applied;
    and no estimate of memory up to theirs counts as too much.
    """
    rules = _rules_about(values)
    if proven:
        known = _rules_about(proven)
        if limits.memory_mb and _SIZES in known:
            least = estimate_memory_mb(proven, limits, 1)
            limits = replace(limits, memory_mb=max(limits.memory_mb, least))
        wrong = [names for names in known if _broken(names, proven, limits)]
        rules = [names for names in rules if names not in wrong]
    return [sentence for names in rules if (sentence := _broken(names, values, limits))]


def _rules_about(values: Values) -> list[tuple[str, ...]]:
    return [names for names in RULES if values.keys() >= set(names)]


def _broken(names: tuple[str, ...], values: Values, limits: Limits) -> str:
    """Return what the rule about these constants has against the values, "" for nothing."""
    try:
        return RULES[names](values, limits)
    except (ArithmeticError, TypeError):  # a zero, a word or a list where it expects a number
        return f"{', '.join(names)} and what belongs to them cannot be computed with"


def effective_values(values: Values) -> dict[str, Any]:
    """Return the values without what has no effect: two sets that come to the same are one idea.

    The window pattern is spelt out for the layers there are (the last is always long), so is the
    placing of value embeddings; what belongs to parts that are off goes.
    """
    found = dict(values)
    depth, pattern = values.get("DEPTH"), values.get("WINDOW_PATTERN")
    off = []
    if depth and pattern and isinstance(pattern, str):
        spelt = "".join(pattern[i % len(pattern)] for i in range(depth - 1)) + "L"
        found["WINDOW_PATTERN"] = spelt
        if "S" not in spelt:
            off.append("SHORT_WINDOW")
    if depth and "VALUE_EMBED_EVERY" in values:
        every = values["VALUE_EMBED_EVERY"]
        found["VALUE_EMBED_EVERY"] = list(range(0, depth, every)) if every else []
        if not every:
            off.append("EMBEDDING_DECAY")
    if values.get("SHIFT_TAPS") == 0:
        off.append("SHIFT_LR")
    if values.get("NGRAM_TABLES") == 0:
        off += ["NGRAM_ROWS", "NGRAM_LR"]
    return {name: value for name, value in found.items() if name not in off}


def estimate_memory_mb(values: Values, limits: Limits, rows: int | None = None) -> float:
    """Return roughly the training's peak memory in MB, good to a factor of about two.

    Weights, gradients and moments, then activations (float32 on a CPU, half of that elsewhere) and
    logits. rows: at a time, None for as many as the values ask for.
    """
    width, depth = values["N_HEAD"] * values["HEAD_DIM"], values["DEPTH"]
    ratio, group = values.get("MLP_RATIO", 4), values.get("KV_GROUP", 1)
    every = values.get("VALUE_EMBED_EVERY", 0)
    tables = width * (2 + (-(-depth // every) / group if every else 0)) * limits.n_vocab
    tables += width * values.get("NGRAM_TABLES", 0) * values.get("NGRAM_ROWS", 0)
    matrices = depth * width * width * (2 + 2 / group + 2 * ratio)
    in_a_step = max(1, values["TOTAL_BATCH_SIZE"] // limits.max_seq_len)
    tokens = (rows or min(values["DEVICE_BATCH_SIZE"], in_a_step)) * limits.max_seq_len
    bytes_each = 4 if limits.device_kind == "cpu" else 2
    activations = tokens * depth * width * (16 + 3 * ratio) * bytes_each
    logits = tokens * limits.n_vocab * 4 * 4  # in float32, with their copies and gradients
    copies = 5 if values.get("AVERAGE_LAST") else 4  # weights, gradients, two moments; their mean
    return (4 * copies * (tables + matrices) + activations + logits) / 2**20


def _whole_batches(values: Values, limits: Limits) -> str:
    total, length = values["TOTAL_BATCH_SIZE"], limits.max_seq_len
    if total < length:
        return f"TOTAL_BATCH_SIZE {total} is less than one row of {length} tokens"
    if total % length:
        return f"TOTAL_BATCH_SIZE {total} is not a whole number of rows of {length} tokens"
    return ""


def _schedule_fits(values: Values, limits: Limits) -> str:
    together = values["WARMUP_RATIO"] + values["WARMDOWN_RATIO"]
    return "WARMUP_RATIO and WARMDOWN_RATIO together exceed the budget" if together > 1 else ""


def _memory_fits(values: Values, limits: Limits) -> str:
    need = estimate_memory_mb(values, limits, 1)  # with more rows it would be repeated with fewer
    if limits.memory_mb and need > limits.memory_mb:
        there_are = f"the {limits.memory_mb:,.0f} MB there are"
        return f"needs about {need:,.0f} MB of {there_are}, even with one row at a time"
    return ""


def _divides(part: str, whole: str) -> Callable[[Values, Limits], str]:
    def rule(values: Values, limits: Limits) -> str:
        if values[whole] % values[part]:
            return f"{part} {values[part]} does not divide {whole} {values[whole]}"
        return ""

    return rule


_SIZES = ("DEPTH", "N_HEAD", "HEAD_DIM", "DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE")
# {the constants that a rule needs: what it has against their values, "" for nothing}
RULES = {
    ("TOTAL_BATCH_SIZE",): _whole_batches,
    ("N_HEAD", "KV_GROUP"): _divides("KV_GROUP", "N_HEAD"),
    ("N_EMBD", "HEAD_DIM"): _divides("HEAD_DIM", "N_EMBD"),
    ("WARMUP_RATIO", "WARMDOWN_RATIO"): _schedule_fits,
    _SIZES: _memory_fits,
}
