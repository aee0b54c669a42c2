"""Datasets by name. A dataset gives grids, arrays of the shape that networks are trained on.

    import bench.data

    digits = bench.data.load("digits")
    digits.shape, len(digits), digits.num_classes      # (4, 8, 8), 1797, 10
    batch = digits.grids(np.arange(64))                # (64, 4, 8, 8) float32
    images = digits.to_images(batch)                   # (64, 16, 16, 3) uint8

    @bench.data.register("my-data")
    class MyData(bench.data.Dataset): ...

Importing this package imports neither torch nor a dataset's library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.errors import CodeError, UsageError
from registry.plugins import Registry

if TYPE_CHECKING:
    from bench.data.dataset import Dataset, ImageDataset, MemoryDataset

__all__ = [
    "Dataset",
    "ImageDataset",
    "MemoryDataset",
    "datasets",
    "describe",
    "held_out",
    "load",
    "names",
    "register",
]

datasets = Registry("dataset", "bench.data")

register, names, describe = datasets.register, datasets.names, datasets.describe


def load(name: str, /, **options: Any) -> Dataset:
    """Open the dataset `name`.

    Args:
        name: any registered name, case-insensitive.
        **options: arguments of that dataset, such as `root`; `describe(name)` lists them.

    Raises:
        UsageError: unknown name or option, or files that are missing or damaged.
        CodeError: the registered class or function does not make a dataset.
    """
    from bench.data.dataset import Dataset

    factory = datasets.factory(name)
    dataset = factory(**datasets.check(name, options))
    entry = datasets.find(name)
    if not isinstance(dataset, Dataset):
        made = type(dataset).__name__
        raise CodeError(f"dataset {entry.name!r} is a {made}, not a bench.data.Dataset", factory)
    dataset.name = entry.name
    return dataset


def held_out(name: str, /, **options: Any) -> Dataset:
    """The images of a dataset that are not trained on: its split `test`.

    Args:
        name: any registered name.
        **options: options of the training data; `split` is `train` there, or by default.

    Raises:
        UsageError: the dataset has no such split, or all of it is trained on; and what `load` raises.
    """
    known = datasets.check(name, options)
    split = known.get("split", getattr(datasets.options(name).get("split"), "default", None))
    title = datasets.find(name).name
    if split is None:
        raise UsageError(f"dataset {title} has no held-out images: it takes no option split")
    if split != "train":
        raise UsageError(f"dataset {title} holds nothing out with split = {split}: train with split = train")
    return load(name, **options | {"split": "test"})


def __getattr__(attribute: str) -> Any:
    """Public names that need torch, imported on first use."""
    if attribute in ("Dataset", "ImageDataset", "MemoryDataset"):
        from bench.data import dataset

        return getattr(dataset, attribute)
    raise AttributeError(f"module 'bench.data' has no attribute {attribute!r}")
