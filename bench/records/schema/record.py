"""A record: a request with its result, and where it came from."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from bench.records.schema.base import Finite, Model, Result, short_digest
from bench.records.schema.cost import Cost, CostRequest
from bench.records.schema.quality import Quality, QualityRequest
from bench.records.schema.scored import Scored, ScoredRequest
from bench.records.schema.speed import Profile, ProfileRequest, Speed, SpeedRequest
from bench.utils.frames import Row

AnyRequest = Annotated[
    CostRequest | SpeedRequest | ProfileRequest | QualityRequest | ScoredRequest, Field(discriminator="kind")
]
RESULTS: dict[str, type[Result]] = {
    "cost": Cost,
    "speed": Speed,
    "profile": Profile,
    "quality": Quality,
    "scored": Scored,
}


class Context(Model):
    """Circumstances of a measurement that do not determine its number.

    Attributes:
        protocol: name of the protocol that the settings come from.
        flipped: whether images were mirrored in training. A protocol can ask for it, and a dataset can forbid
            it.
        against: label of the network that speed ratios refer to.
        repeats: number of rounds of a speed measurement.
        processes: number of processes that trained and sampled together; None: one.
        left_out: number of files that the dataset skipped in its folder, by kind; None: none.
    """

    protocol: str | None = None
    flipped: bool | None = None
    against: str | None = None
    repeats: int | None = None
    processes: int | None = None
    left_out: dict[str, int] | None = None


class Gpu(Model):
    """Properties of a GPU, besides its name, on which speed depends.

    Attributes:
        memory_bytes: memory of the GPU, or of the slice of one.
        slice: whether it is a slice (MIG).
        driver: version of the driver. This and the following are None without the extra `gpu`.
        power_limit_watts: power above which the GPU lowers its clock.
        max_clock_mhz: highest clock of its processors.
    """

    memory_bytes: int
    slice: bool
    driver: str | None = None
    power_limit_watts: Finite | None = None
    max_clock_mhz: Finite | None = None


class Environment(Model):
    """Where and with which versions something was measured.

    Attributes:
        device: name of the GPU or of the processor that computed.
        cpu: name of the processor.
        cores: number of cores that the process could use; None: unknown.
        threads: PyTorch's threads on the CPU.
        python: version of Python.
        torch: version of PyTorch.
        diffusers: version of diffusers; None: not installed.
        version: version of this package.
        commit: commit of this package's checkout; None outside of one.
        clean: whether the checkout had no changes; None outside of one.
        date: time of the measurement, ISO 8601, UTC.
        gpu: properties of the GPU; None on a CPU, and in older records.
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
    """Code and data that made a number; where they change, the record is stale.

    Attributes:
        code: fingerprint of the backbone's code.
        reader: the dataset's options other than paths.
        data: digest of the dataset's content.
        held_out_data: digest of the content of the images that a held-out loss was measured on.
        scorer: fingerprint of the extractor's code.
        extractor: digest of the extractor's weights.
        versions: versions of the parts of this program that made the number: `trainer`, `sampling`,
            `held_out`, `cost`, `dataset cifar10`, `objective ddpm`, `sampler ddim`, `score fid`, …. For a
            user's own dataset, objective, sampler or score, and for an extractor that a score names
            (`extractor dinov2`), the fingerprint of its code; `weights dinov2` is the digest of its weights.
            See `bench.studies.staleness`.
    """

    code: str | None = None
    reader: str | None = None
    data: str | None = None
    held_out_data: str | None = None
    scorer: str | None = None
    extractor: str | None = None
    versions: dict[str, int | str] = Field(default={})


class Record(Model):
    """One measurement, as its file holds it.

    Attributes:
        request: everything that determines the number.
        result: what was measured.
        context: circumstances that do not determine the number.
        fingerprints: code and data behind the number.
        environment: where and with which versions it was measured.
    """

    request: AnyRequest
    result: Cost | Speed | Profile | Quality | Scored
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
        result: Any = RESULTS[kind].model_validate({**table["result"], "request": request})
        return {**table, "request": result.request, "result": result}

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
