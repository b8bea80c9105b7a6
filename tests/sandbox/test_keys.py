"""A key is where the propose process finds it and nobody else.

Real processes, real files, the real wall.
"""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from checkout import ROOT
from labs import without_keys

from harness.sandbox import child, keys, wall
from harness.sandbox.child import child_environment
from harness.sandbox.processes import identity

PLANTED = "sk-planted-4f1c"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder of its own, and no key but a test's."""
    without_keys(monkeypatch, tmp_path)
    return tmp_path


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_process_started_with_a_key_begins_again_without_it_and_its_file_goes_when_it_ends(home):
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from harness.sandbox import keys\n"
        "keys.start_without(keep=True)\n"
        "path, extra = keys.for_proposer()\n"
        "start = ''.join(Path('/proc/self', name).read_text() for name in ('environ', 'cmdline'))\n"
        "print(json.dumps({\n"
        "    'file': path, 'key': Path(path).read_text(),\n"
        "    'mode': Path(path).stat().st_mode & 0o777, 'extra': extra, 'start': start,\n"
        "    'environ': dict(os.environ), 'argv': sys.argv,\n"
        "}))\n"
        "keys.forget()\n"
    )
    environment = os.environ | {keys.KEY: f" {PLANTED}\n", keys.BASE_URL: "http://127.0.0.1:1/v1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "a b"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["key"] == PLANTED and found["mode"] == 0o600 and found["argv"] == ["-c", "a b"]
    assert found["extra"] == {keys.BASE_URL: "http://127.0.0.1:1/v1"}
    assert (
        PLANTED not in found["start"]
        and PLANTED not in json.dumps(found["environ"])
        and "a b" in found["start"]
    )
    assert Path(found["file"]).is_relative_to(home) and not Path(found["file"]).is_relative_to(ROOT)
    assert not Path(found["file"]).exists()


def test_only_files_of_the_dead_are_forgotten_with_ones_own(home):
    own = keys.write_key(PLANTED)
    assert own.read_text() == PLANTED and mode(own) == 0o600 and mode(own.parent) == 0o700
    host, _, who = own.stem.rsplit(",", 2)
    parent = os.getppid()
    living, reused = (
        own.with_name(f"{host},{parent},{each}.key") for each in (identity(parent), f"1{who}")
    )
    elsewhere = own.with_name(f"another-{host},{2**22 + 1},{who}.key")
    for path in (living, reused, elsewhere):
        path.write_text(PLANTED)
    keys.forget()
    assert [path.exists() for path in (own, living, reused, elsewhere)] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="there the date of a process's start moves with the clock",
)
def test_a_clock_that_is_set_takes_no_living_night_its_key(home, monkeypatch):
    own = keys.write_key(PLANTED)
    booted = psutil.boot_time() + 60
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted)
    keys.forget_dead()
    assert own.exists()


def test_edited_code_behind_the_wall_does_not_see_the_file(tmp_path, bubblewrap):
    path = keys.write_key(PLANTED)
    work = tmp_path / "work"
    work.mkdir()
    command = [
        sys.executable,
        "-c",
        f"import os; print(os.path.exists({str(path)!r}), len(os.environ) > 2)",
    ]
    walled = bubblewrap.enclose(command, own=[work], readable=[], hidden=[], device="cpu")
    run = {"env": child_environment(), "capture_output": True, "text": True, "check": True}
    assert subprocess.run(command, **run).stdout.split() == ["True", "True"]
    assert subprocess.run(walled, **run).stdout.split() == ["False", "True"]


def test_a_key_file_of_ones_own_must_be_private_and_hidden(home, monkeypatch):
    path = home / "my key"
    path.write_text(PLANTED)
    path.chmod(0o640)
    monkeypatch.setenv(keys.KEY_FILE, str(path))
    with pytest.raises(keys.KeyFileError, match="chmod 600 '.*my key'"):
        keys.for_proposer()
    path.chmod(0o600)
    monkeypatch.setenv(keys.KEY_FILE, "~/my key")
    monkeypatch.setenv(keys.KEY, "sk-another")
    assert keys.for_proposer() == (str(path), {})
    keys.forget()
    assert path.exists()
    monkeypatch.setenv(keys.KEY_FILE, "/usr/share/key")
    with pytest.raises(keys.KeyFileError, match="edited code could read .* home folder"):
        keys.for_proposer()


def test_the_propose_process_gets_the_key_and_the_way_to_the_endpoint_and_nobody_else_does(
    monkeypatch,
):
    assert (
        keys.for_proposer() == ("", {})
        and not keys.has_endpoint()
        and keys.has_endpoint("base_url=http://x/v1")
    )
    for name, value in {
        keys.KEY: PLANTED,
        "https_proxy": "http://p:1",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)
    assert (
        keys.for_proposer() == ("", {keys.KEY: PLANTED, "https_proxy": "http://p:1"})
        and keys.has_endpoint()
    )
    monkeypatch.setenv(keys.KEY_FILE, "~/key")
    passed = child_environment()
    assert not {keys.KEY, keys.KEY_FILE, "https_proxy"} & set(passed)


def test_what_an_exported_key_means_is_said_and_depends_on_the_wall(monkeypatch):
    assert keys.exposure(walled=False) == ""
    monkeypatch.setenv(keys.KEY, PLANTED)
    walled, bare = keys.exposure(walled=True), keys.exposure(walled=False)
    assert "cannot see it" in walled and "edited code can read it" in bare and keys.KEY_FILE in bare
    assert PLANTED not in walled + bare


def test_where_no_hidden_place_can_be_written_there_is_no_file(home, monkeypatch):
    (home / ".cache").write_text("a file, not a folder")
    monkeypatch.setattr(keys, "SCRATCH", ())
    monkeypatch.setattr(keys.tempfile, "gettempdir", lambda: "/usr")
    with pytest.raises(keys.KeyFileError, match="no place to keep the key of OPENAI_API_KEY in"):
        keys.write_key(PLANTED)


def test_what_a_card_needs_reaches_a_child_and_nothing_that_could_be_a_key(monkeypatch):
    needed = (
        *(
            "HF_HOME",
            "KERNELS_CACHE",
            "TRITON_LIBCUDA_PATH",
            "TRITON_PTXAS_PATH",
            "TORCHINDUCTOR_COMPILE_THREADS",
            "ROCM_PATH",
            "HIP_PATH",
        ),
        *(
            "HSA_ENABLE_SDMA",
            "PYTORCH_HIP_ALLOC_CONF",
            "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
            "CUDA_MPS_PIPE_DIRECTORY",
        ),
        *("CUDA_CACHE_PATH", "USER", "LOGNAME"),
    )
    for name in (*needed, "HSA_SECRET_TOKEN", "HF_TOKEN", "TRITON_KEY"):
        monkeypatch.setenv(name, "/x")
    passed = child_environment()
    assert set(needed) <= set(passed) and not {"HSA_SECRET_TOKEN", "HF_TOKEN", "TRITON_KEY"} & set(
        passed
    )
    assert not [name for name in child.PASSED_ON if child.A_KEY.search(name)]
    monkeypatch.delenv("USER")
    monkeypatch.delenv("LOGNAME")
    # Where the id has no name, torch would ask for one.
    assert child_environment()["LOGNAME"] == f"user{os.getuid()}"


def test_what_those_variables_name_can_be_read_behind_the_wall(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(tmp_path / "ptxas"))
    assert str(tmp_path / "ptxas") in wall.python_paths()
