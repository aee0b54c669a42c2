"""Rows on disk: filled in any order, continued, never mistaken for an answer to another request."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.utils.arrays import ResumableArrays, batches
from registry.errors import UsageError

ARRAYS = {"a": ((2,), "float32"), "b": ((), "uint8")}


def test_rows_are_kept_and_continued(tmp_path: Path) -> None:
    rows = ResumableArrays(tmp_path / "w", {"seed": 1}, 5, ARRAYS)
    assert rows.missing() == 5
    rows.put(range(3, 5), a=np.ones((2, 2)), b=np.array([7, 8]))
    again = ResumableArrays(tmp_path / "w", {"seed": 1}, 5, ARRAYS)
    assert (again.missing(), again.missing(range(3, 5)), again.missing(range(0, 3))) == (3, 0, 3)
    assert again["b"].tolist() == [0, 0, 0, 7, 8]
    again.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "count", "arrays"),
    [({"seed": 2}, 5, ARRAYS), ({"seed": 1}, 6, ARRAYS), ({"seed": 1}, 5, {"a": ((3,), "float32")})],
)
def test_another_request_is_refused(tmp_path: Path, wanted, count, arrays) -> None:
    ResumableArrays(tmp_path / "w", {"seed": 1}, 5, ARRAYS)
    with pytest.raises(UsageError, match="another request"):
        ResumableArrays(tmp_path / "w", wanted, count, arrays)


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    ResumableArrays(tmp_path / "w", {}, 5, ARRAYS)
    (tmp_path / "w" / "a.npy").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cannot work in .*w"):
        ResumableArrays(tmp_path / "w", {}, 5, ARRAYS)


def test_a_killed_process_leaves_its_finished_rows(tmp_path: Path) -> None:
    code = (
        "import numpy as np, os, signal; from bench.utils.arrays import ResumableArrays\n"
        f"rows = ResumableArrays({str(tmp_path / 'w')!r}, {{}}, 5, {ARRAYS})\n"
        "rows.put(range(0, 2), a=np.ones((2, 2)), b=np.array([1, 2]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    rows = ResumableArrays(tmp_path / "w", {}, 5, ARRAYS)
    assert rows.missing() == 3 and rows["b"][:2].tolist() == [1, 2]


def test_batches_cut_by_global_number() -> None:
    assert batches(7, 3) == [range(0, 3), range(3, 6), range(6, 7)]


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []

    def full(_file: int, start: int, length: int) -> None:
        reserved.append(length)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        UsageError, match=r"cannot make room for 10.0 MB in .*: No space left on device \(.* MB are free"
    ):
        ResumableArrays(tmp_path / "w", {}, 1_000_000, ARRAYS)
    assert reserved == [8_000_000 + 128] and list(tmp_path.iterdir()) == []


def test_the_space_of_all_rows_is_taken_at_once(tmp_path: Path) -> None:
    ResumableArrays(tmp_path / "w", {}, 1_000_000, ARRAYS)
    assert (tmp_path / "w" / "a.npy").stat().st_blocks * 512 >= 8_000_000
