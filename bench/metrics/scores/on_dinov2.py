"""Scores on DINOv2 features: their names say so, and they share no column with Inception's.

FD-DINOv2 is equal to EDM2's. Precision and recall take k = 5, as `dgm-eval` does, not the 3
of the ADM suite.
"""

from __future__ import annotations

from bench.metrics.scores import scores
from bench.metrics.scores.density_coverage import Coverage, Density
from bench.metrics.scores.fid import FID
from bench.metrics.scores.kid import KID
from bench.metrics.scores.precision_recall import Precision, Recall


@scores.register("fd_dinov2")
class FD(FID):
    """Fréchet distance of DINOv2 features (Stein et al. 2023, arXiv 2306.04675)."""

    heading = full_name = "FD-DINOv2"
    extractor, default, recorded = "dinov2", False, False


@scores.register("kd_dinov2")
class KD(KID):
    """Kernel distance of DINOv2 features, as KID (Binkowski et al. 2018, arXiv 1801.01401)."""

    heading = full_name = "KD-DINOv2·10³"
    extractor, recorded = "dinov2", False


@scores.register("precision_dinov2")
class PrecisionOn(Precision):
    """Improved precision of DINOv2 features, k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name = "Prec.-DINOv2", "Precision (DINOv2)"
    extractor, default, recorded, k = "dinov2", False, False, 5


@scores.register("recall_dinov2")
class RecallOn(Recall):
    """Improved recall of DINOv2 features, k = 5 (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

    heading, full_name = "Rec.-DINOv2", "Recall (DINOv2)"
    extractor, default, recorded, k = "dinov2", False, False, 5


@scores.register("density_dinov2")
class DensityOn(Density):
    """Density of DINOv2 features (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Dens.-DINOv2", "Density (DINOv2)"
    extractor, recorded = "dinov2", False


@scores.register("coverage_dinov2")
class CoverageOn(Coverage):
    """Coverage of DINOv2 features (Naeem et al. 2020, arXiv 2002.09797)."""

    heading, full_name = "Cov.-DINOv2", "Coverage (DINOv2)"
    extractor, recorded = "dinov2", False
