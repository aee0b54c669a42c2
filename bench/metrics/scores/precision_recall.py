"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equal to the ADM suite's."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bench.metrics import resampling
from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score


@functools.cache  # so that precision and recall ask for one function
def _both(k: int) -> Callable[[Inputs], tuple[float, float]]:
    def both(inputs: Inputs) -> tuple[float, float]:
        from bench.metrics.neighbours import precision_recall

        return precision_recall(
            *inputs.features("pool"),
            k,
            half=inputs.half_distances,
            device=inputs.device,
            progress=inputs.progress,
        )

    return both


class _Share(Score):
    """The share of images of one side that lie in the neighbourhoods of the other."""

    higher_is_better = True
    digits = 3
    needs = BOTH_POOLS
    interval_by = "by Wilson's formula for shares"
    of_references = False
    k = 3  # which neighbour bounds a neighbourhood
    least = 4

    def compute(self, inputs: Inputs) -> float:
        return inputs.once(_both(self.k))[self.of_references]

    def interval(self, inputs: Inputs) -> tuple[float, float]:
        count = len(inputs.features("pool")[self.of_references])
        return resampling.share_interval(self.compute(inputs), count)


@scores.register("precision")
class Precision(_Share):
    """Improved precision (Kynkäänniemi et al. 2019)."""

    heading, full_name = "Prec.", "Precision"
    default = True


@scores.register("recall")
class Recall(_Share):
    """Improved recall (Kynkäänniemi et al. 2019)."""

    heading, full_name = "Rec.", "Recall"
    default = True
    of_references = True
