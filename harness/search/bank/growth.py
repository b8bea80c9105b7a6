"""The bank's ideas that let rows, batch or depth grow while a training runs.

Each begins cheaply and ends with the shape that is scored. What they change while the clock runs is
compiled before it starts. Lines end as in `architecture`.
"""

from harness.search.bank.idea import Idea

SHORT_ROWS = Idea(
    id="short-rows-first",
    title="Train on parts of rows first",
    hypothesis=(
        "What a model learns first needs the last few tokens. Rows cut in parts make attention "
        "cheaper meanwhile, so that the same budget has more steps."
    ),
    category="schedule",
    evidence=(
        "unmeasured; sequence length warm-up (Li et al., 2022); rows of 896 for a third of the "
        "training are in a speed record (modded-nanogpt 224)"
    ),
    constants="""\
ROW_PARTS = 4              # parts, {2, 4, 8}: of each row, while rows are short
SHORT_ROWS_RATIO = 0.25    # of budget, 0.0..0.9 linear: first part, in which rows are short
""",
    patch="""\
@@
             inputs, targets = next(batches)
+            if progress < SHORT_ROWS_RATIO:
+                length = max_seq_len // ROW_PARTS
+                inputs, targets = inputs.reshape(-1, length), targets.reshape(-1, length)
@@
-    for _ in range(2):
+    for length in (session.max_seq_len // ROW_PARTS, session.max_seq_len) * 2:
+        idx = idx.view(-1, length)
""",
)

GROWING_BATCH = Idea(
    id="growing-batch",
    title="Take larger batches towards the end",
    hypothesis=(
        "Early gradients agree, so small batches waste little; later the noise of a batch is what "
        "keeps the loss up, and a larger one lowers it."
    ),
    category="schedule",
    evidence=(
        "unmeasured; the critical batch grows during training (McCandlish et al., 2018); a batch "
        "schedule took 1.8 of 134 s off a speed record (modded-nanogpt 163)"
    ),
    constants="""\
BATCH_GROWTH = 2           # factor, {2, 3, 4}: of TOTAL_BATCH_SIZE, in the last part
LARGE_BATCH_RATIO = 0.3    # of budget, 0.0..0.9 linear: last part, in which batches are larger
""",
    patch="""\
@@
-        for _ in range(grad_accum_steps):
+        parts = grad_accum_steps * (BATCH_GROWTH if progress >= 1.0 - LARGE_BATCH_RATIO else 1)
+        for _ in range(parts):
@@
-                loss = model.loss(inputs, targets) / grad_accum_steps
+                loss = model.loss(inputs, targets) / parts
@@
-        session.log(step, total, tokens=TOTAL_BATCH_SIZE, lr_factor=factor)  # stops the run if a \
loss is not finite
+        tokens = TOTAL_BATCH_SIZE * parts // grad_accum_steps
+        session.log(step, total, tokens=tokens, lr_factor=factor)  # stops the run if a loss is \
not finite
""",
)

GROWING_DEPTH = Idea(
    id="growing-depth",
    title="Train without the middle layers first",
    hypothesis=(
        "The first steps learn what a shallow model can hold. Without the middle half of the "
        "layers they cost about half; those join later, as layers that add nothing yet."
    ),
    category="schedule",
    evidence=(
        "unmeasured; progressive stacking (Gong et al., 2019); grown late, a deep GPT saved most "
        "of its cost at a loss 0.5% higher or less (Bu, 2025)"
    ),
    constants="""\
SHALLOW_RATIO = 0.2        # of budget, 0.0..0.9 linear: first part, without the middle layers
""",
    patch="""\
@@
         self.vocab_size = vocab_size
+        self.shallow = False  # without the middle layers
@@
             x = self.residual_lambdas[i] * x + self.x0_lambdas[i] * x0
+            if self.shallow and DEPTH // 4 <= i < DEPTH - DEPTH // 4:
+                block = lambda x, *others: x  # noqa: E731
@@
     while (progress := session.progress) < 1.0:
+        model.shallow = progress < SHALLOW_RATIO
@@
             total += loss.detach()
+        for p in model.parameters():
+            if p.grad is None:  # of a layer that was passed over
+                p.grad = torch.zeros_like(p)
@@
-    warm_up(model, optimizer, session, device_batch_size)
+    for model.shallow in (False, True):
+        warm_up(model, optimizer, session, device_batch_size)
""",
    least={"DEPTH": 4},  # else there is no layer to pass over
)
