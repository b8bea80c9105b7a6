"""Other ways in which a night dies, or is thought to.

Signals, a closed terminal, processes that are stopped, the power gone.

In: a night that can be started, and the number of its next experiment. Out: what the night did, and
what was wrong afterwards. Triggered by the state of the journal, as all kills are.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass

from killing.kills import BY_NAME, LOOK_SECONDS, NIGHT_SECONDS, SmallNight, cost, findings

TRAINING = BY_NAME["run started, training"]
STOPPED_AT_ONCE = 130


@dataclass(frozen=True)
class Met:
    """words: what the night did, for a table; wrong: sentences."""

    words: str
    wrong: tuple[str, ...]


def meet(name: str, night: SmallNight, experiment: int) -> Met:
    """Bring the fault about in the middle of a training, let the night finish it, and look."""
    said, expected = OTHERS[name](night, experiment)
    wrong: list[str] = []
    status = night.wait()
    if status != expected:
        wrong.append(f"the night ended with {status}, expected {expected}: {night.last_words()}")
    if status != 0:
        wrong += [f"process {pid} is left" for pid in night.wait_until_gone()]
        night.start(experiment)
        if (status := night.wait()) != 0:
            wrong.append(f"started again, the night ended with {status}: {night.last_words()}")
    lost = cost(night, experiment)
    return Met(
        f"{said}; {f'the run is {lost} and repeated' if lost else 'nothing is lost'}",
        (*wrong, *findings(night, experiment)),
    )


def close_terminal(night: SmallNight, experiment: int) -> tuple[str, int]:
    """An SSH window that is closed.

    The terminal hangs up, and the kernel sends SIGHUP to all in its foreground.
    """
    ours, theirs = pty.openpty()
    night.start(
        experiment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    _wait_draining(night, experiment, ours)
    os.killpg(night.process.pid, signal.SIGHUP)  # what a login shell does, besides
    os.close(ours)
    return "goes on without a terminal", 0


def _wait_draining(night: SmallNight, experiment: int, terminal: int) -> None:
    """Wait for the training, reading what the night writes meanwhile.

    A terminal that nobody reads stands still.
    """
    until = time.monotonic() + NIGHT_SECONDS
    while (
        not night.is_at(TRAINING, experiment)
        and night.process.poll() is None
        and time.monotonic() < until
    ):
        try:
            os.read(terminal, 65_536)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        except OSError:  # it ended and closed the terminal
            break


def strike_driver(
    number: int, said: str, expected: int
) -> Callable[[SmallNight, int], tuple[str, int]]:
    """A signal to the driver in mid-training."""

    def fault(night: SmallNight, experiment: int) -> tuple[str, int]:
        night.start(experiment + 1 if said.startswith("finishes") else experiment)
        night.strike(TRAINING, "driver", experiment, number)
        return said, expected

    return fault


def interrupt_twice(night: SmallNight, experiment: int) -> tuple[str, int]:
    """Ctrl-C again once the first was answered."""
    night.start(experiment)
    night.strike(TRAINING, "driver", experiment, signal.SIGINT)
    while (
        "Ctrl-C again stops at once" not in night.log.read_text() and night.process.poll() is None
    ):
        time.sleep(LOOK_SECONDS)
    night.process.send_signal(signal.SIGINT)
    return "stops at once, status 130", STOPPED_AT_ONCE


def stop_driver(night: SmallNight, experiment: int) -> tuple[str, int]:
    """Ctrl-Z, and fg when the experiment is over."""
    night.start(experiment)
    driver = night.strike(TRAINING, "driver", experiment, signal.SIGSTOP)
    until = time.monotonic() + NIGHT_SECONDS
    while driver and not any(
        e["event"] == "committed" and e["experiment"] == experiment for e in night.entries()
    ):
        if time.monotonic() > until:
            break
        time.sleep(LOOK_SECONDS)
    night.process.send_signal(signal.SIGCONT)
    return "the experiment is finished without it; continued, it goes on", 0


def stop_trainer(night: SmallNight, experiment: int) -> tuple[str, int]:
    """A training that is stopped, not dead: nothing of it moves any more."""
    night.start(experiment)
    night.strike(TRAINING, "trainer", experiment, signal.SIGSTOP)
    return "sees that nothing comes from it any more, and ends it", 0


def cut_power(night: SmallNight, experiment: int) -> tuple[str, int]:
    """Every process at once."""
    night.start(experiment)
    night.strike(TRAINING, "driver", experiment)
    night.end()
    return "started again, it goes on", -signal.SIGKILL


OTHERS: dict[str, Callable[[SmallNight, int], tuple[str, int]]] = {
    "the terminal is closed (SIGHUP to its whole session)": close_terminal,
    "Ctrl-C once": strike_driver(signal.SIGINT, "finishes the experiment and stops, status 0", 0),
    "Ctrl-C twice": interrupt_twice,
    "SIGTERM to the driver": strike_driver(
        signal.SIGTERM, "stops at once, status 130", STOPPED_AT_ONCE
    ),
    "the driver is stopped (SIGSTOP), and continued after the experiment": stop_driver,
    "the trainer is stopped (SIGSTOP) for good": stop_trainer,
    "all processes die at once": cut_power,
}
