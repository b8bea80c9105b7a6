"""CPUs and memory that a process may use: quotas of made-up cgroup trees and of a real one.

The real one is there where the machine allows it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkout import ROOT

from harness.ground import cgroup
from harness.run import profiles, settings
from harness.sandbox.runner import outcome
from harness.training import clock, devices

V2, V1 = Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def count(tmp_path, monkeypatch):
    """From what /proc says and the files of a cgroup tree to cpu_count's answer, on 8 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "root")

    def count(membership: str, **files: str) -> int:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return cgroup.cpu_count()

    return count


def test_without_a_quota_it_is_the_affinity(count):
    assert cgroup.cpu_count() == 8  # no file says anything
    assert count("0::/a\n", **{"a/cpu.max": "max 100000"}) == 8
    assert (
        count("4:cpu:/a\n", **{"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"})
        == 8
    )


@pytest.mark.parametrize(
    "quota, expected",
    [("100000", 1), ("150000", 2), ("200000", 2), ("50000", 1), ("1000", 1), ("1600000", 8)],
)
def test_a_quota_counts_rounded_up(count, quota, expected):
    assert count("0::/a\n", **{"a/cpu.max": f"{quota} 100000"}) == expected
    v1 = {
        "cpu/a/cpu.cfs_quota_us": quota,
        "cpu/a/cpu.cfs_period_us": "100000",
        "a/cpu.max": "max 100000",
    }
    assert count("9:name=systemd:/\n4:cpu:/a\n0::/\n", **v1) == expected


def test_the_smallest_of_all_above_counts(count):
    files = {
        "a/cpu.max": "300000 100000",
        "a/b/cpu.max": "max 100000",
        "a/b/c/cpu.max": "500000 100000",
    }
    assert count("0::/a/b/c\n", **files) == 3
    assert count("0::/a/b/c\n", **files | {"a/b/cpu.max": "20000 10000"}) == 2


def test_mounts_named_by_all_that_share_them_and_version_2_beside_version_1(count):
    shared = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "200000",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
    }
    assert count("5:cpuset:/\n4:cpu,cpuacct:/a\n", **shared) == 2
    assert count("1:cpuset:/\n0::/a\n", **{"unified/a/cpu.max": "300000 100000"}) == 3


def test_in_a_container_the_path_may_be_the_outsides(count):
    """Nothing lies below the mount under that name: the container's own quota is at the top."""
    assert count("0::/system.slice/docker-1a2b.scope\n", **{"cpu.max": "200000 100000"}) == 2
    top = {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}
    assert count("4:cpu:/docker/1a2b\n", **top) == 1


@pytest.mark.parametrize("text", ["", "100000", "a b", "100000 0", "1 2 3"])
def test_what_cannot_be_read_is_no_quota(count, text):
    files = {"a/cpu.max": text, "cpu/a/cpu.cfs_quota_us": text, "cpu/a/cpu.cfs_period_us": ""}
    assert count(f"0::/a\n4:cpu:/a\n{text}\n", **files) == 8


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(512 << 20)}, 512),
        ("0::/a\n", {"a/memory.max": "max", "a/memory.high": str(300 << 20)}, 300),
        ("0::/docker/1a2b\n", {"memory.max": str(256 << 20)}, 256),
        ("5:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": str(1 << 30)}, 1024),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("5:cpu:/a\n", {"memory/a/memory.limit_in_bytes": str(1 << 30)}, None),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        ("0::/a\n", {"a/memory.max": "much"}, None),
        ("", {}, None),
    ],
)
def test_the_smallest_limit_of_memory_counts(tmp_path, monkeypatch, membership, files, limit):
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cgroup.memory_limit_mb() == limit


def test_a_container_that_is_too_small_is_named(monkeypatch):
    monkeypatch.setattr(cgroup, "memory_limit_mb", lambda: 512)
    monkeypatch.setattr(devices, "memory_limit_mb", lambda: 512)
    log, events = SimpleNamespace(last_line=""), SimpleNamespace(last={"launched": {}})
    status, cause = outcome(-signal.SIGKILL, log, events, SimpleNamespace(finished=False), None)
    assert (status, "this container may use 512 MB of memory" in cause) == ("oom", True)
    assert devices.detect_device("cpu", "float32").memory_mb == 512


@pytest.mark.parametrize(
    ("cpus", "limit", "physical", "expected"),
    [(64, 2048, 500_000, 8), (64, None, 500_000, 64), (2, 100, 8000, 1), (4, None, 0, 4)],
)
def test_a_container_with_much_cpu_and_little_memory_gets_few_workers(
    monkeypatch, cpus, limit, physical, expected
):
    """A pod often limits memory and not CPUs: on a large node it sees them all."""
    monkeypatch.setattr(cgroup, "cpu_count", lambda: cpus)
    monkeypatch.setattr(cgroup, "memory_limit_mb", lambda: limit)
    monkeypatch.setattr(cgroup, "physical_memory_mb", lambda: physical)
    assert cgroup.process_count(256) == expected


@pytest.mark.parametrize(("quota", "why"), [("150000", "1.5 of 2 cores"), ("200000", "")])
def test_part_of_a_core_means_wall_time(count, monkeypatch, quota, why):
    """Its training is held up as one under half the quota is, though both threads may run."""
    monkeypatch.setattr(settings, "own_cpus", lambda: frozenset({0, 1}))
    monkeypatch.setattr(settings, "idle_seconds", lambda cpus: 1.0)
    count("0::/\n", **{"cpu.max": f"{quota} 100000"})
    assert why in settings.why_wall_time() and bool(why) == bool(settings.why_wall_time())


@pytest.mark.parametrize(
    "stat",
    [
        "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n",
        "cpu  9 0 9 9 0\ncpu0 9 0 9 9 0\n",
        "cpu0 9 0 9 9 0\ncpu1\n",
        "",
    ],
)
def test_a_system_that_does_not_count_idle_cores_means_wall_time(tmp_path, monkeypatch, stat):
    monkeypatch.setattr(clock, "STAT", tmp_path / "stat")
    (tmp_path / "stat").write_text(stat)
    with pytest.raises(clock.ClockError, match="says nothing of cores"):
        clock.idle_seconds(frozenset({0, 1}))


def test_workers_and_threads_ask_the_same(monkeypatch):
    monkeypatch.setattr(profiles, "cpu_count", lambda: 3)
    assert (
        profiles.worker_threads({"kind": "cpu"}) == 3
        and profiles.worker_threads({"kind": "cuda"}) is None
    )


@pytest.fixture
def half_a_cpu():
    """The cgroup.procs of a real cgroup below one of half a CPU; skips where none can be made."""
    place = next((place for place in (V1, V2, V2.parent) if os.access(place, os.W_OK)), None)
    if place is None:
        pytest.skip("no cgroup tree that this user can write")
    outer = place / f"autoresearch-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        outer.mkdir()
        inner.mkdir()
        if place == V1:
            (outer / "cpu.cfs_period_us").write_text("100000")
            (outer / "cpu.cfs_quota_us").write_text("50000")
        else:
            (outer / "cpu.max").write_text("50000 100000")
        yield inner / "cgroup.procs"
    except OSError as error:
        pytest.skip(f"no cgroup with a CPU quota can be made: {error}")
    finally:
        for group in (inner, outer):
            if group.exists():
                group.rmdir()


def test_a_real_quota_is_found(half_a_cpu):
    code = "from harness.run.profiles import worker_threads as w; print(w({'kind': 'cpu'}))"
    command = [
        "sh",
        "-c",
        'echo $$ > "$0" && exec "$@"',
        str(half_a_cpu),
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
