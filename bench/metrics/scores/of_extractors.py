"""Scores on DINOv2 and EfficientNet features: their names say so, and they share no column with Inception's.

FD-DINOv2 is equal to EDM2's. Precision and recall take k = 5, as `dgm-eval` does, not the 3 of the ADM suite.
Scores on EfficientNet, which no paper reports, are for natural images where no weights can be downloaded.
"""

from __future__ import annotations

from bench.metrics.scores import scores
from bench.metrics.scores.base import Score
from bench.metrics.scores.density_coverage import Coverage, Density
from bench.metrics.scores.fid import FID
from bench.metrics.scores.kid import KID
from bench.metrics.scores.precision_recall import Precision, Recall

HEADINGS = {"dinov2": "DINOv2", "efficientnet": "EffNet"}


class OfExtractor(Score):
    """A score of one extractor's features, which stands in its heading for `{}`."""

    default = recorded = False

    def __init__(self, extractor: str) -> None:
        headings = {key: getattr(self, key).format(HEADINGS[extractor]) for key in ("heading", "full_name")}
        vars(self).update(headings, extractor=extractor)


class FD(OfExtractor, FID):
    """Fréchet distance of features, as FID (Stein et al. 2023, arXiv 2306.04675)."""

    heading = full_name = "FD-{}"


class KD(OfExtractor, KID):
    """Kernel distance of features, as KID (Binkowski et al. 2018, arXiv 1801.01401)."""

    heading = full_name = "KD-{}·10³"


class PrecisionK5(OfExtractor, Precision):
    """Improved precision with k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name, k = "Prec.-{}", "Precision ({})", 5
    least = 6


class RecallK5(OfExtractor, Recall):
    """Improved recall with k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name, k = "Rec.-{}", "Recall ({})", 5
    least = 6


class DensityOf(OfExtractor, Density):
    """Density (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Dens.-{}", "Density ({})"


class CoverageOf(OfExtractor, Coverage):
    """Coverage (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Cov.-{}", "Coverage ({})"


scores.register("fd_dinov2", extractor="dinov2")(FD)
scores.register("kd_dinov2", extractor="dinov2")(KD)
scores.register("precision_dinov2", extractor="dinov2")(PrecisionK5)
scores.register("recall_dinov2", extractor="dinov2")(RecallK5)
scores.register("density_dinov2", extractor="dinov2")(DensityOf)
scores.register("coverage_dinov2", extractor="dinov2")(CoverageOf)
scores.register("fd_efficientnet", extractor="efficientnet")(FD)
scores.register("kd_efficientnet", extractor="efficientnet")(KD)
scores.register("precision_efficientnet", extractor="efficientnet")(PrecisionK5)
scores.register("recall_efficientnet", extractor="efficientnet")(RecallK5)
scores.register("density_efficientnet", extractor="efficientnet")(DensityOf)
scores.register("coverage_efficientnet", extractor="efficientnet")(CoverageOf)
