"""The bank: structural ideas as real patches, for the proposer that needs no key.

In: the source of a train.py. Out: the same with one idea in it, or a PatchError, which means "not applicable to this
one": anchors are single lines of the template that every patch leaves in place, so that several apply one after the
other, until a change of other hands removes such a line. A patch changes code outside of the constants block and
starts from what the model computes without it (its weights begin at zero), so that training decides how much of it to
use. Constants that it brings stand annotated in the block: from then on they are searched like all others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from harness.search.patch import apply_edits, parse_edits


@dataclass(frozen=True)
class Idea:
    """One structural idea. patch: SEARCH/REPLACE blocks; evidence: why it is in the bank."""

    id: str
    title: str
    hypothesis: str
    category: str
    evidence: str
    patch: str

    def apply(self, source: str) -> str:
        """Return the source with the idea in it. Raises PatchError where it does not apply."""
        return apply_edits(source, parse_edits(self.patch))


def new_constants(ideas: Iterable[Idea]) -> set[str]:
    """Return the names of the constants that the ideas bring, so that a program may speak of them beforehand."""
    names = set()
    for idea in ideas:
        for edit in parse_edits(idea.patch):
            lines = [line for line in edit.replace.splitlines() if line.partition(" =")[0].isupper() and "  # " in line]
            names |= {line.partition(" =")[0] for line in lines}
    return names


BIGRAM = Idea(
    id="bigram-embedding",
    title="Embed the pair of the last two tokens, by hash",
    hypothesis=(
        "A table of hashed token pairs gives every layer the bigram statistics at once, which attention would have to "
        "learn; what the table knows the layers need not spend capacity on."
    ),
    category="architecture",
    evidence="in the best public recipes of small models; here 0.06 bpb after 120 steps of the demo's size (one seed, best of five learning rates)",
    patch="""\
<<<<<<< SEARCH
# === end of constants ===
=======
BIGRAM_ROWS = 16384        # rows, 1024..1048576 pow2: table of hashed token pairs
BIGRAM_LR = 0.03           # per step, 0.001..1.0 log: AdamW, table of token pairs
# === end of constants ===
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.unembedding = nn.Linear(width, rows, bias=False)
=======
        self.bigram_embedding = nn.Embedding(BIGRAM_ROWS, width)
        self.unembedding = nn.Linear(width, rows, bias=False)
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.unembedding.weight.normal_(std=0.001)
=======
        self.unembedding.weight.normal_(std=0.001)
        self.bigram_embedding.weight.zero_()
>>>>>>> REPLACE
<<<<<<< SEARCH
        x = norm(self.token_embedding(idx))
=======
        x = norm(self.token_embedding(idx))
        pairs = F.pad(idx[:, :-1], (1, 0)) * 1000003 + idx * 8191  # of the token before and the token itself
        x = x + self.bigram_embedding(pairs % BIGRAM_ROWS)
>>>>>>> REPLACE
<<<<<<< SEARCH
            ([model.x0_lambdas], SCALAR_LR, 0.0),
=======
            ([model.x0_lambdas], SCALAR_LR, 0.0),
            ([model.bigram_embedding.weight], BIGRAM_LR * scale, 0.0),
>>>>>>> REPLACE
<<<<<<< SEARCH
        tables = [self.token_embedding, *self.value_embeddings.values()]
=======
        tables = [self.token_embedding, *self.value_embeddings.values()]
        tables.append(self.bigram_embedding)
>>>>>>> REPLACE
""",
)

SHIFT = Idea(
    id="short-convolution",
    title="Mix each layer's input to attention with the tokens just before it",
    hypothesis=(
        "Much of what attention learns is to look at the last few tokens. A causal convolution over them, one weight per "
        "channel and distance, gives that from the first step and lets a single layer form induction heads."
    ),
    category="architecture",
    evidence="token shift (RWKV), short convolutions (Primer, H3); here 0.04 to 0.23 bpb after 120 steps of the demo's size, by learning rate (one seed)",
    patch="""\
<<<<<<< SEARCH
# === end of constants ===
=======
SHIFT_TAPS = 3             # tokens, 1..7 int: earlier tokens mixed into the input of attention
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of that mixture
# === end of constants ===
>>>>>>> REPLACE
<<<<<<< SEARCH
class FeedForward(nn.Module):
=======
class ShortConvolution(nn.Module):
    \"\"\"Adds the last SHIFT_TAPS tokens to each token, one learnt weight per channel and distance, zero at first.\"\"\"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SHIFT_TAPS, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = F.pad(x, (0, 0, SHIFT_TAPS, 0))  # row t of it is token t - SHIFT_TAPS
        for tap in range(SHIFT_TAPS):
            x = x + self.weight[tap].to(x.dtype) * before[:, SHIFT_TAPS - 1 - tap : before.size(1) - 1 - tap]
        return x


class FeedForward(nn.Module):
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.feed_forward = FeedForward(width)
=======
        self.feed_forward = FeedForward(width)
        self.shift = ShortConvolution(width)
>>>>>>> REPLACE
<<<<<<< SEARCH
        x = x + self.attention(norm(x), value_embedding, cos, sin)
=======
        x = x + self.attention(self.shift(norm(x)), value_embedding, cos, sin)
>>>>>>> REPLACE
<<<<<<< SEARCH
            ([model.x0_lambdas], SCALAR_LR, 0.0),
=======
            ([model.x0_lambdas], SCALAR_LR, 0.0),
            ([block.shift.weight for block in model.blocks], SHIFT_LR, 0.0),
>>>>>>> REPLACE
""",
)

GATE = Idea(
    id="attention-gate",
    title="Let every attention head be scaled down, token by token",
    hypothesis=(
        "Softmax attention must attend to something; a gate on each head's output lets a head say nothing where it has "
        "nothing to add."
    ),
    category="architecture",
    evidence="gated outputs helped where they were ablated at larger scale; here 0.015 bpb after 120 steps of the demo's size (one seed: may be noise)",
    patch="""\
<<<<<<< SEARCH
        self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding else None
=======
        self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding else None
        self.head_gate = nn.Linear(self.GATE_CHANNELS, N_HEAD, bias=False)
        nn.init.zeros_(self.head_gate.weight)
>>>>>>> REPLACE
<<<<<<< SEARCH
        y = attend(q, k, v.transpose(1, 2), self.window)
=======
        y = attend(q, k, v.transpose(1, 2), self.window)
        y = y * (2 * torch.sigmoid(self.head_gate(x[..., : self.GATE_CHANNELS]))).transpose(1, 2).unsqueeze(-1)
>>>>>>> REPLACE
""",
)

IDEAS = (SHIFT, BIGRAM, GATE)
