"""Whether all files of a run agree with its journal: `overnight.py --check`.

In: a run's folder. Out: sentences, each one thing that does not agree, none for a run in order.
Reads only. What is unfinished because somebody works on the run now, or because a kill left it so
and the same command finishes it, is no finding: the journal's next step says what that is.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from harness import REPOSITORY
from harness.check.close_out import check_close_out
from harness.check.files import BACKUP, Look, check_experiments, check_left_behind, names_in
from harness.check.model_text import check_model_text
from harness.check.weights import check_best, check_weights
from harness.ground.errors import HistoryError, JournalError, SettingsError
from harness.ground.files import read_tail
from harness.rules.replay import replay
from harness.run import git_history
from harness.run.journal import read_journal
from harness.run.locks import is_held
from harness.run.results import format_results, results_from_journal
from harness.run.run import page_name
from harness.run.settings import Settings, read_settings
from harness.run.state import Experiment
from harness.sandbox.processes import alive, is_of_run
from harness.scoring.integrity import harness_hash
from harness.show.index import index_text, rows_of_index

# At a run that somebody works on: what is only seen once was on its way.
LOOKS, WAIT_SECONDS = 5, 0.4
PAGE_NUMBER = re.compile(rb"<div><b>experiment (\d{1,9}): ")  # of `idea_page.idea_page`
TOLD = re.compile(r" experiment (\d+): (?:keep|discard|quarantine): ")  # in night.log: decided
MOST_PAGE_BYTES = 10**7
AGAIN = "the same command writes it again"


def check_run(folder: Path, repository: Path | None = None) -> list[str]:
    """Return what does not agree with the run's journal, [] for nothing.

    repository: whose git history the run has; by default the checkout that the run lies in, else
    this one.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        return [f"there is no run in {folder}"]
    if repository is None:
        around = folder.parent.parent
        repository = around if (around / "harness").is_dir() else REPOSITORY
    findings, busy = look_once(folder, repository)
    for _ in range(LOOKS - 1):
        if not (findings and busy):
            break
        time.sleep(WAIT_SECONDS)
        again, busy = look_once(folder, repository)
        findings = [finding for finding in findings if finding in again]
    return findings


def look_once(folder: Path, repository: Path) -> tuple[list[str], bool]:
    """Return (findings, whether they may change: somebody works on it, or processes are ending)."""
    busy = is_held(folder, "night") or is_held(folder, "experiment")
    try:
        entries = read_journal(folder / "journal.jsonl")
    except JournalError as error:
        return [str(error)], busy
    settings, findings = find_settings(folder, entries)
    same = settings is not None and harness_hash() == settings.harness_hash
    _, wrong = replay(entries, settings.budget_seconds if same else None)
    findings += [wrong] if wrong else []
    left = [] if busy else processes_left(folder)
    findings += [f"process {process.pid} still works in {folder.name}: end it" for process in left]
    if not wrong:  # else there is no telling what should be there
        findings += check_table(folder, entries)
        look = Look(folder, repository, settings, entries, busy)
        checks = (check_experiments, check_weights, check_best, check_history, check_pages)
        for check in (*checks, check_close_out, check_model_text, check_left_behind):
            findings += check(look)
    return findings, busy or bool(left)


def find_settings(folder: Path, entries: list[dict]) -> tuple[Settings | None, list[str]]:
    """run.json, and what is wrong with it."""
    if not entries and not (folder / "run.json").exists():
        return None, []  # nothing has begun
    try:
        settings = read_settings(folder)
    except SettingsError as error:
        return None, [str(error)]
    except TypeError as error:
        return None, [f"run.json has not the fields of this version ({error}): {BACKUP}"]
    opened = entries[0].get("tag", settings.tag) if entries else settings.tag
    if settings.tag != opened:
        return None, [f"run.json is of run {settings.tag}, the journal of run {opened}"]
    return settings, []


def check_table(folder: Path, entries: list[dict]) -> list[str]:
    """results.tsv is what the journal gives; it may be behind where the last line changed it."""
    path = folder / "results.tsv"
    found = path.read_bytes() if path.exists() else None
    behind = entries[:-1] if entries and entries[-1]["event"] in ("committed", "ruled") else entries
    for known in (entries, behind):
        rows = results_from_journal(known)
        if found == format_results(rows).encode() or (found is None and not rows):
            return []
    if found is None:
        return ["results.tsv is missing: the same command derives it again"]
    given = format_results(results_from_journal(entries)).encode().split(b"\n")
    lines = found.split(b"\n")
    longest = range(max(len(given), len(lines)))
    line = next(n + 1 for n in longest if given[n : n + 1] != lines[n : n + 1])
    return [
        f"results.tsv, line {line}, is not what the journal gives: the same command derives it "
        "again and saves this one beside it"
    ]


# --- git -----------------------------------------------------------------------------------------


def check_history(look: Look) -> Iterator[str]:
    """Refs and branch are where the journal says; each commit has the experiment's train.py."""
    if look.settings is None or not look.settings.base_commit:
        return
    tag = look.settings.tag
    committed = [e for e in look.state.experiments if e.committed and e.decided.get("git")]
    commits = [e.committed["commit"] for e in committed if e.committed["commit"]]
    try:
        refs, blobs = read_refs(look.repository, tag), train_blobs(look.repository, commits)
    except HistoryError as error:
        yield f"the git history of run {tag} cannot be read: {error}"
        return
    for experiment in committed:
        yield from check_commit(look, experiment, refs, blobs)
    known = {git_history.experiment_ref(tag, experiment.number) for experiment in committed}
    if look.pending:
        known.add(git_history.experiment_ref(tag, look.pending.number))
    for ref in sorted(set(refs) - known - {git_history.branch_name(tag)}):
        yield f"{ref} is there, and the journal knows no commit of it: git update-ref -d {ref}"
    yield from check_branch(look, refs)


def check_commit(
    look: Look, experiment: Experiment, refs: dict[str, str], blobs: dict[str, str]
) -> Iterator[str]:
    """The experiment's ref is at its commit, and that has its train.py."""
    ref = git_history.experiment_ref(look.settings.tag, experiment.number)
    commit, train_py = experiment.committed["commit"], look.train_py(experiment)
    if commit is None:
        yield f"experiment {experiment.number} has no commit, though one was planned"
    elif refs.get(ref) != commit:
        mend = f"git update-ref {ref} {commit}"
        yield f"{ref} is at {short(refs.get(ref))}, the journal says {short(commit)}: {mend}"
    elif commit not in blobs:
        named = f"commit {short(commit)} of experiment {experiment.number}"
        yield f"{named} has no train.py that git can read: run git fsck"
    elif blob_hash(train_py, len(commit)) not in (None, blobs[commit]):
        mend = f"git show {short(commit)}:train.py has it"
        yield f"{look.name(train_py)} is not the train.py of commit {short(commit)}: {mend}"


def check_branch(look: Look, refs: dict[str, str]) -> Iterator[str]:
    """The branch is at the incumbent's commit, or at that of what is taking its place."""
    tag = look.settings.tag
    branch, best = git_history.branch_name(tag), look.settled[-1].commit if look.settled else None
    found, allowed = refs.get(branch), {best}
    if look.pending in look.candidates:
        allowed.add(refs.get(git_history.experiment_ref(tag, look.pending.number)))
    if found in allowed or (look.settled and best is None):
        return
    if look.asked and found and git_history.read_ref(look.repository, f"{found}^") == best:
        return  # a person's word made it just now
    mend = f": git update-ref {branch} {best}" if best else ""
    at = f"is at {short(found)}, the journal's best is {short(best)}"
    yield f"the branch autoresearch/{tag} {at}{mend}"


def short(commit: str | None) -> str:
    return commit[:10] if commit else "nowhere"


def read_refs(repository: Path, tag: str) -> dict[str, str]:
    """All refs of a run, in one call. Raises HistoryError."""
    places = (f"refs/experiments/{tag}", git_history.branch_name(tag))
    shape = "--format=%(refname) %(objectname)"
    lines = git_history.git(repository, "for-each-ref", shape, *places).splitlines()
    return dict(line.split(" ") for line in lines)


def train_blobs(repository: Path, commits: list[str]) -> dict[str, str]:
    """The blob of train.py in each commit that git can read, in one call. Raises HistoryError."""
    if not commits:
        return {}
    asked = "".join(f"{commit}:train.py\n" for commit in commits).encode()
    found = git_history.git(repository, "cat-file", "--batch-check=%(objectname)", stdin=asked)
    lines = zip(commits, found.splitlines(), strict=True)
    return {commit: line for commit, line in lines if not line.endswith(" missing")}


def blob_hash(path: Path, digits: int) -> str | None:
    """Git's name for a file's content, None for no file. digits: 40 for SHA-1, else SHA-256."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest = hashlib.sha1 if digits == 40 else hashlib.sha256
    return digest(b"blob %d\0" % len(content) + content).hexdigest()


# --- pages and processes -------------------------------------------------------------------------


def check_pages(look: Look) -> Iterator[str]:
    """A night's pages are there and whole, and its index agrees. A run by hand has none."""
    folder = look.folder / "notebooks"
    names = set(names_in(folder))
    try:
        index = rows_of_index((folder / "index.md").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        index = {}
    done = [e.number for e in look.state.experiments[1:] if e.committed]
    pages = [number for number in done if f"{page_name(number)}.ipynb" in names]
    for number in sorted(told_by_a_night(look) & set(done) - set(pages)):
        if number >= min(pages, default=0):  # the oldest go when pages take too much room
            yield f"notebooks/{page_name(number)}.ipynb is missing: {BACKUP} if you need the page"
    for number in pages:
        is_listed = number in index and not is_running(index[number])
        if number == pages[-1] and not is_listed:
            continue  # its page may be in the making
        name = f"notebooks/{page_name(number)}"
        path = look.folder / f"{name}.ipynb"
        if not read_tail(path, 64).rstrip().endswith("}"):  # as JSON ends: a kill cuts it
            yield f"{name}.ipynb is cut short: the experiment itself is whole; delete the page"
        elif (stated := stated_number(path)) not in (None, number):
            yield f"{name}.ipynb is the page of experiment {stated}: {BACKUP}, or delete it"
        elif f"{page_name(number)}.html" not in names:
            yield f"{name}.html is missing: {AGAIN}"
        if not is_listed:
            yield f"notebooks/index.md does not list experiment {number}: {AGAIN}"
    yield from check_index(look, index)


def is_running(row: str) -> bool:
    return row[9:].startswith("running")


def check_index(look: Look, index: dict[int, str]) -> Iterator[str]:
    """What the index lists is as the journal has it, or older than a person's word."""
    expected = rows_of_index(index_text(look.folder, look.entries))
    experiments = look.state.experiments
    for number, row in index.items():
        if is_running(row) and number < len(experiments):
            continue
        if number not in expected or is_running(expected[number]):
            yield (
                f"notebooks/index.md lists experiment {number}, on which the journal has no"
                f" decision: {AGAIN}"
            )
        elif row != expected[number] and not experiments[number].ruled:
            yield (
                f"notebooks/index.md has {row.strip('| ')} where the journal has"
                f" {expected[number].strip('| ')}: {AGAIN}"
            )


def told_by_a_night(look: Look) -> set[int]:
    """Experiments that a night saw decided: those have a page."""
    log = look.folder / "night.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return {int(number) for number in TOLD.findall(text)}


def stated_number(notebook: Path) -> int | None:
    """Which experiment a page says it is of; None where it does not. Foreign text has no tags."""
    with notebook.open("rb") as file:
        found = PAGE_NUMBER.search(file.read(MOST_PAGE_BYTES))
    return int(found[1]) if found else None


def processes_left(folder: Path) -> list[psutil.Process]:
    """Living processes of the run: edited code, or a server of it."""
    return [each for each in psutil.process_iter() if is_of_run(each, folder) and alive(each)]
