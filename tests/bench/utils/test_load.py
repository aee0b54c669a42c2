"""What other processes take while something is timed."""

import os
from types import SimpleNamespace

import pytest

from bench.utils import load

KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


@pytest.fixture
def machine(monkeypatch):
    """A machine whose counters are set by hand: hundredths of each kind, own seconds, and the time."""
    state = SimpleNamespace(now=0.0, own=0.0, times=None)

    def set_to(now, own, *hundredths):
        state.now, state.own = now, own
        state.times = SimpleNamespace(**dict(zip(KINDS, (n / 100 for n in hundredths), strict=True)))

    state.set = set_to
    monkeypatch.setattr(load.psutil, "cpu_times", lambda: state.times)
    monkeypatch.setattr(load.time, "perf_counter", lambda: state.now)
    monkeypatch.setattr(load.os, "times", lambda: os.times_result((state.own, 0, 0, 0, 0)))
    monkeypatch.setattr(load.os, "cpu_count", lambda: 2)
    return state


def test_what_others_take_is_told_in_cores(machine):
    machine.set(10.0, 1.0, 100, 50, 30, 900, 5, 0, 0, 20, 999, 999)
    with load.other_load() as found:
        # In 4 s: 5 s of work in user, nice, system and interrupts, 1.2 s of the hypervisor, 3 s our own.
        machine.set(14.0, 4.0, 300, 250, 110, 1900, 95, 10, 10, 140, 5000, 5000)
    assert found.cores == pytest.approx((5 + 1.2 - 3) / 4)
    assert "used 0.8 of 2 cores" in load.load_note(found.cores)


def test_nothing_is_told_of_an_idle_machine(machine):
    machine.set(0.0, 0.0, *[0] * 10)
    with load.other_load() as found:
        machine.set(10.0, 10.5, 1000, 0, 60, 900, *[0] * 6)
    assert found.cores == pytest.approx(0.01) and load.load_note(found.cores) is None


def test_nothing_is_told_of_moments(machine):
    machine.set(0.0, 0.0, *[0] * 10)
    with load.other_load() as found:
        machine.set(0.1, 0.0, 100, *[0] * 9)
    assert found.cores is None


def test_the_counters_of_this_machine_are_read(monkeypatch):
    monkeypatch.setattr(load, "LEAST_SECONDS", 0.0)
    with load.other_load() as found:
        sum(range(10**6))
    assert found.cores >= 0 and load.load_note(None) is None
