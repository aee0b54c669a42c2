"""Precision and recall: which images of one set lie among the nearest neighbours of the other.

Each distance is computed once, in blocks that with all else take less than 300 MiB (450 in half
precision), and is used for both of its ends: within a set the block (i, j) serves j as its transpose,
between sets a distance meets the radii of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.metrics.statistics import check, check_widths
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

_BLOCK = 4096  # rows at most: 64 MiB of distances
_BLOCK_VALUES = 2**23  # at most in a block of features: 32 MiB
_ROWS = 256  # of a block that norms are added to at a time: a second array as large would cost time
_GROUP = 32
_HELD = 2**33  # bytes of a set's features that may stay on a GPU: copies would take longer than products


def precision_recall(
    samples: np.ndarray,
    reference: np.ndarray,
    k: int = 3,
    half: bool = False,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[float, float]:
    """Improved precision and recall, Kynkäänniemi et al. 2019 (arXiv 1904.06991).

    Precision is the share of samples no further from some reference than that is from its k-th nearest
    neighbour among the references; recall the same with the sets exchanged.

    Features enter less the references' mean, which changes no distance but keeps float32 accurate.

    Args:
        samples: (N, D).
        reference: (M, D).
        k: which neighbour bounds an image's neighbourhood, itself not counted.
        half: compute squared distances in float16 as the ADM suite does, where they stay finite. This
            rounds them to steps of 0.25 or so, and raises both figures by up to 0.005.
        device: where to compute, such as `cuda`.

    Raises:
        UsageError: NaN or infinity, widths that differ, k or fewer images in a set.
    """
    if k < 1:
        raise UsageError(f"k must be 1 or more, not {k}: it counts neighbours")
    check(samples, "samples", least=k + 1)
    check(reference, "reference", least=k + 1)
    check_widths(samples.shape[1], reference.shape[1])
    centre = np.zeros(reference.shape[1]) if half else reference.mean(axis=0, dtype=np.float64)
    ours, others = (RowBlocks(features, centre, device) for features in (samples, reference))
    with torch.inference_mode():
        ours.radii = radii(ours, k, half, progress, "neighbours among the samples")
        others.radii = radii(others, k, half, progress, "neighbours among the references")
        precise, recalled = _inside(ours, others, half, progress)
    return precise.double().mean().item(), recalled.double().mean().item()


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a set: their features (n, D), their squared norms (n,), and where they are in the set."""

    features: Tensor
    norms: Tensor
    place: slice


class RowBlocks:
    """A set's features less the centre, cut into blocks of nearly equal size, loaded when asked for.

    On a GPU they stay, if the set is not very large.
    """

    radii: Tensor  # (N,) squared, see `radii`

    def __init__(self, features: np.ndarray, centre: np.ndarray, device: str) -> None:
        self.features, self.centre, self.device = features, centre.astype(np.float32), device
        most = max(1, min(_BLOCK, _BLOCK_VALUES // features.shape[1]))
        self.count = -(-len(features) // most)
        self.size = -(-len(features) // self.count)
        self.norms: dict[int, Tensor] = {}
        self.held: dict[int, Tensor] | None = None
        if torch.device(device).type != "cpu" and features.size * 4 <= _HELD:
            self.held = {}

    def __getitem__(self, index: int) -> RowBlock:
        place = slice(index * self.size, min((index + 1) * self.size, len(self.features)))
        if self.held is not None and index in self.held:
            rows = self.held[index]
        else:
            rows = torch.from_numpy(np.subtract(self.features[place], self.centre, dtype=np.float32))
            rows = rows.to(self.device)
            if self.held is not None:
                self.held[index] = rows
        if index not in self.norms:
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
            self.norms[index] = norms.square().float()
        return RowBlock(rows, self.norms[index], place)


def radii(rows: RowBlocks, k: int, half: bool, progress: Progress, description: str) -> Tensor:
    """Squared distance of each row to its k-th nearest neighbour in its set: (N,)."""
    # Every row is its own nearest, at a distance of zero.
    nearest = torch.full((len(rows.features), k + 1), torch.inf, device=rows.device)

    def merge(place: slice, found: Tensor) -> None:
        nearest[place] = torch.cat([nearest[place], found], dim=1).topk(k + 1, largest=False).values

    for first, second, distances in pairs_within(rows, half, progress, description):
        if first is not second:
            merge(second.place, _smallest(distances.t(), k + 1))
        merge(first.place, _smallest(distances, k + 1))
    return nearest[:, k].clamp_min(0)


def pairs_within(
    rows: RowBlocks, half: bool, progress: Progress, description: str
) -> Iterator[tuple[RowBlock, RowBlock, Tensor]]:
    """Every two blocks of a set once, also each with itself, and their squared distances (n, m).

    Those of a row to itself are 0.
    """
    done, pairs = 0, rows.count * (rows.count + 1) // 2
    for i in range(rows.count):
        first = rows[i]
        for j in range(i, rows.count):
            second = first if i == j else rows[j]
            distances = _distances(first, second, half)
            if i == j:
                distances.fill_diagonal_(0)
            yield first, second, distances
            done += 1
            progress(description, done, pairs)


def pairs_of_blocks(
    samples: RowBlocks, reference: RowBlocks, half: bool, progress: Progress
) -> Iterator[tuple[RowBlock, RowBlock, Tensor]]:
    """Every block of samples with every block of references, and their squared distances (n, m)."""
    pairs = samples.count * reference.count
    for i in range(samples.count):
        sample = samples[i]
        for j in range(reference.count):
            other = reference[j]
            yield sample, other, _distances(sample, other, half)
            progress("distances to the references", i * reference.count + j + 1, pairs)


def _inside(
    samples: RowBlocks, reference: RowBlocks, half: bool, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Which samples lie within a radius of some reference, and which references of some sample."""
    precise = torch.zeros(len(samples.features), dtype=torch.bool, device=samples.device)
    recalled = torch.zeros(len(reference.features), dtype=torch.bool, device=samples.device)
    for sample, other, distances in pairs_of_blocks(samples, reference, half, progress):
        precise[sample.place] |= (distances <= reference.radii[other.place]).any(dim=1)
        recalled[other.place] |= (distances <= samples.radii[sample.place, None]).any(dim=0)
    return precise, recalled


def _distances(first: RowBlock, second: RowBlock, half: bool) -> Tensor:
    """Squared distances (n, m), as (‖u‖² + ‖v‖²) − 2·u·v; rounding may leave some just below zero.

    Those need no floor here: whether one is at most a radius, which is not negative, does not change.

    Of two images they are the same to the bit whichever comes first, within a set and between sets, so that
    a distance that equals a radius compares as equal. The two norms are therefore added first.
    """
    if half:
        distances = _half_distances(first.features.half(), second.features.half())
        if distances.isfinite().all():
            return distances.float()
    products = _products(first.features, second.features)
    for part, norms in zip(products.split(_ROWS), first.norms.split(_ROWS), strict=True):
        torch.sub(norms[:, None] + second.norms, part, alpha=2, out=part)
    return products


def _products(u: Tensor, v: Tensor) -> Tensor:
    """u·vᵀ in float32: (n, d), (m, d) -> (n, m)."""
    if u.device.type != "cpu":
        return u @ v.t()
    # A 1×1 convolution of rows as pixels is the same product, by oneDNN: on some processors it takes
    # half the time of the library behind `@`. In channels-last order nothing is moved.
    pixels = u[None, None].permute(0, 3, 1, 2)
    return F.conv2d(pixels, v[:, :, None, None])[0, :, 0].t()


def _half_distances(u: Tensor, v: Tensor) -> Tensor:
    """The ADM suite's: every step but the sums rounded to float16. Not finite where that overflows."""
    norms_u, norms_v = (rows.square().float().sum(dim=1).half() for rows in (u, v))
    products = _products(u.float(), v.float()).half()
    return (norms_u[:, None] - 2 * products + norms_v).clamp_min(0)


def _smallest(values: Tensor, count: int) -> Tensor:
    """The `count` smallest of each row, in any order: (n, m) -> (n, count), infinity where m is less.

    The smallest numbers are in the groups with the smallest minima, so only those groups are sorted.
    """
    groups = values.shape[1] // _GROUP
    if groups > count:
        grouped = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
        best = grouped.amin(dim=1).topk(count, largest=False, sorted=False).indices
        chosen = grouped.gather(2, best[:, None, :].expand(-1, _GROUP, -1)).flatten(1)
        values = torch.cat([chosen, values[:, groups * _GROUP :]], dim=1)
    if values.shape[1] < count:
        values = F.pad(values, (0, count - values.shape[1]), value=torch.inf)
    return values.topk(count, largest=False, sorted=False).values
