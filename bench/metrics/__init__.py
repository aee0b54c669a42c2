"""Quality of generated images: feature extractors, and scores of one set of images against another.

    from bench.metrics import Features, evaluate

    found = evaluate(Features(pool=of_samples), Features(pool=of_images))
    found.values["fid"]

Scores are plugins, see `bench.metrics.scores`. Importing this package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.metrics.evaluation import Comparison, FeatureScores, compare, evaluate
    from bench.metrics.scores import SCORES, Features, Score

__all__ = ["SCORES", "Comparison", "FeatureScores", "Features", "Score", "compare", "evaluate"]

_EVALUATION = ("Comparison", "FeatureScores", "compare", "evaluate")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "evaluation" if name in _EVALUATION else "scores"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
