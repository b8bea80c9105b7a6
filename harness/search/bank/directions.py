"""Directions for single constants that are known to help: what a tune tries before it samples.

Each with its evidence, mostly the original's own night on one H100 (125 experiments of 5 minutes).
They are hypotheses here: another device, corpus or budget may want the opposite, which is what the
run is for.
"""

from dataclasses import dataclass
from typing import Any

CARDS = ("cuda", "rocm", "mps")  # a CPU's few hundred steps are another matter


@dataclass(frozen=True)
class Known:
    """A direction: factor multiplies the incumbent's value, value replaces it.

    devices: those it may hold for.
    """

    name: str
    evidence: str
    factor: float | None = None
    value: Any = None
    devices: tuple[str, ...] = (*CARDS, "cpu")


# fmt: off
KNOWN = (
    Known("TOTAL_BATCH_SIZE", "half the batch gained 0.012 bpb on an H100",
          factor=0.5, devices=CARDS),
    Known("EMBEDDING_LR", "a third more gained 0.003 bpb on an H100", factor=1.33),
    Known("UNEMBEDDING_LR", "a quarter to a half more gained 0.001 bpb on an H100", factor=1.5),
    Known("WARMDOWN_RATIO", "a longer warm-down gained 0.001 bpb on an H100", value=0.75),
    Known("QK_SCALE", "sharper attention (1.10 to 1.25) is in several of the best public recipes",
          value=1.25),
    Known("ROPE_BASE", "20 times the base gained 0.001 bpb on an H100", value=200000.0),
    Known("FINAL_LR_FRAC", "ending at 5% of the peak gained 0.0006 bpb on an H100", value=0.05),
    Known("X0_LAMBDA_INIT", "a smaller share of the embedding gained 0.0008 bpb on an H100",
          value=0.05),
    Known("EMBEDDING_DECAY", "decay of the value embeddings gained 0.0016 bpb on an H100",
          value=0.003),
    Known("INIT_SCALE", "smaller initial matrices gained 0.0006 bpb on an H100", value=0.68),
    Known("SHORT_WINDOW", "a short window of an eighth gained 0.0009 bpb on an H100",
          value=0.125, devices=CARDS),
    Known("WINDOW_PATTERN", "four short layers to a long one gained 0.0003 on an H100",
          value="SSSSL", devices=CARDS),
    Known("MUON_STEPS", "more steps towards an orthogonal update are in several of the best public "
          "recipes", value=7),
)
# fmt: on
