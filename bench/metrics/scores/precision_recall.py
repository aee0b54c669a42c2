"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equal to the ADM suite's."""

from __future__ import annotations

from bench.metrics import resampling
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score


def _both(inputs: Inputs) -> tuple[float, float]:
    from bench.metrics.neighbours import precision_recall

    return precision_recall(
        *inputs.features("pool"), half=inputs.half_distances, device=inputs.device, progress=inputs.progress
    )


PRECISION = Score(
    name="precision",
    heading="Prec.",
    full_name="Precision",
    option="improved precision (Kynkäänniemi et al. 2019)",
    higher_is_better=True,
    digits=3,
    needs=BOTH_POOLS,
    function=lambda inputs: inputs.once(_both)[0],
    interval=lambda inputs: resampling.share_interval(inputs.once(_both)[0], len(inputs.features("pool")[0])),
    default=True,
    order=4,
)
RECALL = Score(
    name="recall",
    heading="Rec.",
    full_name="Recall",
    option="improved recall (Kynkäänniemi et al. 2019)",
    higher_is_better=True,
    digits=3,
    needs=BOTH_POOLS,
    function=lambda inputs: inputs.once(_both)[1],
    interval=lambda inputs: resampling.share_interval(inputs.once(_both)[1], len(inputs.features("pool")[1])),
    default=True,
    order=5,
)
