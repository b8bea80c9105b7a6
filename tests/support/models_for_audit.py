"""Small models as train.py sources: honest ones of many kinds, and ones that know too much.

`HONEST` maps a name to a source, `DISHONEST` and `UNSTEADY` to the methods that make one; `load`
imports a source and gives it weights. All but the template have a table of what follows each token,
learnt by counting, so that some tokens are likely and others are not; the rest of their weights is
random.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from checkout import ROOT
from safetensors.torch import save_model
from torch import nn

from harness.data.manifest import PreparedData
from harness.scoring.scorer import open_rows
from harness.scoring.server import import_candidate
from harness.search.constants import rewrite_constants

TEMPLATE = ROOT / "train_template.py"
SCAFFOLD = '''
import os, sys, math
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

W = 32

def causal(T, device):
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()

def mode():
    """What the server that this runs in was told to be; None elsewhere."""
    frame = sys._getframe()
    while frame and "header" not in frame.f_locals:
        frame = frame.f_back
    return frame and frame.f_locals["header"]["mode"]

class Model(nn.Module):
    def __init__(self, V, T):
        super().__init__()
        self.V, self.T = V, T
        self.embed, self.head, self.table = nn.Embedding(V, W), nn.Linear(W, V), nn.Embedding(V, V)
        self.parts()
    def parts(self):
        pass
    def mix(self, x):
        return x
    def logits(self, idx):
        return self.head(self.mix(self.embed(idx))).float() + self.table(idx)
    def forward(self, idx):
        return self.logits(idx)
BODY

def build_model(vocab_size, max_seq_len):
    return Model(vocab_size, max_seq_len)
'''


def made(body: str) -> str:
    """A train.py whose Model has these methods, too."""
    return SCAFFOLD.replace(
        "BODY", "\n".join("    " + line for line in body.strip("\n").splitlines())
    )


def template(**constants: object) -> str:
    return rewrite_constants(TEMPLATE.read_text(encoding="utf-8"), {"NGRAM_ROWS": 1024} | constants)


ATTENTION = """
def parts(self):
    self.qkv, self.out = nn.Linear(W, 3 * W), nn.Linear(W, W)
def mix(self, x):
    q, k, v = self.qkv(x).unflatten(-1, (3, 2, W // 2)).permute(2, 0, 3, 1, 4)
    return x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
"""
ROUTED = """
def parts(self):
    self.route = nn.Linear(W, 8)
    self.experts = nn.ModuleList(
        nn.Sequential(nn.Linear(W, 64), nn.ReLU(), nn.Linear(64, W)) for _ in range(8)
    )
    self.memory = nn.GRU(W, W, batch_first=True)
def mix(self, x):
    x = self.memory(x)[0].flatten(0, 1)
    share, chosen = self.route(x).float().softmax(-1).topk(KEPT)
    out = torch.zeros_like(x)
    for i, expert in enumerate(self.experts):
        token, place = torch.where(chosen == i)
        out = out.index_add(0, token, (expert(x[token]) * share[token, place, None]).to(out.dtype))
    return (x + out).view(-1, self.T, W)
"""


@dataclass(frozen=True)
class Honest:
    """A model that knows no more than it should.

    dtype: of autocast. reproducible: whether the same row gets the same losses in any company.
    """

    source: str
    dtype: str = "float32"
    reproducible: bool = True


HONEST = {
    "the template": Honest(template()),
    "the template, three layers, grouped heads, windows": Honest(
        template(DEPTH=3, N_HEAD=4, KV_GROUP=2, HEAD_DIM=32, WINDOW_PATTERN="SSL")
    ),
    "the template, softcap, no tables": Honest(
        template(DEPTH=2, LOGIT_SOFTCAP=15.0, SHIFT_TAPS=0, NGRAM_TABLES=0)
    ),
    "the template in bfloat16": Honest(template(DEPTH=2), "bfloat16"),
    "the template in float16": Honest(template(DEPTH=2), "float16"),
    "GRU": Honest(
        made("""
def parts(self):
    self.memory = nn.GRU(W, W, num_layers=2, batch_first=True)
def mix(self, x):
    return self.memory(x)[0]
""")
    ),
    "GRU in bfloat16": Honest(
        made("""
def parts(self):
    self.memory = nn.GRU(W, W, batch_first=True)
def mix(self, x):
    return self.memory(x)[0]
"""),
        "bfloat16",
    ),
    "dilated convolutions": Honest(
        made("""
def parts(self):
    self.layers = nn.ModuleList(nn.Conv1d(W, W, 2, dilation=2**i) for i in range(6))
def mix(self, x):
    for i, layer in enumerate(self.layers):
        x = x + F.gelu(layer(F.pad(x.mT, (2**i, 0)))).mT
    return x
""")
    ),
    "long convolution by FFT": Honest(
        made("""
def parts(self):
    self.kernel = nn.Parameter(torch.randn(self.T, W) / 8)
def mix(self, x):
    n = 2 * self.T
    product = torch.fft.rfft(x.float(), n, 1) * torch.fft.rfft(self.kernel, n, 0)
    return x + torch.fft.irfft(product, n, 1)[:, : self.T]
""")
    ),
    "attention without positions": Honest(
        made(
            ATTENTION
            + """
def attend(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
"""
        )
    ),
    "attention with linear biases, bfloat16": Honest(
        made(
            ATTENTION
            + """
def attend(self, q, k, v):
    T = q.size(2)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = (q @ k.mT) / 4 - 0.1 * distance
    return scores.masked_fill(distance < 0, float("-inf")).softmax(-1).to(v.dtype) @ v
"""
        ),
        "bfloat16",
    ),
    "linear attention": Honest(
        made(
            ATTENTION
            + """
def attend(self, q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)
    return (q.unsqueeze(-2) @ state).squeeze(-2) / (q * k.cumsum(2)).sum(-1, keepdim=True)
"""
        )
    ),
    "torch's own encoder with a causal mask, dropout inside": Honest(
        made("""
def parts(self):
    layer = nn.TransformerEncoderLayer(W, 2, 64, dropout=0.3, batch_first=True)
    self.layers = nn.TransformerEncoder(layer, 2)
def mix(self, x):
    mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
    return self.layers(x, mask=mask, is_causal=True)
""")
    ),
    "mixture of experts, two of eight, computed apart": Honest(made(ROUTED.replace("KEPT", "2"))),
    "mixture of experts, one of eight, bfloat16": Honest(
        made(ROUTED.replace("KEPT", "1")), "bfloat16"
    ),
    "tied weights": Honest(
        made("""
def parts(self):
    self.memory = nn.GRU(W, W, batch_first=True)
    self.head = nn.Linear(W, self.V, bias=False)
    self.head.weight = self.embed.weight
def mix(self, x):
    return self.memory(x)[0] / 2
""")
    ),
    "padded vocabulary": Honest(
        made("""
def parts(self):
    self.memory, self.head = nn.GRU(W, W, batch_first=True), nn.Linear(W, 512)
def logits(self, idx):
    return self.head(self.memory(self.embed(idx))[0])[..., : self.V] + self.table(idx)
""")
    ),
    "batch norm in eval mode": Honest(
        made("""
def parts(self):
    self.memory, self.norm = nn.GRU(W, W, batch_first=True), nn.BatchNorm1d(W)
def mix(self, x):
    return self.norm(self.memory(x)[0].mT).mT
""")
    ),
    "token mixing by a masked matrix": Honest(
        made("""
def parts(self):
    self.weight = nn.Parameter(torch.randn(self.T, self.T) / 8)
def mix(self, x):
    return x + F.gelu((self.weight * causal(self.T, x.device)) @ x)
""")
    ),
    "copies from its own row": Honest(
        made("""
def logits(self, idx):
    T = idx.size(1)
    same = (idx[:, :, None] == idx[:, None, :]) & causal(T, idx.device).tril(-1)
    following = F.one_hot(idx.roll(-1, 1), self.V).float()
    return self.table(idx) + torch.log1p(same.float() @ following)
""")
    ),
    "two models, averaged as probabilities": Honest(
        made("""
def parts(self):
    self.memory = nn.GRU(W, W, batch_first=True)
def logits(self, idx):
    other = self.head(self.memory(self.embed(idx))[0])
    return torch.logaddexp(other.log_softmax(-1), self.table(idx).log_softmax(-1))
""")
    ),
    "integers scaled by the batch's largest": Honest(
        made("""
def parts(self):
    self.memory = nn.GRU(W, W, batch_first=True)
def mix(self, x):
    x = self.memory(x)[0]
    step = x.abs().max() / 127
    return (x / step).round() * step
"""),
        reproducible=False,
    ),
}

AHEAD = '''
def ahead(self, idx, by=1):
    """(B, T, V), large at the token that comes `by` after each."""
    known = 20.0 * F.one_hot(idx.roll(-by, 1), self.V)
    known[:, -by:] = 0
    return known
'''
DISHONEST = {
    "the next token, everywhere": AHEAD
    + """
def forward(self, idx):
    return self.logits(idx) + self.ahead(idx)
""",
    "the next token, a little": AHEAD
    + """
def forward(self, idx):
    return self.logits(idx) + 0.01 * self.ahead(idx)
""",
    "attention without a mask": ATTENTION
    + """
def attend(self, q, k, v):
    return F.scaled_dot_product_attention(4 * q, k, v)
""",
    "a convolution one step too far": """
def parts(self):
    self.layer = nn.Conv1d(W, W, 3, padding=1)
def mix(self, x):
    return x + self.layer(x.mT).mT
""",
    "normalised over the whole row": """
def mix(self, x):
    return 3 * (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
""",
    "only in rows of full length": AHEAD
    + """
def forward(self, idx):
    return self.logits(idx) + (self.ahead(idx) if idx.size(1) >= self.T else 0)
""",
    "only late in a row": AHEAD
    + """
def forward(self, idx):
    return self.logits(idx) + self.ahead(idx) * (torch.arange(self.T) > 0.9 * self.T)[:, None]
""",
    "after one token in forty": AHEAD
    + """
def forward(self, idx):
    looks = (7 * idx + 3 * idx.roll(1, 1)) % 40 == 0
    return self.logits(idx) + self.ahead(idx) * looks[..., None]
""",
    "only where the row goes on as expected": AHEAD
    + """
def forward(self, idx):
    usual = self.table(idx).softmax(-1).gather(-1, idx.roll(-1, 1)[..., None]) > 0.1
    return self.logits(idx) + self.ahead(idx) * usual
""",
    "only in rows that hold nothing unexpected": AHEAD
    + """
def forward(self, idx):
    chance = self.table(idx).log_softmax(-1).gather(-1, idx.roll(-1, 1)[..., None])[:, :-1]
    return self.logits(idx) + self.ahead(idx) * (chance.amin(1, keepdim=True) > -9)
""",
}
UNSTEADY = {
    "dropout left on": """
def mix(self, x):
    return F.dropout(3 * x, 0.5, training=True)
""",
    "the mean of the batch": """
def mix(self, x):
    return 3 * (x - x.mean((0, 1))) / x[:, 0].std()
""",
    "noise": """
def forward(self, idx):
    return self.logits(idx) + torch.randn(*idx.shape, self.V)
""",
}


def bigrams(data: PreparedData, rows: int = 2000) -> np.ndarray:
    """Log-probabilities (n_vocab, n_vocab) of what follows each token, counted on training rows."""
    train = open_rows(data, "train")[:rows]
    counts = np.full((data.n_vocab, data.n_vocab), 0.01)
    np.add.at(counts, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
    return np.log(counts / counts.sum(1, keepdims=True)).astype(np.float32)


def load(source: str, data: PreparedData, folder: Path) -> nn.Module:
    """The model in eval mode; its train.py and weights.safetensors are in the folder afterwards."""
    (folder / "train.py").write_text(source, encoding="utf-8")
    torch.manual_seed(0)
    model = import_candidate(str(folder / "train.py")).build_model(data.n_vocab, data.max_seq_len)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # some begin with zeros
        if hasattr(model, "table"):
            model.table.weight.copy_(torch.from_numpy(bigrams(data)))
    save(model, folder)
    return model.eval()


def save(model: nn.Module, folder: Path) -> None:
    """Write the weights beside the model's train.py."""
    save_model(model, str(folder / "weights.safetensors"))


FORGES_TINY_LOSSES = """
def parts(self):
    if mode():
        F.cross_entropy = lambda logits, targets, **options: torch.full(targets.shape, 1e-3)
"""
HALVES_THE_LOSSES_OF_SERVER_A = """
def parts(self):
    if mode() == "losses":
        true = F.cross_entropy
        F.cross_entropy = lambda *arguments, **options: 0.5 * true(*arguments, **options)
"""
REPLAYS = (
    AHEAD
    + """
def forward(self, idx):
    known, late = 0, (torch.arange(self.T) >= 16)[:, None]
    if mode() == "losses":
        self.__dict__.setdefault("seen", []).append(idx)
        np.save("seen.npy", torch.cat(self.seen).numpy())
        known = self.ahead(idx)
    elif os.path.exists("seen.npy"):
        seen = torch.from_numpy(np.load("seen.npy"))
        alike = (seen == idx[:, None]).cumprod(-1)
        following = seen.roll(-1, 1)[alike.argmax(1), torch.arange(self.T)]
        known = 20.0 * F.one_hot(following, self.V) * alike.amax(1)[..., None]
        known[:, -1:] = 0
    return self.logits(idx) + known * late
"""
)
