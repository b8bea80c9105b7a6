"""The device batch: how many rows at a time, found by trying.

The optimizer step is the same however many they are.
"""

import dataclasses
import json

import pytest
import torch
from checkout import TEMPLATE

from harness.lab import card_fit, device_batch, executor
from harness.lab.card_fit import PLAIN, Fit, find_fit, ladder
from harness.lab.device_batch import HEADROOM, search_rows
from harness.run import profiles
from harness.run.settings import make_settings
from harness.sandbox.request import TrainingRequest
from harness.sandbox.runner import run_training
from harness.search.constants import rewrite_constants
from harness.training.devices import Device
from harness.training.launch import classify
from harness.training.session import Session
from harness.training.trial import lacking_for_compiling

# --- What a train.py is told ----------------------------------------------------------------------


class Told(Session):
    """A session without a runner: what it sends is kept."""

    def __init__(self, max_seq_len: int, limit: int | None) -> None:
        request = {
            "seed": 1,
            "budget_seconds": 1.0,
            "max_seq_len": max_seq_len,
            "n_vocab": 9,
            "device_batch_limit": limit,
        }
        super().__init__(request, -1, Device("cpu", "x", "float32", 0, 0.0, "", "cpu"))
        self.sent: list[dict] = []

    def _send(self, event: str, **fields: object) -> None:
        self.sent.append({"event": event} | fields)


@pytest.mark.parametrize("rows", [1, 7, 8, 12, 64])
@pytest.mark.parametrize("wanted", [1, 5, 8, 1000])
@pytest.mark.parametrize("limit", [None, 1, 3, 6, 500])
def test_the_device_batch_is_the_largest_part_of_the_batch_that_is_wanted_and_fits(
    rows, wanted, limit
):
    session = Told(64, limit)
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    expected = max(n for n in divisors if n <= wanted and n <= (limit or n))
    assert session.device_batch_size(wanted, rows * 64) == expected
    assert session.sent == [{"event": "batch", "device_batch_size": expected}]


@pytest.mark.parametrize(("wanted", "tokens"), [(8, 63), (8, 64 * 8 + 1), (8, 0), (0, 64)])
def test_a_batch_that_is_no_whole_number_of_rows_is_an_error_that_says_so(wanted, tokens):
    with pytest.raises(
        ValueError, match=f"{tokens} tokens from rows of 64 tokens, {wanted} at a time"
    ):
        Told(64, None).device_batch_size(wanted, tokens)


@pytest.mark.slow
def test_the_optimizer_sees_the_same_batch_however_few_rows_fit(tiny_data, tmp_path):
    template = TEMPLATE
    constants = profiles.PROFILES["tiny"].constants  # 512 tokens a step: 8 rows of 64
    (tmp_path / "train.py").write_text(rewrite_constants(template, constants, clamp=False))
    first, held = [], []
    for limit in (None, 2):
        request = TrainingRequest(
            folder=str(tmp_path / f"run{limit}"),
            train_py=str(tmp_path / "train.py"),
            train_dir=str(tiny_data.train_dir),
            n_vocab=tiny_data.n_vocab,
            max_seq_len=64,
            seed=1,
            budget_seconds=0.3,
            startup_limit_seconds=600,
            device="cpu",
            dtype="float32",
            compile=False,
            threads=1,
            device_batch_limit=limit,
        )
        result = run_training(request)
        assert result["status"] == "ok" and result["total_tokens"] == 512 * result["num_steps"]
        held.append(result["device_batch_size"])
        events = [
            json.loads(line)
            for line in (tmp_path / f"run{limit}" / "events.jsonl").read_text().splitlines()
        ]
        first.append(next(event["train_loss"] for event in events if event["event"] == "step"))
    # The same rows, in one part or in four.
    assert held == [8, 2] and first[1] == pytest.approx(first[0], rel=1e-3)


# --- Finding out how many fit ---------------------------------------------------------------------


@pytest.mark.parametrize("wish", [64, 32, 1, 24])
@pytest.mark.parametrize("memory_mb", [700, 1200, 4000, 100_000])
def test_the_search_ends_at_the_most_rows_that_leave_headroom(wish, memory_mb):
    """A card where a training takes 500 MB and 100 MB a row, and is refused above what there is."""
    seen = []

    def train(limit: int | None) -> dict:
        rows = limit or wish
        seen.append(rows)
        used = 500 + 100 * rows
        ended = (
            {"status": "ok", "cause": "", "memory_mb": used}
            if used <= memory_mb
            else {"status": "oom", "cause": "CUDA out of memory", "memory_mb": None}
        )
        return ended | {"device_batch_size": rows, "attention": None}

    found = search_rows(train, memory_mb, lambda line: None)
    halvings = [wish >> n for n in range(wish.bit_length())]
    fitting = [rows for rows in halvings if 500 + 100 * rows <= HEADROOM * memory_mb]
    expected = max(fitting, default=1)
    assert found["device_batch_limit"] == (None if expected == wish and fitting else expected)
    assert (
        seen == [rows for rows in halvings if rows >= expected]
        and [t["rows"] for t in found["trials"]] == seen
    )


@pytest.mark.parametrize(
    "ended",
    [
        {"status": "crash", "cause": "ValueError", "device_batch_size": 8},
        {"status": "timeout", "cause": "slow", "device_batch_size": 8},
        {"status": "oom", "cause": "CUDA out of memory", "device_batch_size": None},
    ],
)
def test_nothing_is_learnt_from_a_training_that_fails_otherwise(ended):
    found = search_rows(
        lambda limit: ended | {"memory_mb": None, "attention": None}, 4000, lambda line: None
    )
    assert (
        found["failed"] == f"{ended['status']}: {ended['cause']}"
        and found["device_batch_limit"] is None
    )


def test_memory_that_runs_out_while_compiling_is_answered_with_fewer_rows():
    """As Inductor passes it on: another type, the same words; the rows were told before."""
    error = RuntimeError(
        "backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate"
        " 2.00 GiB"
    )

    def train(limit):
        ended = {
            "device_batch_size": limit or 32,
            "attention": None,
            "memory_mb": None,
            "cause": str(error),
        }
        return ended | (
            {"status": classify(error)}
            if (limit or 32) > 8
            else {"status": "ok", "memory_mb": 900.0}
        )

    assert search_rows(train, 4000, lambda line: None)["device_batch_limit"] == 8


CARD = """
import torch
import harness.training.session as inside
from harness.training.devices import detect_device
inside.detect_device = lambda kind, dtype: detect_device("cpu", dtype)
session = inside.open_session(__file__)
rows = session.device_batch_size(8, 8 * session.max_seq_len)
if session.request["compile"] or inside.attention._full.__name__ != NEEDS:
    raise RuntimeError("InductorError: no valid triton configs")
if rows > 4:
    raise torch.OutOfMemoryError("CUDA out of memory")
session.start()
while session.progress < 1:
    session.log(0, torch.tensor(1.0), tokens=8)
session.finish(torch.nn.Linear(2, 2), depth=1)
"""
EAGER, NOTHING = CARD.replace("NEEDS", "'causal'"), CARD.replace("NEEDS", "'no such kernel'")


@pytest.fixture
def settings(tiny_data, tmp_path, monkeypatch):
    """A run on a card that holds four rows; its data in a cache of its own."""
    monkeypatch.setattr(device_batch, "PROBE_SECONDS", 0.2)
    card = {
        "kind": "cuda",
        "name": "a small card",
        "memory_mb": 8_000,
        "dtype": "float32",
        "compile_error": "",
    }
    monkeypatch.setattr(executor, "detect_device", lambda *kinds, **how: card)  # it is still there
    # The machine may be busy.
    patient = dataclasses.replace(profiles.PROFILES["tiny"], startup_limit_seconds=600.0)
    made = make_settings("t", patient, tiny_data, card)
    return dataclasses.replace(made, data_folder=str(tmp_path / "cache" / made.data_id))


def trainer(settings, data, folder):
    return executor.Executor(settings, data, folder, folder.parent)


@pytest.mark.slow
def test_how_the_baseline_trains_is_found_by_training_and_kept_for_the_machine(
    settings, tiny_data, tmp_path, monkeypatch
):
    said: list[str] = []
    found = find_fit(trainer(settings, tiny_data, tmp_path / "run"), EAGER, said.append)
    assert found == Fit(compile=False, attention=PLAIN, device_batch_limit=4)
    assert [line.split(" rows")[0] for line in said[1:]] == ["8", "4"] and "a small card" in said[0]
    logs = sorted(path.parent.name for path in (tmp_path / "run" / "probe").glob("*/*/run.log"))
    assert logs == ["4", "wish"] and not list(tmp_path.rglob("weights.safetensors"))
    [kept] = (tmp_path / "cache" / "machine").iterdir()
    assert json.loads(kept.read_text())["device"] == "a small card"

    def trained(*arguments):
        raise AssertionError("it was tried again")

    monkeypatch.setattr(executor, "run_training", trained)
    assert (
        find_fit(trainer(settings, tiny_data, tmp_path / "another"), EAGER, said.append) == found
        and len(said) == 3
    )
    changed = [
        dataclasses.replace(settings, dtype="bfloat16"),
        dataclasses.replace(settings, device=settings.device | {"memory_mb": 9_000}),
    ]
    for other, source in [
        (settings, EAGER + "# another\n"),
        *((change, EAGER) for change in changed),
    ]:
        with pytest.raises(AssertionError, match="tried again"):  # whatever the answer depends on
            find_fit(trainer(other, tiny_data, tmp_path / "run"), source, said.append)
    for text in ('{"fit": {"com', '{"fit": {"rows": 4}}', '{"fit": null}'):
        kept.write_text(text)
        with pytest.raises(AssertionError, match="tried again"):  # half a file is none
            find_fit(trainer(settings, tiny_data, tmp_path / "run"), EAGER, said.append)


@pytest.mark.parametrize("status", ["infrastructure", "interrupted"])
def test_what_the_machine_did_is_no_reason_to_step_down(
    settings, tiny_data, tmp_path, monkeypatch, status
):
    ended = {
        "status": status,
        "cause": "the disk is full",
        "device_batch_size": None,
        "memory_mb": None,
        "attention": None,
    }
    monkeypatch.setattr(card_fit, "try_rows", lambda *arguments: ended)
    compiled = dataclasses.replace(settings, compile=True)
    assert find_fit(
        trainer(compiled, tiny_data, tmp_path / "run"), EAGER, lambda line: None
    ) == Fit(compile=True)


def test_a_run_that_stepped_down_leaves_the_next_one_to_try_again(
    settings, tiny_data, tmp_path, monkeypatch
):
    def trained(executor, train_py, how, limit):
        ended = {
            "cause": "no triton",
            "device_batch_size": 8,
            "memory_mb": 9.0,
            "attention": {"full": "cudnn", "windowed": "varlen"},
        }
        return ended | {"status": "crash" if how["compile"] else "ok"}

    monkeypatch.setattr(card_fit, "try_rows", trained)
    compiled = dataclasses.replace(settings, compile=True)
    found = find_fit(trainer(compiled, tiny_data, tmp_path / "run"), EAGER, lambda line: None)
    assert (found.compile, found.attention) == (
        False,
        {"full": "cudnn", "windowed": "varlen"},
    ) and found.fell
    assert not (tmp_path / "cache").exists()


def test_the_ladder_gives_up_attention_before_compiling():
    assert ladder(True) == [(True, {}), (True, PLAIN), (False, {}), (False, PLAIN)]
    assert ladder(False) == [(False, {}), (False, PLAIN)]


@pytest.mark.slow
def test_a_compiled_baseline_that_fails_steps_down_and_says_so(settings, tiny_data, tmp_path):
    said: list[str] = []
    compiled = dataclasses.replace(settings, compile=True)
    found = find_fit(trainer(compiled, tiny_data, tmp_path / "run"), EAGER, said.append)
    assert (found.compile, found.attention, found.device_batch_limit) == (False, PLAIN, 4)
    assert found.fell.startswith(
        "the baseline trains eager with the fastest attention, since it failed compiled with the"
        " fastest"
    )
    assert (
        found.fell.count("no valid triton configs") == 2
        and sum("does not train compiled" in line for line in said) == 2
    )
    nothing = find_fit(trainer(compiled, tiny_data, tmp_path / "none"), NOTHING, said.append)
    assert nothing == Fit(compile=True)  # the baseline will say what is wrong


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking_for_compiling("cpu")), reason="nothing compiles here")
def test_the_template_trains_compiled_on_a_cpu_its_tables_aside(settings, tiny_data, tmp_path):
    sizes = {"TOTAL_BATCH_SIZE": 512, "NGRAM_ROWS": 1024, "N_HEAD": 1}
    (tmp_path / "train.py").write_text(rewrite_constants(TEMPLATE, sizes))
    on_cpu = {"kind": "cpu", "name": "a CPU", "memory_mb": 0, "dtype": "float32"}
    how = {"device": on_cpu, "compile": True}
    executor = trainer(dataclasses.replace(settings, **how), tiny_data, tmp_path / "run")
    result = executor.train(
        executor.request(tmp_path / "train.py", tmp_path / "run/training", 1), score_follows=False
    )
    assert (result["status"], result["compiled"]) == ("ok", True), result["cause"]
    assert result["num_steps"] > 1


def test_what_cannot_be_told_is_not_kept(settings, tiny_data, tmp_path, monkeypatch):
    ended = {
        "status": "crash",
        "cause": "no",
        "device_batch_size": None,
        "memory_mb": None,
        "attention": None,
    }
    monkeypatch.setattr(card_fit, "try_rows", lambda *arguments: ended)
    assert find_fit(
        trainer(settings, tiny_data, tmp_path / "run"), EAGER, lambda line: None
    ) == Fit(compile=False)
    assert not (tmp_path / "cache").exists()


def test_a_cpu_is_not_tried(settings, tiny_data, tmp_path):
    on_cpu = dataclasses.replace(settings, device=settings.device | {"kind": "cpu"})
    assert (
        find_fit(trainer(on_cpu, tiny_data, tmp_path / "run"), EAGER) == Fit(compile=False)
        and not (tmp_path / "run").exists()
    )


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "HIP out of memory",
        "MPS backend out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate",
        "DefaultCPUAllocator: not enough memory",
    ],
)
def test_out_of_memory_is_known_in_every_backends_words(words):
    assert (
        classify(RuntimeError(words)) == "oom" and classify(torch.OutOfMemoryError(words)) == "oom"
    )
    assert classify(RuntimeError("shared memory: out of resource")) == "crash"
