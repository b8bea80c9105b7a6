"""Thirty replies of an imagined language model, each with what a careful person would make of it.

Written against train_template.py (some against the file that an earlier one leaves), in the form
that harness/search/llm/prompt.py asks for or in the ways in which models miss it, and without
looking at the code that reads and applies them. `source()` is the file a reply is about,
`intended()` the file that its author meant, by plain replacements that are written down here once
more; None where nobody could tell or nothing may be guessed, so that the reply must be refused and
asked for again.
"""

from dataclasses import dataclass

from checkout import TEMPLATE


@dataclass(frozen=True)
class ScriptedReply:
    """One reply of a language model, and what was meant by it.

    form: how it is written. edits: (old, new) as meant; None: it must be refused. after: the reply
    whose file it changes.
    """

    name: str
    form: str
    title: str
    category: str
    text: str
    edits: tuple[tuple[str, str], ...] | None
    after: str = ""
    finish_reason: str = "stop"

    @property
    def well_formed(self) -> bool:
        return self.form == "as asked"

    def source(self) -> str:
        """The train.py that the model was shown."""
        return REPLIES[self.after].intended() if self.after else TEMPLATE

    def intended(self) -> str | None:
        """The train.py that the model meant."""
        return None if self.edits is None else edited(self.source(), self.edits)


def edited(source: str, edits: tuple[tuple[str, str], ...]) -> str:
    """The source with each old text replaced by the new one.

    Every old text stands in it exactly once.
    """
    for old, new in edits:
        assert source.count(old) == 1, f"{source.count(old)} times in the source: {old!r}"
        source = source.replace(old, new)
    return source


# --- As asked -------------------------------------------------------------------------------------

CONVOLVED = ScriptedReply(
    "convolved feed-forward", "as asked", "Give the feed-forward layer the short convolution too", "architecture",
    """\
Title: Give the feed-forward layer the short convolution too
Hypothesis: The convolution before attention was the largest single gain on this machine. The feed-forward layer sees one token at a time; with \
the same few taps before it, it can match token pairs by itself, at the cost of three multiplications per channel.
Category: architecture
Expected delta: -0.01

<<<<<<< SEARCH
        self.shift = ShortConvolution(width) if SHIFT_TAPS else nn.Identity()
        self.attention = Attention(width, window, value_embedding)
        self.feed_forward = FeedForward(width)
=======
        self.shift = ShortConvolution(width) if SHIFT_TAPS else nn.Identity()
        self.attention = Attention(width, window, value_embedding)
        self.shift_again = ShortConvolution(width) if SHIFT_TAPS else nn.Identity()
        self.feed_forward = FeedForward(width)
>>>>>>> REPLACE

<<<<<<< SEARCH
        x = x + self.attention(self.shift(norm(x)), value_embedding, cos, sin)
        return x + self.feed_forward(norm(x))
=======
        x = x + self.attention(self.shift(norm(x)), value_embedding, cos, sin)
        return x + self.feed_forward(self.shift_again(norm(x)))
>>>>>>> REPLACE

<<<<<<< SEARCH
            ([weight for block in model.blocks for weight in block.shift.parameters()], SHIFT_LR, 0.0),
=======
            ([weight for block in model.blocks for weight in block.shift.parameters()], SHIFT_LR, 0.0),
            ([weight for block in model.blocks for weight in block.shift_again.parameters()], SHIFT_LR, 0.0),
>>>>>>> REPLACE
""",
    (
        (
            "        self.feed_forward = FeedForward(width)\n",
            "        self.shift_again = ShortConvolution(width) if SHIFT_TAPS else nn.Identity()\n        self.feed_forward = FeedForward(width)\n",
        ),
        ("return x + self.feed_forward(norm(x))", "return x + self.feed_forward(self.shift_again(norm(x)))"),
        (
            "for weight in block.shift.parameters()], SHIFT_LR, 0.0),\n",
            "for weight in block.shift.parameters()], SHIFT_LR, 0.0),\n"
            "            ([weight for block in model.blocks for weight in block.shift_again.parameters()], SHIFT_LR, 0.0),\n",
        ),
    ),
)  # fmt: skip

RATES = ScriptedReply(
    "rates", "as asked", "Higher rates for both ends of the model", "tune",
    """\
Title: Higher rates for both ends of the model
Hypothesis: Few steps are taken in this budget, and the last curves still fall steeply at half of it, so embeddings and output matrix can \
afford larger steps.
Category: tune
Expected delta: -0.003

<<<<<<< SEARCH
EMBEDDING_LR = 0.9         # per step, 0.05..4.0 log: AdamW, token and value embeddings
UNEMBEDDING_LR = 0.006     # per step, 0.0005..0.06 log: AdamW, output matrix
=======
EMBEDDING_LR = 1.2         # per step, 0.05..4.0 log: AdamW, token and value embeddings
UNEMBEDDING_LR = 0.008     # per step, 0.0005..0.06 log: AdamW, output matrix
>>>>>>> REPLACE
""",
    (("EMBEDDING_LR = 0.9 ", "EMBEDDING_LR = 1.2 "), ("UNEMBEDDING_LR = 0.006 ", "UNEMBEDDING_LR = 0.008 ")),
)  # fmt: skip

LEAKY = ScriptedReply(
    "leaky", "as asked", "Let a little of the negative side through the squared ReLU", "architecture",
    """\
Title: Let a little of the negative side through the squared ReLU
Hypothesis: Half of the hidden units give no gradient at any one token. A slope of 0.1 keeps them learning and costs nothing.
Category: architecture
Expected delta: -0.002

<<<<<<< SEARCH
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.relu(self.expand(x)).square())
=======
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.leaky_relu(self.expand(x), 0.1).square())
>>>>>>> REPLACE
""",
    (("F.relu(self.expand(x)).square()", "F.leaky_relu(self.expand(x), 0.1).square()"),),
)  # fmt: skip

COSINE = ScriptedReply(
    "cosine", "as asked", "Warm down along a cosine instead of a line", "schedule",
    """\
Title: Warm down along a cosine instead of a line
Hypothesis: A cosine stays high for longer and arrives flat, which spends more of the budget at a useful rate and settles more gently.
Category: schedule
Expected delta: -0.002

<<<<<<< SEARCH
    if progress <= 1.0 - WARMDOWN_RATIO:
        return 1.0
    left = max(0.0, 1.0 - progress) / WARMDOWN_RATIO
    return left + (1.0 - left) * FINAL_LR_FRAC
=======
    if progress <= 1.0 - WARMDOWN_RATIO:
        return 1.0
    left = max(0.0, 1.0 - progress) / WARMDOWN_RATIO
    left = 0.5 - 0.5 * math.cos(math.pi * left)
    return left + (1.0 - left) * FINAL_LR_FRAC
>>>>>>> REPLACE
""",
    (
        (
            "/ WARMDOWN_RATIO\n    return left",
            "/ WARMDOWN_RATIO\n    left = 0.5 - 0.5 * math.cos(math.pi * left)\n    return left",
        ),
    ),
)  # fmt: skip

UNGATED = ScriptedReply(
    "ungated", "as asked", "Value embeddings without a gate", "simplify",
    """\
Title: Value embeddings without a gate
Hypothesis: The gate starts at 1 and reads 32 channels; with one layer and a few hundred steps it hardly moves. Without it there are \
fewer parameters, fewer kernels and five lines less.
Category: simplify
Expected delta: 0.000

<<<<<<< SEARCH
    GATE_CHANNELS = 32  # the gate of a value embedding reads only these first channels

=======
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding else None
=======
>>>>>>> REPLACE
<<<<<<< SEARCH
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.GATE_CHANNELS]))  # 1 at the start, in [0, 2]
            v = v + gate.unsqueeze(-1) * value_embedding.view(B, T, self.n_kv_head, HEAD_DIM).to(v.dtype)
=======
        if value_embedding is not None:
            v = v + value_embedding.view(B, T, self.n_kv_head, HEAD_DIM).to(v.dtype)
>>>>>>> REPLACE
<<<<<<< SEARCH
            if attention.gate is not None:
                attention.gate.weight.zero_()
=======
>>>>>>> REPLACE
""",
    (
        ("    GATE_CHANNELS = 32  # the gate of a value embedding reads only these first channels\n\n", ""),
        ("        self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding else None\n", ""),
        (
            "        if self.gate is not None:\n"
            "            gate = 2 * torch.sigmoid(self.gate(x[..., : self.GATE_CHANNELS]))  # 1 at the start, in [0, 2]\n"
            "            v = v + gate.unsqueeze(-1) * value_embedding",
            "        if value_embedding is not None:\n            v = v + value_embedding",
        ),
        ("            if attention.gate is not None:\n                attention.gate.weight.zero_()\n", ""),
    ),
)  # fmt: skip

OUTPUT_GAIN = ScriptedReply(
    "output gain", "as asked", "A learnt scale on the logits", "architecture",
    """\
Title: A learnt scale on the logits
Hypothesis: The last norm fixes the length of what the output matrix reads, so the matrix must grow to sharpen its predictions. One learnt \
factor does that faster than 270,000 weights.
Category: architecture
Expected delta: -0.003

<<<<<<< SEARCH
FINAL_LR_FRAC = 0.05       # of peak, 0.0..0.3 linear: where the learning rates end
=======
FINAL_LR_FRAC = 0.05       # of peak, 0.0..0.3 linear: where the learning rates end
OUTPUT_GAIN_LR = 0.01      # per step, 0.0005..0.5 log: AdamW, learnt scale of the logits
>>>>>>> REPLACE

<<<<<<< SEARCH
        self.unembedding = nn.Linear(width, rows, bias=False)
        cos, sin = rotary_tables(max_seq_len, HEAD_DIM, ROPE_BASE)
=======
        self.unembedding = nn.Linear(width, rows, bias=False)
        self.output_gain = nn.Parameter(torch.ones(()))
        cos, sin = rotary_tables(max_seq_len, HEAD_DIM, ROPE_BASE)
>>>>>>> REPLACE

<<<<<<< SEARCH
        logits = self.unembedding(self.features(idx)).float()
=======
        logits = self.output_gain * self.unembedding(self.features(idx)).float()
>>>>>>> REPLACE

<<<<<<< SEARCH
            ([model.x0_lambdas], SCALAR_LR, 0.0),
=======
            ([model.x0_lambdas], SCALAR_LR, 0.0),
            ([model.output_gain], OUTPUT_GAIN_LR, 0.0),
>>>>>>> REPLACE
""",
    (
        (
            "where the learning rates end\n",
            "where the learning rates end\nOUTPUT_GAIN_LR = 0.01      # per step, 0.0005..0.5 log: AdamW, learnt scale of the logits\n",
        ),
        (
            "        cos, sin = rotary_tables(",
            "        self.output_gain = nn.Parameter(torch.ones(()))\n        cos, sin = rotary_tables(",
        ),
        ("logits = self.unembedding(", "logits = self.output_gain * self.unembedding("),
        (
            "            ([model.x0_lambdas], SCALAR_LR, 0.0),\n",
            "            ([model.x0_lambdas], SCALAR_LR, 0.0),\n            ([model.output_gain], OUTPUT_GAIN_LR, 0.0),\n",
        ),
    ),
)  # fmt: skip

# Applies as it stands, and crashes at the first step: the second half of expand was never split
# off.
HALF_DONE = ScriptedReply(
    "gated linear unit, half done", "as asked", "A gated feed-forward layer", "architecture",
    """\
Title: A gated feed-forward layer
Hypothesis: A product of two projections (GLU, Shazeer 2020) is more expressive per parameter than a single activation.
Category: architecture
Expected delta: -0.004

<<<<<<< SEARCH
        self.expand = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.contract = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.relu(self.expand(x)).square())
=======
        self.expand = nn.Linear(width, 2 * MLP_RATIO * width, bias=False)
        self.contract = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.silu(self.expand(x)) * self.expand(x))
>>>>>>> REPLACE
""",
    (
        ("self.expand = nn.Linear(width, MLP_RATIO", "self.expand = nn.Linear(width, 2 * MLP_RATIO"),
        ("F.relu(self.expand(x)).square()", "F.silu(self.expand(x)) * self.expand(x)"),
    ),
)  # fmt: skip

DIARY = ScriptedReply(  # applies as it stands, and the gate refuses it: it writes a file
    "diary", "as asked", "Momentum that rises twice as fast", "optimizer",
    """\
Title: Momentum that rises twice as fast
Hypothesis: A run takes a few hundred steps, so the ramp should end sooner; the losses go to a file so that I can see the effect.
Category: optimizer
Expected delta: -0.001

<<<<<<< SEARCH
        factor = lr_factor(progress)
        optimizer.step(factor, muon_momentum(step), weight_decay(progress))
=======
        factor = lr_factor(progress)
        with open("losses.txt", "a") as diary:
            diary.write(f"{step} {total.item()}\\n")
        optimizer.step(factor, muon_momentum(2 * step), weight_decay(progress))
>>>>>>> REPLACE
""",
    (
        (
            "        factor = lr_factor(progress)\n",
            "        factor = lr_factor(progress)\n"
            '        with open("losses.txt", "a") as diary:\n'
            '            diary.write(f"{step} {total.item()}\\n")\n',
        ),
        ("muon_momentum(step)", "muon_momentum(2 * step)"),
    ),
)  # fmt: skip

# --- Malformed, and yet a careful person sees what is meant ---------------------------------------

SHIFTED = ScriptedReply(
    "shifted", "indentation lost throughout", "Warm up along a square root", "schedule",
    """\
Title: Warm up along a square root
Hypothesis: Should warm-up be switched on later, a square root reaches useful rates sooner than a line.
Category: schedule
Expected delta: -0.0005

<<<<<<< SEARCH
if progress < WARMUP_RATIO:
    return progress / WARMUP_RATIO
if progress <= 1.0 - WARMDOWN_RATIO:
    return 1.0
=======
if progress < WARMUP_RATIO:
    return (progress / WARMUP_RATIO) ** 0.5
if progress <= 1.0 - WARMDOWN_RATIO:
    return 1.0
>>>>>>> REPLACE
""",
    (("return progress / WARMUP_RATIO", "return (progress / WARMUP_RATIO) ** 0.5"),),
)  # fmt: skip

FIRST_LINE = ScriptedReply(
    "first line", "indentation of the first line lost", "Reach the full momentum in half the steps", "optimizer",
    """\
Title: Reach the full momentum in half the steps
Hypothesis: A run here takes a few hundred steps, so momentum that rises over 300 of them never arrives.
Category: optimizer
Expected delta: -0.003

<<<<<<< SEARCH
share = min(1.0, step / 300)
    return (1.0 - share) * 0.85 + share * MUON_MOMENTUM
=======
share = min(1.0, step / 150)
    return (1.0 - share) * 0.85 + share * MUON_MOMENTUM
>>>>>>> REPLACE
""",
    (("share = min(1.0, step / 300)", "share = min(1.0, step / 150)"),),
)  # fmt: skip

CRLF = ScriptedReply(
    "crlf", "CRLF line ends", "Keep weight decay constant", "schedule",
    """\
Title: Keep weight decay constant
Hypothesis: The learning rate falls already, and decay is multiplied by it; fading it twice leaves none at the end.
Category: schedule
Expected delta: -0.001

<<<<<<< SEARCH
def weight_decay(progress: float) -> float:
    \"\"\"Fades linearly: late in training the weights should settle, not shrink.\"\"\"
    return WEIGHT_DECAY * (1.0 - min(1.0, progress))
=======
def weight_decay(progress: float) -> float:
    \"\"\"Constant: the learning rate, which multiplies it, falls already.\"\"\"
    return WEIGHT_DECAY
>>>>>>> REPLACE
""".replace("\n", "\r\n"),
    (
        (
            '"""Fades linearly: late in training the weights should settle, not shrink."""\n    return WEIGHT_DECAY * (1.0 - min(1.0, progress))',
            '"""Constant: the learning rate, which multiplies it, falls already."""\n    return WEIGHT_DECAY',
        ),
    ),
)  # fmt: skip

CHATTY = ScriptedReply(
    "chatty", "prose around and between the blocks", "Give the token embedding a larger start in every layer", "tune",
    """\
Great, let me look at what has been tried so far. The last three experiments were all flat, so I would like to try something with the \
shortcut from the embedding.

Title: Give the token embedding a larger start in every layer
Hypothesis: With one layer, the token itself is the most useful thing the block can read, so its share may start higher.
Category: tune
Expected delta: -0.001

First the initial share itself:

<<<<<<< SEARCH
INIT_SCALE = 0.68          # factor, 0.2..2.0 log: scale of the random initial matrices
X0_LAMBDA_INIT = 0.05      # factor, 0.0..0.5 linear: initial share of the token embedding fed into every layer
=======
INIT_SCALE = 0.68          # factor, 0.2..2.0 log: scale of the random initial matrices
X0_LAMBDA_INIT = 0.2       # factor, 0.0..0.5 linear: initial share of the token embedding fed into every layer
>>>>>>> REPLACE

and, since it now starts nearer to where it should end, a smaller rate for the scalars:

<<<<<<< SEARCH
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of the earlier tokens
SCALAR_LR = 0.5            # per step, 0.02..2.0 log: AdamW, per-layer scalars
=======
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of the earlier tokens
SCALAR_LR = 0.3            # per step, 0.02..2.0 log: AdamW, per-layer scalars
>>>>>>> REPLACE

I am fairly confident in this. If it fails, I would next try the opposite direction.
""",
    (("X0_LAMBDA_INIT = 0.05 ", "X0_LAMBDA_INIT = 0.2  "), ("SCALAR_LR = 0.5 ", "SCALAR_LR = 0.3 ")),
)  # fmt: skip

FENCED = ScriptedReply(
    "fenced", "markdown: bold headers, a fence around each block", "Scale the embedding's normalised stream by the square root of two", "architecture",
    """\
**Title:** Scale the embedding's normalised stream by the square root of two
**Hypothesis:** The first block adds as much as the embedding holds; a longer embedding keeps the token's identity in the stream.
**Category:** architecture
**Expected delta:** -0.001

```python
<<<<<<< SEARCH
        x = norm(self.token_embedding(idx))
        x0, ngrams = x, self.ngrams(idx)
        x = x + ngrams
=======
        x = 2**0.5 * norm(self.token_embedding(idx))
        x0, ngrams = x, self.ngrams(idx)
        x = x + ngrams
>>>>>>> REPLACE
```
""",
    (("x = norm(self.token_embedding(idx))", "x = 2**0.5 * norm(self.token_embedding(idx))"),),
)  # fmt: skip

FENCES_INSIDE = ScriptedReply(
    "fences inside", "a fence inside each side of the block", "A higher rate for the learnt scale of the logits", "tune",
    """\
Title: A higher rate for the learnt scale of the logits
Hypothesis: The scale helped and was still growing at the end of the run, so it was too slow.
Category: tune
Expected delta: -0.001

<<<<<<< SEARCH
```python
OUTPUT_GAIN_LR = 0.01      # per step, 0.0005..0.5 log: AdamW, learnt scale of the logits
```
=======
```python
OUTPUT_GAIN_LR = 0.03      # per step, 0.0005..0.5 log: AdamW, learnt scale of the logits
```
>>>>>>> REPLACE
""",
    (("OUTPUT_GAIN_LR = 0.01 ", "OUTPUT_GAIN_LR = 0.03 "),),
    after="output gain",
)  # fmt: skip

NESTED = ScriptedReply(
    "nested fences", "the whole answer in a fence, blocks in fences within it", "Normalise the values as queries and keys are", "architecture",
    """\
Here is my proposal:

````markdown
Title: Normalise the values as queries and keys are
Hypothesis: What a head adds to the stream should depend on where it looks, not on how long the values happen to be.
Category: architecture
Expected delta: -0.002

```python
<<<<<<< SEARCH
        k = norm(rotate(k, cos, sin))
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
=======
        k = norm(rotate(k, cos, sin))
        v = norm(v)
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
>>>>>>> REPLACE
```
````
""",
    (
        (
            "        k = norm(rotate(k, cos, sin))\n",
            "        k = norm(rotate(k, cos, sin))\n        v = norm(v)\n",
        ),
    ),
)  # fmt: skip

_FLAT = (
    ('    """Rises to MUON_MOMENTUM over the first 300 steps: early gradients are soon stale."""\n', '    """The same at every step."""\n'),
    ("    share = min(1.0, step / 300)\n    return (1.0 - share) * 0.85 + share * MUON_MOMENTUM\n", "    return MUON_MOMENTUM\n"),
)  # fmt: skip
WHOLE_FILE = ScriptedReply(
    "whole file", "the whole file in a fence", "Momentum without a ramp", "simplify",
    f"""\
Title: Momentum without a ramp
Hypothesis: The orthogonalised update does not depend on the momentum's length, so a ramp changes little; two statements less.
Category: simplify
Expected delta: 0.000

```python
{edited(TEMPLATE, _FLAT)}```

This keeps everything else as it was.
""",
    _FLAT,
)  # fmt: skip

UNIFIED = ScriptedReply(
    "unified diff", "a unified diff", "Decay the second moment of Muon more slowly", "optimizer",
    """\
Title: Decay the second moment of Muon more slowly
Hypothesis: Twenty steps of memory are noisy for rows that seldom get a gradient.
Category: optimizer
Expected delta: -0.001

```diff
--- a/train.py
+++ b/train.py
@@ -283,7 +283,7 @@ def muon_update(
     update = orthogonalize(grads.lerp(momentum_buffer, momentum), MUON_STEPS, dtype).float()
     along = -1 if update.size(-2) >= update.size(-1) else -2
     mean_square = update.square().mean(dim=along, keepdim=True)
-    second_moment.lerp_(mean_square, 0.05)
+    second_moment.lerp_(mean_square, 0.02)
     scaled = update * (second_moment + 1e-10).rsqrt()
     update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / (scaled.norm(dim=(-2, -1), keepdim=True) + 1e-10))
     shrink = decay * weights * (update * weights > 0)
```
""",
    (("second_moment.lerp_(mean_square, 0.05)", "second_moment.lerp_(mean_square, 0.02)"),),
)  # fmt: skip

MISCOUNTED = ScriptedReply(
    "miscounted diff", "a unified diff whose line numbers are wrong", "Settle with less decay of the output matrix", "optimizer",
    """\
Title: Settle with less decay of the output matrix
Hypothesis: The output matrix starts near zero and needs to grow; decay holds it back.
Category: optimizer
Expected delta: -0.0005

--- train.py
+++ train.py
@@ -1,3 +1,3 @@
             (value_embeddings, EMBEDDING_LR * scale, EMBEDDING_DECAY),
-            (list(model.unembedding.parameters()), UNEMBEDDING_LR * scale, 0.01),
+            (list(model.unembedding.parameters()), UNEMBEDDING_LR * scale, 0.001),
             ([model.residual_lambdas], SCALAR_LR * 0.01, 0.0),  # these multiply the whole stream, layer after layer
             ([model.x0_lambdas], SCALAR_LR, 0.0),
""",
    (("UNEMBEDDING_LR * scale, 0.01),", "UNEMBEDDING_LR * scale, 0.001),"),),
)  # fmt: skip

THOUGHTFUL = ScriptedReply(
    "thoughtful", "a draft inside <think> before the answer", "Fewer steps towards an orthogonal update", "tune",
    """\
<think>
The matrices are 128 wide, so orthogonalisation is cheap... but on a CPU every product counts. Draft:

<<<<<<< SEARCH
MUON_STEPS = 5             # iterations, 3..8 int: orthogonalisation steps
=======
MUON_STEPS = 3             # iterations, 3..8 int: orthogonalisation steps
>>>>>>> REPLACE

Hmm, 3 is the lowest value allowed. 4 is safer.
</think>
Title: Fewer steps towards an orthogonal update
Hypothesis: Each step costs three products; the fifth changes the update by little.
Category: tune
Expected delta: -0.001

<<<<<<< SEARCH
MUON_MOMENTUM = 0.95       # factor, 0.8..0.98 linear: Muon, Nesterov momentum
MUON_STEPS = 5             # iterations, 3..8 int: orthogonalisation steps
=======
MUON_MOMENTUM = 0.95       # factor, 0.8..0.98 linear: Muon, Nesterov momentum
MUON_STEPS = 4             # iterations, 3..8 int: orthogonalisation steps
>>>>>>> REPLACE
""",
    (("MUON_STEPS = 5 ", "MUON_STEPS = 4 "),),
)  # fmt: skip

SLOPPY = ScriptedReply(
    "sloppy markers", "markers of other lengths, blanks at line ends", "Start the tables of tokens with a lower rate", "tune",
    """\
Title: Start the tables of tokens with a lower rate
Hypothesis: Rows that were read once take one full step of AdamW on a single token's gradient.
Category: tune
Expected delta: -0.002

<<<<<<<< SEARCH
NGRAM_LR = 0.03            # per step, 0.001..1.0 log: AdamW, tables of the last tokens together\x20\x20
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of the earlier tokens\x20
========
NGRAM_LR = 0.02            # per step, 0.001..1.0 log: AdamW, tables of the last tokens together
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of the earlier tokens
>>>>>>>> REPLACE
""",
    (("NGRAM_LR = 0.03 ", "NGRAM_LR = 0.02 "),),
)  # fmt: skip

FILE_NAMES = ScriptedReply(
    "file names", "all blocks in one fence, each under the file's name", "Let the residual scales learn ten times faster", "optimizer",
    """\
### Title
Let the residual scales learn ten times faster

### Hypothesis
They are held at a hundredth of SCALAR_LR; with a single layer there is no chain of products to protect.

### Category
optimizer

### Expected delta
-0.001

```
train.py
<<<<<<< SEARCH
            ([model.residual_lambdas], SCALAR_LR * 0.01, 0.0),  # these multiply the whole stream, layer after layer
            ([model.x0_lambdas], SCALAR_LR, 0.0),
=======
            ([model.residual_lambdas], SCALAR_LR * 0.1, 0.0),  # these multiply the whole stream, layer after layer
            ([model.x0_lambdas], SCALAR_LR, 0.0),
>>>>>>> REPLACE

train.py
<<<<<<< SEARCH
WARMUP_RATIO = 0.0         # of budget, 0.0..0.2 linear: learning rates rise linearly
WARMDOWN_RATIO = 0.7       # of budget, 0.2..1.0 linear: learning rates fall linearly
=======
WARMUP_RATIO = 0.02        # of budget, 0.0..0.2 linear: learning rates rise linearly
WARMDOWN_RATIO = 0.7       # of budget, 0.2..1.0 linear: learning rates fall linearly
>>>>>>> REPLACE
```
""",
    (("SCALAR_LR * 0.01, 0.0)", "SCALAR_LR * 0.1, 0.0)"), ("WARMUP_RATIO = 0.0  ", "WARMUP_RATIO = 0.02 ")),
)  # fmt: skip

SECOND_THOUGHT = ScriptedReply(
    "second thought", "two ideas, only one of them written as blocks", "Warm down over the whole budget", "schedule",
    """\
I see two promising directions: (A) warming down over the whole budget, and (B) a second table of token pairs with another hash. B needs \
more code, so I leave it for a later experiment and propose A.

Title: Warm down over the whole budget
Hypothesis: Short runs gain from a rate that falls from the first step: the flat part is where the noise of the gradient dominates.
Category: schedule
Expected delta: -0.003

<<<<<<< SEARCH
WARMDOWN_RATIO = 0.7       # of budget, 0.2..1.0 linear: learning rates fall linearly
FINAL_LR_FRAC = 0.05       # of peak, 0.0..0.3 linear: where the learning rates end
=======
WARMDOWN_RATIO = 1.0       # of budget, 0.2..1.0 linear: learning rates fall linearly
FINAL_LR_FRAC = 0.0        # of peak, 0.0..0.3 linear: where the learning rates end
>>>>>>> REPLACE
""",
    (("WARMDOWN_RATIO = 0.7 ", "WARMDOWN_RATIO = 1.0 "), ("FINAL_LR_FRAC = 0.05 ", "FINAL_LR_FRAC = 0.0  ")),
)  # fmt: skip

# --- To be refused --------------------------------------------------------------------------------

ELIDED = ScriptedReply(
    "elided", "lines left out of SEARCH", "Share the keys between heads", "architecture",
    """\
Title: Share the keys between heads
Hypothesis: One key head is enough at this width and makes the layer faster.
Category: architecture
Expected delta: -0.001

<<<<<<< SEARCH
        self.query = nn.Linear(width, N_HEAD * HEAD_DIM, bias=False)
        ...
        self.out = nn.Linear(N_HEAD * HEAD_DIM, width, bias=False)
=======
        self.query = nn.Linear(width, N_HEAD * HEAD_DIM, bias=False)
        self.key = nn.Linear(width, HEAD_DIM, bias=False)
        ...
        self.out = nn.Linear(N_HEAD * HEAD_DIM, width, bias=False)
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

AMBIGUOUS = ScriptedReply(
    "ambiguous", "a SEARCH that stands in the file more than once", "Clear gradients in place", "simplify",
    """\
Title: Clear gradients in place
Hypothesis: Zeroing keeps the memory and saves an allocation per step.
Category: simplify
Expected delta: 0.000

<<<<<<< SEARCH
                p.grad = None
=======
                p.grad.zero_()
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

TWO_IDEAS = ScriptedReply(
    "two ideas", "two ideas, both written as blocks", "", "",
    """\
Title: Sharper attention
Hypothesis: Short contexts want sharper attention.
Category: tune
Expected delta: -0.001

<<<<<<< SEARCH
QK_SCALE = 1.15            # factor, 0.7..2.0 linear: sharpens attention after the norm of queries and keys
=======
QK_SCALE = 1.3             # factor, 0.7..2.0 linear: sharpens attention after the norm of queries and keys
>>>>>>> REPLACE

Title: A slower second moment
Hypothesis: Rows of the embedding are seldom updated.
Category: tune
Expected delta: -0.001

<<<<<<< SEARCH
ADAM_BETA2 = 0.95          # factor, 0.9..0.999 linear: AdamW, second moment
=======
ADAM_BETA2 = 0.98          # factor, 0.9..0.999 linear: AdamW, second moment
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

CUT_OFF = ScriptedReply(
    "cut off", "cut off in the middle of a block", "A gate on the output of each head", "architecture",
    """\
Title: A gate on the output of each head
Hypothesis: Softmax must attend to something; a gate lets a head say nothing.
Category: architecture
Expected delta: -0.002

<<<<<<< SEARCH
        self.out = nn.Linear(N_HEAD * HEAD_DIM, width, bias=False)
=======
        self.out = nn.Linear(N_HEAD * HEAD_DIM, width, bias=False)
        self.head_gate = nn.Linear(width, N_HEAD, bias=False)
>>>>>>> REPLACE

<<<<<<< SEARCH
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))
=======
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
        y = y * torch.sigmoid(self.head_ga""",
    None,
    finish_reason="length",
)  # fmt: skip

NO_EFFECT = ScriptedReply(
    "no effect", "a block that changes nothing", "Keep the momentum at 0.95", "tune",
    """\
Title: Keep the momentum at 0.95
Hypothesis: It has proven to be the best value.
Category: tune
Expected delta: 0.000

<<<<<<< SEARCH
MUON_MOMENTUM = 0.95       # factor, 0.8..0.98 linear: Muon, Nesterov momentum
=======
MUON_MOMENTUM = 0.95       # factor, 0.8..0.98 linear: Muon, Nesterov momentum
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

FROM_MEMORY = ScriptedReply(
    "from memory", "a SEARCH quoted from another project", "Untie the residual scale of attention and feed-forward", "architecture",
    """\
Title: Untie the residual scale of attention and feed-forward
Hypothesis: The two write at different sizes.
Category: architecture
Expected delta: -0.001

<<<<<<< SEARCH
        x = x + self.attn(norm(x), cos_sin, window_size, kv_cache)
        x = x + self.mlp(norm(x))
        return x
=======
        x = x + self.attn_scale * self.attn(norm(x), cos_sin, window_size, kv_cache)
        x = x + self.mlp_scale * self.mlp(norm(x))
        return x
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

REST_UNCHANGED = ScriptedReply(
    "rest unchanged", "a whole file with its rest left out", "Wider feed-forward layer", "tune",
    f"""\
Title: Wider feed-forward layer
Hypothesis: Most parameters that matter here are in it.
Category: tune
Expected delta: -0.002

```python
{TEMPLATE[: TEMPLATE.index("# --- Model")].replace("MLP_RATIO = 4 ", "MLP_RATIO = 6 ")}
# ... the rest of the file is unchanged ...
```
""",
    None,
)  # fmt: skip

ONE_OF_TWO = ScriptedReply(
    "one of two", "two blocks of which one matches nothing", "Sparser value embeddings with more decay", "tune",
    """\
Title: Sparser value embeddings with more decay
Hypothesis: They overfit the few texts seen in this budget.
Category: tune
Expected delta: -0.001

<<<<<<< SEARCH
EMBEDDING_DECAY = 0.003    # factor, 0.0..0.03 linear: value embeddings
=======
EMBEDDING_DECAY = 0.01     # factor, 0.0..0.03 linear: value embeddings
>>>>>>> REPLACE

<<<<<<< SEARCH
VALUE_EMBED_DROPOUT = 0.0  # factor, 0.0..0.5 linear: dropout of value embeddings
=======
VALUE_EMBED_DROPOUT = 0.1  # factor, 0.0..0.5 linear: dropout of value embeddings
>>>>>>> REPLACE
""",
    None,
)  # fmt: skip

REPLIES = {
    reply.name: reply
    for reply in (
        CONVOLVED, RATES, LEAKY, COSINE, UNGATED, OUTPUT_GAIN, HALF_DONE, DIARY,
        SHIFTED, FIRST_LINE, CRLF, CHATTY, FENCED, FENCES_INSIDE, NESTED, WHOLE_FILE, UNIFIED, MISCOUNTED, THOUGHTFUL, SLOPPY, FILE_NAMES, SECOND_THOUGHT,
        ELIDED, AMBIGUOUS, TWO_IDEAS, CUT_OFF, NO_EFFECT, FROM_MEMORY, REST_UNCHANGED, ONE_OF_TWO,
    )
}  # fmt: skip
