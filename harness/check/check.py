"""Whether all files of a run agree with its journal: `overnight.py --check`.

In: a run's folder. Out: sentences, each one thing that does not agree, none for a run in order. Reads only. What is unfinished because somebody works on
the run now, or because a kill left it so and the same command finishes it, is no finding: the journal's next step says what that is.
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
from harness.check.files import (
    Look,
    check_experiments,
    check_left_behind,
    names_in,
)
from harness.check.weights import check_best, check_weights
from harness.ground.errors import JournalError, SettingsError
from harness.rules.replay import replay
from harness.run import git_history
from harness.run.journal import read_journal
from harness.run.locks import is_held
from harness.run.records import records_from_journal
from harness.run.results import format_results, results_from_journal
from harness.run.settings import Settings, read_settings
from harness.sandbox.processes import alive, is_of_run
from harness.scoring.integrity import harness_hash

LOOKS, WAIT_SECONDS = 5, 0.4  # at a run that somebody works on: what is only seen once was on its way
INDEX_ROW = re.compile(
    r'<tr><td class="">(\d{4})</td><td class="[^"]*">([^<]*)</td><td class="title">[^<]*</td><td class="number">([^<]*)</td>'
)
PAGE_NUMBER = re.compile(rb"<div><b>experiment (\d{1,9}): ")  # of `display_ideas.idea_page`
MOST_PAGE_BYTES = 10**7
AGAIN = "the same command writes it again"
TOLD = re.compile(r" experiment (\d+): (?:keep|discard|quarantine): ")  # in night.log: a night saw it decided


def check_run(folder: Path, repository: Path | None = None) -> list[str]:
    """Return what does not agree with the run's journal, [] for nothing.

    repository: whose git history the run has; by default the checkout that the run lies in, else this one.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        return [f"there is no run in {folder}"]
    inside = folder.parents[1] if len(folder.parents) > 1 and (folder.parents[1] / "harness").is_dir() else REPOSITORY
    repository = repository or inside
    findings, busy = look_once(folder, repository)
    for _ in range(LOOKS - 1):
        if not (findings and busy):
            break
        time.sleep(WAIT_SECONDS)
        again, busy = look_once(folder, repository)
        findings = [finding for finding in findings if finding in again]
    return findings


def look_once(folder: Path, repository: Path) -> tuple[list[str], bool]:
    """Return (findings, whether they may change by themselves: somebody works on the run, or processes are ending)."""
    busy = is_held(folder, "night") or is_held(folder, "experiment")
    try:
        entries = read_journal(folder / "journal.jsonl")
    except JournalError as error:
        return [str(error)], busy
    settings, findings = find_settings(folder, entries)
    same = settings is not None and harness_hash() == settings.harness_hash
    state, wrong = replay(entries, settings.budget_seconds if same else None)
    findings += [wrong] if wrong else []
    left = [] if busy else processes_left(folder)
    findings += [f"process {process.pid} still works in {folder.name}: end it" for process in left]
    if not wrong:  # else there is no telling what should be there
        findings += check_table(folder, entries)
        asked = frozenset(int(name[:4]) for name in names_in(folder / "rulings") if re.fullmatch(r"\d{4}\.json", name))
        look = Look(folder, repository, settings, entries, busy, asked)
        for check in (check_experiments, check_weights, check_best, check_history, check_pages, check_close_out, check_left_behind):
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
        return None, [f"run.json has not the fields of this version ({error}): restore it from a backup"]
    opened = entries[0].get("tag", settings.tag) if entries else settings.tag
    if settings.tag != opened:
        return None, [f"run.json is of run {settings.tag}, the journal of run {opened}"]
    return settings, []


def check_table(folder: Path, entries: list[dict]) -> list[str]:
    """results.tsv is what the journal gives; where the journal's last line changed it, it may be one line behind."""
    try:
        found = (folder / "results.tsv").read_bytes()
    except FileNotFoundError:
        found = None
    behind = entries[:-1] if entries and entries[-1]["event"] in ("committed", "ruled") else entries
    for known in (entries, behind):
        rows = results_from_journal(known)
        if found == format_results(rows).encode() or (found is None and not rows):
            return []
    if found is None:
        return ["results.tsv is missing: the same command derives it again"]
    given, lines = format_results(results_from_journal(entries)).encode().split(b"\n"), found.split(b"\n")
    numbers = [n for n in range(max(len(given), len(lines))) if given[n : n + 1] != lines[n : n + 1]]
    return [
        f"results.tsv, line {numbers[0] + 1}, is not what the journal gives: the same command derives it again and saves this one beside it"
    ]


# --- git ---------------------------------------------------------------------------------------------------------------


def check_history(look: Look) -> Iterator[str]:
    """Refs and branch are where the journal says, and each commit has the experiment's train.py."""
    if look.settings is None or not look.settings.base_commit:
        return
    tag = look.settings.tag
    committed = [e for e in look.state.experiments if e.committed and e.decided.get("git")]
    try:
        refs = read_refs(look.repository, tag)
        blobs = train_blobs(look.repository, [e.committed["commit"] for e in committed if e.committed["commit"]])
    except git_history.HistoryError as error:
        yield f"the git history of run {tag} cannot be read: {error}"
        return
    for experiment in committed:
        ref, commit = git_history.experiment_ref(tag, experiment.number), experiment.committed["commit"]
        train_py = look.train_py(experiment)
        if commit is None:
            yield f"experiment {experiment.number} has no commit, though one was planned"
        elif refs.get(ref) != commit:
            yield f"{ref} is at {short(refs.get(ref))}, the journal says {short(commit)}: git update-ref {ref} {commit}"
        elif commit not in blobs:
            yield f"commit {short(commit)} of experiment {experiment.number} has no train.py that git can read: run git fsck"
        elif blob_hash(train_py, len(commit)) not in (None, blobs[commit]):
            yield f"{look.name(train_py)} is not the train.py of commit {short(commit)}: git show {short(commit)}:train.py has it"
    known = {git_history.experiment_ref(tag, e.number) for e in [*committed, *([look.pending] if look.pending else [])]}
    for ref in sorted(set(refs) - known - {git_history.branch_name(tag)}):
        yield f"{ref} is there, and the journal knows no commit of it: git update-ref -d {ref}"
    yield from check_branch(look, refs)


def check_branch(look: Look, refs: dict[str, str]) -> Iterator[str]:
    """The branch is at the incumbent's commit, or at that of the one which is taking its place."""
    branch, best = git_history.branch_name(look.settings.tag), look.settled[-1].commit if look.settled else None
    found = refs.get(branch)
    allowed = {best} if look.settled else {None}
    if look.pending in look.candidates:
        allowed.add(refs.get(git_history.experiment_ref(look.settings.tag, look.pending.number)))
    if found in allowed or (look.settled and best is None):
        return
    if look.asked and found and git_history.read_ref(look.repository, f"{found}^") == best:
        return  # a person's word made it just now
    mend = f": git update-ref {branch} {best}" if best else ""
    yield f"the branch autoresearch/{look.settings.tag} is at {short(found)}, the journal's best is {short(best)}{mend}"


def short(commit: str | None) -> str:
    return commit[:10] if commit else "nowhere"


def read_refs(repository: Path, tag: str) -> dict[str, str]:
    """All refs of a run, in one call. Raises HistoryError."""
    places = (f"refs/experiments/{tag}", git_history.branch_name(tag))
    lines = git_history.git(repository, "for-each-ref", "--format=%(refname) %(objectname)", *places).splitlines()
    return dict(line.split(" ") for line in lines)


def train_blobs(repository: Path, commits: list[str]) -> dict[str, str]:
    """The blob of train.py in each commit that git can read, in one call. Raises HistoryError."""
    asked = "".join(f"{commit}:train.py\n" for commit in commits).encode()
    lines = (
        git_history.git(repository, "cat-file", "--batch-check=%(objectname)", stdin=asked).splitlines() if commits else []
    )
    found = zip(commits, lines, strict=True)
    return {commit: line for commit, line in found if not line.endswith(" missing")}


def blob_hash(path: Path, digits: int) -> str | None:
    """The name that git gives to a file's content; None for no file, which is said elsewhere. digits: 40 for SHA-1, else SHA-256."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest = hashlib.sha1 if digits == 40 else hashlib.sha256
    return digest(b"blob %d\0" % len(content) + content).hexdigest()


# --- pages and processes -----------------------------------------------------------------------------------------------


def check_pages(look: Look) -> Iterator[str]:
    """A night's pages are there and whole, and its index says what the journal says. A run by hand has none."""
    folder, done = look.folder / "notebooks", {e.number: e for e in look.state.experiments if e.committed}
    names = set(names_in(folder))
    pages = sorted(int(name[:4]) for name in names if re.fullmatch(r"\d{4}\.ipynb", name) and int(name[:4]) in done)
    for number in sorted(told_by_a_night(look) & set(done) - set(pages)):
        if number < min(pages, default=0):  # the oldest go when pages take too much room
            continue
        yield f"notebooks/{number:04d}.ipynb is missing: restore it from a backup if you need the page"
    try:
        index = (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        index = ""
    rows = {int(number): (decision, score) for number, decision, score in INDEX_ROW.findall(index)}
    listed = {number for number, (decision, _) in rows.items() if not decision.startswith("running")}
    for number in pages:
        if number == pages[-1] and number not in listed:
            continue  # its page may be in the making
        if not ends_well(folder / f"{number:04d}.ipynb"):
            yield f"notebooks/{number:04d}.ipynb is cut short: the experiment itself is whole; delete the page"
        elif (stated := stated_number(folder / f"{number:04d}.ipynb")) not in (None, number):
            yield f"notebooks/{number:04d}.ipynb is the page of experiment {stated}: restore it from a backup, or delete it"
        elif f"{number:04d}.html" not in names:
            yield f"notebooks/{number:04d}.html is missing: {AGAIN}"
        if number not in listed:
            yield f"notebooks/index.html does not list experiment {number}: {AGAIN}"
    yield from check_index(look, rows)


def check_index(look: Look, rows: dict[int, tuple[str, str]]) -> Iterator[str]:
    """What the index lists has the journal's decision and score. A person's word may be newer than the index."""
    records = {record.experiment: record for record in records_from_journal(look.entries)}
    for number, (decision, score) in rows.items():
        if decision.startswith("running") and number < len(look.state.experiments):
            continue
        record = records.get(number)
        if record is None:
            yield f"notebooks/index.html lists experiment {number} as {decision}, the journal has no decision on it: {AGAIN}"
            continue
        outcome, expected = record.outcome, "" if record.val_bpb is None else f"{record.val_bpb:.6f}"
        if not look.state.experiments[number].ruled and not (decision.startswith(outcome) and score == expected):
            yield f"notebooks/index.html has {decision} {score} for experiment {number}, the journal {outcome} {expected}: {AGAIN}"


def told_by_a_night(look: Look) -> set[int]:
    """Experiments that a night saw decided: those have a page."""
    try:
        text = (look.folder / "night.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {int(number) for number in TOLD.findall(text)}


def ends_well(notebook: Path) -> bool:
    """Whether a notebook ends as JSON does. A kill in the middle of its writing cuts it."""
    with notebook.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 64))
        return file.read().rstrip().endswith(b"}")


def stated_number(notebook: Path) -> int | None:
    """Which experiment a page is of, as the cell that shows its idea says; None where it does not say. Foreign text on a page has no tags."""
    with notebook.open("rb") as file:
        found = PAGE_NUMBER.search(file.read(MOST_PAGE_BYTES))
    return int(found[1]) if found else None


def processes_left(folder: Path) -> list[psutil.Process]:
    """Living processes of the run: edited code, or a server of it."""
    return [process for process in psutil.process_iter() if is_of_run(process, folder) and alive(process)]
