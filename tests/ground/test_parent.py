"""A command that ends with the process that started it."""

import subprocess
import sys

import psutil
import pytest
from waiting import wait_until

BEGINS = """
import subprocess, sys
from harness.ground.parent import ending_with_me
child = subprocess.Popen(ending_with_me([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the next start cleans up there")
def test_a_command_ends_with_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", BEGINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = psutil.Process(int(parent.stdout.readline()))
    # It becomes the command; while it does, it has no command line.
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    wait_until(lambda: child.cmdline() == command)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
