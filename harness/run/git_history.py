"""Every experiment as a git commit, made by plumbing: the user's checkout, index and HEAD are never
touched.

In: a train.py, a message, a parent, dates that the journal recorded before. Out: a commit under
refs/experiments/<tag>/0007, and for a keep the branch autoresearch/<tag> moved forward by
compare-and-swap. Making the same commit again gives the same sha; a ref already at its target is
success. Without git or a repository there is no history, and `head_commit` says so with None.

Whatever another git does meanwhile is waited for (a lock) or repeated (a clean-up that took what no
ref held yet). A lock that a killed git left on one of our own refs is removed once no git works on
the repository; anybody else's is named. What else git refuses is a HistoryError that says what to
do.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.ground.errors import HistoryError
from harness.ground.text import one_line

AUTHOR = ("autoresearch", "autoresearch@localhost")
LOCK_SECONDS = 30.0  # for somebody else's git to let go of a lock
LOOK_SECONDS = 0.05
LOCKED = re.compile(r"Unable to create '(?P<lock>[^']+\.lock)': File exists")
IS_GIT = re.compile(r"git(\.exe|-.*)?$", re.IGNORECASE)
TRIES = 3  # of a commit whose objects were cleaned up before a ref held them
# No hooks, no signing; what a commit is made of survives a power cut as the journal does.
OPTIONS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "commit.gpgSign=false"),
    *("-c", "core.fsync=committed,loose-object,reference"),
)
# What git's message has, and what a person can do about it.
WHAT_TO_DO = (
    ("No space left on device", "make room"),
    ("Disk quota exceeded", "make room"),
    ("unable to write new index file", "make room in the folder of temporary files ($TMPDIR)"),
    ("Read-only file system", "make the repository writable again"),
    ("insufficient permission", "give this user the right to write in .git"),
    ("Permission denied", "give this user the right to write in .git"),
    (
        "dubious ownership",
        "git does not trust a folder of another user: allow it with"
        " `git config --global --add safe.directory FOLDER`",
    ),
    ("unknown repository extension", "update git: a newer one made this repository"),
    ("is corrupt", "mend the repository (`git fsck` names what is broken)"),
    ("not a git repository", "the run began with a git history here: put .git back"),
)
THEN = ", then run the same command again"


@dataclass(frozen=True)
class CommitPlan:
    """All that a commit is made of, written to the journal before any git write. parent: sha; date:
    git's `<unix> +0000`.
    """

    parent: str
    tree_of: str
    date: str
    message: str


def git(
    repository: Path,
    *arguments: str,
    stdin: bytes | None = None,
    index: str | None = None,
    date: str = "",
) -> str:
    """Run git without the caller's GIT_* variables, hooks or signing; return stdout. Raises
    HistoryError.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "0", "LC_ALL": "C"}
    if index:
        environment["GIT_INDEX_FILE"] = index
    if date:
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {
                f"GIT_{role}_NAME": AUTHOR[0],
                f"GIT_{role}_EMAIL": AUTHOR[1],
                f"GIT_{role}_DATE": date,
            }
    command = ["git", "-C", str(repository), *OPTIONS, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, check=False, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise HistoryError(f"git could not run: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        to_do = next(
            (f". What to do: {words}{THEN}" for sign, words in WHAT_TO_DO if sign in said), ""
        )
        raise HistoryError(
            f"git {arguments[0]} failed: {said}{to_do}", done.returncode, final=bool(to_do)
        )
    return done.stdout.decode(errors="replace").strip()


def head_commit(repository: Path) -> str | None:
    """The commit the checkout stands on; None without git, without a repository of our own, or
    before its first commit.
    """
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
    begin = "`git init && git add -A && git commit -m start` before a new tag gives it one"
    try:
        if Path(git(repository, "rev-parse", "--show-toplevel")).resolve() == repository.resolve():
            git(repository, "rev-parse", "--verify", "HEAD^{commit}")
    except HistoryError as error:
        said = str(error)
        if "single revision" in said and "error:" not in said:
            return f"this repository has no commit yet. The night works without history; {begin}"
        if "not a git repository" not in str(error):
            return f"{one_line(error)}. The night works without history"
        return (
            "this folder is no git repository, as a downloaded archive is none. The night works"
            f" without history; {begin}"
        )
    return (
        "this folder is not the top of a git repository with a commit. The night works without"
        f" history; {begin}"
    )


def branch_name(tag: str) -> str:
    return f"refs/heads/autoresearch/{tag}"


def experiment_ref(tag: str, experiment: int) -> str:
    return f"refs/experiments/{tag}/{experiment:04d}"


def read_ref(repository: Path, ref: str) -> str | None:
    """The commit a ref points to, None when it does not exist. Raises HistoryError where git cannot
    tell.
    """
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", ref)
    except HistoryError as error:
        if error.status == 1:
            return None
        raise


def refs_of(repository: Path, tag: str) -> list[str]:
    """The refs of a tag's run, and those beside which it could have none."""
    experiments = experiment_ref(tag, 0).rpartition("/")[0]
    command = ("for-each-ref", "--format=%(refname)", branch_name(tag), experiments)
    return git(repository, *command).split()


def checked_out(repository: Path, tag: str) -> str:
    """The folder in which somebody has the run's branch checked out, "" when nobody has: there `git
    status` shows each keep as a change taken back.
    """
    folder = ""
    for line in git(repository, "worktree", "list", "--porcelain").splitlines():
        folder = line.removeprefix("worktree ") if line.startswith("worktree ") else folder
        if line == f"branch {branch_name(tag)}":
            return folder
    return ""


def make_commit(repository: Path, plan: CommitPlan, train_py: Path) -> str:
    """Write the commit: the tree of plan.tree_of with train.py at its top replaced. Deterministic
    in its arguments.
    """
    blob = git(repository, "hash-object", "-w", "--stdin", stdin=train_py.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        index = os.path.join(folder, "index")
        git(repository, "read-tree", plan.tree_of, index=index)
        git(
            repository,
            "update-index",
            "--add",
            "--cacheinfo",
            f"100644,{blob},train.py",
            index=index,
        )
        tree = git(repository, "write-tree", "--missing-ok", index=index)
    return git(
        repository,
        "commit-tree",
        tree,
        "-p",
        plan.parent,
        "-F",
        "-",
        stdin=plan.message.encode(),
        date=plan.date,
    )


def set_ref(repository: Path, ref: str, target: str, expected: str | None) -> None:
    """Move a ref from `expected` (None: it must be new) to target. Already there is success;
    anything else is HistoryError.
    """
    found = read_ref(repository, ref)
    if found == target:
        return
    if found != expected:
        raise HistoryError(
            f"{ref} is at {found and found[:10]}, expected {expected and expected[:10]}: somebody"
            " moved it; start a new tag"
        )
    # A ref that is not there; ids have 40 digits or 64.
    move_ref(repository, ref, target, expected or "0" * len(target))


def move_ref(repository: Path, ref: str, target: str, expected: str) -> None:
    """update-ref, which waits for locks of others and removes one that nobody holds. Raises
    HistoryError naming the lock, and for anything else.
    """
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            git(repository, "update-ref", "--create-reflog", ref, target, expected)
            return
        except HistoryError as error:
            found = LOCKED.search(str(error))
            if not found:
                if read_ref(repository, ref) == target:
                    return
                raise
            lock = repository / found["lock"]
            if not remove_stale_lock(repository, ref, lock) and time.monotonic() > until:
                raise HistoryError(
                    f"{error}. What to do: see whether a git still runs here; if none does, delete"
                    f" {lock}, then run the same command again"
                ) from error
            time.sleep(LOOK_SECONDS)


def remove_stale_lock(repository: Path, ref: str, lock: Path) -> bool:
    """Remove the lock of one of our own refs if its git is dead; True when it is gone. What is not
    ours is left to its owner.
    """
    own = repository / git(repository, "rev-parse", "--git-path", f"{ref}.lock")
    with contextlib.suppress(FileNotFoundError):
        before = os.stat(lock)
        if lock.resolve() != own.resolve() or gits_at_work(repository):
            return False
        if os.path.samestat(before, os.stat(lock)):  # the same that was there while nobody worked
            lock.unlink()
    return True


def gits_at_work(repository: Path) -> list[int]:
    """Processes of git that may be working on this repository: those in it, in its .git or in a
    worktree of it, and those that do not say where.
    """
    try:
        places = [repository / git(repository, "rev-parse", "--git-common-dir")]
        listed = git(repository, "worktree", "list", "--porcelain").splitlines()
        places += [
            Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")
        ]
    except HistoryError:
        places = [repository]
    found = []
    for process in psutil.process_iter(["name"]):
        if not IS_GIT.match(process.info["name"] or ""):
            continue
        try:
            where = Path(process.cwd())
            found += (
                [process.pid]
                if any(where.is_relative_to(place.resolve()) for place in places)
                else []
            )
        except psutil.NoSuchProcess:  # a zombie has ended too
            continue
        except (psutil.AccessDenied, OSError):
            found.append(process.pid)
    return found


def record_experiment(
    repository: Path, tag: str, experiment: int, plan: CommitPlan, train_py: Path, advance: bool
) -> str:
    """Make the experiment's commit and refs; return its sha. advance: the branch moves too
    (baseline and keeps).
    """
    for left in reversed(range(TRIES)):
        try:
            commit = make_commit(repository, plan, train_py)
            set_ref(repository, experiment_ref(tag, experiment), commit, None)
            break
        except HistoryError as error:
            if not left or error.final:
                raise  # else perhaps a clean-up (gc --prune=now) came before the ref: make it again
    if advance:
        expected = None if experiment == 0 else plan.parent
        set_ref(repository, branch_name(tag), commit, expected)
    return commit


def commit_message(experiment: int, title: str, facts: list[str]) -> str:
    """Subject: number and idea. Body: one fact a line."""
    subject = one_line(title) or "no title"
    return f"{experiment:04d}: {subject[:100]}\n\n" + "\n".join(map(one_line, facts)) + "\n"
