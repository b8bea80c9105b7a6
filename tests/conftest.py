"""Fixtures that several test modules share."""

import collections
import compileall
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from labs import baseline, cache, lab, shared  # noqa: F401 - fixtures
from warm import WarmPopen

from harness.sandbox.wall import VARIABLE, Wall, find_wall

ROOT = Path(__file__).parents[1]
# Else each child does it anew: none of them may write it.
compileall.compile_dir(ROOT / "harness", quiet=1)
# A shell's background job ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Of torch in the tests' own processes: small matrices take twenty times as long on threads that
# wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# nbformat imports it through jsonschema, which does without: its grammar takes two seconds to
# build.
sys.modules["rfc3987_syntax"] = None
# Children find the package in a bare checkout.
os.environ.setdefault("PYTHONPATH", str(ROOT))
# A training without bubblewrap starts in a tenth of the time (see `warm`); what is about the wall
# asks for it.
os.environ.setdefault(VARIABLE, "limits")
if os.environ[VARIABLE] == "limits" and sys.platform.startswith("linux"):
    subprocess.Popen = WarmPopen


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A made-up corpus, prepared: bytes as vocabulary, T = 64, 4,096 evaluation tokens."""
    from fake_source import FakeSource, make_texts

    from harness.data.prepare import DataSpec, prepare

    folder = tmp_path_factory.mktemp("data")
    return prepare(
        DataSpec(FakeSource(make_texts(400)), 256, 64, 4096, folder),
        workers=1,
        progress=lambda line: None,
    )


def pytest_addoption(parser):
    words = "run the large tables of like cases whole, and not a fixed sample of them"
    parser.addoption("--whole-tables", action="store_true", help=words)


@pytest.fixture
def whole_tables(pytestconfig) -> bool:
    """Whether a table of like cases is run whole."""
    return pytestconfig.getoption("--whole-tables")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, by the seconds that these may take.

    The last file of all would have one worker to itself while the others wait.
    """
    seconds = collections.Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            limit = item.get_closest_marker("timeout")
            seconds[item.path] += limit.args[0] if limit else 300
    items.sort(key=lambda item: -seconds[item.path])


def pytest_sessionfinish(session):
    """No night that a test has started goes on after it: it would train for hours."""
    base = str(session.config._tmp_path_factory.getbasetemp())
    nights = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "overnight" in (words := process.info["cmdline"] or []) and base in " ".join(words)
    ]
    for night in nights:
        night.kill()
    if nights:
        raise AssertionError(f"tests left nights behind: {[each.info for each in nights]}")


def pytest_runtest_setup(item):
    """A test marked gpu skips itself where there is no CUDA card."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA card")


@pytest.fixture(scope="session")
def chromium():
    """executable_path for playwright's chromium.launch; None is playwright's own.

    The system's browser comes first.

    Without either the test is skipped; in continuous integration it fails, lest nobody notice that
    nothing was looked at.
    """
    from environment.browser import find_chromium
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        with sync_playwright() as driver:
            if not Path(driver.chromium.executable_path).exists():
                miss = pytest.fail if os.environ.get("CI") else pytest.skip
                miss(
                    "no chromium: install one"
                    " (Debian: apt install chromium) or run scripts/test.py --all"
                )
    return path


@pytest.fixture
def bubblewrap(monkeypatch) -> Wall:
    """Runs are behind this wall; the test is skipped where it cannot be made."""
    found = find_wall("auto")
    if not found.walled:
        pytest.skip(f"bubblewrap: {found.why}")
    monkeypatch.setenv(VARIABLE, "bubblewrap")
    return found


@pytest.fixture(params=["bubblewrap", "limits"])
def each_wall(request, monkeypatch) -> str:
    """Runs are behind this wall."""
    if request.param == "bubblewrap":
        request.getfixturevalue("bubblewrap")
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param
