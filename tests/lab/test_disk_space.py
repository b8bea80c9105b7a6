"""What a run needs and keeps on the disk: figures from its own files, and bounds that hold however long it goes on."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.ground.files import open_atomic, remove_temporaries
from harness.lab import kept_files
from harness.lab.kept_files import MOST_IN_QUARANTINE, drop_old_pages, remove_leftovers, weights_wanted
from harness.night.notebook_process import MOST_CUT, put_aside
from harness.run import disk_space
from harness.run.state import Attempt, Experiment, State

MB = 10**6


def put(path, size: int = 10):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_a_run_needs_what_its_own_weights_losses_and_cache_take(tmp_path):
    assert disk_space.needed_bytes(tmp_path) == disk_space.UNKNOWN_BYTES
    put(tmp_path / "experiments/0000/attempts/00/runs/00/weights.safetensors", 3 * MB)
    put(tmp_path / "experiments/0000/attempts/00/runs/00/losses.npy", 2 * MB)
    known = disk_space.SPARE_BYTES + 4 * 3 * MB + 2 * 2 * MB
    assert disk_space.needed_bytes(tmp_path) == known
    put(tmp_path / "best/weights.safetensors", 5 * MB)  # an incumbent that grew
    put(tmp_path / "compile_cache/triton/kernel", 4096)
    assert disk_space.needed_bytes(tmp_path) == known + 4 * 2 * MB + 2 * 4096


def test_lacking_says_both_figures_and_what_to_do(tmp_path, monkeypatch):
    assert disk_space.lacking(tmp_path) == ""
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 499 * MB)
    assert "only 499 MB are free" in disk_space.lacking(
        tmp_path
    ) and "a run needs 500 MB: make room, then run" in disk_space.lacking(tmp_path)
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 500 * MB)
    assert disk_space.lacking(tmp_path) == ""


@pytest.mark.parametrize(
    "error, full",
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (OSError(13, "Permission denied"), False),
        ("OSError: [Errno 28] No space left on device: 'x.ipynb'", True),
        (RuntimeError("git hash-object failed: error: unable to write file: No space left on device"), True),
        (RuntimeError("no space for doubts"), False),
    ],
)
def test_what_means_that_the_disk_is_full(error, full):
    assert disk_space.is_full(error) is full


def test_the_bytes_of_a_run_are_told_by_kind_and_a_second_name_counts_once(tmp_path):
    runs = tmp_path / "experiments/0000/attempts/00/runs/00"
    weights = put(runs / "weights.safetensors", 8192)
    (tmp_path / "best").mkdir()
    os.link(weights, tmp_path / "best/weights.safetensors")
    for name, size in (
        ("losses.npy", 4096),
        ("holdout_losses.npy", 4096),
        ("run.log", 4096),
        ("events.jsonl", 4096),
        ("result.json", 4096),
    ):
        put(runs / name, size)
    put(runs / "compile_cache/x.log", 4096)
    put(tmp_path / "notebooks/03_0001.ipynb", 4096)
    put(tmp_path / "night.log", 4096)
    assert disk_space.stored(tmp_path) == {
        "weights": 8192,
        "losses": 8192,
        "notebooks": 4096,
        "logs": 12288,
        "caches": 4096,
        "rest": 4096,
    }
    assert disk_space.stored(tmp_path / "none") == dict.fromkeys(disk_space.KINDS, 0)


def quarantined(number: int) -> Experiment:
    return Experiment(number, decided={"decision": "quarantine"})


def test_the_weights_that_stay_are_bounded_however_many_wait_in_quarantine():
    kept = [Experiment(0), Experiment(3)]
    state = State(experiments=[*kept, *map(quarantined, range(4, 104))], kept=kept)
    assert weights_wanted(state) == {0, 3, *range(104 - MOST_IN_QUARANTINE, 104)}
    state.experiments[-1].ruled = {"accept": False}
    assert weights_wanted(state) == {0, 3, *range(103 - MOST_IN_QUARANTINE, 103)}


def test_weights_of_what_is_not_wanted_go_and_its_train_py_stays(tmp_path):
    baseline, newest = Experiment(0, [Attempt({})]), quarantined(7)
    state = State(experiments=[baseline, *map(quarantined, range(1, 7)), newest], kept=[baseline])
    newest.decided["incumbent"] = 0
    for number in range(8):
        put(tmp_path / f"{number}/train.py")
        for name in ("weights.safetensors", "losses.npy", "holdout_losses.npy", "result.json"):
            put(tmp_path / f"{number}/runs/00/{name}")
    run = SimpleNamespace(folder=tmp_path, state=state, train_py=lambda e: tmp_path / str(e.number) / "train.py")
    kept_files.drop_unneeded(run, newest, kept=False)
    left = {number: sorted(path.name for path in (tmp_path / f"{number}/runs/00").iterdir()) for number in range(8)}
    assert left[1] == left[2] == ["result.json"] and all(len(left[number]) == 4 for number in (0, *range(3, 8)))
    assert all((tmp_path / f"{number}/train.py").exists() for number in range(8))


def test_pages_keep_within_their_share_cut_ones_go_first_then_the_oldest(tmp_path):
    pages = [f"03_{number:04d}{end}" for number in range(1, 5) for end in (".html", ".ipynb")]
    for name in (
        *pages,
        "03_0003.cut1.ipynb",
        "03_0004.cut1.ipynb",
        "01_prepare.ipynb",
        "02_baseline.html",
        "index.html",
        "papermill.log",
    ):
        put(tmp_path / "notebooks" / name, 4096)
    assert drop_old_pages(tmp_path) == []
    assert drop_old_pages(tmp_path, most_bytes=12 * 4096) == ["03_0003.cut1.ipynb", "03_0004.cut1.ipynb"]
    assert drop_old_pages(tmp_path, most_bytes=9 * 4096) == ["03_0001.html", "03_0001.ipynb", "03_0002.html", "03_0002.ipynb"]
    drop_old_pages(tmp_path, most_bytes=0)
    assert {path.name for path in (tmp_path / "notebooks").iterdir()} == {
        "01_prepare.ipynb",
        "02_baseline.html",
        "index.html",
        "papermill.log",
    }


def test_executions_that_were_cut_off_leave_so_many_pages_and_no_more(tmp_path):
    page = tmp_path / "03_0001.ipynb"
    for number in range(10):
        page.write_text(str(number))
        put_aside(page)
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == [f"03_0001.cut{number}.ipynb" for number in range(1, MOST_CUT + 1)]
    assert [path.read_text() for path in kept] == ["7", "8", "9"]


# --- what a kill leaves ----------------------------------------------------------------------------------------------

KILLED = (
    "import os, sys\nfrom harness.ground.files import open_atomic\n"
    "with open_atomic(sys.argv[1]) as file:\n    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), 9)"
)


def killed_while_writing(path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9


def test_a_dead_writers_temporary_file_goes_and_a_living_ones_stays(tmp_path):
    killed_while_writing(tmp_path / "weights.safetensors")
    put(tmp_path / ".somebody_elses.tmp")
    assert len(list(tmp_path.iterdir())) == 2
    with open_atomic(tmp_path / "index.html") as file:
        file.write(b"whole")
        assert [name.split(".")[1] for name in remove_temporaries(tmp_path)] == ["weights"]
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", ".somebody_elses.tmp"}
    assert remove_temporaries(tmp_path / "none") == []


def test_what_a_kill_leaves_in_a_run_is_gone_when_it_is_taken_up_again(tmp_path):
    newest = tmp_path / "experiments/0007"
    run = newest / "attempts/00/runs/00"
    for name in ("work/x", "server_val/server.log", "server_val_weights/weights.safetensors", "result.json"):
        put(run / name)
    (tmp_path / "best").mkdir()
    for place in (tmp_path / "best/train.py", tmp_path / "results.tsv", run / "losses.npy"):
        killed_while_writing(place)
    remove_leftovers(tmp_path, newest)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "experiments/0007/attempts/00/runs/00/result.json"
    ]


def test_what_a_killed_audit_leaves_in_the_best_ones_runs_goes_too(tmp_path):
    newest, best = (tmp_path / f"experiments/{number:04d}" for number in (7, 3))
    for experiment in (newest, best):
        put(experiment / "attempts/00/runs/00/weights.safetensors")
        put(experiment / "attempts/00/runs/00/server_holdout/server.log")
        killed_while_writing(experiment / "attempts/00/runs/00/holdout_losses.npy")
    remove_leftovers(tmp_path, newest, best)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 2 and {path.name for path in left} == {"weights.safetensors"}


@pytest.mark.parametrize(
    "there", [("best", "best.tmp"), ("best", "best.old"), ("best.tmp", "best.old"), ("best", "best.tmp", "best.old")]
)
def test_best_is_there_whenever_a_kill_came(tmp_path, there):
    for name in there:
        put(tmp_path / name / "provenance.json").write_text(json.dumps(name))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert json.loads((tmp_path / "best/provenance.json").read_text()) == ("best" if "best" in there else "best.old")
