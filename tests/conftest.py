"""Fixtures that several test modules share."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # fake_source and journals are plain modules beside the tests
os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))  # children of tests find the package in a bare checkout


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A made-up corpus, prepared: bytes as vocabulary, T = 64, 4,096 evaluation tokens."""
    from fake_source import FakeSource, make_texts

    from harness.data.prepare import prepare

    cache = tmp_path_factory.mktemp("cache")
    return prepare(FakeSource(make_texts(400)), 256, 64, 4096, cache=cache, workers=1, progress=lambda line: None)
