"""Worker processes: results in order, bounded, and no process left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT
from waiting import wait_until

from harness.data.workers import map_in_processes
from harness.ground.errors import DataError


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_no_worker_outlives_a_killed_prepare(tmp_path):
    script = (
        "import time; from harness.data.workers import map_in_processes\n"
        "naps = map_in_processes(time.sleep, [0.01, 0.01, 1, 1], 2)\n"
        "next(naps); print('ready', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    workers = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_dead_worker_is_a_clear_error_and_exceptions_come_through():
    with pytest.raises(DataError, match="fewer workers"):
        list(map_in_processes(os._exit, [1, 1, 1], 2))
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(divmod_of, [(1, 0), (1, 1)], 2))


def divmod_of(pair):
    return divmod(*pair)


def touch(path_and_seconds):
    path, seconds = path_and_seconds
    time.sleep(seconds)
    path.touch()
    return path.name


def test_results_come_in_the_order_of_the_tasks_and_few_are_begun_ahead(tmp_path):
    tasks = [(tmp_path / str(number), 0.3 * (number == 0)) for number in range(12)]
    results = map_in_processes(touch, tasks, 2, ahead=4)
    assert next(results) == "0"
    time.sleep(0.5)
    # The caller has asked for no other.
    assert {path.name for path in tmp_path.iterdir()} <= {"0", "1", "2", "3"}
    assert list(results) == [str(number) for number in range(1, 12)]
