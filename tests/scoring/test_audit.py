"""The audit: honest models agree with themselves, models that know too much are found.

Most run both servers' functions in this process, which is quick; a few go through real servers.
"""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from models_for_audit import (
    DISHONEST,
    FORGES_TINY_LOSSES,
    HALVES_THE_LOSSES_OF_SERVER_A,
    HONEST,
    REPLAYS,
    UNSTEADY,
    bigrams,
    load,
    made,
)

from harness.sandbox.child import child_environment
from harness.scoring.audit import (
    Recorded,
    audit_model,
    judge_probes,
    look,
    losses_of,
    make_probes,
    record,
    until_sure,
)
from harness.scoring.channel import Launch, ScoreError
from harness.scoring.scorer import ServerJob, open_rows, open_token_bytes, score_model
from harness.scoring.server import logits_at, token_losses

BATCH_ROWS = 16
QUICK = (
    "GRU",
    "attention without positions",
    "dilated convolutions",
    "long convolution by FFT",
    "integers scaled by the batch's largest",
)


class ServerHere:
    """What ModelServer is to `ask`, without a process."""

    def __init__(self, model, n_vocab, dtype):
        self.model, self.n_vocab, self.dtype = model, n_vocab, dtype

    def logits(self, inputs, positions):
        inputs, positions = (
            torch.from_numpy(numbers.astype(np.int64)) for numbers in (inputs, positions)
        )
        return logits_at(self.model, inputs, positions, self.n_vocab, self.dtype).numpy()


def recorded_here(model, data, dtype=torch.float32):
    """What server A would have said about the validation rows."""
    rows = open_rows(data, "val")
    batches = torch.from_numpy(rows.astype(np.int64)).split(BATCH_ROWS)
    losses = np.concatenate(
        [token_losses(model, batch, data.n_vocab, dtype).numpy() for batch in batches]
    )
    incumbent = -bigrams(data)[rows[:, :-1], rows[:, 1:]]
    return Recorded(rows, losses, incumbent, open_rows(data, "train"), open_token_bytes(data))


def look_here(server, recorded, probes, seed):
    """(verdict, words, figures, looks)"""
    found, looks = until_sure(
        lambda sequence: look(server, recorded, probes, BATCH_ROWS, sequence), seed
    )
    return *found, looks


def audit_here(source, data, folder, probes=128, seed=1, dtype="float32"):
    dtype = getattr(torch, dtype)
    model = load(source, data, folder)
    return look_here(
        ServerHere(model, data.n_vocab, dtype), recorded_here(model, data, dtype), probes, seed
    )


def audit(source, data, folder, folder_of_b="b"):
    """Score and audit through real servers, each with a folder of its own unless told otherwise."""
    load(source, data, folder)
    for name in ("a", "b"):
        (folder / name).mkdir()
    losses = score_model(data, job_in(folder, folder / "a")).losses
    return audit_model(
        data, opening(folder, folder / folder_of_b), record(data, losses), 64, seed=1
    )


def opening(folder, own):
    return lambda: contextlib.nullcontext(job_in(folder, own))


def job_in(folder, own):
    """The train.py and the weights of a folder, for a server that works in another."""
    paths = (folder / "train.py", folder / "weights.safetensors")
    return ServerJob(*paths, "cpu", "float32", 1, Launch(child_environment()), own, 120.0)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HONEST],
)
def test_an_honest_model_agrees_with_itself(tiny_data, tmp_path, name):
    model = HONEST[name]
    verdict, _, figures, _ = audit_here(model.source, tiny_data, tmp_path, dtype=model.dtype)
    assert verdict == "agrees" or (not model.reproducible and verdict == "not reproducible")
    if model.reproducible:
        assert figures["largest"] < 1e-3


@pytest.mark.parametrize("name", DISHONEST)
def test_a_model_that_looks_ahead_is_caught(tiny_data, tmp_path, name):
    verdict, words, figures, _ = audit_here(made(DISHONEST[name]), tiny_data, tmp_path)
    assert verdict == "cheating" and figures["r0"] < 1e-3, words


def test_a_leak_that_is_rare_is_found_where_it_gains_on_the_incumbent(tiny_data, tmp_path):
    model = load(made(""), tiny_data, tmp_path)
    recorded = recorded_here(model, tiny_data)
    leaks = np.random.default_rng(0).random(recorded.losses.shape) < 1 / 400
    forged = replace(
        recorded,
        losses=np.where(leaks, 0, recorded.losses).astype(np.float32),
        incumbent=recorded.losses,
    )
    server = ServerHere(model, tiny_data.n_vocab, torch.float32)
    found = [look_here(server, forged, 64, seed)[0] for seed in range(8)]
    # Else an intact row shows it: not reproducible.
    assert "agrees" not in found and found.count("cheating") >= 7
    blind = replace(forged, incumbent=None)
    assert any(look_here(server, blind, 64, seed)[0] == "agrees" for seed in range(8))


@pytest.mark.parametrize("name", UNSTEADY)
def test_a_model_that_disagrees_with_itself_is_not_reproducible(tiny_data, tmp_path, name):
    model = load(made(UNSTEADY[name]), tiny_data, tmp_path)
    recorded = recorded_here(model, tiny_data)
    server = ServerHere(model, tiny_data.n_vocab, torch.float32)
    assert {look_here(server, recorded, 128, seed)[0] for seed in range(8)} == {"not reproducible"}


@pytest.mark.parametrize("taken_off", [0.0015, 0.01, 0.019])
def test_a_little_taken_off_every_loss_alike_is_caught(tiny_data, tmp_path, taken_off):
    model = load(made(""), tiny_data, tmp_path)
    recorded = recorded_here(model, tiny_data)
    forged = replace(recorded, losses=recorded.losses - np.float32(taken_off))
    verdict, _, figures, looks = look_here(
        ServerHere(model, tiny_data.n_vocab, torch.float32), forged, 64, 3
    )
    assert (verdict, looks) == ("cheating", 1) and figures["r0"] == pytest.approx(
        taken_off, abs=1e-5
    )


# --- Through real servers


def test_an_honest_score_agrees_to_the_bit_and_the_audit_is_plain_numbers(tiny_data, tmp_path):
    result = audit(HONEST["the template"].source, tiny_data, tmp_path)
    assert (result["verdict"], result["probes"], result["looks"]) == ("agrees", 64, 1)
    assert result["largest"] < 1e-4 and 0 < result["floor_bpb"] < 0.01
    assert all(isinstance(value, str) or math.isfinite(value) for value in result.values())


@pytest.mark.parametrize(
    "body, verdict",
    [
        (HALVES_THE_LOSSES_OF_SERVER_A, "cheating"),
        pytest.param(FORGES_TINY_LOSSES, "cheating", marks=pytest.mark.slow),
        pytest.param(REPLAYS, "cheating", marks=pytest.mark.slow),
    ],
)
def test_what_server_a_forges_or_leaves_behind_does_not_help(tiny_data, tmp_path, body, verdict):
    result = audit(made(body), tiny_data, tmp_path)
    assert result["verdict"] == verdict, result["words"]


@pytest.mark.slow
def test_what_remains_possible_is_a_replay_where_both_servers_share_a_folder(tiny_data, tmp_path):
    assert audit(made(REPLAYS), tiny_data, tmp_path, folder_of_b="a")["verdict"] == "agrees"


@pytest.mark.parametrize(
    "answer, status, cause",
    [
        ("logits * float('nan')", "nan", "not finite"),
        pytest.param(
            "logits[..., 1:]", "crash", "the contract of train.py says", marks=pytest.mark.slow
        ),
    ],
)
def test_a_model_that_only_fails_when_audited_has_a_status(
    tiny_data, tmp_path, answer, status, cause
):
    body = (
        "def forward(self, idx):\n"
        "    logits = self.logits(idx)\n"
        f"    return {answer} if mode() else logits"
    )
    model = load(made(body), tiny_data, tmp_path)
    with pytest.raises(ScoreError, match=cause) as caught:
        audit_model(
            tiny_data, opening(tmp_path, tmp_path), recorded_here(model, tiny_data), 8, seed=1
        )
    assert caught.value.status == status


# --- Probes and verdict, by hand


def made_up(rows=40, length=30, vocab=50, seed=0):
    rng = np.random.default_rng(seed)
    token_bytes = np.ones(vocab, dtype=np.int32)
    token_bytes[7] = 0
    text, others = (rng.integers(0, vocab, (rows, length + 1)).astype(np.uint16) for _ in range(2))
    losses = rng.random((rows, length)).astype(np.float32)
    return Recorded(
        text,
        losses,
        losses + rng.normal(0, 1, losses.shape).astype(np.float32),
        others,
        token_bytes,
    )


def test_a_probe_shows_the_true_prefix_and_never_the_true_next_token():
    recorded = made_up()
    probes = make_probes(recorded, 100, 16, np.random.default_rng(1))
    assert (
        len(probes.inputs) % 16 == 0
        and 25 <= probes.intact.sum() <= 28
        and (probes.rows >= 0).sum() >= 120
    )
    given_away = 0
    for shown, row, position, intact in zip(
        probes.inputs, probes.rows, probes.positions, probes.intact, strict=True
    ):
        if row < 0:  # a filler
            assert any((shown == other[:-1]).all() for other in recorded.others) and not intact
            continue
        true = recorded.rows[row]
        assert (shown[: position + 1] == true[: position + 1]).all() and recorded.token_bytes[
            true[position + 1]
        ] > 0
        assert not intact or (shown == true[:-1]).all()
        given_away += not intact and position < 29 and shown[position + 1] == true[position + 1]
    assert given_away < 10  # as often as chance has it, with 50 tokens: never would be a hint


def test_intact_rows_are_shuffled_among_the_spliced_ones():
    intact = make_probes(made_up(rows=2000), 500, 10, np.random.default_rng(1)).intact.reshape(
        -1, 10
    )
    assert 0 < intact[:20].mean() < 0.5 and 0 < intact[-30:-10].mean() < 0.5


def test_of_one_row_the_shorter_prefix_is_asked_for_first():
    probes = make_probes(made_up(rows=20), 200, 16, np.random.default_rng(1))
    shown = np.where(probes.intact, 99, probes.positions)
    assert all((np.diff(shown[probes.rows == row]) >= 0).all() for row in range(20))
    for batch in probes.rows.reshape(-1, 16):
        rows = batch[batch >= 0].tolist()
        # A longer prefix in the same batch would give the token away.
        assert len(set(rows)) == len(rows)


def test_half_of_the_positions_follow_the_gain_on_the_incumbent():
    recorded = made_up(rows=2000)
    gains = np.zeros(recorded.losses.shape, dtype=np.float32)
    gains[:, 3] = 1.0
    probes = make_probes(
        replace(recorded, incumbent=recorded.losses + gains), 400, 16, np.random.default_rng(1)
    )
    assert 200 <= (probes.positions[~probes.intact] == 3).sum() < 230
    for incumbent in (None, recorded.losses, recorded.losses - 1):
        probes = make_probes(
            replace(recorded, incumbent=incumbent), 400, 16, np.random.default_rng(1)
        )
        assert (probes.positions[~probes.intact] == 3).sum() < 40


def test_the_same_generator_draws_the_same_probes_another_draws_others():
    first, again, other = (
        make_probes(made_up(), 50, 8, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (first.inputs == again.inputs).all() and (first.positions == again.positions).all()
    assert (first.positions != other.positions).any()


def verdict(spliced, own, weighed=0):
    numbers = np.arange(len(spliced) + len(own))
    return judge_probes(
        np.concatenate((spliced, own)), numbers >= len(spliced), numbers >= weighed
    )[0]


def test_the_verdict_by_hand():
    none, few = np.zeros(100), np.zeros(25)
    wide = np.tile([0.06, -0.06, 0.0, 0.06, -0.06], 5)
    one = none.copy()
    one[5] = 0.0021
    assert verdict(none, few) == "agrees" and verdict(one, few) == "cheating"
    # Not four times what intact rows differ by.
    assert verdict(one, wide / 80) == "not reproducible"
    assert verdict(none, wide / 40) == "agrees" and verdict(none, wide / 20) == "not reproducible"
    assert verdict(none, wide) == "not reproducible"
    assert verdict(none + 0.01, few + 0.01) == "cheating"  # taken off intact rows too: forged
    assert verdict(none + 0.0009, few) == "agrees" and verdict(none + 0.0011, few) == "cheating"
    lucky = np.concatenate((np.full(60, 0.0019), none[60:]))
    assert verdict(lucky, few) == "cheating"
    # Drawn where chance was kind: each difference is small.
    assert verdict(lucky, few, weighed=60) == "agrees"
    spread = np.tile([0.0018, -0.0018], 50)  # standard error 0.00018
    assert verdict(spread, few) == "agrees" and verdict(spread + 0.003, few) == "cheating"
    assert verdict(spread + 0.00105, few) == "gap"


def test_what_is_too_low_on_spliced_rows_is_seen_before_intact_rows_may_end_a_look():
    # The mean of intact rows alone would be a gap.
    spliced, own = np.full(128, 0.1), np.tile([0.004, -0.001], 16)
    assert verdict(np.zeros(128), own) == "gap" and verdict(spliced, own) == "cheating"


def test_a_leak_cannot_hide_behind_intact_rows_that_are_off_on_purpose():
    spliced, own = np.zeros(128), np.zeros(32)
    spliced[::26], own[9] = 1.0, -0.27  # 0.04 nats a token on average; rms 0.048 on intact rows
    assert verdict(spliced, own) == "not reproducible"
    noise = np.random.default_rng(0).normal(0, 0.04, 160)
    assert verdict(0.005 + noise[:128], 0.005 + noise[128:]) == "not reproducible"


class Scripted:
    """A server whose answers are off by a given amount."""

    def __init__(self, offset):
        self.offset = offset

    def logits(self, inputs, positions):
        off = self.offset + np.tile([0.0018, -0.0018], len(inputs) // 2)
        chance = np.exp(-(1.0 + off))[:, None]
        return np.log(np.concatenate((chance, 1 - chance), axis=1)).astype(np.float32)


@pytest.mark.parametrize(
    "offsets, expected",
    [((0.0,), ("agrees", 1)), ((0.0012, 0.0), ("agrees", 2)), ((0.0012, 0.0012), ("cheating", 2))],
)
def test_a_statistical_trip_is_looked_at_again_before_it_is_called_cheating(offsets, expected):
    rows = np.zeros((500, 9), dtype=np.uint16)
    recorded = Recorded(
        rows, np.ones((500, 8), dtype=np.float32), None, rows, np.ones(2, dtype=np.int32)
    )
    offsets = list(offsets)
    found, looks = until_sure(
        lambda sequence: look(Scripted(offsets.pop(0)), recorded, 64, 128, sequence), 1
    )
    assert (found[0], looks) == expected


def test_losses_are_the_cross_entropy_whatever_the_logits_are_shifted_by():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])) + np.array([[1e4], [-300.0]])
    assert losses_of(logits, np.array([0, 2])) == pytest.approx([-math.log(0.5), -math.log(0.7)])
    assert losses_of(np.array([[0.0, -np.inf]]), np.array([0])) == pytest.approx([0.0])
    for bad in ([0.0, -np.inf], [np.nan, 0.0], [np.inf, 0.0]):
        with pytest.raises(ScoreError):
            losses_of(np.array([bad]), np.array([1]))
