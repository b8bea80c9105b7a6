"""The rules of style that a linter can hold, 100 columns among them."""

import subprocess
import sys

from checkout import ROOT


def test_the_linter_finds_nothing_in_the_whole_repository():
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
