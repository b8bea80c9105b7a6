"""The bank's simplifications: less code for the same score is a gain too, by the keep rule.

In the evidence "here" is as in `ideas_architecture`.
"""

from harness.search.bank.idea import Idea

NO_ROW_SCALING = Idea(
    id="drop-row-scaling",
    title="Drop the scaling of an update's rows by their variance over time",
    hypothesis=(
        "The rows of an orthogonal update have nearly one length already; a few hundred steps may be too few for their second moment to "
        "matter, and without it a buffer and ten lines go."
    ),
    category="simplify",
    evidence="here 1.5001 and 1.5071 against 1.5039 and 1.4963 after 200 steps, two seeds: the same score with less code; on cards unmeasured",
    patch="""\
<<<<<<< SEARCH
    weights: torch.Tensor, grads: torch.Tensor, momentum_buffer: torch.Tensor, second_moment: torch.Tensor,
=======
    weights: torch.Tensor, grads: torch.Tensor, momentum_buffer: torch.Tensor,
>>>>>>> REPLACE
<<<<<<< SEARCH
    Nesterov momentum, orthogonalised; rows or columns scaled to equal variance over time with the norm kept (NorMuon, Li et
    al., 2025); weight decay only where the update agrees with the sign of the weight (cautious, Chen et al., 2025).
=======
    Nesterov momentum, orthogonalised; weight decay only where the update agrees with the sign of the weight (cautious, Chen
    et al., 2025).
>>>>>>> REPLACE
<<<<<<< SEARCH
    along = -1 if update.size(-2) >= update.size(-1) else -2
    mean_square = update.square().mean(dim=along, keepdim=True)
    second_moment.lerp_(mean_square, 0.05)
    scaled = update * (second_moment + 1e-10).rsqrt()
    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / (scaled.norm(dim=(-2, -1), keepdim=True) + 1e-10))
=======
>>>>>>> REPLACE
<<<<<<< SEARCH
            rows, columns = shape
            kept = (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
            self.buffers[shape] = (
                torch.zeros(len(params), rows, columns, device=self.device),
                torch.zeros(kept, device=self.device),
            )
=======
            self.buffers[shape] = (torch.zeros(len(params), *shape, device=self.device),)
>>>>>>> REPLACE
""",
)
