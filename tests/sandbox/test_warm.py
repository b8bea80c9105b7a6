"""The warm start of these tests' trainings: it happens, and changes nothing that they see."""

import os
import subprocess
import sys

import pytest
import warm
from small_trainings import train

from harness.sandbox.child import child_command

LOOK = """
import os, sys, time
print(time.process_time())
print("torch" in sys.modules, os.getppid(), os.getsid(0) == os.getpid(), os.getcwd())
print([name for name in sys.modules if name.startswith(("harness", "test"))])
print(sys.argv, sys.stdin.read() == "", sorted(os.listdir("/proc/self/fd"), key=int)[:-1])
print(sorted(os.environ))
raise SystemExit(3)
"""


def test_a_warm_training_is_a_child_of_ours_and_sees_what_a_cold_one_sees(tmp_path, monkeypatch):
    if subprocess.Popen is not warm.WarmPopen:
        pytest.skip("these tests start their trainings cold")
    seconds, logs = [], []
    for folder in (tmp_path / "warm", tmp_path / "cold"):
        result, log = train(folder, LOOK)
        assert "exit status 3" in result["cause"], log
        first, _, rest = log.replace(str(folder), "").partition("\n")
        seconds.append(float(first))
        logs.append(rest)
        monkeypatch.setattr(subprocess, "Popen", warm.WarmPopen.__base__)
    assert logs[0] == logs[1] and logs[0].startswith(f"True {os.getpid()} True /run/work\n")
    assert seconds[0] < seconds[1] / 3


def test_what_imports_torch_is_known_by_its_command():
    assert all(warm.is_warm(child_command(module, "0")) for module in warm.MODULES)
    assert not warm.is_warm([sys.executable, "-c", "pass"]) and not warm.is_warm("true")
