"""Locks: one holder at a time, named to the others."""

import json
import os
import threading
from pathlib import Path

import pytest

from bench.utils.files import locked
from registry.errors import UsageError


def test_a_second_holder_is_refused_or_waits(tmp_path: Path) -> None:
    lock, told = tmp_path / "place" / "lock", []
    with locked(lock):
        assert json.loads((tmp_path / "place" / "lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(UsageError, match=f"place is in use by process {os.getpid()} on "), locked(lock):
            pass
        finished = threading.Event()

        def wait() -> None:
            with locked(lock, told.append):
                finished.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not finished.wait(0.5) and len(told) == 1 and str(os.getpid()) in told[0]
    thread.join(10)
    assert finished.is_set() and [path.name for path in (tmp_path / "place").iterdir()] == ["lock"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file/lock"), locked(tmp_path / "file" / "lock"):
        pass
