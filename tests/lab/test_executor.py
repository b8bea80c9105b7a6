"""Whose fault a failure on a card is: real trainings that fail as they would on one."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from harness.ground.cards import RESTART
from harness.ground.errors import DeviceRefused
from harness.lab import claimant as claimant_module
from harness.lab import executor as executor_module
from harness.lab.claimant import Claimant
from harness.lab.executor import Executor
from harness.lab.trainings import Runs
from harness.run import profiles
from harness.run.settings import make_settings
from harness.training.launch import cause_of

CARD = {"kind": "cuda", "name": "a card", "memory_mb": 8_000, "dtype": "float32"}
CARD |= {"compile_error": ""}
LAUNCH_FAILED = "CUDA error: unspecified launch failure"

# Trains as on a card, on a CPU; AT_START and IN_MID_RUN are what a test puts there.
TRAIN = """
import torch
import harness.training.session as inside
from harness.training.devices import detect_device
inside.detect_device = lambda kind, dtype: detect_device("cpu", dtype)
session = inside.open_session(__file__)
rows = session.device_batch_size(8, 8 * session.max_seq_len)
AT_START
session.start()
step = 0
while session.progress < 1:
    session.log(step, torch.tensor(1.0), tokens=8)
    step += 1
    IN_MID_RUN
session.finish(torch.nn.Linear(2, 2), depth=1)
"""
# As torch's own compiler passes on what a kernel's compilation meets.
AS_DYNAMO_SAYS_IT = """
from torch._dynamo.exc import BackendCompilerFailed
def inductor(): pass
if rows > 4:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    raise BackendCompilerFailed(inductor, full, None)
"""
AS_INDUCTOR_SAYS_IT = """
from torch._inductor.exc import InductorError
if rows > 4:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    raise InductorError(full, None)
"""


class Answers:
    """A card that answers as long as it is not lost: stands for torch in another process."""

    def __init__(self) -> None:
        self.lost, self.asked_again = False, 0

    def __call__(self, kind: str = "auto", again: bool = False) -> dict:
        self.asked_again += again
        if again and self.lost:
            raise DeviceRefused(f"a card is here, and torch cannot use it: {RESTART}")
        return CARD


@pytest.fixture
def card(monkeypatch):
    answers = Answers()
    monkeypatch.setattr(executor_module, "detect_device", answers)
    return answers


@pytest.fixture
def executor(tiny_data, tmp_path, card):
    # The machine may be busy.
    patient = dataclasses.replace(profiles.PROFILES["tiny"], startup_limit_seconds=600.0)
    settings = make_settings("t", patient, tiny_data, CARD)
    (tmp_path / "run").mkdir()
    return Executor(settings, tiny_data, tmp_path / "run", tmp_path)


def train(executor, at_start="", in_mid_run="pass", **limits) -> dict:
    folder = executor.folder / "training"
    folder.mkdir(parents=True, exist_ok=True)
    source = TRAIN.replace("AT_START", at_start).replace("IN_MID_RUN", in_mid_run)
    (folder / "train.py").write_text(source)
    limits |= {"budget_seconds": 0.2}
    request = executor.request(folder / "train.py", folder / "run", 1, **limits)
    return executor.train(request, score_follows=False)


@pytest.mark.parametrize("lost", [True, False])
def test_a_training_whose_card_is_lost_in_mid_run_is_the_machines_and_else_the_ideas(
    executor, card, lost
):
    card.lost = lost
    result = train(executor, in_mid_run=f"raise RuntimeError({LAUNCH_FAILED!r})")
    assert card.asked_again == 1 and result["startup_seconds"]
    if lost:
        # Repeated however often: the harness has seen for itself that it is gone.
        assert (result["status"], result["sure"]) == ("infrastructure", True)
        assert result["cause"].startswith("the card is gone: a card is here, and torch cannot use")
        assert "(Xid in dmesg)" in result["cause"]
        assert result["cause"].endswith(f"; what failed said: RuntimeError: {LAUNCH_FAILED}")
    else:
        assert (result["status"], result["cause"]) == ("crash", f"RuntimeError: {LAUNCH_FAILED}")


@pytest.mark.parametrize("status", ["crash", "timeout"])
def test_a_card_that_is_lost_while_a_model_is_scored_or_audited_is_the_machines_fault_too(
    executor, card, tmp_path, status
):
    failed = {"status": status, "cause": LAUNCH_FAILED, "val_bpb": None}
    measurement = SimpleNamespace(
        score=lambda progress, server: dict(failed),
        try_out=lambda server: dict(failed),
        audit=lambda progress: dict(failed),
    )
    noted = []
    job = SimpleNamespace(
        executor=executor,
        folder=tmp_path,
        tell=lambda *stage, **facts: None,
        note=lambda event, **fields: noted.append(fields),
    )
    runs = Runs(SimpleNamespace())
    runs._measurement_of = lambda job: measurement
    (tmp_path / "result.json").write_text("{}")
    for card.lost, expected in ((False, status), (True, "infrastructure")):
        runs._audit(None, job)
        ended = [noted[-1], executor.score(measurement), executor.score(measurement, smoke=True)]
        assert [each["status"] for each in ended] == [expected] * 3
        assert json.loads((tmp_path / "result.json").read_text())["audited"] == noted[-1]
        assert {each["cause"].startswith("the card is gone: ") for each in ended} == {card.lost}
    assert all(each["sure"] for each in ended)


@pytest.mark.parametrize("where", ["score_holdout", "audit"])
def test_a_card_that_is_lost_in_what_a_claim_measures_is_no_end_of_the_claim(
    executor, card, monkeypatch, where
):
    well, failed = {"status": "ok", "cause": ""}, {"status": "crash", "cause": LAUNCH_FAILED}
    measurement = SimpleNamespace(
        **dict.fromkeys(("score_holdout", "audit"), lambda progress: dict(well))
        | {where: lambda progress: dict(failed)}
    )
    card.lost, noted = True, []
    job = SimpleNamespace(
        executor=executor,
        note=lambda event, **fields: noted.append(fields),
        tell_score=lambda fields: None,
    )
    claimant = Claimant.__new__(Claimant)
    best = SimpleNamespace(attempt=None)
    state = SimpleNamespace(experiments=[None, best], kept=[])
    claimant.lab = SimpleNamespace(state=state, settings=executor.settings)
    claimant.runs = SimpleNamespace(
        measurement_beside=lambda job, rival: measurement, score=lambda *asked: dict(well)
    )
    run = SimpleNamespace(started={"role": "best"}, number=0, trained={})
    current = SimpleNamespace(in_flight=run, text={}, budgets=1, begun={"best": 1}, runs=[])
    monkeypatch.setattr(claimant_module, "trial_of", lambda run: None)
    monkeypatch.setattr(claimant, "_job", lambda *asked: job)
    monkeypatch.setattr(claimant, "_over", lambda fields: None)
    claimant._score(SimpleNamespace(current=current))
    assert noted[0]["status"] == "infrastructure" and noted[0].get("sure", True)
    assert noted[0]["cause"].startswith("the card is gone: ")


@pytest.mark.parametrize("said", [AS_DYNAMO_SAYS_IT, AS_INDUCTOR_SAYS_IT])
def test_memory_that_runs_out_while_compiling_is_told_and_answered_with_fewer_rows(
    executor, card, said
):
    result = train(executor, at_start=said)
    assert (result["status"], result["device_batch_size"]) == ("oom", 8)
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in result["cause"]
    # Half the rows, as the loop goes on.
    result = train(executor, at_start=said, device_batch_limit=4)
    assert (result["status"], result["device_batch_size"]) == ("ok", 4), result["cause"]
    assert card.asked_again == 0


def test_a_cause_is_one_line_that_says_something():
    assert cause_of(ValueError("no\nmore of it")) == "ValueError: no"
    assert cause_of(ValueError("")) == "ValueError:"
    assert (
        cause_of(RuntimeError("who raised:\n  what\nand more")) == "RuntimeError: who raised: what"
    )
