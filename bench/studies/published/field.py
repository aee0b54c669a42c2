"""What is published of diffusion backbones on ImageNet, figure by figure, and how far such figures repeat.

`field.csv` has one row a line: add one there and `tests/bench/studies/test_field.py` says what is missing.
`noise.csv` has networks that were trained, or sampled, more than once; `losses.toml` and `losses.csv` have
training curves of authors.
"""

from __future__ import annotations

import functools
import math
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from statistics import stdev
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.cost.listed import Listed, listed
from bench.studies.published import read

KINDS = {
    "paper": "the paper that proposes the network, or the ablation of a paper",
    "authors": "the authors' program or its README",
    "author in issue": "an author, in an issue of the program",
    "quoted": "a paper that quotes another one",
    "rerun by others": "trained again by somebody else",
}
# What differs besides the architecture.
EXTRAS = {
    "none": "nothing",
    "alignment": "aligned with features of a pretrained network (REPA and its followers)",
    "latents": "another autoencoder than Stable Diffusion's",
    "masking": "trained with masked or dropped tokens",
    "moe": "mixture of experts: parameters and cost are those of the active ones",
    "mixed-resolution": "trained on several resolutions or aspect ratios",
    "distillation": "distilled, or started from the weights of another network",
    "other": "fine-tuned, cascaded or otherwise not trained from scratch",
}
OBJECTIVES = {
    "ddpm": "noise prediction",
    "ddpm-noise": "noise prediction, fixed variance",
    "flow": "flow",
    "edm": "EDM",
    "meanflow": "MeanFlow",
    "?": "objective not stated",
}
GUIDANCE = {
    "unguided": "no guidance",
    "guided": "guided",
    "guided-interval": "guided in an interval",
    "guided-classifier": "classifier guidance",
    "guided-auto": "guided by a smaller network",
    "guided-in-training": "guidance trained in",
}
SAMPLERS = {
    "ddpm": "ancestral sampler",
    "sde": "SDE sampler",
    "ode": "ODE sampler",
    "1-step": "one step",
    "?": "sampler not stated",
}
INPUTS = {"": "SD latents", "pix": "pixels", "lat": "other latents"}
_WHOSE_RUN = r" \([^)]*(authors|rerun|quoted|SDE|ODE|seed)[^)]*\)|, (ODE|SDE)$|, pixels"

Blank = BeforeValidator(lambda text: text or None)
Score = Annotated[Annotated[float, Field(ge=0)] | None, Blank]
Share = Annotated[Annotated[float, Field(ge=0, le=1)] | None, Blank]


class FieldRow(BaseModel):
    """One published figure: a network, how it was trained and sampled, and what was printed.

    Attributes:
        row: the network, and whose run it is where not its authors'.
        family: of networks.
        backbone: registered backbone that it is, which tells parameters and GFLOPs as counted here.
        objective: as printed; `group` has the kind.
        resolution: of the images, pixels.
        training_steps: steps, epochs or images, as printed.
        batch_size: images a step.
        cfg_scale: guidance, as printed; 1.0 is none.
        sampler: and its number of steps, as printed.
        params: as printed; of a mixture of experts the active ones first.
        gflops: multiply-accumulates in 10⁹ of one forward pass, as printed.
        fid: with `sfid`, `inception_score`, `precision` and `recall`: 50,000 samples against ImageNet.
        throughput: with its unit and device.
        kind: one of `KINDS`.
        extra: one of `EXTRAS`. Only rows with `none` compare architectures.
        group: `input|images seen|objective|guidance|sampler`; only rows of one group compare.
        source: where the figure is printed.
        url: address of the network's paper or program.
        arxiv: of its paper.
        checked: `yes`, or what was not seen in the source or was corrected.
        duplicate: the row whose run this is; "" where it is a run of its own.
        remarks: anything else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str = Field(min_length=1)
    family: str = Field(min_length=1)
    backbone: str
    objective: str
    resolution: int = Field(gt=0)
    training_steps: str
    batch_size: Annotated[int | None, Blank]
    cfg_scale: str
    sampler: str
    params: str = Field(pattern=r"^([\d.]+[MB]( active(/[\d.]+[MB])?)?)?$")
    gflops: Score
    fid: float = Field(gt=0)
    sfid: Score
    inception_score: Score
    precision: Share
    recall: Share
    throughput: str
    kind: str
    extra: str
    group: str
    source: str = Field(min_length=5)
    url: str = Field(pattern="^(https://.+)?$")
    arxiv: str = Field(pattern=r"^(\d{4}\.\d{4,5})?$")
    checked: str = Field(pattern="^(yes$|partly: |corrected: )")
    duplicate: str
    remarks: str

    @model_validator(mode="after")
    def _known(self) -> FieldRow:
        for name, value, known in (("kind", self.kind, KINDS), ("extra", self.extra, EXTRAS)):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
        parts = self.group.split("|")
        if len(parts) != 5 or not parts[0].startswith(str(self.resolution)):
            raise ValueError(f"group {self.group!r} is not RESOLUTION|images|objective|guidance|sampler")
        known_parts = (INPUTS, OBJECTIVES, GUIDANCE, SAMPLERS)
        for part, known in zip((self.input, *parts[2:]), known_parts, strict=True):
            if part not in known:
                raise ValueError(f"group {self.group!r}: {part!r} is not one of {', '.join(known)}")
        if not self.source_url:
            raise ValueError(f"source {self.source!r} has no arXiv id or repository, and there is no url")
        return self

    @property
    def input(self) -> str:
        """What the network sees: one of `INPUTS`."""
        return self.group.split("|")[0].removeprefix(str(self.resolution))

    @property
    def images(self) -> float | None:
        """Images seen in training, in millions; None where it is not stated."""
        text = self.group.split("|")[1]
        return sum(map(float, re.findall(r"([\d.]+)M", text))) or None

    @property
    def counted(self) -> Listed | None:
        """What the network costs as counted here; None where it is not here."""
        return listed()[self.backbone] if self.backbone else None

    @property
    def source_url(self) -> str:
        """Where the figure is printed: arXiv or a repository, else the network's own address."""
        first = self.source.partition(";")[0]
        if found := re.search(r"arXiv (\d{4}\.\d{4,5})", first):
            return f"https://arxiv.org/abs/{found[1]}"
        if found := re.search(r"([\w.-]+/[\w.-]+)#(\d+)", first):
            return f"https://github.com/{found[1]}/issues/{found[2]}"
        if found := re.search(r"(?:README of |^)([\w.-]+/[\w.-]+)", first):
            return f"https://github.com/{found[1]}"
        return self.url

    @property
    def plain(self) -> str:
        """The network alone: without whose run it is, and with which sampler."""
        return re.sub(_WHOSE_RUN, "", self.row).removesuffix("*")

    @property
    def title(self) -> str:
        """The conditions of its group in words."""
        _, images, objective, guidance, sampler = self.group.split("|")
        seen = {"?": "training length not stated"}.get(images, images)
        if re.fullmatch(r"[\d.]+M", images):
            seen += " images"
        return ", ".join(
            (
                f"{self.resolution}² {INPUTS[self.input]}",
                seen,
                OBJECTIVES[objective],
                GUIDANCE[guidance],
                SAMPLERS[sampler],
            )
        )


class Repeat(BaseModel):
    """A network with several figures.

    Attributes:
        network: its name.
        differs: what differs: the seed alone (`run`), who trained it with which program, the sampler, or
            whether every class has the same number of samples (`labels`).
        fid: the figures; none where the source tells their spread alone.
        spread: as printed.
        source: where they are printed.
        url: its address.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    differs: Literal["run", "program", "sampler", "labels"]
    fid: Annotated[tuple[float, ...], BeforeValidator(str.split)]
    spread: str
    source: str
    url: str = Field(pattern="^https://")

    @property
    def deviation(self) -> float | None:
        """Standard deviation of ln FID: relative to the figure; None where only the spread is known."""
        return stdev(map(math.log, self.fid)) if self.fid else None


@functools.cache
def rows() -> tuple[FieldRow, ...]:
    """Every row of `field.csv`."""
    return tuple(FieldRow.model_validate(row) for row in read("field.csv"))


@functools.cache
def repeats() -> tuple[Repeat, ...]:
    """Every row of `noise.csv`."""
    return tuple(Repeat.model_validate(row) for row in read("noise.csv"))


@functools.cache
def noise() -> float:
    """Standard deviation of ln FID between trainings of one network under the same conditions, pooled.

    Each network counts by its degrees of freedom; what differs in the sampler or the labels is left out.
    """
    found = [(len(each.fid) - 1, each.deviation) for each in repeats() if each.differs in ("run", "program")]
    known = [(weight, deviation) for weight, deviation in found if deviation is not None]
    return math.sqrt(sum(weight * s**2 for weight, s in known) / sum(weight for weight, _ in known))


def limit() -> float:
    """Ratio of two FIDs below which they are not ranked: 1.96 standard deviations of a difference."""
    return math.exp(1.96 * math.sqrt(2) * noise())


def ranks(found: Sequence[FieldRow]) -> list[int | None]:
    """Of rows of one group: 1 + the number of networks whose FID is lower by more than noise.

    A network is ranked by the figure of its authors, the lowest of several; its other figures have no rank. A
    row that differs in more than its architecture, or that repeats the run of another, has none either and
    counts against none; nor has a network that is alone.
    """
    ranked: dict[str, FieldRow] = {}
    for row in sorted(found, key=lambda row: ([*KINDS].index(row.kind), row.fid)):
        if row.extra == "none" and not row.duplicate:
            ranked.setdefault(row.plain, row)
    return [
        1 + sum(row.fid > other.fid * limit() for other in ranked.values())
        if len(ranked) > 1 and row is ranked.get(row.plain)
        else None
        for row in found
    ]


@functools.cache
def conflicts() -> dict[FieldRow, tuple[FieldRow, ...]]:
    """Other rows of the same network under the same conditions, but for the sampler, where there are any."""
    alike: dict[tuple[str, ...], list[FieldRow]] = {}
    for row in rows():
        alike.setdefault((row.plain, row.extra, row.cfg_scale, *row.group.split("|")[:4]), []).append(row)
    return {
        row: tuple(other for other in same if other is not row)
        for same in alike.values()
        if len(same) > 1
        for row in same
    }


class Curve(BaseModel):
    """Training loss over steps, as its authors logged it.

    Attributes:
        network: registered backbone, and the name of its points in `losses.csv`.
        name: in words.
        loss: what was minimised. Only curves of one loss compare.
        conditions: data, latents and batch.
        fid: after 400K steps unless the source says otherwise.
        source: the file.
        url: its repository.
        points: (step, mean loss up to it, standard deviation of logged lines).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    name: str
    loss: str
    conditions: str
    fid: float | None = None
    source: str
    url: str = Field(pattern="^https://")
    points: tuple[tuple[int, float, float], ...] = Field(min_length=2)


@functools.cache
def curves() -> tuple[Curve, ...]:
    """Every published curve."""
    points: dict[str, list[Any]] = {}
    for row in read("losses.csv"):
        points.setdefault(row["network"], []).append((row["step"], row["loss"], row["deviation"]))
    described = tomllib.loads(files(__package__).joinpath("losses.toml").read_text("utf-8"))["curves"]
    return tuple(Curve.model_validate(each | {"points": points[each["network"]]}) for each in described)
