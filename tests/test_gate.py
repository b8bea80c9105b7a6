"""The gate: what may be trained."""

import re
from pathlib import Path

import pytest

from harness.search.gate import check_candidate, source_hash

TEMPLATE = (Path(__file__).parent.parent / "train_template.py").read_text(encoding="utf-8")
SOURCE = '''"""A train.py."""
import math
from harness.training.session import open_session
# === constants ===
DEPTH = 8  # layers, 1..32 int: blocks
# === end of constants ===

def build_model(vocab_size, max_seq_len):
    """Make it."""
    return math.pi

if __name__ == "__main__":
    open_session(__file__)
'''


def test_the_template_passes():
    assert check_candidate(TEMPLATE) == []
    assert check_candidate(SOURCE) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def build_model", "def build_modle", "must define build_model"),
        ("def build_model", "def build_model(a, b): pass\ndef build_model", "once"),
        ("(vocab_size, max_seq_len)", "(vocab_size)", "must take"),
        ("return math.pi", "return math.pi(", "not valid Python at line"),
        ("8  # layers, 1..32 int: blocks", "8", "constants block"),
        ('if __name__ == "__main__":', "if True:", "__main__"),
        ("import math", "import math, os", "imports os"),
        ("import math", "from subprocess import run", "imports subprocess"),
        ("import math", "from . import data", r"imports \."),
        ("import math", "from harness import scoring", "imports harness.scoring"),
        ("from harness.training.session", "from harness.scoring.scorer", "imports harness.scoring.scorer"),
        ("from harness.training.session", "from harness.training_set", "imports harness.training_set"),
        ("    return math.pi", "    import socket\n    return math.pi", "imports socket"),
        ("def build_model", "DEPTH = 9\ndef build_model", "sets DEPTH again"),
        ("def build_model", "DEPTH += 1\ndef build_model", "sets DEPTH again"),
        ("    return math.pi", "    global DEPTH\n    DEPTH = 2\n    return math.pi", "sets DEPTH again"),
    ],
)
def test_reasons(old, new, words):
    assert SOURCE.count(old) >= 1
    reasons = check_candidate(SOURCE.replace(old, new, 1))
    assert len(reasons) == 1
    assert re.search(words, reasons[0]), reasons


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("# layers, 1..32 int: blocks", "# layers, 1..16 int: other words"),
        SOURCE.replace('    """Make it."""\n', ""),
        SOURCE.replace('"""A train.py."""', '"""Another."""\n\n\n'),
        SOURCE.replace("(vocab_size, max_seq_len):", "(\n    vocab_size,\n    max_seq_len,\n):"),
    ],
)
def test_layout_is_no_new_idea(other):
    assert source_hash(other) == source_hash(SOURCE)
    assert "tried before" in check_candidate(other, {source_hash(SOURCE)})[0]


@pytest.mark.parametrize("other", [SOURCE.replace("= 8", "= 9"), SOURCE.replace("math.pi", "math.e")])
def test_a_changed_number_or_name_is_new(other):
    assert check_candidate(other, {source_hash(SOURCE)}) == []


def test_a_local_of_the_same_name_is_allowed():
    assert check_candidate(SOURCE.replace("    return math.pi", "    DEPTH = 2\n    return DEPTH")) == []
