"""One experiment: a GPT, its optimizer, and a training loop that stops when the clock says so.

This is the only file an experiment may change. Everything above the last section may be rewritten at will, as long as

    build_model(vocab_size, max_seq_len) -> nn.Module      whose forward maps idx (B, T) int64 to logits (B, T, vocab_size)

stays, importing this file trains nothing, and running it trains with what `harness.training.session` hands out: batches of
training text, the seed, the clock, the log. Validation text never comes here; the harness loads the weights that `finish`
wrote into a fresh process and measures val_bpb itself.

Read top to bottom: constants, model, optimizer, schedules, training loop. `python train_template.py` trains once and prints the summary.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from harness.training.attention import attend
from harness.training.session import open_session

# One constant a line: value, unit, range and scale (or choices, or `fixed`), meaning. Proposers search exactly these ranges.
# === constants ===
DEPTH = 1                  # layers, 1..24 int: transformer blocks
N_HEAD = 2                 # heads, 1..16 int: query heads; the model's width is N_HEAD * HEAD_DIM
HEAD_DIM = 64              # channels, {32, 64, 128}: width of one head
KV_GROUP = 1               # query heads, {1, 2, 4}: query heads that share one key/value head
MLP_RATIO = 4              # x width, 2..8 int: hidden width of the feed-forward layer
WINDOW_PATTERN = "L"       # pattern, {"L", "SL", "SSL", "SSSL", "SSSSL"}: short and long attention layers, repeated; the last layer is long
SHORT_WINDOW = 0.125       # of context, {0.0625, 0.125, 0.25, 0.5}: reach of a short layer
VALUE_EMBED_EVERY = 2      # layers, {0, 1, 2, 3}: every n-th layer, counted from the last, adds value embeddings; 0 is none
ROPE_BASE = 10000.0        # wavelength, 1000.0..1000000.0 log: base of the rotary frequencies
QK_SCALE = 1.0            # factor, 0.7..2.0 linear: sharpens attention after the norm of queries and keys
SHIFT_TAPS = 3             # tokens, 0..7 int: earlier tokens mixed into the input of attention; 0 is none
NGRAM_TABLES = 0           # tables, 0..4 int: embeddings of the last 2, 3, .. tokens together, by hash; 0 is none
NGRAM_ROWS = 65536         # rows, 1024..4194304 pow2: of each such table
LOGIT_SOFTCAP = 15.0        # logits, {0.0, 10.0, 15.0, 20.0, 30.0}: logits are squashed into +-this; 0 is none
INIT_SCALE = 1.0          # factor, 0.2..2.0 log: scale of the random initial matrices
X0_LAMBDA_INIT = 0.1      # factor, 0.0..0.5 linear: initial share of the token embedding fed into every layer
TOTAL_BATCH_SIZE = 2048    # tokens, 256..1048576 pow2: tokens per optimizer step
DEVICE_BATCH_SIZE = 8      # rows, fixed: rows per forward pass; the rest is gradient accumulation
MATRIX_LR = 0.04           # per step, 0.004..0.3 log: Muon, hidden matrices
EMBEDDING_LR = 0.8         # per step, 0.05..4.0 log: AdamW, token and value embeddings
UNEMBEDDING_LR = 0.004     # per step, 0.0005..0.06 log: AdamW, output matrix
NGRAM_LR = 0.03            # per step, 0.001..1.0 log: AdamW, tables of the last tokens together
SHIFT_LR = 0.2             # per step, 0.005..2.0 log: AdamW, weights of the earlier tokens
SCALAR_LR = 0.5            # per step, 0.02..2.0 log: AdamW, per-layer scalars
WEIGHT_DECAY = 0.2         # factor, 0.0..0.6 linear: hidden matrices, cautious, fades out with progress
EMBEDDING_DECAY = 0.003    # factor, 0.0..0.03 linear: value embeddings
ADAM_BETA1 = 0.8           # factor, 0.5..0.95 linear: AdamW, first moment
ADAM_BETA2 = 0.95          # factor, 0.9..0.999 linear: AdamW, second moment
MUON_MOMENTUM = 0.95       # factor, 0.8..0.98 linear: Muon, Nesterov momentum
MUON_STEPS = 5             # iterations, 3..8 int: orthogonalisation steps
WARMUP_RATIO = 0.0         # of budget, 0.0..0.2 linear: learning rates rise linearly
WARMDOWN_RATIO = 0.5       # of budget, 0.2..1.0 linear: learning rates fall linearly
FINAL_LR_FRAC = 0.0       # of peak, 0.0..0.3 linear: where the learning rates end
# === end of constants ===


# --- Model -----------------------------------------------------------------------------------------------------------


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension, without parameters (Zhang and Sennrich, 2019)."""
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)  # autocast on CUDA would leave it in float32


def rotary_tables(max_seq_len: int, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, each (1, max_seq_len, 1, head_dim / 2), of the rotary position embedding (Su et al., 2021)."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float32), frequencies)
    return angles.cos()[None, :, None], angles.sin()[None, :, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the two halves of each head of x (B, T, H, D) by its position's angles."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def layer_windows(max_seq_len: int) -> list[int]:
    """Return each layer's attention reach in tokens: WINDOW_PATTERN repeated, the last layer always long."""
    short = max(1, int(max_seq_len * SHORT_WINDOW))
    letters = [WINDOW_PATTERN[i % len(WINDOW_PATTERN)] for i in range(DEPTH)]
    letters[-1] = "L"
    return [short if letter == "S" else max_seq_len for letter in letters]


def has_value_embedding(layer: int) -> bool:
    """True for every VALUE_EMBED_EVERY-th layer, counted from the last."""
    return VALUE_EMBED_EVERY > 0 and (DEPTH - 1 - layer) % VALUE_EMBED_EVERY == 0


class Attention(nn.Module):
    """Causal self-attention: grouped heads, rotary positions, normalised queries and keys, gated value embeddings."""

    GATE_CHANNELS = 32  # the gate of a value embedding reads only these first channels

    def __init__(self, width: int, window: int, value_embedding: bool) -> None:
        super().__init__()
        assert N_HEAD % KV_GROUP == 0, f"KV_GROUP {KV_GROUP} must divide N_HEAD {N_HEAD}"
        self.n_kv_head = N_HEAD // KV_GROUP
        self.window = window
        self.query = nn.Linear(width, N_HEAD * HEAD_DIM, bias=False)
        self.key = nn.Linear(width, self.n_kv_head * HEAD_DIM, bias=False)
        self.value = nn.Linear(width, self.n_kv_head * HEAD_DIM, bias=False)
        self.out = nn.Linear(N_HEAD * HEAD_DIM, width, bias=False)
        self.gate = nn.Linear(self.GATE_CHANNELS, self.n_kv_head, bias=False) if value_embedding else None

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, T, _ = x.shape
        q = self.query(x).view(B, T, N_HEAD, HEAD_DIM)
        k = self.key(x).view(B, T, self.n_kv_head, HEAD_DIM)
        v = self.value(x).view(B, T, self.n_kv_head, HEAD_DIM)
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.GATE_CHANNELS]))  # 1 at the start, in [0, 2]
            v = v + gate.unsqueeze(-1) * value_embedding.view(B, T, self.n_kv_head, HEAD_DIM).to(v.dtype)
        q = norm(rotate(q, cos, sin)) * QK_SCALE
        k = norm(rotate(k, cos, sin))
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


class ShortConvolution(nn.Module):
    """Adds the last SHIFT_TAPS tokens to each token, one learnt weight per channel and distance, zero at first.

    Much of what attention learns first is to look at the tokens just before; with this it need not, and one layer is enough for
    induction: 0.35 bpb in 25 s on a CPU. (Primer, So et al., 2021; Canon layers, Allen-Zhu, 2025.)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(SHIFT_TAPS, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = F.pad(x, (0, 0, SHIFT_TAPS, 0))  # row t of it is token t - SHIFT_TAPS
        for tap in range(SHIFT_TAPS):
            x = x + self.weight[tap].to(x.dtype) * before[:, SHIFT_TAPS - 1 - tap : before.size(1) - 1 - tap]
        return x


class FeedForward(nn.Module):
    """Two matrices with a squared ReLU between them (So et al., 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.contract = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.contract(F.relu(self.expand(x)).square())


class Block(nn.Module):
    """One layer: attention, then feed-forward, each reading a normalised stream and adding to it."""

    def __init__(self, width: int, window: int, value_embedding: bool) -> None:
        super().__init__()
        self.shift = ShortConvolution(width) if SHIFT_TAPS else nn.Identity()
        self.attention = Attention(width, window, value_embedding)
        self.feed_forward = FeedForward(width)

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.shift(norm(x)), value_embedding, cos, sin)
        return x + self.feed_forward(norm(x))


class GPT(nn.Module):
    """Decoder-only transformer. Every layer sees lambda_r * stream + lambda_0 * token embedding, both learnt."""

    def __init__(self, vocab_size: int, max_seq_len: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        width = N_HEAD * HEAD_DIM
        rows = -(-vocab_size // 64) * 64  # padded: matrix kernels like multiples of 64
        windows = layer_windows(max_seq_len)
        self.token_embedding = nn.Embedding(rows, width)
        self.value_embeddings = nn.ModuleDict(
            {str(i): nn.Embedding(rows, N_HEAD // KV_GROUP * HEAD_DIM) for i in range(DEPTH) if has_value_embedding(i)}
        )
        self.blocks = nn.ModuleList(Block(width, windows[i], has_value_embedding(i)) for i in range(DEPTH))
        self.residual_lambdas = nn.Parameter(torch.ones(DEPTH))
        self.x0_lambdas = nn.Parameter(torch.full((DEPTH,), float(X0_LAMBDA_INIT)))
        self.ngram_embeddings = nn.ModuleList(nn.Embedding(NGRAM_ROWS, width) for _ in range(NGRAM_TABLES))
        self.unembedding = nn.Linear(width, rows, bias=False)
        cos, sin = rotary_tables(max_seq_len, HEAD_DIM, ROPE_BASE)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Matrices that read: uniform with variance INIT_SCALE^2 / width. Matrices that write: zero, so a block starts as identity."""
        bound = INIT_SCALE * math.sqrt(3.0 / (N_HEAD * HEAD_DIM))
        self.token_embedding.weight.normal_()
        self.unembedding.weight.normal_(std=0.001)
        for table in self.ngram_embeddings:
            table.weight.zero_()
        for table in self.value_embeddings.values():
            table.weight.uniform_(-bound, bound)
        for block in self.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            for matrix in (attention.query, attention.key, attention.value, feed_forward.expand):
                matrix.weight.uniform_(-bound, bound)
            for matrix in (attention.out, feed_forward.contract):
                matrix.weight.zero_()
            if attention.gate is not None:
                attention.gate.weight.zero_()

    def ngrams(self, idx: torch.Tensor) -> torch.Tensor:
        """Return the sum of the embeddings of the last 2, 3, .. tokens of idx (B, T) together, (B, T, width).

        Which row of a table stands for them is decided by a hash; products wrap around, as a hash may.
        """
        total, code = torch.zeros((), device=idx.device), idx
        for distance, table in enumerate(self.ngram_embeddings, start=1):
            code = code * 1_000_003 + F.pad(idx[:, :-distance] + 1, (distance, 0))[:, : idx.size(1)]
            total = total + table((code ^ (code >> 29)) % table.num_embeddings)
        return total

    def features(self, idx: torch.Tensor) -> torch.Tensor:
        """Return the last layer's normalised output, (B, T, width). What the last tokens say together enters first and last."""
        T = idx.size(1)
        cos, sin = self.cos[:, :T], self.sin[:, :T]
        x = norm(self.token_embedding(idx))
        x0, ngrams = x, self.ngrams(idx)
        x = x + ngrams
        for i, block in enumerate(self.blocks):
            x = self.residual_lambdas[i] * x + self.x0_lambdas[i] * x0
            value_embedding = self.value_embeddings[str(i)](idx) if str(i) in self.value_embeddings else None
            x = block(x, value_embedding, cos, sin)
        return norm(x + ngrams)

    def padded_logits(self, idx: torch.Tensor) -> torch.Tensor:
        """idx (B, T) int64 -> logits (B, T, rows of the output matrix) float32, squashed into +-LOGIT_SOFTCAP if that is set."""
        logits = self.unembedding(self.features(idx)).float()
        return LOGIT_SOFTCAP * torch.tanh(logits / LOGIT_SOFTCAP) if LOGIT_SOFTCAP else logits

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """idx (B, T) int64 -> logits (B, T, vocab_size) float32."""
        return self.padded_logits(idx)[..., : self.vocab_size]

    def loss(self, idx: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats over targets (B, T); -1 is not counted.

        Taken over the padded rows too, which soon count for nothing: cutting them off would copy all logits, there and back.
        """
        logits = self.padded_logits(idx)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def flops_per_token(self, max_seq_len: int) -> float:
        """Training FLOPs per token: 6 per matrix weight, 12 per attended channel (Chowdhery et al., 2022, without causal halving)."""
        tables = [self.token_embedding, *self.value_embeddings.values(), *self.ngram_embeddings]
        weights = sum(p.numel() for p in self.parameters()) - sum(t.weight.numel() for t in tables)
        attended = sum(min(block.attention.window, max_seq_len) for block in self.blocks)
        return 6.0 * weights + 12.0 * N_HEAD * HEAD_DIM * attended


def build_model(vocab_size: int, max_seq_len: int) -> nn.Module:
    """The contract: the model that will be trained here and scored elsewhere. vocab_size counts special tokens too."""
    return GPT(vocab_size, max_seq_len)


# --- Optimizer -------------------------------------------------------------------------------------------------------

# Coefficients of the first steps towards the nearest orthogonal matrix, each optimal for the spectrum the step before leaves
# (Polar Express, Amsel et al., 2025, with the paper's safety factor 1.02); the last repeats.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(matrices: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the (approximately) nearest semi-orthogonal matrices to (N, rows, columns): all singular values near 1."""
    x = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for i in range(steps):
        a, b, c = POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)]
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def muon_update(
    weights: torch.Tensor, grads: torch.Tensor, momentum_buffer: torch.Tensor, second_moment: torch.Tensor,
    lr: torch.Tensor, momentum: torch.Tensor, decay: torch.Tensor, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Return new weights (N, rows, columns) after one Muon step (Jordan et al., 2024).

    Nesterov momentum, orthogonalised; rows or columns scaled to equal variance over time with the norm kept (NorMuon, Li et
    al., 2025); weight decay only where the update agrees with the sign of the weight (cautious, Chen et al., 2025).
    """
    momentum_buffer.lerp_(grads, 1 - momentum)
    update = orthogonalize(grads.lerp(momentum_buffer, momentum), MUON_STEPS, dtype).float()
    along = -1 if update.size(-2) >= update.size(-1) else -2
    mean_square = update.square().mean(dim=along, keepdim=True)
    second_moment.lerp_(mean_square, 0.05)
    scaled = update * (second_moment + 1e-10).rsqrt()
    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / (scaled.norm(dim=(-2, -1), keepdim=True) + 1e-10))
    shrink = decay * weights * (update * weights > 0)
    return weights - lr * max(1.0, weights.size(-2) / weights.size(-1)) ** 0.5 * (update + shrink)


def adamw_update(
    weight: torch.Tensor, grad: torch.Tensor, mean: torch.Tensor, square: torch.Tensor,
    lr: torch.Tensor, beta1: float, beta2: float, decay: float, step: torch.Tensor,
) -> None:  # fmt: skip
    """One AdamW step in place (Loshchilov and Hutter, 2019)."""
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    denominator = (square / (1 - beta2**step)).sqrt_().add_(1e-10)
    weight.mul_(1 - lr * decay)
    weight.sub_(lr / (1 - beta1**step) * mean / denominator)


def adamw_update_rows(weight: torch.Tensor, grad: torch.Tensor, mean: torch.Tensor, square: torch.Tensor, *settings) -> None:
    """One AdamW step in place for the rows that a sparse gradient names; moments of the others stand still meanwhile."""
    grad = grad.coalesce()
    rows = grad.indices()[0]
    tensors = (weight, mean, square)
    picked = [tensor.index_select(0, rows) for tensor in tensors]
    adamw_update(picked[0], grad.values(), *picked[1:], *settings)
    for tensor, values in zip(tensors, picked, strict=True):
        tensor.index_copy_(0, rows, values)


class Optimizer:
    """Muon for the hidden matrices, stacked by shape so that one batched product serves all; AdamW for everything else."""

    def __init__(self, model: GPT, dtype: torch.dtype, compile_function) -> None:
        self.dtype = dtype  # of the orthogonalisation
        self.muon_update = compile_function(muon_update)
        self.adamw_update = compile_function(adamw_update)
        self.device = model.unembedding.weight.device
        for table in model.ngram_embeddings:  # a step reads few of its rows: on a CPU the others are left alone
            table.sparse = self.device.type == "cpu"
        scale = (N_HEAD * HEAD_DIM / 768) ** -0.5  # AdamW learning rates are stated for width 768
        value_embeddings = list(model.value_embeddings.parameters())
        self.adam_groups = [
            (list(model.token_embedding.parameters()), EMBEDDING_LR * scale, 0.001),
            (value_embeddings, EMBEDDING_LR * scale, EMBEDDING_DECAY),
            (list(model.unembedding.parameters()), UNEMBEDDING_LR * scale, 0.01),
            ([model.residual_lambdas], SCALAR_LR * 0.01, 0.0),  # these multiply the whole stream, layer after layer
            ([model.x0_lambdas], SCALAR_LR, 0.0),
            (list(model.ngram_embeddings.parameters()), NGRAM_LR * scale, 0.0),
            ([weight for block in model.blocks for weight in block.shift.parameters()], SHIFT_LR, 0.0),
        ]
        named = {id(p) for params, _, _ in self.adam_groups for p in params}
        self.matrices: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            if id(parameter) not in named:
                self.matrices.setdefault(parameter.shape, []).append(parameter)
        self.reset()

    def reset(self) -> None:
        """Forget all moments, as before the first step."""
        self.steps = 0
        self.moments = {p: (torch.zeros_like(p), torch.zeros_like(p)) for params, _, _ in self.adam_groups for p in params}
        self.buffers = {}
        for shape, params in self.matrices.items():
            rows, columns = shape
            kept = (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
            self.buffers[shape] = (
                torch.zeros(len(params), rows, columns, device=self.device),
                torch.zeros(kept, device=self.device),
            )

    @torch.no_grad()
    def step(self, lr_factor: float, momentum: float, decay: float) -> None:
        """One step on the gradients at hand, with every learning rate multiplied by lr_factor; clears the gradients."""
        self.steps += 1
        scalar = lambda value: torch.full((), value, device=self.device)  # noqa: E731  a tensor: no recompile, and no wait for the device
        steps = scalar(float(self.steps))
        for params, lr, weight_decay in self.adam_groups:
            for p in params:
                update = adamw_update_rows if p.grad.is_sparse else self.adamw_update
                update(p, p.grad, *self.moments[p], scalar(lr * lr_factor), ADAM_BETA1, ADAM_BETA2, weight_decay, steps)
                p.grad = None
        for shape, params in self.matrices.items():
            weights, grads = torch.stack(list(params)), torch.stack([p.grad for p in params])
            args = (scalar(MATRIX_LR * lr_factor), scalar(momentum), scalar(decay), self.dtype)
            updated = self.muon_update(weights, grads, *self.buffers[shape], *args)
            torch._foreach_copy_(params, list(updated.unbind(0)))
            for p in params:
                p.grad = None


# --- Schedules: functions of progress, the share of the budget that is used up -----------------------------------------


def lr_factor(progress: float) -> float:
    """Trapezoid: up over WARMUP_RATIO, flat, down to FINAL_LR_FRAC over the last WARMDOWN_RATIO."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1.0 - WARMDOWN_RATIO:
        return 1.0
    left = max(0.0, 1.0 - progress) / WARMDOWN_RATIO
    return left + (1.0 - left) * FINAL_LR_FRAC


def muon_momentum(step: int) -> float:
    """Rises to MUON_MOMENTUM over the first 300 steps: early gradients are soon stale."""
    share = min(1.0, step / 300)
    return (1.0 - share) * 0.85 + share * MUON_MOMENTUM


def weight_decay(progress: float) -> float:
    """Fades linearly: late in training the weights should settle, not shrink."""
    return WEIGHT_DECAY * (1.0 - min(1.0, progress))


# --- Training --------------------------------------------------------------------------------------------------------


def warm_up(model: nn.Module, optimizer: Optimizer, session, device_batch_size: int) -> None:
    """Compile and allocate on random tokens before the clock starts; weights and moments are left as they were."""
    idx = torch.randint(session.vocab_size, (device_batch_size, session.max_seq_len), device=session.device)
    for _ in range(2):
        with session.autocast():
            loss = model.loss(idx, idx.clone())  # two tensors, as in training: one would be another graph
        loss.backward()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step(0.0, 0.0, 0.0)
    optimizer.reset()


def train() -> None:
    """Train until the budget is used up, then hand the weights to the harness."""
    session = open_session(__file__)
    max_seq_len = session.max_seq_len
    model = build_model(session.vocab_size, max_seq_len).to(session.device)
    on_cpu = session.device.type == "cpu"  # sparse gradients go through no compiled graph there, and a compiled optimizer gains nothing
    optimizer = Optimizer(model, session.dtype, session.leave_eager if on_cpu else session.compile)
    model.ngrams = session.leave_eager(model.ngrams) if on_cpu else model.ngrams
    model.loss = session.compile(model.loss)

    device_batch_size = session.device_batch_size(DEVICE_BATCH_SIZE, TOTAL_BATCH_SIZE)  # fewer rows where they would not fit
    grad_accum_steps = TOTAL_BATCH_SIZE // (device_batch_size * max_seq_len)

    warm_up(model, optimizer, session, device_batch_size)
    batches = session.batches(device_batch_size)
    session.start()
    step = 0
    while (progress := session.progress) < 1.0:
        total = torch.zeros((), device=session.device)
        for _ in range(grad_accum_steps):
            inputs, targets = next(batches)
            with session.autocast():
                loss = model.loss(inputs, targets) / grad_accum_steps
            loss.backward()
            total += loss.detach()
        factor = lr_factor(progress)
        optimizer.step(factor, muon_momentum(step), weight_decay(progress))
        session.log(step, total, tokens=TOTAL_BATCH_SIZE, lr_factor=factor)  # stops the run if a loss is not finite
        step += 1
    session.finish(model, depth=DEPTH, flops_per_token=model.flops_per_token(max_seq_len))


if __name__ == "__main__":
    train()
