"""What the parts of bench.py share: a profile's data and template, ways to train and score.

In: a profile's name or prepared data, a working folder. Out: a `Bench`. Everything runs on the CPU,
through the runner and the scorer of a real night, in its environment. Raises BenchError, with where
to look, when a training or a scoring does not end well.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import REPOSITORY
from harness.data.manifest import PreparedData, open_prepared
from harness.lab.start import find_profile, prepare_profile
from harness.run.profiles import Profile
from harness.run.settings import Settings, make_settings, score_settings, training_request
from harness.sandbox.child import child_environment
from harness.sandbox.request import TrainingRequest
from harness.sandbox.runner import run_training
from harness.sandbox.wall import find_wall
from harness.scoring.channel import Launch, ScoreError
from harness.scoring.integrity import Integrity
from harness.scoring.measure import Measurement
from harness.scoring.scorer import Score, ServerJob, score_model
from harness.search.constants import constant_values, rewrite_constants


class BenchError(RuntimeError):
    """A part could not be measured."""


@dataclasses.dataclass
class Bench:
    """What a part is measured with.

    work: a folder of our own. quick: figures that only show that everything runs. seeds and
    seconds: of the part `template`.
    """

    work: Path
    profile: Profile
    device: dict
    data: PreparedData
    quick: bool = False
    seeds: int = 3
    seconds: float = 60.0
    runs: Sequence[Path] = ()

    @functools.cached_property
    def settings(self) -> Settings:
        """As a run of this profile would freeze them."""
        return make_settings("bench", self.profile, self.data, self.device)

    @functools.cached_property
    def train_py(self) -> Path:
        """The committed template with the profile's constants."""
        path = self.work / "train.py"
        template = (REPOSITORY / "train_template.py").read_text(encoding="utf-8")
        path.write_text(
            rewrite_constants(template, self.profile.constants, clamp=False), encoding="utf-8"
        )
        return path

    @functools.cached_property
    def device_batch_rows(self) -> int:
        """Rows of one forward pass."""
        constants = constant_values(self.train_py.read_text(encoding="utf-8"))
        return max(
            1,
            min(
                constants["DEVICE_BATCH_SIZE"],
                constants["TOTAL_BATCH_SIZE"] // self.data.max_seq_len,
            ),
        )

    @functools.cached_property
    def short_run(self) -> dict:
        """The result of one short training, whose weights several parts use."""
        return self.train("short", seed=1, seconds=0.5 if self.quick else 10.0)

    def request(self, name: str, seed: int, seconds: float, **how: object) -> TrainingRequest:
        """how: other fields of the request."""
        request = training_request(self.settings, self.data, self.work / name, self.train_py, seed)
        return dataclasses.replace(request, budget_seconds=seconds, **how)

    def train(self, name: str, seed: int, seconds: float, **how: object) -> dict:
        """Train once in work/<name>/ and return the runner's result."""
        result = run_training(self.request(name, seed, seconds, **how))
        if result["status"] != "ok":
            log = self.work / name / "run.log"
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise BenchError(
                f"the training ended with {result['status']}: {result['cause']}; {' '.join(last)}"
            )
        return result

    def score(self, name: str, progress: Callable[[float], None] = lambda share: None) -> Score:
        """val_bpb of the weights in work/<name>/."""
        folder = self.work / name / "server"
        folder.mkdir(exist_ok=True)
        weights = self.work / name / "weights.safetensors"
        settings = self.settings
        launch = Launch(child_environment())
        job = ServerJob(
            self.train_py, weights, "cpu", settings.dtype, settings.threads, launch, folder, 1800
        )
        try:
            return score_model(self.data, job, progress=progress)
        except ScoreError as error:
            raise BenchError(f"scoring ended with {error.status}: {error.cause}") from error


def make_bench(
    profile: str, data: Path | None, work: Path, say: Callable[[str], None], **options: object
) -> Bench:
    """Prepare the profile's data if need be; `data`, a prepared folder, takes its place.

    Raises ProfileError or DataError.
    """
    chosen, device = find_profile(profile, "cpu")
    prepared = open_prepared(data) if data else prepare_profile(chosen, progress=say)
    return Bench(work, chosen, device, prepared, **options)


def train_and_score(
    settings: Settings, data: PreparedData, train_py: Path, folder: Path, seed: int
) -> dict:
    """One training and its score, as a night does them."""
    result = run_training(training_request(settings, data, folder, train_py, seed))
    if result["status"] == "ok":
        integrity = Integrity(data, settings.harness_hash)
        measured = Measurement(
            score_settings(settings, data, folder.parent),
            data,
            integrity,
            find_wall(),
            train_py,
            folder,
        )
        result |= measured.score(lambda share: None)
    names = (
        *("status", "cause", "val_bpb", "num_steps"),
        *("training_seconds", "wall_seconds", "others_core_seconds"),
    )
    return {name: result.get(name) for name in names}
