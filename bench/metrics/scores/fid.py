"""FID, sFID and FID∞: the Fréchet distance of features. FID and sFID are equal to the ADM suite's."""

from __future__ import annotations

import numpy as np

from bench.metrics import resampling
from bench.metrics.scores import scores
from bench.metrics.scores.base import Inputs, Need, Score
from bench.metrics.statistics import Statistics, frechet_distance


def fid(samples: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance of (N, D) and (M, D) features.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than two rows.
    """
    return frechet_distance(
        Statistics.of(samples, name="samples"), Statistics.of(reference, name="reference")
    )


@scores.register("fid")
class FID(Score):
    """Fréchet distance of features (Heusel et al. 2017, arXiv 1706.08500)."""

    heading = full_name = "FID"
    higher_is_better = False
    needs = (Need("samples", "pool", True), Need("reference", "pool", True))
    default = True
    least = 2
    interval_by = resampling.BY_GROUPS

    def compute(self, inputs: Inputs) -> float:
        return frechet_distance(*inputs.statistics(self.needs[0].kind))

    def interval(self, inputs: Inputs) -> tuple[float, float] | None:
        kind = self.needs[0].kind
        features = inputs.samples.array(kind)
        if features is None or inputs.samples.given_statistics(kind) is not None:
            return None
        return resampling.frechet_interval(features, *inputs.statistics(kind), inputs.groups, inputs.progress)


@scores.register("sfid")
class SFID(FID):
    """FID of spatial features (Nash et al. 2021, arXiv 2103.03841)."""

    heading = full_name = "sFID"
    needs = (Need("samples", "spatial", True), Need("reference", "spatial", True))


@scores.register("fid_infinity")
class FIDInfinity(Score):
    """FID extrapolated to infinitely many samples (Chong and Forsyth 2020, arXiv 1911.07023)."""

    heading = full_name = "FID∞"
    higher_is_better = False
    needs = (Need("samples", "pool"), Need("reference", "pool", True))
    recorded = False  # it takes fifteen times as long as FID
    least = 2 * resampling.POINTS

    def compute(self, inputs: Inputs) -> float:
        samples = inputs.samples.pool
        assert samples is not None
        return resampling.fid_infinity(samples, inputs.statistics("pool")[1], progress=inputs.progress)
