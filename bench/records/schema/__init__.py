"""What a record holds: a request and a result for each kind of measurement. Nothing here imports torch.

A **request** is all that makes the number and nothing else; its hash names the record's file. What the
measurement was run beside, or how often, is **context** and enters no hash. A function that measures
returns a **result**, which knows its request; everything that prints, compares or draws reads these models.

The hash is taken over what differs from a field's default: a field that is added later, with a default that
means what was done before, leaves every name as it was.
"""

from __future__ import annotations

from bench.records.schema.base import (
    GREATEST,
    Config,
    Dtype,
    Finite,
    Model,
    NetworkRequest,
    Request,
    Result,
    Size,
    short_digest,
)
from bench.records.schema.cost import (
    By,
    Convention,
    Cost,
    CostRequest,
    Part,
)
from bench.records.schema.quality import (
    GROUPS,
    OBJECTIVE_FIELDS,
    BandLoss,
    HeldOutLoss,
    HeldOutSettings,
    Network,
    Quality,
    QualityRequest,
    Rates,
    SamplingSettings,
    Seconds,
    TrainingSettings,
)
from bench.records.schema.record import (
    RESULTS,
    AnyRequest,
    Context,
    Environment,
    Fingerprints,
    Gpu,
    Record,
)
from bench.records.schema.scored import (
    LABEL_LENGTH,
    WORDS_LENGTH,
    Balance,
    Scored,
    ScoredRequest,
    ScoredSet,
)
from bench.records.schema.speed import (
    IDLE,
    Device,
    DeviceRequest,
    Profile,
    ProfileRequest,
    SamplingSpeed,
    Share,
    Speed,
    SpeedRequest,
    SpeedSettings,
    TrainingTime,
)
