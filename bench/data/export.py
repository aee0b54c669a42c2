"""A dataset's images in one file: the reference of what is trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset
from bench.utils.arrays import ResumableArrays, batches
from bench.utils.files import write_whole
from bench.utils.progress import Progress, silent
from registry.errors import UsageError


def export(dataset: Dataset, out: str | Path, progress: Progress = silent) -> None:
    """Write a dataset's images as an `.npz` in the ADM suite's form, `arr_0` images and `arr_1` labels.

    An interrupted call resumes where it stopped.

    Raises:
        UsageError: the place cannot be written to, has not enough room or holds something, or an image
            cannot be read.
    """
    out = Path(out)
    partial, there = out.with_name(f".{out.name}.partial"), out.exists()
    if out.suffix != ".npz":
        raise UsageError(f"{out}: a reference ends in .npz")
    if there and not partial.exists():  # otherwise only removing `partial` was interrupted
        raise UsageError(f"{out} exists: delete it")
    side = dataset.to_images(dataset.grids(np.arange(1))).shape[1:]
    arrays = {"images": (side, "uint8"), "labels": ((), "int64")}
    request = {"data": dataset.name, "digest": dataset.digest}
    rows = ResumableArrays(partial, request, len(dataset), arrays)
    if there and rows.missing():  # it is not made of these rows
        raise UsageError(f"{out} exists: delete it")
    for batch in batches(len(dataset), 256):
        if rows.missing(batch):
            indices = np.arange(batch.start, batch.stop)
            images = dataset.to_images(dataset.grids(indices))
            rows.put(batch, images=images, labels=dataset.labels(indices).numpy())
        progress("exporting", batch.stop, len(dataset))
    if not there:
        write_whole(out, lambda made: np.savez(made, arr_0=rows["images"], arr_1=rows["labels"]))
    rows.delete()
