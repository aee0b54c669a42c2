"""The batches of a run, read ahead by worker processes. The images of a step depend on its number and the
seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import Dataset
from bench.records.schema import TrainingSettings
from bench.utils import distributed, randomness


def places(settings: TrainingSettings, accumulation: int, part: int) -> np.ndarray:
    """Indices in the whole batch of the samples of this process in one part: (n,) integers."""
    size = settings.batch_size // (distributed.count() * accumulation)
    first = (part * distributed.count() + distributed.index()) * size
    return np.arange(first, first + size)


def grids_of(dataset: Dataset, read: Tensor, seed: int, places: Tensor, step: int) -> Tensor:
    """Grids (n, C, H, W) of what `batches` gives, on its device; a posterior's are drawn anew at every step.

    Args:
        read: grids, or moments (n, 2, C, H, W).
        places: in the whole batch, (n,).
    """
    if read.dim() == 4:
        return read
    of_moments: Any = dataset
    return of_moments.drawn(read, _posterior_noise(dataset, seed, places, step))


def _posterior_noise(dataset: Dataset, seed: int, places: Tensor, step: int) -> Tensor:
    return randomness.normal(seed, "posterior of training", places, dataset.shape, step)


def batches(
    dataset: Dataset, settings: TrainingSettings, seed: int, accumulation: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Grids (n, C, H, W) and labels (n,) of this process, part by part, from step `first` on.

    In place of grids, moments (n, 2, C, H, W) of a dataset that has such, by methods `moments(indices, flip)`
    and `drawn(moments, noise)`; see `grids_of`.

    An exception of the dataset in a worker process is raised again here, with its own traceback.
    """
    parts = _Parts(dataset, settings, seed, accumulation)
    numbers = range(first * accumulation, settings.steps * accumulation)
    loader = torch.utils.data.DataLoader(
        parts,
        sampler=numbers,
        batch_size=None,
        num_workers=dataset.workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=dataset.workers > 0,
    )
    read = iter(loader)  # now: it draws a seed from PyTorch's generator
    return _batches(parts, numbers, read) if dataset.workers else read


def _batches(
    parts: _Parts, numbers: range, read: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    for number in numbers:
        try:
            batch = next(read)
        except Exception:
            parts[number]  # it fails again here, with frames that the worker's error lacks
            raise
        yield batch


class _Parts(torch.utils.data.Dataset):
    """Parts of batches by their number, counted over the whole run."""

    def __init__(self, dataset: Dataset, settings: TrainingSettings, seed: int, accumulation: int) -> None:
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.places = [places(settings, accumulation, part) for part in range(accumulation)]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        step, part = divmod(number, len(self.places))
        batch_size = self.settings.batch_size
        # Samples that do not fill a batch at the end of an epoch are left out.
        epoch, of_epoch = divmod(step, len(self.dataset) // batch_size)
        if epoch != self._epoch:
            order = randomness.permutation(self.seed, "order", len(self.dataset), epoch)
            self._epoch, self._order = epoch, order
        places = self.places[part]
        indices = self._order[of_epoch * batch_size + places]
        flip, at = None, torch.from_numpy(places)
        if self.settings.flip:
            flip = randomness.uniform(self.seed, "flip", at, 1, step)[:, 0].numpy() < 0.5
        labels = self.dataset.labels(indices)
        if not self.dataset.posterior:
            return self.dataset.grids(indices, flip), labels
        if moments := getattr(self.dataset, "moments", None):
            return moments(indices, flip), labels
        noise = _posterior_noise(self.dataset, self.seed, at, step)
        return self.dataset.grids(indices, flip, noise), labels
