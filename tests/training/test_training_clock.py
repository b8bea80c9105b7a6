"""The clock of a training against counters of our own.

What is charged for work, for idling, and beside others.
"""

import os
import time

import pytest

from harness.training import clock


class Machine:
    """Two cores; what the training and others use in each second is said by the test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = self.main = self.total = self.idle = 0.0
        patch.setattr(clock.time, "monotonic", lambda: self.now)
        patch.setattr(clock, "idle_seconds", lambda cpus: self.idle)
        patch.setattr(clock, "own_cpus", lambda: frozenset({0, 1}))

    def start(
        self, rate: float = 0.9, threads: int = 2, worth_beside: float = 1.0
    ) -> clock.CoreClock:
        return clock.CoreClock(rate, worth_beside, threads, lambda: (self.main, self.total))

    def run(self, seconds: float, main: float, total: float, others: float) -> None:
        """Let time pass; the rest in cores."""
        self.now += seconds
        self.main += main * seconds
        self.total += total * seconds
        self.idle += (2 - total - others) * seconds


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_the_template_on_a_quiet_machine_is_charged_wall_time(machine):
    watch = machine.start(rate=0.82)
    machine.run(
        20, main=0.82, total=1.65, others=0.0
    )  # 0.825 a thread; a core is idle for 0.35 of each second
    found = watch.read()
    assert found.charged == pytest.approx(20 * 0.825 / 0.82) and found.others == pytest.approx(0)
    assert (found.wall, found.main, found.total) == pytest.approx((20, 16.4, 33))


@pytest.mark.parametrize("worth", [0.93, 1.0, 1.08])
def test_a_cpu_second_beside_others_counts_for_what_it_is_worth(machine, worth):
    watch = machine.start(rate=0.8, worth_beside=worth)
    for _ in range(10):  # as often as anybody looks; others come and go
        machine.run(1, main=0.96, total=1.8, others=0.0)
        watch.read()
        machine.run(2, main=0.4, total=0.8, others=1.2)
        watch.read()
    assert watch.read().charged == pytest.approx(10 * (0.96 + 0.8 * worth) / 0.8)


def test_who_holds_less_than_half_of_the_cores_counts_in_proportion(machine):
    watch = machine.start(rate=0.8, worth_beside=0.9)
    machine.run(10, main=0.9, total=1.5, others=0.5)  # a quarter
    assert watch.read().charged == pytest.approx(10 * 0.9 * 0.95 / 0.8)


def test_what_is_read_between_two_looks_is_made_good_at_the_next(machine):
    watch = machine.start(rate=0.8, worth_beside=0.9)
    machine.run(clock.LOOK_SECONDS / 2, main=1.0, total=1.0, others=1.0)
    assert watch.read().charged == pytest.approx(clock.LOOK_SECONDS / 2 / 0.8)
    machine.run(clock.LOOK_SECONDS / 2, main=1.0, total=1.0, others=1.0)
    assert watch.read().charged == pytest.approx(
        max(clock.LOOK_SECONDS * 0.9, clock.LOOK_SECONDS / 2) / 0.8
    )


def test_a_quiet_second_is_never_cheaper_than_wall_time(machine):
    watch = machine.start(rate=0.8)
    machine.run(20, main=0.5, total=0.5, others=0.0)
    assert watch.read().charged == pytest.approx(20)


def test_sleeping_beside_others_is_not_paid_for(machine):
    watch = machine.start(rate=0.8)
    machine.run(20, main=0.2, total=0.2, others=1.0)
    assert watch.read().charged == pytest.approx(20 * 0.2 / 0.8)


def test_beside_others_the_main_threads_work_is_charged_whatever_the_wall_time(machine):
    watch = machine.start()
    machine.run(100, main=0.18, total=0.33, others=1.67)
    assert watch.read().charged == pytest.approx(20)


def test_idling_buys_nothing_on_a_quiet_machine(machine):
    watch = machine.start()
    machine.run(20, main=0.1, total=0.1, others=0.0)
    assert watch.read().charged == pytest.approx(20)


def test_one_thread_gains_nothing_beside_others(machine):
    """It does as much in a second of its one thread, which is what is charged."""
    watch = machine.start()
    machine.run(40, main=0.5, total=0.5, others=1.5)
    assert watch.read().charged == pytest.approx(20 / 0.9)


def test_work_moved_from_thread_to_thread_is_charged_as_the_average_of_the_threads(machine):
    watch = machine.start()
    machine.run(20, main=0.0, total=1.8, others=0.2)
    assert watch.read().charged == pytest.approx(20)


def test_the_charge_never_falls_when_others_come(machine):
    watch = machine.start()
    machine.run(10, main=0.1, total=0.1, others=0.0)
    before = watch.read().charged
    machine.run(10, main=0.1, total=0.1, others=1.9)
    assert watch.read().charged == pytest.approx(before) and before == pytest.approx(10)


def test_others_are_looked_at_seldom_since_reading_them_takes_time(machine, monkeypatch):
    watch = machine.start()
    looks = []
    monkeypatch.setattr(clock, "idle_seconds", lambda cpus: looks.append(1) or machine.idle)
    for _ in range(100):
        machine.run(0.01, main=1.0, total=2.0, others=0.0)
        watch.read()
    assert len(looks) == pytest.approx(1 / clock.LOOK_SECONDS, abs=1)


def test_where_the_kernel_does_not_say_who_uses_the_cores_that_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "STAT", tmp_path / "stat")
    with pytest.raises(clock.ClockError, match="cannot be read"):
        clock.idle_seconds(frozenset({0}))
    (tmp_path / "stat").write_text("cpu  1 1 1 1 1\ncpu0 9 0 9 250 50 0 0\nintr 5\n")
    assert clock.idle_seconds(frozenset({0})) == pytest.approx(300 / clock.TICKS)
    with pytest.raises(clock.ClockError, match=r"cores \[1\]"):
        clock.idle_seconds(frozenset({0, 1}))


@pytest.mark.skipif(not clock.STAT.exists(), reason="no /proc/stat")
def test_this_machines_counters_move():
    cpus, watch = clock.own_cpus(), clock.CoreClock(1.0, 1.0, 1, clock.own_cpu_seconds)
    began = time.process_time()
    while time.process_time() - began < 0.3:
        os.getpid()
    found = watch.read()
    assert found.main == pytest.approx(found.total, abs=0.1) and found.charged >= 0.2
    assert clock.idle_seconds(cpus) > 0
