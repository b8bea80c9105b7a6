"""A night that dies while a language model is asked: real processes, a real slow server."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI
from killing import kills
from labs import copy_with_harness

from harness.sandbox import keys
from harness.search.llm.exchanges import read_ledger

KEY = "sk-planted-0123456789-in-nothing"
WAIT_SECONDS = 200  # for a night to come so far, on a busy machine
GOOD = """\
Title: A gate that reads half as much
Hypothesis: sixteen channels say enough.
Category: architecture
Expected delta: -0.001

<<<<<<< SEARCH
    GATE_CHANNELS = 32  # the gate of a value embedding reads only these first channels
=======
    GATE_CHANNELS = 16  # the gate of a value embedding reads only these first channels
>>>>>>> REPLACE
"""


def files_with(text: str, folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children end with their parents on Linux only"
)
def test_a_night_killed_while_the_model_is_asked_pays_at_most_that_request_twice(
    tmp_path, cache, monkeypatch, baseline
):
    asked, gone = threading.Event(), threading.Event()

    def answer(body, number):
        if number == 1:
            asked.set()
            gone.wait(WAIT_SECONDS)
        return GOOD

    options = ("--profile", "tiny", "--proposer", "llm")
    night = kills.SmallNight(
        copy_with_harness(baseline, tmp_path / "lab"), cache, wishes="", options=options
    )
    with FakeOpenAI(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        try:
            started = {night.start(1).pid}
            assert asked.wait(WAIT_SECONDS), night.last_words()
            os.kill(night.process.pid, signal.SIGKILL)
            night.process.wait()
            # An answer that nobody waits for is not waited for.
            assert night.wait_until_gone() == []
            started.add(night.start(1).pid)
            assert night.wait() == 0, night.last_words()
        finally:
            gone.set()
            night.end()
    assert kills.findings(night, 1) == []
    assert len(server.bodies) == 2 and server.bodies[0] == server.bodies[1]
    assert {
        headers["authorization"] for headers in server.headers if "authorization" in headers
    } == {f"Bearer {KEY}"}
    # What was in flight may have been paid for.
    assert read_ledger(night.folder / "llm.jsonl").usage().requests == 2
    first = night.state().experiments[1].attempts[0].proposed
    assert (first["proposer"], first["title"]) == ("llm", "A gate that reads half as much")
    assert (
        json.loads((night.folder / "experiments/0001/attempts/00/proposal.json").read_text())[
            "model"
        ]
        == "scripted"
    )
    assert files_with(KEY, tmp_path) == [] and not started & {pid for _, pid, _ in keys.files()}
