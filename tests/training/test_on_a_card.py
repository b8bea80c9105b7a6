"""The template on cards that are not there: `scripts/rehearsal` says how, and what that shows.

Tensors have shapes, layouts, dtypes and devices as on a card, and no numbers.
"""

import pytest
from checkout import TEMPLATE
from rehearsal.fake_card import ask_child, build_guard, why_impossible

from harness.run.profiles import PROFILES
from harness.search.bank.order import ON_CARDS
from harness.search.constants import constant_values, rewrite_constants
from harness.search.limits import Limits, estimate_memory_mb

# Two layers, one that sees a window and one that sees all; steps of Muon are like one another.
SMALL = {"DEPTH": 2, "MUON_STEPS": 1}
STEPS, PASSES = 1, 2
CARD_OF = {"large": "sm_90", "medium": "sm_80", "small": "sm_75"}
KERNELS = {"large": "cudnn", "medium": "flash", "small": "efficient"}
# What the loader and the weights' way to the disk do in main memory.
IN_MEMORY = {"lift_fresh", "_to_copy", "copy_", "device"}
# What an idea asks of the template before it.
NEEDS = dict.fromkeys(("longer-runs", "table-signs", "table-values"), {"NGRAM_TABLES": 1})
each_profile = pytest.mark.parametrize("profile", CARD_OF)


def start(profile: str, **constants: object) -> str:
    """The template as the profile begins, of a few layers."""
    own = PROFILES[profile].constants
    batch = PASSES * own["DEVICE_BATCH_SIZE"] * PROFILES[profile].max_seq_len
    values = own | SMALL | {"TOTAL_BATCH_SIZE": batch} | constants
    return rewrite_constants(TEMPLATE, values, clamp=False)


def job(profile: str, source: str, **more: object) -> dict:
    return {"source": source, "profile": profile, "card": CARD_OF[profile], "steps": STEPS} | more


@pytest.fixture(scope="module")
def guard(pytestconfig):
    if why := why_impossible():
        pytest.skip(why)
    return build_guard(pytestconfig.cache.mkdir("rehearsal"))


# {what is in the template: what would be slow or wrong on a card}
FAULTS = {
    "device=idx.device)": "device='cpu')",
    "attend(q.transpose(1, 2),": "attend(q.transpose(1, 2).contiguous(),",
}


@pytest.fixture(scope="module")
def rehearsed(guard) -> dict[str, dict]:
    """What was seen of each profile's template, and of a faulty one, in one process."""
    jobs = {profile: job(profile, start(profile)) for profile in CARD_OF}
    source = start("small", NGRAM_TABLES=1)
    for right, wrong in FAULTS.items():
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    jobs["faulty"] = job("small", source)
    return dict(zip(jobs, ask_child("rehearsal.training", list(jobs.values()), guard), strict=True))


@each_profile
def test_all_of_train_runs_on_the_card_of_its_profile(profile, rehearsed):
    facts = rehearsed[profile]
    assert facts["failed"] == ""
    events = {event["event"]: event for event in facts["events"]}
    named = [event["event"] for event in facts["events"]]
    assert named == ["open", "batch", "ready", *["step"] * STEPS, "stop", "finish"]
    dtype = "float32" if profile == "small" else "bfloat16"
    assert (events["open"]["kind"], events["open"]["dtype"]) == ("cuda", dtype)
    values = constant_values(start(profile))
    assert events["batch"]["device_batch_size"] == values["DEVICE_BATCH_SIZE"]
    assert events["finish"]["total_tokens"] == STEPS * values["TOTAL_BATCH_SIZE"]
    assert {what[0] for what in facts["strangers"]} <= IN_MEMORY, facts["strangers"]


@each_profile
def test_matrices_are_multiplied_in_the_cards_dtype_and_kept_in_float32(profile, rehearsed):
    dtype = "torch.float32" if profile == "small" else "torch.bfloat16"
    facts = rehearsed[profile]
    assert {name for name, *_ in facts["products"]} == {"mm", "bmm"}  # layers, and Muon's
    assert {each for _, *dtypes, _ in facts["products"] for each in dtypes} == {dtype}
    assert facts["weights"] == ["torch.float32"]


@each_profile
def test_attention_gets_heads_as_the_matrices_left_them_and_by_the_fused_kernel(profile, rehearsed):
    """(B, T, H, D) in memory, so that nothing is copied on the way there; once a layer and pass."""
    values, T = constant_values(start(profile)), PROFILES[profile].max_seq_len
    B, H, D = values["DEVICE_BATCH_SIZE"], values["N_HEAD"], values["HEAD_DIM"]
    seen = {name: rest for name, *rest in rehearsed[profile]["attention"]}
    rows, packed = [[B, H, T, D], [T * H * D, D, H * D, 1]], [[B * T, H, D], [H * D, D, 1]]
    kernel = f"_scaled_dot_product_{KERNELS[profile]}_attention"
    passes = 2 + STEPS * PASSES  # two of the warm-up
    dtype = "torch.float32" if profile == "small" else "torch.bfloat16"
    if profile == "small":  # no window there but in blocks, which are copied
        found = [rest for name, *rest in rehearsed[profile]["attention"] if name == kernel]
        assert [dtype, *rows, passes] in found and len(found) == 2
        return
    for name, layout in {kernel: rows, "_varlen_attn": packed}.items():
        assert seen[name] == seen[f"{name}_backward"] == [dtype, *layout, passes]
    assert len(seen) == 4


def test_the_rehearsal_shows_what_is_wrong(rehearsed):
    assert "add" in {what[0] for what in rehearsed["faulty"]["strangers"]} - IN_MEMORY
    layouts = [
        {tuple(stride) for _, _, shape, stride, _ in rehearsed[name]["attention"] if shape[1] == 4}
        for name in ("small", "faulty")
    ]
    assert len(layouts[1] - layouts[0]) == 1


# --- Compiled -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
@each_profile
def test_ideas_compile_whole_and_before_the_clock(profile, guard, whole_tables):
    """A third of the ideas, each on one of the cards, or all on all: it applies, runs, and is one
    graph."""
    place = list(CARD_OF).index(profile)
    jobs = {"the template": job(profile, start(profile), backend="aot")}
    for number, idea in enumerate(ON_CARDS):
        if whole_tables or number % (3 * len(CARD_OF)) == place:
            layers = start(profile, DEPTH=5, **NEEDS.get(idea.id, {}))
            jobs[idea.id] = job(profile, idea.apply(layers), backend="aot", steps=6)
    answers = ask_child("rehearsal.training", list(jobs.values()), guard)
    for name, facts in zip(jobs, answers, strict=True):
        assert (facts["failed"], facts["breaks"], facts["late"]) == ("", {}, 0), name
        assert facts["graphs"] >= 3, name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_estimated_as_what_compiled_passes_keep(guard):
    """All that a forward pass keeps for the backward one is most of what grows with the rows."""
    sizes = {"DEPTH": 3, "DEVICE_BATCH_SIZE": 4}
    sources = {
        profile: start(profile, **sizes, TOTAL_BATCH_SIZE=4 * PROFILES[profile].max_seq_len)
        for profile in ("large", "medium")
    }
    jobs = [job(profile, source, backend="memory") for profile, source in sources.items()]
    answers = ask_child("rehearsal.training", jobs, guard)
    for (profile, source), facts in zip(sources.items(), answers, strict=True):
        assert facts["failed"] == ""
        made = PROFILES[profile]
        limits = Limits(made.max_seq_len, made.vocab_size + 1, device_kind="cuda")
        few, more = (estimate_memory_mb(constant_values(source), limits, rows) for rows in (4, 8))
        share = facts["saved_bytes"] / 2**20 / (more - few)
        # Of so few layers much of the estimate is logits and their gradients, which only pass by.
        assert 0.4 < share < 1.0, (profile, share)
