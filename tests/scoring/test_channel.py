"""What is taken from a model server that ended.

All that it says before it has seen private text, hardly anything after.
"""

from harness.scoring.channel import plain_cause

TRACEBACK = """Traceback (most recent call last):
  File "/x/harness/scoring/server.py", line 117, in serve
  File "/x/train.py", line 3, in forward
    raise {raised}
{named}: the text was 17 4 291
"""


def cause(tmp_path, named: str, raised: str = "it") -> str:
    train_py = tmp_path / "train.py"
    train_py.write_text("1\n2\n3\n4\n")
    return plain_cause(TRACEBACK.format(raised=raised, named=named), train_py)


def test_the_type_of_an_exception_and_its_line_are_kept_and_its_message_is_not(tmp_path):
    for named in ("ValueError", "torch.OutOfMemoryError", "KeyboardInterrupt"):
        words = cause(tmp_path, named)
        assert (
            words.startswith(f"{named.rpartition('.')[2]} in line 3 of train.py")
            and "291" not in words
        )


def test_the_name_of_an_exception_of_its_own_could_hold_text(tmp_path):
    words = cause(tmp_path, "candidate.tokens_17_4_291")
    assert words.startswith("an exception of its own in line 3 of train.py") and "291" not in words


def test_a_line_that_train_py_does_not_have_is_a_message_too(tmp_path):
    said = 'File "/x/train.py", line 291, in forward\nValueError'
    (tmp_path / "train.py").write_text("1\n")
    assert plain_cause(said, tmp_path / "train.py").startswith("ValueError, while")


def test_what_breaks_the_contract_is_told_that(tmp_path):
    assert "the contract of train.py says" in cause(tmp_path, "__main__.ContractError")
