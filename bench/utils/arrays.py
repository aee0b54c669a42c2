"""Arrays on disk that are filled row by row, in any order, by several processes, and survive a kill.

Features of images and sampled images are such arrays. A folder holds one `.npy` for each, a byte for
each row that is done, and a JSON file with the request that the rows answer: another request never continues
them. All of the space is taken when the folder is made, so a full disk is found before anything is computed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.utils.files import write_whole
from registry.errors import UsageError

REQUEST = "request.json"
DONE = "done"


class ResumableArrays:
    """Memory-mapped arrays of `count` rows each, new or resumed.

    Args:
        folder: where they live; made whole or not at all, and safe to open by several processes at once.
        request: identifies the content, as JSON; arrays of another request are not resumed.
        count: N.
        arrays: name -> (shape of one row, dtype).

    Raises:
        UsageError: the folder holds rows of another request, cannot be written to, or has not enough room.

    Example:
        >>> rows = ResumableArrays(folder, {"seed": 0}, 1000, {"images": ((32, 32, 3), "uint8")})
        >>> for batch in batches(rows.count, 50):
        ...     if rows.missing(batch):
        ...         rows.put(batch, images=make(batch))
    """

    def __init__(
        self,
        folder: str | Path,
        request: dict[str, Any],
        count: int,
        arrays: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> None:
        self.folder, self.count = Path(folder), count
        shapes = {name: [list(shape), str(np.dtype(dtype))] for name, (shape, dtype) in arrays.items()}
        wanted = json.loads(json.dumps({"request": request, "count": count, "arrays": shapes}))
        try:
            if not (self.folder / REQUEST).exists():
                self._make(wanted)
            found = json.loads((self.folder / REQUEST).read_text(encoding="utf-8"))
            if found != wanted:
                raise UsageError(
                    f"{self.folder} holds unfinished work on another request: delete it or choose another "
                    "place"
                )
            self._arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in arrays}
            self._done = np.load(self.folder / f"{DONE}.npy", mmap_mode="r+")
        except UsageError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"cannot work in {self.folder}: {error}") from None

    def _make(self, wanted: dict[str, Any]) -> None:
        arrays = {**wanted["arrays"], DONE: [[], "uint8"]}

        def fill(made: Path) -> None:
            made.mkdir()
            try:
                for name, (shape, dtype) in arrays.items():
                    _reserve(made / f"{name}.npy", (self.count, *shape), dtype)
            except OSError as error:
                sizes = (
                    math.prod((self.count, *s)) * np.dtype(dtype).itemsize for s, dtype in arrays.values()
                )
                free = shutil.disk_usage(self.folder.parent).free
                raise UsageError(
                    f"cannot make room for {sum(sizes) / 1e6:,.1f} MB in {self.folder.parent}: "
                    f"{error.strerror or error} ({free / 1e6:,.1f} MB are free there)"
                ) from None
            (made / REQUEST).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")

        try:
            write_whole(self.folder, fill)
        except UsageError:
            if not (self.folder / REQUEST).exists():  # else another process was first: its folder is as good
                raise

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole array, (N, …), mapped from disk."""
        return self._arrays[name]

    def missing(self, rows: range | None = None) -> int:
        """How many of these rows (or of all) are not done."""
        done = self._done if rows is None else self._done[rows.start : rows.stop]
        return int(len(done) - np.count_nonzero(done))

    def put(self, rows: range, **values: np.ndarray) -> None:
        """Write consecutive rows of every array, each (len(rows), …), and then mark them done."""
        for name, array in self._arrays.items():
            array[rows.start : rows.stop] = values[name]
        self._done[rows.start : rows.stop] = 1

    def delete(self) -> None:
        """Remove the folder; the arrays are closed."""
        self._arrays, self._done = {}, np.empty(0)
        shutil.rmtree(self.folder, ignore_errors=True)


def _reserve(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Make a `.npy` of zeros whose blocks on disk are its own: writing to it mapped cannot fail for space."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            start = size - math.prod(shape) * np.dtype(dtype).itemsize
            file.seek(start)
            for block in range(start, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - block)))


def batches(count: int, size: int) -> list[range]:
    """Rows 0 … count − 1 cut by global number, so that the cut depends on nothing else."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
