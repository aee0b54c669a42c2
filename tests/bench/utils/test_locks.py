"""Locks: one holder at a time, named to the others, and free once its process has ended."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.utils import locks
from registry.errors import UsageError
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from bench.utils import locks
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
# Does what is left of 40 pieces of work, each by one process alone; those that another is at come later.
WORK = """
import sys, time
from pathlib import Path
from bench.utils import locks
folder, left = Path(sys.argv[1]), [f"{i:02d}" for i in range(40)]
while left:
    piece = left.pop(0)
    try:
        with locks.held(folder / piece):
            if not (folder / f"done-{piece}").exists():
                (folder / f"begun-{piece}").open("x").close()  # by nobody at the same time
                time.sleep(0.001)
                (folder / f"begun-{piece}").unlink()
                (folder / f"done-{piece}").open("x").close()  # and by nobody before
    except locks.InUseError:
        left.append(piece)
"""


def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], text=True, stdout=subprocess.PIPE, env=environment
    )


@contextmanager
def another(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder."""
    process = begin(HOLD, place)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "run"
    assert locks.holder(place) is None
    with another(place) as first:
        named = f"process {first.pid} on {socket.gethostname()}"
        assert locks.holder(place) == named
        told = f"{place} is in use by {named}: wait for it"
        with pytest.raises(locks.InUseError, match=told), locks.held(place):
            pytest.fail("both hold it")
        os.kill(first.pid, signal.SIGKILL)
        with locks.held(place, seconds=5):  # free with its end
            assert locks.holder(place) == f"process {os.getpid()} on {socket.gethostname()}"
    assert locks.holder(place) is None


def test_no_two_processes_work_in_one_place(tmp_path: Path) -> None:
    processes = [begin(WORK, tmp_path) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert len(list(tmp_path.glob("done-*"))) == 40


def test_where_nothing_can_be_written_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot lock .*run: "), locks.held(tmp_path / "file" / "run"):
        pytest.fail("it is locked")
