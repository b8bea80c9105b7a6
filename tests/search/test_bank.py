"""The bank's ideas, against the real template.

They apply or say why not, build, learn, keep the contract, and do what they claim.
"""

import contextlib
import importlib.util
import itertools
import json
import sys
import types

import bank_evidence
import pytest
import torch
import torch.nn.functional as F
from checkout import TEMPLATE

from harness.rules.keep import count_code_lines
from harness.run.profiles import PROFILES
from harness.search.bank import measured as bank_measured
from harness.search.bank.idea import Idea
from harness.search.bank.measured import (
    FILE,
    largest_clear_gain,
    measured,
    worth,
)
from harness.search.bank.order import (
    ON_A_CPU,
    ON_CARDS,
    ideas_for,
    known_ideas,
    largest_known_gain,
    measured_lines,
    new_constants,
)
from harness.search.constants import constant_values, parse_constants, rewrite_constants
from harness.search.gain import Gain
from harness.search.gate import check_candidate, source_hash
from harness.search.patch import PatchError

VOCABULARY, LENGTH = 97, 32
IDEAS = {idea.id: idea for idea in ON_CARDS}
TINY = {"DEPTH": 2, "N_HEAD": 2, "HEAD_DIM": 32, "MLP_RATIO": 2, "KV_GROUP": 1}
TINY |= {"TOTAL_BATCH_SIZE": 256, "NGRAM_ROWS": 1024}
# What an idea asks of the values before it; without that it must not apply.
NEEDS = {
    "short-convolution": {"SHIFT_TAPS": 0},
    "token-tables": {"NGRAM_TABLES": 0},
    "mirror-skips": {"DEPTH": 4},
    "half-batch": {"TOTAL_BATCH_SIZE": 512},
    "growing-depth": {"DEPTH": 4},
}
SHAPES = ("deeper-and-wider", "wider-and-shallower", "deeper-and-narrower")
NUMBERS_ONLY = {"short-convolution", "token-tables", "longer-runs", "half-batch", *SHAPES}
by_id = pytest.mark.parametrize("name", IDEAS)


def start(*names: str) -> str:
    """The template, tiny, with the values that the ideas ask for."""
    needs = {name: value for idea in names for name, value in NEEDS.get(idea, {}).items()}
    return rewrite_constants(TEMPLATE, TINY | needs)


def applied(*names: str) -> str:
    """The tiny template with these ideas, one after the other; hashed tables made small."""
    source = start(*names)
    for name in names:
        source = IDEAS[name].apply(source)
    return rewrite_constants(source, {"NGRAM_ROWS": 1024})


@pytest.fixture
def load(tmp_path):
    """Return a function that imports a train.py from its text."""
    numbers = itertools.count()

    def load(source: str):
        path = tmp_path / f"candidate_{next(numbers)}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module

    return load


class FixedSession:
    """What a train.py asks of its session: one batch for ever, and a clock that counts steps."""

    vocab_size, max_seq_len, device, dtype = VOCABULARY, LENGTH, torch.device("cpu"), torch.float32

    def __init__(self, steps: int) -> None:
        self.steps, self.progress, self.losses, self.weights, self.model = steps, 0.0, [], [], None

    def autocast(self):
        return contextlib.nullcontext()

    def device_batch_size(self, wanted: int, total_batch_tokens: int) -> int:
        return min(wanted, total_batch_tokens // LENGTH)

    def compile(self, function):
        owner = getattr(function, "__self__", None)
        self.model = owner if isinstance(owner, torch.nn.Module) else self.model
        return function

    def leave_eager(self, function):
        return function

    def batches(self, device_batch_size: int):
        shape = (device_batch_size, LENGTH + 1)
        idx = torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(2))
        while True:
            yield idx[:, :-1], idx[:, 1:]

    def start(self) -> None:
        self.losses.clear()

    def log(self, step: int, train_loss: torch.Tensor, tokens: int, **fields: float) -> None:
        self.losses.append(train_loss.item())
        self.weights.append([p.detach().clone() for p in self.model.parameters()])
        self.progress = (step + 1) / self.steps

    def finish(self, model, **fields: object) -> None:
        self.handed_over = model


def trained(module: types.ModuleType, steps: int = 16) -> FixedSession:
    """Let the file train by itself, all of its own train(); the model is in .handed_over."""
    session = FixedSession(steps)
    module.open_session = lambda path: session
    torch.manual_seed(1)
    module.train()
    return session


def calls_of(owner: object, name: str) -> list[tuple]:
    """Replace a function by itself that notes its arguments; return the notes."""
    original, notes = getattr(owner, name), []

    def noting(*args):
        notes.append(args)
        return original(*args)

    setattr(owner, name, noting)
    return notes


def extra_parameters(module, plain) -> set[str]:
    named = lambda m: dict(m.build_model(VOCABULARY, LENGTH).named_parameters())  # noqa: E731
    return named(module).keys() - named(plain).keys()


@by_id
def test_an_idea_passes_the_gate_and_annotates_its_constants(name):
    idea, before = IDEAS[name], start(name)
    source = idea.apply(before)
    assert check_candidate(source, {source_hash(before)}) == []
    old, new = parse_constants(before), parse_constants(source)
    assert new.keys() - old.keys() == idea.new_constants() <= new_constants()
    assert all(new[constant].searched for constant in idea.new_constants())
    changed = {constant for constant in old if old[constant].value != new[constant].value}
    assert bool(changed) == (name in NUMBERS_ONLY or name == "closer-orthogonal")
    if name in NUMBERS_ONLY:
        assert source == rewrite_constants(before, {name: new[name].value for name in changed})
    searched = {constant: value.value for constant, value in new.items() if value.searched}
    rewrite_constants(source, searched)  # in range
    assert all((idea.title, idea.hypothesis, idea.evidence)) and len(idea.title) < 80
    for text in (idea.title, idea.hypothesis, idea.evidence):
        assert "\n" not in text


def test_a_cpu_has_an_order_of_its_own_of_the_same_ideas():
    assert len(IDEAS) == len(ON_CARDS) == len(ON_A_CPU) and set(ON_CARDS) == set(ON_A_CPU)
    assert ideas_for("cpu") == ON_A_CPU and ideas_for("cuda") == ideas_for("mps") == ON_CARDS
    gains = [worth(idea.id).gain for idea in ON_A_CPU]
    assert gains == sorted(gains, reverse=True)
    categories = {"architecture", "optimizer", "schedule", "simplify"}
    assert {idea.category for idea in ON_CARDS} == categories


def test_what_was_measured_is_what_the_rows_of_the_trainings_give():
    """Else `python scripts/bank_evidence.py table --write` was not run."""
    rows = bank_evidence.quiet(bank_evidence.read_rows(bank_evidence.ROWS))
    assert json.loads(FILE.read_text()) == bank_evidence.gains_of_all(rows)
    assert bank_evidence.PAGE.read_text() == bank_evidence.page()


def test_gains_that_were_measured_hold_for_the_kind_of_device_they_were_measured_on():
    known = [idea.id for idea in known_ideas("cpu")]
    assert known[0] == "short-convolution" and "token-tables" in known
    assert all(worth(idea).clear > 0 for idea in known)
    assert largest_known_gain("cpu") == max(map(largest_clear_gain, known)) > 0.2
    lines = measured_lines("cpu").splitlines()
    assert len(lines) == 1 + len(measured()) and IDEAS["short-convolution"].title in lines[1]
    for kind in ("cuda", "mps"):
        assert known_ideas(kind) == () and largest_known_gain(kind) == 0.0
        assert measured_lines(kind) == ""


def test_a_gain_that_may_be_chance_counts_for_nothing(monkeypatch):
    gains = {
        "gate": {"plain": Gain(0.03, 0.02)},
        "hurts": {"plain": Gain(0.01, 0.01), "strong": Gain(-0.02, 0.004)},
        "helps alone": {"plain": Gain(0.2, 0.01), "strong": Gain(-0.02, 0.004)},
    }
    monkeypatch.setattr(bank_measured, "measured", lambda: gains)
    assert worth("gate").clear == 0.0 and worth("gate").gain == 0.03
    assert largest_clear_gain("helps alone") == 0.2 and worth("helps alone").clear == -0.02
    assert worth("new").gain == worth("new").clear == 0.0


@by_id
def test_an_idea_trains_and_keeps_the_contract(name, load):
    session = trained(load(applied(name)))
    assert session.losses[-1] < 0.8 * session.losses[0]
    model = session.handed_over.eval()
    assert all(p.isfinite().all() for p in model.parameters())
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    with torch.no_grad():
        logits = model(idx)
        assert logits.shape == (1, LENGTH, VOCABULARY) and logits.dtype == torch.float32
        for cut in (1, 7, LENGTH - 1):  # what comes later changes nothing before
            other = idx.clone()
            by = 1 + torch.randint(VOCABULARY - 1, (1, LENGTH - cut))
            other[:, cut:] = (other[:, cut:] + by) % VOCABULARY
            assert torch.allclose(logits[:, :cut], model(other)[:, :cut], atol=1e-4)
            assert not torch.allclose(logits[:, cut:], model(other)[:, cut:], atol=1e-3)
        for length in (5, 1):
            assert torch.allclose(model(idx[:, :length]), logits[:, :length], atol=1e-4)


WITH_WEIGHTS = ["short-convolution", "token-tables", "longer-runs"]
WITH_WEIGHTS += ["attention-gate", "learnt-sharpness", "mirror-skips"]
WITH_WEIGHTS += ["exclusive-attention", "repeats"]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_new_weights_start_without_effect_and_get_one(name, load):
    plain, changed = load(start(name)), load(applied(name))
    new = extra_parameters(changed, plain)
    assert new
    torch.manual_seed(3)
    reference, model = (each.build_model(VOCABULARY, LENGTH) for each in (plain, changed))
    for module in (reference, model):  # blocks and output say nothing yet: give them something
        torch.manual_seed(4)
        for key, parameter in module.named_parameters():
            if key not in new and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.1)
    idx = torch.randint(VOCABULARY, (2, LENGTH))
    with torch.no_grad():
        assert torch.allclose(reference(idx), model(idx), atol=1e-4)
    session = trained(changed)
    with torch.no_grad():
        model, before = session.handed_over, session.handed_over(idx)
        first = dict(zip(dict(model.named_parameters()), session.weights[0], strict=True))
        parameters = dict(model.named_parameters())
        for key in new:
            assert not torch.equal(parameters[key], first[key]), f"training did not move {key}"
            parameters[key].mul_(0.0)
        assert not torch.allclose(model(idx), before, atol=1e-3)  # and the logits depend on them


def test_a_looking_ahead_patch_would_be_noticed(load):
    """The test of causality can fail: the tables read with the token to come."""
    usual, ahead = "code = code * 1_000_003 + F.pad", "code = idx.roll(-1, 1) + F.pad"
    source = applied("token-tables").replace(usual, ahead)
    model = trained(load(source)).handed_over
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    other = idx.clone()
    other[:, 9:] = (other[:, 9:] + 1) % VOCABULARY
    with torch.no_grad():
        assert not torch.allclose(model(idx)[:, :9], model(other)[:, :9], atol=1e-3)


def test_the_mean_of_the_weights_is_handed_over(load):
    source = rewrite_constants(applied("weight-average"), {"AVERAGE_LAST": 0.25})
    session = trained(load(source), steps=20)
    last = session.weights[-5:]  # steps that began at 0.75, 0.80, .. 0.95 of the budget
    found = list(session.handed_over.parameters())
    for number, parameter in enumerate(found):
        assert torch.allclose(parameter, torch.stack([w[number] for w in last]).mean(0), atol=1e-6)
    assert not all(torch.allclose(p, w) for p, w in zip(found, last[-1], strict=True))
    session = trained(load(rewrite_constants(source, {"AVERAGE_LAST": 0.0})), steps=20)
    found = session.handed_over.parameters()
    assert all(torch.equal(p, w) for p, w in zip(found, session.weights[-1], strict=True))


def test_the_momentum_falls_at_the_end_and_only_there(load):
    values = {"COOLDOWN_RATIO": 0.25, "FINAL_MOMENTUM": 0.6}
    module = load(rewrite_constants(applied("momentum-cooldown"), values))
    notes = calls_of(module.Optimizer, "step")
    trained(module, steps=20)
    used = [momentum for _, factor, momentum, _ in notes if factor]
    usual = [module.muon_momentum(step) for step in range(20)]
    assert len(used) == 20 and used[:16] == pytest.approx(usual[:16])
    assert all(after < before for before, after in itertools.pairwise(used[15:]))
    assert used[19] == pytest.approx(0.2 * usual[19] + 0.8 * 0.6)


def test_tables_get_a_schedule_of_their_own_and_nothing_else_does(load):
    def rates(source: str) -> dict[str, list[float]]:
        module = load(source)
        notes, of_rows = calls_of(module, "adamw_update"), calls_of(module, "adamw_update_rows")
        session = trained(module, steps=10)
        names = {id(p): name for name, p in session.model.named_parameters()}
        found = {}
        of_parameters = [note for note in notes if id(note[0]) in names]
        for weight, _, _, _, lr, *_ in of_rows + of_parameters:
            found.setdefault(names[id(weight)], []).append(float(lr))
        return {name: [lr for lr in lrs if lr] for name, lrs in found.items()}

    plain = rates(start())
    own = rates(rewrite_constants(applied("embedding-schedule"), {"TABLE_LR_POWER": 3.0}))
    assert plain.keys() == own.keys() and any("value_embeddings" in name for name in plain)
    for name, before in plain.items():
        if "embedding" in name and "unembedding" not in name:
            peak = max(before)
            assert own[name] == pytest.approx([peak * (lr / peak) ** 3 for lr in before], rel=1e-4)
        else:
            assert own[name] == before


def test_the_bent_warm_down_keeps_its_ends(load):
    plain, bent = load(start()), load(applied("warmdown-shape"))
    power, begins = bent.WARMDOWN_POWER, 1.0 - bent.WARMDOWN_RATIO
    ends = [bent.lr_factor(begins), bent.lr_factor(1.0)]
    assert ends == pytest.approx([1.0, bent.FINAL_LR_FRAC])
    inside = [begins + bent.WARMDOWN_RATIO * i / 10 for i in range(1, 10)]
    above = [bent.lr_factor(at) > plain.lr_factor(at) for at in inside]
    assert all(above) if power > 1 else not any(above)
    falling = [bent.lr_factor(at) for at in [begins, *inside, 1.0, 1.01]]
    assert falling == sorted(falling, reverse=True)


def test_more_steps_come_closer_to_orthogonal(load):
    plain, closer = load(start()), load(applied("closer-orthogonal"))
    assert closer.MUON_STEPS == plain.MUON_STEPS + 2
    matrices = torch.randn(4, 48, 24, generator=torch.Generator().manual_seed(1))

    def error(module) -> float:
        update = module.orthogonalize(matrices, module.MUON_STEPS, torch.float32)
        return float((torch.linalg.svdvals(update) - 1).abs().max())

    assert error(closer) < 0.1 * error(plain)
    plain.MUON_STEPS += 2  # and it is the coefficients, not the steps alone
    assert error(closer) < 0.1 * error(plain)


def test_half_of_the_channels_stand_still(load):
    module = load(applied("half-rotary"))
    cos, sin = module.rotary_tables(LENGTH, 64, 10000.0)
    assert cos.shape == sin.shape == (1, LENGTH, 1, 32)
    assert (cos[..., 16:] == 1).all() and (sin[..., 16:] == 0).all()
    radians = torch.arange(float(LENGTH))  # one a token, then slower and slower, none still
    assert torch.allclose(sin[0, :, 0, 0], radians.sin(), atol=1e-5)
    assert (sin[0, 1, 0, :16].diff() < 0).all() and sin[0, 1, 0, 15] > 0


def test_without_row_scaling_the_update_is_the_orthogonal_one(load):
    module = load(applied("drop-row-scaling"))
    generator = torch.Generator().manual_seed(1)
    weights, grads = (torch.randn(2, 16, 8, generator=generator) for _ in range(2))
    lr, momentum, decay = (torch.tensor(x) for x in (0.1, 0.0, 0.0))
    buffer = torch.zeros_like(grads)
    new = module.muon_update(weights, grads, buffer, lr, momentum, decay, torch.float32)
    update = module.orthogonalize(grads, module.MUON_STEPS, torch.float32)
    assert torch.allclose(new, weights - 0.1 * 2**0.5 * update, atol=1e-6)


def test_what_followed_is_found_where_the_last_tokens_stood(load):
    source = rewrite_constants(applied("repeats"), {"REPEAT_TABLES": 2})
    model = load(source).build_model(VOCABULARY, LENGTH)
    with torch.no_grad():  # a row of a table says which token it is of, and which table
        for number, table in enumerate(model.repeat_embeddings):
            table.weight.zero_()
            table.weight[:, number] = 1.0 + torch.arange(len(table.weight))
    row = [7, 8, 9, 6, 8, 5, 7, 8]
    with torch.no_grad():
        found = model.repeats(torch.tensor([row]))[0, :, :2].long() - 1
    expected = []
    for at in range(len(row)):
        followed = []
        for length in (1, 2):
            last = row[max(0, at + 1 - length) : at + 1]
            ends = range(length, at + 1)  # each just behind an earlier place for them
            places = [end for end in ends if row[end - length : end] == last]
            followed.append(row[places[-1]] if places else -1)
        expected.append(followed)
    assert found.tolist() == expected and expected[-1] == [5, 9]


def test_signs_differ_by_run_and_not_by_place(load):
    model = load(applied("table-signs")).build_model(VOCABULARY, LENGTH)
    with torch.no_grad():
        for table in model.ngram_embeddings:
            table.weight.fill_(1.0)
        pairs = model.ngrams(torch.randint(VOCABULARY, (1, LENGTH)).repeat(2, 1))
        assert torch.equal(pairs[0], pairs[1])  # of two tables: each channel is -2, 0 or 2
        assert set(pairs.unique().tolist()) == {-2.0, 0.0, 2.0}
        assert abs(pairs.mean()) < 0.2 and len(pairs[0].unique(dim=0)) == LENGTH


def test_the_tables_are_part_of_what_attention_hands_on(load):
    model = load(applied("table-values")).build_model(VOCABULARY, LENGTH)
    handed = []
    attention = model.blocks[-1].attention
    attention.register_forward_pre_hook(lambda module, args: handed.append(args[1]))
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    with torch.no_grad():
        model(idx)
        for table in model.ngram_embeddings:
            table.weight.normal_()
        model(idx)
        assert torch.allclose(handed[1] - handed[0], model.ngrams(idx), atol=1e-5)


def test_exclusive_attention_leaves_nothing_of_the_own_value(load):
    module = load(rewrite_constants(applied("exclusive-attention"), {"KV_GROUP": 2}))
    attention = module.build_model(VOCABULARY, LENGTH).blocks[0].attention
    outputs = []
    attention.out.register_forward_pre_hook(lambda layer, args: outputs.append(args[0]))
    x = torch.randn(1, LENGTH, module.N_HEAD * module.HEAD_DIM)
    cos, sin = module.rotary_tables(LENGTH, module.HEAD_DIM, module.ROPE_BASE)
    with torch.no_grad():
        for share in (0.0, 1.0):
            attention.exclusion.fill_(share)
            attention(x, None, cos, sin)
        own = attention.value(x).view(1, LENGTH, -1, module.HEAD_DIM)
        with_it, without = (y.view(1, LENGTH, -1, module.HEAD_DIM) for y in outputs)
        assert ((without * own).sum(-1).abs() < 1e-4).all()
        assert (with_it * own).sum(-1).abs().mean() > 0.1


def test_half_of_each_key_is_that_of_the_token_before(load):
    """In one head's four channels: the second and the fourth turn slowly."""
    keys = {}
    for name in ("plain", "earlier-keys"):
        module = load(start() if name == "plain" else applied(name))
        seen = calls_of(module, "attend")
        torch.manual_seed(1)
        module.build_model(VOCABULARY, LENGTH)(torch.arange(LENGTH).unsqueeze(0))
        keys[name] = seen[0][1]
    before, after = keys["plain"], keys["earlier-keys"]
    for late, part in zip((False, True) * 2, range(0, 32, 8), strict=True):
        part = slice(part, part + 8)
        expected = F.pad(before, (0, 0, 1, 0))[:, :, :-1] if late else before
        assert torch.equal(after[..., part], expected[..., part])


def test_heads_compute_the_same_and_are_matrices_of_their_own(load):
    plain, apart = load(start()), load(applied("heads-apart"))
    reference, model = (each.build_model(VOCABULARY, LENGTH) for each in (plain, apart))
    weights = {}
    for name, value in reference.state_dict().items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in ("query", "key", "value"):
            for head, rows in enumerate(value.split(plain.HEAD_DIM)):
                weights[name.replace(part, f"{part}.{head}")] = rows
        else:
            weights[name] = value
    model.load_state_dict(weights)
    for each in (reference, model):
        torch.nn.init.eye_(each.blocks[0].attention.out.weight)
    idx = torch.randint(VOCABULARY, (1, LENGTH))
    assert torch.allclose(reference(idx), model(idx), atol=1e-5)
    optimizer = apart.Optimizer(model, torch.float32, lambda function: function)
    assert len(optimizer.matrices[torch.Size((apart.HEAD_DIM, 64))]) == 2 * 3 * apart.N_HEAD


def test_looking_ahead_is_the_paper_s_rule(load):
    """x' = A(x + b m), m' = g m + (1 - g)(x' - x); here A takes a step of fixed size."""
    module = load(rewrite_constants(applied("look-ahead"), {"AHEAD": 0.5, "AHEAD_MEMORY": 0.9}))
    model = module.build_model(VOCABULARY, LENGTH)
    optimizer = module.Optimizer(model, torch.float32, lambda function: function)
    optimizer.muon_update = lambda weights, *others: weights - 0.1
    shape, parameters = next(iter(optimizer.matrices.items()))
    x, m = parameters[0].detach().clone(), torch.zeros(shape)
    ahead = x
    for factor in (1.0, 1.0, 0.5, 0.0):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step(factor, 0.9, 0.0)
        after = ahead - 0.1
        m = 0.9 * m + 0.1 * (after - x)
        x, ahead = after, after + 0.5 * factor * m
        assert torch.allclose(parameters[0], ahead, atol=1e-6)
    assert torch.equal(x, ahead)  # at a rate of nothing it is the weights themselves


def test_short_rows_hold_the_same_tokens_and_come_first(load):
    values = {"ROW_PARTS": 4, "SHORT_ROWS_RATIO": 0.5}
    module = load(rewrite_constants(applied("short-rows-first"), values))
    shapes = []
    module.GPT.loss = noting_shapes(module.GPT.loss, shapes)
    trained(module, steps=4)
    rows = 256 // LENGTH
    short, long = (rows * 4, LENGTH // 4), (rows, LENGTH)
    assert shapes == [short, long] * 2 + [short] * 2 + [long] * 2


def noting_shapes(loss, shapes):
    def noting(model, idx, targets):
        assert idx.shape == targets.shape
        shapes.append(tuple(idx.shape))
        return loss(model, idx, targets)

    return noting


def test_the_batch_grows_in_the_last_part(load):
    values = {"BATCH_GROWTH": 3, "LARGE_BATCH_RATIO": 0.25}
    module = load(rewrite_constants(applied("growing-batch"), values))
    session, passes = FixedSession(8), []
    module.open_session = lambda path: session
    module.GPT.loss = noting_shapes(module.GPT.loss, passes)
    tokens, log = [], session.log
    session.log = lambda *args, **named: (tokens.append(named["tokens"]), log(*args, **named))
    module.train()
    assert tokens == [256] * 6 + [3 * 256] * 2 and len(passes) == 2 + 6 + 3 * 2


def test_the_middle_layers_join_later(load):
    module = load(rewrite_constants(applied("growing-depth"), {"SHALLOW_RATIO": 0.5}))
    session = trained(module, steps=8)
    named = [name for name, _ in session.model.named_parameters()]
    moved = {name: [] for name in named}
    for before, after in itertools.pairwise(session.weights):
        for name, old, new in zip(named, before, after, strict=True):
            moved[name].append(not torch.equal(old, new))
    for layer in range(4):
        joins = [True] * 3 if layer in (0, 3) else [False] * 3
        assert moved[f"blocks.{layer}.feed_forward.contract.weight"] == joins + [True] * 4
    assert session.handed_over.shallow is False


def test_rows_of_any_length_give_the_same_update(load):
    module = load(applied("equal-rows"))
    grads = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(1))
    zero, one = torch.tensor(0.0), torch.tensor(1.0)

    def update(grads):
        moments = torch.zeros_like(grads), torch.zeros(1, 1, 16)
        weights = torch.zeros_like(grads)
        return module.muon_update(weights, grads, *moments, one, zero, zero, torch.float32)

    longer = grads * torch.logspace(-2, 2, 8)[:, None]
    assert torch.allclose(update(grads), update(longer), atol=1e-4)


def test_simplifications_are_shorter():
    for idea in ON_CARDS:
        if idea.category == "simplify":
            assert count_code_lines(idea.apply(TEMPLATE)) < count_code_lines(TEMPLATE)


def test_half_the_batch_is_twice_the_steps_with_rates_that_fit():
    source = start("half-batch")
    before, after = constant_values(source), constant_values(IDEAS["half-batch"].apply(source))
    assert 2 * after["TOTAL_BATCH_SIZE"] == before["TOTAL_BATCH_SIZE"]
    assert after["ADAM_BETA2"] ** 2 == pytest.approx(before["ADAM_BETA2"], rel=1e-3)
    rates = [name for name in before if name.endswith("_LR")]
    shares = [after[name] / before[name] for name in rates]
    assert len(rates) >= 4 and shares == pytest.approx([0.5**0.5] * len(rates), rel=1e-3)


@pytest.mark.parametrize("kv_group", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, kv_group, load):
    shape = {"DEPTH": 6, "N_HEAD": 4, "KV_GROUP": kv_group}
    before = rewrite_constants(start(), shape)
    after = IDEAS[name].apply(before)
    values = constant_values(after)

    def count(source: str) -> int:
        blocks = load(source).build_model(VOCABULARY, LENGTH).blocks
        return sum(p.numel() for p in blocks.parameters())

    if name == "deeper-and-wider":
        assert (values["DEPTH"], values["N_HEAD"]) == (7, 4 + kv_group)
    else:
        assert count(after) == pytest.approx(count(before), rel=0.2)
        assert (values["N_HEAD"] > 4, values["DEPTH"] < 6) == ((name == "wider-and-shallower"),) * 2
    end = {"DEPTH": 24, "N_HEAD": 1} if "narrow" in name else {"DEPTH": 1, "N_HEAD": 16}
    with pytest.raises(PatchError):  # at the end of a range
        IDEAS[name].apply(rewrite_constants(start(), end))


def should_apply(name: str, values: dict) -> bool:
    """What the ideas say of themselves, for the ordinary values of a profile."""
    depth, heads, group = values["DEPTH"], values["N_HEAD"], values["KV_GROUP"]
    if name in ("wider-and-shallower", "deeper-and-narrower"):
        heads_then = heads + group if name == "wider-and-shallower" else heads - group
        return heads_then > 0 and max(1, round(depth * (heads / heads_then) ** 2)) != depth
    tables = values["NGRAM_TABLES"]
    told = {
        "short-convolution": values["SHIFT_TAPS"] == 0,
        "mirror-skips": depth >= 4,
        "growing-depth": depth >= 4,
        "token-tables": tables == 0,
        "longer-runs": tables > 0,
        "table-signs": tables > 0,
        "table-values": tables > 0,
    }
    return told.get(name, True)


def test_the_demo_starts_from_a_plain_gpt_within_the_templates_ranges():
    source = rewrite_constants(TEMPLATE, PROFILES["demo"].constants)
    values = constant_values(source)
    assert values["SHIFT_TAPS"] == values["NGRAM_TABLES"] == 0
    assert check_candidate(source) == []
    assert all(
        IDEAS[name].apply(source) != source for name in ("short-convolution", "token-tables")
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_ideas_apply_under_every_profile_or_say_why_not(profile):
    source = rewrite_constants(TEMPLATE, PROFILES[profile].constants, clamp=False)
    for name, idea in IDEAS.items():
        if should_apply(name, constant_values(source)):
            assert parse_constants(idea.apply(source)), name
        else:
            with pytest.raises(PatchError):
                idea.apply(source)


@pytest.mark.parametrize("order", [1, -1])
def test_all_ideas_that_fit_together_apply_and_train(order, load):
    source, left_out = start("mirror-skips", "short-convolution", "half-batch"), []
    for name in list(IDEAS)[::order]:
        try:
            source = IDEAS[name].apply(source)
        except PatchError:
            left_out.append(name)
    source = rewrite_constants(source, {"NGRAM_ROWS": 1024})
    assert len(left_out) <= 3, left_out  # token tables that are on, a shape that comes to the same
    assert check_candidate(source) == []
    losses = trained(load(source), steps=20).losses
    assert losses[-1] < 0.9 * losses[0]


# Pairs of which the first leaves no sense in the second.
EXCLUDE = {(name, "token-tables") for name in ("longer-runs", "table-signs", "table-values")}
EXCLUDE |= {("wider-and-shallower", name) for name in ("mirror-skips", "growing-depth")}


@pytest.mark.slow
@pytest.mark.parametrize("first", IDEAS)
def test_ideas_apply_after_any_other(first, whole_tables):
    """In both orders; where one shuts out the other that is a PatchError and nothing else."""
    for second in others(first, whole_tables):
        try:
            source = applied(first, second)
        except PatchError:
            assert (first, second) in EXCLUDE
            continue
        assert (first, second) not in EXCLUDE
        assert check_candidate(source) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", IDEAS)
def test_any_two_ideas_train_together(first, load, whole_tables):
    torch.manual_seed(1)
    for second in others(first, whole_tables):
        if list(IDEAS).index(first) < list(IDEAS).index(second) and (first, second) not in EXCLUDE:
            losses = trained(load(applied(first, second)), steps=4).losses
            assert all(loss == loss for loss in losses) and losses[-1] < losses[0], (first, second)


def others(first: str, whole: bool) -> list[str]:
    """The ideas that one is paired with: all, or of all others each third and what is excluded.

    The third begins a row of the table later each time.
    """
    names = list(IDEAS)
    row = names.index(first)
    return [
        name
        for column, name in enumerate(names)
        if name != first and (whole or (row + column) % 3 == 0 or (first, name) in EXCLUDE)
    ]


@by_id
def test_an_idea_does_not_apply_twice_or_to_other_code(name):
    with pytest.raises(PatchError):
        IDEAS[name].apply("import torch\n")
    if name in NUMBERS_ONLY - {"short-convolution", "token-tables"}:
        return  # a batch can be halved again
    with pytest.raises(PatchError):
        IDEAS[name].apply(IDEAS[name].apply(start(name)))


def test_what_an_idea_reads_must_be_there():
    """Other hands may have taken a constant away that a patch still reads."""
    source = applied("learnt-sharpness").replace("float(QK_SCALE)", "1.0")
    gone = "\n".join(line for line in source.splitlines() if not line.startswith("QK_SCALE"))
    patch = "@@\n-    step = 0\n+    step = 0 * QK_SCALE\n"
    idea = Idea("i", "t", "h", "architecture", "e", patch=patch)
    assert "0 * QK_SCALE" in idea.apply(source)
    with pytest.raises(PatchError, match="QK_SCALE"):
        idea.apply(gone)
