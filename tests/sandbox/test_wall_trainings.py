"""Trainings and model servers behind each wall: what they leave, how they end.

Nothing outlives them.
"""

import json
import os
import sys
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
from living import alive_with
from small_trainings import HONEST, OPEN, train
from test_runner import KILL
from test_untrusted_files import clear

from harness.run.settings import score_settings
from harness.sandbox import disk_share
from harness.sandbox.wall import Wall, find_wall
from harness.scoring.measure import Measurement


def test_an_honest_training_passes_each_wall_and_its_result_names_it(tmp_path, each_wall):
    result, log = train(tmp_path, HONEST)
    assert result["status"] == "ok" and result["wall"] == each_wall, (result, log)
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_a_training_killed_by_the_system_ran_out_of_memory_behind_each_wall(
    tmp_path, each_wall, monkeypatch
):
    # A system that does not say whom it killed.
    monkeypatch.setattr("harness.sandbox.runner.memory_kills", lambda: None)
    result, _ = train(tmp_path, KILL)
    assert result["status"] == "oom"


@pytest.mark.slow
def test_a_training_is_limited_behind_each_wall(tmp_path, each_wall):
    code = (
        "import json, resource as r\n"
        "limits = r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_CORE\n"
        "print(json.dumps([r.getrlimit(limit)[1] for limit in limits]))\n"
        "lines = [line.split() for line in open('/proc/self/status')]\n"
        "print([words[1] for words in lines if words[0].startswith('NoNewPrivs')])\n"
        "print(open('/proc/self/oom_score_adj').read())\n"
    )
    _, log = train(tmp_path, code)
    limits, privileges, goes_first = log.splitlines()[:3]
    size, descriptors, core = json.loads(limits)
    assert 0 < size <= 20e9 and 0 < descriptors <= 4096 and core == 0
    assert (privileges, goes_first) == ("['1']", "1000") or not sys.platform.startswith("linux")


STAY = """
import os, subprocess, sys
def stay(token, **how):
    command = [sys.executable, "-c", "import time; time.sleep(600)", token]
    subprocess.Popen(command, start_new_session=True, **how)
"""


def test_no_process_outlives_a_training_by_leaving_its_group(tmp_path, each_wall):
    tokens = [uuid.uuid4().hex for _ in range(3)]
    leave = (
        STAY + f"stay({tokens[0]!r})\nstay({tokens[1]!r}, cwd='/')\nstay({tokens[2]!r}, env={{}})\n"
    )
    result, _ = train(tmp_path, leave + HONEST)
    assert result["status"] == "ok"
    assert [token for token in tokens if alive_with(token)] == []


@pytest.mark.slow
def test_only_without_bubblewrap_can_a_process_stay_that_hides_both_its_mark_and_its_folder(
    tmp_path, each_wall
):
    token = uuid.uuid4().hex
    train(tmp_path, STAY + f"stay({token!r}, env={{}}, cwd='/')\n" + HONEST)
    stayed = alive_with(token)
    for process in stayed:
        process.kill()
    assert len(stayed) == (1 if each_wall == "limits" else 0)


@pytest.mark.slow
def test_a_training_that_is_ended_late_leaves_nothing_alive_behind_each_wall(tmp_path, each_wall):
    token = uuid.uuid4().hex
    result, _ = train(
        tmp_path, STAY + OPEN + f"stay({token!r})\nsession.start()\nimport time\ntime.sleep(600)"
    )
    assert result["status"] == "timeout" and alive_with(token) == []


@pytest.mark.slow
def test_what_one_run_leaves_the_next_does_not_see(tmp_path, each_wall):
    spots = (
        "import os, tempfile\n"
        "folders = '.', '..', tempfile.gettempdir(), os.environ['TORCHINDUCTOR_CACHE_DIR']\n"
        "spots = [os.path.join(folder, 'carried') for folder in folders]\n"
    )
    first = (
        spots + "for spot in spots:\n    try: open(spot, 'w').close()\n    except OSError: pass\n"
    )
    train(tmp_path / "first", first + HONEST)
    beyond = (
        "spots += ['/tmp/carried', os.path.expanduser('~/carried')]\n"
        if each_wall == "bubblewrap"
        else ""
    )
    if beyond:
        train(tmp_path / "first again", spots + beyond + first.removeprefix(spots) + HONEST)
    _, log = train(
        tmp_path / "second",
        spots + beyond + "print('seen:', [s for s in spots if os.path.exists(s)])\n",
    )
    assert "seen: []" in log


def test_a_child_cannot_change_its_request_behind_bubblewrap(tmp_path, bubblewrap):
    _, log = train(tmp_path, "import os\nopen(os.environ['AUTORESEARCH_RUN'], 'w')")
    assert "Read-only file system" in log
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 1


NASTY = """
import os
def leave(folder):
    os.mkfifo(folder + "/pipe")
    os.symlink("/etc/passwd", folder + "/link")
    os.symlink("/nowhere", folder + "/dead link")
    open(folder + "/closed", "w").close()
    os.mkdir(folder + "/closed folder")
    os.mkdir(folder + "/closed folder/inner")
    os.chmod(folder + "/closed", 0)
    os.chmod(folder + "/closed folder", 0)
    back = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    for _ in range(2000):
        os.mkdir("d")
        os.chdir("d")
    os.fchdir(back)
"""


@pytest.mark.slow
def test_nothing_that_a_child_leaves_trips_the_runner(tmp_path, each_wall, request):
    request.addfinalizer(lambda: clear(tmp_path))
    leave = (
        NASTY + "cache = os.environ['TORCHINDUCTOR_CACHE_DIR']\n"
        "open(cache + '/kernel', 'w').write('good')\n"
        "leave('.')\n"
        "leave(cache)\n"
    )
    root = tmp_path / "compiled"
    result, log = train(tmp_path, leave + HONEST, compile_cache=str(root))
    assert result["status"] == "ok", (result, log)
    assert not (tmp_path / "run" / "work").exists() and not (root / "private").exists()
    (copy,) = (root / "ready").iterdir()
    assert (copy / "kernel").read_text() == "good"
    assert not [name for name in ("pipe", "link", "dead link") if os.path.lexists(copy / name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        "shutil.rmtree('..', ignore_errors=True)",
        "os.remove('../run.log'); os.mkdir('../run.log'); os.symlink('/etc/passwd', '../run')",
    ],
)
def test_a_training_that_clears_away_the_runs_folder_harms_itself_alone(tmp_path, each_wall, harm):
    tidy = (
        "import os, shutil\n"
        "print('tidying', flush=True)\n"
        f"try: {harm}\n"
        "except OSError: pass\n"
        "print('tidied', flush=True)\n"
    )
    result, log = train(tmp_path, tidy + "raise ValueError('done')")
    assert result["status"] == "crash" and {"tidying", "tidied"} <= set(log.splitlines())
    assert (tmp_path / "run" / "run.log").is_file() and (
        tmp_path / "run" / "events.jsonl"
    ).is_file()


@pytest.mark.parametrize(
    "left",
    [
        "os.symlink('/etc/passwd', name)",
        *(pytest.param(f"os.{make}(name)", marks=pytest.mark.slow) for make in ("mkfifo", "mkdir")),
    ],
)
def test_weights_that_are_no_file_are_a_crash(tmp_path, left):
    end = (
        "import os\n"
        "name = 'weights.safetensors'\n"
        "session._send('stop')\n"
        f"{left}\n"
        "session._send('finish', num_steps=step)\n"
    )
    # Nothing is done for sure after a finish.
    result, _ = train(tmp_path, HONEST.replace("session.finish(model, depth=1)\n", end))
    assert (
        result["status"] == "crash"
        and "weights.safetensors is not a file of its own" in result["cause"]
    )
    assert not os.path.lexists(tmp_path / "run" / "weights.safetensors")


@pytest.mark.parametrize("hold", ["", pytest.param("os.unlink('much')", marks=pytest.mark.slow)])
def test_a_training_that_fills_the_disk_is_ended(tmp_path, monkeypatch, hold):
    monkeypatch.setattr(disk_share, "MOST_BYTES", 8_000_000)
    fill = (
        "import os, time\n"
        "file = open('much', 'wb')\n"
        f"{hold}\n"
        "file.write(os.urandom(16_000_000)); file.flush()\n"
    )
    result, _ = train(tmp_path, fill + "time.sleep(600)", startup_limit_seconds=120)
    assert result["status"] == "crash" and "GB in" in result["cause"]
    assert not (tmp_path / "run" / "work").exists()


def test_a_wall_that_does_not_go_up_is_no_fault_of_the_idea(tmp_path, bubblewrap, monkeypatch):
    broken = Wall("bubblewrap", "", "", str(tmp_path / "bwrap"))
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: no space for a mount' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("harness.sandbox.runner.find_wall", lambda **_: broken)
    result, _ = train(tmp_path, HONEST)
    assert result["status"] == "infrastructure" and "bwrap: no space for a mount" in result["cause"]


@pytest.mark.slow
def test_a_model_server_that_leaves_a_folder_without_end_is_a_crash_that_leaves_nothing(
    tmp_path, each_wall
):
    own, private = tmp_path / "results/run", tmp_path / "data/id/private"
    own.mkdir(parents=True)
    private.mkdir(parents=True)
    (private / "val.bin").write_bytes(bytes(2 * 4 * 65))
    np.save(private / "token_bytes.npy", np.ones(256, dtype=np.int32))
    (own / "weights.safetensors").write_bytes(b"")
    (own / "train.py").write_text(
        "import os\n"
        "for _ in range(2000):\n"
        "    os.mkdir('d'); os.chdir('d')\n"
        "raise ValueError('deep')\n"
    )
    some = SimpleNamespace
    settings = some(
        device={"kind": "cpu"},
        dtype="float32",
        threads=1,
        attention=None,
        profile={"source": "", "startup_limit_seconds": 60},
        budget_seconds=1,
    )
    data = some(
        folder=private.parent,
        private_dir=private,
        train_dir=private,
        manifest={"eval_batch_rows": 4},
        n_vocab=256,
        max_seq_len=64,
    )
    data.rows_path = lambda split: private / f"{split}.bin"
    unchanged = some(changed=lambda: [])
    measurement = Measurement(
        score_settings(settings, data, tmp_path / "results"),
        data,
        unchanged,
        find_wall(),
        own / "train.py",
        own,
    )
    fields = measurement.score(lambda share: None)
    assert (fields["status"], fields["cause"]) == ("crash", "ValueError: deep"), fields
    assert sorted(os.listdir(own)) == ["train.py", "weights.safetensors"]
