"""How good generated images are: feature extractors, and the scores of one set of images beside another.

    from bench.metrics import Features, evaluate

    scores = evaluate(Features(pool=of_samples), Features(pool=of_images))

Names are imported when they are asked for, and torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.metrics.neighbours import precision_recall
    from bench.metrics.resampling import fid_infinity
    from bench.metrics.scores import Features, Scores, evaluate, fid, inception_score, kid
    from bench.metrics.statistics import Statistics, frechet_distance

__all__ = [
    "Features",
    "Scores",
    "Statistics",
    "evaluate",
    "fid",
    "fid_infinity",
    "frechet_distance",
    "inception_score",
    "kid",
    "precision_recall",
]

_HOMES = {
    "Statistics": "statistics",
    "fid_infinity": "resampling",
    "frechet_distance": "statistics",
    "precision_recall": "neighbours",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'scores')}"), name)
