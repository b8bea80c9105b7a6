"""Git by plumbing, against a real repository; the oracle is git itself."""

import os
import signal
import subprocess

import pytest
from checkout import git

from harness.ground.errors import HistoryError
from harness.run import git_history
from harness.run.git_history import (
    CommitPlan,
    branch_name,
    experiment_ref,
    head_commit,
    make_commit,
    record_experiment,
    refs_of,
    set_ref,
    why_no_history,
)


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


def test_ids_of_64_digits_are_ids_too(tmp_path, train_py):
    folder = tmp_path / "of sha256"
    folder.mkdir()
    git(folder, "init", "-q", "--object-format=sha256", "-b", "main")
    git(folder, "config", "user.name", "a user")
    git(folder, "config", "user.email", "user@example.org")
    git(folder, "commit", "-qm", "start", "--allow-empty")
    first = record_experiment(folder, "t", 0, plan(folder), train_py, advance=True)
    train_py.write_text("x = 2\n")
    second = record_experiment(folder, "t", 1, plan(folder, first), train_py, advance=True)
    assert len(first) == len(second) == 64 and git(folder, "rev-parse", branch_name("t")) == second


def test_a_partial_clone_needs_no_files_that_it_has_not_fetched(repository, train_py, tmp_path):
    (repository / "large").mkdir()
    (repository / "large" / "file.txt").write_text("not fetched\n")
    git(repository, "add", "large")
    git(repository, "commit", "-qm", "more")
    git(repository, "config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "partial"
    source = f"file://{repository}"
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", source, str(clone))
    git(clone, "sparse-checkout", "set", "--cone")
    git(clone, "checkout", "-q", "main")
    repository.rename(tmp_path / "away")
    commit = record_experiment(clone, "t", 0, plan(clone), train_py, advance=True)
    assert "large/file.txt" in git(clone, "ls-tree", "-r", "--name-only", commit)


@pytest.fixture
def train_py(tmp_path):
    path = tmp_path / "train.py"
    path.write_text("x = 1\n")
    return path


def plan(
    repository, parent: str | None = None, message: str = "0000: baseline\n\nfacts\n"
) -> CommitPlan:
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
    keep = record_experiment(
        repository, "t", 2, plan(repository, baseline, "0002: better\n"), train_py, advance=True
    )
    assert (
        git(repository, "log", "--format=%s", "autoresearch/t")
        == "0002: better\n0000: baseline\nstart"
    )
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
        record_experiment(
            repository, "t", 1, plan(repository, baseline, "0001: x\n"), train_py, advance=True
        )


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


def test_a_downloaded_archive_is_not_told_of_a_git_it_never_had(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    words = why_no_history(tmp_path)
    assert (
        "as a downloaded archive is none" in words
        and "git init" in words
        and ".git back" not in words
    )


def test_a_repository_of_another_user_is_named_with_the_command(repository, monkeypatch):
    refused = f"fatal: detected dubious ownership in repository at '{repository}'"
    failed = subprocess.CompletedProcess([], 128, b"", refused.encode())
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    assert "git config --global --add safe.directory" in why_no_history(repository)


def test_a_repository_that_this_git_cannot_read_or_that_is_broken_is_named(repository, train_py):
    whole = plan(repository)
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    lost = repository / ".git" / "objects" / tree[:2] / tree[2:]
    lost.chmod(0o644)
    lost.write_bytes(b"")
    with pytest.raises(HistoryError, match="git fsck"):
        make_commit(repository, whole, train_py)
    git(repository, "config", "core.repositoryformatversion", "1")
    git(repository, "config", "extensions.unheardOf", "true")
    words = why_no_history(repository)
    assert "update git" in words and "without history" in words and "\n" not in words


def test_refs_beside_which_a_run_could_have_none_are_found(repository):
    assert refs_of(repository, "t") == []
    for ref in ("refs/heads/autoresearch/t/mine", "refs/experiments/t/0007", "refs/heads/other"):
        git(repository, "update-ref", ref, "HEAD")
    assert refs_of(repository, "t") == ["refs/experiments/t/0007", "refs/heads/autoresearch/t/mine"]
    assert refs_of(repository, "u") == []


# --- other gits, dead and alive -------------------------------------------------------------------


def lock_of(repository, ref: str):
    path = repository / ".git" / f"{ref}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("ref", [experiment_ref("t", 0), branch_name("t")])
def test_a_lock_that_a_killed_git_left_on_our_ref_is_removed(repository, train_py, ref):
    lock_of(repository, ref).touch()
    commit = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    assert git(repository, "rev-parse", ref) == commit and not lock_of(repository, ref).exists()


def git_that_waits(repository) -> subprocess.Popen:
    """A git of the user that is at work in the repository until its standard input is closed."""
    return subprocess.Popen(
        ["git", "-C", str(repository), "hash-object", "--stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def test_a_lock_is_not_removed_while_a_git_works_and_the_night_waits_for_it(
    repository, train_py, monkeypatch
):
    lock = lock_of(repository, experiment_ref("t", 0))
    at_work = git_history.gits_at_work
    other = git_that_waits(repository)
    lock.touch()
    seen = []

    def look(folder):
        assert lock.exists()
        seen.append(at_work(folder))
        if len(seen) == 3:
            lock.unlink()  # as its git does in the end
        return seen[-1]

    monkeypatch.setattr(git_history, "gits_at_work", look)
    commit = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    other.communicate()
    assert len(seen) == 3 and all(other.pid in pids for pids in seen)
    assert git(repository, "rev-parse", experiment_ref("t", 0)) == commit


def test_a_lock_that_is_not_ours_is_left_alone_and_named(repository, train_py, monkeypatch):
    # Whose branch it is shares its lock: git takes HEAD's too.
    git(repository, "symbolic-ref", "HEAD", branch_name("t"))
    head = repository / ".git" / "HEAD.lock"
    head.touch()
    monkeypatch.setattr(git_history, "LOCK_SECONDS", 0.0)
    with pytest.raises(
        HistoryError, match=r"if none does, delete .*HEAD\.lock, then run the same command again"
    ):
        set_ref(repository, branch_name("t"), git(repository, "rev-parse", "main"), None)
    assert head.exists()
    head.unlink()
    set_ref(repository, branch_name("t"), git(repository, "rev-parse", "main"), None)


def test_a_lock_on_the_packed_refs_stops_nothing(repository, train_py):
    (repository / ".git" / "packed-refs.lock").touch()
    baseline = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    train_py.write_text("x = 2\n")
    record_experiment(
        repository, "t", 1, plan(repository, baseline, "0001: better\n"), train_py, advance=True
    )
    assert (
        git(repository, "log", "--format=%s", "autoresearch/t")
        == "0001: better\n0000: baseline\nstart"
    )


def test_refs_that_somebody_packed_are_found_and_moved(repository, train_py):
    baseline = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    git(repository, "pack-refs", "--all", "--prune")
    assert (
        record_experiment(repository, "t", 0, plan(repository), train_py, advance=True) == baseline
    )
    train_py.write_text("x = 2\n")
    keep = record_experiment(
        repository, "t", 1, plan(repository, baseline, "0001: better\n"), train_py, advance=True
    )
    assert git(repository, "rev-parse", "autoresearch/t") == keep


def test_a_branch_that_somebody_has_checked_out_goes_on_and_is_said(repository, train_py, tmp_path):
    baseline = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    assert git_history.checked_out(repository, "t") == ""
    git(repository, "worktree", "add", "-q", str(tmp_path / "looking"), "autoresearch/t")
    assert git_history.checked_out(repository, "t") == str(tmp_path / "looking")
    train_py.write_text("x = 2\n")
    keep = record_experiment(
        repository, "t", 1, plan(repository, baseline, "0001: better\n"), train_py, advance=True
    )
    assert git(repository, "rev-parse", "autoresearch/t") == keep
    assert (tmp_path / "looking" / "train.py").read_text() == "x = 1\n"  # not touched
    assert (
        git(tmp_path / "looking", "reset", "--hard", "-q") == ""
        and (tmp_path / "looking" / "train.py").read_text() == "x = 2\n"
    )


def test_a_clean_up_that_takes_what_no_ref_holds_yet_costs_nothing(
    repository, train_py, monkeypatch
):
    move, prunes = git_history.move_ref, []

    def after_a_clean_up(folder, ref, target, expected):
        if len(prunes) < 2:
            prunes.append(git(repository, "prune", "--expire=now", "-v"))
        move(folder, ref, target, expected)

    monkeypatch.setattr(git_history, "move_ref", after_a_clean_up)
    commit = record_experiment(repository, "t", 0, plan(repository), train_py, advance=True)
    assert commit in prunes[0] and commit in prunes[1]
    assert git(repository, "show", f"{experiment_ref('t', 0)}:train.py") == "x = 1"


def test_clean_ups_that_go_on_all_the_time_lose_no_experiment(repository, train_py):
    """A git that gathers objects and refs all the while loses nothing.

    It works in the same repository, as `gc` does; what is younger than two weeks stays, as in gc.
    """
    command = "while true; do git gc -q; git pack-refs --all; done"
    other = subprocess.Popen(
        ["sh", "-c", command], cwd=repository, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        parent, commits = None, []
        for number in range(12):
            train_py.write_text(f"x = {number}\n")
            made = plan(repository, parent, f"{number:04d}: idea\n")
            commits.append(record_experiment(repository, "t", number, made, train_py, advance=True))
            parent = commits[-1]
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
    assert git(repository, "rev-list", "--reverse", "autoresearch/t").split()[1:] == commits
    assert git(repository, "fsck", "--no-dangling") == ""


@pytest.mark.parametrize(
    "said, to_do",
    [
        ("error: unable to write file .git/objects/ab: No space left on device", "make room"),
        (
            "error: insufficient permission for adding an object to repository database",
            "the right to write",
        ),
        ("fatal: not a git repository (or any of the parent directories): .git", "put .git back"),
    ],
)
def test_what_git_refuses_says_what_to_do(tmp_path, monkeypatch, said, to_do):
    (tmp_path / "git").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 128\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(HistoryError, match=to_do):
        git_history.read_ref(tmp_path, "refs/heads/x")
