"""A file of karpathy/autoresearch, recognised and carried over."""

import ast

from checkout import TEMPLATE

from harness.__main__ import main
from harness.search.constants import constant_values
from harness.search.gate import UPSTREAM_WORDS, check_candidate
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
    assert is_upstream(ast.parse("import prepare")) and not is_upstream(ast.parse(TEMPLATE))


def test_its_numbers_are_carried_over_and_what_is_not_is_said():
    found = port(THEIRS, TEMPLATE)
    values = {"TOTAL_BATCH_SIZE": 2**18, "EMBEDDING_LR": 0.9, "DEPTH": 8}
    assert found.carried == values | {"ADAM_BETA1": 0.85, "ADAM_BETA2": 0.95}
    assert {name: constant_values(found.source)[name] for name in found.carried} == found.carried
    left = " ".join(found.left)
    assert "ASPECT_RATIO = 57: the template has no such constant" in left
    assert "WEIGHT_DECAY must lie in" in left
    assert "CODE" not in upstream_constants(ast.parse(THEIRS))
    assert check_candidate(found.source, {}) == []


def test_numbers_that_would_take_for_ever_are_left_alone():
    tree = ast.parse("A = 9**9**9\nB = 2**20\nC = 1\nD = 'x' * 10**9")
    assert upstream_constants(tree) == {"B": 2**20, "C": 1}


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
