"""A file of karpathy/autoresearch, recognised and carried over."""

import ast

import pytest
from checkout import TEMPLATE

from harness.__main__ import main
from harness.search.constants import constant_values
from harness.search.gate import FOREIGN_WORDS, UPSTREAM_WORDS, check_candidate
from harness.search.port import is_upstream, port, upstream_constants

THEIRS = """
import os
import torch
from prepare import MAX_SEQ_LEN, TIME_BUDGET
ASPECT_RATIO = 57
TOTAL_BATCH_SIZE = 2**18
EMBEDDING_LR = 0.9
WEIGHT_DECAY = 7.0
ADAM_BETAS = (0.85, 0.95)
DEPTH = 4 * 2
CODE = open("x")
torch.manual_seed(42)
"""


def test_it_is_told_what_it_is_in_one_sentence():
    assert check_candidate(THEIRS, {}) == [UPSTREAM_WORDS]
    assert is_upstream(ast.parse("import prepare"))
    assert check_candidate(TEMPLATE, {}) == []
    renamed = check_candidate(TEMPLATE.replace("def build_model(", "def build(", 1))
    assert "must define build_model" in renamed[0]


def test_its_numbers_are_carried_over_and_what_is_not_is_said():
    found = port(THEIRS, TEMPLATE)
    values = {"TOTAL_BATCH_SIZE": 2**18, "EMBEDDING_LR": 0.9, "DEPTH": 8}
    assert found.carried == values | {"ADAM_BETA1": 0.85, "ADAM_BETA2": 0.95}
    assert {name: constant_values(found.source)[name] for name in found.carried} == found.carried
    left = " ".join(found.left)
    assert "ASPECT_RATIO = 57: the template has no such constant" in left
    assert "WEIGHT_DECAY must lie in" in left
    assert "CODE = open('x'): its value is not written out" in left
    assert check_candidate(found.source, {}) == []


def test_numbers_that_would_take_for_ever_are_left_alone():
    tree = ast.parse("A = 9**9**9\nB = 2**20\nC = 1\nD = 'x' * 10**9")
    found = upstream_constants(tree)
    assert (found["B"], found["C"]) == (2**20, 1)
    assert isinstance(found["A"], ast.expr) and isinstance(found["D"], ast.expr)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("DEPTH: int = 8", None),
        ("DEPTH, HEAD_DIM = 8, 64", None),
        ("if True:\n    DEPTH = 8", None),
        ("class Config:\n    depth: int = 8", None),
        ("HALF = 4\nDEPTH = 2 * HALF", None),
        ("DEPTH = 1 << 3", None),
        ("DEPTH = 16 // 2", None),
        ("DEPTH = int(os.environ.get('DEPTH', 8))", "its value is not written out"),
        ("DEPTH = 8 / 0", "its value is not written out"),
        ("DEPTH = 99", "must lie in"),
    ],
)
def test_a_number_is_found_as_people_write_it_or_said_to_be_left(line, said):
    found = port(f"import prepare\n{line}\n", TEMPLATE)
    if said:
        assert "DEPTH" not in found.carried and said in " ".join(found.left)
    else:
        assert found.carried["DEPTH"] == 8


@pytest.mark.parametrize(
    "kin",
    [
        THEIRS.replace("prepare", "autoresearch.prepare"),
        THEIRS.replace("from prepare", "from .prepare"),
        THEIRS.replace("prepare", "data_tools") + "MATRIX_LR = 0.04\nWARMDOWN_RATIO = 0.5\n",
    ],
)
def test_kin_of_it_are_known_by_what_they_import_or_set(kin):
    assert check_candidate(kin, {}) == [UPSTREAM_WORDS]


def test_a_file_with_nothing_of_the_contract_is_told_so_in_one_sentence():
    assert check_candidate("depth = 20\nmodel = GPT(depth)\nmodel.train()\n") == [FOREIGN_WORDS]


def test_the_command_writes_a_new_file_and_no_other(tmp_path, capsys):
    theirs, out = tmp_path / "train.py", tmp_path / "new.py"
    theirs.write_text(THEIRS)
    assert main(["port", str(theirs), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "carried over: DEPTH = 8" in said and "not carried over: its code" in said
    assert out.read_text() == port(THEIRS, TEMPLATE).source and theirs.read_text() == THEIRS
    assert main(["port", str(theirs), "--out", str(out)]) == 1
    assert "there already" in capsys.readouterr().err
    theirs.write_text("def (")
    assert main(["port", str(theirs), "--out", str(tmp_path / "b.py")]) == 1
