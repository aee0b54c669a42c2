"""Latents on disk: images that an autoencoder has encoded once, in one of three layouts.

**Of the fast-DiT release**: `ROOT/imagenet256_features/0.npy …`, each (1, 4, 32, 32) float32, and
`ROOT/imagenet256_labels/0.npy …`, each (1,) integer; any two folders whose names contain `features` and
`labels` will do. Their values are one sample of the posterior, already scaled by 0.18215, of images that
were mirrored or not at random when they were encoded.

**Of the U-DiT release**: the same, but the files are named by the step and the process that encoded them,
`0_0.npy … N_7.npy`, hence image step·8 + process. The images did not fill the last step: its last file is
one of them again, and no part of the data set.

**Ours**, written by `bench encode`, for millions of images: `index.json` (what they are), `labels.npy`, and
`latents-00000.npy …`, each (shard_size, V, C, H, W), memory-mapped. V = 2 where the latents of the
mirrored images are kept too. Where the whole posterior is kept, (shard_size, V, 2, C, H, W): its mean and its
standard deviation, both scaled. `statistics.json` has mean and standard deviation of each channel of z, which
is not scaled.
"""

from __future__ import annotations

import functools
import re
import resource
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.data import autoencoder, normalisation, register
from bench.data.dataset import Dataset, check_labels
from bench.data.digests import digest, files_digest
from bench.utils.randomness import normal
from registry.errors import UsageError, reason

INDEX = "index.json"
LABELS = "labels.npy"
STATISTICS = "statistics.json"
PROBES = 64  # files of a release that `check` reads: all of them are too many
VERSION = 1  # raise it when the same files give other grids or labels; part of each record
Posterior = Literal["moments", "sample", "mean"]


@dataclass(frozen=True)
class Index:
    """The content of `index.json`, about encoded images.

    Attributes:
        count: of images; they and their latents are numbered alike.
        shape: (C, H, W) of the latents of one image.
        scale: what z was multiplied by.
        vae: the autoencoder, a folder or an id of the hub.
        posterior: what is kept of it: mean and standard deviation (`moments`), a sample, or the mean.
        seed: of the sample that is kept, or taken where none is asked for.
        flipped: whether latents of the mirrored images are kept.
        dtype: of the shards.
        shard_size: images of a shard; the last one may have fewer.
        num_classes, class_names: of the images.
        source: the digest of the images.
        precision: of the autoencoder's arithmetic; of files without it, float32 with TF32 in its convolutions
            where a GPU has encoded them.
    """

    count: int
    shape: tuple[int, int, int]
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    vae: str
    posterior: Posterior
    seed: int
    flipped: bool
    dtype: Literal["float32", "float16"]
    shard_size: Annotated[int, Field(gt=0)]
    num_classes: int
    class_names: list[str] | None
    source: str
    precision: autoencoder.Precision | None = None
    version: Literal[1] = 1

    @property
    def views(self) -> int:
        """V: of each image, 2 with the mirrored one."""
        return 1 + self.flipped

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of what a shard holds of one image."""
        return (self.views, *[2] * (self.posterior == "moments"), *self.shape)

    def shards(self) -> list[range]:
        """The images of each shard."""
        size = self.shard_size
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"latents-{number:05d}.npy"


@register("latents")
def latents(
    root: Path, vae: str | None = None, num_classes: int | None = None, normalise: str | None = None
) -> Dataset:
    """Latents on disk, of `bench encode` or of the U-DiT and fast-DiT releases.

    Args:
        root: the folder.
        vae: the autoencoder that decodes samples, a diffusers folder or an id of the hub. Default: that
            which encoded them, sd-vae-ft-ema for the releases.
        num_classes: for the releases, which do not say; default 1000.
        normalise: to mean 0 and standard deviation 1 in each channel, as LightningDiT does, instead of by one
            scale: by the statistics of the `set`, which `bench encode` keeps in `statistics.json`, or of a
            file; see `bench.data.normalisation.load`.
    """
    root = root.expanduser()
    if (root / INDEX).is_file():
        if num_classes is not None:
            raise UsageError(f"{root / INDEX} has the number of classes: leave num_classes out")
        return Encoded(root, vae, normalise)
    return Released(root, vae or autoencoder.VAE, 1000 if num_classes is None else num_classes, normalise)


class Latents(Dataset):
    """What all layouts have.

    Attributes:
        vae: the autoencoder that decodes samples.
        vae_precision: of its arithmetic.
        scale: what latents were multiplied by.
    """

    vae: str
    vae_precision: autoencoder.Precision = "fp32"
    scale: float
    normalisation: normalisation.Normalisation | None = None
    workers = 2

    def _normalise(self, root: Path, text: str | None) -> None:
        """Open the statistics that latents of `root` are normalised by.

        Raises:
            UsageError: there are none, or they are of another number of channels.
        """
        if text is not None:
            self.normalisation = normalisation.load(root / STATISTICS if text == "set" else Path(text))
            self.normalisation.apply(torch.zeros(1, *self.shape))  # of as many channels

    def _digest(self, *files: str) -> str:
        """Of the files and of what their content is normalised by."""
        return digest(*files, *([repr(self.normalisation)] if self.normalisation else []))

    def _as_seen(self, grids: Tensor) -> Tensor:
        """Scaled latents as networks see them."""
        return grids if self.normalisation is None else self.normalisation.apply(grids / self.scale)

    def to_images(self, grids: Tensor) -> np.ndarray:
        """As `Dataset.to_images`: decoded on the device of the grids.

        Raises:
            UsageError: the autoencoder is not to be had.
        """
        if self.normalisation is not None:
            grids = self.normalisation.invert(grids) * self.scale
        return autoencoder.load(self.vae, self.vae_precision).decode(grids, self.scale)


class Encoded(Latents):
    """Latents in our layout; see the top of this file.

    Where the moments of the posterior are kept, `grids` draws from it by the noise that it is given, and
    without noise gives the sample that `bench encode --posterior sample` would have kept.
    """

    flip_note = "latents of mirrored images were not kept (bench encode --no-flip)"

    def __init__(self, root: Path, vae: str | None, normalise: str | None) -> None:
        _mapped.cache_clear()  # files may have been written again under the same names
        self.root = root
        self.index = index = read_index(root / INDEX)
        self.shape, self.scale, self.vae = index.shape, index.scale, vae or index.vae
        self.num_classes, self.class_names = index.num_classes, index.class_names
        self.flippable, self.posterior = index.flipped, index.posterior == "moments"
        self._normalise(root, normalise)
        self._labels = _read(root / LABELS)
        _check_array(root / LABELS, self._labels, (index.count,), "i")
        check_labels(self._labels, index.num_classes, str(root / LABELS))
        for number, images in enumerate(index.shards()):
            path = root / shard_name(number)
            _check_array(path, _read(path, mapped=True), (len(images), *index.row), "f")

    @functools.cached_property
    def digest(self) -> str:  # type: ignore[override]
        """As `Dataset.digest`, read through once."""
        shards = [shard_name(number) for number in range(len(self.index.shards()))]
        names = [name.encode() for name in (INDEX, LABELS, *shards)]
        return self._digest(files_digest(self.root, names))

    def __len__(self) -> int:
        return self.index.count

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`."""
        return torch.from_numpy(self._labels[indices].astype(np.int64))

    def grids(
        self, indices: np.ndarray, flip: np.ndarray | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """As `Dataset.grids`."""
        rows = self._rows(indices, flip)
        if not self.posterior:
            return self._as_seen(rows)
        if noise is None:
            views = np.zeros(len(indices), int) if flip is None else flip.astype(int)
            noise = torch.empty(len(indices), *self.shape)
            for view in set(views.tolist()):
                of_view = torch.from_numpy(views == view)
                numbers = torch.from_numpy(np.asarray(indices, np.int64))[of_view]
                # As `bench encode --posterior sample` draws.
                noise[of_view] = normal(self.index.seed, "posterior", numbers, self.shape, step=view)
        return self.drawn(rows, noise)

    def moments(self, indices: np.ndarray, flip: np.ndarray | None = None) -> Tensor:
        """Mean and deviation of which `grids` are drawn, where they are kept: (N,) -> (N, 2, C, H, W)."""
        return self._rows(indices, flip)

    def drawn(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Grids of moments (N, 2, C, H, W) and noise (N, C, H, W), on any device."""
        return self._as_seen(torch.addcmul(moments[:, 0], moments[:, 1], noise))

    def _rows(self, indices: np.ndarray, flip: np.ndarray | None) -> Tensor:
        """What is kept of some images, mirrored or not."""
        views = np.zeros(len(indices), int) if flip is None else flip.astype(int)
        if views.any() and not self.flippable:
            raise UsageError(f"{self.root} keeps no latents of mirrored images: encode with --flip")
        rows = np.empty((len(indices), *self.index.row[1:]), np.float32)
        for row, (index, view) in enumerate(zip(indices, views, strict=True)):
            number, place = divmod(int(index), self.index.shard_size)
            rows[row] = _mapped(self.root / shard_name(number))[place, view]
        return torch.from_numpy(rows)


class Released(Latents):
    """Latents in the layouts of the releases; see the top of this file."""

    scale = autoencoder.SCALE
    flip_note = "images were mirrored or not at random before they were encoded"

    def __init__(self, root: Path, vae: str, num_classes: int, normalise: str | None) -> None:
        self.vae, self.num_classes = vae, num_classes
        self._features, self._label_files = (_only(root, word) for word in ("features", "labels"))
        self._count, self._processes = _layout(self._features)
        if (self._count, self._processes) != _layout(self._label_files):
            raise UsageError(
                f"{self._features} and {self._label_files} do not hold files of the same names: each image "
                "needs one of each"
            )
        if not self._count:
            raise UsageError(f"{self._features} holds one file, which counts as padding: it has no images")
        first = self._features / self._name(0)
        shape = _read(first).shape[-3:]
        if len(shape) != 3:
            raise UsageError(f"{first} has shape {shape}, not (1, C, H, W) or (C, H, W)")
        self.shape = shape
        self._normalise(root, normalise)

    @functools.cached_property
    def digest(self) -> str:  # type: ignore[override]
        """As `Dataset.digest`: of all files that count, read through once."""
        names = [self._name(index).encode() for index in range(len(self))]
        return self._digest(*(files_digest(folder, names) for folder in (self._features, self._label_files)))

    def check(self) -> None:
        """As `Dataset.check`; of the features some are read, evenly spread."""
        if len(self):
            self.grids(np.unique(np.linspace(0, len(self) - 1, PROBES).astype(int)))
        super().check()

    def _name(self, index: int) -> str:
        """The file of an image in either folder."""
        if not self._processes:
            return f"{index}.npy"
        return "{}_{}.npy".format(*divmod(index, self._processes))

    def __len__(self) -> int:
        return self._count

    def grids(
        self, indices: np.ndarray, flip: np.ndarray | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """As `Dataset.grids`; a sample is all that is kept of the posterior, so there is no use for noise."""
        if flip is not None and flip.any():
            raise UsageError(f"latents in {self._features} cannot be mirrored: {self.flip_note}")
        rows = np.empty((len(indices), *self.shape), np.float32)
        for row, index in enumerate(indices):
            path = self._features / self._name(int(index))
            feature = _read(path)
            _check_array(path, feature, (1,) * (feature.ndim - 3) + self.shape, "f")
            rows[row] = feature.reshape(self.shape)
        return self._as_seen(torch.from_numpy(rows))

    def labels(self, indices: np.ndarray) -> Tensor:
        """As `Dataset.labels`.

        Raises:
            UsageError: a file that cannot be read or holds something else, named.
        """
        names = (self._name(int(index)) for index in indices)
        return torch.tensor([self._label(self._label_files / name) for name in names], dtype=torch.int64)

    def _label(self, path: Path) -> int:
        label = _read(path)
        if label.size != 1 or label.dtype.kind not in "iu":
            raise UsageError(f"{path} holds {label.dtype} {label.shape}, not one integer")
        if not 0 <= label.item() < self.num_classes:
            raise UsageError(f"{path} holds label {label.item()}, not one of 0 … {self.num_classes - 1}")
        return label.item()


def read_index(path: Path) -> Index:
    """The content of an `index.json`.

    Raises:
        UsageError: it cannot be read, or lacks something.
    """
    try:
        return TypeAdapter(Index).validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(f"{path} is damaged: {where} {error.errors()[0]['msg']}") from None


def _most_open() -> int:
    """Maps at once: as many files as a process may have open (usually 1,024), less what it needs besides."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**16 if most == resource.RLIM_INFINITY else max(most - 256, most // 2)


@functools.lru_cache(maxsize=_most_open())
def _mapped(path: Path) -> np.ndarray:
    return _read(path, mapped=True)


def _read(path: Path, mapped: bool = False) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} is damaged or cut short: {reason(error)}") from None


def _check_array(path: Path, array: np.ndarray, shape: tuple[int, ...], kind: str) -> None:
    if array.shape != shape or array.dtype.kind != kind:
        numbers = {"f": "floating-point numbers", "i": "integers"}[kind]
        raise UsageError(f"{path} holds {array.dtype} {array.shape}, not {numbers} {shape}")


def _only(root: Path, word: str) -> Path:
    """The one folder in `root` whose name contains `word`."""
    try:
        found = [path for path in sorted(root.iterdir()) if word in path.name and path.is_dir()]
    except OSError as error:
        raise UsageError(f"cannot read the folder {root}: {error.strerror}") from None
    if not found:
        raise UsageError(
            f"{root} holds no latents: no {INDEX} of a finished `bench encode`, no *{word}* folder "
            "of a release"
        )
    if len(found) > 1:
        raise UsageError(f"{root} has several *{word}* folders: {', '.join(path.name for path in found)}")
    return found[0]


def _layout(folder: Path) -> tuple[int, int]:
    """How many images a folder of a release holds, and how many processes its file names tell apart.

    The second is 0 in fast-DiT's layout (0.npy …). In U-DiT's (0_0.npy …) the last file is not counted.

    Raises:
        UsageError: no such files, files of both layouts, or one is missing in between.
    """
    found = [m for p in folder.iterdir() if (m := re.fullmatch(r"(\d+)(?:_(\d+))?\.npy", p.name))]
    if not found:
        raise UsageError(f"{folder} has no files 0.npy, 1.npy, … or 0_0.npy, 0_1.npy, …")
    by_process = [m for m in found if m[2]]
    if by_process and len(by_process) != len(found):
        raise UsageError(f"{folder} mixes files such as {by_process[0][0]} with such as 0.npy: keep one kind")
    processes = 1 + max((int(m[2]) for m in by_process), default=-1)
    numbers = np.sort(np.array([int(m[1]) * max(processes, 1) + int(m[2] or 0) for m in found], np.int64))
    missing = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(missing):
        name = "{}_{}".format(*divmod(missing[0], processes)) if processes else missing[0]
        raise UsageError(f"{folder / f'{name}.npy'} is missing")
    if processes and len(numbers) % processes:
        last = f"{len(numbers) // processes}_{processes - 1}"
        raise UsageError(f"{folder / f'{last}.npy'} is missing")
    return len(numbers) - bool(processes), processes
