"""Leases: one holder at a time, named to the others; the dead are followed by one, the living by none."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.utils import leases
from bench.utils.leases import Lost, Watch, claim, held, in_use, look
from registry.errors import UsageError
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from bench.utils import leases
leases.BEAT = 0.1
if machine := sys.argv[2]:
    leases._machine = lambda: machine
with leases.claim(Path(sys.argv[1])) as lease:
    print("held", flush=True)
    try:
        while True:
            time.sleep(0.02)
            lease.tell(description="training")
    except leases.Lost:
        print("lost", flush=True)
"""
# Takes each of 40 places once it is free or its holder is dead, and marks the work in it as done.
WORK = """
import os, sys, time
from pathlib import Path
from bench.utils import leases
folder, name = Path(sys.argv[1]), sys.argv[2]
watch, left = leases.Watch(), [f"{i:02d}" for i in range(40)]
while not (folder / "go").exists():
    time.sleep(0.001)
while left:
    cell = left.pop(0)
    lease = leases.claim(folder / "leases" / cell) or watch.take_over(folder / "leases" / cell)
    if lease is None:
        left.append(cell)
        continue
    with lease:
        if (folder / f"done-{cell}").exists():
            continue
        with (folder / f"measured-{cell}").open("x"):  # by nobody before, and by nobody at the same time
            time.sleep(0.001)
        (folder / f"done-{cell}").write_text(name)
"""


def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


@contextmanager
def holder(place: Path, machine: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lease, as if on another machine where one is named."""
    process = begin(HOLD, place, machine)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_holder_is_refused_or_waits(tmp_path: Path) -> None:
    place, told = tmp_path / "runs" / ".run.lease", []
    with holder(place) as process:
        assert in_use(place)
        with pytest.raises(UsageError, match=f"runs/run is in use by process {process.pid} on "), held(place):
            pass

        def waiting(who: str) -> None:
            told.append(who)
            process.kill()
            process.wait()

        with held(place, waiting), held(place):  # who holds it may hold it again
            assert look(place).told["pid"] == os.getpid() and look(place).ours
        assert len(told) == 1 and str(process.pid) in told[0]
    assert list(place.parent.iterdir()) == [] and not in_use(place)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file/lease"), held(tmp_path / "file" / "lease"):
        pass


def test_of_many_takers_one_has_each_place_also_of_the_dead(tmp_path: Path) -> None:
    """Every other place is that of a process that was killed; all are after the first place at once."""
    dead = begin("import time; time.sleep(60)")
    token = f"{leases._machine()}.{dead.pid}.{leases._start(str(dead.pid))}."
    dead.kill()
    dead.communicate()
    for cell in range(0, 40, 2):
        place = tmp_path / "leases" / f"{cell:02d}"
        place.mkdir(parents=True)
        (place / f"{token}{cell}").write_bytes(b"half-writ")
    workers = [begin(WORK, tmp_path, name) for name in "abcd"]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    done = [(tmp_path / f"done-{cell:02d}").read_text() for cell in range(40)]
    assert len(set(done)) > 1  # the work was shared
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_dead_holder_of_another_machine_is_followed_after_a_time_without_beats(tmp_path: Path) -> None:
    place, now = tmp_path / "lease", [1000.0]
    watch = Watch(expiry=60.0, clock=lambda: now[0])
    with holder(place, "another-machine") as process:
        seen = look(place)
        assert seen is not None and seen.here is None and watch.take_over(place) is None
        process.kill()
        process.wait()
    last = look(place)
    assert watch.take_over(place) is None  # its last beat, maybe
    for year in (1970, 2100):  # what clocks say is of no account, here or there
        os.utime(place / last.token, (time.mktime((year, 1, 1, 0, 0, 0, 0, 0, 0)),) * 2)
        now[0] += 29
        assert watch.take_over(place) is None and in_use(place)
    now[0] += 3
    other = Watch(expiry=60.0, clock=lambda: now[0] + 1e6)  # of a machine whose clock is ahead
    assert other.take_over(place) is None
    lease = watch.take_over(place)
    assert lease is not None and watch.take_over(place) is None and other.take_over(place) is None
    with lease:
        assert look(place).token == lease.token and look(place).told["pid"] == os.getpid()
    assert not place.exists()


def test_a_living_holder_of_another_machine_is_not_followed(tmp_path: Path) -> None:
    place = tmp_path / "lease"
    with holder(place, "another-machine"):
        watch = Watch(expiry=1.0)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert not watch.is_free(place)
            time.sleep(0.02)
        assert watch.alive(look(place))
        with pytest.raises(UsageError, match="in use by process"), held(place):
            pass


def test_a_holder_that_was_stopped_finds_that_it_was_followed(tmp_path: Path) -> None:
    place, watch = tmp_path / "lease", Watch(expiry=0.3)
    with holder(place) as process:
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 20
        while (lease := watch.take_over(place)) is None and time.monotonic() < until:
            time.sleep(0.05)
        assert lease is not None
        with lease:
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None and process.stdout.readline() == "lost\n"
            assert process.wait(20) == 0
            assert look(place).token == lease.token  # it has released nothing that is not its own
            lease.beat()
            lease.tell(description="going on")


def test_what_a_holder_tells_is_read_by_others(tmp_path: Path) -> None:
    place = tmp_path / "lease"
    lease = claim(place)
    assert lease is not None and claim(place) is None
    lease.tell(title="ü" * 300, done=3)
    lease.beat()
    lease.tell(title="short", done=4)
    lease.beat()
    assert look(place).told["title"] == "short" and look(place).told["beat"] == 2
    (place / lease.token).rename(place / "another.1.1.1")
    lease.beat()
    with pytest.raises(Lost):
        lease.tell(done=5)
    lease.release()
    assert look(place).token == "another.1.1.1"
