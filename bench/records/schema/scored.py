"""How good images are, whoever made them: samples beside a reference, without a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bench.records.schema.base import Finite, Model, Request, Result
from bench.utils.frames import Row

LABEL_LENGTH, WORDS_LENGTH = 200, 2000  # characters at most
Balance = Literal["balanced", "drawn", "unknown"]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")]


class ScoredRequest(Request):
    """Scores of the samples that a label names, by one extractor, beside one reference.

    Attributes:
        label: what was sampled and how, such as `EDM2-S, guidance 1.4`.
        extractor: of the features.
        reference: digest of what they are compared with: images or features, and statistics.
        half_distances: whether neighbours are by float16 distances.
    """

    kind: Literal["scored"] = "scored"
    label: str = Field(min_length=1, max_length=LABEL_LENGTH)
    extractor: str
    reference: Digest
    half_distances: bool = False

    @property
    def subject(self) -> str:
        """See `Request.subject`."""
        return self.label


class ScoredSet(Model):
    """A set of images, as far as a record tells.

    Attributes:
        file: name of the file or folder.
        digest: of its content.
        count: images; None of statistics alone.
        size: (height, width) of the images; None where the file does not tell.
        statistics: of a reference, which of its statistics entered the Fréchet distances, in words.
    """

    file: str
    digest: Digest
    count: int | None
    size: tuple[int, int] | None = None
    statistics: str | None = None


class Scored(Result):
    """Scores of samples.

    Attributes:
        scores: by the names of `bench.metrics`; None where one could not be computed.
        intervals: 95% confidence intervals over samples, where they were asked for.
        samples, reference: what was compared.
        labels: whether the classes of the samples are balanced (each equally often) or drawn at random.
        labels_from: who says so: the labels in the samples' file, or a declaration.
        model: the registered backbone that made them; None where none is named.
        provenance: where the samples come from, in words.
        published: name of the published rows that they are set beside.
    """

    request: ScoredRequest
    scores: dict[str, Finite | None]
    intervals: dict[str, tuple[Finite, Finite]] = Field(default={})
    samples: ScoredSet
    reference: ScoredSet
    labels: Balance = "unknown"
    labels_from: Literal["file", "declaration"] | None = None
    model: str | None = None
    provenance: str = Field(default="", max_length=WORDS_LENGTH)
    published: str | None = Field(default=None, max_length=LABEL_LENGTH)

    def columns(self) -> Row:
        """See `Result.columns`; scores by the names that `--score` takes."""
        return dict(self.scores)

    def rows(self) -> list[Row]:
        """A row for each score."""
        return [{"Score": name, "Value": value} for name, value in self.scores.items()]

    def value(self, name: str) -> float | None:
        """A score by its name."""
        return self.scores.get(name)
