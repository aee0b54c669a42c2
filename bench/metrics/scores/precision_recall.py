"""Improved precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equal to the ADM suite's."""

from __future__ import annotations

from bench.metrics import resampling
from bench.metrics.scores import scores
from bench.metrics.scores.base import BOTH_POOLS, Inputs, Score


def _both(inputs: Inputs) -> tuple[float, float]:
    from bench.metrics.neighbours import precision_recall

    return precision_recall(
        *inputs.features("pool"), half=inputs.half_distances, device=inputs.device, progress=inputs.progress
    )


class _Share(Score):
    """The share of images of one side that lie in the neighbourhoods of the other."""

    higher_is_better = True
    digits = 3
    needs = BOTH_POOLS
    default = True
    of_references = False

    def compute(self, inputs: Inputs) -> float:
        """See `Score.compute`."""
        return inputs.once(_both)[self.of_references]

    def interval(self, inputs: Inputs) -> tuple[float, float]:
        """See `Score.interval`."""
        count = len(inputs.features("pool")[self.of_references])
        return resampling.share_interval(self.compute(inputs), count)


@scores.register("precision")
class Precision(_Share):
    """Improved precision (Kynkäänniemi et al. 2019)."""

    heading, full_name = "Prec.", "Precision"


@scores.register("recall")
class Recall(_Share):
    """Improved recall (Kynkäänniemi et al. 2019)."""

    heading, full_name = "Rec.", "Recall"
    of_references = True
