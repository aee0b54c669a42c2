"""Sets of images, features or statistics: the inputs of `bench eval`.

A set is read through once when it is opened: errors in its headers are found before a network runs, and the
digest of the content, by which features are cached, is computed. Images are then read in batches, decoded
ahead by worker processes, and never held all at once; one that is cut short is found there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from bench.data.images import FORMATS, image_files, left_out_note, orientation, to_rgb
from bench.metrics.npz import Member, Npz
from bench.metrics.statistics import Statistics, check
from bench.records.schema import Balance
from bench.utils import distributed
from bench.utils.arrays import batches
from bench.utils.device import usable_cores
from bench.utils.progress import Progress, silent
from registry.errors import UsageError, reason

KINDS = ("pool", "spatial", "logits")  # of features
ABOUT = "about"  # of a feature file: JSON that says whose features they are
WORKERS = 16  # at most
BLOCK_BYTES = 2**21  # looked through at a time
BATCH_BYTES = 2**28  # decoded at a time


@dataclass(frozen=True)
class ImageSet:
    """uint8 RGB images of one size, in a fixed order.

    Attributes:
        path: the folder or file.
        count: N.
        size: height, width.
        digest: SHA-256 of the content, as hexadecimal text.
        statistics: those that lie in the file beside the images, by "pool" and "spatial".
        notes: what a user should know of it, a sentence each.
        left_out: how many files, or folders, of which kind were left out of the folder.
        balance: of the classes, where the file holds labels that tell: balanced or drawn; else unknown.
        order: how the images are ordered, in words, where those of a class may follow each other; else empty.
    """

    path: Path
    count: int
    size: tuple[int, int]
    digest: str
    statistics: dict[str, Statistics]
    notes: tuple[str, ...]
    _decoder: Callable[[Sequence[range]], Any]
    left_out: dict[str, int] = field(default_factory=dict)
    balance: Balance = "unknown"
    order: str = ""

    def batches(self, size: int) -> list[range]:
        """All images cut into parts of `size`, or of fewer where so many are very large."""
        height, width = self.size
        return batches(self.count, max(1, min(size, BATCH_BYTES // (height * width * 3))))

    def read(self, parts: Sequence[range]) -> Iterator[Tensor]:
        """Images of each part, parts in rising order: uint8 (len(part), 3, H, W).

        Worker processes decode a few parts ahead.

        Raises:
            UsageError: an image that cannot be decoded.
        """
        if not parts:
            return
        blocks = self._decoder(parts)
        cores = max(usable_cores() // distributed.count(), 1)
        most = 1 if isinstance(blocks, IterableDataset) else min(WORKERS, cores)
        # Arrays come by pipe, not as tensors in shared memory, of which containers have little.
        for block in DataLoader(blocks, None, num_workers=min(most, len(parts) - 1), collate_fn=_unchanged):
            if isinstance(block, str):
                raise UsageError(block)
            yield torch.from_numpy(block)


@dataclass(frozen=True)
class FeatureSet:
    """What `make_file` of `bench.metrics.features` wrote, or a file of statistics alone.

    Attributes:
        path: the file.
        count: N; None where only statistics are there.
        extractor: its name. Files of nothing but statistics do not tell; by custom it is `inception`.
        digest: of the extractor's weights; None where the file does not tell.
        features: (N, width) float32, by "pool", "spatial" and "logits"; empty for statistics alone.
        statistics: by "pool" and "spatial".
        origin: of the statistics, in words.
        size: height, width of the images; None where the file does not tell.
        notes: what a user should know of it, a sentence each.
    """

    path: Path
    count: int | None
    extractor: str
    digest: str | None
    features: dict[str, np.ndarray]
    statistics: dict[str, Statistics]
    origin: str = ""
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """Of all that is held, by "pool", "spatial" and "logits"."""
        of_statistics = {kind: len(statistics.mean) for kind, statistics in self.statistics.items()}
        return of_statistics | {kind: array.shape[1] for kind, array in self.features.items()}


def open_set(path: str | Path, progress: Progress = silent) -> ImageSet | FeatureSet:
    """Look through a folder of images or an `.npz`.

    Args:
        path: a folder with images at any depth (see `bench.data.images.image_files`), taken in the order of
            their relative paths; or an `.npz` that holds images as the ADM suite's do (`arr_0`, uint8
            N×H×W×3), features that `bench.metrics.features.make_file` wrote, or
            statistics (`mu`, `sigma`; `mu_s`, `sigma_s`).
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: anything else, or damaged; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, progress)
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}")
    if not path.is_file():  # reading a FIFO or a device would never end
        raise UsageError(f"{path} is neither a regular file nor a folder")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is neither a folder of images nor an .npz")
    npz = Npz(path)
    if ABOUT in npz.names:
        return _features(npz)
    statistics = _statistics(npz)
    if "arr_0" in npz.names:
        made = _adm(npz.member("arr_0"), statistics, progress)
        return _labelled(made, npz.member("arr_1")) if "arr_1" in npz.names else made
    if statistics:
        return FeatureSet(path, None, "inception", None, {}, statistics)
    raise UsageError(
        f"{path} has neither images (arr_0) nor statistics (mu, sigma); it has: "
        f"{', '.join(npz.names[:8]) or 'nothing'}"
    )


def content_digest(images: ImageSet | FeatureSet) -> str:
    """SHA-256 of all that scores can be computed from, statistics included, as hexadecimal text."""
    sha = hashlib.sha256()
    if isinstance(images, ImageSet):
        if not images.statistics:
            return images.digest
        sha.update(images.digest.encode())
    else:
        sha.update(f"{images.extractor} {images.digest}".encode())
        for kind, features in images.features.items():
            sha.update(f"{kind} {features.shape}".encode())
            sha.update(np.ascontiguousarray(features).data)
    for kind, statistics in images.statistics.items():
        sha.update(f"{kind} {statistics.mean.shape}".encode())
        sha.update(np.ascontiguousarray(statistics.mean).data)
        sha.update(np.ascontiguousarray(statistics.covariance).data)
    return sha.hexdigest()


class _Parts:
    """Parts of a set of images, each read by itself, or what is wrong with it; a dataset with an index."""

    def __init__(self, read: Callable[[range], np.ndarray], parts: Sequence[range]) -> None:
        self.read, self.parts = read, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            return self.read(self.parts[index])
        except UsageError as error:  # as text: an exception would bring a traceback along
            return str(error)


# ---- an .npz ----


def _adm(member: Member, statistics: dict[str, Statistics], progress: Progress) -> ImageSet:
    shape = " × ".join(map(str, member.shape))
    if len(member.shape) == 4 and member.shape[1] == 3 != member.shape[3]:
        raise UsageError(
            f"{member.path}: arr_0 is {shape}, channels before height and width; images are N × H × W × 3: "
            "transpose the array to (0, 2, 3, 1)"
        )
    if member.dtype != np.uint8 or len(member.shape) != 4 or member.shape[3] != 3 or member.column_major:
        raise UsageError(
            f"{member.path}: arr_0 is {member.dtype} {shape}{' (column-major)' * member.column_major}; "
            "images are uint8 N × H × W × 3, row-major"
        )
    count, height, width, _ = member.shape
    if not count * height * width:
        raise UsageError(f"{member.path}: arr_0 is empty ({shape})")
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UsageError(
            f"{member.path}: images of {size_text((height, width))} are too large: the file is damaged"
        )
    # Read to the end now: a checksum that is wrong comes out before features are made of it.
    sha = hashlib.sha256(shape.encode())
    parts = batches(count, max(1, BLOCK_BYTES // (height * width * 3)))
    for part, block in zip(parts, member.blocks(parts), strict=True):
        sha.update(block.data)
        progress(f"looking through {member.path.name}", part.stop, count)
    of_stored = functools.partial(_Parts, functools.partial(_stored, member))
    decoder = of_stored if member.stored else functools.partial(_ArrayParts, member)
    return ImageSet(member.path, count, (height, width), sha.hexdigest(), statistics, (), decoder)


def _labelled(images: ImageSet, member: Member) -> ImageSet:
    """Images with what the labels beside them tell of balance and order."""
    if member.dtype.kind not in "iu" or member.shape != (images.count,):
        return images
    labels = member.array()
    _, times = np.unique(labels, return_counts=True)
    by_class = 1 < len(times) == 1 + np.count_nonzero(labels[1:] != labels[:-1])
    return replace(
        images, balance=_balance(times), order="are sorted by their labels (arr_1)" if by_class else ""
    )


def _balance(times: np.ndarray) -> Balance:
    """Of classes that occur so often: balanced where each occurs as often as others, or once more.

    One class alone tells nothing, nor do classes that occur once or twice: drawn labels may look the same.
    """
    if len(times) == 1 or (times.min() < 2 and times.max() < 3):
        return "unknown"
    return "balanced" if times.max() - times.min() <= 1 else "drawn"


def _statistics(npz: Npz) -> dict[str, Statistics]:
    """What the file holds of `mu` with `sigma` (pooled features) and `mu_s` with `sigma_s` (spatial)."""
    found = {}
    for kind, mean_name, covariance_name in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        if mean_name not in npz.names and covariance_name not in npz.names:
            continue
        mean, covariance = npz.member(mean_name), npz.member(covariance_name)
        try:
            found[kind] = Statistics(mean.array(), covariance.array())
        except (UsageError, ValueError) as error:  # another shape, not finite; no numbers at all
            raise UsageError(f"{npz.path}: {mean_name}, {covariance_name}: {error}") from None
    return found


def _features(npz: Npz) -> FeatureSet:
    try:
        about = json.loads(str(npz.member(ABOUT).array()[()]))
        extractor, digest, count = str(about["extractor"]), str(about["digest"]), int(about["count"])
        origin = str(about["statistics"])
        height, width = map(int, about.get("size", (0, 0)))  # older files lack it
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        raise UsageError(f"{npz.path}: {ABOUT!r} does not tell of features") from None
    features: dict[str, np.ndarray] = {}
    for kind in KINDS:
        if kind not in npz.names:
            continue
        member = npz.member(kind)
        if member.dtype != np.float32 or len(member.shape) != 2 or member.shape[0] != count:
            raise UsageError(
                f"{npz.path}: {kind} is {member.dtype} {member.shape}, not float32 ({count}, width)"
            )
        features[kind] = member.array()
        check(features[kind], f"{npz.path}, {kind}")
    size = (height, width) if height and width else None
    return FeatureSet(npz.path, count or None, extractor, digest, features, _statistics(npz), origin, size)


def _stored(member: Member, part: range) -> np.ndarray:
    """A part of an array that is not compressed."""
    return member.part(part).transpose(0, 3, 1, 2).copy()


class _ArrayParts(IterableDataset[Any]):
    """Parts of a compressed array, one after the other, or what is wrong with it."""

    def __init__(self, member: Member, parts: Sequence[range]) -> None:
        self.member, self.parts = member, parts

    def __iter__(self) -> Iterator[np.ndarray | str]:
        try:
            for block in self.member.blocks(self.parts):
                yield block.transpose(0, 3, 1, 2).copy()
        except UsageError as error:
            yield str(error)


# ---- a folder ----


def _folder(folder: Path, progress: Progress) -> ImageSet:
    found, left_out = image_files(folder)
    names = sorted(found)
    notes = [left_out_note(folder, left_out)] if left_out else []
    if not names:
        raise UsageError(f"{folder} holds no images that Pillow reads. {' '.join(notes)}".rstrip())
    sha, modes, turned, animated, transparent, sizes = hashlib.sha256(), Counter[str](), 0, 0, 0, []
    for done, name in enumerate(names, 1):
        with _opened(folder / name) as (file, image):
            turn, mode = orientation(image), _mode(image)
            sizes.append((image.width, image.height) if turn > 4 else (image.height, image.width))
            modes[mode] += 1
            turned += turn > 1
            transparent += image.has_transparency_data
            animated += image.format != "MPO" and getattr(image, "is_animated", False)
            file.seek(0)
            sha.update(os.fsencode(name) + b"\0" + hashlib.file_digest(file, "sha256").digest())
            # Features made before, of pixels cut off or not turned, have another digest.
            sha.update(b"rounded" * mode.endswith("16 bits") + b"turned" * (turn > 1))
        if sizes[-1] != sizes[0]:
            raise UsageError(
                f"the images of {folder} differ in size: {names[0]} is {size_text(sizes[0])}, "
                f"{name} is {size_text(sizes[-1])}"
            )
        progress(f"looking through {folder.name}", done, len(names))
    total = f"of {len(names)} images"
    converted = []
    if others := ", ".join(f"{count} in {mode}" for mode, count in modes.items() if mode != "mode RGB"):
        converted.append(f"{others} {total}, converted to 8-bit RGB")
    if transparent:
        converted.append(
            f"{transparent} {total} have transparency, which is dropped: the colours that it hides are scored"
        )
    if converted:
        notes.append(f"{folder}: {'; '.join(converted)}.")
    if turned:
        notes.append(f"{folder}: {turned} {total} turned as their EXIF orientation says.")
    if animated:
        notes.append(f"{folder}: {animated} {total} have several frames, of which the first is scored.")
    decoder = functools.partial(_Parts, functools.partial(_decoded, [folder / name for name in names]))
    several = len({name.rpartition("/")[0] for name in names}) > 1
    return ImageSet(
        folder,
        len(names),
        sizes[0],
        sha.hexdigest(),
        {},
        tuple(notes),
        decoder,
        dict(left_out),
        order="lie in several folders, which may be classes" if several else "",
    )


def _decoded(paths: Sequence[Path], part: range) -> np.ndarray:
    """Some of a folder's images."""
    images = []
    for index in part:
        with _opened(paths[index]) as (_, image):
            images.append(np.asarray(to_rgb(image)).transpose(2, 0, 1))
    return np.stack(images)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, ImageFile.ImageFile]]:
    """The file and its image, not decoded yet; what PIL makes of a damaged one is one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                yield file, image
    except Image.UnidentifiedImageError:
        raise UsageError(f"{path} is no image that Pillow reads") from None
    except Exception as error:
        raise UsageError(f"{path} cannot be read as an image: {reason(error)}") from None


def _mode(image: ImageFile.ImageFile) -> str:
    """The mode of an image in words; Pillow gives that of 8 bits for some images of 16."""
    deep = image.mode.startswith("I") or (image.tile and str(image.tile[0].args).endswith(";16B"))
    return f"mode {image.mode.partition(';')[0]} of 16 bits" if deep else f"mode {image.mode}"


def size_text(size: tuple[int, int]) -> str:
    """Height and width: `16×16`."""
    return f"{size[0]}×{size[1]}"


def _unchanged(block: Any) -> Any:
    return block
