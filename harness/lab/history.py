"""Every experiment as a git commit, made by plumbing: the user's checkout, index and HEAD are never touched.

In: a train.py, a message, a parent, dates that the journal recorded before. Out: a commit under refs/experiments/<tag>/0007, and for a keep
the branch autoresearch/<tag> moved forward by compare-and-swap. Making the same commit again gives the same sha; a ref already
at its target is success. Without git or a repository there is no history, and `head_commit` says so with None.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ZERO = "0" * 40
AUTHOR = ("autoresearch", "autoresearch@localhost")


class HistoryError(RuntimeError):
    """git refused; the message is git's and what to do."""


@dataclass(frozen=True)
class CommitPlan:
    """All that a commit is made of, written to the journal before any git write. parent: sha; date: git's `<unix> +0000`."""

    parent: str
    tree_of: str
    date: str
    message: str


def git(repository: Path, *arguments: str, stdin: bytes | None = None, index: str | None = None, date: str = "") -> str:
    """Run git without the caller's GIT_* variables, hooks or signing; return stdout. Raises HistoryError."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "0", "LC_ALL": "C"}
    if index:
        environment["GIT_INDEX_FILE"] = index
    if date:
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{role}_NAME": AUTHOR[0], f"GIT_{role}_EMAIL": AUTHOR[1], f"GIT_{role}_DATE": date}
    command = ["git", "-C", str(repository), "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", *arguments]
    try:
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise HistoryError(f"git could not run: {error}") from error
    if done.returncode:
        raise HistoryError(f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip()


def head_commit(repository: Path) -> str | None:
    """The commit the checkout stands on; None without git, without a repository of our own, or before its first commit."""
    try:
        top = git(repository, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != repository.resolve():
            return None  # an archive unpacked inside somebody else's repository
        return git(repository, "rev-parse", "--verify", "HEAD^{commit}")
    except HistoryError:
        return None


def why_no_history(repository: Path) -> str:
    """The reason, in words, for a run without git history; empty when there is history."""
    if head_commit(repository):
        return ""
    try:
        git(repository, "rev-parse", "--show-toplevel")
    except HistoryError as error:
        return f"{error}. The night works without history; `git init && git add -A && git commit -m start` before a new tag gives it one"
    return "this folder is not the top of a git repository with a commit: the night works, without history"


def branch_name(tag: str) -> str:
    return f"refs/heads/autoresearch/{tag}"


def experiment_ref(tag: str, experiment: int) -> str:
    return f"refs/experiments/{tag}/{experiment:04d}"


def read_ref(repository: Path, ref: str) -> str | None:
    """The commit a ref points to, None when it does not exist."""
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", ref)
    except HistoryError:
        return None


def make_commit(repository: Path, plan: CommitPlan, train_py: Path) -> str:
    """Write the commit: the tree of plan.tree_of with train.py at its top replaced. Deterministic in its arguments."""
    blob = git(repository, "hash-object", "-w", "--stdin", stdin=train_py.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        index = os.path.join(folder, "index")
        git(repository, "read-tree", plan.tree_of, index=index)
        git(repository, "update-index", "--add", "--cacheinfo", f"100644,{blob},train.py", index=index)
        tree = git(repository, "write-tree", index=index)
    return git(
        repository, "commit-tree", tree, "-p", plan.parent, "-F", "-", stdin=plan.message.encode(), date=plan.date
    )


def set_ref(repository: Path, ref: str, target: str, expected: str | None) -> None:
    """Move a ref from `expected` (None: it must be new) to target. Already there is success; anything else is HistoryError."""
    found = read_ref(repository, ref)
    if found == target:
        return
    if found != expected:
        raise HistoryError(
            f"{ref} is at {found and found[:10]}, expected {expected and expected[:10]}: somebody moved it; start a new tag"
        )
    try:
        git(repository, "update-ref", "--create-reflog", ref, target, expected or ZERO)
    except HistoryError as error:
        if read_ref(repository, ref) != target:
            raise HistoryError(
                f"{error}\nA stale lock file of a killed git under .git/refs may be the reason: delete it when no git runs"
            ) from error


def record_experiment(
    repository: Path, tag: str, experiment: int, plan: CommitPlan, train_py: Path, advance: bool
) -> str:
    """Make the experiment's commit and refs; return its sha. advance: the branch moves too (baseline and keeps)."""
    commit = make_commit(repository, plan, train_py)
    set_ref(repository, experiment_ref(tag, experiment), commit, None)
    if advance:
        expected = None if experiment == 0 else plan.parent
        set_ref(repository, branch_name(tag), commit, expected)
    return commit


def commit_message(experiment: int, title: str, facts: list[str]) -> str:
    """Subject: number and idea. Body: one fact a line."""
    subject = " ".join(title.split()) or "no title"
    return f"{experiment:04d}: {subject[:100]}\n\n" + "\n".join(facts) + "\n"
