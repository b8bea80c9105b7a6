"""What a training is asked for: plain data, which a process here or elsewhere can be given."""

from __future__ import annotations

from dataclasses import dataclass, field

# From the end of training to weights on disk, unless the request says less.
WEIGHTS_SECONDS = 20.0


@dataclass(frozen=True)
class TrainingRequest:
    """One training. folder: the run's, made here. train_dir: all of the data it may see.

    device_batch_limit: rows that it may hold at once, None for as many as it likes. compile_cache:
    the run's folder of compiled code, None to keep none. hidden: folders that a wall empties for
    it. wall_error: why bubblewrap is no wall for its device. attention: the kernels to use, {} to
    choose. core_rate and worth_beside: of `harness.training.clock`, the rate 0 for wall time.
    clock_step_seconds: what each optimizer step counts for on its clock, 0 for the real clock; the
    runner's own limits are of real time always. Times in seconds.
    """

    folder: str
    train_py: str
    train_dir: str
    n_vocab: int
    max_seq_len: int
    seed: int
    budget_seconds: float
    startup_limit_seconds: float
    device: str
    dtype: str
    compile: bool
    threads: int | None
    compile_cache: str | None = None
    device_batch_limit: int | None = None
    weights_limit_seconds: float = WEIGHTS_SECONDS
    hidden: tuple[str, ...] = ()
    wall_error: str = ""
    attention: dict[str, str] = field(default_factory=dict)
    core_rate: float = 0.0
    worth_beside: float = 1.0
    clock_step_seconds: float = 0.0

    @property
    def allowance_seconds(self) -> float:
        """How long after the budget it is ended; what it took is judged before a keep."""
        # A clock that counts steps does not say how long they take.
        least = 30.0 if self.clock_step_seconds else 3.0
        return max(least, 0.05 * self.budget_seconds)
