"""The score: oracles that can be computed by hand, through the real model server."""

import math
import subprocess
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from harness.sandbox.child import child_environment
from harness.sandbox.memory_killer import memory_kills
from harness.scoring import channel
from harness.scoring.channel import Exchanges, Launch, ScoreError
from harness.scoring.scorer import (
    ServerJob,
    bits_per_byte,
    check_losses,
    iter_batches,
    score_model,
    start_server,
)

UNIFORM = """
import torch
class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n = n
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def forward(self, idx):
        {body}
def build_model(vocab_size, max_seq_len):
    return Model(vocab_size)
"""


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def score(data, folder, body: str, limit_seconds: float = 60.0):
    train_py, weights = folder / "train.py", folder / "weights.safetensors"
    train_py.write_text(UNIFORM.format(body=body))
    save_model(Weights(), str(weights))
    return score_model(data, job_in(folder, limit_seconds))


def job_in(folder, limit_seconds: float, launch: Launch | None = None) -> ServerJob:
    paths = (folder / "train.py", folder / "weights.safetensors")
    return ServerJob(
        *paths, "cpu", "float32", 1, launch or Launch(child_environment()), folder, limit_seconds
    )


def test_a_uniform_model_scores_log2_of_the_vocabulary_per_token(tiny_data, tmp_path):
    result = score(tiny_data, tmp_path, "return torch.zeros(*idx.shape, self.n)")
    expected = math.log2(tiny_data.n_vocab) * result.scored_tokens / result.scored_bytes
    assert result.val_bpb == pytest.approx(expected, rel=1e-6)
    assert (
        result.losses.shape == (tiny_data.manifest["rows"]["val"], 64)
        and result.losses.dtype == np.float32
    )


def test_specials_count_in_neither_sum_and_bytes_are_the_texts(tiny_data, tmp_path):
    rows = np.fromfile(tiny_data.private_dir / "val.bin", dtype="<u2").reshape(-1, 65)
    ordinary = int((rows[:, 1:] != tiny_data.bos_id).sum())
    result = score(tiny_data, tmp_path, "return torch.zeros(*idx.shape, self.n)")
    # With bytes as vocabulary a token is a byte.
    assert result.scored_tokens == result.scored_bytes == ordinary


def test_a_model_that_knows_the_bigrams_matches_a_hand_count(tiny_data, tmp_path):
    train = np.fromfile(tiny_data.train_dir / "rows.bin", dtype="<u2").reshape(-1, 65)
    counts = np.ones((tiny_data.n_vocab, tiny_data.n_vocab))
    np.add.at(counts, (train[:, :-1].ravel(), train[:, 1:].ravel()), 1)
    log_probabilities = np.log(counts / counts.sum(1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "table.npy", log_probabilities)
    rows = np.fromfile(tiny_data.private_dir / "val.bin", dtype="<u2").reshape(-1, 65)
    inputs, targets = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    scored = targets != tiny_data.bos_id
    by_hand = (
        -log_probabilities[inputs, targets][scored].astype(np.float64).sum()
        / math.log(2)
        / scored.sum()
    )
    body = (
        f"import numpy; return torch.from_numpy(numpy.load({str(tmp_path / 'table.npy')!r}))[idx]"
    )
    assert score(tiny_data, tmp_path, body).val_bpb == pytest.approx(by_hand, rel=1e-5)


# Where the system counts what it ends for lack of memory, a SIGKILL that it did not count came from
# outside.
KILLED = (
    ("infrastructure", "killed from outside")
    if memory_kills() is not None
    else ("oom", "model server ended")
)
FAILURES = {
    "nan": ("return torch.full((*idx.shape, self.n), float('nan'))", "nan", "not finite"),
    "wrong shape": (
        "return torch.zeros(*idx.shape, self.n + 1)",
        "crash",
        "the contract of train.py says",
    ),
    "exception": ("raise ValueError('not in eval mode')", "crash", "ValueError in line"),
    "exit": ("import os; os._exit(0)", "crash", "model server ended"),
    "killed": ("import os; os.kill(os.getpid(), 9)", *KILLED),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_model_that_cannot_be_scored_has_a_status_and_a_cause(tiny_data, tmp_path, name):
    body, status, cause = FAILURES[name]
    with pytest.raises(ScoreError) as caught:
        score(tiny_data, tmp_path, body)
    assert caught.value.status == status and cause in caught.value.cause


@pytest.mark.slow
def test_a_model_that_never_answers_is_a_timeout(tiny_data, tmp_path):
    with pytest.raises(ScoreError) as caught:
        score(tiny_data, tmp_path, "import time; time.sleep(600)", limit_seconds=5)
    assert caught.value.status == "timeout"


def test_a_child_that_reads_nothing_is_a_timeout():
    child = subprocess.Popen(
        ["sleep", "600"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pipes = Exchanges(child.stdin, child.stdout)
    try:
        with pytest.raises(ScoreError) as caught:
            pipes.ask(bytes(2**24), 4, time.monotonic() + 0.5)  # more than any pipe holds
        assert caught.value.status == "timeout"
    finally:
        pipes.close()
        child.kill()
        child.wait()


def test_behind_a_wall_nothing_of_a_server_is_left_either(tiny_data, tmp_path, bubblewrap):
    (tmp_path / "train.py").write_text(
        UNIFORM.format(body="return torch.zeros(*idx.shape, self.n)")
    )
    save_model(Weights(), str(tmp_path / "weights.safetensors"))
    seen = {"own": [tmp_path], "readable": [], "hidden": [tiny_data.folder], "device": "cpu"}
    launch = Launch(
        child_environment(), lambda command: bubblewrap.enclose(command, **seen), walled=True
    )
    with start_server(tiny_data, job_in(tmp_path, 120.0, launch), "losses") as server:
        inside = psutil.Process(server.process.pid).children(recursive=True)
        assert inside
    assert not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in inside
    )


@pytest.mark.slow
def test_a_server_that_never_gets_ready_is_dead_afterwards(tiny_data, tmp_path, monkeypatch):
    started, popen = [], channel.subprocess.Popen
    monkeypatch.setattr(
        channel.subprocess,
        "Popen",
        lambda *args, **rest: started.append(popen(*args, **rest)) or started[-1],
    )
    (tmp_path / "train.py").write_text(
        "import time\n\n\ndef build_model(a, b):\n    time.sleep(600)\n"
    )
    save_model(Weights(), str(tmp_path / "weights.safetensors"))
    with pytest.raises(ScoreError, match="time limit"):
        score_model(tiny_data, job_in(tmp_path, 5))
    assert [process.poll() for process in started] == [-9]


def test_what_a_candidate_prints_does_not_reach_the_stream(tiny_data, tmp_path):
    noisy = (
        "import os; print('x' * 5000); os.write(1, b'y' * 5000);"
        " return torch.zeros(*idx.shape, self.n)"
    )
    assert score(tiny_data, tmp_path, noisy).val_bpb > 0
    assert b"yyyy" in (tmp_path / "server.log").read_bytes()


def test_dropout_is_off(tiny_data, tmp_path):
    body = "assert not self.training; return torch.zeros(*idx.shape, self.n)"
    assert score(tiny_data, tmp_path, body).val_bpb > 0


def test_missing_data_in_the_manifests_eyes_is_our_fault_not_the_ideas(tiny_data, tmp_path):
    changed = dict(tiny_data.manifest) | {
        "scored": {"val": {"tokens": 1, "bytes": 1}, "holdout": {}}
    }
    other = type(tiny_data)(tiny_data.folder, changed)
    with pytest.raises(ScoreError) as caught:
        score(other, tmp_path, "return torch.zeros(*idx.shape, self.n)")
    assert caught.value.status == "infrastructure"


@pytest.mark.parametrize("bad, status", [(np.nan, "nan"), (np.inf, "nan"), (-1e-3, "crash")])
def test_losses_that_are_no_losses_are_refused(bad, status):
    losses = np.ones((2, 3), dtype=np.float32)
    losses[1, 1] = bad
    with pytest.raises(ScoreError) as caught:
        check_losses(losses)
    assert caught.value.status == status


def test_bits_per_byte_by_hand():
    losses = np.log(np.array([[2.0, 4.0, 8.0]], dtype=np.float32))
    nats, tokens, total = bits_per_byte(losses, np.array([[0, 1, 2]]), np.array([1, 3, 0]))
    assert (tokens, total) == (2, 4) and nats / math.log(2) / total == pytest.approx((1 + 2) / 4)


def test_every_row_is_in_exactly_one_batch_of_the_fixed_shape():
    rows = np.arange(7 * 3, dtype=np.uint16).reshape(7, 3)
    batches = list(iter_batches(rows, 3))
    assert [first for first, _ in batches] == [0, 3, 6] and all(
        batch.shape == (3, 3) for _, batch in batches
    )
    assert np.array_equal(np.concatenate([batch for _, batch in batches])[:7], rows)
