"""Base class of scores, and their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from bench.metrics.statistics import Statistics
from bench.records.quantities import Quantity
from bench.utils.progress import Progress, silent
from registry.errors import UsageError

T = TypeVar("T")
Side = Literal["samples", "reference"]
Kind = Literal["pool", "spatial", "logits"]


@dataclass(frozen=True)
class Features:
    """Features of a set of images by one extractor; float32 arrays in the same order of images.

    Attributes:
        pool: (N, D), for FID, precision, recall and KID. None: only statistics are known.
        spatial: (N, S), for sFID.
        logits: (N, K) logits of classes, for the Inception score.
        statistics: used instead of those of `pool`, if the file holds statistics of a larger set.
        spatial_statistics: likewise for spatial.
    """

    pool: np.ndarray | None
    spatial: np.ndarray | None = None
    logits: np.ndarray | None = None
    statistics: Statistics | None = None
    spatial_statistics: Statistics | None = None

    def array(self, kind: Kind) -> np.ndarray | None:
        """The features of a kind."""
        return {"pool": self.pool, "spatial": self.spatial, "logits": self.logits}[kind]

    def given_statistics(self, kind: Kind) -> Statistics | None:
        """The statistics that came with them."""
        return {"pool": self.statistics, "spatial": self.spatial_statistics, "logits": None}[kind]

    def count(self, name: str) -> int:
        """How many images there are features of: 0 where statistics are all there is.

        Raises:
            UsageError: kinds of features that differ in their number.
        """
        arrays = {"pool": self.pool, "spatial": self.spatial, "logits": self.logits}
        counts = {kind: len(array) for kind, array in arrays.items() if array is not None}
        if len(set(counts.values())) > 1:
            rows = ", ".join(f"{count} rows of {kind}" for kind, count in counts.items())
            raise UsageError(f"{name}: {rows}: features of the same images are needed")
        return next(iter(counts.values()), 0)


class Need(NamedTuple):
    """A kind of features that a score needs.

    Attributes:
        side: whose.
        kind: of features.
        statistics: whether mean and covariance are sufficient.
    """

    side: Side
    kind: Kind
    statistics: bool = False


class Inputs:
    """Inputs of the scores of one evaluation; expensive intermediate results are shared.

    Args:
        samples: of generated images.
        reference: of real ones, by the same extractor.
        half_distances: neighbours by float16 distances, as the ADM suite computes them.
        groups: of samples, that intervals are made from; 0 for no intervals.
        device: where distances are computed, such as `cuda`.
        progress: see `bench.utils.progress`.
    """

    def __init__(
        self,
        samples: Features,
        reference: Features,
        *,
        half_distances: bool = False,
        groups: int = 0,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> None:
        self.samples, self.reference = samples, reference
        self.half_distances, self.groups = half_distances, groups
        self.device, self.progress = device, progress
        self._results: dict[Any, Any] = {}

    def once(self, function: Callable[[Inputs], T]) -> T:
        """The result of a function of these inputs, computed once."""
        if function not in self._results:
            self._results[function] = function(self)
        return self._results[function]

    def features(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Features of samples (N, D) and reference (M, D), which the score must declare in `needs`."""
        ours, others = self.samples.array(kind), self.reference.array(kind)
        assert ours is not None and others is not None
        return ours, others

    def statistics(self, kind: Kind) -> tuple[Statistics, Statistics]:
        """Statistics of both sides; those that were given come before those of the features."""
        key = ("statistics", kind)
        if key not in self._results:
            pair = []
            for side, features in (("samples", self.samples), ("reference", self.reference)):
                given, array = features.given_statistics(kind), features.array(kind)
                if given is None:
                    assert array is not None
                    name = side if kind == "pool" else f"{side} ({kind})"
                    given = Statistics.of(array, self.progress, name)
                pair.append(given)
            self._results[key] = tuple(pair)
        return self._results[key]

    def lacking(self, needs: tuple[Need, ...]) -> str | None:
        """Description of the first need that is missing; None if none is."""
        for side, kind, statistics_are_enough in needs:
            features: Features = getattr(self, side)
            given = features.given_statistics(kind)
            if features.array(kind) is not None or (statistics_are_enough and given is not None):
                continue
            if given is not None:
                return f"of the {side} there are statistics only"
            return f"no {kind if kind == 'logits' else f'{kind} features'} of the {side}"
        return None


class Score(Quantity, ABC):
    """A score: a subclass is registered under its name, and its docstring says what it is, with its source.

    Attributes:
        name: as registered; set by `bench.metrics.scores.SCORES`.
        heading, higher_is_better, digits, scale: see `Quantity`.
        full_name: for `bench eval`.
        needs: what it is computed from.
        extractor: extractor of its features, which is also in its name; None: Inception, or the extractor
            that is requested instead. Scores of different extractors never share a column.
        default: whether it is computed by default.
        recorded: whether cells of a study get it by default.
        least: the fewest samples that it can be computed of.
        interval_by: how `interval` computes it, for notes; `{groups}` stands for their number.
        version: raise it when the same features give another value; part of each record.
    """

    full_name: str
    needs: tuple[Need, ...]
    extractor: str | None = None
    default: bool = False
    recorded: bool = True
    least: int = 1
    interval_by: str = "by the score's own formula"
    version: int = 1

    def __init__(self) -> None:  # its fields are attributes of the class
        pass

    @abstractmethod
    def compute(self, inputs: Inputs) -> float:
        """Compute the score; the features in `needs` are present."""

    def interval(self, inputs: Inputs) -> tuple[float, float] | None:
        """Its 95% confidence interval, from `Inputs.groups` groups of samples; None: it has none."""
        return None

    @property
    def title(self) -> str:
        """The heading with an arrow that says which way is better: `FID↓`."""
        return super().title + ("↑" if self.higher_is_better else "↓")


BOTH_POOLS = (Need("samples", "pool"), Need("reference", "pool"))
