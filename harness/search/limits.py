"""What constants mean together: which sets of them cannot run, which make no difference, and roughly how much memory.

In: the values of a train.py's constants and the run's limits (max_seq_len, n_vocab, memory_mb or None). Out: the
reasons why such a file could not be trained, as sentences, or the values cut down to what they bring about. A rule
speaks only when every constant it is about exists, so a train.py that lost or renamed some is judged by the others.
Nothing here is exact: the training itself still has the last word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Values = Mapping[str, Any]

# Constants of which more is never less memory: what failed for lack of it fails with more of them too. The rows at a time are not among them:
# they are halved until a training fits, and what failed did so with a single row.
MEMORY_CONSTANTS = ("DEPTH", "N_HEAD", "HEAD_DIM", "MLP_RATIO", "NGRAM_TABLES", "NGRAM_ROWS")


@dataclass(frozen=True)
class Limits:
    """The run's sizes: tokens in a row, vocabulary with special tokens, memory of the device (None: unknown)."""

    max_seq_len: int
    n_vocab: int
    memory_mb: float | None = None
    device_kind: str = "cpu"


@dataclass(frozen=True)
class Rule:
    """A rule on the constants it names: broken(values, limits) returns a sentence, or None when all is well."""

    names: tuple[str, ...]
    broken: Callable[[Values, Limits], str | None]


def reasons_against(values: Values, limits: Limits, proven: Values | None = None) -> list[str]:
    """Return a sentence for each rule that the values break.

    proven: values that did run. A rule that they break is plainly wrong there and is not applied; and no estimate of
    memory up to theirs counts as too much.
    """
    rules = [rule for rule in RULES if all(name in values for name in rule.names)]
    if proven:
        if limits.memory_mb and all(name in proven for name in _MEMORY_RULE.names):
            limits = replace(limits, memory_mb=max(limits.memory_mb, estimate_memory_mb(proven, limits, 1)))
        known = [rule for rule in rules if all(name in proven for name in rule.names)]
        rules = [rule for rule in rules if rule not in known or not _broken(rule, proven, limits)]
    return [sentence for sentence in (_broken(rule, values, limits) for rule in rules) if sentence]


def _broken(rule: Rule, values: Values, limits: Limits) -> str | None:
    try:
        return rule.broken(values, limits)
    except (ArithmeticError, TypeError):  # a zero, a word or a list where the rule expects a number
        return f"{', '.join(rule.names)} and what belongs to them cannot be computed with"


def effective_values(values: Values) -> dict[str, Any]:
    """Return the values without what has no effect: two sets that come to the same are one experiment.

    The window pattern is spelt out for the layers there are (the last is always long), so is the placing of value
    embeddings; the reach of short layers goes when there is none, the decay of value embeddings when there are none, the
    rates of a short convolution and of tables that are off.
    """
    found = dict(values)
    depth = values.get("DEPTH")
    if depth and isinstance(pattern := values.get("WINDOW_PATTERN"), str) and pattern:
        found["WINDOW_PATTERN"] = "".join(pattern[i % len(pattern)] for i in range(depth - 1)) + "L"
        if "S" not in found["WINDOW_PATTERN"]:
            found.pop("SHORT_WINDOW", None)
    if depth and "VALUE_EMBED_EVERY" in values:
        every = values["VALUE_EMBED_EVERY"]
        found["VALUE_EMBED_EVERY"] = [i for i in range(depth) if every and i % every == 0]
        if not every:
            found.pop("EMBEDDING_DECAY", None)
    if values.get("SHIFT_TAPS") == 0:
        found.pop("SHIFT_LR", None)
    if values.get("NGRAM_TABLES") == 0:
        found.pop("NGRAM_ROWS", None)
        found.pop("NGRAM_LR", None)
    return found


def estimate_memory_mb(values: Values, limits: Limits, rows: int | None = None) -> float:
    """Return roughly the training's peak memory in MB: weights, gradients and moments, then activations and logits.

    rows: at a time, None for as many as the values ask for. Activations are float32 on a CPU and half of that elsewhere. Good to a factor of about two.
    """
    width = values["N_HEAD"] * values["HEAD_DIM"]
    depth, ratio, group = values["DEPTH"], values.get("MLP_RATIO", 4), values.get("KV_GROUP", 1)
    every = values.get("VALUE_EMBED_EVERY", 0)
    tables = width * (2 + (-(-depth // every) / group if every else 0)) * limits.n_vocab
    tables += width * values.get("NGRAM_TABLES", 0) * values.get("NGRAM_ROWS", 0)
    matrices = depth * width * width * (2 + 2 / group + 2 * ratio)
    rows = rows or min(values["DEVICE_BATCH_SIZE"], max(1, values["TOTAL_BATCH_SIZE"] // limits.max_seq_len))
    tokens = rows * limits.max_seq_len
    activations = tokens * depth * width * (16 + 3 * ratio) * (4 if limits.device_kind == "cpu" else 2)
    logits = tokens * limits.n_vocab * 4 * 4  # in float32, with their copies and gradients
    copies = 5 if values.get("AVERAGE_LAST") else 4  # weights, gradients, two moments; the mean of the weights
    return (4 * copies * (tables + matrices) + activations + logits) / 2**20


def _whole_batches(values: Values, limits: Limits) -> str | None:
    total, length = values["TOTAL_BATCH_SIZE"], limits.max_seq_len
    if total < length:
        return f"TOTAL_BATCH_SIZE {total} is less than one row of {length} tokens"
    if total % length:
        return f"TOTAL_BATCH_SIZE {total} is not a whole number of rows of {length} tokens"
    return None


def _whole_groups(values: Values, limits: Limits) -> str | None:
    if values["N_HEAD"] % values["KV_GROUP"]:
        return f"KV_GROUP {values['KV_GROUP']} does not divide N_HEAD {values['N_HEAD']}"
    return None


def _whole_heads(values: Values, limits: Limits) -> str | None:
    if values["N_EMBD"] % values["HEAD_DIM"]:
        return f"HEAD_DIM {values['HEAD_DIM']} does not divide N_EMBD {values['N_EMBD']}"
    return None


def _schedule_fits(values: Values, limits: Limits) -> str | None:
    if values["WARMUP_RATIO"] + values["WARMDOWN_RATIO"] > 1:
        return "WARMUP_RATIO and WARMDOWN_RATIO together exceed the budget"
    return None


def _memory_fits(values: Values, limits: Limits) -> str | None:
    need = estimate_memory_mb(values, limits, 1)  # with more rows it would be repeated with fewer
    if limits.memory_mb and need > limits.memory_mb:
        return f"needs about {need:,.0f} MB of the {limits.memory_mb:,.0f} MB there are, even with one row at a time"
    return None


_MEMORY_RULE = Rule(("DEPTH", "N_HEAD", "HEAD_DIM", "DEVICE_BATCH_SIZE", "TOTAL_BATCH_SIZE"), _memory_fits)
RULES = (
    Rule(("TOTAL_BATCH_SIZE",), _whole_batches),
    Rule(("N_HEAD", "KV_GROUP"), _whole_groups),
    Rule(("N_EMBD", "HEAD_DIM"), _whole_heads),
    Rule(("WARMUP_RATIO", "WARMDOWN_RATIO"), _schedule_fits),
    _MEMORY_RULE,
)
