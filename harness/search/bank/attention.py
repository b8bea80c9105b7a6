"""The bank's ideas about one attention layer: what its keys hold, and what its output may say.

Lines end as in `architecture`.
"""

from harness.search.bank.idea import Idea

EXCLUSIVE = Idea(
    id="exclusive-attention",
    title="Take out of each head's output what the token's own value says",
    hypothesis=(
        "The output of attention tends to lie along the token's own value, which the stream "
        "holds anyway. A learnt share of that part is taken out, so that heads say what is new."
    ),
    category="architecture",
    evidence=(
        "unmeasured; exclusive self-attention (Zhai, 2026) gained up to 2.7B weights; gated by "
        "head it took 30 of 1440 steps off a speed record (modded-nanogpt 264)"
    ),
    constants="""\
EXCLUSIVE_LR = 0.02        # per step, 0.001..1.0 log: AdamW, share of its own value that a \
head's output loses
""",
    patch="""\
@@
         self.window = window
+        self.exclusion = nn.Parameter(torch.zeros(N_HEAD, 1, 1))
@@
         y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
+        own = F.normalize(v, dim=-1).transpose(1, 2).repeat_interleave(KV_GROUP, dim=1).to(y.dtype)
+        y = y - self.exclusion.to(y.dtype) * (y * own).sum(-1, keepdim=True) * own
@@
         self.adam_groups = [
+            ([block.attention.exclusion for block in model.blocks], EXCLUSIVE_LR, 0.0),
""",
)

EARLIER_KEYS = Idea(
    id="earlier-keys",
    title="Let half of each key be that of the token before",
    hypothesis=(
        "To copy what followed, a head must find a token by the one before it. With the slowly "
        "turning half of the channels one token late, one layer can, and no weight is added."
    ),
    category="architecture",
    evidence=(
        "unmeasured; keys one token late in the channels that do not turn took 2.4 of 131 s off a "
        "speed record (modded-nanogpt, December 2025)"
    ),
    patch="""\
@@
         k = norm(rotate(k, cos, sin))
+        late = torch.arange(HEAD_DIM, device=k.device) % (HEAD_DIM // 2) >= HEAD_DIM // 4
+        k = torch.where(late, F.pad(k, (0, 0, 0, 0, 1, 0))[:, :-1], k)
""",
)

HEADS_APART = Idea(
    id="heads-apart",
    title="Orthogonalise the updates of queries, keys and values head by head",
    hypothesis=(
        "Orthogonal over all heads at once, the update of a head with small gradients is what the "
        "large ones leave. Head by head each moves by as much, and the products are smaller."
    ),
    category="optimizer",
    evidence=(
        "unmeasured; in pairs of heads it took 10 of 1490 steps off a speed record (modded-nanogpt "
        "253); head by head it is in Kimi K3 and GLM-5 (2026)"
    ),
    patch="""\
@@
-        self.query = nn.Linear(width, N_HEAD * HEAD_DIM, bias=False)
-        self.key = nn.Linear(width, self.n_kv_head * HEAD_DIM, bias=False)
-        self.value = nn.Linear(width, self.n_kv_head * HEAD_DIM, bias=False)
+        self.query, self.key, self.value = (
+            nn.ModuleList(nn.Linear(width, HEAD_DIM, bias=False) for _ in range(heads))
+            for heads in (N_HEAD, self.n_kv_head, self.n_kv_head)
+        )
@@
-        q = self.query(x).view(B, T, N_HEAD, HEAD_DIM)
-        k = self.key(x).view(B, T, self.n_kv_head, HEAD_DIM)
-        v = self.value(x).view(B, T, self.n_kv_head, HEAD_DIM)
+        q, k, v = (
+            F.linear(x, torch.cat([head.weight for head in heads])).view(B, T, -1, HEAD_DIM)
+            for heads in (self.query, self.key, self.value)
+        )
@@
-            for matrix in (attention.query, attention.key, attention.value, feed_forward.expand):
+            for matrix in (*attention.query, *attention.key, *attention.value, \
feed_forward.expand):
""",
)
