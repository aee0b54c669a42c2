"""CMMD: Jayasumana et al. 2024 (arXiv 2401.09603), the maximum mean discrepancy of CLIP embeddings.

Embeddings are scaled to length 1. The kernel is Gaussian, exp(−|x − y|²/2σ²) with σ = 10; the estimate is the
biased one of Gretton et al. 2012, equation 5, over all pairs, those of an image with itself included, and is
printed times 1,000. Equal to the authors' program.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score
from bench.metrics.statistics import check, check_widths
from bench.utils.progress import Progress, silent

SIGMA = 10.0


def cmmd(
    samples: np.ndarray, reference: np.ndarray, *, device: str = "cpu", progress: Progress = silent
) -> float:
    """The squared maximum mean discrepancy of embeddings, times 1,000.

    Args:
        samples: (N, D), of any length.
        reference: (M, D), likewise.
        device: where to compute, such as `cuda`.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: NaN or infinity, widths that differ.
    """
    import torch

    from bench.metrics.neighbours import RowBlocks, pairs_of_blocks, pairs_within

    check(samples, "samples")
    check(reference, "reference")
    check_widths(samples.shape[1], reference.shape[1])
    unit = [_normalised(features) for features in (samples, reference)]
    centre = unit[1].mean(axis=0, dtype=np.float64)
    ours, others = (RowBlocks(features, centre, device) for features in unit)

    def apart(distances: torch.Tensor) -> float:
        """Sum of 1 − kernel: the kernel itself is so near 1 that float32 would lose what differs."""
        return -float(torch.expm1(distances.clamp_min_(0) / (-2 * SIGMA**2)).sum(dtype=torch.float64))

    def within(rows: RowBlocks, description: str) -> float:
        total = sum(
            apart(distances) * (1 if first is second else 2)
            for first, second, distances in pairs_within(rows, False, progress, description)
        )
        return total / len(rows.features) ** 2

    with torch.inference_mode():
        between = sum(apart(distances) for *_, distances in pairs_of_blocks(ours, others, False, progress))
        mean = between / (len(samples) * len(reference))
        return 1000 * (2 * mean - within(ours, "pairs of samples") - within(others, "pairs of references"))


def _normalised(features: np.ndarray) -> np.ndarray:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


@scores.register("cmmd")
class CMMD(Score):
    """Maximum mean discrepancy of CLIP embeddings, times 1,000 (Jayasumana et al. 2024, arXiv 2401.09603)."""

    heading = full_name = "CMMD"
    extractor = "clip"
    higher_is_better = False
    digits = 3
    needs = BOTH_POOLS
    recorded = False

    def compute(self, inputs: Inputs) -> float:
        return cmmd(*inputs.features("pool"), device=inputs.device, progress=inputs.progress)
