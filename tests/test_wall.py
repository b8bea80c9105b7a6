"""The wall: what a child behind it sees, writes, reaches and leaves behind, with real children; and how it is chosen."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from checkout import ROOT

from harness.lab import wall
from harness.lab.wall import VARIABLE, WallError, find_wall, try_bubblewrap


@pytest.fixture
def bubblewrap():
    found = try_bubblewrap()
    if not found.walled:
        pytest.skip(f"bubblewrap: {found.why}")
    return found


@pytest.fixture
def places(tmp_path):
    """A data folder with rows and private rows, results, the user's own text (a file), and a folder to work in."""
    for name in ("data/train", "data/private", "results/t/run", "own"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/train/rows.bin", "data/private/val.bin", "results/t/weights", "text.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def run(found, places: Path, code: str, hidden: tuple = ()) -> subprocess.CompletedProcess:
    command = found.enclose(
        [sys.executable, "-S", "-c", "import os, sys\n" + code],
        own=[places / "own"], readable=[places / "data" / "train"], hidden=[places / "data", places / "results", places / "text.txt", *hidden],
    )  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, cwd=places / "own", timeout=60)


def test_only_what_it_needs_is_visible(bubblewrap, places):
    code = f"""
def read(path):
    try:
        return open(path).read()
    except OSError:
        return ""

p, root = {str(places)!r}, {str(ROOT)!r}
print([read(p + "/" + name) for name in ("data/train/rows.bin", "data/private/val.bin", "results/t/weights", "text.txt")])
print([os.path.exists(root + name) for name in ("/harness/scoring", "/tests", "/results")], os.getcwd() == p + "/own")
print(os.listdir({str(Path.home())!r}))
"""
    done = run(bubblewrap, places, code)
    texts, visible, home = done.stdout.splitlines() or [done.stderr] * 3
    assert texts == "['data/train/rows.bin', '', '', '']" and visible == "[True, False, False] True"
    assert [name for name in eval(home) if not sys.base_prefix.startswith(str(Path.home() / name))] == []


def test_nothing_is_writable_but_its_own_folder(bubblewrap, places):
    targets = [str(places / name) for name in ("data/train/rows.bin", "own/made")] + [
        str(ROOT / "harness" / "made"),
        "/etc/made",
        "/made",
    ]
    code = f"""
for path in {targets!r}:
    try:
        open(path, "w").close()
        print("wrote", path)
    except OSError as error:
        print(error.strerror)
"""
    done = run(bubblewrap, places, code)
    assert done.stdout.splitlines() == [
        "Read-only file system",
        f"wrote {targets[1]}",
        *["Read-only file system"] * 3,
    ], done.stderr
    assert (places / "own" / "made").exists() and (places / "data/train/rows.bin").read_text() == "data/train/rows.bin"


def test_there_is_no_network_and_no_other_process(bubblewrap, places):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
print(sorted(name for name in os.listdir("/proc") if name.isdigit()), os.getuid() == {os.getuid()})
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 5)
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
        seen, reached = run(bubblewrap, places, code).stdout.splitlines()
    assert len(eval(seen[: seen.index("]") + 1])) <= 2 and reached != "connected"


def test_a_process_that_left_its_session_ends_with_it(bubblewrap, places):
    word = f"wall-{os.getpid()}-{time.monotonic_ns()}"
    code = f"""
import subprocess, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)", {word!r}], start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""
    command = bubblewrap.enclose([sys.executable, "-S", "-c", "import sys\n" + code], own=[places / "own"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"started\n"

    def living() -> list[int]:
        return [p.pid for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[-1] == word]

    assert living()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while living() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living() == []


@pytest.mark.parametrize("code, expected", [("os.kill(os.getpid(), 9)", -9), ("sys.exit(3)", 3), ("pass", 0)])
def test_how_a_child_ended_is_told_as_without_a_wall(bubblewrap, places, code, expected):
    assert bubblewrap.returncode(run(bubblewrap, places, code).returncode) == expected


@pytest.mark.parametrize("path", ["/", "/usr", "/nowhere/at/all"])
def test_what_cannot_be_hidden_does_no_harm(bubblewrap, places, path):
    assert run(bubblewrap, places, "print('here')", hidden=(Path(path),)).stdout == "here\n"


def test_what_is_written_by_one_child_is_not_seen_by_the_next(bubblewrap, places):
    targets = ["/tmp/left", "/var/tmp/left", "/dev/shm/left", str(Path.home() / "left")]
    write = f"for path in {targets!r}:\n    open(path, 'w').close()\nprint('written')"
    assert run(bubblewrap, places, write).stdout == "written\n"
    assert run(bubblewrap, places, f"print([path for path in {targets!r} if os.path.exists(path)])").stdout == "[]\n"
    assert not [path for path in targets if os.path.exists(path)]


def test_limits_leave_the_command_as_it_is_and_claim_nothing(monkeypatch):
    monkeypatch.setenv(VARIABLE, "limits")
    found = find_wall()
    assert found.kind == "limits" and not found.walled and found.enclose(["x", "y"], own=[]) == ["x", "y"]
    assert found.returncode(137) == 137 and "could read and write whatever you can" in found.words


def test_without_bubblewrap_there_are_limits_and_the_reason(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(wall.shutil, "which", lambda name: None)
    try_bubblewrap.cache_clear()
    try:
        assert find_wall().kind == "limits" and "apt install bubblewrap" in find_wall().why
        with pytest.raises(WallError, match="not installed"):
            find_wall("bubblewrap")
    finally:
        try_bubblewrap.cache_clear()


def test_a_bubblewrap_that_is_forbidden_is_found_out_by_trying(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(wall.shutil, "which", lambda name: str(fake))
    try_bubblewrap.cache_clear()
    try:
        assert find_wall("auto").kind == "limits" and "No permissions to create new namespace" in find_wall("auto").why
    finally:
        try_bubblewrap.cache_clear()


def test_a_wall_that_does_not_exist_is_refused():
    with pytest.raises(WallError, match="auto, bubblewrap, limits"):
        find_wall("docker")
