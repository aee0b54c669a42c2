"""FID, sFID and FID∞: the Fréchet distance of features.

FID is Heusel et al. 2017 (arXiv 1706.08500), sFID Nash et al. 2021 (arXiv 2103.03841), both equal to the
ADM suite's; FID∞ is Chong and Forsyth 2020 (arXiv 1911.07023).
"""

from __future__ import annotations

import numpy as np

from bench.metrics import resampling
from bench.metrics.scores.base import Inputs, Kind, Need, Score
from bench.metrics.statistics import Statistics, check_widths, frechet_distance


def fid(samples: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance of (N, D) and (M, D) features.

    Raises:
        UsageError: NaN or infinity, widths that differ, fewer than two rows.
    """
    return frechet_distance(
        Statistics.of(samples, name="samples"), Statistics.of(reference, name="reference")
    )


def _distance(inputs: Inputs, kind: Kind) -> float:
    widths = []
    for features in (inputs.samples, inputs.reference):
        given, array = features.given_statistics(kind), features.array(kind)
        if given is not None:
            widths.append(len(given.mean))
        elif array is not None:
            widths.append(array.shape[-1])
    check_widths(*widths)
    return frechet_distance(*inputs.statistics(kind))


def _interval(inputs: Inputs, kind: Kind) -> tuple[float, float] | None:
    features = inputs.samples.array(kind)
    if features is None or inputs.samples.given_statistics(kind) is not None:
        return None
    return resampling.frechet_interval(features, *inputs.statistics(kind), inputs.groups, inputs.progress)


def _infinity(inputs: Inputs) -> float:
    samples = inputs.samples.pool
    assert samples is not None
    return resampling.fid_infinity(samples, inputs.statistics("pool")[1], progress=inputs.progress)


FID = Score(
    name="fid",
    heading="FID",
    full_name="FID",
    option="Fréchet distance of features (Heusel et al. 2017)",
    higher_is_better=False,
    digits=2,
    needs=(Need("samples", "pool", True), Need("reference", "pool", True)),
    function=lambda inputs: _distance(inputs, "pool"),
    interval=lambda inputs: _interval(inputs, "pool"),
    default=True,
    order=1,
)
SFID = Score(
    name="sfid",
    heading="sFID",
    full_name="sFID",
    option="FID of spatial features (Nash et al. 2021)",
    higher_is_better=False,
    digits=2,
    needs=(Need("samples", "spatial", True), Need("reference", "spatial", True)),
    function=lambda inputs: _distance(inputs, "spatial"),
    interval=lambda inputs: _interval(inputs, "spatial"),
    default=True,
    order=2,
)
FID_INFINITY = Score(
    name="fid_infinity",
    heading="FID∞",
    full_name="FID∞",
    option="FID extrapolated to infinitely many samples (Chong and Forsyth 2020)",
    higher_is_better=False,
    digits=2,
    needs=(Need("samples", "pool"), Need("reference", "pool", True)),
    function=_infinity,
    recorded=False,  # it takes fifteen times as long as FID
)
