"""Compiled code: an idea is compiled once, and nothing that was trained comes with it."""

import os
from pathlib import Path

import pytest
from small_trainings import OPEN, train

from harness.sandbox import compile_cache
from harness.sandbox.compile_cache import (
    CompileCache,
    forget_earlier_runs,
    local_folder,
    promote,
)

# Compiles something, says what it found, and tries to leave more: when it has begun to train, and
# at a second end of its start-up.
WRITES = (
    "import json, os\n"
    "cache = os.environ['TORCHINDUCTOR_CACHE_DIR']\n"
    "print('found', sorted(os.listdir(cache)), flush=True)\n"
    "open(cache + '/kernel', 'w').write('compiled')\n"
) + OPEN
TRAINS = """
model = torch.nn.Linear(2, 2)
session.start()
open(cache + '/kernel', 'w').write('trained')
open(cache + '/weights', 'w').write('trained')
os.write(session._events_fd, b'{"event": "ready", "startup_seconds": 1.0}\\n')
while session.progress < 1:
    session.log(0, torch.tensor(1.0), tokens=8)
session.finish(model, depth=1)
"""
FILE = WRITES + TRAINS


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "compiled"


def found(folder: Path, source: str, root: Path | None) -> tuple[str, dict]:
    """What a training found in its cache, and its result."""
    result, log = train(folder, source, compile_cache=str(root) if root else None)
    assert result["status"] == "ok", log
    return next(line for line in log.splitlines() if line.startswith("found")), result


def test_a_file_finds_what_its_own_start_up_compiled_and_nothing_later(tmp_path, root):
    said, result = found(tmp_path / "smoke", FILE, root)
    assert said == "found []" and result["compiled"] is True
    said, result = found(tmp_path / "scored", FILE, root)
    assert said == "found ['kernel']" and result["compiled"] is False
    (ready,) = (root / "ready").iterdir()
    assert {path.name: path.read_text() for path in ready.iterdir()} == {"kernel": "compiled"}
    assert not (root / "private").exists()


def test_another_file_finds_only_what_was_promoted(tmp_path, root):
    found(tmp_path / "best", FILE, root)
    assert found(tmp_path / "idea", FILE + "# another\n", root)[0] == "found []"
    promote(root, tmp_path / "best" / "train.py")
    assert found(tmp_path / "later", FILE + "# a third\n", root)[0] == "found ['kernel']"
    promote(root, tmp_path / "later" / "train.py")  # it compiled nothing anew: nothing changes
    assert found(tmp_path / "again", FILE, root)[0] == "found ['kernel']"


def test_a_training_without_a_folder_for_it_leaves_nothing(tmp_path):
    for _ in range(2):
        assert found(tmp_path / "by hand", FILE, None)[0] == "found []"
    assert [path.name for path in tmp_path.iterdir()] == ["by hand"]


def one_training(root: Path, train_py: Path, files: int = 1) -> CompileCache:
    cache = CompileCache(str(root), train_py, root / "work")
    cache.lend()
    for number in range(files):
        (cache.path / f"kernel {number}").write_text("compiled")
    cache.keep_ready()
    cache.close()
    return cache


def test_what_is_kept_is_bounded(tmp_path, root, monkeypatch):
    monkeypatch.setattr(compile_cache, "MOST_FILES", 4)
    files = [tmp_path / f"{number}.py" for number in range(6)]
    for number, train_py in enumerate(files):
        train_py.write_text(f"# {number}")
        one_training(root, train_py)
        for age, ready in enumerate(sorted((root / "ready").iterdir(), key=os.path.getmtime)):
            os.utime(ready, (age, age))
    kept = {each.name for each in (root / "ready").iterdir()}
    assert kept == {compile_cache.ready_of(root, each).name for each in files[-3:]}
    large = tmp_path / "large.py"
    large.write_text("# large")
    assert one_training(root, large, files=5).compiled
    assert not compile_cache.ready_of(root, large).exists()


def test_a_copy_that_fails_is_no_copy(tmp_path, root, monkeypatch):
    train_py = tmp_path / "train.py"
    train_py.write_text("")
    one_training(root, train_py, files=2)

    def half(source, target):
        target.mkdir()
        (target / "kernel 0").write_text("com")
        raise OSError("No space left on device")

    monkeypatch.setattr(compile_cache.shutil, "copytree", half)
    cache = CompileCache(str(root), train_py, root / "work")
    cache.lend()
    assert list(cache.path.iterdir()) == []


def test_a_kill_while_it_is_kept_leaves_no_half_of_it(tmp_path, root, monkeypatch):
    train_py = tmp_path / "train.py"
    train_py.write_text("")

    def killed(folder, target, *bounds):
        target.mkdir(parents=True)
        (target / "kernel 0").write_text("com")
        raise KeyboardInterrupt

    monkeypatch.setattr(compile_cache, "copy_plain_files", killed)
    with pytest.raises(KeyboardInterrupt):
        one_training(root, train_py)
    cache = CompileCache(str(root), train_py, root / "work")
    cache.lend()
    assert list(cache.path.iterdir()) == []
    monkeypatch.undo()
    one_training(root, train_py)
    assert (compile_cache.ready_of(root, train_py) / "kernel 0").read_text() == "compiled"


def test_without_room_nothing_is_kept_and_the_training_goes_on(tmp_path, root, monkeypatch):
    train_py = tmp_path / "train.py"
    train_py.write_text("")

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(compile_cache, "copy_plain_files", full)
    assert one_training(root, train_py).compiled
    assert [each.name for each in root.iterdir()] == []


def test_a_place_that_cannot_be_written_is_the_machines_fault(tmp_path, root):
    root.write_text("no folder")
    result, _ = train(tmp_path / "run", FILE, compile_cache=str(root))
    assert result["status"] == "infrastructure" and result["sure"]
    assert "could not be started" in result["cause"]


def test_a_run_begins_without_what_a_deleted_one_of_its_name_had_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(compile_cache, "LOCAL_BYTES", 0)
    places = [local_folder(tmp_path / "results" / str(number)) for number in range(13)]
    for age, place in enumerate(places):
        (place / "promoted").mkdir(parents=True)
        os.utime(place, (age, age))
    forget_earlier_runs(tmp_path / "results" / "12")
    assert {each for each in places if each.exists()} == set(places[2:12])
    monkeypatch.setattr(compile_cache, "LOCAL_BYTES", 2**62)
    run = tmp_path / "results" / "elsewhere"
    (run / "compile_cache" / "promoted").mkdir(parents=True)
    (run / "run.json").touch()
    forget_earlier_runs(run)
    assert [each.name for each in run.iterdir()] == ["run.json"]


def test_compiled_code_is_on_the_local_disk_unless_the_place_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(compile_cache, "LOCAL_BYTES", 0)
    runs = [tmp_path / "results" / name for name in ("nov23", "nov24")]
    places = {local_folder(run) for run in runs}
    assert len(places) == 2 and {place.parent.parent for place in places} == {tmp_path}
    (mine,) = {place.parent for place in places}
    assert mine.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(compile_cache, "LOCAL_BYTES", 2**62)
    assert local_folder(runs[0]) == runs[0] / "compile_cache"
    monkeypatch.setattr(compile_cache, "LOCAL_BYTES", 0)
    mine.chmod(0o777)
    assert local_folder(runs[0]) == runs[0] / "compile_cache"
    mine.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    mine.symlink_to(tmp_path / "elsewhere")
    assert local_folder(runs[0]) == runs[0] / "compile_cache"


def test_behind_the_wall_other_files_compiled_code_is_not_there(tmp_path, root, bubblewrap):
    found(tmp_path / "best", FILE, root)
    looks = FILE.replace(
        "print('found'", "print('beside', os.listdir(cache + '/..'))\nprint('found'"
    )
    result, log = train(tmp_path / "idea", looks, compile_cache=str(root))
    assert result["status"] == "ok" and "beside ['private']" in log
    assert (root / "ready").is_dir()
