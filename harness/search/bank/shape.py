"""The bank's ideas that are values alone, mostly several at once, which a tune does not reach.

All are worked out from the present values and stay within the annotated ranges; the learning rates
of AdamW already follow the width. In the evidence "here" is as in `architecture`.
"""

from typing import Any

from harness.search.bank.idea import Idea, Values
from harness.search.patch import PatchError

SHORT_CONVOLUTION = Idea(
    id="short-convolution",
    title="Mix each layer's input to attention with the tokens just before it",
    hypothesis=(
        "Much of what attention learns is to look at the last few tokens. A causal convolution "
        "over them, one weight per channel and distance, gives that from the first step and lets a "
        "single layer form induction heads."
    ),
    category="architecture",
    evidence=(
        "Primer (So et al., 2021), Canon layers (Allen-Zhu, 2025); 0.26 to 0.35 bpb here after 25 "
        "s of training. Before the feed-forward layer as well it gained nothing (1.344 against "
        "1.332 after 300 steps, DEPTH 2, one seed), so it is before attention only"
    ),
    values=lambda values: {"SHIFT_TAPS": values["SHIFT_TAPS"] or 3},
)


def _token_tables(values: Values) -> dict[str, Any]:
    """About a row for each token of a step, up to 65,536: a card updates all at every step."""
    if values["NGRAM_TABLES"]:
        raise PatchError("the tables of the last tokens are on already")
    return {"NGRAM_TABLES": 2, "NGRAM_ROWS": min(65536, max(16384, values["TOTAL_BATCH_SIZE"]))}


TOKEN_TABLES = Idea(
    id="token-tables",
    title="Embed the last two and the last three tokens together, by hash",
    hypothesis=(
        "Tables of hashed runs of tokens give the first and the last layer the statistics of pairs "
        "and triples at once, which attention would have to learn; what the tables know the layers "
        "need not spend capacity on."
    ),
    category="architecture",
    evidence=(
        "bigram hash embeddings are in the best public recipes of small models; here 1.2128 "
        "against 1.2917 after 465 steps at DEPTH 1 (one seed), at a rate of 0.03, and at 0.1 a "
        "loss; on cards unmeasured"
    ),
    values=_token_tables,
)

LONGER_RUNS = Idea(
    id="longer-runs",
    title="One more table, of longer runs of tokens",
    hypothesis=(
        "Longer runs say more of what comes next; most are rare and share rows, so the gain rests "
        "on the frequent ones, such as code repeats."
    ),
    category="architecture",
    evidence=(
        "here 1.2206 with three tables at a rate of 0.01 against 1.2229 with two at 0.03, after "
        "465 steps at DEPTH 1, one seed: noise"
    ),
    least={"NGRAM_TABLES": 1},
    values=lambda values: {"NGRAM_TABLES": values["NGRAM_TABLES"] + 1},
)


def _half_batch(values: Values) -> dict[str, Any]:
    """Half the tokens a step; rates by the square root (Malladi et al., 2022).

    The second moment is as long in tokens as before.
    """
    rates = {name: value * 0.5**0.5 for name, value in values.items() if name.endswith("_LR")}
    batch, beta2 = values["TOTAL_BATCH_SIZE"] // 2, values["ADAM_BETA2"] ** 0.5
    return {"TOTAL_BATCH_SIZE": batch, "ADAM_BETA2": beta2} | rates


HALF_BATCH = Idea(
    id="half-batch",
    title="Twice the steps of half the batch, with rates that fit it",
    hypothesis=(
        "Within one budget more and noisier steps reach further, as long as a step keeps the "
        "machine busy; the learning rates fall by the square root of two and the second moment "
        "remembers as many tokens as before."
    ),
    category="optimizer",
    evidence=(
        "2^19 to 2^18 tokens gained 0.0119 bpb on an H100 and 2^17 is in good public recipes (both "
        "with the rates unchanged); here it lost 0.05 (1024 against 2048 tokens, rates unchanged, "
        "DEPTH 2, 0.6M tokens, one seed)"
    ),
    values=_half_batch,
)


LARGER = Idea(
    id="deeper-and-wider",
    title="One layer more, and a head more in width",
    hypothesis=(
        "A larger model learns more from each token and sees fewer of them. Depth and width go "
        "together: a layer more at the old width gained nothing where both were tried."
    ),
    category="architecture",
    evidence=(
        "depth 8 to 9 with width 512 to 640 gained 0.0043 bpb on an H100, at width 512 nothing; on "
        "two CPU cores the contrary: at equal time DEPTH 1 beat 2 by 0.04 (one seed)"
    ),
    values=lambda values: {
        "DEPTH": values["DEPTH"] + 1,
        "N_HEAD": values["N_HEAD"] + values["KV_GROUP"],
    },
)


def _same_size(values: Values, heads: int) -> dict[str, Any]:
    """The depth that keeps the hidden matrices' weights at another number of heads."""
    if heads < 1:
        raise PatchError("there is no head to spare")
    depth = max(1, round(values["DEPTH"] * (values["N_HEAD"] / heads) ** 2))
    if depth == values["DEPTH"]:
        raise PatchError(f"DEPTH {depth} is the depth for {heads} heads too")
    return {"DEPTH": depth, "N_HEAD": heads}


WIDER = Idea(
    id="wider-and-shallower",
    title="A head more in width, paid for with layers",
    hypothesis=(
        "Layers run one after the other, width in parallel: at equal weights a wide, shallow model "
        "takes less time a step, and its token tables are richer."
    ),
    category="architecture",
    evidence=(
        "shape matters little at equal size (Kaplan et al., 2020), so speed decides; at equal time "
        "DEPTH 1 beat 2 by 0.04 on two CPU cores (one seed)"
    ),
    values=lambda values: _same_size(values, values["N_HEAD"] + values["KV_GROUP"]),
)

DEEPER = Idea(
    id="deeper-and-narrower",
    title="More layers, paid for with a head of width",
    hypothesis=(
        "More layers compose more; at equal weights in the matrices the token tables and the "
        "output shrink, which saves time where they are large."
    ),
    category="architecture",
    evidence=(
        "depth 12 is in good public recipes for an H100 (at width 768); shape matters little at "
        "equal size (Kaplan et al., 2020)"
    ),
    values=lambda values: _same_size(values, values["N_HEAD"] - values["KV_GROUP"]),
)
