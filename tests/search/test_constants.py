"""The constants block: parse, rewrite, refuse."""

import re

import pytest
from checkout import ROOT

from harness.ground.errors import ConstantsError
from harness.search.constants import (
    constant_values,
    keep_annotations,
    parse_constants,
    rewrite_constants,
)

TEMPLATE = ROOT / "train_template.py"
SOURCE = '''"""A train.py."""
OUTSIDE = 3
# === constants ===
# the model
DEPTH = 8   # layers, 1..32 int: transformer blocks

TOTAL   =  2**18 # tokens, 2**10..2**20 pow2: tokens per step
PLAIN = 4096 # tokens, 1024..65536 pow2: another power
LR = 0.6  # per step, 0.01..2.0 log: embeddings, mostly: yes
SHIFT = -1.5  # logits, -3.0..3.0 linear: é in a comment
STEPS = 300  # steps, 50..1000 log: whole, since value and bounds are
PATTERN = "SSL"  # pattern, {"L", "SSL", 'S # L'}: windows
TIED = False  # flag, {True, False}: share both tables
BETAS = (0.8, 0.95)  # factors, fixed: of AdamW
# === end of constants ===
LR_OUTSIDE = 0.6  # per step, 0.01..2.0 log: not in the block
'''


def executed(source: str) -> dict:
    """Oracle: Python itself runs the file."""
    namespace: dict = {}
    exec(compile(source, "train.py", "exec"), namespace)
    return {name: value for name, value in namespace.items() if name.isupper()}


def test_values_are_those_python_sees():
    values = constant_values(SOURCE)
    seen = executed(SOURCE)
    names = "DEPTH TOTAL PLAIN LR SHIFT STEPS PATTERN TIED BETAS"
    assert " ".join(values) == names
    assert values == {name: seen[name] for name in values}


def test_annotations_are_read():
    constants = parse_constants(SOURCE)
    total = constants["TOTAL"]
    assert (total.scale, total.low, total.high) == ("pow2", 1024, 2**20)
    assert constants["PATTERN"].choices == ("L", "SSL", "S # L")
    assert constants["LR"].meaning == "embeddings, mostly: yes"
    assert constants["STEPS"].is_int and not constants["LR"].is_int
    assert not constants["BETAS"].searched
    assert SOURCE.splitlines()[constants["LR"].line - 1].startswith("LR = ")


def test_rewrite_changes_only_the_literals():
    values = {"DEPTH": 12.0, "TOTAL": 2**17, "PLAIN": 8192, "LR": 0.123456, "SHIFT": 2}
    values |= {"PATTERN": "S # L", "TIED": True}
    after = rewrite_constants(SOURCE, values)
    seen = executed(after)
    assert {name: seen[name] for name in values} == values | {"LR": 0.1235}
    assert type(seen["DEPTH"]) is int and type(seen["SHIFT"]) is float
    both = zip(SOURCE.splitlines(), after.splitlines(), strict=True)
    changed = [(before, now) for before, now in both if before != now]
    assert len(changed) == len(values)
    for before, now in changed:
        assert before.rpartition(": ")[2] == now.rpartition(": ")[2]
    for text in ("TOTAL   =  2**17 # tokens", 'PATTERN = "S # L"  # pattern', "PLAIN = 8192 #"):
        assert text in after


def test_rewriting_to_the_same_values_gives_the_same_text():
    assert rewrite_constants(SOURCE, constant_values(SOURCE)) == SOURCE
    template = TEMPLATE.read_text(encoding="utf-8")
    assert rewrite_constants(template, constant_values(template)) == template


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"DEPHT": 3}, "DEPTH"),
        ({"DEPTH": 1.5}, "whole number"),
        ({"DEPTH": True}, "finite number"),
        ({"DEPTH": "8"}, "finite number"),
        ({"DEPTH": 33}, "1..32"),
        ({"TOTAL": 3000}, "power of two"),
        ({"LR": float("nan")}, "finite"),
        ({"STEPS": 99.5}, "whole number"),
        ({"PATTERN": "SS"}, "one of"),
        ({"TIED": 1}, "one of"),
        ({"BETAS": (0.9, 0.9)}, "fixed"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(values, words):
    with pytest.raises(ConstantsError, match=words):
        rewrite_constants(SOURCE, {"LR": 0.5, **values})


def test_a_profile_may_leave_the_range_but_not_the_type():
    values = {"DEPTH": 64, "BETAS": (0.9, 0.99), "PATTERN": "SSSSS"}
    after = rewrite_constants(SOURCE, values, clamp=False)
    seen = executed(after)
    assert {name: seen[name] for name in values} == values
    assert parse_constants(after)["DEPTH"].value == 64  # and can be read again
    for values in ({"DEPTH": 64.5}, {"TOTAL": 3000}, {"BETAS": 3}):
        with pytest.raises(ConstantsError):
            rewrite_constants(SOURCE, values, clamp=False)


def test_rounding_stays_within_the_range():
    source = SOURCE.replace("0.01..2.0", "0.012354..2.0")
    for given, written in ((0.0123671, 0.01237), (0.012354, 0.012354)):  # not 0.01235
        assert constant_values(rewrite_constants(source, {"LR": given}))["LR"] == written


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("DEPTH = 8", "holds only lines such as"),
        ("DEPTH = 8  # layers", "must read"),
        ("DEPTH = 8  # layers, 1..32 integer: blocks", "must read"),
        ("DEPTH = 4 + 4  # layers, 1..32 int: blocks", "not a Python literal"),
        ("DEPTH = (8  # layers, 1..32 int: blocks", "complete on one line"),
        ("depth = 8  # layers, 1..32 int: blocks", "holds only lines such as"),
        ("import os  # layers, 1..32 int: blocks", "holds only lines such as"),
        ("DEPTH = 8  # layers, 32..1 int: blocks", "empty"),
        ("DEPTH = 8  # layers, 0..32 log: blocks", "scale"),
        ("DEPTH = 8.5  # layers, 1..32 int: blocks", "whole number"),
        ("DEPTH = 8  # layers, 6..32 pow2: blocks", "power of two"),
        ("DEPTH = 8  # layers, {}: blocks", "empty"),
        ("LR = 0.5  # per step, 0.1..1.0 log: twice", "LR is set twice"),
    ],
)
def test_lines_of_another_form_are_named(line, words):
    source = SOURCE.replace("DEPTH = 8   # layers, 1..32 int: transformer blocks", line)
    with pytest.raises(ConstantsError, match=words) as caught:
        parse_constants(source)
    number = next(i for i, text in enumerate(source.splitlines(), 1) if text == line)
    assert f"line {number}" in str(caught.value) or "twice" in words


@pytest.mark.parametrize("marker", ["# === constants ===", "# === end of constants ==="])
def test_both_markers_are_needed_once(marker):
    for source in (SOURCE.replace(marker, "#"), SOURCE + marker + "\n"):
        with pytest.raises(ConstantsError, match="exactly one line"):
            parse_constants(source)


def test_the_template_has_a_block_with_ranges_around_its_values():
    source = TEMPLATE.read_text(encoding="utf-8")
    constants = parse_constants(source)
    assert len(constants) >= 20
    for constant in constants.values():
        if constant.scale == "choice":
            assert constant.value in constant.choices
        elif constant.searched:
            assert constant.low <= constant.value <= constant.high, constant.name


def test_annotations_that_an_edit_lost_are_put_back():
    source = TEMPLATE.read_text(encoding="utf-8")
    lost = re.sub(r"^([A-Z_0-9]+ = [^#\n]*?) *#.*$", r"\1", source, flags=re.MULTILINE)
    assert lost != source and keep_annotations(lost, source) == source
    assert keep_annotations(source, source) == source
    assert "DEPTH = 4 " in keep_annotations(lost.replace("DEPTH = 1\n", "DEPTH = 4\n"), source)
    noted = lost.replace("DEPTH = 1\n", "DEPTH=4  # deeper, as asked\n")
    annotation = re.search("^DEPTH = 1( .*)", source, re.MULTILINE)[1]
    assert f"DEPTH=4{annotation}\n" in keep_annotations(noted, source)
    wider = source.replace("1..24", "1..99")
    assert keep_annotations(wider, source) == wider != source  # for the gate to refuse
    assert keep_annotations("no block\n", source) == "no block\n"
    assert keep_annotations(lost, "no block\n") == lost
