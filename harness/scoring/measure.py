"""Measures one training: its score with a quick audit, and before a keep a close audit with a pass
over the private texts.

In: settings, data, the training's folder with weights and, for an audit, losses.npy; its train.py.
Out: the fields of the journal's `scored` and `audited` entries, and losses.npy, holdout_losses.npy,
unseen_losses.npy. Each model server has a folder of its own, so that nothing passes from one to the
next. Never raises for what a candidate does.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.data.manifest import PreparedData
from harness.ground.files import link_or_copy, open_atomic
from harness.sandbox.child import child_environment
from harness.sandbox.left_files import remove_tree
from harness.sandbox.processes import MARK, kill_escaped
from harness.sandbox.wall import Wall
from harness.scoring.audit import audit_model, bpb_per_nat, record
from harness.scoring.channel import Launch, ModelServer, ScoreError
from harness.scoring.holdout import Losses, agrees, gain_and_error, row_nats
from harness.scoring.integrity import Integrity
from harness.scoring.scorer import (
    Score,
    ServerJob,
    open_rows,
    open_token_bytes,
    score_model,
    score_one_batch,
    server_of,
    start_server,
)
from harness.scoring.unseen import (
    Text,
    count_places,
    gain_of_places,
    measure_places,
    smallest_missed,
)

# Of each scored run; of each run of an idea that is about to be kept.
PROBES, CLOSE_PROBES = 64, 512
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ScoreSettings:
    """How weights are scored. threads: None for torch's choice; hidden: emptied by a wall;
    attention: kernels, {} to choose."""

    device: str
    dtype: str
    threads: int | None
    limit_seconds: float
    hidden: tuple[str, ...]
    attention: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """One training and all that measuring it needs.

    folder: of the training; rival: the scored trainings of the incumbent, with which it is compared
    (in a close-out the baseline's), none for a baseline.
    """

    settings: ScoreSettings
    data: PreparedData
    integrity: Integrity
    wall: Wall
    train_py: Path
    folder: Path
    rival: Sequence[Measurement] = ()

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def losses_path(self, split: str) -> Path:
        """Losses (rows, T) of `val` or `holdout`; of places in `unseen`, see `measure_places`."""
        return self.folder / ("losses.npy" if split == "val" else f"{split}_losses.npy")

    def score(self, progress: Progress, server_a: ServerJob | None = None) -> dict:
        """Fields of `scored`: val_bpb by server A, perhaps `started_early`; a quick audit by B."""
        fields: dict = {"status": "ok", "cause": "", "val_bpb": None, "wall": self.wall.kind}
        with self._judged(fields, "score_seconds"), self.started_early("audit") as server_b:
            score = self._run("val", progress, server_a)
            save_losses(self.losses_path("val"), score.losses)
            fields |= {"nats": score.nats, "scored_bytes": score.scored_bytes}
            fields |= {"scored_tokens": score.scored_tokens}
            self._audit(fields, PROBES, server_b)
            fields["val_bpb"] = round(score.val_bpb, 6)
        return fields

    def try_out(self, server_a: ServerJob | None = None) -> dict:
        """Fields of `scored` for a smoke run: whether its weights, which go then, can be scored."""
        fields: dict = {"status": "ok", "cause": "", "val_bpb": None, "wall": self.wall.kind}
        with self._judged(fields, "score_seconds"), self.ready("val", server_a) as job:
            score_one_batch(self.data, job)
        self.weights.unlink(missing_ok=True)
        return fields

    def audit(self, progress: Progress) -> dict:
        """Fields of `audited`: more probes, and whether the gain is there on private text."""
        fields: dict = {"status": "ok", "cause": "", "wall": self.wall.kind}
        fields |= {"holdout": None, "unseen": None}
        with self._judged(fields, "audit_seconds"):
            self._audit(fields, CLOSE_PROBES, then=self._ask_unseen)
            self.measure_holdout(progress)
            failed = [run.measure_rival(progress, run is self.rival[0]) for run in self.rival]
            fields["holdout"] = self._holdout_words()
            fields |= self._unseen_words()
            fields["audit"]["words"] += "".join(failed)
        return fields

    def measure_holdout(self, progress: Progress) -> None:
        """Leave the losses on the holdout beside the run's others, if its weights are there."""
        path = self.losses_path("holdout")
        if self.weights.exists() and not path.exists():
            save_losses(path, self._run("holdout", progress).losses)

    def score_holdout(self, progress: Progress) -> dict:
        """Further fields of `scored` for a run of the claim, which no proposer is told of."""
        fields: dict = {}
        with self._judged(fields, "holdout_seconds"):
            found = self._run("holdout", progress)
            save_losses(self.losses_path("holdout"), found.losses)
            fields["holdout_bpb"] = round(found.val_bpb, 6)
        return fields

    def measure_unseen(self) -> None:
        """The same for the places of unseen text, where the data has such text."""
        there = self.losses_path("unseen").exists() or "unseen" in self.data.lacks
        if self.weights.exists() and not there:
            with self.ready("unseen", None) as job, server_of(self.data, job, "logits") as server:
                self._ask_unseen(server)

    def _ask_unseen(self, server: ModelServer) -> None:
        if "unseen" in self.data.lacks:
            return
        rows, others = open_rows(self.data, "unseen"), open_rows(self.data, "train")
        text = Text(rows, others, open_token_bytes(self.data))
        count = count_places(self.data.manifest["rows"]["val"], server.header["batch_rows"])
        save_losses(self.losses_path("unseen"), measure_places(server, text, count))

    def measure_rival(self, progress: Progress, on_unseen: bool) -> str:
        """Measure a run of the incumbent on the holdout and, where wanted, on unseen text.

        A failure there is not the candidate's fault: return what the audit should say of it, ""
        for nothing. On unseen text one run is enough, so that the gain on both texts is that of the
        same two models. Raises ScoreError `infrastructure` where the machine was to blame, so that
        it is repeated.
        """
        try:
            self.measure_holdout(progress)
            if on_unseen:
                self.measure_unseen()
        except ScoreError as error:
            if error.status == "infrastructure":
                cause = f"of the best, on private text: {error.cause}"
                raise ScoreError(error.status, cause) from error
            name = f"{self.train_py.parent.parent.parent.name}, run {self.folder.name}"
            best = f"the best (experiment {name}), which failed there"
            return f"; not compared on private text with {best}: {error.cause}"
        return ""

    @contextlib.contextmanager
    def _judged(self, fields: dict, seconds: str) -> Iterator[None]:
        """Turn a ScoreError into status and cause, and check afterwards that harness and data are
        unchanged. seconds: the field that gets the time it took."""
        started = time.monotonic()
        try:
            yield
        except ScoreError as error:
            fields |= {"status": error.status, "cause": error.cause, "sure": error.sure}
        if changed := ", ".join(self.integrity.changed()):
            cause = f"{changed} changed while this run was trained or scored"
            cause += ": its score is not believed"
            fields |= {"status": "cheating", "cause": cause, "val_bpb": None}
        fields[seconds] = round(time.monotonic() - started, 3)

    @contextlib.contextmanager
    def started_early(self, split: str) -> Iterator[ServerJob | None]:
        """A server for `val` or `audit` that imports torch while something else goes on.

        Only where a wall keeps the two apart; None elsewhere. Start the first with the training,
        whose own start it shares; while the clock ticks it waits. It ends with the context.
        """
        if not self.wall.walled:
            yield None
            return
        with self._server(split) as job:
            server = start_server(self.data, job, "logits" if split == "audit" else "losses")
            try:
                yield replace(job, server=server)
            finally:
                server.close()

    def _run(self, split: str, progress: Progress, early: ServerJob | None = None) -> Score:
        with self.ready(split, early) as job:
            return score_model(self.data, job, split, progress)

    @contextlib.contextmanager
    def ready(self, name: str, early: ServerJob | None) -> Iterator[ServerJob]:
        """The job whose server was started early, or one whose server is still to be started.

        From here on its weights are there. A server that died while it waited is forgotten: it knew
        nothing of the candidate, so that cannot have been the candidate's doing.
        """
        early = early if early and early.server.process.poll() is None else None
        with contextlib.nullcontext(early) if early else self._server(name) as job:
            if not job.weights.exists():
                try:
                    link_or_copy(self.weights, job.weights)
                except OSError as error:
                    cause = f"weights could not be handed to a model server: {error}"
                    raise ScoreError("infrastructure", cause) from error
            yield job

    def _audit(
        self,
        fields: dict,
        probes: int,
        early: ServerJob | None = None,
        then: Callable[[ModelServer], None] = lambda server: None,
    ) -> None:
        """Add the audit to the fields; ScoreError if it found cheating. then: of `audit_model`."""
        losses = np.load(self.losses_path("val"), allow_pickle=False)
        theirs = [load_losses(run.losses_path("val"), losses.shape) for run in self.rival]
        theirs = [each for each in theirs if each is not None]
        recorded = record(self.data, losses, np.mean(theirs, axis=0) if theirs else None)
        waiting = [early]  # for the first look; each other one gets a server of its own

        def open_job() -> contextlib.AbstractContextManager[ServerJob]:
            return self.ready("audit", waiting.pop() if waiting else None)

        found = audit_model(self.data, open_job, recorded, probes, secrets.randbits(32), then)
        fields["audit"] = found
        if found["verdict"] == "cheating":
            raise ScoreError("cheating", found["words"])
        fields["doubts"] = [found["words"]] if found["verdict"] != "agrees" else []

    @contextlib.contextmanager
    def _server(self, name: str) -> Iterator[ServerJob]:
        """Fresh folders for one model server, and how it is started; they are gone afterwards.

        It works in the first. In the second, which it may only read, it finds its weights: they may
        come after its start.
        """
        own, shown = self.folder / f"server_{name}", self.folder / f"server_{name}_weights"
        for folder in (own, shown):
            remove_tree(folder)
            folder.mkdir(parents=True)
        environment = child_environment(
            TMPDIR=str(own),
            TORCHINDUCTOR_CACHE_DIR=str(own / "cache"),
            TRITON_CACHE_DIR=str(own / "cache" / "triton"),
            **{MARK: str(own)},
        )
        settings = self.settings
        enclose = partial(
            self.wall.enclose,
            own=[own],
            readable=[self.train_py, shown],
            hidden=[Path(path) for path in settings.hidden],
            device=settings.device,
            lasting=False,
        )
        try:
            yield ServerJob(
                self.train_py,
                shown / "weights.safetensors",
                settings.device,
                settings.dtype,
                settings.threads,
                Launch(environment, enclose, self.wall.walled),
                own,
                settings.limit_seconds,
                attention=settings.attention,
            )
        finally:
            kill_escaped(own)
            remove_tree(own)
            remove_tree(shown)

    def _holdout_words(self) -> str | None:
        """agrees or disagrees; None where the incumbent's losses or weights are gone."""
        validation, private = self._beside_rival("val"), self._beside_rival("holdout")
        if validation is None or private is None:
            return None
        return "agrees" if agrees(validation, *gain_and_error(private)) else "disagrees"

    def _unseen_words(self) -> dict:
        """unseen: agrees or disagrees, None where losses are gone or the data lacks such text.

        unseen_floor_bpb: what could be missed.
        """
        pair = replace(self, rival=self.rival[:1])
        validation = pair._beside_rival("val", per_byte=False)
        found = [load_array(run.losses_path("unseen")) for run in (self, *pair.rival)]
        if validation is None or any(each is None for each in found):
            return {"unseen": None}
        if found[0].shape != found[1].shape:
            return {"unseen": None}
        gain, error = gain_of_places(*found, self.data.manifest["documents"]["unseen"])
        floor = smallest_missed(validation, error) * bpb_per_nat(self.data)
        words = "agrees" if agrees(validation, gain, error) else "disagrees"
        return {"unseen": words, "unseen_floor_bpb": round(floor, 4)}

    def _beside_rival(self, split: str, per_byte: bool = True) -> Losses | None:
        """This run's and the incumbent's nats of each row on one text; None where there are none.

        per_byte: weighed by bytes, else by tokens.
        """
        targets, token_bytes = open_rows(self.data, split)[:, 1:], open_token_bytes(self.data)
        losses = [load_losses(run.losses_path(split), targets.shape) for run in (self, *self.rival)]
        rivals = [row_nats(each, targets, token_bytes) for each in losses[1:] if each is not None]
        if losses[0] is None or not rivals:
            return None
        own = row_nats(losses[0], targets, token_bytes)
        weights = token_bytes[targets] if per_byte else token_bytes[targets] > 0
        documents = self.data.manifest["documents"][split]
        return Losses(weights.sum(axis=1), [own], rivals, documents)


def save_losses(path: Path, losses: np.ndarray) -> None:
    """Write losses (rows, T) float32, nats, atomically."""
    with open_atomic(path) as file:
        np.save(file, losses, allow_pickle=False)


def load_array(path: Path) -> np.ndarray | None:
    """What an earlier run left; None where there is nothing, or a file that was emptied or cut."""
    try:
        return np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def load_losses(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Losses (rows, T) that an earlier run left; None where there are none of this shape."""
    losses = load_array(path)
    return losses if losses is not None and losses.shape == shape else None
