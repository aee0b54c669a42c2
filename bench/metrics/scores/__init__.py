"""Scores by name: plugins, each with the features it needs, its heading, and which direction is better.

    from bench.metrics.scores import SCORES, BOTH_POOLS, Score, scores

    SCORES["fid"].title, SCORES["fid"].higher_is_better        # "FID↓", False

    @scores.register("mean-gap")
    class MeanGap(Score):
        "Distance between the mean features."
        heading, full_name, higher_is_better, needs = "Gap", "Mean gap", False, BOTH_POOLS

        def compute(self, inputs):
            samples, reference = inputs.features("pool")
            return float(np.linalg.norm(samples.mean(0) - reference.mean(0)))

An installed package adds names through the entry-point group `bench.scores`. Commands, studies, reports and
comparisons read `SCORES`. Importing this package imports no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bench.metrics.scores.base import BOTH_POOLS, Features, Inputs, Need, Score
from bench.records.quantities import HELD_OUT, LOSS, Quantities, Quantity
from registry.errors import CodeError
from registry.plugins import Registry

__all__ = [
    "BOTH_POOLS",
    "MEASURED",
    "SCORES",
    "Features",
    "Inputs",
    "Need",
    "Score",
    "scored_alone",
    "scores",
    "select",
]

scores = Registry("score", "bench.metrics.scores", base="bench.metrics.scores.base.Score")

# The first columns; others follow.
_PLACES = {name: i for i, name in enumerate("fid sfid inception_score precision recall kid".split())}


def _table() -> dict[str, Score]:
    scores.names()  # which looks for them
    return _table_of(scores.version)


@functools.lru_cache(maxsize=1)
def _table_of(version: int) -> dict[str, Score]:
    names = sorted(scores.names(), key=lambda name: _PLACES.get(name, len(_PLACES)))
    return {name: _made(name, scores.factory(name)) for name in names}


@functools.cache
def _made(name: str, factory: Callable[..., Any]) -> Score:
    """The score behind a name.

    Raises:
        CodeError: it is no score, or lacks what a score has.
    """
    made = factory()
    if not isinstance(made, Score):
        kind = type(made).__name__
        raise CodeError(f"score {name!r} is a {kind}, not a bench.metrics.scores.Score", factory)
    attributes = ("heading", "full_name", "higher_is_better", "needs")
    if lacking := [attribute for attribute in attributes if not hasattr(made, attribute)]:
        raise CodeError(f"score {name!r} lacks {', '.join(lacking)}: see bench.metrics.scores", factory)
    object.__setattr__(made, "name", name)
    return made


def _measured() -> dict[str, Quantity]:
    return {**dict(SCORES.items()), LOSS.name: LOSS, **HELD_OUT}


SCORES: Quantities[Score] = Quantities(_table)
MEASURED: Quantities[Quantity] = Quantities(_measured)  # what records of quality hold


def select(names: Sequence[str], extractor: str | None = None) -> list[Score]:
    """Scores by name or wildcard; without names the default ones.

    Args:
        names: of scores.
        extractor: one that has scores of its own, which are its default ones.

    Raises:
        UsageError: no such score.
    """
    chosen = {name for pattern in names for name in scores.names(pattern) or [scores.find(pattern).name]}
    return [
        score
        for name, score in SCORES.items()
        if (name in chosen if names else score.extractor == extractor and (extractor or score.default))
    ]


def scored_alone(extractor: str) -> str | None:
    """The name of an extractor that has scores of its own; None of others, whose scores are Inception's."""
    return extractor if any(score.extractor == extractor for score in SCORES.values()) else None
