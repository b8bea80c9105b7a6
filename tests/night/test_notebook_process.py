import errno
import json
import os
import subprocess
import sys

import pytest

import harness
from harness.ground.errors import LoopError, kinds_of
from harness.night import notebook_process
from harness.night.notebook_process import run_papermill


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n",
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "[]",
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
        None,
    ],
    ids=["empty", "a merge's markers", "a pointer of Git LFS", "a list", "no cells", "not there"],
)
def test_a_file_that_is_no_notebook_ends_the_night_with_the_remedy(tmp_path, text):
    path = tmp_path / "03_agent_loop.ipynb"
    if text is not None:
        path.write_text(text)
    name, message = run_papermill(str(path), str(tmp_path / "out.ipynb"), {})
    assert kinds_of()[name].final
    assert "git checkout -- notebooks/03_agent_loop.ipynb" in message


def test_an_error_that_nobody_foresaw_is_told_by_its_name(tmp_path):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    path = tmp_path / "in.ipynb"
    path.write_text(json.dumps(notebook))
    name, message = run_papermill(str(path), str(tmp_path / "in.ipynb" / "out.ipynb"), {})
    assert name not in kinds_of(LoopError)
    assert message


def test_a_folder_of_temporary_files_with_too_long_a_name_is_named(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    script = (
        "from pathlib import Path; from harness.night.notebook_process import *;"
        "NotebookProcess(make_context(), Path('a.ipynb'), Path('out/a.ipynb'), {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(harness.REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        pytest.skip("this Python takes a shorter folder by itself")
    assert "LoopError" in done.stderr and "set TMPDIR to a shorter one" in done.stderr


def test_where_no_socket_can_be_opened_it_is_said_at_once_and_not_by_the_kernel(monkeypatch):
    """As in the sandbox of some coding agents."""

    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(notebook_process.socket, "socket", refused)
    with pytest.raises(LoopError, match="no socket can be opened .* outside of the sandbox"):
        notebook_process.make_context()


def test_a_user_without_a_home_is_told_to_set_one(monkeypatch):
    """As under a number that no file of users knows, in some containers."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(LoopError, match="no home folder: set HOME"):
        notebook_process.make_context()
