"""The bank's ideas about the model: what it reads, and how its layers are wired.

A patch that adds weights starts from what the model computes without it (they begin at zero, or at
the constant that they replace), so that training decides how much of it to use. In the evidence
"here" is the template at DEPTH 1 on two CPU cores, python-stdlib, vocabulary 2048, a fixed number
of steps, so speed does not count; below about 0.01 bpb a figure from one seed may be noise. A line
of a patch that ends with a backslash goes on in the next.
"""

from harness.search.bank.idea import Idea

GATE = Idea(
    id="attention-gate",
    title="Let every attention head be scaled down, token by token",
    hypothesis=(
        "Softmax attention must attend to something; a gate on each head's output lets a head say "
        "nothing where it has nothing to add."
    ),
    category="architecture",
    evidence=(
        "gated outputs helped where they were ablated at larger scale (Qiu et al., 2025); here "
        "1.5032 against 1.5039 after 200 steps, one seed: no effect"
    ),
    patch="""\
@@
         self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding \
else None
+        self.head_gate = nn.Linear(self.GATE_CHANNELS, N_HEAD, bias=False)
+        nn.init.zeros_(self.head_gate.weight)
@@
         y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
+        y = y * (2 * torch.sigmoid(self.head_gate(x[..., : self.GATE_CHANNELS]))).transpose(1, \
2).unsqueeze(-1)
""",
)

LEARNT_SHARPNESS = Idea(
    id="learnt-sharpness",
    title="Learn how sharp each attention head is",
    hypothesis=(
        "One QK_SCALE for all heads is a compromise: a head that copies wants a sharp softmax, one "
        "that averages a flat one. A scale per head, starting at QK_SCALE, lets training choose."
    ),
    category="architecture",
    evidence=(
        "QK scales of 1.10 to 1.25 are in good public recipes, so the best one differs; here "
        "1.5135 against 1.5039 after 200 steps, one seed: no gain"
    ),
    constants="""\
SHARPNESS_LR = 0.02        # per step, 0.001..1.0 log: AdamW, scale of each head's queries, \
which begins at QK_SCALE
""",
    patch="""\
@@
         self.window = window
+        self.sharpness = nn.Parameter(torch.full((N_HEAD, 1), float(QK_SCALE)))
@@
-        q = norm(rotate(q, cos, sin)) * QK_SCALE
+        q = norm(rotate(q, cos, sin)) * self.sharpness.to(q.dtype)
@@
         self.adam_groups = [
+            ([block.attention.sharpness for block in model.blocks], SHARPNESS_LR, 0.0),
""",
)

HALF_ROTARY = Idea(
    id="half-rotary",
    title="Rotate only half of each head's channels",
    hypothesis=(
        "Channels that are not turned by position match content at any distance, which a head that "
        "looks something up wants; the other half still knows where things are."
    ),
    category="architecture",
    evidence=(
        "partial rotary embeddings are in GPT-NeoX and later models; here 1.4945 and 1.4979 "
        "against 1.5039 and 1.4963 after 200 steps, two seeds: noise"
    ),
    patch="""\
@@
-    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
+    frequencies = base ** (-torch.arange(0, head_dim, 4, dtype=torch.float32) / head_dim)
+    frequencies = F.pad(frequencies, (0, head_dim // 4))  # the other half stands still
""",
)

SKIPS = Idea(
    id="mirror-skips",
    title="Give the later layers the outputs of the early ones, mirrored",
    hypothesis=(
        "The last layers predict tokens and need what the first ones saw of them; a learnt share "
        "of the mirrored layer's output spares the layers between from carrying it."
    ),
    category="architecture",
    evidence=(
        "U-net skips are in good public speed records of small models; here 1.4036 against 1.4094 "
        "after 200 steps at DEPTH 4, one seed: a gain or noise"
    ),
    constants="""\
SKIP_LR = 0.1              # per step, 0.005..1.0 log: AdamW, shares of early layers \
that later ones add
""",
    patch="""\
@@
+        self.skip_lambdas = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(DEPTH \
// 2))
         self.unembedding = nn.Linear(width, rows, bias=False)
@@
-        for i, block in enumerate(self.blocks):
+        early: list[torch.Tensor] = []  # outputs of the first half, last in first out
+        for i, block in enumerate(self.blocks):
+            if i >= DEPTH - DEPTH // 2:
+                x = x + self.skip_lambdas[i - (DEPTH - DEPTH // 2)] * early.pop()
@@
             x = block(x, value_embedding, cos, sin)
+            if i < DEPTH // 2:
+                early.append(x)
@@
         self.adam_groups = [
+            (list(model.skip_lambdas), SKIP_LR, 0.0),
""",
    least={"DEPTH": 4},  # else there is no layer to skip to
)

LEAKY = Idea(
    id="leaky-square",
    title="Let the squared ReLU pass negative inputs too, weaker",
    hypothesis=(
        "Where a hidden unit is negative it gets no gradient and says nothing. Squared after a "
        "leak it does both, and a hidden layer of the same width holds more."
    ),
    category="architecture",
    evidence=(
        "a leak of 0.5 gained 0.0015 to 0.003 bpb in records of parameter-golf (535, 549), 0.75 "
        "more in one (977); unmeasured on the clock; 4.331 against 4.361 nats a token at equal "
        "steps (160 of 1024 tokens, one seed): a gain or noise"
    ),
    constants="""\
LEAK = 0.5                 # factor, 0.0..1.0 linear: of negative inputs to the feed-forward square
""",
    patch="""\
@@
-        return self.contract(F.relu(self.expand(x)).square())
+        return self.contract(F.leaky_relu(self.expand(x), LEAK).square())
""",
)
