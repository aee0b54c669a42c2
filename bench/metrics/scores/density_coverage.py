"""Density and coverage: Naeem et al. 2020 (arXiv 2002.09797), equations 3 and 4, with the paper's k = 5.

Around each reference image lies a ball that reaches to its k-th nearest neighbour among the references.
Density is the mean over samples of how many balls they lie in, over k; coverage is the share of balls that
hold a sample. A sample on the edge of a ball is outside, as in the authors' program (`prdc`); precision and
recall count it as inside.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score
from bench.metrics.statistics import check, check_widths
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

K = 5


def density_coverage(
    samples: np.ndarray,
    reference: np.ndarray,
    k: int = K,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[float, float]:
    """Density, from 0 and above 1 where samples crowd, and coverage, 0 to 1.

    Args:
        samples: (N, D).
        reference: (M, D).
        k: which neighbour bounds a ball, the image itself not counted.
        device: where to compute, such as `cuda`.
        progress: see `bench.utils.progress`.

    Raises:
        UsageError: NaN or infinity, widths that differ, k or fewer references.
    """
    import torch

    from bench.metrics.neighbours import RowBlocks, pairs_of_blocks, radii

    if k < 1:
        raise UsageError(f"k must be 1 or more, not {k}: it counts neighbours")
    check(samples, "samples")
    check(reference, "reference", least=k + 1)
    check_widths(samples.shape[1], reference.shape[1])
    centre = reference.mean(axis=0, dtype=np.float64)
    ours, balls = (RowBlocks(features, centre, device) for features in (samples, reference))
    with torch.inference_mode():
        reach = radii(balls, k, False, progress, "neighbours among the references")
        reach[reach == 0] = -torch.inf  # an empty ball; the distance of equal images may round below zero
        inside, covered = 0, torch.zeros(len(reference), dtype=torch.bool, device=balls.device)
        for _, ball, distances in pairs_of_blocks(ours, balls, False, progress):
            within = distances < reach[ball.place]
            inside += int(within.sum())
            covered[ball.place] |= within.any(dim=0)
    return inside / (k * len(samples)), covered.double().mean().item()


def _both(inputs: Inputs) -> tuple[float, float]:
    return density_coverage(*inputs.features("pool"), device=inputs.device, progress=inputs.progress)


@scores.register("density")
class Density(Score):
    """How many references a sample is near to (Naeem et al. 2020)."""

    heading, full_name = "Dens.", "Density"
    higher_is_better = True
    digits = 3
    needs = BOTH_POOLS
    place = 0  # among what is computed of one pass

    def compute(self, inputs: Inputs) -> float:
        return inputs.once(_both)[self.place]


@scores.register("coverage")
class Coverage(Density):
    """Share of references near a sample (Naeem et al. 2020)."""

    heading, full_name = "Cov.", "Coverage"
    place = 1
