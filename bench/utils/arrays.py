"""Arrays on disk that are filled row by row, in any order, by several processes, and survive a kill.

Features of images and sampled images are such arrays. A folder holds one `.npy` for each, a byte for
each row that is done, and a JSON file with what the rows are rows of: another question never continues
an old answer.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import UsageError

ASKED = "asked.json"
DONE = "done"


class Rows:
    """Memory-mapped arrays of `count` rows each, begun or continued.

    Args:
        folder: where they live; made whole or not at all, and safe to open by several processes at once.
        asked: what the rows stand for, as JSON can hold it.
        count: N.
        arrays: name -> (shape of one row, dtype).

    Raises:
        UsageError: the folder holds rows of something else, or cannot be written to.

    Example:
        >>> rows = Rows(folder, {"seed": 0}, 1000, {"images": ((32, 32, 3), "uint8")})
        >>> for batch in batches(rows.count, 50):
        ...     if rows.missing(batch):
        ...         rows.put(batch, images=make(batch))
    """

    def __init__(
        self,
        folder: str | Path,
        asked: dict[str, Any],
        count: int,
        arrays: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> None:
        self.folder, self.count = Path(folder), count
        shapes = {name: [list(shape), str(np.dtype(dtype))] for name, (shape, dtype) in arrays.items()}
        wanted = json.loads(json.dumps({"asked": asked, "count": count, "arrays": shapes}))
        try:
            if not (self.folder / ASKED).exists():
                self._make(wanted)
            found = json.loads((self.folder / ASKED).read_text(encoding="utf-8"))
            if found != wanted:
                raise UsageError(
                    f"{self.folder} holds unfinished work on another question: delete it or choose another "
                    "place"
                )
            self._arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in arrays}
            self._done = np.load(self.folder / f"{DONE}.npy", mmap_mode="r+")
        except UsageError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"cannot work in {self.folder}: {error}") from None

    def _make(self, wanted: dict[str, Any]) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".bench-"))
        try:
            for name, (shape, dtype) in {**wanted["arrays"], DONE: [[], "uint8"]}.items():
                shape = (self.count, *shape)
                np.lib.format.open_memmap(beside / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            (beside / ASKED).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            with contextlib.suppress(OSError):  # another process was first: its folder is as good
                beside.rename(self.folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

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


def batches(count: int, size: int) -> list[range]:
    """Rows 0 … count − 1 cut by global number, so that the cut depends on nothing else."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
