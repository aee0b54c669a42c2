"""A record: a request with its result, and where it came from."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from bench.records.schema.base import Finite, Model, Request, Result, short_digest
from bench.records.schema.cost import Cost, CostRequest
from bench.records.schema.quality import Quality, QualityRequest
from bench.records.schema.speed import Profile, ProfileRequest, Speed, SpeedRequest
from bench.utils.frames import Row

AnyRequest = Annotated[
    CostRequest | SpeedRequest | ProfileRequest | QualityRequest, Field(discriminator="kind")
]
REQUESTS: dict[str, type[Request]] = {
    "cost": CostRequest,
    "speed": SpeedRequest,
    "profile": ProfileRequest,
    "quality": QualityRequest,
}
RESULTS: dict[str, type[Result]] = {"cost": Cost, "speed": Speed, "profile": Profile, "quality": Quality}


class Context(Model):
    """What a measurement was run beside; it makes no number of its own.

    Attributes:
        protocol: name of the protocol that training and sampling settings come from.
        flipped: whether images were mirrored in training, which a protocol wants and a dataset may not allow.
        against: label of the network that ratios are to.
        repeats: rounds.
        processes: that trained and sampled together; None: one.
        left_out: how many files of which kind the dataset left out of its folder; None: none.
    """

    protocol: str | None = None
    flipped: bool | None = None
    against: str | None = None
    repeats: int | None = None
    processes: int | None = None
    left_out: dict[str, int] | None = None


class Gpu(Model):
    """What decides the speed of a GPU besides its name.

    Attributes:
        memory_bytes: of the GPU, or of the slice of one.
        slice: whether it is a slice (MIG).
        driver: its version; like what follows, None without the extra `gpu`.
        power_limit_watts: above which it lowers its clock.
        max_clock_mhz: of its processors.
    """

    memory_bytes: int
    slice: bool
    driver: str | None = None
    power_limit_watts: Finite | None = None
    max_clock_mhz: Finite | None = None


class Environment(Model):
    """Where and with what something was measured.

    Attributes:
        device: name of the GPU or of the processor.
        gpu: what there is to tell of a GPU; None on a CPU, and in older records.
        commit, clean: of this code's checkout, and whether its files were as committed; None outside one.
        date: ISO 8601, UTC.
    """

    model_config = ConfigDict(populate_by_name=True)

    device: str
    cpu: str
    cores: int | None
    threads: int
    python: str
    torch: str
    diffusers: str | None
    version: str = Field(alias="denoiser-bench")
    commit: str | None
    clean: bool | None
    date: str
    gpu: Gpu | None = None


class Fingerprints(Model):
    """What made a number besides its request: contents that a name alone does not pin down.

    Attributes:
        code: of the backbone.
        reader: of the dataset, with those of its options that name no place.
        data: digest of the dataset's content.
        scorer: of the extractor.
        extractor: digest of the extractor's weights.
        versions: of the harness's own code that made the number, by what it does: `trainer`, `sampling`,
            `held_out`, `cost`, `objective ddpm`, `sampler ddim`, `score fid`, …; of a user's own objective,
            sampler or score, and of an extractor that a score names (`extractor dinov2`), the fingerprint of
            its code, and the digest of its weights (`weights dinov2`). See `bench.studies.staleness`.
    """

    code: str | None = None
    reader: str | None = None
    data: str | None = None
    scorer: str | None = None
    extractor: str | None = None
    versions: dict[str, int | str] = Field(default={})


class Record(Model):
    """One measurement as it lies on disk."""

    request: AnyRequest
    result: Cost | Speed | Profile | Quality
    context: Context = Context()
    fingerprints: Fingerprints = Fingerprints()
    environment: Environment

    @property
    def file(self) -> str:
        """Name of its file."""
        return self.request.file

    @cached_property
    def digest(self) -> str:
        """Of its content; its file ends with it."""
        return short_digest(self.dump())

    def row(self) -> Row:
        """What was measured, the numbers that people look for first, where and when; see `Result.columns`."""
        request = self.request
        return {
            "Kind": request.kind,
            "Model": request.label,
            "Protocol": self.context.protocol,
            "Step": getattr(request, "step", None),
            "Seed": getattr(request, "seed", None),
            **self.result.columns(),
            "Device": self.environment.device,
            "Date": self.environment.date[:10],
            "File": self.file,
        }

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, table: Any) -> Any:
        """Give the result the request that it answers, by whose kind its model is chosen."""
        if not isinstance(table, dict) or not isinstance(table.get("result"), dict):
            return table
        request = table.get("request")
        kind = request.get("kind") if isinstance(request, dict) else getattr(request, "kind", None)
        if not isinstance(kind, str) or kind not in RESULTS:
            return table
        request = REQUESTS[kind].model_validate(request)
        result = RESULTS[kind].model_validate({**table["result"], "request": request})
        return {**table, "request": request, "result": result}

    def dump(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "request": self.request.model_dump(mode="json"),
            "result": self.result.record_values(),
            "context": self.context.model_dump(mode="json", exclude_defaults=True),
            "fingerprints": self.fingerprints.model_dump(mode="json", exclude_defaults=True),
            "environment": self.environment.model_dump(
                mode="json", by_alias=True, exclude=None if self.environment.gpu else {"gpu"}
            ),
        }
