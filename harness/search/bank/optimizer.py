"""The bank's ideas about the training: updates, schedules, what is handed over at the end.

And less of it for the same score, which is a gain too, by the keep rule. In the evidence "here" is
as in `architecture`, and so are lines that end with a backslash.
"""

from harness.search.bank.idea import Idea

AVERAGE = Idea(
    id="weight-average",
    title="Hand over the mean of the weights over the last part of training",
    hypothesis=(
        "The last weights circle around a better point by as much as the learning rate still "
        "allows; their mean lies nearer to it."
    ),
    category="optimizer",
    evidence=(
        "latest-weight averaging (Kaddour, 2022); here 1.5134 against 1.5039 after 200 steps, one "
        "seed: a loss"
    ),
    constants="""\
AVERAGE_LAST = 0.1         # of budget, 0.0..0.5 linear: the weights handed over are \
their mean over this last part; 0 is none
""",
    patch="""\
@@
+@torch.no_grad()
+def add_to_mean(mean: list[torch.Tensor], model: nn.Module, count: int) -> None:
+    \"\"\"Make the mean of count - 1 sets of weights the mean of count, the model's present \
weights among them, in place.\"\"\"
+    torch._foreach_lerp_(mean, list(model.parameters()), 1.0 / count)
+
+
 def train() -> None:
@@
-    step = 0
+    step = averaged = 0
+    mean = [p.detach().clone() for p in model.parameters()]
@@
         step += 1
+        if progress >= 1.0 - AVERAGE_LAST:
+            averaged += 1
+            add_to_mean(mean, model, averaged)
+    if averaged:
+        with torch.no_grad():
+            torch._foreach_copy_(list(model.parameters()), mean)
""",
)

COOLDOWN = Idea(
    id="momentum-cooldown",
    title="Let the momentum fall at the end of training",
    hypothesis=(
        "A momentum of 0.95 averages the last twenty gradients. While the learning rate falls the "
        "old ones among them point away from where the weights have come to rest; a shorter memory "
        "follows the last ones."
    ),
    category="schedule",
    evidence=(
        "momentum warm-down is in good public recipes for an H100; here 1.5039 against 1.5039 "
        "after 200 steps, one seed: no effect"
    ),
    constants="""\
FINAL_MOMENTUM = 0.85      # factor, 0.5..0.98 linear: Muon, momentum at the end
COOLDOWN_RATIO = 0.1       # of budget, 0.01..0.5 log: last part, \
over which the momentum changes to it
""",
    patch="""\
@@
+def cooled(momentum: float, progress: float) -> float:
+    \"\"\"Goes to FINAL_MOMENTUM over the last COOLDOWN_RATIO of the budget.\"\"\"
+    share = min(1.0, max(0.0, 1.0 - (1.0 - progress) / COOLDOWN_RATIO))
+    return (1.0 - share) * momentum + share * FINAL_MOMENTUM
+
+
 def weight_decay(progress: float) -> float:
@@
-        optimizer.step(factor, muon_momentum(step), weight_decay(progress))
+        optimizer.step(factor, cooled(muon_momentum(step), progress), weight_decay(progress))
""",
)

TABLE_SCHEDULE = Idea(
    id="embedding-schedule",
    title="Give the embedding tables a warm-down of their own",
    hypothesis=(
        "A row of a table is trained only when its token comes by, so tables want a different "
        "schedule than the matrices, which every token trains."
    ),
    category="schedule",
    evidence=(
        "embedding rates matter most on an H100 (0.0033 bpb from 0.6 to 0.8); here 1.5326 against "
        "1.5039 after 200 steps, one seed: a loss"
    ),
    constants="""\
TABLE_LR_POWER = 2.0       # power, 0.25..4.0 log: of the learning rate's factor, \
for embedding tables: above 1 they settle sooner
""",
    patch="""\
@@
-        for params, lr, weight_decay in self.adam_groups:
+        for number, (params, lr, weight_decay) in enumerate(self.adam_groups):
+            if number in self.tables:
+                lr = lr * max(lr_factor, 1e-6) ** (TABLE_LR_POWER - 1.0)
@@
+        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
+        self.tables = {i for i, (params, _, _) in enumerate(self.adam_groups) if embeddings & \
{id(p) for p in params}}
         named = {id(p) for params, _, _ in self.adam_groups for p in params}
""",
)

WARMDOWN_SHAPE = Idea(
    id="warmdown-shape",
    title="Bend the warm-down of the learning rates",
    hypothesis=(
        "A straight line is a guess: a warm-down that falls fast at first spends more steps at low "
        "rates, one that falls late learns for longer."
    ),
    category="schedule",
    evidence=(
        "a square-root decay won in Haegele et al., 2024; here 1.5299 against 1.5039 after 200 "
        "steps, one seed: a loss"
    ),
    constants="""\
WARMDOWN_POWER = 0.5       # power, 0.25..4.0 log: bends the warm-down; \
below 1 falls fast at first, 1 is a line, above 1 stays up longer
""",
    patch="""\
@@
     left = max(0.0, 1.0 - progress) / WARMDOWN_RATIO
+    left = 1.0 - (1.0 - left) ** WARMDOWN_POWER
""",
)


ORTHOGONAL = Idea(
    id="closer-orthogonal",
    title="Two more steps towards an orthogonal update, with coefficients for them",
    hypothesis=(
        "After five steps the singular values of an update still lie within some 10% of one. The "
        "steps that follow need coefficients that leave one where it is, which those of the fifth "
        "do not."
    ),
    category="optimizer",
    evidence=(
        "5 to 9 steps are in good public recipes for an H100; here 1.5032 against 1.5039 after 200 "
        "steps, one seed: no effect"
    ),
    patch="""\
@@
     (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
+    (1.875, -1.25, 0.375),  # from here on each step cubes the error (the limit of the same \
construction)
""",
    values=lambda values: {"MUON_STEPS": values["MUON_STEPS"] + 2},
)

NO_ROW_SCALING = Idea(
    id="drop-row-scaling",
    title="Drop the scaling of an update's rows by their variance over time",
    hypothesis=(
        "The rows of an orthogonal update have nearly one length already; a few hundred steps may "
        "be too few for their second moment to matter, and without it a buffer and ten lines go."
    ),
    category="simplify",
    evidence=(
        "here 1.5001 and 1.5071 against 1.5039 and 1.4963 after 200 steps, two seeds: the same "
        "score with less code; on cards unmeasured"
    ),
    patch="""\
@@
-    weights: torch.Tensor, grads: torch.Tensor, momentum_buffer: torch.Tensor, second_moment: \
torch.Tensor,
+    weights: torch.Tensor, grads: torch.Tensor, momentum_buffer: torch.Tensor,
@@
-    Nesterov momentum, orthogonalised; rows or columns scaled to equal variance over time with \
the norm kept (NorMuon, Li et
-    al., 2025); weight decay only where the update agrees with the sign of the weight (cautious, \
Chen et al., 2025).
+    Nesterov momentum, orthogonalised; weight decay only where the update agrees with the sign of \
the weight (cautious, Chen
+    et al., 2025).
@@
-    along = -1 if update.size(-2) >= update.size(-1) else -2
-    mean_square = update.square().mean(dim=along, keepdim=True)
-    second_moment.lerp_(mean_square, 0.05)
-    scaled = update * (second_moment + 1e-10).rsqrt()
-    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / (scaled.norm(dim=(-2, -1), \
keepdim=True) + 1e-10))
@@
-            rows, columns = shape
-            kept = (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
-            self.buffers[shape] = (
-                torch.zeros(len(params), rows, columns, device=self.device),
-                torch.zeros(kept, device=self.device),
-            )
+            self.buffers[shape] = (torch.zeros(len(params), *shape, device=self.device),)
""",
)

LOOK_AHEAD = Idea(
    id="look-ahead",
    title="Take gradients a little ahead of the matrices, along their mean movement",
    hypothesis=(
        "Where the matrices went over the last fifty steps is where they mostly go on going. "
        "Gradients taken ahead along it correct the course sooner, and steady movement is faster."
    ),
    category="optimizer",
    evidence=(
        "EMA-Nesterov (2026) over Muon took 200 of 3325 steps off a record of optimizers "
        "(modded-nanogpt 308); unmeasured on the clock; 4.443 against 4.361 nats a token at equal "
        "steps (160 of 1024 tokens, one seed): a loss where steps are few"
    ),
    constants="""\
AHEAD = 0.5                # mean steps, 0.0..0.9 linear: how far ahead, \
times the learning rate's factor
AHEAD_MEMORY = 0.98        # factor, 0.8..0.998 log: of the mean movement
""",
    patch="""\
@@
         self.buffers = {}
+        self.movement = {}
@@
             updated = self.muon_update(weights, grads, *self.buffers[shape], *args)
+            mean, ahead = self.movement.get(shape, (torch.zeros_like(weights),) * 2)
+            mean = mean.lerp(updated - (weights - ahead), 1 - AHEAD_MEMORY)
+            self.movement[shape] = mean, AHEAD * lr_factor * mean
+            updated = updated + AHEAD * lr_factor * mean
""",
)

EQUAL_ROWS = Idea(
    id="equal-rows",
    title="Scale a gradient's rows to one length before it is made orthogonal",
    hypothesis=(
        "A few long rows decide most of what an update looks like after few orthogonalisation "
        "steps; at equal length each has its say."
    ),
    category="optimizer",
    evidence=(
        "MuonEq-R gained 0.003 nats on the tiny track of slowrun (77) and is in nanochat (747); "
        "unmeasured on the clock; 4.364 against 4.361 nats a token at equal steps (160 of 1024 "
        "tokens, one seed): no effect"
    ),
    patch="""\
@@
     x = matrices.to(dtype)
+    x = x / (x.norm(dim=-1, keepdim=True) + 1e-6)
""",
)
