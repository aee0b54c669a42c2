"""Scores on EfficientNet features: their names say so, and they share no column with Inception's.

For natural images where no weights can be downloaded: no paper reports them.
"""

from __future__ import annotations

from bench.metrics.scores import scores
from bench.metrics.scores.density_coverage import Coverage, Density
from bench.metrics.scores.fid import FID
from bench.metrics.scores.kid import KID
from bench.metrics.scores.precision_recall import Precision, Recall


@scores.register("fd_efficientnet")
class FD(FID):
    """Fréchet distance of EfficientNet features (Heusel et al. 2017, arXiv 1706.08500)."""

    heading = full_name = "FD-EffNet"
    extractor, default, recorded = "efficientnet", False, False


@scores.register("kd_efficientnet")
class KD(KID):
    """Kernel distance of EfficientNet features, as KID (Binkowski et al. 2018, arXiv 1801.01401)."""

    heading = full_name = "KD-EffNet·10³"
    extractor, recorded = "efficientnet", False


@scores.register("precision_efficientnet")
class PrecisionOn(Precision):
    """Improved precision of EfficientNet features, k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name = "Prec.-EffNet", "Precision (EffNet)"
    extractor, default, recorded, k = "efficientnet", False, False, 5


@scores.register("recall_efficientnet")
class RecallOn(Recall):
    """Improved recall of EfficientNet features, k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name = "Rec.-EffNet", "Recall (EffNet)"
    extractor, default, recorded, k = "efficientnet", False, False, 5


@scores.register("density_efficientnet")
class DensityOn(Density):
    """Density of EfficientNet features (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Dens.-EffNet", "Density (EffNet)"
    extractor, recorded = "efficientnet", False


@scores.register("coverage_efficientnet")
class CoverageOn(Coverage):
    """Coverage of EfficientNet features (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Cov.-EffNet", "Coverage (EffNet)"
    extractor, recorded = "efficientnet", False
