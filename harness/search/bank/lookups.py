"""The bank's ideas about what is looked up by the tokens themselves, before any layer thinks.

Such parts cost few products and learn from their first step, so they suit models that take few.
Lines end as in `architecture`.
"""

from harness.search.bank.idea import Idea

REPEATS = Idea(
    id="repeats",
    title="Look up what followed the last time that these tokens stood in the row",
    hypothesis=(
        "Text repeats itself, code above all, and a model needs many steps to learn to look back "
        "for it. Where the last tokens stood before is found by comparing; an embedding of the "
        "token that followed there enters first and last, as those of token tables do."
    ),
    category="architecture",
    evidence=(
        "n-gram heads wired by hand took 6.7% off the perplexity of 340M weights (Akyurek et al., "
        "2024); 0.32 bpb here from a plain GPT after 60 s of training (three seeds), and nothing "
        "(a loss of 0.02, three seeds) where the short convolution and the token tables are in "
        "(results/benchmarks/bank.md)"
    ),
    constants="""\
REPEAT_TABLES = 2          # tables, {1, 2, 3, 4}: embeddings of what followed the last 1, 2, .. \
tokens earlier in the row
REPEAT_LR = 0.1            # per step, 0.003..3.0 log: AdamW, tables of what followed
""",
    patch="""\
@@
         self.ngram_embeddings = nn.ModuleList(nn.Embedding(NGRAM_ROWS, width) for _ in \
range(NGRAM_TABLES))
+        self.repeat_embeddings = nn.ModuleList(nn.Embedding(rows, width) for _ in \
range(REPEAT_TABLES))
+        for table in self.repeat_embeddings:
+            nn.init.zeros_(table.weight)
@@
         return total
+
+    def repeats(self, idx: torch.Tensor) -> torch.Tensor:
+        \"\"\"Return the sum of the embeddings of what followed where the last 1, 2, .. tokens \
stood before, (B, T, width).\"\"\"
+        T, total = idx.size(1), torch.zeros((), device=idx.device)
+        same = torch.ones(T, T, dtype=torch.bool, device=idx.device).tril(-1)  # t, s: s is earlier
+        following = torch.arange(1, T + 1, dtype=torch.int32, device=idx.device)
+        for distance, table in enumerate(self.repeat_embeddings):
+            token = F.pad(idx, (distance, 0), value=-1)[:, :T]
+            same = same & (token.unsqueeze(2) == token.unsqueeze(1))
+            place = (same * following).amax(2).long()  # 0: they never stood there together
+            total = total + table(idx.gather(1, place)) * (place > 0).unsqueeze(2)
+        return total
@@
         x0, ngrams = x, self.ngrams(idx)
+        ngrams = ngrams + self.repeats(idx)
@@
         self.adam_groups = [
+            (list(model.repeat_embeddings.parameters()), REPEAT_LR * scale, 0.0),
""",
)

SIGNS = Idea(
    id="table-signs",
    title="Let tokens that share a row of a table read it with signs of their own",
    hypothesis=(
        "Runs of tokens that fall on one row disturb each other. Read through a pattern of signs, "
        "different for each run, what one of them learns is noise to the others and not a bias."
    ),
    category="architecture",
    evidence=(
        "unmeasured; hashing with signs (Weinberger et al., 2009); half a second of 85 on the pair "
        "table of a speed record (modded-nanogpt 299)"
    ),
    patch="""\
@@
-            total = total + table((code ^ (code >> 29)) % table.num_embeddings)
+            bits = torch.arange(table.embedding_dim, device=idx.device) % 32 + 31  # well mixed \
ones
+            signs = 1 - 2 * (((code * 6_364_136_223_846_793_005).unsqueeze(-1) >> bits) & 1)
+            total = total + table((code ^ (code >> 29)) % table.num_embeddings) * signs
""",
    least={"NGRAM_TABLES": 1},
)

TABLE_VALUES = Idea(
    id="table-values",
    title="Let attention carry what the tables say of the last tokens",
    hypothesis=(
        "A value embedding says which token stood somewhere; with the tables added to it, "
        "attention hands on the pair and the triple that stood there, at no more weights."
    ),
    category="architecture",
    evidence=(
        "tables of n-grams added to attention's values gained 0.014 bpb in nanochat (854) and cut "
        "modded-nanogpt's steps from 1285 to 1140 (366); unmeasured on the clock; 4.368 against "
        "4.361 nats a token at equal steps (160 of 1024 tokens, one seed): no effect"
    ),
    patch="""\
@@
             value_embedding = self.value_embeddings[str(i)](idx) if str(i) in \
self.value_embeddings else None
+            if value_embedding is not None:
+                tables = ngrams.expand_as(x)[..., : value_embedding.size(-1)]
+                value_embedding = value_embedding + tables
""",
    least={"NGRAM_TABLES": 1},
)
