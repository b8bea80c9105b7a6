"""A tiny run whose baseline is done: fixtures `cache`, `baseline` and `lab`, and what they need.

For tests that go on from there.

conftest.py makes the fixtures known to every test module. Candidates are put where a proposer would
have left them.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT, make_repository
from filelock import FileLock
from proposals import leave_proposal

import harness
from harness.lab import start
from harness.lab.loop import Lab
from harness.run.results import read_results
from harness.run.state import State
from harness.sandbox import keys
from harness.sandbox.device import detect_device
from harness.search.gate import source_hash

# 20 steps a training, however busy the machine is.
STEPS = "clock_step_seconds=0.15 budget_seconds=3"


class Kill(BaseException):
    """Raised where a process is to end as if it were killed."""


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory) -> Path:
    """A folder that all processes of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base  # of pytest-xdist


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder, in whichever process of the tests wants it first; the others wait for it."""
    made = folder / "made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def cache(shared) -> Path:
    """Prepared data of the tiny profile, to be read; made once."""

    def prepare(folder: Path) -> None:
        profile, _ = start.find_profile("tiny")
        start.prepare_profile(profile, str(folder), progress=lambda line: None)

    detect_device()  # takes seconds; known now to this process and to all nights that it starts
    return make_once(shared / "cache", prepare)


@pytest.fixture(scope="session")
def baseline(shared, cache) -> Path:
    """A run whose baseline is done, with its repository; made once, copied by each test."""

    def train(folder: Path) -> None:
        repository = folder / "checkout"
        repository.mkdir()
        for name in ("train_template.py", "program.md"):
            shutil.copy(ROOT / name, repository / name)
        make_repository(repository)
        given = {"cache": str(cache), "overrides": STEPS}
        with pytest.MonkeyPatch.context() as patch:
            point_at(patch, repository)
            with start.start_run(folder / "results" / "t", "tiny", **given) as lab:
                lab.run_baseline()

    return make_once(shared / "baseline", train)


def point_at(patch: pytest.MonkeyPatch, repository) -> None:
    patch.setattr(harness, "REPOSITORY", repository)


@contextlib.contextmanager
def copy_of(made, folder):
    """A run that was made before, copied with its repository, and held."""
    shutil.copytree(made, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, folder / "checkout")
        with Lab(folder / "results" / "t") as lab:
            yield lab


def copy_with_harness(made, folder):
    """A checkout with that run and a harness of its own, for commands that are started in it.

    Nothing is trained for it.
    """
    shutil.copytree(made / "checkout", folder)
    for name in ("harness", "notebooks"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
    shutil.copytree(made / "results", folder / "results")
    return folder


@pytest.fixture
def lab(tmp_path, baseline):
    """A copy of that run."""
    with copy_of(baseline, tmp_path) as lab:
        yield lab


def without_keys(patch: pytest.MonkeyPatch, home: Path) -> None:
    """A home folder of one's own, and no key, endpoint or proxy but a test's."""
    patch.setenv("HOME", str(home))
    for name in (keys.KEY, keys.KEY_FILE, *keys.PASSED_ON):
        patch.delenv(name, raising=False)


def put_candidate(lab: Lab, source: str, title: str = "an idea") -> None:
    """Leave a finished proposal that the journal does not know yet.

    A kill just after a proposal would leave it so.
    """
    leave_proposal(lab.attempt_folder(lab.step.experiment), source, title)


def plant_decided(lab: Lab, source: str = "", **decided) -> int:
    """Add an experiment as if it had been trained, with the baseline's files and entries but for
    its train.py and decision; return its number.
    """
    number = len(lab.state.experiments)
    shutil.copytree(lab.attempt_folder(0).parents[1], lab.attempt_folder(number).parents[1])
    source = source or (lab.attempt_folder(0) / "train.py").read_text()
    (lab.attempt_folder(number) / "train.py").write_text(source)
    plain = {
        "experiment": number,
        "incumbent": lab.state.incumbent.number,
        "gain": 0.01,
        "threshold": 0.001,
    }
    proposed = {
        "sha256": source_hash(source),
        "parent": lab.state.incumbent.number,
        "title": decided.get("title", "an idea"),
    }
    proposed |= {"category": "tune"}
    for entry in [entry for entry in lab.journal.entries if entry.get("experiment") == 0]:
        fields = {
            name: value for name, value in entry.items() if name not in ("seq", "time", "event")
        }
        fields |= {"proposed": proposed, "decided": plain | decided}.get(entry["event"], {})
        lab.journal.append(entry["event"], **fields | {"experiment": number})
    return number


def with_prior(lab: Lab) -> None:
    """Say in the run's journal, on disk too, that its noise was known before.

    Two seeds alone leave no gain beyond doubt. It is as its own seeds say, since a prior that they
    contradict is dropped.
    """
    prior = {"sigma": max(0.01, lab.state.noise.sigma), "df": 4, "note": "as its two seeds say"}
    path = lab.folder / "journal.jsonl"
    first, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps(json.loads(first) | {"prior": prior}) + "\n" + rest)
    lab.journal.entries[0]["prior"] = prior


def forget_all_but_the_opening(lab: Lab) -> None:
    """As if nothing had been done since the run was opened; its journal on disk stays."""
    del lab.journal.entries[1:]
    lab._state, lab._taken = State(), 0


def incumbent_source(lab: Lab) -> str:
    return lab.train_py(lab.state.incumbent).read_text()


def worse_source(lab: Lab) -> str:
    """Its train.py with an output matrix that hardly learns: worse on every seed and processor."""
    source = incumbent_source(lab)
    assert "UNEMBEDDING_LR = 0.006 " in source
    return source.replace("UNEMBEDDING_LR = 0.006 ", "UNEMBEDDING_LR = 0.0005 ")


def short_of_memory(lab: Lab) -> str:
    """The best file, on a device that has memory for four rows at a time."""
    source = incumbent_source(lab)
    line = next(line for line in source.splitlines() if "session.device_batch_size(" in line)
    too_much = "if device_batch_size > 4: raise torch.OutOfMemoryError('CUDA out of memory')"
    return source.replace(line, f"{line}\n    {too_much}")


def run_experiment(lab: Lab) -> dict:
    """All stages; return the decided entry."""
    lab.begin()
    for stage in (lab.propose, lab.check, lab.train, lab.decide, lab.commit):
        stage()
    return lab.experiment.decided


def row(lab: Lab, number: int) -> tuple:
    found = read_results(lab.folder / "results.tsv")[number]
    return found.val_bpb, found.memory_gb, found.status
