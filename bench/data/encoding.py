"""Images to latents on disk, shard by shard: `bench encode`.

Of each image the mean and standard deviation of the autoencoder's posterior are kept, so that training draws
from it anew at every step, as DiT's program does by encoding at every step; or one sample of it, as in the
U-DiT and fast-DiT releases; or its mean. The noise of a sample is a function of the seed, the image's number
and whether it is mirrored, and batches are cut by the images' numbers, so neither the number of processes nor
an interruption changes anything; another batch size changes what float32 rounding changes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bench.data import autoencoder
from bench.data.autoencoder import Autoencoder
from bench.data.dataset import ImageDataset
from bench.data.latents import (
    INDEX,
    LABELS,
    STATISTICS,
    Index,
    Posterior,
    read_index,
    shard_name,
)
from bench.data.normalisation import statistics
from bench.utils import distributed
from bench.utils.arrays import batches
from bench.utils.files import write_text, write_whole
from bench.utils.progress import Progress, silent
from bench.utils.randomness import normal
from registry.errors import UsageError

UNFINISHED = "unfinished.json"  # the index until all shards are there


def encode(
    images: ImageDataset,
    out: str | Path,
    vae: str = autoencoder.VAE,
    *,
    flipped: bool = True,
    posterior: Posterior = "moments",
    dtype: Literal["float32", "float16"] = "float32",
    precision: autoencoder.Precision = "fp32",
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    shard_size: int = 2048,
    progress: Progress = silent,
) -> Index:
    """Write the latents of all images, so that `bench.data.load("latents", root=out)` opens them.

    An interrupted call resumes after its finished shards. Several processes share the shards. The one that
    finishes last completes the folder; none waits for another.

    Args:
        images: of colour, as pixels.
        out: the folder.
        vae: a diffusers folder with an AutoencoderKL, or an id of the hub; see `autoencoder.load`.
        flipped: keep the latents of the mirrored images too.
        posterior: what is kept of it: mean and standard deviation (`moments`), a sample, or the mean.
        dtype: of the files.
        precision: of the autoencoder's arithmetic; bf16 is rounded more than TF32, and faster.
        seed: of the sample that is kept, or taken where none is asked for.
        batch_size: images encoded at once.
        device: that does it.
        shard_size: images of a file, which appears whole or not at all.
        progress: is told how many of its images this process has done.

    Raises:
        UsageError: images that the autoencoder cannot take or that cannot be read, no autoencoder, or a
            folder that cannot be written to or holds latents of other images or settings.
    """
    out, device = Path(out), torch.device(device)
    network = autoencoder.load(vae, precision)
    index = Index(
        count=len(images),
        shape=_shape(images, network),
        scale=network.scale,
        vae=autoencoder.absolute(vae),
        posterior=posterior,
        seed=seed,
        flipped=flipped,
        dtype=dtype,
        shard_size=shard_size,
        num_classes=images.num_classes,
        class_names=images.class_names,
        source=images.digest,
        precision=precision,
    )
    if not _begin(out, index, images):
        _write_statistics(out, index)
        return index
    mine = distributed.share(list(enumerate(index.shards())))
    todo = [(number, rows) for number, rows in mine if not (out / shard_name(number)).exists()]
    total = sum(len(rows) for _, rows in mine)
    done = total - sum(len(rows) for _, rows in todo)
    progress("encoding", done, total)
    cut = [[rows[part.start : part.stop] for part in batches(len(rows), batch_size)] for _, rows in todo]
    read = _ahead(images, list(itertools.chain(*cut)))
    for (number, rows), parts in zip(todo, cut, strict=True):
        shard = np.empty((len(rows), *index.row), dtype)
        for part in parts:
            at = slice(part.start - rows.start, part.stop - rows.start)
            shard[at] = _latents(network, next(read), part, index, device)
            done += len(part)
            progress("encoding", done, total)
        write_whole(out / shard_name(number), functools.partial(np.save, arr=shard))
    _finish(out, index)
    return index


def _shape(images: ImageDataset, network: Autoencoder) -> tuple[int, int, int]:
    channels, height, width = images.shape
    if channels == 12:
        raise UsageError("a VAE encodes pixels: open the images with grid=pixels, not space-to-depth")
    if channels != 3:
        raise UsageError("a VAE encodes colour images, and these are grey")
    if height % network.reduction or width % network.reduction:
        raise UsageError(
            f"this VAE takes images whose sides are multiples of {network.reduction}, not {height}×{width}"
        )
    return network.channels, height // network.reduction, width // network.reduction


def _begin(out: Path, index: Index, images: ImageDataset) -> bool:
    """Write what is going to be there; False if all of it is there already."""
    finished = (out / INDEX).exists()
    if not finished and not (out / UNFINISHED).exists():
        labels = images.labels(np.arange(len(images))).numpy()
        write_whole(out / LABELS, lambda made: np.save(made, labels))
        write_text(out / UNFINISHED, json.dumps(asdict(index), indent=2, ensure_ascii=False) + "\n")
    found = read_index(out / (INDEX if finished else UNFINISHED))
    if found.precision is None and index.precision == "fp32":  # begun when nothing else could be asked for
        index = replace(index, precision=None)
    if found != index:
        differs = [key for key, value in asdict(index).items() if asdict(found)[key] != value]
        raise UsageError(
            f"{out} holds latents of something else ({', '.join(differs)}): delete it or choose another place"
        )
    return not finished


def _latents(
    network: Autoencoder, images: np.ndarray, numbers: range, index: Index, device: torch.device
) -> np.ndarray:
    """(n, H, W, 3) images -> (n, V, C, h, w) scaled latents, or their moments (n, V, 2, C, h, w)."""
    views = []
    for view in range(index.views):
        mean, std = network.posterior(images[:, :, ::-1] if view else images, device)
        mean, std = (mean - network.shift) * network.scale, std * network.scale
        if index.posterior == "moments":
            mean = torch.stack([mean, std], dim=1)
        elif index.posterior == "sample":
            indices = torch.arange(numbers.start, numbers.stop, device=device)
            # As `Encoded.grids` draws of moments.
            noise = normal(index.seed, "posterior", indices, index.shape, step=view)
            mean = torch.addcmul(mean, std, noise)
        views.append(mean.cpu().numpy())
    return np.stack(views, axis=1)


def _ahead(images: ImageDataset, parts: list[range]) -> Iterator[np.ndarray]:
    """Batches of images in order, read by threads before they are asked for."""
    threads = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(threads) as pool:
        coming = deque(pool.submit(images.images, np.array(part)) for part in parts[:threads])
        for part in [*parts[threads:], *[None] * len(coming)]:
            yield coming.popleft().result()
            if part is not None:
                coming.append(pool.submit(images.images, np.array(part)))


def _finish(out: Path, index: Index) -> None:
    """Complete the folder, if all shards are there."""
    if all((out / shard_name(number)).exists() for number in range(len(index.shards()))):
        for left in out.glob(".bench-*/latents-*.npy"):  # of processes that were killed
            shutil.rmtree(left.parent, ignore_errors=True)
        _write_statistics(out, index)
        with contextlib.suppress(FileNotFoundError):  # another process finished at the same time
            (out / UNFINISHED).rename(out / INDEX)


def _write_statistics(out: Path, index: Index) -> None:
    """Mean and standard deviation of z by channel, unless they are there."""
    if not (out / STATISTICS).exists():
        shards = (
            np.load(out / shard_name(number), mmap_mode="r") / index.scale
            for number in range(len(index.shards()))
        )
        found = statistics(shards, moments=index.posterior == "moments")
        write_text(out / STATISTICS, json.dumps(found) + "\n")
