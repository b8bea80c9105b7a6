"""Files of a training that says too much, or nonsense: bounded on disk and in memory.

What matters is still known.
"""

import json
import time

import pytest

from harness.sandbox import child_log
from harness.sandbox.child_log import EVENTS_CAP_BYTES, LOG_CAP_BYTES, CappedLog, EventLog

STEP = {"event": "step", "step": 1, "progress": 0.5, "train_loss": 1.0, "tok_per_sec": 1.0}


def event_line(**fields) -> bytes:
    return json.dumps(STEP | fields).encode() + b"\n"


@pytest.fixture
def events(tmp_path):
    told = []
    log = EventLog(tmp_path / "events.jsonl", time.monotonic(), told.append)
    log.told = told
    return log


def test_steps_without_end_are_not_kept_and_the_end_of_training_is_still_known(
    events, tmp_path, monkeypatch
):
    monkeypatch.setattr(child_log, "EVENTS_CAP", 100)
    for _ in range(10):
        events.feed(event_line() * 50)
        # The same event, spelt otherwise.
        events.feed(event_line().replace(b"step", b"\\u0073tep", 1) * 50)
    events.feed(b'{"event": "stop"}\n{"event": "finish", "num_steps": 1000}\n')
    events.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["step"] * 100 + ["stop", "finish"] and len(
        events.told
    ) == 102
    assert events.last["finish"]["num_steps"] == 1000 and events.at("stop") is not None


def test_long_events_end_at_so_many_bytes(events, tmp_path):
    for _ in range(20):
        events.feed(event_line(words="x" * 3_900) * 100)
    events.feed(b'{"event": "finish"}\n')
    events.close()
    assert (
        EVENTS_CAP_BYTES
        <= (tmp_path / "events.jsonl").stat().st_size
        < EVENTS_CAP_BYTES + child_log.STEPS_A_CHUNK * child_log.EVENT_CAP_BYTES
    )
    assert "finish" in events.last


@pytest.mark.parametrize(
    "block", [b"a line of text\n" * 1000, b"y" * 15_000, b"\0" * 15_000, b"\xff\xfe\r" * 5_000]
)
def test_output_without_end_is_counted_and_not_kept(tmp_path, block):
    log = CappedLog(tmp_path / "run.log")
    for _ in range(1_000):
        log.feed(block)
    log.close()
    text = (tmp_path / "run.log").read_text()
    # One chunk more, in characters of three bytes.
    assert len(text.encode()) < LOG_CAP_BYTES + 250_000
    kept = int(text.splitlines()[-1].removeprefix("[").split()[0])
    assert 15_000_000 - LOG_CAP_BYTES - 100_000 < kept <= 15_000_000 and text.endswith(
        " more bytes of output were not kept]\n"
    )


def test_a_file_that_was_put_in_the_logs_place_is_replaced_by_ours(tmp_path):
    log = CappedLog(tmp_path / "run.log")
    log.feed("ours é\n".encode())
    (tmp_path / "run.log").unlink()
    (tmp_path / "run.log").write_text("theirs")
    log.close()
    assert (tmp_path / "run.log").read_text() == "ours é\n"


def test_steps_that_come_all_at_once_are_counted_and_few_of_them_are_told(tmp_path):
    told = []
    log = child_log.EventLog(tmp_path / "events.jsonl", time.monotonic(), told.append)
    step = {"event": "step", "step": 1, "progress": 0.5, "train_loss": 3.0, "tok_per_sec": 1.0}
    log.feed((json.dumps(step) + "\n").encode() * 300 + b'{"event": "stop"}\n')
    log.close()
    assert [event["event"] for event in told] == ["step"] * child_log.STEPS_A_CHUNK + ["stop"]
    assert (
        len((tmp_path / "events.jsonl").read_text().splitlines()) == len(told)
        and log.at("stop") is not None
    )
