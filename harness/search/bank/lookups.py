"""The bank's ideas about what is looked up by the tokens themselves, before any layer thinks.

Such parts cost few products and learn from their first step, so they suit models that take few. A
line of a patch that ends with a backslash goes on in the next, as in `architecture`.
"""

from typing import Any

from harness.search.bank.idea import Idea, Values
from harness.search.patch import PatchError

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
        "unmeasured; hard-wired n-gram heads took 6.7% off the perplexity of 340M weights "
        "(Akyurek et al., 2024)"
    ),
    constants="""\
REPEAT_TABLES = 2          # tables, {1, 2, 3, 4}: embeddings of what followed the last 1, 2, .. \
tokens earlier in the row
REPEAT_LR = 0.1            # per step, 0.003..3.0 log: AdamW, tables of what followed
""",
    patch="""\
<<<<<<< SEARCH
        self.unembedding = nn.Linear(width, rows, bias=False)
=======
        self.repeat_embeddings = nn.ModuleList(
            nn.Embedding.from_pretrained(torch.zeros(rows, width), freeze=False) \
for _ in range(REPEAT_TABLES)
        )
        self.unembedding = nn.Linear(width, rows, bias=False)
>>>>>>> REPLACE
<<<<<<< SEARCH
    def features(self, idx: torch.Tensor) -> torch.Tensor:
=======
    def repeats(self, idx: torch.Tensor) -> torch.Tensor:
        \"\"\"Return the sum of the embeddings of what followed where the last 1, 2, .. tokens \
stood before, (B, T, width).\"\"\"
        T, total = idx.size(1), torch.zeros((), device=idx.device)
        same = torch.ones(T, T, dtype=torch.bool, device=idx.device).tril(-1)  # t, s: s is earlier
        following = torch.arange(1, T + 1, dtype=torch.int32, device=idx.device)
        for distance, table in enumerate(self.repeat_embeddings):
            token = F.pad(idx, (distance, 0), value=-1)[:, :T]
            same = same & (token.unsqueeze(2) == token.unsqueeze(1))
            place = (same * following).amax(2).long()  # 0: they never stood there together
            total = total + table(idx.gather(1, place)) * (place > 0).unsqueeze(2)
        return total

    def features(self, idx: torch.Tensor) -> torch.Tensor:
>>>>>>> REPLACE
<<<<<<< SEARCH
        x0, ngrams = x, self.ngrams(idx)
=======
        x0, ngrams = x, self.ngrams(idx) + self.repeats(idx)
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.adam_groups = [
=======
        self.adam_groups = [
            (list(model.repeat_embeddings.parameters()), REPEAT_LR * scale, 0.0),
>>>>>>> REPLACE
""",
)


def _tables_are_on(values: Values) -> dict[str, Any]:
    if not values["NGRAM_TABLES"]:
        raise PatchError("there are no tables of the last tokens")
    return {}


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
<<<<<<< SEARCH
            total = total + table((code ^ (code >> 29)) % table.num_embeddings)
=======
            bits = torch.arange(table.embedding_dim, device=idx.device) % 32 + 31  # well mixed ones
            signs = 1 - 2 * (((code * 6_364_136_223_846_793_005).unsqueeze(-1) >> bits) & 1)
            total = total + table((code ^ (code >> 29)) % table.num_embeddings) * signs
>>>>>>> REPLACE
""",
    values=_tables_are_on,
)


def _tables_and_values_are_on(values: Values) -> dict[str, Any]:
    if not values["VALUE_EMBED_EVERY"]:
        raise PatchError("no layer adds value embeddings")
    return _tables_are_on(values)


TABLE_VALUES = Idea(
    id="table-values",
    title="Let attention carry what the tables say of the last tokens",
    hypothesis=(
        "A value embedding says which token stood somewhere; with the tables added to it, "
        "attention hands on the pair and the triple that stood there, at no more weights."
    ),
    category="architecture",
    evidence=(
        "unmeasured; tables of n-grams added to attention's values hold nanochat's best figure "
        "(pull request 854) and cut modded-nanogpt's steps from 1285 to 1140 (366)"
    ),
    patch="""\
<<<<<<< SEARCH
            value_embedding = self.value_embeddings[str(i)](idx) \
if str(i) in self.value_embeddings else None
=======
            value_embedding = self.value_embeddings[str(i)](idx) \
if str(i) in self.value_embeddings else None
            if value_embedding is not None:
                value_embedding = value_embedding + \
ngrams.expand_as(x)[..., : value_embedding.size(-1)]
>>>>>>> REPLACE
""",
    values=_tables_and_values_are_on,
)

TOKEN_LOGITS = Idea(
    id="token-logits",
    title="Add logits of its own for each last token",
    hypothesis=(
        "Logits through a narrow stream have its rank, too low for the statistics of pairs. A "
        "table from the last token to all logits has full rank, and learns them like counts."
    ),
    category="architecture",
    evidence=(
        "unmeasured; the softmax bottleneck (Yang et al., 2018); a table of bigram logits beside "
        "the model is common in small models"
    ),
    constants="""\
TOKEN_LOGIT_ROWS = 2048    # rows, 256..16384 pow2: tokens with a row of logits of their own
TOKEN_LOGIT_LR = 0.03      # per step, 0.001..1.0 log: AdamW, those rows
""",
    patch="""\
<<<<<<< SEARCH
        self.unembedding = nn.Linear(width, rows, bias=False)
=======
        self.token_logits = nn.Embedding.from_pretrained(\
torch.zeros(min(rows, TOKEN_LOGIT_ROWS), rows), freeze=False)
        self.unembedding = nn.Linear(width, rows, bias=False)
>>>>>>> REPLACE
<<<<<<< SEARCH
        logits = self.unembedding(self.features(idx)).float()
=======
        logits = self.unembedding(self.features(idx)).float()
        logits = logits + self.token_logits(idx % self.token_logits.num_embeddings)
>>>>>>> REPLACE
<<<<<<< SEARCH
        self.adam_groups = [
=======
        self.adam_groups = [
            (list(model.token_logits.parameters()), TOKEN_LOGIT_LR * scale, 0.0),
>>>>>>> REPLACE
""",
)
