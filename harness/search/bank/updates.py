"""The bank's ideas about the updates: what Muon and AdamW make of a gradient.

A line of a patch that ends with a backslash goes on in the next, as in `architecture`.
"""

from harness.search.bank.idea import Idea

LOOK_AHEAD = Idea(
    id="look-ahead",
    title="Take gradients a little ahead of the matrices, along their mean movement",
    hypothesis=(
        "Where the matrices went over the last fifty steps is where they mostly go on going. "
        "Gradients taken ahead along it correct the course sooner, and steady movement is faster."
    ),
    category="optimizer",
    evidence=(
        "unmeasured; EMA-Nesterov (2026) over Muon took 200 of 3325 steps off a record of "
        "optimizers (modded-nanogpt 308)"
    ),
    constants="""\
AHEAD = 0.5                # mean steps, 0.0..0.9 linear: how far ahead, \
times the learning rate's factor
AHEAD_MEMORY = 0.98        # factor, 0.8..0.998 log: of the mean movement
""",
    patch="""\
<<<<<<< SEARCH
        self.buffers = {}
=======
        self.buffers, self.movement = {}, {}
>>>>>>> REPLACE
<<<<<<< SEARCH
            updated = self.muon_update(weights, grads, *self.buffers[shape], *args)
=======
            updated = self.muon_update(weights, grads, *self.buffers[shape], *args)
            mean, ahead = self.movement.get(shape, (torch.zeros_like(weights),) * 2)
            mean = mean.lerp(updated - (weights - ahead), 1 - AHEAD_MEMORY)
            self.movement[shape] = mean, AHEAD * lr_factor * mean
            updated = updated + AHEAD * lr_factor * mean
>>>>>>> REPLACE
""",
)

NESTEROV_ADAM = Idea(
    id="nesterov-adam",
    title="Give AdamW Nesterov's momentum too",
    hypothesis=(
        "Muon steps along its momentum as it will be after the present gradient; tables and "
        "output step along the mean alone, a step late, which matters when there are few."
    ),
    category="optimizer",
    evidence="unmeasured; NAdam (Dozat, 2016)",
    patch="""\
<<<<<<< SEARCH
    weight.sub_(lr / (1 - beta1**step) * mean / denominator)
=======
    weight.sub_(lr / (1 - beta1**step) * mean.lerp(grad, 1 - beta1) / denominator)
>>>>>>> REPLACE
""",
)

ONE_RATE_A_ROW = Idea(
    id="one-rate-a-row",
    title="Let AdamW scale rows, not single weights",
    hypothesis=(
        "A row of a table is seen a few times in a short training, too few to know the size of "
        "each weight's gradient; scaled one by one, weights without a signal move as far as "
        "others. A row's mean is known from the first time on."
    ),
    category="optimizer",
    evidence=(
        "unmeasured; Adam-mini (Zhang et al., 2024) scales embeddings by row; so do the n-gram "
        "tables of nanochat's pull request 854"
    ),
    patch="""\
<<<<<<< SEARCH
    square.lerp_(grad.square(), 1 - beta2)
=======
    square.lerp_(grad.square().mean(-1, keepdim=True), 1 - beta2)
>>>>>>> REPLACE
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
        "unmeasured; MuonEq-R gained 0.003 nats on the tiny track of slowrun (77) and is in "
        "nanochat (747)"
    ),
    patch="""\
<<<<<<< SEARCH
    update = orthogonalize(grads.lerp(momentum_buffer, momentum), MUON_STEPS, dtype).float()
=======
    nesterov = grads.lerp(momentum_buffer, momentum)
    nesterov = nesterov / (nesterov.norm(dim=-1, keepdim=True) + 1e-10)
    update = orthogonalize(nesterov, MUON_STEPS, dtype).float()
>>>>>>> REPLACE
""",
)
