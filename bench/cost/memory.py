"""The bytes of live tensors and their peak: one tracker, for `bench.cost` and `bench.speed`."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LiveTensors:
    """Follows storages from when they are first seen until they are freed; sparse tensors have none.

    Args:
        besides: tensors that are not followed, such as weights.
        live: bytes that are in use all the time besides what is followed.

    Attributes:
        live: bytes in use now.
        peaks: the most in use, by stage.
    """

    def __init__(self, besides: Iterable[Tensor] = (), live: int = 0) -> None:
        self.live = live
        self.peaks: Counter[str] = Counter()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        for tensor in besides:
            if tensor.layout is torch.strided:
                self._seen.add(tensor.untyped_storage())

    def add(self, tensor: Tensor, stage: str = "") -> None:
        """Follow the storage of a tensor that was made, or seen, while a stage runs."""
        if tensor.layout is torch.strided and (storage := tensor.untyped_storage()) not in self._seen:
            self._seen.add(storage)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._freed, storage.nbytes())
        self.mark(stage)

    def mark(self, stage: str = "") -> None:
        """Take what is live now into account for the peak of a stage."""
        self.peaks[stage] = max(self.peaks[stage], self.live)

    def _freed(self, size: int) -> None:
        self.live -= size
