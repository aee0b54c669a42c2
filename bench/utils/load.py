"""How busy other processes keep the processor while something is timed. Importing this imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

NOTABLE = 0.05  # of all cores; an idle machine keeps below
LEAST_SECONDS = 0.5  # the counters go in hundredths


@dataclass
class OtherLoad:
    """The result of `other_load`.

    Attributes:
        cores: mean number of cores that other processes used; None if the time was too short.
    """

    cores: float | None = None


@contextmanager
def other_load() -> Iterator[OtherLoad]:
    """Watch other processes, and what a hypervisor takes, while something runs in this one.

    Child processes count as others until they have ended: time what has none.
    """
    found = OtherLoad()
    busy, own, began = _busy(), _own(), time.perf_counter()
    yield found
    after, spent = _busy(), time.perf_counter() - began
    if spent >= LEAST_SECONDS:
        found.cores = max(after - busy - (_own() - own), 0.0) / spent


def load_note(cores: float | None) -> str | None:
    """One line on so many busy cores; None where there is nothing to tell."""
    total = os.cpu_count() or 1
    if cores is None or cores < NOTABLE * total:
        return None
    return (
        f"Other processes used {cores:.1f} of {total} cores meanwhile, which slowed this one down. One "
        "thread is affected least (OMP_NUM_THREADS=1)."
    )


def _busy() -> float:
    """Seconds that all cores have worked since the system was started, and that a hypervisor took."""
    times = psutil.cpu_times()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")  # not every system tells all
    return sum(getattr(times, kind, 0.0) for kind in kinds)


def _own() -> float:
    """Seconds that this process has worked, with children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
