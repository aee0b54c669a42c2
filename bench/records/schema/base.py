"""What all requests and results share."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

import registry
from bench.utils.frames import Framed, Row

Config = dict[str, Any]  # of a network: every option with its value, as `registry.canonical` makes it
Size = int | tuple[int, int]  # a square grid's side, or (height, width)
Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
GREATEST = 1e30  # number of a record; ours reach 10¹⁵, and much more would overflow in means
LONGEST = 200  # bytes of a file's name before its hash; file systems take 255
Finite = Annotated[float, Field(ge=-GREATEST, le=GREATEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=GREATEST, allow_inf_nan=False)]


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def short_digest(value: object) -> str:
    """12 hexadecimal digits of a JSON value, in whatever form it is written."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


@cache
def _label(name: str, config: str) -> str:
    try:
        return registry.label(name, json.loads(config))
    except registry.UsageError:
        return name


class Model(BaseModel):
    """Base of all models: frozen, and without room for keys that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Request(Model):
    """Everything that determines a number.

    Attributes:
        kind: kind of measurement: cost, speed, profile, quality or scored.
    """

    kind: str

    @property
    def subject(self) -> str:
        """What is measured, by its name."""
        raise NotImplementedError

    @cached_property
    def file(self) -> str:
        """Name of the record that answers this request."""
        digest = short_digest({"kind": self.kind, **self.model_dump(mode="json", exclude_defaults=True)})
        readable = re.sub(r"[^\w.-]+", "-", f"{self.kind}-{self.subject}")
        return f"{readable.encode()[:LONGEST].decode(errors='ignore')}-{digest}.json"


class NetworkRequest(Request):
    """Everything that determines a number of a network.

    Attributes:
        model: name of the registered backbone.
        config: all options of the backbone, in canonical form.
    """

    model: str
    config: Config

    @property
    def subject(self) -> str:
        """See `Request.subject`."""
        return self.model

    @property
    def label(self) -> str:
        """The network as `--model` takes it; its name alone where its options are not known here."""
        return _label(self.model, json.dumps(self.config))


class Result(Model, Framed):
    """What a measurement found."""

    excluded: ClassVar[set[str]] = set()  # what a record does not keep

    def record_values(self) -> dict[str, Any]:
        """The result as a record keeps it, as JSON can hold it."""
        return self.model_dump(mode="json", exclude={"request"} | self.excluded)

    def columns(self) -> Row:
        """The numbers that people look for first, by names with units."""
        raise NotImplementedError

    def rows(self) -> list[Row]:
        """The network and the columns of the result."""
        request: NetworkRequest = getattr(self, "request")  # noqa: B009, of its own type
        return [{"Model": request.label, **self.columns()}]
