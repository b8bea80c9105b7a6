"""Git by plumbing, against a real repository; the oracle is git itself."""

import subprocess

import pytest

from harness.lab.history import (
    CommitPlan,
    HistoryError,
    branch_name,
    experiment_ref,
    head_commit,
    record_experiment,
    set_ref,
    why_no_history,
)


def git(folder, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "a user")
    git(folder, "config", "user.email", "user@example.org")
    (folder / "README.md").write_text("hello\n")
    git(folder, "add", "README.md")
    git(folder, "commit", "-qm", "start")
    (folder / "README.md").write_text("edited, not committed\n")
    (folder / "staged.txt").write_text("staged\n")
    git(folder, "add", "staged.txt")
    return folder


@pytest.fixture
def train_py(tmp_path):
    path = tmp_path / "train.py"
    path.write_text("x = 1\n")
    return path


def plan(repository, parent: str | None = None, message: str = "0000: baseline\n\nfacts\n") -> CommitPlan:
    base = head_commit(repository)
    return CommitPlan(parent=parent or base, tree_of=base, date="1700000000 +0000", message=message)


def test_the_users_checkout_index_and_head_are_not_touched(repository, train_py):
    before = (
        git(repository, "status", "--porcelain"),
        git(repository, "rev-parse", "HEAD"),
        git(repository, "diff", "--cached"),
    )
    record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    assert (
        git(repository, "status", "--porcelain"),
        git(repository, "rev-parse", "HEAD"),
        git(repository, "diff", "--cached"),
    ) == before


def test_keeps_advance_the_branch_and_discards_stay_reachable(repository, train_py):
    baseline = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    train_py.write_text("x = 2\n")
    discard = record_experiment(
        repository, "t", 1, plan(repository, baseline, "0001: worse\n"), train_py, advance=False
    )
    train_py.write_text("x = 3\n")
    keep = record_experiment(repository, "t", 2, plan(repository, baseline, "0002: better\n"), train_py, advance=True)
    assert git(repository, "log", "--format=%s", "autoresearch/t") == "0002: better\n0000: baseline\nstart"
    assert git(repository, "show", f"{experiment_ref('t', 1)}:train.py") == "x = 2"
    assert git(repository, "rev-parse", experiment_ref("t", 1)) == discard
    assert git(repository, "ls-tree", "--name-only", keep).split() == ["README.md", "train.py"]
    assert git(repository, "show", f"{keep}:README.md") == "hello"


def test_making_a_commit_again_gives_the_same_one_and_is_success(repository, train_py):
    first = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    assert record_experiment(repository, "t", 0, plan(repository), train_py, advance=True) == first
    assert git(repository, "rev-list", "--count", "autoresearch/t") == "2"


def test_a_branch_that_somebody_moved_is_not_overwritten(repository, train_py):
    baseline = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    git(repository, "update-ref", branch_name("t"), head_commit(repository))
    train_py.write_text("x = 2\n")
    with pytest.raises(HistoryError, match="somebody moved it"):
        record_experiment(repository, "t", 1, plan(repository, baseline, "0001: x\n"), train_py, advance=True)


def test_a_ref_that_must_be_new_is_not_taken_over(repository, train_py):
    head = head_commit(repository)
    other = record_experiment(repository, "t", 0, plan(repository), train_py, advance=False)
    set_ref(repository, "refs/experiments/t/0009", head, None)
    with pytest.raises(HistoryError):
        set_ref(repository, "refs/experiments/t/0009", other, None)


def test_a_hook_of_the_user_does_not_run(repository, train_py):
    hook = repository / ".git" / "hooks" / "reference-transaction"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    assert record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)


def test_no_repository_is_no_history_and_says_so(tmp_path, repository):
    assert head_commit(tmp_path / "nowhere") is None
    inside = repository / "inside"
    inside.mkdir()
    assert head_commit(inside) is None  # an archive unpacked in somebody else's repository
    assert "without history" in why_no_history(inside)
    assert why_no_history(repository) == ""
