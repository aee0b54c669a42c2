"""Features of image sets: made once, stored on disk under the digest of the content, written for others.

The cache holds a folder for each set and extractor, its weights and its code. It is filled batch by batch,
so an interrupted run resumes, and several processes fill it together. Its folders may be deleted at any time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.metrics.extractors import Extractor, create, extractors
from bench.metrics.images import ABOUT, KINDS, FeatureSet, ImageSet, open_set
from bench.metrics.scores.base import Features
from bench.metrics.statistics import Statistics
from bench.utils import distributed
from bench.utils.arrays import ResumableArrays
from bench.utils.cache import cache_folder
from bench.utils.device import find_device
from bench.utils.files import write_whole
from bench.utils.precision import tf32
from bench.utils.progress import Progress, silent
from registry.errors import CodeError, UsageError

SMALL = 16  # pixels a side, up to which images are taken for digits


@contextmanager
def feature_folder(cache: Path | None) -> Iterator[tuple[Path, list[str]]]:
    """The folder to store features in, and what a user should know of it, a sentence each.

    Args:
        cache: the folder asked for. None: one in the user's cache, or where there is none that can be written
            to a temporary one, which is removed at the end; arrays mapped from it stay readable.

    Raises:
        UsageError: there is no cache, and several processes, which could not share a temporary folder.
    """
    folder = cache or cache_folder("features")
    if folder:
        yield folder, []
        return
    if distributed.count() > 1:
        raise UsageError("several processes need a folder for features that all can write to: give --cache")
    with tempfile.TemporaryDirectory(prefix="denoiser-bench-") as made:
        yield Path(made), ["Features were not stored: no cache of this user can be written to. Give --cache."]


def fitting_extractor(*sets: ImageSet | FeatureSet) -> tuple[str, str]:
    """The extractor for some sets where none is named, and why that one."""
    for made in sets:
        if isinstance(made, FeatureSet):
            by_custom = "" if made.digest else ", whose statistics are by custom its"
            return made.extractor, f"as in {made.path.name}{by_custom}"
    sides = [side for images in sets if isinstance(images, ImageSet) for side in images.size]
    if max(sides) <= SMALL:
        return "digits", f"the default for images of at most {SMALL} pixels a side"
    return "inception", f"the default for images of more than {SMALL} pixels a side"


def features_of(
    images: ImageSet | FeatureSet,
    networks: Sequence[Extractor],
    cache: Path,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Features]:
    """Features of every image by each extractor, from the cache as far as they are there, else in one pass.

    Several processes share the batches, cut by global number, and return when all are done: the result
    does not depend on how many they are.

    Args:
        images: images, or a set of features, which is returned as it is once it is seen to fit.
        networks: the extractors.
        cache: the folder to store features in, one for all processes.
        batch_size: images a pass.
        device: where the networks run; with several processes `cuda` is each one's own.
        progress: see `bench.utils.progress`.

    Returns:
        For each extractor (N, width) float32 mapped from the cache, and statistics that lie in the file
        itself and are of this extractor.

    Raises:
        UsageError: features or statistics of another extractor, images that cannot be decoded, a folder that
            is full, cannot be written to, or is not the same for all processes.
        CodeError: an extractor makes something else than it declares, or NaN.
    """
    if isinstance(images, FeatureSet):
        for network in networks:
            check_fits(images, network.name, network.digest, network.outputs)
        return [made_features(images.features, images.statistics)] * len(networks)
    rows = [
        ResumableArrays(
            cache / "-".join([network.name, network.digest, *_code(network), images.digest[:32]]),
            {"images": images.digest, "extractor": network.name, "weights": network.digest},
            images.count,
            {kind: ((network.outputs[kind],), "float32") for kind in KINDS if kind in network.outputs},
        )
        for network in networks
    ]
    own = distributed.share(images.batches(batch_size))
    parts = [part for part in own if any(arrays.missing(part) for arrays in rows)]
    _fill(rows, parts, images, networks, device, progress)
    distributed.wait()
    found = []
    for arrays, network in zip(rows, networks, strict=True):
        if lacking := arrays.missing():
            raise UsageError(
                f"features of {lacking:,} images are not in {arrays.folder}: give --cache a folder that all "
                "processes share"
            )
        made = {kind: arrays[kind] for kind in KINDS if kind in network.outputs}
        found.append(made_features(made, own_statistics(images, network)))
    return found


def _code(extractor: Extractor) -> list[str]:
    """The fingerprint of an extractor's code, where it is registered under its name."""
    try:
        return [extractors.fingerprint(extractor.name)]
    except UsageError:
        return []


def own_statistics(images: ImageSet, extractor: Extractor) -> dict[str, Statistics]:
    """The statistics in an images' file, if they are this extractor's: by custom they are Inception's."""
    if extractor.name != "inception":
        return {}
    widths = {kind: len(statistics.mean) for kind, statistics in images.statistics.items()}
    _check_widths(images.path, "statistics", widths, extractor.name, extractor.outputs)
    return images.statistics


def own_device(name: str) -> torch.device:
    """The device of that name; of several processes that ask for `cuda` each has its own.

    Raises:
        UsageError: no such device here.
    """
    return find_device(distributed.device() if name == "cuda" and distributed.count() > 1 else name)


def make_file(
    path: str | Path,
    out: Path,
    *,
    extractor: str | None = None,
    weights: str | Path | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Progress = silent,
) -> None:
    """Write the features of the images at `path` to the file `out`, once for many comparisons.

    Args:
        path: images; see `open_set`.
        out: see `write_features`.
        extractor, weights, batch_size, device, cache, progress: see `bench.metrics.evaluation.compare`.

    Raises:
        UsageError: a set without images, or one that cannot be read; a place that cannot be written to.
    """
    if out.suffix.lower() != ".npz":
        raise UsageError(f"{out}: a feature file ends in .npz")
    own_device(device)
    images = open_set(path, progress)
    if isinstance(images, FeatureSet):
        raise UsageError(f"{path} holds features or statistics, not images")
    network = create(extractor or fitting_extractor(images)[0], weights)
    with feature_folder(cache) as (folder, _):
        (features,) = features_of(
            images, [network], folder, batch_size=batch_size, device=device, progress=progress
        )
    if distributed.is_main():
        write_features(out, images, network, features, progress)


def write_features(
    path: Path, images: ImageSet, extractor: Extractor, features: Features, progress: Progress = silent
) -> None:
    """Write an `.npz` that `bench eval`, the ADM suite and pytorch-fid read, whole or not at all.

    It holds `mu`, `sigma` (pooled features) and `mu_s`, `sigma_s` (spatial), float64, under the ADM
    suite's names; `pool`, `spatial` and `logits`, float32; and `about`, JSON that names the extractor.
    Statistics that came with the images take the place of those of the images.

    Args:
        path: of the file.
        images: what the features are of.
        extractor: what made them.
        features: as `features_of` returns them.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: a place that cannot be written to.
    """
    own = features.statistics is not None
    about = {
        "extractor": extractor.name,
        "digest": extractor.digest,
        "count": images.count,
        "size": images.size,
        "statistics": f"stored in {images.path.name}" if own else f"of the {images.count} images",
    }
    arrays: dict[str, Any] = {ABOUT: np.array(json.dumps(about))}
    for given, rows, mean, covariance in (
        (features.statistics, features.pool, "mu", "sigma"),
        (features.spatial_statistics, features.spatial, "mu_s", "sigma_s"),
    ):
        statistics = given or (None if rows is None else Statistics.of(rows, progress, images.path.name))
        if statistics:
            arrays |= {mean: statistics.mean, covariance: statistics.covariance}
    arrays |= {kind: rows for kind in KINDS if (rows := getattr(features, kind)) is not None}

    def write(made: Path) -> None:
        with made.open("wb") as file:  # to a path that does not end in .npz NumPy would add it
            np.savez(file, **arrays)

    write_whole(path, write)


def _fill(
    rows: Sequence[ResumableArrays],
    parts: list[range],
    images: ImageSet,
    networks: Sequence[Extractor],
    device: str,
    progress: Progress,
) -> None:
    if not parts:
        return
    where = own_device(device)
    networks = [network.to(where) for network in networks]
    names = ", ".join(network.name for network in networks)
    done, todo = 0, sum(map(len, parts))
    for part, pixels in zip(parts, images.read(parts), strict=True):
        title = f"images {part.start} to {part.stop - 1}"
        for arrays, network in zip(rows, networks, strict=True):
            if not arrays.missing(part):
                continue
            try:
                with torch.inference_mode(), tf32(False, where):
                    made = network(pixels.to(where))
            except torch.OutOfMemoryError:
                raise UsageError(
                    f"{len(part)} images at once do not fit on {where}: lower --batch-size"
                ) from None
            arrays.put(part, **_checked(made, network, title, len(part)))
        done += len(part)
        progress(f"{names} features of {images.path.name}", done, todo)


def _checked(made: Any, extractor: Extractor, images: str, count: int) -> dict[str, np.ndarray]:
    """What an extractor has made of some images, as arrays.

    Raises:
        CodeError: it is not what the extractor declares.
    """
    title = f"the extractor {extractor.name!r}"
    if not isinstance(made, Mapping):
        raise CodeError(f"{title} returned {type(made).__name__}, not features by name", extractor)
    values = {}
    for kind in KINDS:
        if kind not in extractor.outputs:
            continue
        features, wanted = made.get(kind), (count, extractor.outputs[kind])
        if not isinstance(features, torch.Tensor):
            raise CodeError(f"{title} returned no tensor of {kind!r} features", extractor)
        if features.shape != wanted:
            shape = tuple(features.shape)
            raise CodeError(f"{title} returned {kind!r} of shape {shape}, not {wanted}", extractor)
        values[kind] = features.float().cpu().numpy()
        if not np.isfinite(values[kind]).all():
            raise CodeError(f"{title} returned NaN or infinity in {kind!r} of {images}", extractor)
    return values


def made_features(arrays: Mapping[str, np.ndarray], statistics: Mapping[str, Statistics]) -> Features:
    """Features and statistics by "pool", "spatial" and "logits"."""
    pool, spatial, logits = map(arrays.get, KINDS)
    return Features(pool, spatial, logits, statistics.get("pool"), statistics.get("spatial"))


def check_fits(made: FeatureSet, name: str, digest: str | None, widths: Mapping[str, int]) -> None:
    """See that a set of features or statistics is an extractor's.

    Args:
        made: the set.
        name: of the extractor.
        digest: of its weights; None where they are not known.
        widths: of what it makes.

    Raises:
        UsageError: it is another's, by name, weights or widths.
    """
    held = "features" if made.features else "statistics"
    if made.extractor != name or (None not in (made.digest, digest) and made.digest != digest):
        its, ours = (f"{of} {by or ''}".strip() for of, by in ((made.extractor, made.digest), (name, digest)))
        raise UsageError(f"{made.path} holds {held} of {its}, not of {ours}: they cannot be compared")
    _check_widths(made.path, held, made.widths, name, widths)


def _check_widths(
    path: Path, held: str, found: Mapping[str, int], name: str, widths: Mapping[str, int]
) -> None:
    for kind, width in found.items():
        if width != widths.get(kind, width):
            raise UsageError(
                f"{path} holds {kind} {held} of width {width}, those of {name} are {widths[kind]} wide: they "
                "are of another extractor"
            )
