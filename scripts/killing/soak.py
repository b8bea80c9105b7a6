"""A long night watched from outside: what its processes hold; and a journal made long for it.

In: a copy of the checkout, a night in it. Out: one `Sample` for each experiment, read when its
commit appears in the journal; a longer journal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from benches.loop import NIGHT
from benches.setup import BenchError

from harness import REPOSITORY
from harness.run.disk_space import on_disk, stored
from harness.run.journal import JournalReader, read_journal
from harness.run.records import parse_time
from harness.run.state import fold

LOOK_SECONDS = 0.05
# Entries that end what an experiment is for; the rest is what it costs.
WORK = ("trained", "scored", "audited")
MB = 2**20


@dataclass
class Sample:
    """One experiment.

    seconds: from the commit before. overhead: of them what was neither training nor measuring.
    *_mb: resident.
    """

    experiment: int
    seconds: float
    overhead: float
    entries: int
    journal_kb: float
    driver_mb: float
    driver_files: int
    forkserver_mb: float
    forkserver_files: int
    kernel_mb: float
    processes: int
    most_processes: int
    free_memory_mb: float
    disk: dict[str, int] = field(default_factory=dict)


def make_checkout(folder: Path) -> Path:
    """A copy of this checkout as a repository of its own."""
    for name in ("harness", "notebooks"):
        ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in ("train_template.py", "program.md", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    identity = ["-c", "user.name=soak", "-c", "user.email=soak@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "soak"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    return folder


def watch_night(checkout: Path, experiments: int) -> list[Sample]:
    """Let a night on the profile tiny run to so many experiments in all.

    Returns a sample for each that it did.
    """
    run = checkout / "results" / "soak"
    reader = JournalReader(run / "journal.jsonl")
    told = sum(entry["event"] == "committed" for entry in reader.entries())
    options = ["overnight", "--tag", "soak", "--profile", "tiny", "--experiments", str(experiments)]
    command = [sys.executable, "-c", NIGHT, str(os.getpid()), *options]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    samples, most = [], 0
    with (checkout.parent / "night.out").open("a+") as out:
        night = subprocess.Popen(command, cwd=checkout, env=environment, stdout=out, stderr=out)
        driver = psutil.Process(night.pid)
        try:
            while night.poll() is None:
                most = max(most, len(family(driver)))
                entries = reader.entries()
                commits = [
                    number for number, entry in enumerate(entries) if entry["event"] == "committed"
                ]
                if len(commits) > told:
                    told = len(commits)
                    if told > 1 and (
                        sample := take_sample(run, driver, entries[: commits[-1] + 1], most)
                    ):
                        samples.append(sample)
                    most = 0
                time.sleep(LOOK_SECONDS)
        finally:
            if night.poll() is None:
                night.terminate()
            night.wait(60)
        out.seek(0)
        if night.returncode:
            raise BenchError(f"the night ended with {night.returncode}: {out.read()[-500:]}")
    return samples


def family(driver: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return driver.children(recursive=True)
    return []


def take_sample(
    run: Path, driver: psutil.Process, entries: Sequence[dict], most: int
) -> Sample | None:
    """What stands at a commit; None where the night ended meanwhile."""
    with contextlib.suppress(psutil.Error):
        children = family(driver)
        server = next(
            each for each in driver.children() if "forkserver" in " ".join(each.cmdline())
        )
        kernel = next((each for each in children if "ipykernel" in " ".join(each.cmdline())), None)
        seconds, overhead = cost(entries)
        return Sample(
            experiment=entries[-1]["experiment"],
            seconds=seconds,
            overhead=overhead,
            entries=len(entries),
            journal_kb=(run / "journal.jsonl").stat().st_size / 1000,
            driver_mb=driver.memory_info().rss / MB,
            driver_files=driver.num_fds(),
            forkserver_mb=server.memory_info().rss / MB,
            forkserver_files=server.num_fds(),
            kernel_mb=kernel.memory_info().rss / MB if kernel else float("nan"),
            processes=len(children),
            most_processes=most,
            free_memory_mb=psutil.virtual_memory().available / MB,
            disk=stored(run) | {"git": sum(on_disk(run.parents[1] / ".git").values())},
        )
    return None


def cost(entries: Sequence[dict]) -> tuple[float, float]:
    """(seconds of the last experiment, of them neither training nor measuring), by the journal."""
    before = max(
        number for number, entry in enumerate(entries[:-1]) if entry["event"] == "committed"
    )
    stamps = [parse_time(entry["time"]) for entry in entries[before:]]
    gaps = [
        (after - start).total_seconds() for start, after in zip(stamps, stamps[1:], strict=False)
    ]
    overhead = sum(
        gap
        for gap, entry in zip(gaps, entries[before + 1 :], strict=True)
        if entry["event"] not in WORK
    )
    return sum(gaps), overhead


def lengthen(checkout: Path, least_entries: int) -> int:
    """Make the journal so many entries long; return how many there are then.

    Discarded experiments are added, copies of those that the run has.

    Each gets a file, a hash, a folder and a ref of its own, so that everything that walks over
    experiments has that many to walk over.
    """
    run = checkout / "results" / "soak"
    entries = read_journal(run / "journal.jsonl")
    models = [
        e
        for e in fold(entries).experiments[1:]
        if e.decided["decision"] == "discard" and e.committed
    ]
    if not models:
        raise BenchError("the night discarded nothing that could be copied: run more experiments")
    number = len(fold(entries).experiments)
    added: list[dict] = []
    while len(entries) + len(added) < least_entries:
        model = models[number % len(models)]
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        for entry in entries:
            if entry.get("experiment") == model.number and entry["event"] not in ("ruled", "note"):
                new = entry | {"seq": len(entries) + len(added), "experiment": number}
                added.append(new | {"sha256": digest} if "sha256" in entry else new)
        old, new = (run / "experiments" / f"{which:04d}" for which in (model.number, number))
        shutil.copytree(old, new)
        for page in (run / "notebooks").glob(f"{model.number:04d}.*"):
            shutil.copy(
                page, page.with_name(page.name.replace(f"{model.number:04d}", f"{number:04d}", 1))
            )
        ref = ["update-ref", f"refs/experiments/soak/{number:04d}", model.committed["commit"]]
        subprocess.run(["git", "-C", str(checkout), *ref], check=True)
        number += 1
    with (run / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in added)
    return number - 1
