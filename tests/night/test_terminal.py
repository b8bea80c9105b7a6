"""A terminal that takes what it is given, one that takes nothing, and one that is gone."""

import io
import os
import pty

import pytest

from harness.night.terminal import MOST_WAITING, Terminal


@pytest.fixture
def both_ends():
    ours, theirs = pty.openpty()
    stream = open(theirs, "w", encoding="utf-8")  # noqa: SIM115
    yield ours, stream
    stream.close()
    os.close(ours)


def test_what_is_said_is_on_the_terminal_and_in_the_log(both_ends, tmp_path):
    ours, stream = both_ends
    terminal = Terminal(tmp_path / "night.log", stream)
    terminal.status("training \x1b[31m")
    terminal.say("kept ü")
    terminal.close()
    shown = os.read(ours, 4096).decode()
    assert terminal.live and "training" in shown and "kept ü" in shown and "\x1b" not in shown
    assert (tmp_path / "night.log").read_text(encoding="utf-8").endswith("Z kept ü\n")


def test_a_terminal_that_takes_nothing_holds_nobody_up(both_ends, tmp_path):
    terminal = Terminal(tmp_path / "night.log", both_ends[1])
    lines = 20 * MOST_WAITING
    for number in range(lines):  # more than its buffer and the queue hold; nobody reads
        terminal.say(f"{number} {'x' * 100}")
    terminal.close()
    assert len((tmp_path / "night.log").read_text().splitlines()) == lines


def test_a_terminal_that_hung_up_ends_nothing(tmp_path):
    ours, theirs = pty.openpty()
    terminal = Terminal(tmp_path / "night.log", open(theirs, "w"))  # noqa: SIM115
    os.close(ours)
    terminal.say("one")
    terminal.say("two")
    terminal.close()
    assert len((tmp_path / "night.log").read_text().splitlines()) == 2


def test_a_stream_in_memory_is_written_at_once(tmp_path):
    stream = io.StringIO()
    Terminal(tmp_path / "night.log", stream).say("here")
    assert stream.getvalue().endswith("] here\n")
