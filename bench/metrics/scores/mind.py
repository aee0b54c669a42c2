"""MIND, the Monge Inception distance: Berthet et al. 2026 (arXiv 2605.06797).

The squared 2-Wasserstein distance of both sets' features along random directions, where it is that of sorted
values, as a mean over directions, times 3·D. Sets of different sizes are cut to the smaller, by chance.
Equal to torch-fidelity's main branch of May 2026 (`metric_mind.py`), random numbers included.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score
from bench.metrics.statistics import check, check_widths
from bench.utils.progress import Progress, silent

DIRECTIONS, SEED = 1000, 2020  # torch-fidelity's
_AT_ONCE = 50


def mind(
    samples: np.ndarray,
    reference: np.ndarray,
    directions: int = DIRECTIONS,
    seed: int = SEED,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> float:
    """3·D times the mean squared 2-Wasserstein distance along random unit directions.

    Args:
        samples: (N, D).
        reference: (M, D).
        directions: how many.
        seed: of PyTorch's generator, which draws them.
        device: where to project and sort, such as `cuda`.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: NaN or infinity, widths that differ.
    """
    import torch

    check(samples, "samples")
    check(reference, "reference")
    width = samples.shape[1]
    check_widths(width, reference.shape[1])
    drawn = torch.Generator().manual_seed(seed)
    count, sets = min(len(samples), len(reference)), []
    for features in (samples, reference):
        rows = torch.from_numpy(np.array(features, np.float32))  # a copy: files may be mapped read-only
        if len(rows) > count:
            rows = rows[torch.randperm(len(rows), generator=drawn)[:count]]
        sets.append(rows.to(device))
    axes = torch.randn(directions, width, generator=drawn)
    axes = (axes / axes.norm(dim=1, keepdim=True)).to(device)
    total = 0.0
    with torch.inference_mode():
        for start in range(0, directions, _AT_ONCE):
            ours, others = ((axes[start : start + _AT_ONCE] @ rows.mT).sort().values for rows in sets)
            total += float((ours - others).square().sum(dtype=torch.float64))
            progress("MIND", min(start + _AT_ONCE, directions), directions)
    return 3 * width * total / (directions * count)


@scores.register("mind")
class MIND(Score):
    """Monge Inception distance (Berthet et al. 2026, arXiv 2605.06797)."""

    heading = full_name = "MIND"
    higher_is_better = False
    needs = BOTH_POOLS
    recorded = False

    def compute(self, inputs: Inputs) -> float:
        return mind(*inputs.features("pool"), device=inputs.device, progress=inputs.progress)
