"""Where things lie on this machine is told to no language model."""

import pytest

from harness.lab.proposal_request import without_paths


@pytest.mark.parametrize(
    "said, told",
    [
        ('File "/home/me/lab/train.py", line 3', 'File "train.py", line 3'),
        (
            "/opt/x/lib/python3.11/site-packages/torch/nn/functional.py:2",
            "torch/nn/functional.py:2",
        ),
        ("no kernel at '/tmp/a/b.cu'", "no kernel at 'b.cu'"),
        (
            "see https://pytorch.org/docs/stable/x.html",
            "see https://pytorch.org/docs/stable/x.html",
        ),
        ("at file:///home/me/lab/train.py", "at file://train.py"),
        ("PATH=/usr/bin:/home/me/bin/python", "PATH=bin:python"),
        ("shape 3/4/5 is not 1/2, nor a/b/c", "shape 3/4/5 is not 1/2, nor a/b/c"),
        ("", ""),
    ],
)
def test_of_a_path_the_files_name_is_left(said, told):
    assert without_paths(said) == told
